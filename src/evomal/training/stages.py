"""The stages of a candidate, as named in reasons and messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported with a run, so that help on a method is quick
    from evomal.training.numerics import DivergedError

WEIGHTS = "optimising its weights"
SCALE = "matching its scale"
REJECTION = "the rejection protocol"
EQUIVALENCE = "gradient equivalence"
TRAINING = "its training"

_NOTE = "in the stage: "


@dataclass(frozen=True)
class StageSeconds:
    """Wall-clock time that a candidate took; None for a stage that it did not go through.

    Attributes
    ----------
    tuning
        Algorithm 1.
    filters
        Matching its scale, the rejection protocol and gradient equivalence.
    training
        Partial training, on all tasks.
    """

    tuning: float | None = None
    filters: float | None = None
    training: float | None = None

    @property
    def total(self) -> float:
        """Of all stages."""
        return sum(part for part in (self.tuning, self.filters, self.training) if part is not None)

    def __add__(self, other: StageSeconds) -> StageSeconds:
        """The sum by stage."""
        total = {}
        for field in fields(self):
            parts = [getattr(self, field.name), getattr(other, field.name)]
            known = [part for part in parts if part is not None]
            total[field.name] = sum(known) if known else None
        return StageSeconds(**total)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Attach the stage to errors raised in the block, for `stage_of`."""
    try:
        yield
    except Exception as error:
        error.add_note(_NOTE + name)
        raise


def stage_of(error: BaseException) -> str | None:
    """The stage in which an error was raised, if known."""
    notes: list[str] = getattr(error, "__notes__", [])
    found = (note.removeprefix(_NOTE) for note in notes if note.startswith(_NOTE))
    return next(found, None)


def diverged(name: str, error: DivergedError | None = None) -> str:
    """The reason to record for a candidate that diverged in a stage."""
    return f"{name} diverged" if error is None else f"{name} diverged: {error}"
