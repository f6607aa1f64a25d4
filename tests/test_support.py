"""Which engines suit a base learner: tried, and compared in numbers with plain differentiation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import evomal
from evomal import SymbolicLoss, Task
from evomal.errors import InputError
from evomal.training import support, trial
from evomal.training.engines.choice import engine_on, with_engine
from evomal.training.hypergradient.forward import forward_hypergradient
from evomal.training.hypergradient.group import group_hypergradients
from evomal.training.hypergradient.reverse import reverse_hypergradient
from evomal.training.loop import partial_training
from evomal.training.meta_schedule import MetaSchedule
from evomal.training.numerics import quiet_vmap
from evomal.training.settings import EvaluationSettings
from evomal.training.stack import stacked_training
from evomal.training.support import Way, forward_mode_problem, group_problem, group_way
from evomal.training.trial import spoils_inputs
from evomal.training.workbench import Workbench
from run_helpers import tiny_settings, tiny_settings_of
from tasks_for_tests import losses_for, regression_task
from torch_layers import LAYERS, layer_task

F64 = torch.float64
TEXTS = ["square(sub(y, f))", "mul(sub(y, f), tanh(f))"]

DRAWN_IN_MEMORY_ORDER = {
    "Dropout",
    "Dropout of a sequence",
    "Dropout of an image",
    "AlphaDropout",
}
IN_TURN = {"RReLU", "TransformerEncoderLayer"}
NO_STACK = IN_TURN | {"cdist", "RNN", "LSTM", "GRU"}
NOT_TWICE = {"Hardsigmoid", "cdist"}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_in_every_engine_that_takes_it(name: str, transposed: bool) -> None:
    """On batches and dropout masks other than those that the engines were tried on."""
    task = layer_task(name, transposed=transposed)
    drawn_otherwise = DRAWN_IN_MEMORY_ORDER if transposed else set()
    taken = {
        "forward": forward_mode_problem(task) is None,
        "batched": group_problem(task, stacked=False) is None,
        "stacked": group_problem(task, stacked=True) is None,
    }
    assert taken == {
        "forward": name != "cdist",
        "batched": name != "cdist",
        "stacked": name not in NO_STACK | drawn_otherwise,
    }
    if name in NOT_TWICE:
        return
    assert group_way(task, stacked=False).in_turn == (name in IN_TURN | drawn_otherwise)
    losses = losses_for(task, TEXTS)
    schedule = MetaSchedule(task, EvaluationSettings(meta_steps=3), seed=7)
    with quiet_vmap(), sdpa_kernel(SDPBackend.MATH):
        for step in map(schedule.step, range(3)):
            phis = [loss.phi.clone().requires_grad_() for loss in losses]
            pairs = list(zip(losses, phis, strict=True))
            expected = [reverse_hypergradient(loss, phi, step) for loss, phi in pairs]
            found = {"forward": [forward_hypergradient(loss, phi, step) for loss, phi in pairs]}
            for engine in ("batched", "stacked"):
                if taken[engine]:
                    stacked = engine == "stacked"
                    way = group_way(task, stacked=stacked)
                    group = group_hypergradients(
                        losses, phis, step, way.layers, stacked=stacked, in_turn=way.in_turn
                    )
                    found[engine] = group.gradients
            for gradients in found.values():
                for ours, reference in zip(gradients, expected, strict=True):
                    torch.testing.assert_close(ours, reference, rtol=1e-7, atol=1e-12)
    if taken["stacked"]:
        trained = stacked_training(task, losses, 3, 0)
        for curve, loss in zip(trained, losses, strict=True):
            assert list(curve) == [pytest.approx(partial_training(task, loss, 3, 0), rel=1e-9)]


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_taken_in_single_precision_raises_nothing(name: str) -> None:
    """It is tried in double precision, too, where torch takes other ways, as for LSTMs."""
    if name == "cdist":
        return
    task = layer_task(name, dtype=torch.float32)
    settings = EvaluationSettings(meta_steps=2)
    chosen, _ = with_engine(EvaluationSettings(), [task], tunes=True)
    losses = [SymbolicLoss(text) for text in TEXTS]
    for engine in {chosen.engine, "loop"}:
        found = engine_on(Workbench([task], replace(settings, engine=engine), 0)).tune(losses)
        assert all(isinstance(phi, Tensor) and phi.isfinite().all() for phi in found)


class Weights(nn.Module):
    """Its weights are plain parameters, so that no layer is differentiated by hand."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 8))
        self.v = nn.Parameter(torch.randn(8, 1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.dropout((x @ self.w).tanh().T)
        return hidden.T @ self.v


@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_another_mask_in_the_forward_mode_pass_is_noticed(precision: Any) -> None:
    """Without layers by hand; bfloat16 rounds, so that only the choice can be compared."""
    task = regression_task(model=Weights).in_precision(precision)
    assert group_way(task, stacked=False) == Way(in_turn=True)
    problem = group_problem(task, stacked=True)
    assert problem is not None
    assert "differ" in problem
    task = regression_task(model=partial(Weights, 0.0)).in_precision(precision)
    assert group_way(task, stacked=False) == Way(in_turn=False)
    assert group_problem(task, stacked=True) is None


# Learners that work in place


class Halving(nn.Module):
    """Halves its inputs in place."""

    def __init__(self, how: str, dtype: torch.dtype = F64) -> None:
        super().__init__()
        self.how = how
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)
        self.first = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "data":
            x.data.mul_(0.5)
        elif self.how == "relu":
            x = self.first(x)
        else:
            x.mul_(0.5)
        out: Tensor = self.layers(x)
        return out


@pytest.mark.parametrize("how", ["mul_", "data", "relu"])
def test_a_learner_that_changes_its_inputs_in_place(how: str) -> None:
    task = regression_task(F64, model=partial(Halving, how))
    assert spoils_inputs(task)
    assert not spoils_inputs(regression_task(F64))
    losses = losses_for(task)
    step = MetaSchedule(task, EvaluationSettings(meta_steps=1), seed=7).step(0)
    phis = [loss.phi.clone().requires_grad_() for loss in losses]

    def by_hand(loss: SymbolicLoss) -> Tensor:
        """Double backward in plain torch, every batch read once."""
        learner = task.new_model(0)
        learner.load_state_dict(step.learner.state_dict())
        theta: dict[str, Tensor] = dict(learner.named_parameters())
        phi = loss.phi.clone().requires_grad_()
        batch, judging = step.training[0], step.judging
        pred = torch.func.functional_call(learner, theta, batch.inputs.clone())
        value = loss.evaluate(pred, batch.targets, phi)
        slopes = torch.autograd.grad(value, list(theta.values()), create_graph=True)
        rate = task.optimizer.learning_rate
        updated = {n: p - rate * g for (n, p), g in zip(theta.items(), slopes, strict=True)}
        judged = torch.func.functional_call(learner, updated, judging.inputs.clone())
        (found,) = torch.autograd.grad(task.task_loss(judged, judging.targets), phi)
        return found

    expected = [by_hand(loss) for loss in losses]
    found = [[forward_hypergradient(*pair, step) for pair in zip(losses, phis, strict=True)]]
    found.append([reverse_hypergradient(*pair, step) for pair in zip(losses, phis, strict=True)])
    for stacked in (False, True):
        assert group_problem(task, stacked=stacked) is None
        layers = group_way(task, stacked=stacked).layers
        found.append(group_hypergradients(losses, phis, step, layers, stacked=stacked).gradients)
    for gradients in found:
        for ours, reference in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-14)


