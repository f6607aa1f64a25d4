"""The baseline: train with the task's own loss, search for nothing (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from evomal.methods.base import Method, Outcome
from evomal.methods.stored import typed
from evomal.training.settings import Pipeline


class Baseline(Method):
    """One candidate, the task loss itself."""

    name: ClassVar[str] = "baseline"
    description: ClassVar[str] = "the task's own loss, no search"
    pipeline: ClassVar[Pipeline] = Pipeline(tune=False, reject=False, match_gradients=False)
    unused: ClassVar[tuple[str, ...]] = ("prescreen", "halving", "activation", "initial_losses")

    @property
    def generations(self) -> int:
        """One."""
        return 1

    def _ask(self) -> list[None]:
        return [None]

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        pass

    def _state(self) -> Any:
        return None

    def _load_state(self, state: Any) -> None:
        typed(None, state, "the state of the method")
