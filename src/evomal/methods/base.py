"""The parts common to all methods: candidates, outcomes, the archive, the ask/tell cycle."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from evomal.methods.settings import SearchSettings
from evomal.methods.stored import MethodState, require, typed
from evomal.training.halving import LearningCurve
from evomal.training.settings import Pipeline
from evomal.training.stages import StageSeconds

if TYPE_CHECKING:  # torch is not imported here, so that `--help` is fast
    from evomal.losses.form import Form
    from evomal.losses.meta import MetaLoss

Rank = tuple[bool, bool, float, int, int]
Status = Literal["evaluated", "duplicate", "rejected", "equivalent", "halted", "diverged", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)
TRAINED: tuple[Status, ...] = ("evaluated", "halted")


@dataclass(frozen=True)
class Candidate:
    """One loss in one generation.

    Attributes
    ----------
    number
        Counts the candidates of a run from 0, in population order.
    generation
        Counts from 0.
    loss
        The loss before its weights are optimised; None means the task loss.
    identity
        Equal for candidates that count as duplicates, of which only the first is processed; from
        `Method.identity`.
    """

    number: int
    generation: int
    loss: MetaLoss | None
    identity: str

    @property
    def size(self) -> int:
        """Number of nodes, or of weights; 0 for the task loss."""
        return 0 if self.loss is None else self.loss.size


@dataclass(frozen=True)
class Outcome:
    """The outcome of a candidate.

    Attributes
    ----------
    status
        *evaluated*: trained. *duplicate*: same identity as an earlier candidate.
        *rejected*: by the rejection protocol. *equivalent*: same gradients as an earlier
        candidate. *halted*: its training was stopped at a rung, where its fitness was measured.
        *diverged*: a stage produced a non-finite value. *failed*: the work on it raised an
        error, timed out or lost its worker, twice.
    fitness
        Lower is better; infinity is the worst.
    loss
        The loss with its final weights.
    source
        Number of the candidate whose fitness was copied.
    correlation
        g of the rejection protocol.
    gradient_key
        Key of gradient equivalence.
    seconds
        Wall-clock time by stage.
    reason
        Why it failed or diverged: the stage and what happened.
    curves
        Learning curves on every task; empty without `halving`.
    halted
        Whether the fitness is from a stopped training, its own or its source's; it ranks behind
        the fitness of all completed trainings.
    """

    candidate: Candidate
    status: Status
    fitness: float
    loss: MetaLoss | None
    source: int | None = None
    correlation: float | None = None
    gradient_key: str | None = None
    seconds: StageSeconds = field(default_factory=StageSeconds)
    reason: str | None = None
    curves: tuple[LearningCurve, ...] = ()
    halted: bool = False

    @property
    def rank(self) -> Rank:
        """Sort key, better outcomes first (`rank`)."""
        candidate = self.candidate
        return rank(self.fitness, candidate.size, candidate.number, halted=self.halted)


def rank(fitness: float, size: int, number: int, *, halted: bool = False) -> Rank:
    """Sort key, better first: by fitness, then the smaller loss, then the earlier candidate.

    Halted candidates come after all completed ones, because their fitness was measured earlier, and
    before those without a fitness.
    """
    return math.isinf(fitness), halted, fitness, size, number


Identity = Callable[["MetaLoss | None", int], str]


def by_structure(loss: MetaLoss | None, number: int) -> str:
    """Identity of losses up to their weights; None means the task loss."""
    return "task loss" if loss is None else loss.structure


class Archive:
    """All outcomes of a run so far, with O(1) look-up by identity and by gradients.

    Attributes
    ----------
    best
        The best outcome of a candidate that was itself trained.
    hall_of_fame
        The same for each number of nodes.
    counts
        Number of candidates by status.
    judged
        Outcomes of candidates that were trained with rungs.
    """

    def __init__(self) -> None:
        self.best: Outcome | None = None
        self.hall_of_fame: dict[int, Outcome] = {}
        self.counts: Counter[Status] = Counter(dict.fromkeys(STATUSES, 0))
        self.judged: list[Outcome] = []
        self._by_identity: dict[str, Outcome] = {}
        self._by_gradient: dict[str, Outcome] = {}

    def add(self, outcome: Outcome) -> None:
        """Record an outcome; look-ups return the first of equal candidates."""
        self.counts[outcome.status] += 1
        self._by_identity.setdefault(outcome.candidate.identity, outcome)
        if outcome.curves:
            self.judged.append(outcome)
        if outcome.gradient_key is not None:
            self._by_gradient.setdefault(outcome.gradient_key, outcome)
        if outcome.status == "evaluated":  # others have a copied fitness
            size = outcome.candidate.size
            best, best_of_size = self.best or outcome, self.hall_of_fame.get(size, outcome)
            self.best = min(best, outcome, key=lambda one: one.rank)
            self.hall_of_fame[size] = min(best_of_size, outcome, key=lambda one: one.rank)

    def find(self, candidate: Candidate) -> Outcome | None:
        """The first outcome with the same identity (paper, section 3.5.1)."""
        return self._by_identity.get(candidate.identity)

    @property
    def distinct(self) -> list[Outcome]:
        """The first outcome of every identity."""
        return list(self._by_identity.values())

    def knows(self, identity: str, before: int) -> bool:
        """Whether a candidate with a number below `before` has this identity."""
        found = self._by_identity.get(identity)
        return found is not None and found.candidate.number < before

    def find_gradient(self, gradient_key: str) -> Outcome | None:
        """The first trained candidate with this gradient key (paper, section 3.5.3)."""
        return self._by_gradient.get(gradient_key)


@dataclass(frozen=True)
class Generation:
    """A finished generation.

    Attributes
    ----------
    number
        Counts from 0.
    best
        The best fitness so far.
    mean
        Mean of the finite fitness of its candidates, except halted ones.
    counts
        Number of its candidates by status.
    seconds
        Wall-clock time.
    """

    number: int
    best: float | None
    mean: float | None
    counts: Mapping[Status, int]
    seconds: float = 0.0


class Method(ABC):
    """A search method: `ask` for the candidates of a generation, `tell` their outcomes.

    The caller adds every outcome to `archive` as soon as it is decided, so that later candidates
    of the same generation can be recognised as equal.

    Parameters
    ----------
    settings
        Sizes, rates and limits.
    form
        Form of the proposed losses.
    seed
        The run's seed; all random draws of the method derive from it.
    """

    name: ClassVar[str]
    """Name in the registry and on the command line."""

    description: ClassVar[str]
    """One line for a list of methods."""

    pipeline: ClassVar[Pipeline]
    """Stages of every candidate before its partial training."""

    settings_type: ClassVar[type[SearchSettings]]
    """The settings: a frozen dataclass whose fields are the command-line flags."""

    presets: ClassVar[Mapping[str, SearchSettings]]
    """Default settings by name: with a verdict (standard), for a first look (quick), published ones
    (paper)."""

    def __init__(self, settings: SearchSettings, form: Form, seed: int) -> None:
        self.settings = settings
        self.form = form
        self.seed = seed
        self.archive = Archive()
        self.generation = 0
        self._candidates = 0

    @staticmethod
    def identity(loss: MetaLoss | None, number: int) -> str:
        """The identity that defines duplicates; by default, everything except the weights.

        Methods that search the weights override this; `number` is the number of the candidate, for
        methods in which no candidate counts as a duplicate.
        """
        return by_structure(loss, number)

    @property
    def generations(self) -> int:
        """Number of generations of the method."""
        return self.settings.generations

    @property
    def expected_candidates(self) -> int:
        """About how many candidates there will be."""
        settings = self.settings
        return settings.population_size + (self.generations - 1) * settings.offspring

    @property
    def finished(self) -> bool:
        """Whether all generations are done."""
        return self.generation >= self.generations

    def ask(self) -> list[Candidate]:
        """The candidates of the next generation, in population order, without elites.

        Call it once per generation: it advances the method's generator.
        """
        return self._numbered(self._ask())

    def ask_more(self, outcomes: Sequence[Outcome]) -> list[Candidate]:
        """Candidates of this generation in place of those that were not trained, or none.

        Call it with the outcomes of all its candidates so far, in population order, until there
        are none; it also advances the method's generator.
        """
        return self._numbered(self._ask_more(outcomes))

    def _numbered(self, losses: Sequence[MetaLoss | None]) -> list[Candidate]:
        first = self._candidates
        self._candidates += len(losses)
        return [
            Candidate(number, self.generation, loss, self.identity(loss, number))
            for number, loss in enumerate(losses, start=first)
        ]

    def tell(self, outcomes: Sequence[Outcome]) -> Generation:
        """Take the outcomes of all candidates of the generation, in population order."""
        self._tell(outcomes)
        finite = [o.fitness for o in outcomes if math.isfinite(o.fitness) and not o.halted]
        mean = sum(finite) / len(finite) if finite else math.inf
        counts = Counter(outcome.status for outcome in outcomes)
        summary = Generation(
            number=self.generation,
            best=None if self.archive.best is None else self.archive.best.fitness,
            mean=mean if math.isfinite(mean) else None,
            counts={status: counts[status] for status in STATUSES},
        )
        self.generation += 1
        return summary

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs in addition to the archive, as JSON values."""
        return vars(MethodState(self.generation, self._candidates, self._state()))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`.

        Raises
        ------
        InputError
            If the state is invalid; the message has no full stop.
        """
        stored: MethodState = typed(MethodState, state, "the state of the method")
        require(
            min(stored.generation, stored.candidates) >= 0,
            "the state of the method counts below 0",
        )
        self.generation = stored.generation
        self._candidates = stored.candidates
        self._load_state(stored.method)

    @abstractmethod
    def _ask(self) -> Sequence[MetaLoss | None]:
        """The losses of the next generation."""

    def _ask_more(self, outcomes: Sequence[Outcome]) -> Sequence[MetaLoss | None]:
        """Further losses of this generation; `_candidates` counts all that were asked for."""
        return ()

    @abstractmethod
    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        """Learn from the outcomes."""

    @abstractmethod
    def _state(self) -> Any:
        """The state of the subclass as JSON values."""

    @abstractmethod
    def _load_state(self, state: Any) -> None:
        """Restore the value of `_state`; an `InputError` for anything else."""
