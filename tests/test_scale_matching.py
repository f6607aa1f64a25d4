"""Losses times a factor, exactly, and searches in which losses compete at equal gradient norms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomal import InputError, NeuralLoss, Run, SymbolicLoss, TaylorLoss, load_loss, resume, search
from evomal.expressions.expression import Expression
from evomal.expressions.primitives import PRIMITIVES
from evomal.losses.meta import MetaLoss
from evomal.losses.names import BEST_LOSS
from evomal.runs.work import train_candidates
from evomal.tasks.task import Task
from evomal.training.filters import gradient_key
from evomal.training.raw_outputs import output_gradient
from evomal.training.scale_matching import MOST, scale_matched
from evomal.training.screening import screen
from evomal.training.settings import Pipeline
from evomal.training.workbench import Workbench
from run_helpers import TINY, Recorder, known_to, tiny_settings, without_timing
from strategies import STANDARDISED, fast, pairs, polynomials, weighted_losses
from tasks_for_tests import PLAIN, TASK_BY_LINK, classification_task, regression_task

F64 = torch.float64
FACTORS = st.floats(1e-6, 1e6)
Y, F = pairs(STANDARDISED)


def values(loss: MetaLoss) -> Tensor:
    return loss.elementwise(Y, F, loss.phi)


def gradient_norm(bench: Workbench, loss: Any) -> float:
    (task,), (outputs,) = bench.tasks, bench.raw_outputs
    inputs = task.loss_inputs(outputs, 0.0) if isinstance(loss, MetaLoss) else {}
    return float(output_gradient(loss, outputs, inputs)[1].norm())


# A loss times a factor


ROOTS = {
    "add(y, f)": ("add(y, f)", [8.0, 12.0]),
    "sub(y, f)": ("sub(y, f)", [8.0, 12.0]),
    "min(y, f)": ("min(y, f)", [8.0, 12.0]),
    "max(y, f)": ("max(y, f)", [8.0, 12.0]),
    "mul(y, f)": ("mul(y, f)", [8.0, 3.0]),
    "div(y, f)": ("div(y, f)", [8.0, 3.0]),
    "abs(f)": ("abs(f)", [8.0]),
    "square(f)": ("square(f)", [4.0]),
    "log(f)": ("mul(1, log(f))", [4.0, 1.0, 2.0]),
    "sqrt(f)": ("mul(1, sqrt(f))", [4.0, 1.0, 2.0]),
    "tanh(f)": ("mul(1, tanh(f))", [4.0, 1.0, 2.0]),
    "sign(f)": ("mul(1, sign(f))", [4.0, 1.0, 2.0]),
    "f": ("mul(1, f)", [4.0, 1.0]),
    "add(mul(y, f), abs(f))": ("add(mul(y, f), abs(f))", [8.0, 3.0, 4.0, 20.0, 6.0]),
}
"""A loss with weights 2, 3, …; four times it: expression and weights."""


@pytest.mark.parametrize(("text", "expression", "phi"), [(k, *v) for k, v in ROOTS.items()])
def test_the_factor_is_in_the_edges_of_the_root(
    text: str, expression: str, phi: list[float]
) -> None:
    loss = SymbolicLoss(text)
    loss = loss.with_phi([2.0 + i for i in range(len(loss.phi))]).double()
    found = loss.scaled(4.0)
    assert (str(found.expression), found.phi.tolist()) == (expression, phi)
    torch.testing.assert_close(values(found), 4 * values(loss), rtol=1e-15, atol=0)
    assert loss.phi.tolist() == [2.0 + i for i in range(len(loss.phi))]
    again = found.scaled(0.25)
    assert str(again.expression) == expression  # it does not grow twice
    torch.testing.assert_close(values(again), values(loss), rtol=1e-15, atol=0)


def test_every_primitive_can_be_a_root() -> None:
    assert {text.partition("(")[0] for text in ROOTS} == {*PRIMITIVES, "f"}


@given(drawn=weighted_losses(), factor=FACTORS)
@fast
def test_a_scaled_loss_is_exactly_so_many_times_as_large(
    drawn: tuple[Expression, Tensor], factor: float
) -> None:
    loss = SymbolicLoss(*drawn)
    scaled = loss.scaled(factor)
    assert scaled.size - loss.size in (0, 2)
    large = values(loss).abs().max().item()
    # Below the root, a + b rounds at the size of a and b, which may cancel.
    parts = [float(part.abs().max()) for part in _arguments(loss)]
    bound = 1e-14 * factor * max(1.0, large, *parts)
    torch.testing.assert_close(values(scaled), factor * values(loss), rtol=1e-12, atol=bound)


def _arguments(loss: SymbolicLoss) -> list[Tensor]:
    """The weighted arguments of the root."""
    found, argument = [], 1
    while argument < len(loss.expression):
        end = loss.expression.ends[argument]
        part = SymbolicLoss(
            Expression(loss.expression.subtree(argument)), loss.phi[argument : end - 1]
        )
        found.append(loss.phi[argument - 1] * values(part))
        argument = end
    return found


@given(loss=polynomials(), factor=FACTORS)
@fast
def test_a_polynomial_scales_its_coefficients(loss: TaylorLoss, factor: float) -> None:
    scaled = loss.scaled(factor)
    assert torch.equal(scaled.phi[:2], loss.phi[:2])
    torch.testing.assert_close(scaled.phi[2:], factor * loss.phi[2:], rtol=1e-15, atol=0)
    bound = 1e-12 * factor * float(loss.phi.abs().max() + 5) ** 6
    torch.testing.assert_close(values(scaled), factor * values(loss), rtol=1e-12, atol=bound)


@pytest.mark.parametrize(
    "loss",
    [
        NeuralLoss(hidden=[2]),
        SymbolicLoss("mul(y, f)", activation="softplus"),
        TaylorLoss(activation="softplus"),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_loss_that_cannot_be_scaled_stays(loss: MetaLoss) -> None:
    assert loss.scaled(3.0) is loss


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf, True, "2"], ids=str)
@pytest.mark.parametrize("loss", [NeuralLoss(), SymbolicLoss("mul(y, f)"), TaylorLoss()])
def test_a_senseless_factor_is_refused(loss: MetaLoss, factor: Any) -> None:
    with pytest.raises(InputError, match="factor of a loss must be a number above 0"):
        loss.scaled(factor)


@pytest.mark.parametrize("text", ["mul(y, f)", "tanh(mul(y, f))"])
def test_a_scaled_loss_keeps_its_arguments(text: str) -> None:
    loss = SymbolicLoss(
        text, link="softmax", reduction="sum", inputs=["w"], weight=[1.0, 2.0], ignore_index=1
    )
    rest = {"expression": None, "phi": None}
    assert {**loss.scaled(2.0).to_dict(), **rest} == {**loss.to_dict(), **rest}
    pred, target = (
        torch.randn(5, 2, generator=torch.Generator().manual_seed(0)),
        torch.arange(5) % 2,
    )
    torch.testing.assert_close(loss.scaled(2.0)(pred, target), 2 * loss(pred, target))


# Losses at the gradient of the task loss


SHAPES = [
    "square(sub(y, f))",
    "mul(-1, mul(y, log(f)))",
    "abs(sub(y, f))",
    "tanh(square(sub(y, f)))",
    "log(add(1, square(sub(y, f))))",
    "div(square(sub(y, f)), f)",
]


@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize("link", TASK_BY_LINK)
def test_gradients_are_as_large_as_the_task_losss(link: Any, text: str) -> None:
    bench = Workbench([TASK_BY_LINK[link](F64)], tiny_settings(match_scale=True), 0)
    loss = SymbolicLoss(text, link=link).double().scaled(0.01)
    found = gradient_norm(bench, scale_matched(bench, loss))
    assert found == pytest.approx(gradient_norm(bench, bench.tasks[0].task_loss), rel=1e-9)
    assert gradient_norm(bench, loss) != pytest.approx(found, rel=0.1)


def test_the_task_loss_itself_keeps_its_scale() -> None:
    bench = Workbench([regression_task(F64)], tiny_settings(), 0)
    matched = scale_matched(bench, SymbolicLoss("square(sub(y, f))").double())
    assert matched.phi.tolist() == pytest.approx([1.0, 1.0, 1.0], rel=1e-12)


def test_one_factor_for_all_tasks() -> None:
    tasks = [
        regression_task(F64),
        regression_task(F64, name="other", task_loss=lambda a, b: 3 * (a - b).square().mean()),
    ]
    norms = []
    for task in tasks:
        bench = Workbench([task], tiny_settings(), 0)
        norms.append(gradient_norm(bench, torch.nn.MSELoss()))
    loss = scale_matched(
        Workbench(tasks, tiny_settings(), 0), SymbolicLoss("mul(1, square(sub(y, f)))").double()
    )
    assert loss.phi[0].item() == pytest.approx((norms[0] + 3 * norms[1]) / sum(norms))


@pytest.mark.parametrize("text", ["sign(sub(y, f))", "square(" * 12 + "add(9, f)" + ")" * 12])
def test_without_a_direction_there_is_no_factor(text: str) -> None:
    bench = Workbench([regression_task()], tiny_settings(), 0)
    text = text.replace("9", "add(1, square(add(1, add(1, square(y)))))")
    loss = SymbolicLoss(text)
    loss = loss.with_phi(torch.full_like(loss.phi, 3.0))
    assert scale_matched(bench, loss) is loss


def test_a_factor_has_a_limit() -> None:
    bench = Workbench([regression_task(F64)], tiny_settings(), 0)
    faint = SymbolicLoss("mul(1, square(sub(y, f)))", [1e-12, 1.0, 1.0, 1.0, 1.0]).double()
    assert scale_matched(bench, faint).phi[0].item() == pytest.approx(1e-12 * MOST)


def test_equivalence_is_decided_before_scaling() -> None:
    """At nearly equal outputs, all gradients of one norm would look the same."""
    losses = [SymbolicLoss(text).double() for text in ("square(sub(y, f))", "abs(sub(y, f))")]
    keys = []
    for match_scale in (False, True):
        bench = Workbench([regression_task(F64)], tiny_settings(match_scale=match_scale), 0)
        keys.append(
            [one.gradient_key for one in screen(bench, losses, Pipeline(False, True, True))]
        )
    assert keys[0] == keys[1] == [gradient_key(bench, loss) for loss in losses]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("text", ["square(sub(y, f))", "tanh(square(sub(y, f)))"])
def test_a_scale_is_a_learning_rate(text: str, momentum: float) -> None:
    def trained(loss: SymbolicLoss, learning_rate: float) -> float:
        optimizer = replace(PLAIN, learning_rate=learning_rate, momentum=momentum)
        bench = Workbench([regression_task(F64, optimizer=optimizer)], tiny_settings(), 0)
        return train_candidates(bench, [loss], 0)[0].curve[-1]

    loss = SymbolicLoss(text).double()
    assert trained(loss.scaled(4.0), 0.02) == pytest.approx(trained(loss, 0.08), rel=1e-9)
    assert trained(loss, 0.02) != pytest.approx(trained(loss, 0.08), rel=1e-3)


# In a search


@pytest.fixture(params=["evomal", "gp-lfl", "random"])
def scaled_run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    given: dict[str, Any] = {"initial_losses": ["tanh(square(sub(y, f)))"], "match_scale": True}
    settings = known_to(request.param, {**TINY, **given})
    return search(regression_task(), method=request.param, run_dir=tmp_path, seed=1, **settings)


@pytest.mark.usefixtures("instant_formulas")
def test_losses_of_a_search_have_the_task_losss_gradient(scaled_run: Run, tmp_path: Path) -> None:
    run = Run(tmp_path)  # it reads all that was stored, roots of their own included
    task: Task = regression_task()
    bench = Workbench([task], tiny_settings(match_scale=True), 1)
    expected = gradient_norm(bench, task.task_loss)
    assert run.hall_of_fame
    for entry in run.hall_of_fame:
        assert gradient_norm(bench, entry.loss) == pytest.approx(expected, rel=1e-3)
        fitness = train_candidates(bench, [entry.loss], 0)[0].curve[-1]
        assert entry.fitness == pytest.approx(fitness)
    assert load_loss(tmp_path / BEST_LOSS).to_dict() == run.best.loss.to_dict()
    roots = [o.loss.structure for o in run.archive.distinct if isinstance(o.loss, SymbolicLoss)]
    assert any(root.startswith("mul(1, tanh(") for root in roots) is (run.facts.method != "random")


@pytest.mark.usefixtures("instant_formulas")
def test_a_search_with_scaled_losses_resumes(tmp_path: Path) -> None:
    def start(where: str, *callbacks: Recorder) -> Run:
        given: dict[str, Any] = {**TINY, "initial_losses": ["tanh(square(sub(y, f)))"]}
        task, run_dir = regression_task(), tmp_path / where
        return search(task, run_dir=run_dir, match_scale=True, callbacks=callbacks, **given)

    with pytest.raises(KeyboardInterrupt):
        start("broken", Recorder("candidate", 7))
    resumed, whole = resume(tmp_path / "broken", regression_task()), start("whole")
    assert without_timing(resumed.summary()) == without_timing(whole.summary())


def test_tuned_weights_are_scaled_afterwards() -> None:
    bench = Workbench([classification_task()], tiny_settings(), 0)
    matching = Workbench([classification_task()], tiny_settings(match_scale=True), 0)
    loss = SymbolicLoss("mul(-1, mul(y, log(f)))", link="softmax")
    (plain,), (matched,) = (
        screen(one, [loss], Pipeline(True, True, True)) for one in (bench, matching)
    )
    assert not bool((plain.loss.phi == 1).all())
    assert torch.equal(matched.loss.phi[1:], plain.loss.phi[1:])
    assert torch.equal(matched.loss.phi, scale_matched(bench, plain.loss).phi)
