"""Straight-line programs against the plain evaluation of expressions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomal import SymbolicLoss, parse
from evomal.expressions import program
from evomal.expressions.expression import Expression
from strategies import PROBABILITIES, STANDARDISED, fast, pairs, weighted_losses


def run(expression: Expression, y: Tensor, f: Tensor, weights: Any) -> Tensor:
    """The value of the program as one tensor."""
    steps = program.steps_of(expression)
    factor, tensor = program.evaluate(steps, {"y": y, "f": f}, weights, f)
    return tensor if factor is None else tensor * factor


def gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value.sum(), leaves, materialize_grads=True))


@pytest.mark.parametrize("values", [PROBABILITIES, STANDARDISED], ids=["unit", "standardised"])
@fast
@given(drawn=weighted_losses(5))
def test_values_and_gradients_are_those_of_the_plain_evaluation(
    values: list[float], drawn: tuple[Expression, Tensor]
) -> None:
    expression, phi = drawn
    y, f = pairs(values)
    leaves = [f.requires_grad_(), phi.requires_grad_()]
    plain = expression.evaluate(y, f, phi)
    fused = run(expression, y, f, phi.unbind())
    scale = plain.detach().abs().max()
    torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-9 * float(scale))
    for ours, reference in zip(gradients(fused, leaves), gradients(plain, leaves), strict=True):
        bound = 1e-9 * (1 + float(reference.abs().max()))  # sums can cancel
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=bound)
    numbers = run(expression, y, f, phi.tolist())
    torch.testing.assert_close(numbers, plain, rtol=1e-9, atol=1e-9 * float(scale))
    assert numbers.shape == f.shape


@fast
@given(drawn=weighted_losses(5), link=st.sampled_from(["softmax", "sigmoid", "identity"]))
def test_single_precision_is_as_near(drawn: tuple[Expression, Tensor], link: Any) -> None:
    expression, phi = drawn
    rng = torch.Generator().manual_seed(0)
    pred = torch.randn(16, 4, generator=rng, dtype=torch.float64)
    target = torch.rand(16, 4, generator=rng, dtype=torch.float64)
    loss = SymbolicLoss(expression, phi, link, reduction="none")
    exact = loss.evaluate(pred, target, loss.weights)
    single = loss.float()
    near = single(pred.float(), target.float())
    y, f, _ = single._arguments(pred.float(), target.float())
    reference = single.elementwise(y, f, phi.float())
    reference = reference.sum(dim=1) if link == "softmax" else reference
    error = (near - exact).abs().max()
    limit = max(2 * float((reference - exact).abs().max()), 1e-4 * float(exact.abs().max()))
    assert error <= limit or not exact.isfinite().all()


def test_weights_of_none_are_ones() -> None:
    y, f = torch.tensor([0.5, 2.0]), torch.tensor([3.0, -1.0])
    for text in ["mul(-1, mul(y, log(f)))", "mul(1, -1)", "add(1, square(-1))", "f", "sub(1, 1)"]:
        expression = parse(text)
        fused = run(expression, y, f, None)
        torch.testing.assert_close(fused, expression.evaluate(y, f))


def test_factors_meet_before_tensors_do() -> None:
    """-1 and the five weights of cross-entropy are one number, but for that inside the log."""
    y, f = torch.rand(5), torch.rand(5)
    factor, tensor = program.evaluate(
        program.steps_of(parse("mul(-1, mul(y, log(f)))")),
        {"y": y, "f": f},
        [2.0, 3.0, 5.0, 7.0, 11.0],
        f,
    )
    assert factor == -2.0 * 3.0 * 5.0 * 7.0
    torch.testing.assert_close(tensor, y * torch.log(11 * f + 1e-7))


TEN_NODES = "sub(mul(y, abs(log(f))), square(sub(y, f)))"


@pytest.mark.parametrize("link", ["softmax", "sigmoid", "identity"])
def test_a_loss_compiles_to_one_graph_and_only_once(link: Any) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    loss = SymbolicLoss(TEN_NODES, torch.rand(9) + 0.5, link=link)
    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        pred = torch.randn(8, 3, generator=rng, requires_grad=True)
        target = torch.rand(8, 3, generator=rng) if link != "softmax" else torch.arange(8) % 3
        ours, plain = compiled(pred, target), loss(pred, target)
        torch.testing.assert_close(ours, plain)
        slopes = [torch.autograd.grad(value, pred)[0] for value in (ours, plain)]
        torch.testing.assert_close(*slopes)
    assert len(graphs) == 1
    torch._dynamo.reset()
