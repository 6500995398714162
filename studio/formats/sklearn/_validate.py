"""Cross-validation of an estimator's kind: fresh copies of it, fitted on a part of the samples and scored on the rest.

It judges the kind of model on these samples: the copies never see what the estimator itself was trained on, and the
estimator itself is not scored. R. Kohavi, "A Study of Cross-Validation and Bootstrap for Accuracy Estimation and Model
Selection", IJCAI 1995: stratified folds for classes.
"""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.model_selection import KFold, StratifiedKFold

from studio.core.errors import StepFailed
from studio.core.manifest import CrossValidation
from studio.formats.base import Array, Feed
from studio.formats.sklearn._source import Source

FEWEST_A_FOLD = 2


def cross_validated(
    source: Source, feed: Feed, labels: Array, folds: int, seconds: float, report: Callable[[float, str], None]
) -> CrossValidation:
    """Fit and score `folds` copies of the source's estimator on the rows of `feed` [rows] and their labels [rows].

    Accuracy for classifiers, whose folds keep the shares of the classes; the root mean square error for regressors.
    Rows are shuffled, the same way every time. Ends after `seconds` with the folds that were done, of which there must
    be two. Raises StepFailed, saying why, where there is nothing to tell.
    """
    model = source.model
    if not (is_classifier(model) or is_regressor(model)):
        raise StepFailed(f"a {type(model).__name__} is neither a classifier nor a regressor")
    count = len(labels)
    classes, sizes = np.unique(labels, return_counts=True)
    smallest = int(sizes.min()) if is_classifier(model) else count // FEWEST_A_FOLD
    if smallest < folds:
        what = f"the class {classes[int(sizes.argmin())]} has only {smallest} samples" if is_classifier(model) else ""
        raise StepFailed(what or f"{count} samples are too few for {folds} folds")
    splitter: Any = (StratifiedKFold if is_classifier(model) else KFold)(folds, shuffle=True, random_state=0)
    scores: list[float] = []
    started = time.monotonic()
    try:
        with _ending(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for train, test in splitter.split(np.zeros(count), labels):
                report(len(scores) / folds, f"cross-validation: fold {len(scores) + 1} of {folds}")
                copy = clone(model).fit(_rows(source, feed, train), labels[train])
                scores.append(_score(model, copy.predict(_rows(source, feed, test)), labels[test]))
                if time.monotonic() - started > seconds and len(scores) < folds:
                    raise TimeoutError
    except TimeoutError:
        if len(scores) < FEWEST_A_FOLD:
            raise StepFailed(f"its {seconds:g} s ended after {len(scores)} of {folds} folds") from None
    except Exception as error:  # estimators raise whatever numpy does
        words = (str(error).strip() or "no reason given").splitlines()[0][:300]
        raise StepFailed(
            f"a fresh copy of the estimator could not be fitted: {type(error).__name__}: {words}"
        ) from error
    return CrossValidation(
        estimator=type(model).__name__,
        metric="accuracy" if is_classifier(model) else "RMSE",
        folds=len(scores),
        wanted=folds,
        samples=count,
        mean=float(np.mean(scores)),
        std=float(np.std(scores, ddof=1)),
        scores=tuple(scores),
        seconds=time.monotonic() - started,
    )


def _rows(source: Source, feed: Feed, index: Array) -> Any:
    return source.table({name: array[index] for name, array in feed.items()}, np.float64)


def _score(model: Any, predicted: Array, labels: Array) -> float:
    if is_classifier(model):
        return float(np.mean(np.asarray(predicted).ravel() == labels))
    return float(np.sqrt(np.mean(np.square(np.asarray(predicted, np.float64).ravel() - labels))))


@contextmanager
def _ending(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after so long, once native code returns. The clock of the whole arrival ends what never does.

    Where this process has an alarm already, and in another thread than the main one, no fold is ended in its middle.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        yield
        return

    def over(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
