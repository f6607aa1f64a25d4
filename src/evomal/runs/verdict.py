"""The verdict of a search: whether its loss is better than the tuned task loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomal.runs.scale import Scale
from evomal.training.paired import quantile
from evomal.training.retraining import Retrained

LEAST = 1e-3
"""Least difference that counts, as a share of the task loss's value."""

_DEFINED = 0.5
"""Least share of the random samples of rows on which the metric has to be defined."""


@dataclass(frozen=True)
class Verdict:
    """A loss against the task loss on validation data, both tuned alike, on fresh seeds.

    Values are means over the seeds, and over the tasks; lower is better.

    Attributes
    ----------
    learned, task_loss
        Mean L_P of the two over the seeds on which both have one; None if there are none.
    difference, interval
        L_P of the loss minus that of the task loss, with a 95 % confidence interval that takes
        the variation over seeds and over validation rows into account; None if it is not known.
    wins, seeds
        On how many of the seeds the loss is better.
    failed, task_loss_failed
        On how many seeds the loss, or the task loss, diverges or its metric is undefined.
    """

    learned: float | None
    task_loss: float | None
    difference: float | None
    interval: tuple[float, ...] | None
    wins: int
    seeds: int
    failed: int = 0
    task_loss_failed: int = 0

    def to_dict(self, scale: Scale) -> dict[str, Any]:
        """As JSON values, in the direction of the metric."""
        low_and_high = None
        if self.interval is not None:
            low_and_high = sorted(scale.value(end) for end in self.interval)
        return {
            "better": self.better,
            "learned": scale.value(self.learned),
            "task_loss": scale.value(self.task_loss),
            "difference": scale.value(self.difference),
            "interval": low_and_high,
            "wins": self.wins,
            "seeds": self.seeds,
            "failed": self.failed,
            "task_loss_failed": self.task_loss_failed,
        }

    def sentence(self, scale: Scale, name: str) -> str:
        """In words; `name` is what the loss is called."""
        parts = []
        if self.learned is not None and self.task_loss is not None:
            learned, own = scale.value(self.learned), scale.value(self.task_loss)
            parts.append(f"validation {scale.names} {learned:.4g} against {own:.4g}")
        parts.append(f"better on {self.wins} of {self.seeds} seeds")
        if self.interval is not None:
            low, high = sorted(scale.value(end) for end in self.interval)
            parts.append(f"difference {scale.value(self.difference):.3g} [{low:.3g}, {high:.3g}]")
        for count, what in ((self.failed, name), (self.task_loss_failed, "the task loss")):
            if count:
                parts.append(f"{what} diverges, or has no metric, on {count}")
        found = ", ".join(parts)
        if self.better:
            return f"Better than the tuned task loss: {found}."
        return f"Not shown to be better than the tuned task loss; use that: {found}."

    @property
    def better(self) -> bool:
        """Whether the loss was shown to be better.

        The whole interval is below 0, and the difference at least `LEAST` of the task loss's value.
        Or the task loss fails on some seeds, and the loss is better on all.
        """
        if self.failed:
            return False
        if self.task_loss_failed:
            return self.wins == self.seeds
        if self.interval is None or self.difference is None or self.task_loss is None:
            return False
        return self.interval[1] < 0 and -self.difference >= LEAST * abs(self.task_loss)


def judge(learned: Sequence[Sequence[Retrained]], own: Sequence[Sequence[Retrained]]) -> Verdict:
    """Compare two losses.

    Parameters
    ----------
    learned, own
        For every seed, the training on every task, with the loss and with the task loss.
    """
    a, b = ([_mean(row) for row in rows] for rows in (learned, own))
    wins = sum(x < y for x, y in zip(a, b, strict=True))
    both = [pair for pair in zip(a, b, strict=True) if math.inf not in pair]
    counts = wins, len(a), a.count(math.inf), b.count(math.inf)
    if not both:
        return Verdict(None, None, None, None, *counts)
    mean_a, mean_b = (statistics.fmean(values) for values in zip(*both, strict=True))
    differences = [x - y for x, y in both]
    difference = statistics.fmean(differences)
    variance = _variance(learned, own, differences) if len(both) == len(a) else None
    interval = None
    if variance is not None and variance > 0:
        reach = quantile(len(differences) - 1) * math.sqrt(variance)
        interval = difference - reach, difference + reach
    return Verdict(mean_a, mean_b, difference, interval, *counts)


def _variance(
    learned: Sequence[Sequence[Retrained]],
    own: Sequence[Sequence[Retrained]],
    differences: Sequence[float],
) -> float | None:
    """Variance of the mean difference, over seeds and over rows; None if it is not known."""
    if len(differences) < 2:
        return None
    over_rows = _variance_over_rows(learned, own)
    if over_rows is None:
        return None
    return float(np.var(differences, ddof=1)) / len(differences) + over_rows


def _mean(row: Sequence[Retrained]) -> float:
    """Mean over the tasks; infinite if any training diverged."""
    return statistics.fmean(one.last for one in row)


def _variance_over_rows(
    learned: Sequence[Sequence[Retrained]], own: Sequence[Sequence[Retrained]]
) -> float | None:
    """The same over random samples of the rows; None if the metric is undefined on most."""
    count = min(len(one.resampled) for rows in (*learned, *own) for one in rows)
    found = []
    for sample in range(count):
        pairs = [
            (x.resampled[sample], y.resampled[sample])
            for row, other in zip(learned, own, strict=True)
            for x, y in zip(row, other, strict=True)
        ]
        known = [x - y for x, y in pairs if x is not None and y is not None]
        if len(known) == len(pairs):
            found.append(statistics.fmean(known))
    if not count:
        return 0.0
    return float(np.var(found, ddof=1)) if len(found) >= max(2, _DEFINED * count) else None
