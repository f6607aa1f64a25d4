"""The baseline: train with the task loss, without a search (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from evomal.methods.base import Method, Outcome
from evomal.methods.settings import QUICK, STANDARD, SearchSettings
from evomal.methods.stored import typed
from evomal.training.settings import Pipeline


@dataclass(frozen=True)
class BaselineSettings(SearchSettings):
    """Settings of the baseline; the defaults are the paper's."""


class Baseline(Method):
    """A single candidate, the task loss itself."""

    name: ClassVar[str] = "baseline"
    description: ClassVar[str] = "the task's own loss, no search"
    pipeline: ClassVar[Pipeline] = Pipeline(tune=False, reject=False, match_gradients=False)
    settings_type: ClassVar[type[SearchSettings]] = BaselineSettings
    presets: ClassVar[Mapping[str, SearchSettings]] = {
        "standard": BaselineSettings(**STANDARD),
        "quick": BaselineSettings(**QUICK),
        "paper": BaselineSettings(),
    }

    def _ask(self) -> list[None]:
        return [None]

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        pass

    def _state(self) -> Any:
        return None

    def _load_state(self, state: Any) -> None:
        typed(None, state, "the state of the method")
