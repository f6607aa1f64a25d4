"""The reader of `run.sqlite`: stored runs as validated, typed records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import torch

from evomal.errors import InputError, quoted
from evomal.expressions.printing import PrintedForm
from evomal.losses.form import Form, class_weights, require_input_name
from evomal.methods.base import Generation, Method, Outcome
from evomal.methods.registry import METHODS
from evomal.methods.settings import SearchSettings
from evomal.methods.stored import require, typed
from evomal.runs.confirmation import Confirmation, longest_training
from evomal.runs.recipe import Recipe
from evomal.runs.scale import Scale
from evomal.runs.store import RunStore
from evomal.runs.task_facts import TaskFacts, read_task
from evomal.training.halving import rungs

Status = Literal["running", "finished", "stopped", "interrupted", "failed", "killed"]
"""*killed* is never stored; it means that the status is running, but no process runs."""

_VERSIONS = "evomal", "torch", "python", "torch settings"


@dataclass(frozen=True)
class RunFacts:
    """The facts recorded by a run.

    Attributes
    ----------
    tasks, scale, method, settings, form, seed, device, versions
        The inputs of the run; the scale has the metrics.
    started
        Start time in ISO format.
    engine_reason
        The reason for the engine in the settings.
    constant_fitness
        The fitness of predictions that ignore the inputs; None if unknown.
    status, stop_reason, seconds
        The status, and the duration so far; no seconds before the first stop.
    has_own_fitness, task_loss_fitness, task_loss_reason
        Whether the fitness of the task loss itself is known; its value, None if it diverges; and
        the reason.
    known_losses
        Names of the known losses that the leading ones are confirmed beside.
    recipes
        The tuned recipe of every task; empty without.
    confirmation
        What the leading losses were confirmed to be; None without.
    """

    tasks: Sequence[TaskFacts]
    scale: Scale
    method: str
    settings: SearchSettings
    engine_reason: str
    form: Form
    seed: int
    device: str
    versions: Mapping[str, str]
    started: str
    constant_fitness: float | None
    status: Status
    stop_reason: str | None
    seconds: float | None
    has_own_fitness: bool
    task_loss_fitness: float | None
    task_loss_reason: str | None
    known_losses: Sequence[str] = ()
    recipes: Sequence[Recipe] = ()
    confirmation: Confirmation | None = None

    @property
    def rates(self) -> tuple[float, ...]:
        """Factors of the tasks' learning rates in the search; empty for their own."""
        return tuple(recipe.factor for recipe in self.recipes)

    @property
    def confirmation_steps(self) -> int:
        """Most steps of a training of the confirmation."""
        return longest_training(self.settings, [task.testing_steps for task in self.tasks])

    @property
    def named(self) -> dict[str, Any]:
        """The inputs of the run as JSON values; equal values are merged into one."""
        return {
            "task": common([task.name for task in self.tasks]),
            "split": common([task.split for task in self.tasks]),
            "metric": common(self.scale.metrics),
            "direction": self.scale.direction,
            "method": self.method,
            "seed": self.seed,
        }

    def new_method(self) -> Method:
        """The method in its initial state."""
        return METHODS[self.method](self.settings, self.form, self.seed)


@dataclass(frozen=True)
class RunRecord:
    """A stored run.

    Attributes
    ----------
    facts
        The facts of the run.
    generations
        Every finished generation.
    outcomes
        Every finished candidate.
    printed_forms
        The stored formulas.
    """

    facts: RunFacts
    generations: Sequence[Generation]
    outcomes: Sequence[Outcome]
    printed_forms: dict[str, PrintedForm]


def read_facts(stored: Mapping[str, Any]) -> RunFacts:
    """The facts of a run.

    Raises
    ------
    InputError
        If one is missing, of the wrong type, or invalid; the message is not a full sentence.
    """

    def fact(kind: Any, name: str) -> Any:
        require(name in stored, f"the fact {name!r} is missing")
        return typed(kind, stored[name], f"the fact {name!r}")

    def optional(kind: Any, name: str, default: Any) -> Any:
        return fact(kind, name) if name in stored else default

    form = _checked_form(fact(Form, "form"))
    method = fact(str, "method")
    require(method in METHODS, f"the method {quoted(method)} is unknown")
    kind = METHODS[method].settings_type
    settings: SearchSettings = typed(kind, fact(Any, "settings"), "the settings")
    settings.validate(form.inputs)
    require(settings.engine != "auto", "the engine is 'auto' instead of the chosen one")
    require(settings.testing_steps is not None, "the number of testing steps is not decided")
    tasks = [read_task(task, form) for task in fact(tuple[Mapping[str, Any], ...], "tasks")]
    require(bool(tasks), "the run has no task")
    names = [task.name for task in tasks]
    require(len(set(names)) == len(names), "two tasks have the same name")
    for name, values in {"task": names, "split": [task.split for task in tasks]}.items():
        expected = common(values)
        require(fact(Any, name) == expected, f"the fact {name!r} is not {quoted(expected)}")
    metrics = fact(str | tuple[str, ...], "metric")
    metrics = (metrics,) * len(tasks) if isinstance(metrics, str) else metrics
    require(len(metrics) == len(tasks), "the numbers of metrics and tasks differ")
    seconds = optional(float | None, "seconds", None)
    require(seconds is None or seconds >= 0, f"the fact 'seconds' is {seconds}")
    versions = fact(Mapping[str, str], "versions")
    absent = next((name for name in _VERSIONS if name not in versions), None)
    require(absent is None, f"the version of {absent} is missing")
    _require_device(fact(str, "device"))
    _require_time(fact(str, "started"))
    return RunFacts(
        tasks,
        Scale(metrics, [task.description["direction"] for task in tasks]),
        method,
        settings,
        fact(str, "engine_reason"),
        form,
        fact(int, "seed"),
        fact(str, "device"),
        versions,
        fact(str, "started"),
        optional(float | None, "constant_fitness", None),
        fact(Status, "status"),
        optional(str | None, "stop_reason", None),
        seconds,
        "task_loss_fitness" in stored,
        optional(float | None, "task_loss_fitness", None),
        optional(str | None, "task_loss_reason", None),
        optional(tuple[str, ...], "known_losses", ()),
        optional(tuple[Recipe, ...], "recipes", ()),
        optional(Confirmation | None, "confirmation", None),
    )


