"""The losses that a search confirms: its leaders, and the known ones."""

from __future__ import annotations

from evomal.losses.names import resolve_loss
from evomal.methods.base import Archive, Outcome
from evomal.runs.record import RunFacts
from evomal.runs.retrainings import Contender


def contender_name(outcome: Outcome) -> str:
    """What a candidate is called in the confirmation."""
    return f"candidate {outcome.candidate.number}"


def leading(archive: Archive, facts: RunFacts) -> list[Contender]:
    """The best losses of the hall of fame, then known ones that are not among them.

    The hall of fame has one loss for each size, so that the leaders are not all alike. Empty if
    nothing is to be confirmed, or the search has no loss.
    """
    fame = sorted(archive.hall_of_fame.values(), key=lambda outcome: outcome.rank)
    learned = [
        Contender(contender_name(outcome), outcome.loss)
        for outcome in fame[: facts.settings.confirm]
        if outcome.loss is not None
    ]
    if not learned:
        return []
    return learned + [
        Contender(name, resolve_loss(name, facts.form)) for name in facts.known_losses
    ]
