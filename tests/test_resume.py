"""Runs that end early are continued, and end as if nothing had happened."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from evomal import InputError, Run, Task, load_task, resume, search
from evomal.cli import main
from evomal.losses.files import save_loss
from evomal.losses.names import BEST_LOSS
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.registry import METHODS
from evomal.runs.directory import DATABASE, LOCK
from evomal.runs.store import RunStore
from evomal.tasks.optimizers import SGD
from evomal.tasks.schedules import Cosine
from run_helpers import (
    TINY,
    Recorder,
    contents,
    known_to,
    run_python,
    running,
    without_timing,
)
from tasks_for_tests import Perceptron, classification_task, regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")

SEARCH: dict[str, Any] = {**TINY, "seed": 1, "generations": 4}


def two_tasks() -> list[Task]:
    return [regression_task(name="a"), regression_task(name="b", batch_size=16)]


def everything(run: Run) -> tuple[dict[str, Any], list[Any], bytes]:
    """What has to be equal: the summary, every candidate as stored, the best loss."""
    connection = sqlite3.connect(run.run_dir / DATABASE)
    rows = connection.execute(
        "SELECT number, generation, proposed, status, fitness, loss, source, correlation, "
        "gradient_key FROM candidates ORDER BY number"
    ).fetchall()
    states = connection.execute("SELECT state FROM generations ORDER BY number").fetchall()
    connection.close()
    best = run.run_dir / BEST_LOSS
    return (
        without_timing(run.summary()),
        [rows, states],
        best.read_bytes() if best.exists() else b"",
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The uninterrupted run."""
    return search(regression_task(), run_dir=tmp_path_factory.mktemp("whole"), **SEARCH)


