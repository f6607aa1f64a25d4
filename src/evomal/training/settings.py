"""How one candidate is optimised, filtered and evaluated."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from evomal.errors import InputError, quoted

Precision = Literal["full", "tf32", "bfloat16"]  # as in `evomal.tasks`, which needs torch

MOST_STEPS = 10_000_000
"""Of any training: weeks, even for a small model."""

MOST_LOSSES = 100_000
"""In a generation or a group: all of them are held in memory."""

MOST_THREADS = 1_000_000
"""Of one candidate, on any machine; a local search takes no more than there are cores."""


@dataclass(frozen=True)
class Pipeline:
    """Which stages a candidate of a method goes through before its partial training."""

    tune: bool
    """Algorithm 1 on its weights."""

    reject: bool
    """The rejection protocol."""

    match_gradients: bool
    """Gradient equivalence."""


@dataclass(frozen=True)
class TrainingSettings:
    """How the training of base learners is computed; the defaults are the paper's."""

    testing_steps: int = 500
    """Training steps that decide the fitness (S_testing)."""

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

    threads: int = 1
    """CPU threads per candidate; another number changes the last bits of a result."""

    def __post_init__(self) -> None:
        take_plain_numbers(self)

    def validate(self) -> None:
        """Raise an `InputError` for the first setting that makes no sense."""
        require_whole(self, 1, MOST_STEPS, "testing_steps")
        require_choice(self, "engine", "auto", "loop", "batched", "stacked")
        require_whole(self, 1, MOST_LOSSES, "group_size")
        require_choice(self, "precision", *get_args(Precision))
        require_whole(self, 1, MOST_THREADS, "threads")


@dataclass(frozen=True)
class TuningSettings(TrainingSettings):
    """Constants of Algorithm 1, which tunes the weights of a loss."""

    meta_steps: int = 250
    """Steps of Adam on a loss's weights (S_meta)."""

    base_steps: int = 1
    """Training steps that are differentiated through at each of them (S_base)."""

    meta_learning_rate: float = 1e-3
    """Learning rate of Adam on the weights (eta)."""

    meta_batch: Literal["validation", "training"] = "validation"
    """Where the batch comes from on which the task loss judges an updated base learner."""

    def validate(self) -> None:
        """Raise an `InputError` for the first setting that makes no sense."""
        super().validate()
        require_whole(self, 1, MOST_STEPS, "meta_steps")
        require_whole(self, 1, 10_000, "base_steps")
        require_number(self, 1e6, "meta_learning_rate")
        require_choice(self, "meta_batch", "validation", "training")


@dataclass(frozen=True)
class FilterSettings(TrainingSettings):
    """Constants of the rejection protocol and of gradient equivalence."""

    rejection_batch: int = 100
    """Training instances of the rejection protocol and of gradient equivalence (B)."""

    rejection_steps: int | None = None
    """Steps of the rejection protocol; None stands for the task's own number (100 or
    1000)."""

    def validate(self) -> None:
        """Raise an `InputError` for the first setting that makes no sense."""
        super().validate()
        require_whole(self, 1, MOST_STEPS, "rejection_batch", "rejection_steps")


@dataclass(frozen=True)
class EvaluationSettings(TuningSettings, FilterSettings):
    """Of the whole pipeline: weights are tuned, hopeless losses rejected, the others trained."""

    prescreen: bool = False
    """Also apply the rejection protocol before the weights are optimised, which saves most of the
    time on hopeless losses; the paper applies it only after."""

    def validate(self) -> None:
        """Raise an `InputError` for the first setting that makes no sense."""
        super().validate()
        require_choice(self, "prescreen", True, False)


def take_plain_numbers(settings: Any) -> None:
    """Replace numbers of NumPy and torch in a new dataclass by Python's, which JSON can hold."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if getattr(value, "shape", None) == ():
            object.__setattr__(settings, field.name, value.item())


def require_whole(settings: object, least: int, most: int, *names: str) -> None:
    """Raise an `InputError` for the first of these settings that is no whole number in a range.

    None passes where it is the default.
    """
    for name in names:
        value = getattr(settings, name)
        if not _is_default_none(settings, name) and not (
            type(value) is int and least <= value <= most
        ):
            raise InputError(
                f"The setting {name} must be a whole number from {least} to {most}, but is "
                f"{quoted(value)}."
            )


def require_number(settings: object, most: float, *names: str, zero: bool = False) -> None:
    """Raise an `InputError` for the first of these settings that is no number above 0 in a range.

    None passes where it is the default, and 0 with `zero`.
    """
    for name in names:
        value = getattr(settings, name)
        if not _is_default_none(settings, name) and not (
            type(value) in (int, float) and 0 <= value <= most and (zero or value > 0)
        ):
            least = "from 0" if zero else "above 0 and up"
            raise InputError(
                f"The setting {name} must be a number {least} to {most:g}, but is {quoted(value)}."
            )


def require_choice(settings: object, name: str, *choices: object) -> None:
    """Raise an `InputError` if a setting is not one of these values."""
    value = getattr(settings, name)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        *others, last = map(str, choices)
        raise InputError(
            f"The setting {name} must be {', '.join(others)} or {last}, but is {quoted(value)}."
        )


def _is_default_none(settings: object, name: str) -> bool:
    return getattr(settings, name) is None and getattr(type(settings), name) is None
