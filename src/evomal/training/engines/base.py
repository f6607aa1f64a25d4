"""The engine interface: how losses are tuned and trained on a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple, TypeVar

from torch import Tensor

from evomal.losses.meta import MetaLoss
from evomal.tasks.task import Task
from evomal.training.halving import LearningCurve
from evomal.training.numerics import DivergedError, is_out_of_memory
from evomal.training.workbench import Workbench

T = TypeVar("T")
EngineName = Literal["loop", "batched", "stacked"]


class Training(NamedTuple):
    """A loss's partial training on one task.

    Attributes
    ----------
    curve
        L_P at its rungs, if any, and at its end, if it was not stopped before; the last value is
        infinite if it diverged.
    seconds
        Wall-clock time.
    reason
        Why it diverged, if known.
    """

    curve: LearningCurve
    seconds: float = 0.0
    reason: str | None = None


class Engine(ABC):
    """Tunes and trains the losses of a run on one worker.

    Class attributes and methods apply to all runs and do not need a worker.

    Parameters
    ----------
    bench
        The workbench of the run.
    """

    name: ClassVar[EngineName]
    """Name in settings."""

    tunes_in_groups: ClassVar[bool]
    """Whether several losses are tuned in one piece of work."""

    trains_together: ClassVar[bool]
    """Whether several losses are also trained in one piece of work."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench

    @staticmethod
    @abstractmethod
    def problem(task: Task) -> str | None:
        """Why a task's base learner is not supported; None if it is."""

    @staticmethod
    @abstractmethod
    def group_sizes(count: int, size: int | None) -> list[int]:
        """The sizes of consecutive groups of `count` losses.

        `size` is the maximum; None means a single group.
        """

    @abstractmethod
    def tune(self, losses: Sequence[MetaLoss]) -> list[Tensor | DivergedError]:
        """φ of every loss after Algorithm 1, or the error if it diverged.

        The result does not depend on the other losses in the group, up to rounding.
        """

    @abstractmethod
    def train(
        self, losses: Sequence[MetaLoss | None], index: int, bars: Sequence[float] | None = None
    ) -> list[Training]:
        """The partial training with every loss on the task `index`; None means the task loss.

        With `bars`, it is evaluated at its rungs (`evomal.training.halving`).
        """


def halved_if_too_large(
    work: Callable[[Sequence[MetaLoss]], list[T]], losses: Sequence[MetaLoss]
) -> list[T]:
    """Process a group; if it does not fit in memory, process it in two halves."""
    try:
        return work(losses)
    except (RuntimeError, MemoryError) as error:
        if len(losses) == 1 or not is_out_of_memory(error):
            raise
    middle = len(losses) // 2  # outside the handler, whose traceback keeps all tensors alive
    halves = losses[:middle], losses[middle:]
    return [one for half in halves for one in halved_if_too_large(work, half)]
