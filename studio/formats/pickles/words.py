"""What a pickle is that no format takes: in words, with what to do instead. Nothing of it is loaded."""

from __future__ import annotations

from pathlib import Path

from studio.formats.pickles._values import Made
from studio.formats.pickles.compressed import compression, inflated_head
from studio.formats.pickles.screen import described, first_look, shown
from studio.formats.unsupported.foreign import Known

_HEAD = 64 * 1024
_PACKED = Known("a compressed file without a model that Studio knows", "Unpack it and drop what it holds.", "no model")
_ESTIMATOR = "Save the fitted estimator itself, alone: joblib.dump(model, 'model.joblib')."
_PIPELINE = "Build the model as a scikit-learn Pipeline of scikit-learn's own estimators, and save that."
_EXPORT = "Export it to ONNX where it was trained, and drop the .onnx file."
_TORCH = (
    "In Python: torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2'); then drop model.pt2."
)
_DATA = {
    "pandas": "a table or column of pandas",
    "polars": "a table or column of polars",
    "pyarrow": "a table of Arrow",
}
_PLAIN = ("numpy", "collections", "builtins", "scipy", "datetime")
_RUNNERS = frozenset(f"builtins.{name}" for name in ("eval", "exec", "compile", "open", "getattr", "__import__"))
_CALL_FIX = (
    "Nothing of it was run, and there is nothing to say yes to: what comes out of it is no model. Take the file away, "
    "unless you know what it is for."
)
# The package that an object is of: what it is, and what to do.
_PACKAGES = {
    "catboost": ("a pickled CatBoost model", "In Python: model.save_model('model.cbm'); then drop model.cbm."),
    "xgboost": ("a pickled XGBoost model", "In Python: booster.save_model('model.ubj'); then drop model.ubj."),
    "lightgbm": ("a pickled LightGBM model", "In Python: booster.save_model('model.txt'); then drop model.txt."),
    "imblearn": ("a pickle of imbalanced-learn", f"Sampling is for training alone. {_PIPELINE}"),
    "keras": ("a pickled Keras model", "In Python: model.save('model.keras'); then drop model.keras."),
    "tensorflow": ("a pickled TensorFlow object", _EXPORT),
    "torch": ("a pickled PyTorch object", _TORCH),
    "transformers": ("a pickle of transformers", _EXPORT),
    "statsmodels": ("a pickled statsmodels model", f"It has no converter to ONNX. {_PIPELINE}"),
    "prophet": ("a pickled Prophet model", f"It has no converter to ONNX. {_PIPELINE}"),
    "joblib": ("a joblib file", _ESTIMATOR),
    "__main__": ("a pickle of an object of your own class", f"The class itself is not in the file. {_PIPELINE}"),
}


def pickle_words(path: Path, start: bytes) -> Known | None:
    """What a pickle, compressed or not, holds. `start`: its first bytes. None when it is none."""
    packed = compression(start)
    if packed is not None:
        start = inflated_head(path, packed, _HEAD)
        if not start and packed == "lz4":
            return Known("compressed with LZ4, perhaps a joblib file", "Save it with joblib.dump(…, compress=3).")
    elif start[:2] == b"ZF":
        return Known("a file of joblib before 0.10", "Save it again with joblib 1.2 or newer.")
    else:
        with path.open("rb") as file:
            start = file.read(_HEAD)
    if not (start[:1] == b"\x80" and start[1:2] <= b"\x05"):
        return _PACKED if packed is not None and start else None
    seen = first_look(start)
    if seen is None:
        return Known("a damaged pickle", "Copy it again, or save it again.", "no model")
    if not isinstance(seen.value, Made) or seen.kind is None:
        return Known(f"a pickle of {described(seen.value)}", _ESTIMATOR, "no model")
    root = seen.kind.module.partition(".")[0]
    if root in _DATA:
        title = f"a pickle of data, {_DATA[root]} ({shown(seen.kind.qualname)})"
        return Known(title, _ESTIMATOR, "no model")
    if root in _PACKAGES:
        title, fix = _PACKAGES[root]
        return Known(f"{title} ({shown(seen.kind.qualname)})", fix)
    calls = described(seen.value).startswith("what ")
    if calls and (root not in _PLAIN or str(seen.kind) in _RUNNERS):
        return Known(f"a pickle that calls {shown(str(seen.kind))} when it is loaded", _CALL_FIX, "no model")
    if described(seen.value) == "a numpy array" or root in _PLAIN:
        return Known(f"a pickle of {described(seen.value)}", _ESTIMATOR, "no model")
    return Known(
        f"a pickle of {described(seen.value)}", f"Studio takes those of scikit-learn, XGBoost and LightGBM. {_PIPELINE}"
    )
