"""A stored run: finished, interrupted or still running."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from evomal.errors import InputError
from evomal.expressions.printing import PrintedForm, PrintRequest, prefix_form, printed_forms
from evomal.expressions.sympy_process import TIME_LIMIT
from evomal.losses.files import loss_from_dict
from evomal.losses.meta import MetaLoss
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import STATUSES, TRAINED, Archive, Candidate, Generation, Outcome
from evomal.runs.confirmation import Confirmation
from evomal.runs.contenders import contender_name
from evomal.runs.diagnosis import diagnosis
from evomal.runs.directory import is_in_use
from evomal.runs.next_steps import to_check
from evomal.runs.record import RunFacts, read_record
from evomal.runs.scale import Scale
from evomal.runs.store import RunStore, reading
from evomal.training.settings import FilterSettings
from evomal.training.stages import StageSeconds

_SYMPY_STARTS = 1.0  # minimum seconds for the first answer


@dataclass(frozen=True)
class BestLoss:
    """A loss of the hall of fame.

    Attributes
    ----------
    loss
        The module itself: ``loss(pred, target)``.
    fitness
        Metric on validation data after partial training, negated if it is maximised; lower is
        better.
    value
        The same in the direction of the metric.
    description
        The description from `Loss.describe`.
    """

    loss: MetaLoss
    fitness: float
    value: float
    description: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Number of nodes, or of weights if there is no expression."""
        return self.loss.size

    @property
    def expression(self) -> str | None:
        """Prefix form without weights; None for a loss without an expression."""
        return self.description.get("expression")

    @property
    def formula(self) -> str | None:
        """Infix form with weights, simplified; None for a loss without a formula."""
        return self.description.get("formula")

    @property
    def latex(self) -> str | None:
        """LaTeX of the formula."""
        return self.description.get("latex")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self.description, "fitness": self.fitness, "value": self.value}


