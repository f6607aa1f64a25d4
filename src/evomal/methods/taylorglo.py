"""TaylorGLO: CMA-ES over the coefficients of a Taylor polynomial (Gonzalez and Miikkulainen, 2021).

The paper compares with it (section 4.1): third order, and EvoMAL's population and generations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from evomal import losses
from evomal.errors import InputError
from evomal.methods.base import Method, Outcome
from evomal.methods.cma_es import CMAES, FEWEST_POINTS, by_weights
from evomal.methods.settings import QUICK, STANDARD, PopulationSettings, SearchSettings
from evomal.training.settings import MOST_LOSSES, Pipeline, require_number, require_whole

if TYPE_CHECKING:
    from evomal.losses.form import Form
    from evomal.losses.taylor import TaylorLoss


@dataclass(frozen=True)
class TaylorGLOSettings(PopulationSettings):
    """Settings of taylorglo; the defaults are the paper's, and sigma that of TaylorGLO's paper."""

    order: int = 3
    """Highest degree of a term of the polynomial, 2 to 5; there are 8 coefficients with 3."""

    sigma: float = 1.2
    """Standard deviation of the first generation's coefficients around 0."""

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first setting that makes no sense, or for inputs."""
        super().validate(inputs)
        require_whole(self, FEWEST_POINTS, MOST_LOSSES, "population_size")
        require_whole(self, 2, 5, "order")
        require_number(self, 1e6, "sigma")
        if inputs:
            raise InputError(
                f"The task has the further loss inputs {', '.join(inputs)}, but the polynomials of "
                "taylorglo depend on y and f alone; choose a method whose losses are expressions, "
                "such as evomal, or a task without further inputs."
            )


class TaylorGLO(Method):
    """Candidates differ only in their coefficients; there is no gradient descent and no filter."""

    name: ClassVar[str] = "taylorglo"
    description: ClassVar[str] = "Taylor polynomials, coefficients by CMA-ES"
    pipeline: ClassVar[Pipeline] = Pipeline(tune=False, reject=False, match_gradients=False)
    settings_type: ClassVar[type[SearchSettings]] = TaylorGLOSettings
    presets: ClassVar[Mapping[str, SearchSettings]] = {
        "standard": TaylorGLOSettings(**STANDARD, population_size=24, generations=10),
        "quick": TaylorGLOSettings(**QUICK, population_size=16, generations=5),
        "paper": TaylorGLOSettings(),
    }
    identity = staticmethod(by_weights)
    settings: TaylorGLOSettings

    def __init__(self, settings: TaylorGLOSettings, form: Form, seed: int) -> None:
        super().__init__(settings, form, seed)
        count = losses.TaylorLoss.of_form(form, order=settings.order).size
        size = settings.population_size
        self._search = CMAES([0.0] * count, settings.sigma, size, seed, "coefficients")

    def _ask(self) -> list[TaylorLoss]:
        order = self.settings.order
        return [losses.TaylorLoss.of_form(self.form, phi, order) for phi in self._search.ask()]

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        self._search.tell([outcome.rank for outcome in outcomes])

    def _state(self) -> dict[str, Any]:
        return self._search.state()

    def _load_state(self, state: Any) -> None:
        self._search.load(state, self.generation, "the state of the method")