# Learners that cannot be trained or differentiated are told before a search


class Bag(nn.Module):
    """The mean of embeddings, which torch differentiates once only."""

    def __init__(self, *, sparse: bool = False) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(10, 4, sparse=sparse)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.bag(x.abs().mul(2).long()))
        return out


class Checkpointed(nn.Module):
    """A checkpoint in the middle."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 1)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(torch.tanh, self.first(x), use_reentrant=self.reentrant)
        out: Tensor = self.last(hidden)
        return out


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))


def scripted() -> nn.Module:
    module: nn.Module = torch.jit.trace(nn.Linear(3, 1), torch.zeros(2, 3))  # type: ignore[no-untyped-call]
    return module


def one_row(part: str) -> dict[str, Any]:
    task = regression_task()
    data = task.train if part == "train" else task.validation
    return {part: (data.inputs[:1], data.targets[:1])}


def refused(model: Callable[[], nn.Module], tmp_path: Path, **parts: Any) -> str:
    task = regression_task()
    data: dict[str, Any] = {"train": task.train, "validation": task.validation, **parts}
    own = Task(model, **data, link="identity", name="own")
    with pytest.raises(InputError) as caught:
        evomal.search(own, settings=tiny_settings(), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Bag, "_embedding_bag_backward"),
        (partial(Checkpointed, reentrant=True), "checkpoint"),
        (scripted, "Jitted"),
    ],
)
def test_a_learner_that_cannot_be_differentiated(
    model: Callable[[], nn.Module], words: str, tmp_path: Path
) -> None:
    message = refused(model, tmp_path)
    assert message.startswith(
        "The weights of losses cannot be learned with the base learner of 'own'"
    )
    assert words in message
    assert "use the method gp-lfl" in message
    assert "\n" not in message
    task = regression_task(model=model)
    run = evomal.search(
        task,
        method="gp-lfl",
        settings=tiny_settings_of("gp-lfl", generations=1),
        run_dir=tmp_path / "gp",
    )
    assert run.archive.counts["failed"] == 0


@pytest.mark.parametrize(
    ("model", "part", "message"),
    [
        (normalised, "train", "in a training step on 1 of its training rows (ValueError: Expected"),
        (normalised, "validation", "16 training rows and 1 validation rows (ValueError: Expected"),
        (partial(Bag, sparse=True), "", "does not support sparse gradients"),
    ],
)
def test_a_learner_that_cannot_be_trained(
    model: Callable[[], nn.Module], part: str, message: str, tmp_path: Path
) -> None:
    said = refused(model, tmp_path, **(one_row(part) if part else {}))
    assert message.replace("16 ", f"{trial.ROWS} ") in said


class Buggy(nn.Module):
    """Has a bug that shows on some inputs only, or only on more than two rows in eval mode."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.last = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "validation" and bool((x == MARK).any()):
            raise ValueError("a bug of mine")
        if self.where == "evaluation" and not self.training and len(x) > 2:
            raise ValueError("a bug of mine")
        out: Tensor = self.last(x)
        return out


