"""Weights optimised for a group of losses at once, against one loss after the other."""

from __future__ import annotations

import math
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import evomal
from evomal import SymbolicLoss, Task
from evomal.cli.tables import run_overview
from evomal.errors import InputError
from evomal.losses.meta import MetaLoss
from evomal.tasks.metrics import error_rate
from evomal.training.engines import batched, choice, stacked
from evomal.training.engines.choice import engine_on, with_engine
from evomal.training.engines.loop import LoopEngine
from evomal.training.filters import _optimize_outputs, correlations
from evomal.training.halving import LearningCurve
from evomal.training.hypergradient.forward import forward_hypergradient
from evomal.training.hypergradient.group import group_hypergradients
from evomal.training.loop import halved_training, partial_training
from evomal.training.meta_schedule import MetaSchedule
from evomal.training.numerics import DivergedError, is_out_of_memory
from evomal.training.raw_outputs import raw_outputs
from evomal.training.screening import screen
from evomal.training.settings import EvaluationSettings, Pipeline
from evomal.training.stack import stacked_training
from evomal.training.support import group_problem, group_way
from evomal.training.workbench import Workbench
from run_helpers import OVERFLOW, run_python, tiny_settings, without_timing
from strategies import fast, networks, polynomials, weighted_losses
from tasks_for_tests import (
    TEXTS,
    NoForwardMode,
    Perceptron,
    classification_task,
    image_task,
    losses_for,
    regression_task,
)

F64 = torch.float64
ENGINES: list[Any] = ["batched", "stacked"]


SYMBOLIC = weighted_losses(3).map(lambda drawn: SymbolicLoss(*drawn, "softmax"))
OTHERS = networks(link="softmax") | polynomials(link="softmax")


@fast
@given(losses=st.lists(SYMBOLIC | OTHERS, min_size=1, max_size=4))
def test_gradients_of_random_groups(losses: list[MetaLoss]) -> None:
    task = classification_task(F64)
    step = MetaSchedule(task, EvaluationSettings(meta_steps=1), seed=3).step(0)
    phis = [loss.phi.clone().requires_grad_() for loss in losses]
    in_one = len(losses) % 2 == 0
    layers = group_way(task, stacked=in_one).layers
    found = group_hypergradients(losses, phis, step, layers, stacked=in_one)
    rows = zip(losses, phis, found.gradients, found.finite.tolist(), strict=True)
    for loss, phi, ours, finite in rows:
        try:
            reference = forward_hypergradient(loss, phi, step)
        except DivergedError:
            assert not finite
            continue
        assert finite
        bound = 1e-9 * (1e-3 + float(reference.abs().max()))
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=bound)


def test_single_precision_is_as_near() -> None:
    task = image_task()
    losses = [SymbolicLoss(text, link=task.link) for text in TEXTS]
    step = MetaSchedule(task, EvaluationSettings(meta_steps=1), seed=5).step(0)
    phis = [loss.phi.clone().requires_grad_() for loss in losses]
    layers = group_way(task, stacked=False).layers
    found = group_hypergradients(losses, phis, step, layers, stacked=False)
    for loss, phi, ours in zip(losses, phis, found.gradients, strict=True):
        reference = forward_hypergradient(loss, phi, step)
        # relative to all of φ, as some of its gradients may be 0 up to rounding
        bound = 1e-4 * float(reference.abs().max())
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=bound)


