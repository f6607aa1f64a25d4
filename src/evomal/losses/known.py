"""Losses by name: well-known ones as expressions, handcrafted ones as modules."""

from __future__ import annotations

from dataclasses import dataclass

from evomal.losses.form import Form, Link
from evomal.losses.handcrafted import HandcraftedLoss, LabelSmoothingLoss
from evomal.losses.sparse import FocalSparseLabelSmoothingLoss, SparseLabelSmoothingLoss
from evomal.losses.target import (
    AbsoluteCrossEntropyLoss,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
)


@dataclass(frozen=True)
class KnownLoss:
    """A loss in prefix form; `link` is the link it is meant for, or None for any."""

    expression: str
    link: Link | None
    description: str


KNOWN_LOSSES: dict[str, KnownLoss] = {
    "squared-error": KnownLoss("square(sub(y, f))", None, "(y - f)², as MSELoss; Brier score"),
    "absolute-error": KnownLoss("abs(sub(y, f))", None, "|y - f|, as L1Loss"),
    "cross-entropy": KnownLoss(
        "mul(-1, mul(y, log(f)))", "softmax", "-y log f, as CrossEntropyLoss"
    ),
    "binary-cross-entropy": KnownLoss(
        "mul(-1, add(mul(y, log(f)), mul(sub(1, y), log(sub(1, f)))))",
        "sigmoid",
        "-y log f - (1 - y) log(1 - f), as BCEWithLogitsLoss",
    ),
    "absolute-cross-entropy": KnownLoss(
        "mul(y, abs(log(f)))", "softmax", "y |log f| (paper, eq. 19, with φ₀ = φ₁ = 1)"
    ),
    "focal": KnownLoss(
        "mul(square(sub(1, f)), mul(-1, mul(y, log(f))))",
        "softmax",
        "-y (1 - f)² log f (paper, eq. 50, with γ = 2)",
    ),
}
"""Known losses by name; also for generation 0 of a search."""

HANDCRAFTED_LOSSES: dict[str, type[HandcraftedLoss]] = {
    "absolute-cross-entropy": AbsoluteCrossEntropyLoss,
    "focal": FocalLoss,
    "generalized-cross-entropy": GeneralizedCrossEntropyLoss,
    "label-smoothing": LabelSmoothingLoss,
    "sparse-label-smoothing": SparseLabelSmoothingLoss,
    "focal-sparse-label-smoothing": FocalSparseLabelSmoothingLoss,
}
"""Handcrafted losses by their kind in loss files.

As a user's input, a name in `KNOWN_LOSSES` takes precedence.
"""


def handcrafted_loss(name: str, form: Form) -> HandcraftedLoss:
    """A handcrafted loss with default parameters for tasks of a form."""
    cls = HANDCRAFTED_LOSSES[name]
    if form.link != "softmax":
        return cls()
    return cls(weight=form.weight, ignore_index=form.ignore_index)
