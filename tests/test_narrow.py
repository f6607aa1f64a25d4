"""The convolution of few channels, against torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from evomal.tasks.models.narrow import NarrowConv2d

LAST = torch.channels_last
OPTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"stride": 2, "padding": 1, "dilation": 2, "groups": 2},
]
PLAIN: list[dict[str, Any]] = [
    {"padding": "same"},
    {"padding": 1, "padding_mode": "circular"},
]


def layers(**options: Any) -> tuple[nn.Module, nn.Module]:
    """Ours and torch's, with the same weights."""
    ours, theirs = (
        cls(4, 6, 3, dtype=torch.float64, **options) for cls in (NarrowConv2d, nn.Conv2d)
    )
    ours.load_state_dict(theirs.state_dict())
    ours = ours.to(memory_format=LAST)  # type: ignore[call-overload]
    return ours, theirs


def images() -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, 8, 8, generator=rng, dtype=torch.float64).to(memory_format=LAST)


def is_ours(outputs: Tensor) -> bool:
    return outputs.grad_fn is not None and "_Convolved" in outputs.grad_fn.name()


@pytest.mark.parametrize("options", OPTIONS + PLAIN, ids=str)
@pytest.mark.parametrize("needs_x", [True, False])
def test_outputs_and_gradients(options: dict[str, Any], needs_x: bool) -> None:
    found = []
    for layer in layers(**options):
        x = images().requires_grad_(needs_x)
        outputs = layer(x)
        ours = needs_x and isinstance(layer, NarrowConv2d) and options not in PLAIN
        assert is_ours(outputs) == ours
        outputs.sin().sum().backward()
        found.append((outputs.detach(), x.grad, [p.grad for p in layer.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_frozen_weights() -> None:
    found = []
    for layer in layers():
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
        x = images().requires_grad_()
        layer(x).sin().sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_of_gradients(options: dict[str, Any]) -> None:
    layer, _ = layers(**options)

    def outputs(x: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(dict(layer.named_parameters()), parameters, strict=True))
        found: Tensor = torch.func.functional_call(layer, given, (x.to(memory_format=LAST),))
        return found.sin().sum()

    point = [images()[:1, :, :5, :5], *(p.detach() for p in layer.parameters())]
    leaves = [one.clone().requires_grad_() for one in point]
    assert torch.autograd.gradcheck(outputs, leaves)
    assert torch.autograd.gradgradcheck(outputs, leaves)


def test_where_torchs_own_is_used() -> None:
    layer, theirs = layers()
    x = images().requires_grad_()
    assert is_ours(layer(x))
    assert not is_ours(layer(x.contiguous()))
    with torch.no_grad():
        assert layer(x).grad_fn is None
    direction = images().flip(0)
    jacobians = [torch.func.jvp(one, (images(),), (direction,))[1] for one in (layer, theirs)]
    torch.testing.assert_close(*jacobians)
    slopes = torch.stack([torch.ones_like(layer(x)), layer(x).detach()])
    many = [
        torch.autograd.grad(one(x), x, slopes, is_grads_batched=True) for one in (layer, theirs)
    ]
    torch.testing.assert_close(*many)
    outputs = layer(x)
    pulled = torch.func.vmap(lambda s: torch.autograd.grad(outputs, x, s, retain_graph=True)[0])
    torch.testing.assert_close(pulled(slopes), many[0][0])
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_ours(layer.float()(x.detach().float().requires_grad_()))
    layer.double()
    with forward_ad.dual_level():
        weight = layer.get_parameter("weight")
        dual = forward_ad.make_dual(weight, weight)  # type: ignore[no-untyped-call]
        assert not is_ours(torch.func.functional_call(layer, {"weight": dual}, (x,)))
    traced = torch.fx.symbolic_trace(layer)
    torch.testing.assert_close(traced(x), layer(x))
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(layer, backend=backend, fullgraph=True)(x), layer(x))
    assert len(graphs) == 1
    torch._dynamo.reset()
