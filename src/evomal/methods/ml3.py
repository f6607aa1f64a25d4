"""ML³: a network as a loss, its weights learned by gradient descent (paper, section 4.1).

The supervised variant of Bechtle et al., "Meta-Learning via Learned Loss", 2021. The loss is a
network of (y, f) with ReLU between its layers and softplus at the output, so it is never negative.
There is no structure to search: Algorithm 1 tunes the weights, and one training gives the fitness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from evomal import losses
from evomal.methods.base import Method, Outcome
from evomal.methods.settings import QUICK, STANDARD, SearchSettings
from evomal.methods.stored import typed
from evomal.seeding import derive_generator
from evomal.training.settings import MOST_LOSSES, Pipeline, TuningSettings, require_whole

if TYPE_CHECKING:
    from evomal.losses.form import Form
    from evomal.losses.meta import MetaLoss
    from evomal.losses.neural import NeuralLoss


@dataclass(frozen=True)
class ML3Settings(SearchSettings, TuningSettings):
    """Settings of ml3; the paper does not give the number of meta steps, and 1000 is ours."""

    meta_steps: int = 1000
    """Steps of Adam on the weights of the network (S_meta)."""

    hidden: tuple[int, ...] = (50, 50)
    """Widths of the hidden layers."""

    restarts: int = 1
    """Number of networks, each with its own initial weights; the best one counts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given: object = self.hidden
        if isinstance(given, list):
            object.__setattr__(self, "hidden", tuple(given))

    @property
    def population_size(self) -> int:
        """Losses in the one generation."""
        return self.restarts

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first setting that makes no sense."""
        from evomal.losses.neural import hidden_widths  # needs torch

        super().validate(inputs)
        hidden_widths(self.hidden)
        require_whole(self, 1, MOST_LOSSES, "restarts")


class ML3(Method):
    """One generation of networks that differ in their initial weights."""

    settings: ML3Settings

    name: ClassVar[str] = "ml3"
    description: ClassVar[str] = "a neural network as the loss, weights by gradient descent"
    pipeline: ClassVar[Pipeline] = Pipeline(tune=True, reject=False, match_gradients=False)
    settings_type: ClassVar[type[SearchSettings]] = ML3Settings
    presets: ClassVar[Mapping[str, SearchSettings]] = {
        "standard": ML3Settings(**STANDARD),
        "quick": ML3Settings(**QUICK, meta_steps=100),
        "paper": ML3Settings(),
    }

    def __init__(self, settings: ML3Settings, form: Form, seed: int) -> None:
        super().__init__(settings, form, seed)

    @staticmethod
    def identity(loss: MetaLoss | None, number: int) -> str:
        """Every network is different."""
        return f"network {number}"

    def _ask(self) -> list[NeuralLoss]:
        network = losses.NeuralLoss.of_form(self.form, self.settings.hidden)
        return [
            network.drawn(derive_generator(self.seed, "phi", number))
            for number in range(self.settings.restarts)
        ]

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        pass

    def _state(self) -> Any:
        return None

    def _load_state(self, state: Any) -> None:
        typed(None, state, "the state of the method")
