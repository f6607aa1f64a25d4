"""The computations shared by a group of losses in one meta step: the forward pass at θ₀.

All candidates of a meta step share θ₀ and the training batch, so the network and its Jacobian J
there are the same for all of them; only the vectors multiplied by J differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import jvp, vmap

from evomal.training.hypergradient.affine import (
    AffineLayer,
    intercepted,
    passes_of,
    product,
    pushed_forward,
)
from evomal.training.hypergradient.first_step import ByName, LinearStep, Pull, first_step
from evomal.training.hypergradient.step import MetaStep
from evomal.training.numerics import all_finite, finite_rows


@dataclass(frozen=True)
class Updated:
    """The results of the updated learners of a group.

    Attributes
    ----------
    judgements
        L_T(θ₁) of every loss, (P,).
    w
        Its gradients pulled back through the step (`evomal.training.hypergradient.first_step`), by
        parameter, (P, …), without the weights of low-rank layers.
    shifts
        For each low-rank layer, the change of its outputs at θ₀ along w of its weight, (P, …).
    finite
        Whether all intermediate values were finite, (P,).
    """

    judgements: Tensor
    w: dict[str, Tensor]
    shifts: dict[str, Tensor]
    finite: Tensor


class SharedPass:
    """The forward pass at θ₀ shared by all losses of a group in a meta step, and θ₀."""

    def __init__(self, step: MetaStep, layers: Sequence[AffineLayer]) -> None:
        self.step = step
        self.theta, self.buffers = step.parameters(), step.buffers()
        (batch,) = step.training
        watched = passes_of(step.learner, [layer.name for layer in layers])
        with step.rng("training"), watched as self.passes:
            self.output = step.call(self.theta, self.buffers, batch.inputs)
        self.layers = {layer.name: layer for layer in layers if layer.name in self.passes}
        self.first = first_step(step)
        self.low_rank: list[str] = []
        self.base: dict[str, Tensor] = {}  # weights of low-rank layers, to which the step adds
        if isinstance(self.first, LinearStep):
            self.low_rank = [name for name, layer in self.layers.items() if layer.low_rank]
            self.base = {name: self.first.base[f"{name}.weight"] for name in self.low_rank}
        hidden = {f"{name}.weight" for name in self.low_rank}
        self.whole = {name: p for name, p in self.theta.items() if name not in hidden}

    def judge(
        self,
        updated: dict[str, Tensor],
        buffers: dict[str, Tensor],
        deltas: dict[str, Tensor],
        probes: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs of an updated learner, and the inputs of its low-rank layers.

        Parameters
        ----------
        updated, buffers
            The learner's parameters, except the weights of low-rank layers, and buffers.
        deltas
            For each low-rank layer, the gradients of its outputs at θ₀.
        probes
            Zeros with the shapes of these layers' outputs, to obtain their gradients.
        """
        met: dict[str, Tensor] = {}

        def forward(name: str, layer: nn.Module, inputs: Tensor) -> Tensor:
            met[name] = inputs
            common = inputs @ self.passes[name].inputs.mT
            change = torch.addmm(probes[name], common, deltas[name], alpha=self.first.factor)
            return product(layer, inputs, self.base[name], layer.bias) + change

        with intercepted(self.step.learner, self.low_rank, forward):
            judged = self.step.call(updated, buffers, self.step.judging.inputs)
        return judged, met

    def probes(self, deltas: dict[str, Tensor]) -> dict[str, Tensor]:
        """Zeros with the shapes of the outputs of low-rank layers in updated learners."""
        rows = len(self.step.judging)
        return {
            name: delta.new_zeros(*delta.shape[:-2], rows, delta.shape[-1]).requires_grad_()
            for name, delta in deltas.items()
        }

    def shift(self, name: str, inputs: Tensor, epsilon: Tensor) -> Tensor:
        """(h h'ᵀ)ε: the change of a layer's outputs along w of W; all may have rows (P, …)."""
        return (inputs @ self.passes[name].inputs.mT).mT @ epsilon

    def updated(self, u: Tensor, *, stacked: bool) -> Updated:
        """Pull the losses' slopes `u` (P, *outputs) back, update the learners and evaluate L_T.

        In one pass if `stacked`, or if the shared work dominates: the products with the weights of
        low-rank layers, which are the same for all learners.
        """
        learner = self.step.learner
        shared = sum(weight.numel() for weight in self.base.values())
        total = sum(parameter.numel() for parameter in self.theta.values())
        convolves = any(isinstance(layer, nn.Conv2d) for layer in learner.modules())
        if stacked or (2 * shared > total and not convolves):
            return self._updated_in_one(u)
        return self._updated_in_turn(u)

    def _updated_in_turn(self, u: Tensor) -> Updated:
        values = list(self.whole.values())
        outputs = [self.passes[name].outputs for name in self.low_rank]
        w = {name: p.new_empty(len(u), *p.shape) for name, p in self.whole.items()}
        shifts = {
            name: z.new_zeros(len(u), *z.shape)
            for name, z in zip(self.low_rank, outputs, strict=True)
        }

        def step(slope: Tensor) -> tuple[ByName, Pull, ByName, Tensor]:
            pulled = torch.autograd.grad(
                self.output, [*values, *outputs], slope, retain_graph=True, materialize_grads=True
            )
            learner, pull = self.first.taken(dict(zip(self.whole, pulled, strict=False)))
            deltas = dict(zip(self.low_rank, pulled[len(values) :], strict=True))
            return learner, pull, deltas, all_finite(pulled)

        judgements, finite = [], []
        for p, slope in enumerate(u):
            learner, pull, deltas, is_finite = step(slope)
            probes = self.probes(deltas)
            own = {name: buffer.clone() for name, buffer in self.buffers.items()}
            with self.step.rng("judging"):
                judged, met = self.judge(learner, own, deltas, probes)
            judgement = self.step.judgement(judged)
            leaves = [*learner.values(), *probes.values()]
            gradients = torch.autograd.grad(judgement, leaves, materialize_grads=True)
            for name, direction in pull(dict(zip(learner, gradients, strict=False))).items():
                w[name][p] = direction
            for name, epsilon in zip(self.low_rank, gradients[len(learner) :], strict=True):
                if name in met:
                    shifts[name][p] = self.shift(name, met[name].detach(), epsilon)
            judgements.append(judgement.detach())
            finite.append(is_finite & all_finite([judged]))
        return Updated(torch.stack(judgements), w, shifts, torch.stack(finite))

    def _updated_in_one(self, u: Tensor) -> Updated:
        values = list(self.whole.values())
        outputs = [self.passes[name].outputs for name in self.low_rank]
        found = torch.autograd.grad(
            self.output, [*values, *outputs], u, is_grads_batched=True, allow_unused=True
        )
        pulled = [
            value.new_zeros(len(u), *value.shape) if gradient is None else gradient
            for value, gradient in zip([*values, *outputs], found, strict=True)
        ]
        finite = finite_rows(pulled)
        updated, pull = self.first.taken(dict(zip(self.whole, pulled, strict=False)))
        deltas = dict(zip(self.low_rank, pulled[len(values) :], strict=True))
        del found, pulled  # as large as all learners
        probes = self.probes(deltas)
        own = {name: torch.stack([buffer] * len(u)) for name, buffer in self.buffers.items()}
        with self.step.rng("judging"):
            judged, met = vmap(self.judge, randomness="same")(updated, own, deltas, probes)
        judgements = torch.stack([self.step.judgement(pred) for pred in judged])
        gradients = torch.autograd.grad(
            judgements.sum(), [*updated.values(), *probes.values()], materialize_grads=True
        )
        w = pull(dict(zip(updated, gradients, strict=False)))
        shifts = {name: torch.zeros_like(delta) for name, delta in deltas.items()}
        for name, epsilon in zip(self.low_rank, gradients[len(values) :], strict=True):
            if name in met:
                inputs = met[name].detach()
                common = inputs[0] if inputs.stride(0) == 0 else inputs  # the same for all losses
                shifts[name] = self.shift(name, common, epsilon)
        return Updated(judgements.detach(), w, shifts, finite & finite_rows([judged]))

    def tangents(self, updated: Updated, *, in_turn: bool) -> Tensor:
        """J w for every loss, shape (P, *outputs), in one forward-mode pass or one per loss.

        In one pass, dropout can draw other masks than at θ₀, because ``torch.vmap`` changes the
        memory layout, and a layer may lack a batching rule.
        """
        own = {name for layer in self.layers.values() for name in layer.parameters}
        fixed = {name: value.detach() for name, value in self.theta.items()}
        others = {name: value for name, value in fixed.items() if name not in own}
        (batch,) = self.step.training

        def one(w: ByName, shifts: ByName) -> Tensor:
            def forward(name: str, layer: nn.Module, inputs: Tensor) -> Tensor:
                met = self.passes[name]
                changes = [w[one] for one in self.layers[name].parameters if one in w]
                if name in shifts:
                    shift = sum(changes, shifts[name])
                else:
                    shift = product(layer, met.inputs, *changes)
                return pushed_forward(layer, inputs, met.outputs.detach(), shift)

            def pushed(parameters: dict[str, Tensor], _: Tensor) -> Tensor:
                parameters = {**fixed, **parameters}
                with intercepted(self.step.learner, list(self.layers), forward):
                    return self.step.call(parameters, self.step.buffers(), batch.inputs)

            nothing = self.output.new_zeros(())  # there may be no others
            directions = {name: w[name] for name in others}
            if not in_turn:
                tangent: Tensor = jvp(pushed, (others, nothing), (directions, nothing))[1]
                return tangent
            with forward_ad.dual_level():
                duals = {
                    name: forward_ad.make_dual(value, directions[name])  # type: ignore[no-untyped-call]
                    for name, value in others.items()
                }
                output, change = forward_ad.unpack_dual(pushed(duals, nothing))  # type: ignore[no-untyped-call]
                return torch.zeros_like(output) if change is None else change

        given = updated.w, updated.shifts
        if not in_turn:
            with torch.no_grad(), self.step.rng("training"):
                tangents: Tensor = vmap(one, randomness="same")(*given)
            return tangents
        found = []
        for place in range(len(updated.judgements)):
            alone = ({name: rows[place] for name, rows in tensors.items()} for tensors in given)
            with torch.no_grad(), self.step.rng("training"):
                found.append(one(*alone))
        return torch.stack(found)
