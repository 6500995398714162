"""One honest file of every format, to be corrupted."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

from tests.formats.archives import tarred, zipped
from tests.formats.graphs import convolutional, linear, save


def onnx_file(folder: Path) -> Path:
    return save(convolutional(17, 8), folder / "m.onnx")


def ort_file(folder: Path) -> Path:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "m.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(linear().SerializeToString(), options, providers=["CPUExecutionProvider"])
    return folder / "m.ort"


def exported(folder: Path) -> Path:
    import torch

    from tests.formats import programs

    return programs.save(programs.SmallNet(), torch.randn(2, 1, 8, 8), folder / "m.pt2", free=True)


def scripted(folder: Path) -> Path:
    import torch

    from tests.formats import programs

    torch.jit.trace(programs.SmallNet().eval(), torch.randn(2, 1, 8, 8)).save(str(folder / "m.pt"))
    return folder / "m.pt"


def weights(folder: Path) -> Path:
    import torch

    from tests.formats import programs

    torch.save(programs.SmallNet().state_dict(), folder / "m.pth")
    return folder / "m.pth"


def safetensors(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    save_file({"w": torch.randn(8, 4), "b": torch.randn(8)}, folder / "m.safetensors")
    return folder / "m.safetensors"


def keras(folder: Path) -> Path:
    from tests.formats import keras_files

    keras_files.dense().save(folder / "m.keras")
    return folder / "m.keras"


def keras_h5(folder: Path) -> Path:
    from tests.formats import keras_files

    keras_files.dense().save(folder / "m.h5")
    return folder / "m.h5"


def estimator(folder: Path) -> Path:
    from sklearn.linear_model import LogisticRegression

    from tests.pipeline.boosted import BINARY, WHOLE

    (folder / "m.pkl").write_bytes(pickle.dumps(LogisticRegression().fit(WHOLE, BINARY)))
    return folder / "m.pkl"


def forest(folder: Path) -> Path:
    import joblib
    from sklearn.ensemble import RandomForestClassifier

    from tests.pipeline.boosted import BINARY, WHOLE

    joblib.dump(RandomForestClassifier(5).fit(WHOLE, BINARY), folder / "m.joblib", compress=3)
    return folder / "m.joblib"


def skops(folder: Path) -> Path:
    import skops.io
    from sklearn.linear_model import LogisticRegression

    from tests.pipeline.boosted import BINARY, WHOLE

    skops.io.dump(LogisticRegression().fit(WHOLE, BINARY), folder / "m.skops")
    return folder / "m.skops"


def boosted(library: str, tried: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from tests.pipeline.boosted import MODELS

        return MODELS[library][tried](folder)

    return make


def zip_file(folder: Path) -> Path:
    return zipped(folder / "m.zip", {"model.onnx": linear().SerializeToString()})


def tar_file(folder: Path) -> Path:
    return tarred(folder / "m.tar.gz", {"model.onnx": linear().SerializeToString()})


SEEDS: dict[str, Callable[[Path], Path]] = {
    "onnx": onnx_file,
    "ort": ort_file,
    "pt2": exported,
    "torchscript": scripted,
    "state-dict": weights,
    "safetensors": safetensors,
    "keras": keras,
    "h5": keras_h5,
    "pickle": estimator,
    "joblib": forest,
    "skops": skops,
    "xgboost-json": boosted("XGBoost", "binary classes, missing values (JSON)"),
    "xgboost-ubj": boosted("XGBoost", "categories"),
    "lightgbm": boosted("LightGBM", "categories"),
    "catboost": boosted("CatBoost", "Depthwise trees"),
    "zip": zip_file,
    "tar": tar_file,
}
