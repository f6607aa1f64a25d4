"""What is found about a task before a search, and the command that tells it."""

from __future__ import annotations

import copy
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evomal
from evomal import SGD, InputError, Task, TaskWarning, check_task
from evomal.cli import main
from evomal.losses.form import Link
from evomal.methods.registry import METHODS
from evomal.runs.check_words import about_learning, about_rates, duration
from evomal.runs.pace import Pace
from evomal.tasks import lazy
from evomal.tasks.sanity.suspicions import task_yardsticks
from evomal.tasks.sanity.yardsticks import Yardsticks
from evomal.training.learning import Learning, best_factor, further, learning
from run_helpers import TINY
from tasks_for_tests import (
    PLAIN,
    Perceptron,
    binary_task,
    classification_task,
    image_task,
    regression_task,
)


def checked(task: Task, method: str = "evomal", seconds: float = 60.0) -> evomal.Check:
    longer = copy.copy(task)
    longer.testing_steps = 100  # which are those of the search, too
    return check_task(longer, method=method, preset="quick", seconds=seconds)


def by_topic(check: evomal.Check) -> dict[str, evomal.Finding]:
    return {finding.topic: finding for finding in check.findings}


def quietly(make: Callable[[], Task]) -> Task:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TaskWarning)
        return make()


def test_a_good_task() -> None:
    task = classification_task()
    state = torch.get_rng_state()
    check = checked(task)
    assert torch.equal(torch.get_rng_state(), state)
    assert (check.worst, check.engine, check.task) == ("ok", "batched", "test/softmax")
    found = by_topic(check)
    assert list(found) == [
        *("data", "scale", "classes", "shared rows", "model", "metric", "learning"),
        *("learning rate", "engine", "time"),
    ]
    assert found["data"].message == (
        "40 training, 24 validation, 24 test rows, all numbers finite. The model gets float32 "
        "(3,), losses get targets int64."
    )
    assert found["classes"].message.startswith("3 classes with ")
    assert found["model"].message == "Perceptron with 38 trainable parameters; outputs (3,)."
    assert found["learning"].message.startswith("The task loss cross_entropy takes the error rate")
    assert check.learning is not None
    assert check.learning.steps == 100
    assert list(check.seconds["search"]) == ["standard", "quick", "paper"]
    assert str(check).splitlines()[0].startswith("ok       data: 40 training")
    fields = json.loads(json.dumps(check.to_dict(), allow_nan=False))
    assert fields["worst"] == "ok"
    assert fields["yardsticks"]["perfect"] == 0
    assert [factor for factor, _ in fields["learning"]["values"]][:2] == [0.1, 0.3]


def test_the_training_is_that_of_a_search_with_seed_0(tmp_path: Path) -> None:
    task = regression_task()
    found = learning(task, 12, 60.0)
    run = evomal.search(
        task, method="baseline", preset="paper", testing_steps=12, run_dir=tmp_path / "run"
    )
    assert found.value == run.task_loss_fitness
    assert found.values[1.0] == found.value
    assert run.facts.constant_fitness == task_yardsticks(task).constant


def test_a_task_that_is_read_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    check = checked(classification_task(in_memory=False))
    expected = checked(classification_task())
    found = by_topic(check)
    assert check.worst == "ok"
    assert check.yardsticks == expected.yardsticks
    assert found["data"].message.startswith(
        "40 training, 24 validation, 24 test rows, read batch by batch. The model gets float32 (3,)"
    )
    assert found["shared rows"].message.startswith("Not looked for, because")
    for topic in ("classes", "metric", "learning", "learning rate"):
        assert found[topic] == by_topic(expected)[topic]
    monkeypatch.setattr(lazy, "SAMPLE", 10)
    found = by_topic(checked(classification_task(in_memory=False)))
    assert re.fullmatch(
        r"3 classes with \d to \d of 10 sampled training rows\.", found["classes"].message
    )
    assert found["metric"].level == "ok"


@pytest.mark.parametrize("make", [regression_task, binary_task, image_task])
def test_every_kind_of_task(make: Callable[..., Task]) -> None:
    found = by_topic(checked(make()))
    assert found["metric"].level == "ok"
    assert ("classes" in found) is (make is not regression_task)
    assert found["engine"].level == "ok"


