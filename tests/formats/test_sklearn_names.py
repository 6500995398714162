"""What counts as plain data in a pickle of an estimator: classes that hold numbers, and nothing that runs."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import pickle
import textwrap
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import sklearn
import xgboost
from scipy.sparse import csr_matrix
from skl2onnx._supported_operators import sklearn_operator_name_map
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeRegressor

from studio.core.errors import InvalidInput
from studio.formats.pickles._values import Name
from studio.formats.pickles.screen import screen_pickle
from studio.formats.sklearn._load import load
from studio.formats.sklearn._names import CALLED, NAMED, PLAIN, foreign
from tests.formats.pickles import Payload, called, global_, looked_up, stream, text

# Functions that loading calls, each of which was read: they make an object of a class, or an array of bytes.
FUNCTIONS = {
    "_codecs.encode",
    "copyreg._reconstructor",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy.ma.core._mareconstruct",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__randomstate_ctor",
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
    "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked",
    "pandas.core.indexes.base._new_Index",
    "sklearn._loss._loss.__pyx_unpickle_CyHalfMultinomialLoss",
    "sklearn.metrics._dist_metrics.newObj",
    "sklearn.neighbors._ball_tree.newObj",
    "sklearn.neighbors._kd_tree.newObj",
}
# What unpickling may run of a class.
METHODS = ("__new__", "__init__", "__setstate__", "__setattr__", "__setitem__", "__hash__", "__eq__")
RUNS_CODE = {
    "exec",
    "eval",
    "compile",
    "__import__",
    "import_module",
    "open",
    "load",
    "loads",
    "system",
    "Popen",
    "run",
}


def resolved(name: Name) -> Any:
    return getattr(importlib.import_module(name.module), name.qualname)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_everything_that_loading_may_call_is_a_class_or_a_known_function() -> None:
    for name in CALLED:
        if str(name) not in FUNCTIONS:
            assert inspect.isclass(resolved(name)), name
    assert {str(name) for name in CALLED} >= FUNCTIONS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_class_runs_code_while_it_is_filled() -> None:
    """By its source, where there is one: scipy's distributions, for one, would fail here."""
    looked_at = 0
    for name in CALLED:
        kind = resolved(name)
        if name.module.startswith(("xgboost.", "lightgbm.")):
            continue  # made empty: see below
        for method in METHODS if inspect.isclass(kind) else ():
            function = getattr(kind, method, None)
            try:
                tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
            except (TypeError, OSError):
                continue
            looked_at += 1
            calls = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
            used = {one.id if isinstance(one, ast.Name) else getattr(one, "attr", "") for one in calls}
            assert not used & RUNS_CODE, (name, method, used & RUNS_CODE)
    assert looked_at > 150


def test_the_test_above_would_see_a_class_that_runs_code() -> None:
    from scipy.stats._distn_infrastructure import rv_continuous

    source = inspect.getsource(rv_continuous._attach_argparser_methods)
    assert "exec(" in source


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_may_be_named_exists_and_may_not_be_called() -> None:
    assert not NAMED & CALLED
    for name in NAMED:
        assert callable(resolved(name)), name
        assert foreign(screen_pickle(io.BytesIO(stream(called(looked_up(name.module, name.qualname)))), "x")), name


def test_every_estimator_that_can_be_converted_is_let_through() -> None:
    known = [kind for kind in sklearn_operator_name_map if kind.__module__.startswith("sklearn.")]
    assert len(known) > 120
    for kind in known:
        assert Name(kind.__module__, kind.__qualname__) in CALLED


DANGEROUS = (
    *("builtins.eval", "builtins.exec", "builtins.getattr", "builtins.open", "builtins.type", "builtins.__import__"),
    *("os.system", "posix.system", "subprocess.Popen", "pickle.loads", "operator.attrgetter", "functools.reduce"),
    *("numpy.load", "numpy.loadtxt", "numpy.fromfile", "numpy.f2py.compile", "numpy.vectorize", "numpy.memmap"),
    *("joblib.load", "joblib.numpy_pickle.load", "joblib.memory.Memory", "joblib.parallel.Parallel"),
    *("sklearn.utils._joblib.load", "sklearn.datasets._base.load_files", "sklearn.externals._arff.load"),
    *("sklearn.utils.fixes.parse_version", "sklearn.metrics._dist_metrics.PyFuncDistance64", "sklearn.show_versions"),
    *("scipy.stats._distn_infrastructure.rv_continuous_frozen", "scipy.io._fortran.FortranFile"),
    *("pandas.read_pickle", "pandas.io.pickle.read_pickle", "copyreg.extension 1", "codecs.encode"),
)


def test_what_runs_code_or_opens_files_may_not_be_called() -> None:
    assert not {str(name) for name in CALLED} & set(DANGEROUS)
    assert {str(name) for name in PLAIN} & set(DANGEROUS) == {"numpy.memmap"}  # joblib names it for an array's class


