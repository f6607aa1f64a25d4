"""Random search over expressions: the control that every other method must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from evomal import losses
from evomal.methods.base import Method, Outcome
from evomal.methods.evolution import draw_population
from evomal.methods.evomal import QUICK_SEARCH, STANDARD_SEARCH
from evomal.methods.settings import ExpressionSettings, SearchSettings
from evomal.methods.stored import typed
from evomal.seeding import derive_generator
from evomal.training.settings import EvaluationSettings, Pipeline

if TYPE_CHECKING:
    from evomal.losses.symbolic import SymbolicLoss


@dataclass(frozen=True)
class RandomSettings(ExpressionSettings, EvaluationSettings):
    """Settings of random; the defaults are those of evomal."""


class Random(Method):
    """Every generation is drawn like EvoMAL's first one, and goes through EvoMAL's pipeline."""

    name: ClassVar[str] = "random"
    description: ClassVar[str] = "random expressions, weights by gradient descent: the control"
    pipeline: ClassVar[Pipeline] = Pipeline(tune=True, reject=True, match_gradients=True)
    settings_type: ClassVar[type[SearchSettings]] = RandomSettings
    presets: ClassVar[Mapping[str, SearchSettings]] = {
        "standard": RandomSettings(**STANDARD_SEARCH),
        "quick": RandomSettings(**QUICK_SEARCH),
        "paper": RandomSettings(),
    }
    settings: RandomSettings

    def _ask(self) -> list[SymbolicLoss]:
        rng = derive_generator(self.seed, "variation", self.generation)
        drawn = draw_population(rng, self.settings, self.form.inputs)
        return [losses.SymbolicLoss.of_form(e, self.form, self.settings.activation) for e in drawn]

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        pass  # nothing is learned from what came before

    def _state(self) -> Any:
        return None  # every generation has a random stream of its own

    def _load_state(self, state: Any) -> None:
        typed(None, state, "the state of the method")
