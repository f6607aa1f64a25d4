"""What a search says that has learned no loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evomal import SGD, InputError, Task, search
from evomal.cli import main
from evomal.cli.tables import run_overview
from evomal.methods.base import Status
from evomal.runs.diagnosis import diagnosis
from evomal.training.numerics import DivergedError, require_finite
from evomal.training.stages import EQUIVALENCE, TRAINING, WEIGHTS, diverged, stage, stage_of
from run_helpers import TINY
from tasks_for_tests import regression_task

IN_WEIGHTS, IN_TRAINING = diverged(WEIGHTS), diverged(TRAINING, DivergedError("the loss"))
FAILED = "its training failed with ValueError: broken."


def found(
    counts: dict[Status, int],
    reasons: list[str],
    own: bool = False,
    reason: str = "",
    failures: Sequence[str] = (),
    learned: bool | None = None,
) -> str:
    return diagnosis(
        counts,
        reasons,
        failures,
        task_loss_diverges=own,
        task_loss_reason=reason,
        learned=learned,
        learning_rate=0.05,
        rejection_batch=100,
        check="`evomal check x`",
    )


@pytest.mark.parametrize(
    ("counts", "reasons", "start", "remedy"),
    [
        (
            {"diverged": 4, "rejected": 1},
            [IN_WEIGHTS] * 3 + [IN_TRAINING],
            "4 of 5 candidates diverged, most while their weights were optimised: the ",
            "Standardise the inputs and the targets, or lower the learning rate of the task's "
            "optimizer, 0.05; `evomal check x` tries several.",
        ),
        (
            {"diverged": 2, "duplicate": 9},
            [IN_TRAINING] * 2,
            "All 2 candidates diverged, most in training: the steps",
            "0.05; `evomal check x` tries several.",
        ),
        (
            {"diverged": 2},
            [IN_TRAINING, diverged(EQUIVALENCE)],
            "All 2 candidates diverged: the steps",
            "0.05; `evomal check x` tries several.",
        ),
        (
            {"rejected": 3, "diverged": 1},
            [IN_WEIGHTS],
            "3 of 4 candidates were rejected: when raw outputs were optimised with them, the "
            "metric was no better on a few training rows (at most 100). Check that the metric is",
            "too small to move the raw outputs.",
        ),
        (
            {"failed": 2, "diverged": 1},
            [FAILED, FAILED, IN_TRAINING],
            "2 of 3 candidates failed, the last one: its training failed with ValueError: broken. ",
            "Fix the cause.",
        ),
        ({"evaluated": 0}, [], "No candidate has been evaluated yet; ", "continue the search."),
    ],
)
def test_each_case(counts: dict[Status, int], reasons: list[str], start: str, remedy: str) -> None:
    failures = [reason for reason in reasons if reason == FAILED]
    text = found(counts, reasons, failures=failures)
    assert text.startswith(start)
    assert text.endswith(remedy)
    assert "another seed" not in text


def test_the_task_loss_comes_first() -> None:
    text = found({"rejected": 9}, [], own=True, reason=IN_TRAINING)
    assert text.startswith("Training with the task loss itself diverges")
    assert "the learning rate of the task's optimizer, 0.05; `evomal check x`" in text
    undefined = diverged(TRAINING, DivergedError("the metric"))
    assert "the metric is NaN or infinite on the validation rows" in found(
        {"rejected": 9}, [], own=True, reason=undefined
    )


@pytest.mark.parametrize("counts", [{"rejected": 3}, {"duplicate": 3}])
def test_what_a_longer_search_does_not_change(counts: dict[Status, int]) -> None:
    text = found(counts, [], learned=False)
    assert text.endswith(
        "Not even the task loss predicts better than a constant after so few training steps, and "
        "a longer search does not change that: raise testing_steps or change the learning rate; "
        "`evomal check x` shows what works."
    )
    assert "constant" not in found(counts, [], learned=True)


def negative(pred: Tensor, target: Tensor) -> Tensor:
    return -nn.functional.mse_loss(pred, target)


def undefined(pred: Tensor, target: Tensor) -> Tensor:
    """NaN where there are few rows less than in training."""
    return nn.functional.mse_loss(pred, target) / (0 if len(pred) == 24 else 1)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 1))


def scaled(inputs: float = 1.0, targets: float = 1.0, **settings: Any) -> Task:
    plain = regression_task()
    parts = [(part.inputs * inputs, part.targets * targets) for part in (plain.train, plain.test)]  # type: ignore[union-attr]
    return Task(network, *parts, link="identity", name="scaled", **settings)


def undefined_in_training() -> Task:
    """The metric is judged when a task is made, and then refused."""
    task = scaled()
    task.metric = undefined
    return task


LEARNERS: dict[str, Any] = {
    "inputs x1000": (partial(scaled, 1000.0), "task loss itself diverges"),
    "targets of 3e5": (partial(scaled, 1.0, 3e5), "task loss itself diverges"),
    "a metric that falls with the error": (
        partial(scaled, metric=negative),
        "All 2 candidates were rejected",
    ),
    "a metric that is undefined": (
        undefined_in_training,
        "the metric is NaN or infinite on the validation rows",
    ),
}


@pytest.mark.filterwarnings("ignore::evomal.errors.TaskWarning")
@pytest.mark.parametrize("case", LEARNERS)
def test_a_search_that_learns_nothing(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = LEARNERS[case]
    settings = {**TINY, "population_size": 2, "generations": 1, "testing_steps": 60}
    losses = ("square(sub(y, f))", "square(square(sub(y, f)))")
    run = search(make(), run_dir=tmp_path, initial_losses=losses, **settings)
    assert run.diagnosis is not None
    assert message in run.diagnosis
    with pytest.raises(InputError) as error:
        _ = run.best
    assert str(error.value).endswith(f"has no learned loss. {run.diagnosis}")
    assert run.diagnosis in [str(part) for part in run_overview(run).renderables]
    assert main(["show", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["diagnosis"] == run.diagnosis


def test_a_search_in_which_nothing_is_trained(tmp_path: Path) -> None:
    task = regression_task(optimizer=SGD(1e-3))
    settings = {**TINY, "population_size": 2, "generations": 1, "testing_steps": 1}
    losses = ("square(sub(y, f))", "abs(sub(y, f))")
    run = search(task, run_dir=tmp_path, initial_losses=losses, **settings)
    assert run.learned is False
    assert run.summary()["constant_fitness"] < run.best.fitness
    printed = " ".join(str(part) for part in run_overview(run).renderables)
    assert "a longer search does not change that" in printed
    assert "evomal.check_task(task) shows what works." in printed
    assert "search longer" not in printed.lower()


@pytest.mark.filterwarnings("ignore::evomal.errors.TaskWarning")
def test_reasons_of_divergence_are_stored(tmp_path: Path) -> None:
    settings = {**TINY, "population_size": 2, "generations": 1, "testing_steps": 60}
    losses = ("square(sub(y, f))", "square(square(sub(y, f)))")
    run = search(
        scaled(1000.0, 3e5), run_dir=tmp_path, engine="loop", initial_losses=losses, **settings
    )
    reasons = [outcome.reason for outcome in run.outcomes]
    assert all(reason is not None and " diverged" in reason for reason in reasons)
    assert run.summary()["failures"] == []


def test_require_finite_names_the_first_that_is_not() -> None:
    ok, bad = torch.zeros(2), torch.tensor([1.0, float("nan")])
    for tensors, message in [
        ([bad, ok, ok, ok], "a became NaN or infinite"),
        ([ok, bad, bad, ok], "b became NaN or infinite"),
        ([ok, ok, ok, bad], "b became NaN or infinite"),
    ]:
        with pytest.raises(DivergedError, match=rf"^{message}$"):
            require_finite(tensors, "a", "b")
    with pytest.raises(DivergedError, match=r"^a value became NaN or infinite$"):
        require_finite([bad])


def test_an_error_knows_its_stage() -> None:
    with pytest.raises(ValueError, match="x") as error, stage(WEIGHTS):
        raise ValueError("x")
    assert stage_of(error.value) == WEIGHTS
    assert stage_of(ValueError("x")) is None