def test_a_rate_that_diverges_later_is_not_raised() -> None:
    values = {0.1: 0.5, 1.0: 0.4, 3.0: 0.3}
    known: dict[str, Any] = {
        "step_seconds": 0.01,
        "steps": 500,
        "trial_steps": 82,
        "values": values,
    }
    assert Learning(value=0.2, **known).best_factor == 3.0
    diverged = Learning(value=None, **known)
    assert diverged.best_factor == 0.1
    task, nothing = regression_task(optimizer=SGD(0.01)), Yardsticks(None, None)
    assert about_learning(task, diverged, nothing, 500) == (
        "problem",
        "The task loss mse_loss diverges at the learning rate 0.01 in 500 steps. Try 0.001, the "
        "best lower one after 82 steps.",
    )
    assert about_rates(task, diverged, nothing, 500, tunes=False) == ("ok", "")


def test_a_better_learning_rate() -> None:
    task, bars = regression_task(optimizer=SGD(0.01)), Yardsticks(0.0, 1.0)
    found = Learning(0.01, 82, 0.4, 1.0, 82, {0.1: 0.5, 1.0: 0.4, 10.0: 0.1})
    better = "0.1 does better than 0.01 after 82 steps: mean squared error 0.1 against 0.4 "
    level, message = about_rates(task, found, bars, 500, tunes=False)
    assert (level, message.startswith(better)) == ("warning", True)
    assert message.endswith("set it in the optimizer first, or set tune_recipe.")
    level, message = about_rates(task, found, bars, 500, tunes=True)
    assert (level, message.startswith(better)) == ("ok", True)
    assert message.endswith(" The search tunes it first.")


def upside_down(pred: Tensor, target: Tensor) -> Tensor:
    return -nn.functional.mse_loss(pred, target)


def blind(pred: Tensor, target: Tensor) -> Tensor:
    """L_T that says nothing about the targets."""
    return pred.square().mean() * 0


BROKEN: dict[str, tuple[Callable[..., Task], dict[str, Any], str, str, str]] = {
    "metric": (regression_task, {"metric": upside_down}, "metric", "problem", "maximize=True"),
    "learning rate too large": (
        regression_task,
        {"optimizer": SGD(1e4)},
        "learning",
        "problem",
        "The task loss mse_loss diverges at the learning rate 10000 in 100 steps. ",
    ),
    "nothing to learn": (
        regression_task,
        {"task_loss": blind},
        "learning",
        "problem",
        "nothing is learned at the learning rate 0.1",
    ),
    "outputs": (
        binary_task,
        {"model": lambda: nn.Sequential(Perceptron(), nn.Sigmoid())},
        "model",
        "warning",
        "remove that last layer",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_task(case: str) -> None:
    make, changes, topic, level, part = BROKEN[case]
    check = checked(quietly(lambda: make(**changes)))
    found = by_topic(check)[topic]
    assert (found.level, part in found.message) == (level, True), found
    assert check.worst == "problem" or level == "warning"


def test_a_learner_that_fails() -> None:
    task = regression_task()
    task.task_loss = lambda pred, target: pred.unknown
    check = checked(task)
    assert by_topic(check)["learning"].level == "problem"
    assert "fails in a training step" in by_topic(check)["learning"].message
    assert (check.learning, check.engine, check.seconds) == (None, None, {})
    json.dumps(check.to_dict())


def test_too_little_time() -> None:
    check = checked(regression_task(), seconds=1e-9)
    found = by_topic(check)
    assert found["learning"].message.startswith("Not tried: a training step takes about ")
    assert found["time"].level == "warning"
    assert "engine" not in found


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="The number of seconds must be"):
        check_task(regression_task(), seconds=0)
    with pytest.raises(InputError, match=r"^Unknown method 'evomall'; did you mean evomal\?$"):
        check_task(regression_task(), method="evomall")
    with pytest.raises(InputError, match=r"must be made with evomal\.load_task"):
        check_task("diabetes/mlp")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str) -> None:
    check = checked(regression_task(), method=method)
    assert by_topic(check)["time"].level == "ok"
    stages = check.seconds["candidate"]
    pipeline = METHODS[method].pipeline
    assert (stages["filters"] is not None) is pipeline.reject
    assert (stages["tuning"] is not None) is pipeline.tune


