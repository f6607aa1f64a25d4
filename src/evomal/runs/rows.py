"""Rows of a run's tables as validated, typed values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from evomal.errors import InputError
from evomal.losses.files import loss_from_dict, loss_is_finite
from evomal.losses.meta import MetaLoss
from evomal.methods.base import STATUSES, Candidate, Generation, Identity, Outcome, Status
from evomal.methods.stored import from_json, require, typed
from evomal.training.halving import LearningCurve
from evomal.training.stages import StageSeconds

_INHERITED = ("duplicate", "equivalent")
_UNTRAINED = ("rejected", "diverged", "failed")


def outcome_of(
    identity: Identity,
    number: object,
    generation: object,
    proposed: object,
    status: object,
    fitness: object,
    loss: object,
    source: object,
    correlation: object,
    gradient_key: object,
    seconds: object,
    reason: object,
    curves: object,
    halted: object,
) -> Outcome:
    """A row of the table of candidates; `identity` is the method's function.

    Raises
    ------
    InputError
        If a value is of the wrong type, out of range or inconsistent; the message is not a full
        sentence.
    """
    own_number = _count(number, "the number of a candidate")
    what = f"candidate {own_number}"
    before = _loss(proposed, f"the proposed loss of {what}")
    stored_fitness = typed(float | None, fitness, f"the fitness of {what}")
    outcome = Outcome(
        Candidate(
            own_number,
            _count(generation, f"the generation of {what}"),
            before,
            identity(before, own_number),
        ),
        typed(Status, status, f"the status of {what}"),
        math.inf if stored_fitness is None else stored_fitness,
        _loss(loss, f"the loss of {what}"),
        typed(int | None, source, f"the source of {what}"),
        _correlation(correlation, f"the correlation of {what}"),
        typed(str | None, gradient_key, f"the gradient key of {what}"),
        _seconds(from_json(seconds, f"the times of {what}"), f"the times of {what}"),
        typed(str | None, reason, f"the reason of {what}"),
        _curves(curves, f"the curves of {what}"),
        _flag(halted, f"whether {what} was halted"),
    )
    _require_sense(outcome, what)
    return outcome


def generation_of(
    number: object, best: object, mean: object, counts: object, seconds: object
) -> Generation:
    """A row of the table of generations.

    Raises
    ------
    InputError
        As in `outcome_of`.
    """
    what = f"generation {_count(number, 'the number of a generation')}"
    by_status: Mapping[Status, int] = typed(
        Mapping[str, int], from_json(counts, f"the counts of {what}"), f"the counts of {what}"
    )
    require(
        set(by_status) == set(STATUSES) and min(by_status.values()) >= 0,
        f"the counts of {what} are not one number for every outcome",
    )
    return Generation(
        _count(number, what),
        typed(float | None, best, f"the best fitness of {what}"),
        typed(float | None, mean, f"the mean fitness of {what}"),
        by_status,
        _not_below_0(seconds, f"the time of {what}"),
    )


def checkpoint_row(numbers: Sequence[int], states: bytes) -> tuple[str, bytes, str]:
    """A row of the table of checkpoints: candidates, states, and a digest of both."""
    candidates = ",".join(map(str, numbers))
    return candidates, states, hashlib.sha256(candidates.encode() + b":" + states).hexdigest()


def intact_checkpoints(rows: Iterable[tuple[object, ...]]) -> dict[tuple[int, ...], bytes]:
    """The states by the numbers of their candidates; without those that are damaged.

    They only save time, so that a run goes on without them to the same end.
    """
    found = {}
    for row in rows:
        candidates, states, _ = row
        if not (isinstance(candidates, str) and isinstance(states, bytes)):
            continue
        numbers = tuple(int(text) for text in candidates.split(",") if text.isdecimal())
        if checkpoint_row(numbers, states) == row:
            found[numbers] = states
    return found


def _require_sense(outcome: Outcome, what: str) -> None:
    """Check an outcome independently of the others."""
    status, source = outcome.status, outcome.source
    require(
        (source is not None) == (status in _INHERITED),
        f"{what} is {status}, which does not match its source",
    )
    require(
        source is None or 0 <= source < outcome.candidate.number,
        f"{what} has its fitness from candidate {source}, which is not an earlier one",
    )
    finite = math.isfinite(outcome.fitness)
    require(
        finite or status not in ("evaluated", "halted"),
        f"{what} is {status}, but has no fitness",
    )
    require(not (finite and status in _UNTRAINED), f"{what} is {status}, but has a fitness")
    require(
        (status == "halted") <= outcome.halted and not (status == "evaluated" and outcome.halted),
        f"{what} is {status}, which does not match its halted training",
    )
    require(
        (outcome.loss is None) == (outcome.candidate.loss is None),
        f"{what} has a proposed or a final loss, but not both",
    )


def _count(value: object, what: str) -> int:
    number: int = typed(int, value, what)
    require(number >= 0, f"{what} is {number}")
    return number


def _not_below_0(value: object, what: str) -> float:
    number: float = typed(float, value, what)
    require(number >= 0, f"{what} is {number}")
    return number


def _correlation(value: object, what: str) -> float | None:
    """The correlation; it can be infinite, as a difference of two large numbers."""
    if isinstance(value, float) and math.isinf(value):
        return value
    number: float | None = typed(float | None, value, what)
    return number


def _seconds(value: object, what: str) -> StageSeconds:
    seconds: StageSeconds = typed(StageSeconds, value, what)
    for part in vars(seconds).values():
        require(part is None or part >= 0, f"{what} hold {part}")
    return seconds


def _flag(value: object, what: str) -> bool:
    number: int = typed(int, value, what)  # SQLite has no bool
    require(number in (0, 1), f"{what} is {number}, not 0 or 1")
    return bool(number)


def _curves(text: object, what: str) -> tuple[LearningCurve, ...]:
    infinity = Literal["Infinity"]
    curves = typed(tuple[tuple[float | infinity, ...], ...], from_json(text, what), what)
    require(all(curves), f"{what} have one without values")
    return tuple(tuple(map(float, curve)) for curve in curves)


def _loss(text: object, what: str) -> MetaLoss | None:
    if text is None:
        return None
    fields = dict(typed(Mapping[str, Any], from_json(text, what), what))
    try:
        loss = loss_from_dict(fields)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{what} is damaged: {error or type(error).__name__}") from error
    if not isinstance(loss, MetaLoss):
        raise InputError(f"{what} is a {type(loss).__name__}, which no search proposes")
    require(loss_is_finite(loss), f"{what} has a weight that is not finite")
    return loss
