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
        norms = [torch.linalg.vector_norm(g.flatten(rows), dim=-1) for g in gradients]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        return [g * factor.reshape(norm.shape + (1,) * (g.ndim - rows)) for g in gradients]

    def moved(self, value: Tensor, gradient: Tensor, state: State) -> tuple[Tensor, State]:
        """A parameter's new value and state, from its clipped gradient."""
        if isinstance(self.settings, SGD):
            return _sgd(self.settings, self.learning_rate, value, gradient, state)
        assert isinstance(self.settings, Adam | AdamW)
        return _adam(self.settings, self.learning_rate, value, gradient, state)


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


def _adam(
    settings: Adam | AdamW, learning_rate: float, value: Tensor, gradient: Tensor, state: State
) -> tuple[Tensor, State]:
    beta, beta_square = settings.betas
    nothing = torch.zeros_like(value)
    mean, square = state.get("exp_avg", nothing), state.get("exp_avg_sq", nothing)
    count = float(state["step"]) + 1 if state else 1.0
    if isinstance(settings, AdamW):
        value = value * (1 - learning_rate * settings.weight_decay)
    elif settings.weight_decay:
        gradient = gradient + settings.weight_decay * value
    gradient = torch.where((gradient == 0) & (square == 0), gradient.detach(), gradient)
    mean = torch.lerp(mean, gradient, 1 - beta)
    square = torch.addcmul(beta_square * square, gradient, gradient, value=1 - beta_square)
    after = {"step": torch.tensor(count), "exp_avg": mean, "exp_avg_sq": square}
    if settings.amsgrad:
        square = torch.maximum(state.get("max_exp_avg_sq", nothing), square)
        after["max_exp_avg_sq"] = square
    # the smallest normal number makes no difference but to the slope of the root at 0
    root = (square + torch.finfo(square.dtype).tiny).sqrt()
    denominator = root / (1 - beta_square**count) ** 0.5 + settings.eps
    value = torch.addcdiv(value, mean, denominator, value=-learning_rate / (1 - beta**count))
    return value, after


def states_of(learner: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, State]:
    """Copies of the optimiser's state of every trainable parameter, by name."""
    return {
        name: {
            key: value.detach().clone() if value.ndim else torch.tensor(float(value))
            for key, value in optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        for name, parameter in learner.named_parameters()
        if parameter.requires_grad
    }
