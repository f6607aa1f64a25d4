"""Settings of base optimisers."""

from __future__ import annotations

from dataclasses import dataclass

from evomal.errors import InputError
from evomal.tasks import arguments


@arguments.with_known_arguments
@dataclass(frozen=True)
class SGD:
    """Settings of the base optimiser, ``torch.optim.SGD``; the defaults are the paper's."""

    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    dampening: float = 0.0

    def __post_init__(self) -> None:
        checked = {
            "learning_rate": arguments.positive(self.learning_rate, "learning rate"),
            "momentum": arguments.not_negative(self.momentum, "momentum"),
            "nesterov": arguments.flag(self.nesterov, "setting nesterov"),
            "weight_decay": arguments.not_negative(self.weight_decay, "weight decay"),
            "dampening": arguments.number(self.dampening, "dampening"),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # a Python number, for JSON
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise InputError("Nesterov momentum needs a momentum above 0 and zero dampening.")