MARK = 77.0


def broken_loss(pred: Tensor, target: Tensor) -> Tensor:
    if bool((target == MARK).any()):
        raise ValueError("a bug of mine")
    return (pred - target).square().mean()


@pytest.mark.parametrize(
    ("engine", "given"),
    [
        ("auto", {"model": partial(Buggy, "validation")}),
        ("batched", {"model": partial(Buggy, "validation")}),
        ("auto", {"model": partial(nn.Linear, 3, 1), "task_loss": broken_loss}),
        ("stacked", {"model": partial(Buggy, "evaluation")}),
    ],
)
def test_a_bug_of_the_user_is_told_and_no_reason_for_another_engine(
    engine: Any, given: dict[str, Any]
) -> None:
    task = regression_task()
    marked = torch.zeros(20, 3), torch.zeros(20, 1)  # a task is tried on the first rows
    for tensor in marked:
        tensor[-1] = MARK
    own = Task(train=task.train, validation=marked, link="identity", name="own", **given)
    with pytest.raises(InputError, match=r"'own'.*a bug of mine"):
        with_engine(EvaluationSettings(engine=engine), [own], tunes=True)


def test_a_learner_that_is_differentiated_forwards_only() -> None:
    """Hardsigmoid has no double backward; central differences stand in for it."""
    task = layer_task("Hardsigmoid")
    assert with_engine(EvaluationSettings(), [task], tunes=True).settings.engine == "batched"
    settings = EvaluationSettings(base_steps=2)
    with pytest.raises(InputError, match="hardsigmoid_backward"):
        with_engine(settings, [task], tunes=True)


def test_a_message_about_memory_formats_is_not_taken_for_lack_of_memory() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4, 1)
            )

        def forward(self, x: Tensor) -> Tensor:
            images = x[:, :, None, None].expand(-1, -1, 2, 2)[:, :1]
            images = images.contiguous(memory_format=torch.channels_last)
            out: Tensor = self.layers(images)
            return out

    task = regression_task(model=Normed)
    problem = group_problem(task, stacked=True)
    assert problem is not None
    assert "memory_format" in problem
    with pytest.raises(InputError, match="does not support the engine stacked"):
        with_engine(EvaluationSettings(engine="stacked"), [task], tunes=True)
    assert with_engine(EvaluationSettings(), [task], tunes=True).settings.engine in (
        "batched",
        "loop",
    )


def test_lack_of_memory_says_nothing_about_a_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(support, "group_hypergradients", short)
    with pytest.raises(torch.OutOfMemoryError):
        group_problem(regression_task(), stacked=False)


def test_what_is_found_is_kept_and_goes_with_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    task = regression_task()
    layers = group_way(task, stacked=False).layers
    monkeypatch.setattr(support, "group_hypergradients", None)  # it is not tried again
    assert group_way(task.in_precision("full"), stacked=False).layers == layers
    assert group_problem(task, stacked=False) is None
    assert group_problem(replaced(task), stacked=False) is not None


def replaced(task: Task) -> Task:
    """The same data and model as another task."""
    return regression_task(name=f"{task.name}, again")
