"""Settings for optimising, filtering and evaluating a candidate."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from evomal.errors import InputError, quoted

Precision = Literal["full", "tf32", "bfloat16"]  # as in `evomal.tasks`, which needs torch

MOST_STEPS = 10_000_000
"""Maximum number of training steps: weeks, even for a small model."""

MOST_LOSSES = 100_000
"""Maximum number of losses in a generation or group: all of them are held in memory."""

MOST_THREADS = 1_000_000
"""Maximum number of threads per candidate; a local search uses at most one per core."""


@dataclass(frozen=True)
class Pipeline:
    """The stages of a method's candidates before partial training."""

    tune: bool
    """Whether Algorithm 1 tunes the weights."""

    reject: bool
    """Whether the rejection protocol applies."""

    match_gradients: bool
    """Whether gradient equivalence is checked."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings for training base learners; the defaults are the paper's."""

    testing_steps: int | None = 500
    """Training steps before the fitness is measured (S_testing); None for those of the task's own
    training, as many as training_budget allows."""

    training_budget: float = 5e10
    """Floating-point operations, in forward passes, of the longest training that testing_steps of
    None allows."""

    engine: Literal["auto", "loop", "batched", "stacked"] = "auto"
    """How candidates are computed: one loss at a time (loop), in groups that share computations
    (batched), or all learners of a group in one pass (stacked). Results agree up to rounding.
    auto: stacked on GPUs, batched on CPUs, if the base learners support it."""

    group_size: int | None = None
    """Losses per group; default 4 on CPUs, and a whole generation on a GPU. The size changes the
    last bits of a result."""

    precision: Precision = "full"
    """Precision of base learners: that of their parameters (full), float32 products in
    TensorFloat-32 on GPUs (tf32), or forward passes under autocast (bfloat16)."""

    threads: int = 1
    """CPU threads per candidate; the number changes the last bits of a result."""

    def __post_init__(self) -> None:
        take_plain_numbers(self)

    @property
    def fitness_steps(self) -> int:
        """`testing_steps`, once they are decided (`evomal.training.horizon`)."""
        assert self.testing_steps is not None
        return self.testing_steps

    def validate(self) -> None:
        """Raise an `InputError` for the first invalid setting."""
        if self.testing_steps is not None:
            require_whole(self, 1, MOST_STEPS, "testing_steps")
        require_number(self, 1e30, "training_budget")
        require_choice(self, "engine", "auto", "loop", "batched", "stacked")
        require_whole(self, 1, MOST_LOSSES, "group_size")
        require_choice(self, "precision", *get_args(Precision))
        require_whole(self, 1, MOST_THREADS, "threads")


@dataclass(frozen=True)
class TuningSettings(TrainingSettings):
    """Settings of Algorithm 1, which tunes the weights of a loss."""

    meta_steps: int = 250
    """Adam steps on a loss's weights (S_meta)."""

    base_steps: int = 1
    """Training steps to differentiate through per meta step (S_base)."""

    meta_learning_rate: float = 1e-3
    """Learning rate of Adam on a loss's weights (eta)."""

    meta_batch: Literal["validation", "training"] = "validation"
    """Data split of the batch on which the task loss evaluates an updated base learner."""

    meta_start: Literal["auto", "fresh", "training"] = "auto"
    """Where meta steps start: from a fresh base learner, or from states that a training under the
    task loss passes through. auto: fresh for SGD, training for Adam and AdamW, through whose first
    step nothing can be learned."""

    meta_snapshots: int = 16
    """Number of these states; fewer if they are larger than 1 GiB."""

    def validate(self) -> None:
        """Raise an `InputError` for the first invalid setting."""
        super().validate()
        require_whole(self, 1, MOST_STEPS, "meta_steps")
        require_whole(self, 1, 10_000, "base_steps")
        require_number(self, 1e6, "meta_learning_rate")
        require_choice(self, "meta_batch", "validation", "training")
        require_choice(self, "meta_start", "auto", "fresh", "training")
        require_whole(self, 1, 10_000, "meta_snapshots")


@dataclass(frozen=True)
class FilterSettings(TrainingSettings):
    """Settings of the rejection protocol and of gradient equivalence."""

    rejection_batch: int = 100
    """Training rows for the rejection protocol and gradient equivalence (B)."""

    rejection_steps: int | None = None
    """Steps of the rejection protocol; default the task's number (100 or 1000)."""

    match_scale: bool = False
    """Scale every loss after its weights are tuned, so that its gradient at untrained outputs is as
    large as that of the task loss; under SGD a scale is a learning rate. The paper scales none."""

    def validate(self) -> None:
        """Raise an `InputError` for the first invalid setting."""
        super().validate()
        require_whole(self, 1, MOST_STEPS, "rejection_batch", "rejection_steps")
        require_choice(self, "match_scale", True, False)


@dataclass(frozen=True)
class EvaluationSettings(TuningSettings, FilterSettings):
    """Settings of the whole pipeline: tune weights, reject hopeless losses, train the others."""

    prescreen: bool = False
    """Also apply the rejection protocol before the weights are optimised, which saves most of the
    time spent on hopeless losses; the paper applies it only afterwards."""

    def validate(self) -> None:
        """Raise an `InputError` for the first invalid setting."""
        super().validate()
        require_choice(self, "prescreen", True, False)


def take_plain_numbers(settings: Any) -> None:
    """Convert NumPy and torch numbers in a new dataclass to Python numbers, for JSON."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if getattr(value, "shape", None) == ():
            object.__setattr__(settings, field.name, value.item())


def require_whole(settings: object, least: int, most: int, *names: str) -> None:
    """Raise an `InputError` for the first of these settings that is not an integer in the range.

    None passes if it is the default.
    """
    for name in names:
        value = getattr(settings, name)
        if not _is_default_none(settings, name) and not (
            type(value) is int and least <= value <= most
        ):
            raise InputError(
                f"The setting {name} must be a whole number from {least} to {most}, got "
                f"{quoted(value)}."
            )


def require_number(settings: object, most: float, *names: str, zero: bool = False) -> None:
    """Raise an `InputError` for the first of these settings that is not above 0 and in the range.

    None passes if it is the default, and 0 with `zero`.
    """
    for name in names:
        value = getattr(settings, name)
        if not _is_default_none(settings, name) and not (
            type(value) in (int, float) and 0 <= value <= most and (zero or value > 0)
        ):
            least = "from 0" if zero else "above 0 and up"
            raise InputError(
                f"The setting {name} must be a number {least} to {most:g}, got {quoted(value)}."
            )


def require_choice(settings: object, name: str, *choices: object) -> None:
    """Raise an `InputError` if a setting is not one of these values."""
    value = getattr(settings, name)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        *others, last = map(str, choices)
        raise InputError(
            f"The setting {name} must be {', '.join(others)} or {last}, got {quoted(value)}."
        )


def _is_default_none(settings: object, name: str) -> bool:
    return getattr(settings, name) is None and getattr(type(settings), name) is None
