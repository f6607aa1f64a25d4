"""Paired statistics: how far the metric of a loss is from that of the task loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

_LEVEL = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """A metric minus that of the task loss, over pairs with the same split and seed.

    What cannot be computed, because there are too few pairs or all are equal, is None.

    Attributes
    ----------
    unit
        What one observation is: a pair if there is one split, otherwise the mean over the pairs of
        a split, because the seeds of a split share its rows.
    difference
        Mean over the observations, in the direction and unit of the metric.
    interval
        95 % confidence interval of the mean, from Student's t.
    t_test, wilcoxon
        p-values, two-sided: of the paired t-test and of Wilcoxon's signed-rank test.
    wins, ties, losses
        Numbers of pairs in which the loss is better than the task loss, equal, or worse. A training
        that diverged is worse than any other, and equal to another that diverged.
    left_out
        Number of pairs in which a training diverged: they count above only.
    """

    unit: Literal["seed", "split"]
    difference: float | None
    interval: tuple[float, float] | None
    t_test: float | None
    wilcoxon: float | None
    wins: int
    ties: int
    losses: int
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"interval": None if self.interval is None else list(self.interval)}


def paired_difference(
    values: Sequence[float | None],
    reference: Sequence[float | None],
    *,
    maximize: bool,
    splits: int = 1,
) -> PairedDifference:
    """The difference between two rows of values; None stands for a training that diverged.

    Parameters
    ----------
    values, reference
        As many values as seeds for the first split, then for the second, and so on.
    maximize
        Whether higher values are better.
    splits
        Number of splits.
    """
    pairs = list(zip(values, reference, strict=True))
    signs = [_sign(a, b, maximize=maximize) for a, b in pairs]
    count = len(pairs) // splits
    rows = [_differences(pairs[start : start + count]) for start in range(0, len(pairs), count)]
    seen = rows[0] if splits == 1 else [statistics.fmean(row) for row in rows if row]
    interval, t_test = _student(seen)
    return PairedDifference(
        "seed" if splits == 1 else "split",
        statistics.fmean(seen) if seen else None,
        interval,
        t_test,
        _wilcoxon(seen),
        signs.count(1),
        signs.count(0),
        signs.count(-1),
        len(pairs) - sum(map(len, rows)),
    )


def _sign(value: float | None, reference: float | None, *, maximize: bool) -> int:
    """1 if the value is better than the reference, 0 if equal, -1 if worse."""
    worst = -math.inf if maximize else math.inf
    a, b = (worst if one is None else one for one in (value, reference))
    return (a > b) - (a < b) if maximize else (a < b) - (a > b)


def _differences(pairs: Sequence[tuple[float | None, float | None]]) -> list[float]:
    return [a - b for a, b in pairs if a is not None and b is not None]


def quantile(freedom: int) -> float:
    """Of Student's t, for a 95 % confidence interval."""
    from scipy.stats import t as student  # slow to import

    return float(student.ppf((1 + _LEVEL) / 2, freedom))


def _student(seen: Sequence[float]) -> tuple[tuple[float, float] | None, float | None]:
    """Interval of the mean and p-value of the t-test; None without a spread."""
    from scipy.stats import t as student  # slow to import

    error = statistics.stdev(seen) / math.sqrt(len(seen)) if len(seen) >= 2 else 0.0
    if not error:
        return None, None
    mean, freedom = statistics.fmean(seen), len(seen) - 1
    reach = quantile(freedom) * error
    return (mean - reach, mean + reach), 2 * float(student.sf(abs(mean) / error, freedom))


def _wilcoxon(seen: Sequence[float]) -> float | None:
    """p-value of the signed-rank test, without differences of 0; None with fewer than two."""
    from scipy.stats import wilcoxon

    moved = [one for one in seen if one]
    return float(wilcoxon(moved).pvalue) if len(moved) >= 2 else None
