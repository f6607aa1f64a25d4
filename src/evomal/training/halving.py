"""Successive halving of partial trainings: at each rung, those worse than the median stop.

The medians are over earlier trainings, so that trainings do not wait for each other, and a resumed
run decides like an uninterrupted one (Li et al. 2020, "A system for massively parallel
hyperparameter tuning", use the same rungs, but decide with all results available).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

LearningCurve = tuple[float, ...]
"""L_P on validation data at the rungs reached by a training, and at its end if it was completed."""

SHARES = (0.25, 0.5)


def rungs(steps: int) -> list[int]:
    """The steps at which a training is evaluated: a quarter and a half of all steps."""
    return sorted({math.ceil(share * steps) for share in SHARES} - {steps})


def bars(curves: Sequence[LearningCurve], steps: int) -> LearningCurve:
    """The worst L_P with which a training continues at each rung: the median over `curves`.

    Infinite for rungs that none of them has reached.
    """
    reached = [[curve[i] for curve in curves if len(curve) > i] for i in range(len(rungs(steps)))]
    return tuple(statistics.median(values) if values else math.inf for values in reached)


def halted(curve: LearningCurve, steps: int) -> bool:
    """Whether this is the curve of a training that was stopped at a rung."""
    return len(curve) <= len(rungs(steps))
