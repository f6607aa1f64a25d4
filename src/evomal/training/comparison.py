"""What a comparison of losses found: test metrics of every loss, and differences in pairs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomal.tasks.metrics import PerformanceMetric
from evomal.training.paired import PairedDifference, paired_difference
from evomal.training.tuning import Recipe


@dataclass(frozen=True)
class Sample:
    """Test metrics of one loss; None for a training that diverged.

    Attributes
    ----------
    values
        One per seed for the first split, then for the second, and so on.
    recipes
        One per split: how these values were reached; None if the loss diverged at every learning
        rate tried.
    """

    values: Sequence[float | None]
    recipes: Sequence[Recipe | None]

    @property
    def mean(self) -> float | None:
        """Mean over the trainings that did not diverge; None if there are none."""
        return statistics.fmean(self._finite) if self._finite else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the same trainings; None with fewer than two."""
        return statistics.stdev(self._finite) if len(self._finite) >= 2 else None

    @property
    def diverged(self) -> int:
        """Number of trainings that diverged."""
        return len(self.values) - len(self._finite)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "values": list(self.values),
            "mean": self.mean,
            "std": self.std,
            "diverged": self.diverged,
            "recipes": [None if one is None else one.to_dict() for one in self.recipes],
        }

    @property
    def _finite(self) -> list[float]:
        return [value for value in self.values if value is not None]


@dataclass(frozen=True)
class Comparison:
    """A learned loss, the task loss and further losses, all trained alike.

    Attributes
    ----------
    metric
        The metric, with its direction.
    learned, task_loss
        Its values.
    against
        Those of further losses, by name.
    tuned
        The same comparison with every loss at the recipe tuned for it; None without tuning.
    reported
        The same trainings by each of the metrics that the task reports.
    """

    metric: PerformanceMetric
    learned: Sample
    task_loss: Sample
    against: Mapping[str, Sample] = field(default_factory=dict)
    tuned: Comparison | None = None
    reported: Sequence[Comparison] = ()

    @property
    def samples(self) -> dict[str, Sample]:
        """All samples: ``learned``, ``task_loss``, and the further losses by name."""
        return {"learned": self.learned, "task_loss": self.task_loss, **self.against}

    @property
    def differences(self) -> dict[str, PairedDifference]:
        """The difference between each loss and the task loss, by the names in `samples`."""
        return {
            name: paired_difference(
                sample.values,
                self.task_loss.values,
                maximize=self.metric.maximize,
                splits=len(sample.recipes),
            )
            for name, sample in self.samples.items()
            if name != "task_loss"
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; ``against``, ``tuned`` and ``reported`` only if there are any."""
        fields: dict[str, Any] = {
            "metric": self.metric.name,
            "direction": self.metric.direction,
            "learned": self.learned.to_dict(),
            "task_loss": self.task_loss.to_dict(),
        }
        if self.against:
            fields["against"] = {name: one.to_dict() for name, one in self.against.items()}
        fields["differences"] = {name: one.to_dict() for name, one in self.differences.items()}
        if self.tuned is not None:
            fields["tuned"] = self.tuned.to_dict()
        if self.reported:
            fields["reported"] = [other.to_dict() for other in self.reported]
        return fields
