"""GLO: genetic programming for the structure, then CMA-ES (Gonzalez and Miikkulainen, 2020).

The paper describes it as the expensive predecessor of TaylorGLO (section 2): each set of
coefficients costs a training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from evomal import losses
from evomal.errors import InputError
from evomal.expressions.expression import Expression, parse
from evomal.methods.base import Method, Outcome
from evomal.methods.cma_es import CMAES, FEWEST_POINTS, by_weights
from evomal.methods.evolution import GeneticProgramming
from evomal.methods.genetic_settings import GeneticSettings
from evomal.methods.settings import QUICK, STANDARD, SearchSettings
from evomal.methods.stored import require, typed
from evomal.training.settings import MOST_LOSSES, Pipeline, require_number, require_whole

if TYPE_CHECKING:
    from evomal.losses.form import Form
    from evomal.losses.meta import MetaLoss
    from evomal.losses.symbolic import SymbolicLoss


@dataclass(frozen=True)
class GLOSettings(GeneticSettings):
    """Settings of glo; those of genetic programming are EvoMAL's."""

    structure_generations: int | None = None
    """Generations of genetic programming, for structures; the others search for coefficients.
    Default: half of them."""

    structures: int = 3
    """Number of structures, the best ones, whose coefficients are tuned."""

    coefficient_population: int = 8
    """Sets of coefficients per structure and generation."""

    sigma: float = 0.2
    """Initial standard deviation of the coefficients around 1."""

    def resolved(self, resolve: Callable[[str], SymbolicLoss], known: Sequence[str] = ()) -> Self:
        """With the number of generations for structures, which stays if a run is made longer."""
        return replace(
            super().resolved(resolve, known), structure_generations=self.generations_for_structures
        )

    @property
    def largest_generation(self) -> int:
        """Most candidates in a generation, of either phase."""
        return max(self.population_size, self.structures * self.coefficient_population)

    @property
    def generations_for_structures(self) -> int:
        """`structure_generations`, or its default."""
        if self.structure_generations is None:
            return (self.generations + 1) // 2
        return self.structure_generations

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first setting that makes no sense."""
        super().validate(inputs)
        require_whole(self, 1, 1_000_000, "structure_generations")
        require_whole(self, 1, MOST_LOSSES, "structures")
        require_whole(self, FEWEST_POINTS, MOST_LOSSES, "coefficient_population")
        require_number(self, 1e6, "sigma")
        if self.generations_for_structures > self.generations:
            raise InputError("The setting structure_generations must not exceed generations.")
        if self.structures * self.coefficient_population > MOST_LOSSES:
            raise InputError(
                f"The settings structures and coefficient_population must not exceed {MOST_LOSSES} "
                "multiplied."
            )


class _Structures(GeneticProgramming):
    """The first phase, with the identities of both."""

    identity = staticmethod(by_weights)


class GLO(Method):
    """Evolve expressions whose weights are all 1, then tune the coefficients of the best ones.

    The second phase searches for the weights of several structures at once, each with its own
    CMA-ES, centred at the bare expression. There are no filters, as in the original: similar sets
    of coefficients would count as equivalent in their gradients, and CMA-ES would learn nothing
    from their fitness.
    """

    name: ClassVar[str] = "glo"
    description: ClassVar[str] = "expressions by genetic programming, then weights by CMA-ES"
    pipeline: ClassVar[Pipeline] = Pipeline(tune=False, reject=False, match_gradients=False)
    settings_type: ClassVar[type[SearchSettings]] = GLOSettings
    presets: ClassVar[Mapping[str, SearchSettings]] = {
        "standard": GLOSettings(**STANDARD, known_losses=True, population_size=24, generations=10),
        "quick": GLOSettings(
            **QUICK,
            known_losses=True,
            population_size=16,
            generations=5,
            coefficient_population=6,
        ),
        "paper": GLOSettings(),
    }
    identity = staticmethod(by_weights)
    settings: GLOSettings

    def __init__(self, settings: GLOSettings, form: Form, seed: int) -> None:
        super().__init__(settings, form, seed)
        self._evolution = _Structures(settings, form, seed)
        self._evolution.archive = self.archive
        self._searches: dict[Expression, CMAES] = {}

    @property
    def expected_candidates(self) -> int:
        """About how many candidates there will be."""
        settings, first = self.settings, self.settings.generations_for_structures
        evolved = settings.population_size + (first - 1) * settings.offspring
        tuned = settings.structures * settings.coefficient_population
        return evolved + (self.generations - first) * tuned

    def _ask(self) -> list[MetaLoss | None]:
        if not self._searches:
            return [candidate.loss for candidate in self._evolution.ask()]
        return [
            losses.SymbolicLoss.of_form(structure, self.form, self.settings.activation, phi)
            for structure, search in self._searches.items()
            for phi in search.ask()
        ]

    def _ask_more(self, outcomes: Sequence[Outcome]) -> list[MetaLoss | None]:
        if self._searches:
            return []
        return [candidate.loss for candidate in self._evolution.ask_more(outcomes)]

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        if self._searches:
            size = self.settings.coefficient_population
            ranks = [outcome.rank for outcome in outcomes]
            for i, search in enumerate(self._searches.values()):
                search.tell(ranks[i * size : (i + 1) * size])
            return
        self._evolution.tell(outcomes)
        if self._evolution.generation == self.settings.generations_for_structures:
            self._begin_searches(self._best_structures())

    def _best_structures(self) -> list[Expression]:
        """Of the first phase, no two of the same canonical form."""
        best = sorted(self.archive.distinct, key=lambda outcome: outcome.rank)
        found = [outcome.candidate.loss for outcome in best[: self.settings.structures]]
        return [loss.expression for loss in found if isinstance(loss, losses.SymbolicLoss)]

    def _begin_searches(self, structures: Sequence[Expression]) -> None:
        sigma, size = self.settings.sigma, self.settings.coefficient_population
        for structure in structures:
            ones = [1.0] * (len(structure) - 1)
            search = CMAES(ones, sigma, size, self.seed, "coefficients", str(structure))
            self._searches[structure] = search

    def _state(self) -> dict[str, Any]:
        return {
            "evolution": self._evolution.state_dict(),
            "searches": [
                {"structure": str(structure), "search": search.state()}
                for structure, search in self._searches.items()
            ],
        }

    def _load_state(self, state: Any) -> None:
        stored: _Stored = typed(_Stored, state, "the state of the method")
        first, count = self.settings.generations_for_structures, len(stored.searches)
        self._evolution.load_state_dict(stored.evolution)
        structures = [self._structure(one.structure) for one in stored.searches]
        begun = self.generation >= first
        require(
            self._evolution.generation == min(self.generation, first)
            and len(set(structures)) == count
            and (1 <= count <= self.settings.structures if begun else count == 0),
            f"the state of the method does not match {self.generation} generations",
        )
        self._searches = {}
        self._begin_searches(structures)
        for one, search in zip(stored.searches, self._searches.values(), strict=True):
            what = f"the search for the weights of {one.structure}"
            search.load(one.search, self.generation - first, what)

    def _structure(self, text: str) -> Expression:
        try:
            structure = parse(text, self.form.inputs)
        except InputError as error:
            raise InputError(f"a structure of the method is damaged: {error}") from error
        require(
            structure.uses_both_arguments() and structure.height <= self.settings.max_height,
            "a structure of the method is not one that it could have made",
        )
        return structure


@dataclass(frozen=True)
class _StoredSearch:
    structure: str
    search: Any


@dataclass(frozen=True)
class _Stored:
    evolution: Mapping[str, Any]
    searches: tuple[_StoredSearch, ...]
