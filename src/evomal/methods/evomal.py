"""EvoMAL: genetic programming for the structure, Algorithm 1 for the weights (paper, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from evomal.methods.evolution import GeneticProgramming
from evomal.methods.genetic_settings import GeneticSettings
from evomal.methods.settings import SearchSettings
from evomal.training.settings import EvaluationSettings, Pipeline

QUICK: Mapping[str, Any] = {
    "population_size": 20,
    "generations": 7,
    "meta_steps": 25,
    "rejection_steps": 100,
    "prescreen": True,
    "testing_steps": 100,
}
"""The quick preset of evomal and of its control."""


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
        "paper": EvoMALSettings(),
        "quick": EvoMALSettings(**QUICK),
    }