def test_yardsticks() -> None:
    rows = torch.tensor([[0.0], [0.0], [0.0], [4.0]])
    cases: list[tuple[Link, str | None, Tensor, float]] = [
        ("identity", None, rows, 3.0),  # the mean, 1
        ("identity", "mae", rows, 1.0),  # the median, 0
        ("sigmoid", None, (rows > 0).float(), 0.25),
        ("sigmoid", "cost:10", (rows > 0).float(), 0.75),  # always 1
        ("softmax", None, (rows > 0).long()[:, 0], 0.25),
        ("softmax", "balanced_accuracy", (rows > 0).long()[:, 0], -0.5),
    ]
    for link, metric, targets, constant in cases:
        bars = task_yardsticks(quietly(partial(of_targets, targets, link, metric)))
        assert bars.perfect == (-1 if constant < 0 else 0)
        assert bars.constant == pytest.approx(constant)


def of_targets(targets: Tensor, link: Link, metric: str | None) -> Task:
    part = (torch.arange(12.0).reshape(4, 3) / 12, targets)
    model = partial(nn.Linear, 3, 2 if link == "softmax" else 1)
    return Task(model, part, part, link=link, metric=metric, optimizer=PLAIN)


@pytest.mark.parametrize(
    ("values", "untrained", "expected"),
    [
        ({0.1: 0.5, 1.0: 0.4, 10.0: 0.6}, 0.9, None),
        ({0.1: 0.5, 1.0: 0.4, 10.0: 0.3}, 0.9, 100.0),
        ({0.1: 0.2, 1.0: 0.4, 10.0: None}, 0.9, 0.01),
        ({0.1: None, 1.0: None}, 0.9, 0.01),
        ({0.1: 0.9, 1.0: 0.9}, 0.9, 10.0),
        ({0.1: 0.9, 1.0: 0.9, 10.0: None}, 0.9, 0.01),
    ],
)
def test_which_learning_rate_comes_next(
    values: Mapping[float, float | None], untrained: float, expected: float | None
) -> None:
    assert further(values, untrained) == pytest.approx(expected)


def test_the_best_factor_is_the_nearest_to_1_of_equal_ones() -> None:
    assert best_factor({0.1: 0.5, 1.0: 0.5, 10.0: 0.5}) == 1
    assert best_factor({0.1: 0.4, 1.0: None}) == 0.1
    assert best_factor({1.0: None}) is None
    assert Learning(1.0).best_factor is None


def test_the_time_of_a_search_is_that_of_its_stages() -> None:
    task, paper = regression_task(), METHODS["evomal"].presets["paper"]
    pace = Pace(meta_step=0.1, rejection_step=0.01, training_step=0.02, judging=1.0)
    stages = pace.candidate(task, paper)
    assert stages.tuning == pytest.approx(25)
    assert stages.filters == pytest.approx(0.01 * task.rejection_steps)
    assert stages.training == pytest.approx(11)
    fewer = Pace(None, None, 0.02, 1.0)
    assert fewer.candidate(task, paper).total == pytest.approx(11)
    assert pace.search(task, "evomal", paper) > fewer.search(task, "evomal", paper)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.012 s"), (59.6, "60 s"), (121, "2 min"), (7300, "2 h"), (260_000, "3 d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


OWN = """
import torch
from torch import nn
from evomal import Task

def make_task():
    inputs = 1e3 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    parts = [(inputs[:40], inputs[:40, :1]), (inputs[40:], inputs[40:, :1])]
    return Task(lambda: nn.Linear(3, 1), *parts, link="identity", name="own")
"""


def test_the_command_on_an_own_task_with_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Path("own.py").write_text(OWN)
    assert main(["check", "own.py:make_task", "--preset", "quick"]) == 1
    output, errors = capsys.readouterr()
    assert errors == ""
    assert "warning  scale" in output
    assert "problem  learning" in output
    assert output.splitlines()[-1] == "Solve the problems before a search."
    settings = {**TINY, "population_size": 2, "generations": 1, "testing_steps": 60}
    with pytest.warns(TaskWarning):
        task = evomal.load_task("own.py:make_task")
    run = evomal.search(task, run_dir="run", **settings)
    assert run.diagnosis is not None
    assert run.diagnosis.endswith("/own.py:make_task` tries several.")


def test_the_command(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--preset", "quick", "--seconds", "1", "--data-dir", str(data_dir)]
    assert main(["check", "diabetes/mlp", *options]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    lines = output.splitlines()
    assert lines[0].startswith("ok")
    assert lines[-1] in (
        "Nothing speaks against a search.",
        "Look at the warnings before a search.",
    )
    assert main(["check", "diabetes/mlp", "--json", *options]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["task"] == "diabetes/mlp"
    assert (fields["metric"], fields["direction"]) == ("mean_squared_error", "minimize")
    assert math.isclose(fields["yardsticks"]["constant"], 0.958, abs_tol=1e-3)