def interrupt(run_dir: Path, stop: str, at: int, **arguments: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(
            regression_task(),
            run_dir=run_dir,
            callbacks=[Recorder(stop, at)],
            **SEARCH,
            **arguments,
        )


STOPS = [
    ("start", 1),
    *(("candidate", at) for at in range(1, 18)),
    *(("generation", at) for at in range(1, 5)),
]


@pytest.mark.parametrize(("stop", "at"), STOPS)
def test_an_interrupted_run_ends_as_the_whole_one(
    stop: str, at: int, whole: Run, tmp_path: Path
) -> None:
    interrupt(tmp_path, stop, at)
    recorder = Recorder()
    again = resume(tmp_path, regression_task(), callbacks=[recorder])
    assert everything(again) == everything(whole)
    done = at if stop == "candidate" else {0: 0, 1: 5, 2: 9, 3: 13, 4: 17}[at * (stop != "start")]
    numbers = [value for name, value in recorder.calls if name == "candidate"]
    assert len(numbers) == len(set(numbers)) == 17 - done, "a finished candidate comes again"
    assert recorder.calls[0] == ("start", whole.task_loss_fitness)
    assert recorder.calls[-1][0] == "end"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("many", [False, True], ids=["one task", "two tasks"])
def test_every_method_can_be_resumed_again_and_again(
    method: str, many: bool, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {**known_to(method, SEARCH), "seed": 1, "method": method}
    tasks: Any = two_tasks() if many else regression_task()
    expected = search(tasks, run_dir=tmp_path / "whole", **arguments)
    place = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(tasks, run_dir=place, callbacks=[Recorder("candidate", 1)], **arguments)
    for _ in range(3):
        if Run(place).archive.counts.total() < expected.archive.counts.total():
            with pytest.raises(KeyboardInterrupt):
                resume(place, tasks, callbacks=[Recorder("candidate", 4)])
    assert everything(resume(place, tasks)) == everything(expected)


STOP_CONDITIONS: dict[str, tuple[dict[str, Any], str]] = {
    "evaluations": ({"max_evaluations": 2}, "max_evaluations of 2 reached"),
    "target": ({"target_fitness": 10.0}, "target_fitness of 10 reached"),
    "patience": ({"patience": 1}, "no improvement for 1 generations (patience)"),
    "time": ({"max_time": 1e-4}, "max_time of 0.0001 s exceeded"),
}


@pytest.mark.parametrize(
    ("condition", "workers"),
    [*((name, 1) for name in STOP_CONDITIONS), ("time", 2), ("evaluations", 2)],
)
def test_a_stop_condition_ends_a_run_that_can_be_resumed(
    condition: str, workers: int, whole: Run, tmp_path: Path
) -> None:
    arguments, reason = STOP_CONDITIONS[condition]
    run = search(regression_task(), run_dir=tmp_path, workers=workers, **SEARCH, **arguments)
    assert run.facts.status == "stopped"
    assert run.facts.stop_reason == reason
    if condition == "evaluations":
        assert run.archive.counts["evaluated"] == 2
    if condition == "target":
        assert run.archive.counts["evaluated"] == 1
    if condition == "patience":
        bests = [generation.best for generation in run.generations]
        assert bests[-1] == bests[-2]
        assert len(bests) < 4
    if condition == "time":
        assert run.archive.counts.total() == 0
    stopped_again = resume(tmp_path, regression_task(), **arguments)
    assert stopped_again.facts.status == "stopped"
    assert everything(resume(tmp_path, regression_task())) == everything(whole)


def test_more_generations_continue_a_finished_run(whole: Run, tmp_path: Path) -> None:
    short = search(regression_task(), run_dir=tmp_path, **{**SEARCH, "generations": 2})
    assert short.facts.status == "finished"
    with pytest.raises(
        InputError, match=r"started with 2 generations; .* only be increased, not set to 1"
    ):
        resume(tmp_path, regression_task(), generations=1)
    longer = resume(tmp_path, regression_task(), generations=4)
    assert everything(longer) == everything(whole)


def test_a_finished_run_is_left_as_it_is(whole: Run) -> None:
    before = contents(whole.run_dir)
    recorder = Recorder()
    assert everything(resume(whole.run_dir, callbacks=[recorder])) == everything(whole)
    assert recorder.calls == []
    assert contents(whole.run_dir) == before


def killed_at(run_dir: Path, candidates: int) -> Path:
    """A run directory with its log, as a kill would leave it, of an unfinished run."""
    copy = run_dir.with_name("killed")

    class Copy(Recorder):
        def on_candidate(self, method: Any, outcome: Any) -> None:
            if method.archive.counts.total() == candidates:
                shutil.copytree(run_dir, copy)

    search(regression_task(), run_dir=run_dir, callbacks=[Copy()], **SEARCH)
    return copy


@pytest.mark.parametrize("candidates", [1, 6, 14])
def test_a_log_cut_anywhere_loses_no_more_than_what_was_behind_it(
    candidates: int, whole: Run, tmp_path: Path
) -> None:
    killed = killed_at(tmp_path / "run", candidates)
    log = killed / f"{DATABASE}-wal"
    size = log.stat().st_size
    assert size > 4096 * candidates
    seen = set()
    for i in range(7):
        place = tmp_path / str(i)
        shutil.copytree(killed, place)
        (place / f"{DATABASE}-shm").unlink()
        os.truncate(place / log.name, size * i // 6)
        assert Run(place).facts.status == "killed"
        seen.add(Run(place).archive.counts.total())
        assert everything(resume(place, regression_task())) == everything(whole)
    assert {0, candidates} <= seen


def test_a_best_loss_that_the_store_lost_goes(tmp_path: Path) -> None:
    interrupt(tmp_path, "start", 1)
    save_loss(SymbolicLoss("sub(y, f)"), tmp_path / BEST_LOSS)
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path, regression_task(), callbacks=[Recorder("start", 1)])
    assert not (tmp_path / BEST_LOSS).exists()


def other_data() -> Task:
    task = regression_task()
    inputs = task.validation.inputs.clone()
    inputs[3, 1] += 1e-6
    task.validation = replace(task.validation, inputs=inputs)
    return task


class Deeper(Perceptron):
    def __init__(self) -> None:
        super().__init__(1)
        self.more = torch.nn.Linear(1, 1)


CHANGED: dict[str, tuple[Callable[[], Any], str]] = {
    "name": (lambda: regression_task(name="other"), "test/identity, not with other"),
    "kind": (classification_task, "test/identity, not with test/softmax"),
    "number": (two_tasks, "test/identity, not with a, b"),
    "data": (other_data, r"has changed .*\(data\)"),
    "model": (lambda: regression_task(model=Deeper), r"has changed .*\(model\)"),
    "batch size": (lambda: regression_task(batch_size=9), r"has changed .*\(batch size\)"),
    "optimizer": (lambda: regression_task(optimizer=SGD()), r"has changed .*\(optimizer\)"),
    "class of optimizer": (
        lambda: regression_task(optimizer=lambda p: torch.optim.SGD(p, lr=0.1)),
        r"has changed .*\(optimizer\)",
    ),
    "schedule": (lambda: regression_task(schedule=Cosine()), r"has changed .*\(schedule\)"),
    "clip_norm": (lambda: regression_task(clip_norm=1.0), r"has changed .*\(clip norm\)"),
    "metric": (
        lambda: regression_task(metric=torch.nn.functional.l1_loss),
        r"has changed .*\(metric\)",
    ),
    "preprocess": (lambda: regression_task(preprocess=torch.abs), r"has changed .*\(preprocess\)"),
    "absent": (lambda: None, r"your own task 'test/identity'; .*evomal\.resume"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_another_task_is_refused_and_nothing_changes(case: str, tmp_path: Path) -> None:
    interrupt(tmp_path, "candidate", 3)
    before = Run(tmp_path).summary()
    make, message = CHANGED[case]
    with pytest.raises(InputError, match=message):
        resume(tmp_path, make())
    assert Run(tmp_path).summary() == before
    assert set(contents(tmp_path)) <= {DATABASE, BEST_LOSS, LOCK}


def test_built_in_tasks_are_loaded_again(tmp_path: Path) -> None:
    task = load_task("diabetes/mlp", split_seed=3)
    arguments: dict[str, Any] = {**SEARCH, "generations": 2}
    expected = search(task, run_dir=tmp_path / "whole", **arguments)
    place = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(task, run_dir=place, callbacks=[Recorder("candidate", 2)], **arguments)
    assert everything(resume(place)) == everything(expected)


def test_data_is_found_where_the_run_found_it(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVOMAL_DATA")
    (tmp_path / "here").symlink_to(data_dir)
    task = load_task("boston/mlp", data_dir=tmp_path / "here")
    place = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(task, run_dir=place, callbacks=[Recorder("candidate", 2)], **SEARCH)
    with pytest.raises(InputError, match=r"'boston' is not in .*elsewhere"):
        resume(place, data_dir=tmp_path / "elsewhere")
    changed = tmp_path / "changed" / "boston"
    changed.mkdir(parents=True)
    table = (data_dir / "boston" / "housing.data").read_text()
    (changed / "housing.data").write_text(table.replace("396.90", "396.91", 1))
    with pytest.raises(InputError, match=r"has changed .*\(data\)"):
        resume(place, data_dir=changed.parent)
    assert resume(place).facts.status == "finished"


def test_only_a_method_with_generations_can_search_on(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"preset": "paper", "testing_steps": 5}
    search(regression_task(), method="baseline", run_dir=tmp_path, **sizes)
    before = contents(tmp_path)
    assert resume(tmp_path, generations=1).facts.status == "finished"
    with pytest.raises(InputError, match=r"method baseline has no setting 'generations'; .*evomal"):
        resume(tmp_path, regression_task(), generations=2)
    assert contents(tmp_path) == before


def test_other_versions_are_warned_of(tmp_path: Path) -> None:
    interrupt(tmp_path, "candidate", 2)
    store = RunStore.reopen(tmp_path)
    store.write_facts({"versions": {**store.facts()["versions"], "torch": "1.0"}})
    store.close()
    with pytest.warns(UserWarning, match=r"started with torch 1\.0"):
        resume(tmp_path, regression_task())


def test_a_run_in_use_cannot_be_resumed(tmp_path: Path) -> None:
    attempts: list[str] = []

    class Meddler(Recorder):
        def on_candidate(self, method: Any, outcome: Any) -> None:
            if not attempts:
                with pytest.raises(InputError) as error:
                    resume(tmp_path, regression_task())
                attempts.append(str(error.value))
                assert Run(tmp_path).facts.status == "running"

    run = search(regression_task(), run_dir=tmp_path, callbacks=[Meddler()], **SEARCH)
    assert attempts == [
        f"Another process is writing the run in {str(tmp_path)!r}; wait until it ends."
    ]
    assert run.facts.status == "finished"


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 999, b"SQLite format 3\x00" + b"\x00" * 4080], ids=len
)
def test_what_is_no_run_cannot_be_resumed(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run directory"):
        resume(tmp_path)
    (tmp_path / DATABASE).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        resume(tmp_path)
    assert (tmp_path / DATABASE).read_bytes() == content


def test_a_truncated_store_cannot_be_resumed(whole: Run, tmp_path: Path) -> None:
    place = shutil.copytree(whole.run_dir, tmp_path / "run") / DATABASE
    intact = place.read_bytes()
    for size in (len(intact) // 2, len(intact) - 4096, 100):
        place.write_bytes(intact[:size])
        with pytest.raises(InputError, match="cannot be read"):
            resume(place.parent, regression_task(), generations=9)
        assert place.read_bytes() == intact[:size]


COMMAND = """
import os, resource, sys
from evomal.runs import search, trackers  # before any limit
from evomal.cli import main
from evomal.tasks.datasets import load_arrays
exec(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""
SETTINGS = ["--population-size=6", "--meta-steps=1", "--testing-steps=2", "--rejection-steps=5"]
SETTINGS += ["--max-initial-height=2", "--max-height=3", "--generations=3", "--seed=1"]
SETTINGS += ["--preset=paper"]
LIMIT = "resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


def test_a_full_disk_ends_a_run_that_can_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", "diabetes/mlp", *SETTINGS, "--workers=1", "--run-dir"]
    whole = str(tmp_path / "whole")
    assert main([*arguments, whole, "--quiet"]) == 0
    place = str(tmp_path / "run")
    status, _, errors = run_python("-c", COMMAND, LIMIT.format(60_000), *arguments, place)
    assert status == 2, errors
    assert errors.startswith(f"Error: Cannot write to the run in {place!r}")
    assert errors.endswith(f"then continue with: evomal resume {place}\n")
    assert errors.count("\n") == 1
    done = Run(place).archive.counts.total()
    assert 0 < done < Run(whole).archive.counts.total()
    assert Run(place).facts.status in ("failed", "killed")
    assert main(["resume", place, "--workers=1", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert everything(Run(place))[1:] == everything(Run(whole))[1:]


def test_a_read_only_run_directory_can_be_read_but_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path, "candidate", 3)
    before = contents(tmp_path)

    def refuse(_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(InputError, match=r"cannot be written \(.*Read-only file system\)"):
        resume(tmp_path, regression_task())
    assert Run(tmp_path).facts.status == "interrupted"
    assert Run(tmp_path).archive.counts.total() == 3
    assert contents(tmp_path) == before
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\)"):
        search(regression_task(), run_dir=tmp_path / "new", **SEARCH)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "run")
    arguments = ["search", "diabetes/mlp", *SETTINGS, "--generations=100", "--run-dir", place]
    with running("-m", "evomal.cli", *arguments) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("Generation 2/100") for line in lines)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert f"To continue: evomal resume {place}\n" in output
    assert main(["resume", place, "--workers=1", "--max-evaluations=1"]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert re.search(r"stopped\s\(max_evaluations\sof\s1\sreached\)", output)
