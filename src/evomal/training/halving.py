"""Successive halving of partial trainings: at each rung, what is worse than the median stops.

The medians are of trainings that ended before, so that no training waits for another one, and a
run that is resumed decides as one that was never stopped (Li et al. 2020, "A system for massively
parallel hyperparameter tuning", has the same rungs, but decides by whatever has come back).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

LearningCurve = tuple[float, ...]
"""L_P on validation data at the rungs that a training has reached, and at its end if it has."""

SHARES = (0.25, 0.5)


def rungs(steps: int) -> list[int]:
    """After which of a training's steps it is judged: a quarter and a half of them."""
    return sorted({math.ceil(share * steps) for share in SHARES} - {steps})


def bars(curves: Sequence[LearningCurve], steps: int) -> LearningCurve:
    """The worst L_P with which a training goes on at each rung: the median of those in `curves`.

    Infinite where none of them has come so far.
    """
    reached = [[curve[i] for curve in curves if len(curve) > i] for i in range(len(rungs(steps)))]
    return tuple(statistics.median(values) if values else math.inf for values in reached)


def halted(curve: LearningCurve, steps: int) -> bool:
    """Whether this is the curve of a training that was stopped at a rung."""
    return len(curve) <= len(rungs(steps))
