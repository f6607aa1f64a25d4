"""Base optimisers: settings of torch's, or any function that makes one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from evomal.errors import InputError, quoted
from evomal.tasks import arguments


@dataclass(frozen=True)
class OptimizerSettings(ABC):
    """Settings of a base optimiser of torch."""

    learning_rate: float

    @abstractmethod
    def create(self, parameters: Iterable[Tensor], *, fused: bool) -> torch.optim.Optimizer:
        """Torch's optimiser of these parameters with these settings."""

    def with_learning_rate(self, learning_rate: float) -> Self:
        """The same settings with another learning rate."""
        return replace(self, learning_rate=learning_rate)

    def _take(self, **checked: Any) -> None:
        """Replace settings by checked values: Python numbers, for JSON."""
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@arguments.with_known_arguments
@dataclass(frozen=True)
class SGD(OptimizerSettings):
    """Settings of the base optimiser ``torch.optim.SGD``; the defaults are the paper's."""

    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    dampening: float = 0.0

    def __post_init__(self) -> None:
        self._take(
            learning_rate=arguments.positive(self.learning_rate, "learning rate"),
            momentum=arguments.not_negative(self.momentum, "momentum"),
            nesterov=arguments.flag(self.nesterov, "setting nesterov"),
            weight_decay=arguments.not_negative(self.weight_decay, "weight decay"),
            dampening=arguments.number(self.dampening, "dampening"),
        )
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise InputError("Nesterov momentum needs a momentum above 0 and zero dampening.")

    def create(self, parameters: Iterable[Tensor], *, fused: bool) -> torch.optim.SGD:
        """``torch.optim.SGD`` of these parameters."""
        return torch.optim.SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            dampening=self.dampening,
            fused=fused,
        )


@dataclass(frozen=True)
class _AdamSettings(OptimizerSettings):
    """The settings that Adam and AdamW share."""

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False

    def __post_init__(self) -> None:
        betas = tuple(
            arguments.not_negative(beta, "coefficient in betas")
            for beta in arguments.listed(self.betas, "betas")
        )
        if len(betas) != 2 or max(betas) >= 1:
            raise InputError(f"The betas must be two numbers in [0, 1), got {quoted(self.betas)}.")
        self._take(
            learning_rate=arguments.positive(self.learning_rate, "learning rate"),
            betas=betas,
            eps=arguments.positive(self.eps, "eps"),
            weight_decay=arguments.not_negative(self.weight_decay, "weight decay"),
            amsgrad=arguments.flag(self.amsgrad, "setting amsgrad"),
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "lr": self.learning_rate,
            "betas": self.betas,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
            "amsgrad": self.amsgrad,
        }


@arguments.with_known_arguments
@dataclass(frozen=True)
class Adam(_AdamSettings):
    """Settings of the base optimiser ``torch.optim.Adam``; the defaults are torch's."""

    def create(self, parameters: Iterable[Tensor], *, fused: bool) -> torch.optim.Adam:
        """``torch.optim.Adam`` of these parameters."""
        return torch.optim.Adam(parameters, fused=fused, **self._settings())


@arguments.with_known_arguments
@dataclass(frozen=True)
class AdamW(_AdamSettings):
    """Settings of the base optimiser ``torch.optim.AdamW``; the defaults are torch's."""

    weight_decay: float = 1e-2

    def create(self, parameters: Iterable[Tensor], *, fused: bool) -> torch.optim.AdamW:
        """``torch.optim.AdamW`` of these parameters."""
        return torch.optim.AdamW(parameters, fused=fused, **self._settings())


OPTIMIZERS: dict[str, type[OptimizerSettings]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
"""The base optimisers by the names that options have for them."""

OptimizerFactory = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
"""A function of the parameters; for trainings only, as Algorithm 1 needs known settings."""
