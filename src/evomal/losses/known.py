"""Well-known losses that the symbolic language can express, by name."""

from __future__ import annotations

from dataclasses import dataclass

from evomal.losses.form import Link


@dataclass(frozen=True)
class KnownLoss:
    """A loss by its prefix form; `link` is the only one it is meant for, or None for any."""

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
"""Every known loss; also for generation 0 of a search."""
