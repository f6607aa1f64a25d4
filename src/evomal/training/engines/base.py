"""The engine interface: how losses are tuned and trained on a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import ClassVar, Literal, NamedTuple, TypeVar

from torch import Tensor

from evomal.losses.meta import MetaLoss
from evomal.tasks.task import Task
from evomal.training.halving import LearningCurve
from evomal.training.meta_training import Tuning, first_state
from evomal.training.numerics import DivergedError, is_out_of_memory
from evomal.training.tuning_state import TuningPaused, TuningState
from evomal.training.workbench import Workbench

S = TypeVar("S")
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

    def tune(
        self, losses: Sequence[MetaLoss], states: Sequence[TuningState] = ()
    ) -> list[Tensor | DivergedError]:
        """φ of every loss after Algorithm 1, or that it diverged.

        The other losses of the group change it only by rounding, and pauses do not change it.

        Parameters
        ----------
        losses
            The losses to tune.
        states
            The state of every loss to continue from; by default, the start.

        Raises
        ------
        TuningPaused
            If it is time to pause (`evomal.training.numerics.pausing`).
        """
        before = list(states) or [first_state(self.bench, loss) for loss in losses]
        after: list[TuningState | DivergedError] = []
        # A group that did not fit in the memory pauses with its parts at different steps.
        tunings = zip(losses, before, strict=True)
        for _, part in groupby(tunings, key=lambda tuning: tuning[1].step):
            after += halved_if_too_large(self._advance, list(part))
        last = self.bench.tuning.meta_steps
        if any(isinstance(one, TuningState) and one.step < last for one in after):
            pairs = zip(before, after, strict=True)
            raise TuningPaused([b if isinstance(a, DivergedError) else a for b, a in pairs])
        return [one if isinstance(one, DivergedError) else one.phi for one in after]

    @abstractmethod
    def _advance(self, tunings: Sequence[Tuning]) -> list[TuningState | DivergedError]:
        """Algorithm 1 on losses after the same number of meta steps, to its end or a pause."""

    @abstractmethod
    def train(
        self, losses: Sequence[MetaLoss | None], index: int, bars: Sequence[float] | None = None
    ) -> list[Training]:
        """The partial training with every loss on the task `index`; None means the task loss.

        With `bars`, it is evaluated at its rungs (`evomal.training.halving`).
        """


def halved_if_too_large(work: Callable[[Sequence[S]], list[T]], group: Sequence[S]) -> list[T]:
    """Process a group; if it does not fit in memory, process it in two halves."""
    try:
        return work(group)
    except (RuntimeError, MemoryError) as error:
        if len(group) == 1 or not is_out_of_memory(error):
            raise
    middle = len(group) // 2  # outside the handler, whose traceback holds all tensors
    halves = group[:middle], group[middle:]
    return [one for half in halves for one in halved_if_too_large(work, half)]
