"""Layers z = W h + b, differentiated by hand: they take most of the arithmetic of Algorithm 1.

All candidates of a meta step share the inputs h and the outputs z of such a layer at θ₀. Over a
batch of B rows, the gradient of W is δᵀh, with δ the gradient of z: a matrix of rank at most B. So
if W is large compared with the batch, neither that gradient nor the updated W - αδᵀh is ever
materialised. With h' the inputs of the layer in the updated learner,

    z' = W h' + b' - α(h'hᵀ)δ,

and with ε the gradient of z', the change of z at θ₀ along v = ∂L_T/∂θ₁ is (h h'ᵀ)ε + v_b, and W
times the change of h. The products with h'hᵀ are small, and those with W are the same matrix for
all candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from evomal.training.hypergradient.step import MetaStep

Forward = Callable[[str, nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class AffineLayer:
    """A layer of a base learner that is used once per forward pass, with unshared W and b.

    Attributes
    ----------
    name
        Its name in the learner.
    low_rank
        Whether its update is kept in low-rank form.
    parameters
        The names of W and, if present, b among the learner's parameters.
    """

    name: str
    low_rank: bool
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Pass:
    """Inputs h (detached) and outputs z (with their graph) of a layer in one forward pass."""

    inputs: Tensor
    outputs: Tensor


def product(layer: nn.Module, inputs: Tensor, weight: Any, bias: Any = None) -> Tensor:
    """W h + b, with a layer's settings and the given W and b; None for no b."""
    if isinstance(layer, nn.Conv2d):
        return functional.conv2d(
            inputs, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )
    return functional.linear(inputs, weight, bias)


def pushed_forward(layer: nn.Module, inputs: Tensor, z: Tensor, shift: Tensor) -> Tensor:
    """Outputs z with their forward-mode tangent, without computing z again.

    Parameters
    ----------
    layer
        The layer with W at θ₀, which has no tangent.
    inputs
        h, with a tangent if it changes.
    z
        The outputs.
    shift
        The part of the tangent from W and b.
    """
    change = forward_ad.unpack_dual(inputs).tangent  # type: ignore[no-untyped-call]
    if change is not None:
        shift = product(layer, change, layer.weight) + shift
    pushed: Tensor = forward_ad.make_dual(z, shift)  # type: ignore[no-untyped-call]
    return pushed


@contextmanager
def intercepted(learner: nn.Module, names: Sequence[str], forward: Forward) -> Iterator[None]:
    """Replace the forward pass of some layers by ``forward(name, layer, inputs)``.

    Raises
    ------
    RuntimeError
        If a layer is called twice inside the block.
    """
    layers = {name: learner.get_submodule(name) for name in names}
    called = set()

    def once(name: str, layer: nn.Module, inputs: Tensor) -> Tensor:
        if name in called:
            raise RuntimeError(
                f"The layer {name} was called once in the trial, but twice in training; "
                "use the engine loop."
            )
        called.add(name)
        return forward(name, layer, inputs)

    for name, layer in layers.items():
        layer.forward = partial(once, name, layer)
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward


@contextmanager
def passes_of(learner: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Pass]]:
    """Records the inputs and outputs of layers that are called in a forward pass."""
    passes: dict[str, Pass] = {}

    def forward(name: str, layer: nn.Module, inputs: Tensor) -> Tensor:
        outputs = product(layer, inputs, layer.weight, layer.bias)
        passes[name] = Pass(inputs.detach(), outputs)
        return outputs

    with intercepted(learner, names, forward):
        yield passes