_EMPTY = called(global_("sklearn.linear_model._ridge", "Ridge"))
EXPLOITS = {
    "raw bytes as pointers": called(
        looked_up("numpy", "ndarray"), b"K\x01\x85", called(looked_up("numpy", "dtype"), text("O")), b"C\x08AAAAAAAA"
    ),
    "the same through another function": called(
        looked_up("copyreg", "_reconstructor"), looked_up("numpy", "ndarray"), looked_up("numpy", "ndarray"), b"K\x01"
    ),
    "an estimator that is made with arguments": called(
        looked_up("lightgbm.basic", "Booster"), b"NN" + text("/etc/passwd")
    ),
    "a method of an estimator": called(
        looked_up("sklearn.linear_model._ridge", "Ridge.fit.__globals__.__getitem__"), text("os")
    ),
    "a function in the place of a method": _EMPTY + b"}" + text("__setstate__") + looked_up("numpy", "mean") + b"sb",
    "a call of a scorer": called(called(looked_up("sklearn.metrics._scorer", "_Scorer")), b"N"),
    "a search over distributions": looked_up("scipy.stats._continuous_distns", "uniform_gen"),
    "a function kept for later": called(
        looked_up("functools", "partial"), looked_up("numpy", "memmap"), text("/tmp/x")
    ),
    "a dictionary that asks an object for its keys": called(looked_up("collections", "OrderedDict"), _EMPTY),
    "a codec that runs": called(looked_up("_codecs", "encode"), text("x"), text("uu")),
}


@pytest.mark.parametrize("trick", EXPLOITS)
def test_a_trick_with_names_that_are_plain_is_not_plain(trick: str) -> None:
    assert foreign(screen_pickle(io.BytesIO(stream(EXPLOITS[trick])), "x"))


def test_the_loader_imports_nothing_that_was_not_seen(tmp_path: Path) -> None:
    """Even if the look through a pickle had missed it."""
    mark = tmp_path / "mark"
    data = pickle.dumps(Payload(mark))
    with pytest.raises(InvalidInput, match="was not seen to name"):
        load(tmp_path / "m.pkl", io.BytesIO(data), PLAIN, "")
    assert not mark.exists()
    load(tmp_path / "m.pkl", io.BytesIO(data), None, "")
    assert mark.exists()


def loaded(data: bytes) -> Any:
    return load(Path("m.pkl"), io.BytesIO(data), PLAIN, sklearn.__version__).model


def test_arrays_that_lead_compiled_code_astray_are_not_loaded() -> None:
    rows = np.random.default_rng(0).random((50, 3))
    tree = DecisionTreeRegressor(max_depth=3).fit(rows, rows[:, 0])
    nodes = tree.tree_.__getstate__()["nodes"]
    branch, column = nodes.copy(), nodes.copy()
    branch["right_child"][0] = column["feature"][0] = 1_000_000
    neighbours = KNeighborsClassifier(algorithm="kd_tree").fit(rows, rows[:, 0] > 0.5)
    index = np.asarray(neighbours._tree.get_arrays()[1])
    astray = index.copy()
    astray[3] = -5
    hist = HistGradientBoostingRegressor(max_iter=1).fit(rows, rows[:, 0])
    splits = hist._predictors[0][0].nodes
    circle = splits.copy()
    circle["left"][0] = 0
    for model, right, wrong in (
        (tree, nodes, branch),
        (tree, nodes, column),
        (neighbours, index, astray),
        (hist, splits, circle),
    ):
        data = pickle.dumps(model)
        assert right.tobytes() in data
        assert type(loaded(data)) is type(model)
        with pytest.raises(InvalidInput, match="can not be loaded"):
            loaded(data.replace(right.tobytes(), wrong.tobytes()))
    matrix = csr_matrix(np.eye(3))
    matrix.indices[0] = 1_000_000
    with pytest.raises(InvalidInput, match="can not be loaded"):
        loaded(pickle.dumps(matrix))


def test_boosters_are_looked_through_before_their_libraries_read_them() -> None:
    """These libraries crash on damaged models."""
    rows = np.random.default_rng(0).random((60, 3))
    xgb = xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(rows, rows[:, 0] > 0.5)
    lgb = lightgbm.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1).fit(rows, rows[:, 0] > 0.5)
    for model, right, wrong in (
        (xgb, b"left_children[$l#L" + bytes(7), b"left_children[$l#L" + bytes(6) + b"\x70"),
        (lgb, b"\nleft_child=", b"\nleft_chilt="),
    ):
        data = pickle.dumps(model)
        assert right in data
        loaded(data)
        with pytest.raises(InvalidInput, match="damaged"):
            loaded(data.replace(right, wrong))
