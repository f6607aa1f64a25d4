"""The stages of a candidate, as named in reasons and messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from evomal.training.numerics import DivergedError

WEIGHTS = "optimising its weights"
REJECTION = "the rejection protocol"
EQUIVALENCE = "gradient equivalence"
TRAINING = "its training"

_NOTE = "in the stage: "


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
