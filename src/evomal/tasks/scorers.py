"""scikit-learn's scorers as functions of raw outputs and targets."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from torch import Tensor

from evomal.losses.form import Link


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
    from sklearn.metrics import get_scorer  # takes as long to import as torch

    from evomal.tasks.estimators import Classes, Labels, Values

    outputs, targets = pred.detach().double(), target
    if link == "softmax":
        outputs = outputs.movedim(1, -1).reshape(-1, outputs.shape[1])
        targets = targets.reshape(-1)
        kept = targets != ignore_index
        outputs, targets = outputs[kept], targets[kept]
        judged: Any = Classes(outputs)
    else:
        outputs, targets = (_in_columns(x, several=x.ndim == 2) for x in (outputs, targets))
        judged = Labels(outputs) if link == "sigmoid" else Values()
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