def test_a_group_leaves_the_generators_and_the_learner_alone() -> None:
    task = image_task()
    step = MetaSchedule(task, EvaluationSettings(meta_steps=1), seed=3).step(0)
    before = {name: t.clone() for name, t in step.learner.state_dict().items()}
    state = torch.random.get_rng_state()
    losses = [SymbolicLoss(TEXTS[0], link=task.link)]
    group_hypergradients(losses, [losses[0].phi.clone().requires_grad_()], step, stacked=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in step.learner.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_rejection_protocol_is_the_same_side_by_side() -> None:
    """Against plain Adam on one loss after the other."""
    task = image_task(F64)
    losses = [*losses_for(task), SymbolicLoss(OVERFLOW, torch.ones(17, dtype=F64), task.link)]
    settings = EvaluationSettings(rejection_steps=15, rejection_batch=12)
    found = correlations(Workbench([task, task], settings, 4), losses)
    outputs = raw_outputs(task, 12, 4)
    optimized = _optimize_outputs(losses, task, outputs, 15)
    assert [one.diverged for one in found] == [
        not bool(ours.isfinite().all()) for ours in optimized
    ]
    for loss, ours, one in list(zip(losses, optimized, found, strict=True))[:-1]:
        pred = outputs.inputs.clone().requires_grad_()
        adam = torch.optim.Adam([pred], lr=task.optimizer.learning_rate)
        for _ in range(15):
            adam.zero_grad()
            loss(pred, outputs.targets).backward()
            adam.step()
        torch.testing.assert_close(ours, pred.detach(), rtol=1e-9, atol=1e-9)
        change = error_rate(outputs.inputs, outputs.targets) - error_rate(ours, outputs.targets)
        assert one.g == pytest.approx(change)
    assert found[-1].g is None


# The rule


def chosen(task: Task, *, tunes: bool = True, **settings: Any) -> tuple[str, int | None, str]:
    found, reason = with_engine(EvaluationSettings(**settings), [task], tunes=tunes)
    return found.engine, found.group_size, reason


def test_the_engine_follows_a_fixed_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = regression_task()
    on_cpu = "CPU; the base learner supports it"
    assert chosen(plain) == ("batched", 4, on_cpu)
    assert chosen(image_task()) == ("batched", 4, on_cpu)
    assert chosen(plain, group_size=7) == ("batched", 7, on_cpu)
    assert chosen(plain, engine="batched") == ("batched", 4, "as requested")
    assert chosen(plain, engine="loop", group_size=7) == ("loop", 1, "as requested")
    several = "more than one base step is differentiated"
    assert chosen(plain, base_steps=2) == ("loop", 1, several)
    assert chosen(plain, tunes=False) == ("loop", 1, "the method does not tune weights")
    name, size, reason = chosen(regression_task(model=NoForwardMode))
    assert (name, size) == ("loop", 1)
    assert reason.startswith("CPU; not batched: NotImplementedError: ")
    monkeypatch.setattr(choice, "MOST_PARAMETERS", 4 * 26 - 1)
    assert chosen(plain) == ("loop", 1, "a group's base learners have over 103 parameters")
    assert sum(p.numel() for p in Perceptron().parameters()) == 26


def test_an_engine_that_cannot_be_is_refused() -> None:
    message = r"does not support the engine batched \(NotImplementedError: .*\); use the "
    with pytest.raises(InputError, match=message):
        chosen(regression_task(model=NoForwardMode), engine="batched")
    assert group_problem(regression_task(), stacked=True) is None
    with pytest.raises(InputError, match="only base_steps of 1"):
        chosen(regression_task(), engine="batched", base_steps=2)
    with pytest.raises(InputError, match="engine must be"):
        EvaluationSettings(engine="fast").validate()  # type: ignore[arg-type]
    with pytest.raises(InputError, match="group_size must be"):
        EvaluationSettings(group_size=0).validate()


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (0, 4, {"loop": [], "batched": [], "stacked": []}),
        (7, 4, {"loop": [1] * 7, "batched": [3, 2, 1, 1], "stacked": [4, 3]}),
        (7, None, {"loop": [1] * 7, "batched": [3, 2, 1, 1], "stacked": [7]}),
        (
            25,
            4,
            {"loop": [1] * 25, "batched": [4, 4, 4, 4, 3, 2, 2, 1, 1], "stacked": [4] * 6 + [1]},
        ),
    ],
)
def test_groups(count: int, size: int | None, expected: dict[str, list[int]]) -> None:
    found = {name: engine.group_sizes(count, size) for name, engine in choice.ENGINES.items()}
    assert found == expected


def test_an_engine_that_is_not_chosen_yet_is_the_loop() -> None:
    kinds = [choice.engine_type(tiny_settings(engine=name)) for name in ("auto", "loop", "stacked")]
    assert kinds == [LoopEngine, LoopEngine, stacked.StackedEngine]
    facts = [(kind.tunes_in_groups, kind.trains_together) for kind in choice.ENGINES.values()]
    assert facts == [(False, False), (True, False), (True, True)]


