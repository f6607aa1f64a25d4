"""Given outputs as fitted estimators of scikit-learn, which its scorers ask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from torch import Tensor

Array = NDArray[Any]


class Classes(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier that answers with given logits, (n, C)."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.classes_ = np.arange(logits.shape[1])

    def predict(self, _: Array) -> Array:
        """The predictions: classes, labels or values."""
        return self.logits.argmax(dim=1).cpu().numpy()

    def predict_proba(self, _: Array) -> Array:
        """The probabilities of the classes."""
        return torch.softmax(self.logits, dim=1).cpu().numpy()

    def decision_function(self, _: Array) -> Array:
        """The logits as scores."""
        logits = self.logits.cpu().numpy()
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits


class Labels(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier of one or several labels that answers with given logits."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        one = np.arange(2)
        self.classes_ = one if logits.ndim == 1 else [one] * logits.shape[1]

    def predict(self, _: Array) -> Array:
        """The predictions: classes, labels or values."""
        return (self.logits > 0).long().cpu().numpy()

    def predict_proba(self, _: Array) -> Array:
        """The probabilities of the classes."""
        positive = torch.sigmoid(self.logits).cpu().numpy()
        return np.stack([1 - positive, positive], axis=1) if positive.ndim == 1 else positive

    def decision_function(self, _: Array) -> Array:
        """The logits as scores."""
        return self.logits.cpu().numpy()


class Values(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted regressor whose predictions are its inputs."""

    def predict(self, outputs: Array) -> Array:
        """The predictions: classes, labels or values."""
        return outputs
