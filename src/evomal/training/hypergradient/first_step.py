"""The first optimiser step of a meta step: θ₁ as a function of the gradient g at θ₀.

With v = ∂L_T/∂θ₁ and J the Jacobian of the network's outputs at θ₀, the hypergradient is
∂/∂φ ⟨∂M_φ/∂f, J w⟩ with w = (∂θ₁/∂g)ᵀ v. For SGD, ∂θ₁/∂g is a number, the same for all parameters.
For Adam and AdamW it is a diagonal matrix, to which clipping adds one of rank 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor

from evomal.tasks.optimizers import SGD
from evomal.training.hypergradient.optimizer_step import OptimizerStep, State, gain
from evomal.training.hypergradient.step import MetaStep

ByName = dict[str, Tensor]
Pull = Callable[[ByName], ByName]
"""From v to w up to a factor, by parameter."""


class FirstStep(ABC):
    """The first step of all losses of a meta step."""

    factor: float
    """The hypergradient is this times ∂/∂φ ⟨∂M_φ/∂f, J w⟩."""

    @abstractmethod
    def taken(self, gradients: ByName) -> tuple[ByName, Pull]:
        """θ₁ as new leaves, and the way from v to w.

        Parameters
        ----------
        gradients
            g by parameter. They may have a leading dimension, one row per loss, and are not
            changed: parameters may share a gradient's memory.
        """


@final
class LinearStep(FirstStep):
    """SGD without clipping: θ₁ = `base` - α g.

    Momentum and weight decay only shift the base, except that Nesterov momentum, and dampening
    after the first step of a training, change α.
    """

    def __init__(
        self,
        settings: SGD,
        learning_rate: float,
        theta: Mapping[str, Tensor],
        states: Mapping[str, State],
    ) -> None:
        started: State = next(filter(None, states.values()), {})
        self.alpha = learning_rate * gain(settings, started)
        self.factor = -self.alpha
        decay = 1 - self.alpha * settings.weight_decay
        whole = {name: value.detach() for name, value in theta.items()}
        self.base = {n: value if decay == 1 else value * decay for n, value in whole.items()}
        shift = learning_rate * settings.momentum ** (2 if settings.nesterov else 1)
        for name, state in states.items():
            if "momentum_buffer" in state:
                buffer = state["momentum_buffer"]
                self.base[name] = torch.sub(self.base[name], buffer, alpha=shift)

    def taken(self, gradients: ByName) -> tuple[ByName, Pull]:
        """θ₁, and v itself."""
        updated = {
            name: torch.add(self.base[name], gradient, alpha=-self.alpha).requires_grad_()
            for name, gradient in gradients.items()
        }
        return updated, lambda v: v


@final
class CurvedStep(FirstStep):
    """Any other step; needs the gradients of all parameters."""

    factor = 1.0

    def __init__(
        self, step: OptimizerStep, theta: Mapping[str, Tensor], states: Mapping[str, State]
    ) -> None:
        self._step = step
        self._theta = {name: value.detach() for name, value in theta.items()}
        self._states = {name: states.get(name, {}) for name in theta}

    def taken(self, gradients: ByName) -> tuple[ByName, Pull]:
        """θ₁, and the derivative of the step there."""
        with torch.no_grad():
            clipped = self._clipped(gradients)
            updated = {name: self._moved(name, g).requires_grad_() for name, g in clipped.items()}

        def pull(v: ByName) -> ByName:
            with torch.no_grad():
                w = {
                    name: v[name] * self._step.slope(self._theta[name], g, self._states[name])
                    for name, g in clipped.items()
                }
            return w if self._step.clip_norm is None else self._through_clipping(gradients, w)

        return updated, pull

    def _clipped(self, gradients: ByName) -> ByName:
        name, gradient = next(iter(gradients.items()))
        rows = gradient.ndim - self._theta[name].ndim
        clipped = self._step.clipped(list(gradients.values()), rows)
        return dict(zip(gradients, clipped, strict=True))

    def _moved(self, name: str, gradient: Tensor) -> Tensor:
        return self._step.moved(self._theta[name], gradient, self._states[name])[0]

    def _through_clipping(self, gradients: ByName, w: ByName) -> ByName:
        leaves = {name: g.detach().requires_grad_() for name, g in gradients.items()}
        clipped = self._clipped(leaves)
        found = torch.autograd.grad(list(clipped.values()), list(leaves.values()), list(w.values()))
        return dict(zip(w, found, strict=True))


def first_step(step: MetaStep) -> FirstStep:
    """The first step of a meta step."""
    theta, taken = step.parameters(), step.optimizer
    if isinstance(taken.settings, SGD) and taken.clip_norm is None:
        return LinearStep(taken.settings, taken.learning_rate, theta, step.states)
    return CurvedStep(taken, theta, step.states)