@pytest.mark.parametrize("module", [batched, stacked])
def test_a_group_that_does_not_fit_is_halved(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    as_it_is = module.tune_group

    def short_of_memory(bench: Any, losses: Any, **options: Any) -> Any:
        sizes.append(len(losses))
        if len(losses) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return as_it_is(bench, losses, **options)

    monkeypatch.setattr(module, "tune_group", short_of_memory)
    losses = [SymbolicLoss(text) for text in (*TEXTS, "abs(sub(y, f))", "square(sub(f, y))")]
    name: Any = module.__name__.rpartition(".")[2]
    bench = Workbench([regression_task()], tiny_settings(engine=name, group_size=5), 0)
    found = screen(bench, losses, Pipeline(tune=True, reject=False, match_gradients=False))
    assert sizes == [5, 2, 3, 1, 2]
    assert [one.verdict for one in found] == ["promising"] * 5
    assert [len(one.loss.phi) for one in found] == [len(loss.phi) for loss in losses]
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: tried"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_another_error_is_not_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(batched, "tune_group", broken)
    losses = [SymbolicLoss(text) for text in TEXTS]
    bench = Workbench([regression_task()], tiny_settings(engine="batched"), 0)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        screen(bench, losses, Pipeline(tune=True, reject=True, match_gradients=True))


MEMORY = """
import re, sys
from pathlib import Path
import torch
from torch import nn
from functools import partial
from evomal import SymbolicLoss, Task
from evomal.tasks.models.mlp import MLP
from evomal.training.engines.choice import engine_on
from evomal.training.settings import EvaluationSettings
from evomal.training.workbench import Workbench

def peak():
    # not ru_maxrss, which a child begins with its parent's
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
data, other = ((torch.randn(64, 4000), torch.randn(64, 1)) for _ in range(2))
task = Task(partial(MLP, 4000, 1), data, other, link="identity", batch_size=64)
count = sum(p.numel() for p in task.new_model(0).parameters()) + 64 * (2 * 1000 + 1)
losses = [SymbolicLoss("square(sub(y, f))")] * 6
settings = EvaluationSettings(meta_steps=2, engine=sys.argv[1])
before = peak()
engine_on(Workbench([task], settings, 0)).tune(losses)
print((peak() - before) / (len(losses) * count * 4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_group_needs_no_more_than_four_times_its_learners(engine: str) -> None:
    status, output, errors = run_python("-c", MEMORY, engine)
    assert (status, errors) == (0, "")
    assert 0.5 < float(output) < 4, "learners with one batch's activations"


# Stacked trainings


def test_a_training_group_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def short_of_memory(task: Any, losses: Any, *rest: Any) -> list[LearningCurve]:
        sizes.append(len(losses))
        if len(losses) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stacked_training(task, losses, *rest)

    monkeypatch.setattr(stacked, "stacked_training", short_of_memory)
    task = regression_task(F64)
    losses = losses_for(task)
    bench = Workbench([task], EvaluationSettings(testing_steps=5, engine="stacked"), 0)
    found = engine_on(bench).train(losses, 0)
    assert sizes == [3, 1, 2, 1, 1]
    for one, loss in zip(found, losses, strict=True):
        assert list(one.curve) == [pytest.approx(partial_training(task, loss, 5, 0))]


@pytest.mark.parametrize("name", ["loop", *ENGINES])
def test_the_tasks_own_loss_trains_the_same_to_the_last_bit(name: Any) -> None:
    task, other = regression_task(F64), regression_task(F64, name="b")
    losses = losses_for(task)
    bench = Workbench([other, task], EvaluationSettings(testing_steps=12, engine=name), 6)
    none = math.inf, math.inf
    own, first = engine_on(bench).train([None, losses[0]], 1, none)
    (same,) = engine_on(bench).train([None], 1, none)
    assert own.curve == same.curve == halved_training(task, task.task_loss, 12, 6, none)
    assert first.curve == halved_training(task, losses[0], 12, 6, none)


def test_extra_inputs_reach_stacked_trainings() -> None:
    weights = torch.linspace(0, 1, 40, dtype=F64)
    task = regression_task(F64, loss_inputs={"w": weights, "t": "progress"})
    text = "mul(add(w, t), square(sub(y, f)))"
    loss = SymbolicLoss(text, torch.ones(7, dtype=F64), inputs=task.form.inputs)
    ((ours,),) = stacked_training(task, [loss], 7, 0)
    assert ours == pytest.approx(partial_training(task, loss, 7, 0), rel=1e-9)


# Whole searches


@pytest.mark.usefixtures("instant_formulas")
def test_all_engines_find_the_same_and_say_which_they_are(tmp_path: Path) -> None:
    found = {}
    for name in ("loop", *ENGINES):
        settings = tiny_settings(population_size=9, engine=name)
        run = evomal.search(image_task(F64), settings=settings, run_dir=tmp_path / name, seed=2)
        found[name] = without_timing(run.summary())
        assert found[name]["settings"]["engine"] == name
    for name in ENGINES:
        assert found[name]["outcomes"] == found["loop"]["outcomes"]
        ours, theirs = (
            [entry["fitness"] for entry in found[one]["hall_of_fame"]] for one in (name, "loop")
        )
        assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.usefixtures("instant_formulas")
def test_the_choice_is_recorded(tmp_path: Path) -> None:
    run = evomal.search(regression_task(), settings=tiny_settings(), run_dir=tmp_path / "a")
    assert (run.facts.settings.engine, run.facts.settings.group_size) == ("batched", 4)
    assert run.summary()["engine_reason"] == "CPU; the base learner supports it"
    console = Console(width=100, file=StringIO(), record=True)
    console.print(run_overview(run))
    line = "Engine: batched, in groups of 4 (CPU; the base learner supports it)"
    assert line in console.export_text()
