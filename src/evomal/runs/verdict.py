"""The verdict of a search: whether its loss is better than the tuned task loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evomal.runs.scale import Scale
from evomal.training.retraining import Retrained

LEVEL = 0.95


@dataclass(frozen=True)
class Verdict:
    """A loss against the task loss on validation data, both tuned alike, on fresh seeds.

    Values are means over the seeds, and over the tasks; lower is better.

    Attributes
    ----------
    learned, task_loss
        L_P of the two; None if a training diverged.
    difference, interval
        L_P of the loss minus that of the task loss, with a 95 % confidence interval that takes
        the variation over seeds and over validation rows into account; None if unknown.
    wins, seeds
        On how many of the seeds the loss is better.
    """

    learned: float | None
    task_loss: float | None
    difference: float | None
    interval: tuple[float, ...] | None
    wins: int
    seeds: int

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
        }

    def sentence(self, scale: Scale, name: str) -> str:
        """In words; `name` is what the loss is called."""
        learned, own = scale.value(self.learned), scale.value(self.task_loss)
        if learned is None:
            return f"Not shown to be better than the tuned task loss: {name} diverges; use that."
        if own is None:
            return f"Better than the task loss, which diverges: {name} has {learned:.4g}."
        numbers = f"validation {scale.names} {learned:.4g} against {own:.4g}"
        numbers += f", better on {self.wins} of {self.seeds} seeds"
        if self.interval is not None:
            low, high = sorted(scale.value(end) for end in self.interval)
            numbers += f", difference {scale.value(self.difference):.3g} [{low:.3g}, {high:.3g}]"
        if self.better:
            return f"Better than the tuned task loss: {numbers}."
        return f"Not shown to be better than the tuned task loss; use that: {numbers}."

    @property
    def better(self) -> bool:
        """Whether the loss was shown to be better: the whole interval is below 0."""
        if self.learned is not None and self.task_loss is None:
            return True
        return self.interval is not None and self.interval[1] < 0


def judge(learned: Sequence[Sequence[Retrained]], own: Sequence[Sequence[Retrained]]) -> Verdict:
    """Compare two losses.

    Parameters
    ----------
    learned, own
        For every seed, the training on every task, with the loss and with the task loss.
    """
    a, b = ([_mean(row) for row in rows] for rows in (learned, own))
    wins = sum(x < y for x, y in zip(a, b, strict=True))
    mean_a, mean_b = (None if math.inf in values else statistics.fmean(values) for values in (a, b))
    if mean_a is None or mean_b is None:
        return Verdict(mean_a, mean_b, None, None, wins, len(a))
    differences = [x - y for x, y in zip(a, b, strict=True)]
    variance = statistics.variance(differences) / len(differences) if len(differences) > 1 else 0.0
    variance += _variance_over_rows(learned, own)
    difference = statistics.fmean(differences)
    interval = None
    if variance > 0 and len(differences) > 1:
        reach = _quantile(len(differences) - 1) * math.sqrt(variance)
        interval = difference - reach, difference + reach
    return Verdict(mean_a, mean_b, difference, interval, wins, len(a))


def _mean(row: Sequence[Retrained]) -> float:
    """Mean over the tasks; infinite if any training diverged."""
    return statistics.fmean(one.curve[-1] if one.curve else math.inf for one in row)


def _variance_over_rows(
    learned: Sequence[Sequence[Retrained]], own: Sequence[Sequence[Retrained]]
) -> float:
    """Variance of the mean difference over random samples of the validation rows."""
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
    return statistics.variance(found) if len(found) > 1 else 0.0


def _quantile(freedom: int) -> float:
    """Of Student's t, for a two-sided interval."""
    from scipy.stats import t as student  # slow to import

    return float(student.ppf((1 + LEVEL) / 2, freedom))
