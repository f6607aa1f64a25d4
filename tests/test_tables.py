"""What is said of a run: its Pareto front, whether anything was won, what to type next."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomal import load_task, search
from evomal.cli import main
from evomal.cli.tables import next_step, pareto_front
from evomal.losses.symbolic import SymbolicLoss
from evomal.runs.run import BestLoss, Run
from evomal.runs.store import RunStore
from run_helpers import TINY, known_to
from tasks_for_tests import regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")

SIZES = known_to("gp-lfl", TINY)

Altered = Callable[..., Run]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, instant_formulas: None) -> Run:
    place = tmp_path_factory.mktemp("tables") / "run"
    losses = ("square(sub(y, f))", "abs(sub(y, f))")
    task = load_task("diabetes/mlp")
    return search(task, method="gp-lfl", run_dir=place, initial_losses=losses, **SIZES)


@pytest.fixture
def altered(original: Run, tmp_path: Path) -> Altered:
    """A copy of the run, with other facts."""

    def altered(name: str = "run", **facts: Any) -> Run:
        shutil.copytree(original.run_dir, tmp_path / name)
        store = RunStore.reopen(tmp_path / name)
        store.write_facts(facts)
        store.close()
        return Run(tmp_path / name)

    return altered


def entry(fitness: float, nodes: int) -> BestLoss:
    """With a number of nodes from 3 on."""
    text = "sub(y, f)"
    for _ in range(nodes - 3):
        text = f"abs({text})"
    return BestLoss(SymbolicLoss(text), fitness, fitness, {})


def test_the_front_is_what_beats_all_that_is_smaller() -> None:
    given = [(3, 5.0), (4, 7.0), (5, 2.0), (6, 2.0), (7, 3e6), (9, 1.0), (9, 4.0)]
    entries = [entry(fitness, nodes) for nodes, fitness in given]
    for order in (entries, entries[::-1]):
        front = [(one.size, one.fitness) for one in pareto_front(order)]
        assert front == [(9, 1.0), (5, 2.0), (3, 5.0)]
    assert pareto_front([]) == []


def shown(run: Run, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    """What `show` prints of a run, its lines joined; and its JSON."""
    assert main(["show", str(run.run_dir)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert main(["show", str(run.run_dir), "--json"]) == 0
    return text, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("factor", "beats", "said"),
    [
        (2.0, True, None),
        (1.0, False, "The best loss is no better than the task loss: both score"),
        (
            0.5,
            False,
            "The best loss is worse than the task loss: {best:.4g} against {own:.4g}, and",
        ),
        (
            1 - 1e-6,
            False,
            "The best loss is worse than the task loss: {best:.8g} against {own:.8g}",
        ),
        (None, None, None),
    ],
    ids=["better", "equal", "worse", "a little worse", "diverged"],
)
def test_what_was_won_is_said(
    factor: float | None,
    beats: bool | None,
    said: str | None,
    altered: Altered,
    capsys: pytest.CaptureFixture[str],
) -> None:
    best = altered("first").best.fitness
    own = None if factor is None else factor * best
    run = altered(task_loss_fitness=own)
    text, summary = shown(run, capsys)
    assert summary["beats_task_loss"] is beats is run.beats_task_loss
    assert summary["best"]["fitness"] == best == run.best.fitness
    if said is None:
        assert "The best loss is" not in text
        assert next_step(run) == f"evomal train diabetes/mlp --loss {run.run_dir}"
    else:
        assert said.format(best=best, own=own) in text
        assert next_step(run) is None
    verdict = "diverges" if own is None else f"scores {own:.4g}"
    assert f"the task loss itself {verdict}." in text


def test_what_is_printed_can_be_pasted(
    altered: Altered, capsys: pytest.CaptureFixture[str]
) -> None:
    run = altered("it's a run; $HOME", task_loss_fitness=None, status="stopped")
    command = next_step(run)
    assert command is not None
    assert shlex.split(command)[-2:] == ["--loss", str(run.run_dir)]
    text, _ = shown(run, capsys)
    assert f"To continue: {shlex.join(['evomal', 'resume', str(run.run_dir)])}" in text
    store = RunStore.reopen(run.run_dir)
    (task,) = store.facts()["tasks"]
    origin = {**task["origin"], "data_dir": "/a b", "split": "published"}
    store.write_facts(
        {"split": "published", "tasks": [{**task, "origin": origin, "split": "published"}]}
    )
    store.close()
    command = next_step(Run(run.run_dir))
    assert command is not None
    assert shlex.split(command)[-4:] == ["--data-dir", "/a b", "--split", "published"]


def test_a_task_of_ones_own_goes_on_in_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"max_evaluations": 1, "initial_losses": ["mul(add(1, 1), square(sub(y, f)))"]}
    sizes = {**SIZES, **limits}
    run = search(regression_task(), method="gp-lfl", run_dir=tmp_path / "run", **sizes)
    assert f"To continue: evomal.resume('{run.run_dir}', task)" in shown(run, capsys)[0]
    assert run.beats_task_loss
    assert next_step(run) == (
        f"evomal.compare(task, evomal.Run('{run.run_dir}').best.loss, seeds=range(3)) in Python"
    )


NASTY = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"


def test_stored_texts_do_not_reach_the_terminal(
    original: Run,
    altered: Altered,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.closing(RunStore.open(original.run_dir)) as store:
        (task,) = store.facts()["tasks"]
    run = altered(
        tasks=[{**task, "name": NASTY}],
        task=NASTY,
        metric=NASTY,
        stop_reason=f"{NASTY}\nforged",
        status="stopped",
    )
    monkeypatch.setattr(BestLoss, "formula", NASTY, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    for arguments in (["show", str(run.run_dir)], ["show", str(run.run_dir), "--json"]):
        assert main(arguments) == 0
        output, errors = capsys.readouterr()
        assert errors == ""
        assert (output + "x").replace("\n", "").isprintable()
        assert r"\u202e" in output
    assert "\nforged" not in output


def test_the_console_is_safe_whatever_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.panel import Panel
    from rich.text import Text

    from evomal.cli.options import new_console

    new_console().print(Panel(Text("\x1b[31mred\nlines\u2066")), "\x1b[2J")
    output = capsys.readouterr().out
    assert output.replace("\n", "").isprintable()
    assert r"\x1b[2J" in output
    assert "lines" in output
