"""EvoMAL: genetic programming for the structure, Algorithm 1 for the weights (paper, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from evomal.methods.evolution import GeneticProgramming
from evomal.methods.genetic_settings import GeneticSettings
from evomal.methods.settings import QUICK, STANDARD, SearchSettings
from evomal.training.settings import EvaluationSettings, Pipeline

EVALUATION: Mapping[str, Any] = {"prescreen": True, "match_scale": True}
"""What the presets standard and quick change in the work on candidates."""

VARIATION: Mapping[str, Any] = {
    "known_losses": True,
    "inherit_weights": True,
    "crossover_rate": 0.5,
    "weight_mutation_rate": 0.2,
    "replacements": 1,
}
"""The same in genetic programming."""

STANDARD_SEARCH: Mapping[str, Any] = {
    **STANDARD,
    **EVALUATION,
    "population_size": 24,
    "generations": 10,
    "meta_steps": 50,
}
"""The preset standard of evomal and of its control, but for the variation."""

QUICK_SEARCH: Mapping[str, Any] = {
    **QUICK,
    **EVALUATION,
    "population_size": 16,
    "generations": 5,
    "meta_steps": 25,
    "rejection_steps": 100,
}
"""The same of the preset quick."""


@dataclass(frozen=True)
class EvoMALSettings(GeneticSettings, EvaluationSettings):
    """Settings of evomal; the defaults are the paper's."""


class EvoMAL(GeneticProgramming):
    """Genetic programming for the structure, unrolled differentiation for the weights."""

    name: ClassVar[str] = "evomal"
    description: ClassVar[str] = "expressions by genetic programming, weights by gradient descent"
    pipeline: ClassVar[Pipeline] = Pipeline(tune=True, reject=True, match_gradients=True)
    settings_type: ClassVar[type[SearchSettings]] = EvoMALSettings
    presets: ClassVar[Mapping[str, SearchSettings]] = {
        "standard": EvoMALSettings(**STANDARD_SEARCH, **VARIATION),
        "quick": EvoMALSettings(**QUICK_SEARCH, **VARIATION),
        "paper": EvoMALSettings(),
    }
