"""Base optimisers: settings of torch's, or any function that makes one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from evomal.errors import InputError, named, quoted
from evomal.tasks import arguments
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.functions import identity


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

OptimizerFactory = Callable[[Sequence[Tensor]], torch.optim.Optimizer]
"""A function of the parameters; for trainings only, as Algorithm 1 needs known settings."""


def settings_or_factory(value: Any) -> OptimizerSettings | OptimizerFactory:
    """The argument `optimizer` of a task; None means the paper's SGD."""
    if value is None:
        return SGD()
    if isinstance(value, type) and issubclass(value, OptimizerSettings):
        raise InputError(
            f"The optimizer must be settings, got {quoted(value)}; pass an instance, "
            f"evomal.{value.__name__}(...)."
        )
    if not isinstance(value, OptimizerSettings) and not callable(value):
        raise InputError(
            "The optimizer must be evomal.SGD(...), evomal.Adam(...), evomal.AdamW(...) or a "
            "function of the parameters that returns a new torch.optim.Optimizer, got "
            f"{quoted(value)}."
        )
    return value  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Scaled:
    """A function that makes another one's optimiser with all learning rates multiplied."""

    factory: OptimizerFactory
    factor: float

    def __call__(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        made = made_by(self.factory, parameters)
        for group in made.param_groups:
            group["lr"] = group["lr"] * self.factor  # a tensor may be shared
        return made


def scaled_optimizer(
    optimizer: OptimizerSettings | OptimizerFactory, factor: float
) -> OptimizerSettings | OptimizerFactory:
    """The same optimiser with a multiple of its learning rates."""
    if isinstance(optimizer, OptimizerSettings):
        return optimizer.with_learning_rate(factor * optimizer.learning_rate)
    return _Scaled(optimizer, factor)


def made_by(factory: OptimizerFactory, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """A new optimiser of these parameters.

    Raises
    ------
    InputError
        If the function fails, or does not return a new optimiser of some of them.
    """
    try:
        made: object = factory(parameters)
    except OWN_CODE_ERRORS as error:
        raise InputError(
            f"The optimizer function fails with the model's parameters: {named(error)}"
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise InputError(
            "The optimizer function must return a torch.optim.Optimizer, but returned a "
            f"{type(made).__name__}."
        )
    held = {id(p) for group in made.param_groups for p in group["params"]}
    if not held <= {id(p) for p in parameters}:
        raise InputError(
            "The optimizer function must return a new optimizer of the parameters that it is given."
        )
    if any("lr" not in group for group in made.param_groups):
        raise InputError(
            f"The optimizer {type(made).__name__} has no learning rate 'lr', which trainings need; "
            "use another one."
        )
    return made


def base_learning_rate(
    optimizer: OptimizerSettings | OptimizerFactory, learner: nn.Module
) -> float:
    """The learning rate of the settings, or of the first group that a function makes.

    Raises
    ------
    InputError
        If the function, or a step of what it makes, fails.
    """
    if isinstance(optimizer, OptimizerSettings):
        return optimizer.learning_rate
    rates = [float(group["lr"]) for group in _tried(optimizer, learner).param_groups]
    return arguments.positive(rates[0], "learning rate of the optimizer's first group")


def optimizer_identity(
    optimizer: OptimizerSettings | OptimizerFactory, learner: nn.Module
) -> dict[str, Any]:
    """The class and settings of a base optimiser, as JSON values."""
    if isinstance(optimizer, OptimizerSettings):
        settings = asdict(optimizer)
        return {"class": type(optimizer).__name__} | {k: _plain(v) for k, v in settings.items()}
    made = _tried(optimizer, learner)
    groups = [
        {key: _plain(value) for key, value in group.items() if key != "params"}
        for group in made.param_groups
    ]
    return {
        "class": type(made).__name__,
        "learning_rate": groups[0]["lr"],
        "function": identity(optimizer),
        "groups": groups,
    }


def _tried(factory: OptimizerFactory, learner: nn.Module) -> torch.optim.Optimizer:
    """What a function makes, after one step with zero gradients on copies of the parameters."""
    copies = [nn.Parameter(p.detach().clone()) for p in learner.parameters() if p.requires_grad]
    made = made_by(factory, copies)
    for parameter in copies:
        parameter.grad = torch.zeros_like(parameter)
    try:
        made.step()
    except OWN_CODE_ERRORS as error:
        raise InputError(
            f"A step of the optimizer {type(made).__name__} fails ({named(error)}); use one whose "
            "step() takes no arguments."
        ) from error
    return made


def _plain(value: Any) -> Any:
    """A setting as a JSON value; the name of its type if it has none."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, tuple | list):
        return [_plain(element) for element in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else type(value).__name__
