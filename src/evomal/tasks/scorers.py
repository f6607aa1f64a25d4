"""scikit-learn's scorers as functions of raw outputs and targets."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import get_scorer
from torch import Tensor

from evomal.losses.form import Link

Array = NDArray[Any]


def scored(
    pred: Tensor, target: Tensor, *, scorer: str, sign: int, link: Link, ignore_index: int
) -> float:
    """A scorer's value, times `sign`, for raw outputs.

    The scorer gets what it asks for: classes, probabilities, or logits as scores. Dense
    predictions count one by one.

    Raises
    ------
    ValueError
        If the scorer is undefined on these targets.
    """
    outputs, targets = pred.detach().double(), target
    if link == "softmax":
        outputs = outputs.movedim(1, -1).reshape(-1, outputs.shape[1])
        targets = targets.reshape(-1)
        kept = targets != ignore_index
        outputs, targets = outputs[kept], targets[kept]
        judged: Any = _Classes(outputs)
    else:
        outputs, targets = (_in_columns(x, several=x.ndim == 2) for x in (outputs, targets))
        judged = _Labels(outputs) if link == "sigmoid" else _Values()
    truth = targets.double().cpu().numpy()
    if link != "identity":
        if not np.isin(truth, (0, 1)).all() and link == "sigmoid":
            raise ValueError("it needs targets of 0 or 1")
        truth = truth.astype(np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that no row has, or that are never predicted
        return sign * float(get_scorer(scorer)(judged, outputs.cpu().numpy(), truth))


def _in_columns(values: Tensor, *, several: bool) -> Tensor:
    """One column per label or value, if there are several; otherwise a flat tensor."""
    return values if several and values.shape[1] > 1 else values.reshape(-1)


class _Classes(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier that answers with given logits, (n, C)."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.classes_ = np.arange(logits.shape[1])

    def predict(self, _: Array) -> Array:
        return self.logits.argmax(dim=1).cpu().numpy()

    def predict_proba(self, _: Array) -> Array:
        return torch.softmax(self.logits, dim=1).cpu().numpy()

    def decision_function(self, _: Array) -> Array:
        logits = self.logits.cpu().numpy()
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits


class _Labels(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier of one or several labels that answers with given logits."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        one = np.arange(2)
        self.classes_ = one if logits.ndim == 1 else [one] * logits.shape[1]

    def predict(self, _: Array) -> Array:
        return (self.logits > 0).long().cpu().numpy()

    def predict_proba(self, _: Array) -> Array:
        positive = torch.sigmoid(self.logits).cpu().numpy()
        return np.stack([1 - positive, positive], axis=1) if positive.ndim == 1 else positive

    def decision_function(self, _: Array) -> Array:
        return self.logits.cpu().numpy()


class _Values(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted regressor whose predictions are its inputs."""

    def predict(self, outputs: Array) -> Array:
        return outputs