def read_record(store: RunStore) -> RunRecord:
    """Read a run, except the state of its method.

    Raises
    ------
    InputError
        As in `read_facts`; also if a candidate or generation is damaged or inconsistent.
    """
    with store.snapshot():
        facts = read_facts(store.facts())
        generations, outcomes = store.generations(), store.outcomes(METHODS[facts.method].identity)
        printed_forms = store.printed_forms()
    _require_whole(facts, generations, outcomes)
    _require_sources(outcomes)
    _require_curves(facts, outcomes)
    return RunRecord(facts, generations, outcomes, printed_forms)


def require_continuable(record: RunRecord, state: Mapping[str, Any] | None) -> int:
    """Check that the method can continue from its state after the last finished generation.

    Returns
    -------
    int
        The number of the first candidate that was asked for together with the last one.

    Raises
    ------
    InputError
        If the state is damaged or inconsistent with the outcomes, or the candidates of the current
        generation are not those proposed by the method.
    """
    method, outcomes = record.facts.new_method(), record.outcomes
    if state is not None:
        method.load_state_dict(state)
    before = sum(outcome.candidate.generation < method.generation for outcome in outcomes)
    last = max((outcome.candidate.generation for outcome in outcomes), default=0)
    require(
        method.state_dict()["candidates"] == before
        and len(record.generations) == method.generation >= last,
        "the state of the method is inconsistent with the finished candidates",
    )
    for outcome in outcomes:
        method.archive.add(outcome)
    done = {outcome.candidate.number: outcome for outcome in outcomes[before:]}
    asked = [] if method.finished else method.ask()
    told: list[Outcome] = []
    first = before
    while asked:
        first = asked[0].number
        known = [(one, done.pop(one.number)) for one in asked if one.number in done]
        for candidate, outcome in known:
            require(
                outcome.candidate.identity == candidate.identity, _not_proposed(candidate.number)
            )
            told.append(outcome)
        asked = method.ask_more(told) if done and len(known) == len(asked) else []
    require(not done, _not_proposed(min(done, default=0)))
    return first


def _not_proposed(number: int) -> str:
    return f"candidate {number} is not the one that this evomal would propose"


def common(values: Sequence[str]) -> str | list[str]:
    """The common value, or all values."""
    return values[0] if len(set(values)) == 1 else list(values)


def _checked_form(form: Form) -> Form:
    for name in form.inputs:
        require_input_name(name)
    if form.weight is not None:
        class_weights(form.weight, form.link)
    return form


def _require_device(name: str) -> None:
    try:
        torch.device(name)
    except RuntimeError as error:
        raise InputError(f"the device {quoted(name)} is unknown") from error


def _require_time(text: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"the fact 'started' is {quoted(text)}, not a time") from error


def _require_whole(
    facts: RunFacts, generations: Sequence[Generation], outcomes: Sequence[Outcome]
) -> None:
    """Check that all finished generations and their candidates are present."""
    wanted, done = facts.new_method().generations, len(generations)
    numbers = [generation.number for generation in generations]
    require(numbers == list(range(done)), "a generation is missing")
    require(
        done <= wanted and (facts.status != "finished" or done == wanted),
        f"the run is {facts.status} with {done} of {wanted} generations",
    )
    of = [outcome.candidate.generation for outcome in outcomes]
    require(
        of == sorted(of) and max(of, default=0) <= done, "a candidate is in the wrong generation"
    )
    before = sum(generation < done for generation in of)
    first = [outcome.candidate.number for outcome in outcomes[:before]]
    require(first == list(range(before)), "a candidate of a finished generation is missing")
    counted: dict[int, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        counted[outcome.candidate.generation][outcome.status] += 1
    for generation in generations:
        require(
            counted[generation.number]
            == {status: n for status, n in generation.counts.items() if n},
            f"the counts of generation {generation.number} do not match its candidates",
        )


def _require_sources(outcomes: Sequence[Outcome]) -> None:
    by_number = {outcome.candidate.number: outcome for outcome in outcomes}
    for outcome in (outcome for outcome in outcomes if outcome.source is not None):
        source = by_number.get(outcome.source)  # type: ignore[arg-type]
        require(
            source is not None
            and (source.fitness, source.halted) == (outcome.fitness, outcome.halted),
            f"candidate {outcome.candidate.number} does not have the fitness of its source",
        )


def _require_curves(facts: RunFacts, outcomes: Sequence[Outcome]) -> None:
    """With halving, trained candidates have a curve for every task; without it, none."""
    most = len(rungs(facts.settings.fitness_steps)) + 1
    for outcome in outcomes:
        trained = facts.settings.halving and outcome.status in ("evaluated", "halted")
        require(
            len(outcome.curves) == (len(facts.tasks) if trained else 0)
            and all(len(curve) <= most for curve in outcome.curves),
            f"the curves of candidate {outcome.candidate.number} do not match the settings",
        )
