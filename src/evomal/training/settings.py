"""How one candidate is optimised, filtered and evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from evomal.errors import InputError

Precision = Literal["full", "tf32", "bfloat16"]  # as in `evomal.tasks`, which needs torch


@dataclass(frozen=True)
class EvaluationSettings:
    """Constants of Algorithms 1 and 2 and of the filters; the defaults are the paper's."""

    meta_steps: int = 250
    """Steps of Adam on a loss's weights (S_meta)."""

    base_steps: int = 1
    """Training steps that are differentiated through at each of them (S_base)."""

    meta_learning_rate: float = 1e-3
    """Learning rate of Adam on the weights (eta)."""

    meta_batch: Literal["validation", "training"] = "validation"
    """Where the batch comes from on which the task loss judges an updated base learner."""

    rejection_batch: int = 100
    """Training instances of the rejection protocol and of gradient equivalence (B)."""

    rejection_steps: int | None = None
    """Steps of the rejection protocol; none: the task's own number (100 or 1000)."""

    prescreen: bool = False
    """Also apply the rejection protocol before the weights are optimised, which saves most of the
    time on hopeless losses; the paper applies it only after."""

    testing_steps: int = 500
    """Training steps that decide the fitness (S_testing)."""

    halving: bool = False
    """Stop a partial training after a quarter or half of its steps where it is worse than the
    median, at that point, of the last trainings of earlier generations that came so far; the paper
    stops none."""

    engine: Literal["auto", "loop", "batched", "stacked"] = "auto"
    """How candidates are worked on: loss by loss (loop), a group of losses sharing what they can
    (batched), or all learners of a group in one pass (stacked). The results differ by rounding.
    auto: stacked on GPUs, batched on CPUs, where the base learners support it."""

    group_size: int | None = None
    """Losses in a group; default 4 on CPUs, and a whole generation on a GPU. Another size changes
    the last bits of a result."""

    precision: Precision = "full"
    """In which precision base learners compute: as their parameters are (full), with float32
    products in TensorFloat-32 on GPUs (tf32), or with forward passes under autocast (bfloat16)."""

    cuda_graphs: bool = False
    """On GPUs, record the steps of the rejection protocol and of stacked trainings as CUDA graphs,
    and replay them."""

    threads: int = 1
    """CPU threads per candidate; another number changes the last bits of a result."""

    def validate(self) -> None:
        """Raise an `InputError` for the first setting that makes no sense."""
        require_at_least(self, 1, "rejection_steps", "group_size")
        require_at_least(
            self, 1, "meta_steps", "base_steps", "rejection_batch", "testing_steps", "threads"
        )
        if not 0 < self.meta_learning_rate < math.inf:
            raise InputError("The setting meta_learning_rate must be a number above 0.")
        if self.meta_batch not in ("validation", "training"):
            raise InputError("The setting meta_batch must be validation or training.")
        if self.engine not in ("auto", "loop", "batched", "stacked"):
            raise InputError("The setting engine must be auto, loop, batched or stacked.")
        if self.precision not in get_args(Precision):
            raise InputError("The setting precision must be full, tf32 or bfloat16.")
        if self.engine in ("batched", "stacked") and self.base_steps != 1:
            raise InputError(f"The engine {self.engine} works with base_steps of 1 only; use loop.")


def require_at_least(settings: object, least: int, *names: str) -> None:
    """Raise an `InputError` naming the first of these settings that is below `least`."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (isinstance(value, int) and value >= least):
            raise InputError(
                f"The setting {name} must be a whole number of at least {least}, but is {value}."
            )