def affine_layers(step: MetaStep, rows: int) -> tuple[AffineLayer, ...]:
    """The layers of a base learner that can be differentiated by hand, determined by trial.

    Each must be called once, its outputs must not be modified, and its parameters must get all of
    their gradients from it.

    Parameters
    ----------
    step
        A meta step on a few rows; its learner is not changed.
    rows
        Rows of a real batch, which determine whether low-rank updates pay off.
    """
    plain = {name: layer for name, layer in step.learner.named_modules() if _is_plain(layer)}
    theta = step.parameters()
    calls: dict[str, list[_Call]] = {name: [] for name in plain}

    def note(name: str, layer: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> None:
        if args:  # not called by keyword
            calls[name].append(_Call(args[0], outputs, outputs.grad_fn))

    hooks = [
        layer.register_forward_hook(partial(note, name), prepend=True)
        for name, layer in plain.items()
    ]
    with step.rng("training"):
        output = step.call(theta, step.buffers(), step.judging.inputs)
    for hook in hooks:
        hook.remove()
    u = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    found = []
    for name, layer in plain.items():
        own = tuple(f"{name}.{one}" for one in _parameters(layer))
        if len(calls[name]) != 1 or not set(own) <= theta.keys():
            continue
        (call,) = calls[name]
        types = {call.inputs.dtype, call.outputs.dtype, theta[own[0]].dtype}
        if call.outputs.grad_fn is not call.origin or len(types) > 1:  # changed in place
            continue
        if _is_all(output, u, call.outputs, [theta[one] for one in own]):
            low_rank = isinstance(layer, nn.Linear) and _pays(layer, call.inputs, len(u), rows)
            found.append(AffineLayer(name, low_rank, own))
    if not _are_hidden(step, found):
        found = [layer for layer in found if _are_hidden(step, [layer])]
    return tuple(found)


@dataclass(frozen=True)
class _Call:
    inputs: Tensor
    outputs: Tensor
    origin: Any
    """``grad_fn`` of the outputs when they were made; another one if they are changed in place."""


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is affine, without additions, and all its parameters are trained."""
    if type(layer) not in (nn.Linear, nn.Conv2d) or "forward" in vars(layer):
        return False
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return False
    own = dict(layer.named_parameters())  # `weight_norm` and others add parameters, or replace W
    return set(own) == set(_parameters(layer)) and all(p.requires_grad for p in own.values())


def _parameters(layer: nn.Module) -> tuple[str, ...]:
    return ("weight",) if layer.bias is None else ("weight", "bias")


def _is_all(output: Tensor, u: Tensor, outputs: Tensor, parameters: list[Tensor]) -> bool:
    """Whether the gradients of parameters all come from one layer's outputs, and are not 0."""
    if not outputs.requires_grad:
        return False
    whole = torch.autograd.grad(
        output, [outputs, *parameters], u, retain_graph=True, materialize_grads=True
    )
    own = torch.autograd.grad(outputs, parameters, whole[0], retain_graph=True)
    tolerance = 1e-9 if output.dtype == torch.float64 else 1e-4
    return all(
        bool(expected.any())
        and torch.allclose(found, expected, tolerance, tolerance * float(expected.abs().max()))
        for found, expected in zip(own, whole[1:], strict=True)
    )


def _are_hidden(step: MetaStep, layers: Sequence[AffineLayer]) -> bool:
    """Whether only the layers themselves read their parameters; NaN would propagate otherwise."""
    theta = step.parameters()
    own = {name for layer in layers for name in layer.parameters}
    spoilt = {name: torch.full_like(theta[name], torch.nan) for name in own}

    def forward(name: str, layer: nn.Module, inputs: Tensor) -> Tensor:
        return product(layer, inputs, *(theta[f"{name}.{one}"] for one in _parameters(layer)))

    names = [layer.name for layer in layers]
    with torch.no_grad(), step.rng("training"), intercepted(step.learner, names, forward):
        output = step.call({**theta, **spoilt}, step.buffers(), step.judging.inputs)
    return bool(output.isfinite().all())


def _pays(layer: nn.Linear, inputs: Tensor, batch: int, rows: int) -> bool:
    """Whether products with h'hᵀ are smaller than those that they replace.

    Only for one row per sample, because other shapes may depend on the data.
    """
    into, out = layer.in_features, layer.out_features
    return inputs.ndim == 2 and len(inputs) == batch and into * out > rows * (into + out)
