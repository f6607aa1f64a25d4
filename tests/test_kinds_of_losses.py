"""What users do with a learned loss of any kind: show, analyse, train, run directories."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import evomal
from evomal import NeuralLoss, TaylorLoss
from evomal.analysis.analysis import MOST_CLASSES_OF_A_NETWORK, analyze
from evomal.cli import main
from evomal.cli.tables import leaderboard
from evomal.errors import InputError
from evomal.losses.form import Link
from evomal.losses.meta import MetaLoss
from evomal.losses.names import BEST_LOSS, initial_loss, resolve_loss
from evomal.runs.run import BestLoss
from tasks_for_tests import TASK_BY_LINK

Evomal = Callable[..., str]
KINDS: dict[str, Callable[..., MetaLoss]] = {"network": NeuralLoss, "taylor": TaylorLoss}


@pytest.fixture
def run_evomal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Evomal:
    """Run a command in an empty directory: its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run_evomal(*arguments: object) -> str:
        status = main([str(argument) for argument in arguments])
        output, errors = capsys.readouterr()
        assert (status, errors) == (0, "")
        return output

    return run_evomal


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line_shows_analyses_and_trains_it(
    kind: str, run_evomal: Evomal, data_dir: Path
) -> None:
    loss = KINDS[kind](link="softmax")
    evomal.save_loss(loss, BEST_LOSS)
    assert json.loads(run_evomal("show", BEST_LOSS, "--json")) == loss.describe()
    shown = run_evomal("show", BEST_LOSS)
    assert str(loss.size) in shown
    assert len(shown) < 1000
    assert max(map(len, shown.splitlines())) <= 80
    assert ("2-50-50-1" in shown) is (kind == "network")
    assert ("formula" in shown) is (kind == "taylor")
    fields = json.loads(run_evomal("analyze", BEST_LOSS, "--classes", 10, "--json"))
    assert fields["null_epoch"]["target"] is not None
    assert fields["phi"] == (None if kind == "network" else loss.phi.tolist())
    assert "null epoch" in run_evomal("analyze", BEST_LOSS, "--classes", 10)
    train = ["mnist/logistic", "--data-dir", data_dir, "--steps", 2, "--loss"]
    for named in (BEST_LOSS, "."):  # as a run directory
        result = json.loads(run_evomal("train", *train, named, "--json"))
        assert result["learned"]["mean"] is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", TASK_BY_LINK)
def test_any_task_is_trained_under_it(link: Link, kind: str) -> None:
    task = TASK_BY_LINK[link]()
    sample = evomal.compare(task, KINDS[kind](link=link), [0], steps=3).learned
    assert sample.mean is not None
    other: Any = "identity" if link != "identity" else "softmax"
    with pytest.raises(InputError, match=f"has link {other!r}, but the task"):
        evomal.compare(task, KINDS[kind](link=other), [0], steps=1)


def test_regression_is_analysed_too() -> None:
    squared = analyze(evomal.SymbolicLoss("square(sub(y, f))"), measure=False)
    taylor = analyze(TaylorLoss(), measure=False)
    assert taylor["card"]["minimum"]["value"] == squared["card"]["minimum"]["value"]
    network = analyze(NeuralLoss(), measure=False)
    assert network["card"].keys() == squared["card"].keys()
    assert network["card"]["nodes"]["value"] is None


def test_a_network_is_analysed_with_fewer_classes() -> None:
    most = MOST_CLASSES_OF_A_NETWORK
    with pytest.raises(InputError, match=f"at most {most}, got {most + 1}"):
        analyze(NeuralLoss(link="softmax"), most + 1)


def test_a_leaderboard_names_what_it_counts() -> None:
    def printed(loss: MetaLoss) -> str:
        console = Console(width=80)
        with console.capture() as capture:
            console.print(leaderboard([BestLoss(loss, 0.5, 0.5, loss.describe())]))
        return " ".join(capture.get().split())

    assert printed(NeuralLoss()) == "fitness parameters formula 0.5 2650 network 2-50-50-1"
    assert printed(TaylorLoss()) == "fitness parameters formula 0.5 8 2/2*f**2 - 2*y*f"
    symbolic = evomal.SymbolicLoss("sub(y, f)")
    assert printed(symbolic).startswith("fitness nodes formula 0.5 3 ")


def test_a_run_directory_means_its_best_loss(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no best\.json: it is not a run, or the run"):
        resolve_loss(str(tmp_path))
    for loss in (NeuralLoss(), TaylorLoss()):
        evomal.save_loss(loss, tmp_path / BEST_LOSS)
        found = resolve_loss(str(tmp_path))
        assert isinstance(found, type(loss))
        assert torch.equal(found.phi, loss.phi)
        with pytest.raises(InputError, match="is not an expression, so it cannot start a search"):
            initial_loss(str(tmp_path), evomal.load_task("diabetes/mlp").form)


class LinearDevices(TorchFunctionMode):
    """Notes on which devices the arguments of linear layers are."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.linear:
            self.seen |= {argument.device.type for argument in args}
        return func(*args, **(kwargs or {}))


def test_a_network_on_the_cpu_is_computed_where_the_predictions_are() -> None:
    """A search leaves φ on the CPU, whichever device it works on."""
    pred = torch.zeros(4, 2, device="meta")
    with LinearDevices() as devices:
        assert NeuralLoss()(pred, pred).device.type == "meta"
    assert devices.seen == {"meta"}
