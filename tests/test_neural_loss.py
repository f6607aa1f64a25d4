"""The loss of ML³: torch's own layers, derivatives of any order, arguments."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evomal import NeuralLoss
from evomal.errors import InputError
from evomal.losses.form import Form
from evomal.seeding import isolated_rng
from handcrafted_losses import classes, draw


def by_hand(loss: NeuralLoss) -> nn.Sequential:
    """The same network of torch's layers, in double precision."""
    widths = [2 + len(loss.inputs), *loss.hidden, 1]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    network = nn.Sequential(*layers[:-1]).double()
    nn.utils.vector_to_parameters(loss.phi.double(), network.parameters())
    return network


def drawn(**settings: Any) -> NeuralLoss:
    """A loss in double precision with weights of its own."""
    loss = NeuralLoss(**settings).double()
    return loss.drawn(np.random.default_rng(5))


@pytest.mark.parametrize(
    "settings",
    [{}, {"hidden": (7,)}, {"hidden": [4, 3, 5]}, {"inputs": ("w", "t")}],
    ids=str,
)
@pytest.mark.parametrize("activation", ["softplus", "identity"])
def test_it_is_the_network_of_torchs_layers(settings: dict[str, Any], activation: Any) -> None:
    loss = drawn(activation=activation, reduction="none", **settings)
    y, f, w = draw(6, 4), draw(6, 4, seed=1), draw(6, seed=2)
    given = {"w": w, "t": 0.3} if loss.inputs else {}
    columns = [y, f, w[:, None].expand(6, 4), torch.full((6, 4), 0.3, dtype=torch.float64)]
    expected = by_hand(loss)(torch.stack(columns[: 2 + len(loss.inputs)], dim=-1)).squeeze(-1)
    if activation == "softplus":
        expected = nn.functional.softplus(expected)
        assert (expected > 0).all()
    torch.testing.assert_close(loss(f, y, **given), expected, rtol=1e-12, atol=1e-12)


def test_over_classes_it_is_summed() -> None:
    loss = drawn(link="softmax")
    pred, target = draw(5, 3), classes(5, count=3)
    y = nn.functional.one_hot(target, 3).double()
    elements = nn.functional.softplus(by_hand(loss)(torch.stack([y, pred.softmax(1)], -1)))
    torch.testing.assert_close(
        loss(pred, target), elements.sum((1, 2)).mean(), rtol=1e-12, atol=1e-12
    )


def test_derivatives_of_derivatives_by_all_arguments() -> None:
    loss = drawn(hidden=(6, 5))
    network = by_hand(loss)
    shapes = {name: layer.shape for name, layer in network.named_parameters()}

    def of_torch(y: Tensor, f: Tensor, phi: Tensor) -> Tensor:
        parts = phi.split([math.prod(shape) for shape in shapes.values()])  # type: ignore[no-untyped-call]
        weights = {
            name: part.reshape(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        values: Tensor = torch.func.functional_call(network, weights, torch.stack([y, f], -1))
        return values.squeeze(-1)

    results = []
    for way in (loss.elementwise, of_torch):
        leaves = [x.clone().requires_grad_() for x in (draw(4), draw(4, seed=1), loss.phi)]
        total = way(*leaves).square().sum()
        slopes = torch.autograd.grad(total, leaves, create_graph=True)
        cubes = torch.stack([slope.pow(3).sum() for slope in slopes]).sum()
        results.append([*slopes, *torch.autograd.grad(cubes, leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        assert (one != 0).any()


def test_products_are_not_rounded_under_autocast() -> None:
    loss = NeuralLoss(link="softmax")
    pred, target = draw(5, 3, dtype=torch.float32), classes(5, count=3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(pred, target), loss(pred, target).float())
        inside = loss(pred, target)
    assert torch.equal(inside, loss(pred, target))


def test_first_weights_are_as_torchs_layers_have_them() -> None:
    loss = NeuralLoss(hidden=(400, 300), inputs=("w",))
    phi = loss.drawn(np.random.default_rng(0)).phi
    assert (phi.dtype, phi.shape) == (loss.phi.dtype, loss.phi.shape)
    for part, inputs in zip(torch.split(phi, [1200, 120_000, 300]), (3, 400, 300), strict=True):
        bound = 1 / math.sqrt(inputs)
        with isolated_rng(phi.device, 0):
            layer = nn.Linear(inputs, len(part) // inputs, bias=False).weight
        for weights in (part, layer):
            assert 0.98 * bound < weights.abs().max() <= bound
            assert abs(weights.mean()) < 4 * bound / math.sqrt(3 * weights.numel())
    other = loss.drawn(np.random.default_rng(1))
    assert not torch.equal(phi, other.phi)
    assert torch.equal(other.phi, other.initial_phi(np.random.default_rng(0))), "a start of its own"
    assert torch.equal(phi, loss.phi), "without weights, those of the seed 0"


def test_what_it_says_of_itself() -> None:
    loss = NeuralLoss(link="softmax")
    assert (loss.size, loss.structure) == (2650, "network(2-50-50-1)")
    assert loss.describe() == {
        "formula": None,
        "network": "2-50-50-1",
        "parameters": 2650,
        "python": None,
        "link": "softmax",
        "inputs": [],
    }
    other = NeuralLoss.of_form(Form("softmax", ("w",), (1.0, 2.0), 1), hidden=(3,))
    assert other.structure == "network(3-3-1)"
    assert (other.inputs, other.ignore_index) == (("w",), 1)
    assert repr(other) == (
        "NeuralLoss(network(3-3-1), link='softmax', reduction='mean', inputs=('w',))"
    )
    with pytest.raises(InputError, match=r"also depends on w; call it as .*w=…"):
        other(draw(2, 2), classes(2, count=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 50}, "hidden widths must be a list"),
        ({"hidden": "50"}, "hidden widths must be a list"),
        ({"hidden": []}, "1 to 16 hidden layers, but 0"),
        ({"hidden": [1] * 17}, "1 to 16 hidden layers, but 17"),
        ({"hidden": [0]}, "whole number from 1 to 10000, got 0"),
        ({"hidden": [True]}, "whole number from 1 to 10000, got True"),
        ({"hidden": [2.0]}, "whole number from 1 to 10000, got 2.0"),
        ({"hidden": [10**9]}, "whole number from 1 to 10000"),
        ({"phi": [1.0, 2.0]}, r"2-50-50-1 takes 2650 weights, but the given phi has shape \(2,\)"),
        ({"activation": "relu"}, "Unknown activation"),
    ],
)
def test_arguments_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        NeuralLoss(**settings)
    assert "\n" not in str(caught.value)
