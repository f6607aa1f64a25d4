"""GP-LFL: genetic programming alone, the paper's comparison without tuning (section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from evomal.methods.evolution import GeneticProgramming
from evomal.methods.genetic_settings import GeneticSettings
from evomal.methods.settings import QUICK, STANDARD, SearchSettings
from evomal.training.settings import FilterSettings, Pipeline


@dataclass(frozen=True)
class GPLFLSettings(GeneticSettings, FilterSettings):
    """Settings of gp-lfl; the defaults are the paper's."""


class GPLFL(GeneticProgramming):
    """Genetic programming alone: all weights are 1."""

    name: ClassVar[str] = "gp-lfl"
    description: ClassVar[str] = "expressions by genetic programming, all weights 1"
    pipeline: ClassVar[Pipeline] = Pipeline(tune=False, reject=True, match_gradients=True)
    settings_type: ClassVar[type[SearchSettings]] = GPLFLSettings
    presets: ClassVar[Mapping[str, SearchSettings]] = {
        "standard": GPLFLSettings(
            **STANDARD, known_losses=True, match_scale=True, population_size=24, generations=10
        ),
        "quick": GPLFLSettings(
            **QUICK, known_losses=True, match_scale=True, population_size=16, generations=5
        ),
        "paper": GPLFLSettings(),
    }
