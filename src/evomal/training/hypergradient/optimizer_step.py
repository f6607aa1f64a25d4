"""Steps of base optimisers as differentiable functions of the gradients.

They equal those of torch's optimisers with ``differentiable=True``, with one exception: where an
element's gradient and second moment are both 0, as in units that no row activates, the derivative
of Adam's step is defined as 0, and torch's is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evomal.tasks.optimizers import SGD, Adam, AdamW, OptimizerSettings

State = Mapping[str, Tensor]
"""The state of a parameter, as in ``torch.optim.Optimizer.state``; empty before the first step."""


@dataclass(frozen=True)
class OptimizerStep:
    """A step of a base optimiser.

    Attributes
    ----------
    settings
        The optimiser and its settings, except the learning rate.
    learning_rate
        That of this step.
    clip_norm
        Maximum norm of all gradients together.
    """

    settings: OptimizerSettings
    learning_rate: float
    clip_norm: float | None = None

    def taken(
        self, theta: Sequence[Tensor], gradients: Sequence[Tensor], states: Sequence[State]
    ) -> tuple[list[Tensor], list[State]]:
        """The new parameters and states."""
        clipped = self.clipped(gradients)
        moved = [self.moved(*own) for own in zip(theta, clipped, states, strict=True)]
        return [value for value, _ in moved], [state for _, state in moved]

    def clipped(self, gradients: Sequence[Tensor], rows: int = 0) -> Sequence[Tensor]:
        """The gradients of all parameters after clipping, as by ``clip_grad_norm_``.

        They may have `rows` leading dimensions, each row with a norm of its own.
        """
        if self.clip_norm is None:
            return gradients
        norms = [
            torch.linalg.vector_norm(g.reshape(*g.shape[:rows], -1), dim=-1) for g in gradients
        ]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        return [g * factor.reshape(norm.shape + (1,) * (g.ndim - rows)) for g in gradients]

    def moved(self, value: Tensor, gradient: Tensor, state: State) -> tuple[Tensor, State]:
        """A parameter's new value and state, from its clipped gradient."""
        if isinstance(self.settings, SGD):
            return _sgd(self.settings, self.learning_rate, value, gradient, state)
        assert isinstance(self.settings, Adam | AdamW)
        return _adam(self.settings, self.learning_rate, value, gradient, state)

    def slope(self, value: Tensor, gradient: Tensor, state: State) -> Tensor | float:
        """The derivative of a parameter's new value in its clipped gradient, by element."""
        if isinstance(self.settings, SGD):
            return -self.learning_rate * gain(self.settings, state)
        assert isinstance(self.settings, Adam | AdamW)
        return _adam_slope(self.settings, self.learning_rate, value, gradient, state)


def _sgd(
    settings: SGD, learning_rate: float, value: Tensor, gradient: Tensor, state: State
) -> tuple[Tensor, State]:
    direction = gradient
    if settings.weight_decay:
        direction = direction + settings.weight_decay * value
    if settings.momentum:
        buffer = direction
        if "momentum_buffer" in state:
            buffer = settings.momentum * state["momentum_buffer"]
            buffer = buffer + (1 - settings.dampening) * direction
        direction = direction + settings.momentum * buffer if settings.nesterov else buffer
        state = {"momentum_buffer": buffer}
    return value - learning_rate * direction, state


def gain(settings: SGD, state: State) -> float:
    """The change of a step of SGD per change of the gradient, over the learning rate."""
    if settings.nesterov:
        return 1 + settings.momentum
    return 1 - settings.dampening if settings.momentum and state else 1


@dataclass(frozen=True)
class _Moments:
    """The means that a step of Adam uses, after it, with corrections of their bias."""

    state: State
    denominator: Tensor
    root: Tensor
    mean_correction: float
    root_correction: float


def _moments(settings: Adam | AdamW, gradient: Tensor, state: State) -> _Moments:
    beta, beta_square = settings.betas
    count = float(state["step"]) + 1 if state else 1.0
    if state:
        mean = torch.lerp(state["exp_avg"], gradient, 1 - beta)
        square = beta_square * state["exp_avg_sq"]
        square = torch.addcmul(square, gradient, gradient, value=1 - beta_square)
    else:
        mean, square = (1 - beta) * gradient, (1 - beta_square) * gradient * gradient
    after = {"step": torch.tensor(count), "exp_avg": mean, "exp_avg_sq": square}
    if settings.amsgrad:
        square = torch.maximum(state["max_exp_avg_sq"], square) if state else square
        after["max_exp_avg_sq"] = square
    # the smallest normal number makes no difference but to the slope of the root at 0
    root = (square + torch.finfo(square.dtype).tiny).sqrt()
    root_correction = (1 - beta_square**count) ** 0.5
    denominator = root / root_correction + settings.eps
    return _Moments(after, denominator, root, 1 - beta**count, root_correction)


def _decayed(
    settings: Adam | AdamW, learning_rate: float, value: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """A parameter and its gradient after weight decay."""
    if not settings.weight_decay:
        return value, gradient
    if isinstance(settings, AdamW):
        return value * (1 - learning_rate * settings.weight_decay), gradient
    return value, gradient + settings.weight_decay * value


def _has_none(gradient: Tensor, state: State) -> Tensor:
    """Where neither this gradient nor those before it are different from 0."""
    none = gradient == 0
    return none & (state["exp_avg_sq"] == 0) if state else none


def _adam(
    settings: Adam | AdamW, learning_rate: float, value: Tensor, gradient: Tensor, state: State
) -> tuple[Tensor, State]:
    value, gradient = _decayed(settings, learning_rate, value, gradient)
    if gradient.requires_grad:
        gradient = torch.where(_has_none(gradient, state), gradient.detach(), gradient)
    new = _moments(settings, gradient, state)
    size = -learning_rate / new.mean_correction
    return torch.addcdiv(value, new.state["exp_avg"], new.denominator, value=size), new.state


def _adam_slope(
    settings: Adam | AdamW, learning_rate: float, value: Tensor, gradient: Tensor, state: State
) -> Tensor:
    _, gradient = _decayed(settings, learning_rate, value, gradient)
    beta, beta_square = settings.betas
    new = _moments(settings, gradient, state)
    slope = new.state["exp_avg"] / new.denominator * gradient / new.root
    slope *= (beta_square - 1) / new.root_correction
    if settings.amsgrad and state:  # the larger of two has the slope of either, equal ones half
        highest, square = state["max_exp_avg_sq"], new.state["exp_avg_sq"]
        slope *= (square >= highest).to(slope) - (square == highest).to(slope) / 2
    slope += 1 - beta
    slope *= -learning_rate / new.mean_correction
    slope /= new.denominator
    return slope.masked_fill_(_has_none(gradient, state), 0)


def states_of(learner: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, State]:
    """Copies of the optimiser's state of every trainable parameter, by name."""
    return {
        name: {
            key: torch.tensor(float(value)) if key == "step" else value.detach().clone()
            for key, value in optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        for name, parameter in learner.named_parameters()
        if parameter.requires_grad
    }