class Run:
    """A read-only snapshot of a run directory.

    Attributes
    ----------
    facts
        The facts of the run.
    outcomes
        Outcomes of all finished candidates, ordered by number.
    generations
        Every finished generation.
    archive
        All outcomes, with the best one for every size.
    failures
        The outcomes of candidates that failed.
    seconds
        Wall-clock time of all candidates, by stage.
    formula_seconds
        Time limit for all formulas that are not stored; None for no limit. Formulas that are not
        ready by then are printed in prefix form.

    Raises
    ------
    InputError
        If the directory has no readable run.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.run_dir = Path(run_dir)
        with contextlib.closing(RunStore.open(self.run_dir)) as store, reading(self.run_dir):
            record = read_record(store)
            abandoned = record.facts.status == "running" and not is_in_use(self.run_dir)
            if abandoned:
                record = read_record(store)  # the run may have just ended
        self.facts: RunFacts = record.facts
        if abandoned and self.facts.status == "running":
            self.facts = replace(self.facts, status="killed")
        self.outcomes: Sequence[Outcome] = record.outcomes
        self.generations: Sequence[Generation] = record.generations
        self.archive = Archive()
        self.failures: list[Outcome] = []
        self.seconds = StageSeconds()
        for outcome in record.outcomes:
            self.archive.add(outcome)
            if outcome.status == "failed":
                self.failures.append(outcome)
            self.seconds += outcome.seconds
        self.formula_seconds: float | None = None
        self._printed_forms = record.printed_forms

    @cached_property
    def hall_of_fame(self) -> list[BestLoss]:
        """The best loss for each number of nodes, fewest nodes first."""
        fame = sorted(self.archive.hall_of_fame.items())
        outcomes = [outcome for _, outcome in fame]
        return describe(outcomes, self._printed_forms, self.facts.scale, self.formula_seconds)

    @property
    def best(self) -> BestLoss:
        """The best loss of the run.

        Raises
        ------
        InputError
            If no candidate passed the filters, or the method learns no loss.
        """
        best = self._best
        if best is None:
            raise InputError(
                f"The run in {str(self.run_dir)!r} has no learned loss. {self.diagnosis}"
            )
        return best

    @property
    def diagnosis(self) -> str | None:
        """Why there is no learned loss, and what to change; None if there is one."""
        if self.archive.best is not None and self.archive.best.loss is not None:
            return None
        facts = self.facts
        if facts.method == "baseline":
            return "The baseline is the task loss itself; it learns nothing."
        settings = facts.settings
        optimizer = facts.tasks[0].description["optimizer"]
        return diagnosis(
            self.archive.counts,
            [outcome.reason for outcome in self.outcomes if outcome.reason],
            [outcome.reason for outcome in self.failures if outcome.reason],
            task_loss_diverges=facts.has_own_fitness and facts.task_loss_fitness is None,
            task_loss_reason=facts.task_loss_reason or "",
            learned=self.learned,
            learning_rate=optimizer["learning_rate"],
            check=to_check(facts.tasks),
            rejection_batch=settings.rejection_batch if isinstance(settings, FilterSettings) else 0,
        )

    @property
    def distinct(self) -> float | None:
        """Mean number of new losses that were trained in a finished generation."""
        counts = [sum(one.counts[status] for status in TRAINED) for one in self.generations]
        return fmean(counts) if counts else None

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks that the loss was learned on."""
        return [task.name for task in self.facts.tasks]

    @property
    def task_loss_fitness(self) -> float | None:
        """The fitness of the task loss itself; None if it diverges or is not known yet."""
        return self.facts.task_loss_fitness

    @property
    def beats_task_loss(self) -> bool | None:
        """Whether the best loss is better than the task loss; None if one has no score.

        By the verdict, if there is one; otherwise by the fitness of one training each.
        """
        found = self.facts.confirmation
        if found is not None:
            return found.verdict is not None and found.verdict.better
        best, own = self.archive.best, self.task_loss_fitness
        return None if best is None or best.loss is None or own is None else best.fitness < own

    @property
    def learned(self) -> bool | None:
        """Whether the best loss or the task loss beats constant predictions; None if unknown."""
        best = self.archive.best
        known = [self.task_loss_fitness, None if best is None else best.fitness]
        fitnesses = [fitness for fitness in known if fitness is not None]
        bar = self.facts.constant_fitness
        return min(fitnesses) < bar if fitnesses and bar is not None else None

    @property
    def verdict(self) -> str | None:
        """Whether the best loss is better than the tuned task loss, in words; None if unknown.

        The confirmation of the search found it (`evomal.methods.SearchSettings.confirm`).
        """
        found = self.facts.confirmation
        return None if found is None else found.sentence(self.facts.scale)

    @property
    def _best(self) -> BestLoss | None:
        best = [self.archive.best] if self.archive.best else []
        found = self.facts.confirmation
        if found is not None and found.winner is not None:
            best = [self._confirmed(found)]
        scale, seconds = self.facts.scale, self.formula_seconds
        return next(iter(describe(best, self._printed_forms, scale, seconds)), None)

    def _confirmed(self, found: Confirmation) -> Outcome:
        """The outcome of the winner; a known loss has its mean in the confirmation as fitness."""
        assert found.winner is not None
        for outcome in self.archive.hall_of_fame.values():
            if found.winner == contender_name(outcome):
                return outcome
        loss = loss_from_dict(dict(found.loss or {}))
        mean = found.entry(found.winner).mean
        assert isinstance(loss, MetaLoss)
        assert mean is not None
        return Outcome(Candidate(-1, -1, loss, found.winner), "evaluated", mean, loss)

    def summary(self) -> dict[str, Any]:
        """Everything about the run as JSON values; times and dates only under ``timing``."""
        best = self._best
        facts, found = self.facts, self.facts.confirmation
        return {
            "best": None if best is None else best.to_dict(),
            "diagnosis": self.diagnosis,
            "task_loss_fitness": self.task_loss_fitness,
            "task_loss_value": facts.scale.value(self.task_loss_fitness),
            "constant_fitness": facts.constant_fitness,
            "beats_task_loss": self.beats_task_loss,
            "verdict": None if found is None else found.to_dict(facts.scale),
            "confirmation": None if found is None else found.entries_in(facts.scale),
            "recipes": [asdict(recipe) for recipe in facts.recipes],
            "hall_of_fame": [entry.to_dict() for entry in self.hall_of_fame],
            "distinct": self.distinct,
            "outcomes": {status: self.archive.counts[status] for status in STATUSES},
            "failures": [
                {"number": outcome.candidate.number, "reason": outcome.reason}
                for outcome in self.failures
            ],
            "generations": [
                {"best": generation.best, "mean": generation.mean, **generation.counts}
                for generation in self.generations
            ],
            **facts.named,
            "settings": json.loads(json.dumps(asdict(facts.settings))),
            "engine_reason": facts.engine_reason,
            "status": facts.status,
            "stop_reason": facts.stop_reason,
            "device": facts.device,
            "versions": dict(facts.versions),
            "run_dir": str(self.run_dir),
            "timing": {
                "started": facts.started,
                "seconds": facts.seconds,
                "stages": asdict(self.seconds),
                "generations": [generation.seconds for generation in self.generations],
            },
        }


def print_key(request: PrintRequest) -> str:
    """The key of a stored printed form."""
    weights = None if request.weights is None else list(request.weights)
    return json.dumps([str(request.expression), weights, request.probabilities])


def describe(
    outcomes: Sequence[Outcome],
    known: dict[str, PrintedForm],
    scale: Scale,
    seconds: float | None = None,
) -> list[BestLoss]:
    """Outcomes with their printed forms; missing ones are computed by sympy and added to `known`.

    `seconds` limits sympy's total time; losses that exceed it are in prefix form, and not added.
    """
    losses = [o.loss for o in outcomes if isinstance(o.loss, SymbolicLoss)]
    requests = {print_key(loss.print_request): loss.print_request for loss in losses}
    missing = {key: request for key, request in requests.items() if key not in known}
    limit = TIME_LIMIT if seconds is None else min(TIME_LIMIT, seconds / max(len(missing), 1))
    forms = dict(known)
    if limit < _SYMPY_STARTS:
        forms |= {key: prefix_form(request) for key, request in missing.items()}
    else:
        found = dict(zip(missing, printed_forms(list(missing.values()), limit), strict=True))
        forms |= found
        known |= {
            key: form
            for key, form in found.items()
            if seconds is None or form != prefix_form(missing[key])
        }
    described = []
    for outcome in outcomes:
        loss = outcome.loss
        if isinstance(loss, SymbolicLoss):
            description = loss.describe(forms[print_key(loss.print_request)])
        elif loss is not None:
            description = loss.describe()
        else:
            continue
        value = scale.value(outcome.fitness)
        described.append(BestLoss(loss, outcome.fitness, value, description))
    return described
