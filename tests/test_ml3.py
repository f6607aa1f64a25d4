"""ML³ as a method: its networks, what it learns, what is shown of it."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from evomal import InputError, ML3Settings, NeuralLoss, Task, load_loss, search
from evomal.cli.tables import run_overview
from evomal.losses.form import Form
from evomal.methods.ml3 import ML3
from evomal.tasks.optimizers import SGD
from evomal.training.loop import partial_training
from tasks_for_tests import TASK_BY_LINK, classification_task, regression_task

SMALL: dict[str, Any] = {
    "preset": "paper",
    "meta_steps": 3,
    "testing_steps": 5,
    "hidden": (4, 3),
}


def test_every_network_begins_with_weights_of_its_own() -> None:
    settings = ML3Settings(restarts=3, hidden=(5,))
    form = Form("softmax", ("w",), (1.0, 2.0), 1)
    candidates = ML3(settings, form, 4).ask()
    losses = [candidate.loss for candidate in candidates]
    assert all(isinstance(loss, NeuralLoss) for loss in losses)
    assert len({tuple(loss.phi.tolist()) for loss in losses if loss is not None}) == 3
    assert len({candidate.identity for candidate in candidates}) == 3
    assert {loss.structure for loss in losses if loss is not None} == {"network(3-5-1)"}
    again, other = (ML3(settings, form, seed).ask()[1].loss for seed in (4, 5))
    assert losses[1] is not None
    assert again is not None
    assert other is not None
    assert torch.equal(losses[1].phi, again.phi)
    assert not torch.equal(losses[1].phi, other.phi)
    assert (again.inputs, again.ignore_index) == (("w",), 1)


def test_the_defaults_are_the_papers() -> None:
    settings = ML3Settings()
    assert ML3.presets["paper"] == settings
    assert (settings.hidden, settings.meta_steps, settings.generations) == ((50, 50), 1000, 1)
    (candidate,) = ML3(settings, Form("identity"), 0).ask()
    assert candidate.loss is not None
    assert repr(candidate.loss) == (
        "NeuralLoss(network(2-50-50-1), link='identity', reduction='mean')"
    )
    assert candidate.loss.activation == "softplus"


@pytest.mark.parametrize("link", TASK_BY_LINK)
@pytest.mark.parametrize("engine", ["loop", "batched", "stacked"])
def test_it_runs_on_every_engine(link: Any, engine: Any, tmp_path: Path) -> None:
    task = TASK_BY_LINK[link]()
    run = search(
        task, method="ml3", run_dir=tmp_path, engine=engine, group_size=2, restarts=2, **SMALL
    )
    assert run.archive.counts["evaluated"] == 2
    first, second = (outcome.loss for outcome in run.outcomes)
    assert first is not None
    assert second is not None
    assert not torch.equal(first.phi, second.phi)
    saved = load_loss(tmp_path / "best.json")
    assert isinstance(saved, NeuralLoss)
    assert torch.equal(saved.phi, run.best.loss.phi)


def test_a_network_is_shown_as_one(tmp_path: Path) -> None:
    run = search(regression_task(), method="ml3", run_dir=tmp_path, **SMALL)
    out = StringIO()
    Console(file=out, width=100).print(run_overview(run))
    assert "network 2-4-3-1" in out.getvalue()
    assert "parameters" in out.getvalue()
    assert "nodes" not in out.getvalue()
    assert "nodes" not in run.best.to_dict()


SLOW = SGD(learning_rate=0.02, momentum=0.0, nesterov=False, weight_decay=0.0)


@pytest.mark.parametrize(
    "task",
    [
        regression_task(optimizer=SLOW),
        classification_task(optimizer=SLOW, metric=torch.nn.functional.cross_entropy),
    ],
    ids=["regression", "classes"],
)
def test_tuning_betters_the_metric(task: Task, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "preset": "paper",
        "restarts": 2,
        "meta_steps": 200,
        "testing_steps": 60,
        "meta_learning_rate": 0.01,
    }
    run = search(task, method="ml3", run_dir=tmp_path, hidden=(20, 20), **settings)
    for outcome in run.outcomes:
        assert outcome.candidate.loss is not None
        before = partial_training(task, outcome.candidate.loss, 60, 0)
        assert outcome.fitness < 0.9 * before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": ()}, "1 to 16 hidden layers, but 0"),
        ({"hidden": (0,)}, "whole number from 1 to 10000, got 0"),
        ({"hidden": 50}, "hidden widths must be a list"),
        ({"restarts": 0}, "restarts must be a whole number from 1"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ML3Settings(**settings).validate()


def test_a_list_of_widths_is_as_good_as_a_tuple() -> None:
    widths: Any = [3, 2]
    assert ML3Settings(hidden=widths) == ML3Settings(hidden=(3, 2))
