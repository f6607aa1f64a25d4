"""Losses by name: well-known ones as expressions, handcrafted ones as modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evomal.losses.form import Form, Link
from evomal.losses.handcrafted import HandcraftedLoss, LabelSmoothingLoss
from evomal.losses.sparse import FocalSparseLabelSmoothingLoss, SparseLabelSmoothingLoss
from evomal.losses.symbolic import SymbolicLoss
from evomal.losses.target import (
    AbsoluteCrossEntropyLoss,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
)


@dataclass(frozen=True)
class KnownLoss:
    """A loss in prefix form.

    `link` is the link it is meant for, or None for any; `weights` are as in `weighted_loss`.
    """

    expression: str
    link: Link | None
    description: str
    weights: Mapping[int, float] = field(default_factory=dict)


def weighted_loss(expression: str, form: Form, weights: Mapping[int, float]) -> SymbolicLoss:
    """An expression with these weights on the edges above some nodes, in prefix order, others 1."""
    loss = SymbolicLoss.of_form(expression, form)
    return loss.with_phi([weights.get(node, 1.0) for node in range(1, loss.size)])


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
    "binary-focal": KnownLoss(
        "mul(-1, add(mul(y, mul(square(sub(1, f)), log(f))), "
        "mul(sub(1, y), mul(square(f), log(sub(1, f))))))",
        "sigmoid",
        "-y (1 - f)² log f - (1 - y) f² log(1 - f): focal with γ = 2",
    ),
    "half-gce": KnownLoss(
        "mul(y, sub(1, sqrt(f)))",
        "softmax",
        "y (1 - √f): half of gce:0.5, robust to wrong labels",
    ),
    "relaxed-label-smoothing": KnownLoss(
        "mul(-1, add(mul(y, log(f)), log(sub(1, f))))",
        "softmax",
        "-y log f - ξ log(1 - f), with ξ = 0.1",
        {7: 0.1},
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
