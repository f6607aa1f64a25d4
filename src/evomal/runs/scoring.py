"""Score given losses as a search scores its candidates, without a search."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, Self

from evomal.errors import InputError, quoted, require_name
from evomal.expressions.expression import Expression
from evomal.losses.base import Loss
from evomal.losses.files import file_fields
from evomal.losses.form import Form
from evomal.losses.meta import MetaLoss
from evomal.losses.names import resolve_loss
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import Archive, Candidate, Outcome, Status, by_structure
from evomal.methods.cma_es import by_weights
from evomal.methods.given import BY_TUNING, PRESETS, SETTING_NAMES, ScoreSettings
from evomal.runs.dispatch import Dispatcher, open_executor
from evomal.runs.execution import Execution, require_cores
from evomal.runs.queue import GenerationQueue
from evomal.runs.task_loss import task_loss_fitness
from evomal.tasks.arguments import flag, whole_number
from evomal.tasks.direction import Direction, own_value
from evomal.tasks.task import Task
from evomal.tasks.task_arguments import require_task
from evomal.training.engines.choice import with_engine
from evomal.training.settings import Pipeline
from evomal.training.stages import StageSeconds

Given = str | Expression | Loss
"""A loss as given: an object, or a text as for ``evomal train --loss``."""


@dataclass(frozen=True)
class Score:
    """What became of a given loss.

    Attributes
    ----------
    number
        Counts the losses given to a `Scorer` from 0.
    given
        The loss as it was given, as text.
    metric
        Name of the task's metric, which is computed on all validation rows.
    direction
        Whether the metric is ``"minimize"`` or ``"maximize"``.
    status
        As of a candidate of a search: *evaluated*, *duplicate*, *rejected*, *equivalent*,
        *diverged* or *failed*; or *error*, if it is not a loss for this task.
    reason
        Why it was not trained to the end; None if it was.
    fitness
        Lower is better; that of `source` for a duplicate or equivalent loss; None if it has none.
    task_loss_fitness
        The fitness of the task loss itself; None if it diverges.
    loss
        The loss with the weights that were reached; None after an error.
    source
        Number of the earlier loss whose fitness this is.
    correlation
        g of the rejection protocol, if known.
    seconds
        Wall-clock time by stage.
    """

    number: int
    given: str
    metric: str
    direction: Direction
    status: Status | Literal["error"]
    reason: str | None = None
    fitness: float | None = None
    task_loss_fitness: float | None = None
    loss: MetaLoss | None = None
    source: int | None = None
    correlation: float | None = None
    seconds: StageSeconds = field(default_factory=StageSeconds)

    @property
    def beats_task_loss(self) -> bool | None:
        """Whether it is better than the task loss; None if one of the two has no fitness."""
        if self.fitness is None or self.task_loss_fitness is None:
            return None
        return self.fitness < self.task_loss_fitness

    @property
    def value(self) -> float | None:
        """The metric in its own direction: the fitness, negated if it is maximised."""
        return own_value(self.fitness, self.direction)

    @property
    def task_loss_value(self) -> float | None:
        """The same of the task loss."""
        return own_value(self.task_loss_fitness, self.direction)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; ``loss`` is the content of a loss file."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            **values,
            "value": self.value,
            "task_loss_value": self.task_loss_value,
            "beats_task_loss": self.beats_task_loss,
            "loss": None if self.loss is None else file_fields(self.loss),
            "seconds": {**dataclasses.asdict(self.seconds), "total": self.seconds.total},
        }


class Scorer:
    """Scores losses as they come, such as those of a language model in a loop.

    It remembers earlier losses, so that it recognises their duplicates and equivalents. Close it,
    or use it in a ``with`` statement, to end its workers.

    Parameters
    ----------
    task
        The task.
    preset
        Default settings: those of a search with this preset; ``"quick"`` takes seconds per loss.
    seed
        Seed of all random draws; a search with this seed gives a loss the same fitness, up to
        rounding, if it trains at the task's learning rate (``tune_recipe=False``).
    tune
        Whether to optimise the weights of losses (Algorithm 1). Otherwise they keep their own.
    workers
        Number of parallel workers.
    candidate_timeout
        Time limit in seconds for screening a loss and for its training.
    **settings
        Single settings by name, such as ``meta_steps=100`` or ``testing_steps=200``.

    Raises
    ------
    InputError
        If an argument is invalid, or the task cannot be used to train or tune.
    """

    archive: Archive
    settings: ScoreSettings
    pipeline: Pipeline

    def __init__(
        self,
        task: Task,
        *,
        preset: str = "standard",
        seed: int = 0,
        tune: bool = True,
        workers: int = 1,
        candidate_timeout: float | None = None,
        **settings: Any,
    ) -> None:
        require_task(task)
        seed = whole_number(seed, "seed", 0)
        tune = flag(tune, "argument tune")
        require_name("preset", preset, PRESETS)
        for name in settings:
            require_name("setting", name, SETTING_NAMES, f"choose from {', '.join(SETTING_NAMES)}")
        chosen = dataclasses.replace(PRESETS[preset], **settings | BY_TUNING[tune])
        chosen.validate()
        self._execution = Execution(workers=workers, candidate_timeout=candidate_timeout)
        self._execution.validate()
        require_cores(chosen.threads)
        self._execution.require_room(chosen.threads)
        self.archive = Archive()
        self.pipeline = Pipeline(tune=tune, reject=True, match_gradients=True)
        self.settings, self.engine_reason = with_engine(chosen, [task], tunes=tune)
        self._identity = by_structure if tune else by_weights
        self._task = task
        self._executor = open_executor([task], self.settings, seed, self._execution, most=1)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self._executor.close()

    @cached_property
    def task_loss_fitness(self) -> float | None:
        """The fitness of the task loss itself; None if it diverges."""
        dispatcher = Dispatcher(self._executor, self._execution)
        return task_loss_fitness(dispatcher, [self._task.name]).fitness

    def score(self, losses: Given | Sequence[Given]) -> list[Score]:
        """The score of every loss, in their order (`scores`)."""
        return list(self.scores(losses))

    def scores(self, losses: Given | Sequence[Given]) -> Generator[Score]:
        """Yield the score of every loss, in their order, as soon as those before are known.

        The losses are the candidates of one generation: they share workers and groups.

        Parameters
        ----------
        losses
            Expressions, losses with weights, or texts: a quoted expression, the name of a known
            loss, a loss file or a run directory. What is no loss for the task has the status
            *error*.

        Raises
        ------
        InputError
            If the task cannot be trained with its own loss, or no worker can be started.
        """
        losses = [losses] if isinstance(losses, Given) else list(losses)
        known: dict[int, Score] = {}
        candidates: list[Candidate] = []
        first = self._count
        for number, given in enumerate(losses, first):
            self._count += 1
            try:
                loss = _loss_of(given, self._task.form, bare=self.pipeline.tune)
            except InputError as error:
                known[number] = self._score(number, given, "error", reason=str(error))
            else:
                candidates.append(Candidate(number, 0, loss, self._identity(loss, number)))
        outcomes = self._outcomes(candidates)
        for number in range(first, first + len(losses)):
            while number not in known:
                outcome = next(outcomes)
                source = outcome.candidate.number
                known[source] = self._scored(losses[source - first], outcome)
            yield known.pop(number)

    def _outcomes(self, candidates: Sequence[Candidate]) -> Iterator[Outcome]:
        if not candidates:
            return
        _ = self.task_loss_fitness
        dispatcher = Dispatcher(self._executor, self._execution)
        for outcome in GenerationQueue(self, candidates, dispatcher).outcomes():
            self.archive.add(outcome)
            yield outcome

    def _scored(self, given: Given, outcome: Outcome) -> Score:
        return self._score(
            outcome.candidate.number,
            given,
            outcome.status,
            reason=outcome.reason or _reason(outcome),
            fitness=outcome.fitness if math.isfinite(outcome.fitness) else None,
            task_loss_fitness=self.task_loss_fitness,
            loss=outcome.loss,
            source=outcome.source,
            correlation=outcome.correlation,
            seconds=outcome.seconds,
        )

    def _score(
        self, number: int, given: Given, status: Status | Literal["error"], **more: Any
    ) -> Score:
        metric = self._task.performance_metric
        return Score(number, _text_of(given), metric.name, metric.direction, status, **more)


def score(task: Task, losses: Given | Sequence[Given], **settings: Any) -> list[Score]:
    """Score given losses as a search scores its candidates.

    Their weights are optimised, the filters are applied, and those that pass are trained.

    Parameters
    ----------
    task
        The task.
    losses
        One or several, as in `Scorer.scores`.
    **settings
        The arguments of `Scorer`, such as ``preset="quick"``, ``seed=1`` or ``tune=False``.

    Returns
    -------
    list of Score
        One for every loss, in their order.

    Raises
    ------
    InputError
        If an argument is invalid, or the task cannot be trained with its own loss. A loss that is
        invalid has the status *error* instead.
    """
    with Scorer(task, **settings) as scorer:
        return scorer.score(losses)


def _loss_of(given: Given, form: Form, *, bare: bool) -> MetaLoss:
    """A given loss as a candidate of a task; an expression without its weights if `bare`.

    Raises
    ------
    InputError
        If it is not a loss for the task.
    """
    if isinstance(given, Expression):
        given = SymbolicLoss.of_form(given, form)
    loss = resolve_loss(given, form) if isinstance(given, str) else given
    what = _text_of(given)
    if not isinstance(loss, MetaLoss):
        raise InputError(
            f"The loss {quoted(what)} is neither an expression nor has weights to learn; train "
            "with it by evomal.compare or `evomal train --loss`."
        )
    if loss.link != form.link:
        raise InputError(
            f"The loss {quoted(what)} is for link {loss.link!r}, but the task has link "
            f"{form.link!r}; give its expression to use it anyway."
        )
    unknown = [name for name in loss.required_inputs if name not in form.inputs]
    if unknown:
        raise InputError(
            f"The loss {quoted(what)} needs the input {unknown[0]!r}, which the task does not "
            "have; add it to the task's loss inputs, or leave it out of the loss."
        )
    if not isinstance(loss, SymbolicLoss):
        return loss
    if not loss.expression.uses_both_arguments():
        raise InputError(f"The loss {quoted(what)} must use both y and f.")
    phi = loss.phi.new_ones(len(loss.phi)) if bare else loss.phi
    return SymbolicLoss.of_form(loss.expression, form, loss.activation, phi)


def _text_of(given: Given) -> str:
    form = given.python_form() if isinstance(given, Loss) else str(given)
    return form or f"a {type(given).__name__}"


def _reason(outcome: Outcome) -> str | None:
    """Why a loss was not trained, where the status alone says it."""
    reasons: dict[Status, str] = {
        "rejected": "the metric was no better after raw outputs were optimised with it",
        "duplicate": f"the same loss as number {outcome.source}",
        "equivalent": f"the same gradients as number {outcome.source}",
    }
    return reasons.get(outcome.status)
