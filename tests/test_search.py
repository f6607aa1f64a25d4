"""Whole searches on tiny tasks: reproducible, durable, and with every outcome where it belongs."""

from __future__ import annotations

import json
import math
import multiprocessing
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evomal import InputError, Run, Task, load_loss, search
from evomal.losses.names import BEST_LOSS
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import STATUSES
from evomal.methods.registry import METHODS
from evomal.runs import run as run_module
from evomal.runs.directory import DATABASE, LOCK
from evomal.runs.store import RunStore
from evomal.runs.work import train_candidates
from evomal.tasks.optimizers import AdamW
from evomal.tasks.schedules import Cosine
from evomal.training.screening import screen
from evomal.training.settings import Pipeline
from evomal.training.workbench import Workbench
from run_helpers import (
    OVERFLOW,
    TINY,
    Fixed,
    Recorder,
    contents,
    known_to,
    made_up_formulas,
    run_python,
    tiny_settings,
    without_timing,
)
from tasks_for_tests import Perceptron, classification_task, regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")


def run_tiny(run_dir: Path | None, task: Any = None, **arguments: Any) -> Run:
    sizes = known_to(arguments.get("method", "evomal"), TINY)
    return search(task or regression_task(), run_dir=run_dir, **{**sizes, **arguments})


def stored(run: Run) -> list[Any]:
    store = RunStore.open(run.run_dir)
    outcomes = list(store.outcomes())
    store.close()
    return outcomes


def decisions(run: Run) -> list[tuple[int, str, float, int | None]]:
    return [(o.candidate.number, o.status, o.fitness, o.source) for o in stored(run)]


@pytest.fixture
def fixed_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, Fixed.name, Fixed)


@pytest.mark.usefixtures("fixed_method")
def test_every_outcome_has_its_reason(tmp_path: Path) -> None:
    run = run_tiny(tmp_path, method="fixed", generations=2)
    outcomes = stored(run)
    expected = [row for generation in Fixed.expected for row in generation]
    found = [(str(o.candidate.loss.expression), o.status, o.source) for o in outcomes]
    assert found == expected
    for outcome in outcomes:
        if outcome.source is not None:
            assert outcome.fitness == outcomes[outcome.source].fitness
        if outcome.status in ("rejected", "diverged"):
            assert outcome.fitness == math.inf
    assert outcomes[4].correlation < 0 < outcomes[0].correlation
    assert outcomes[0].fitness == pytest.approx(run.facts.task_loss_fitness, rel=1e-5)
    counts = Counter(status for _, status, _ in expected)
    assert run.summary()["outcomes"] == {status: counts[status] for status in STATUSES}
    assert all(counts[status] for status in STATUSES if status not in ("halted", "failed"))


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("task", [regression_task(), classification_task()], ids=lambda t: t.link)
def test_overflow_is_a_diverged_candidate(task: Task, optimize: bool) -> None:
    loss = SymbolicLoss(OVERFLOW, link=task.link)
    bench = Workbench([task], tiny_settings(), 0)
    (screening,) = screen(bench, [loss], Pipeline(optimize, True, True))
    assert screening.verdict == "diverged"
    assert screening.gradient_key is None
    assert (screening.seconds.filters is not None) is not optimize
    (unfiltered,) = screen(bench, [loss], Pipeline(False, False, False))
    assert unfiltered.verdict == "promising"
    assert train_candidates(bench, [unfiltered.loss], 0)[0].curve == (math.inf,)


@pytest.mark.parametrize("prescreen", [True, False])
def test_prescreening_saves_the_local_search_of_hopeless_losses(prescreen: bool) -> None:
    bench = Workbench([regression_task()], tiny_settings(prescreen=prescreen), 0)
    for text, hopeless in [("mul(-1, square(sub(y, f)))", True), ("square(sub(y, f))", False)]:
        loss = SymbolicLoss(text)
        (screening,) = screen(bench, [loss], Pipeline(True, True, True))
        assert (screening.verdict == "rejected") is hopeless
        assert (screening.seconds.tuning is not None) is not (hopeless and prescreen)
        untouched = bool((screening.loss.phi == 1).all())
        assert untouched is (hopeless and prescreen)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_fixes_a_run(method: str, tmp_path: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
    first = run_tiny(tmp_path / "1", method=method, seed=4)
    again = run_tiny(tmp_path / "2", method=method, seed=4)
    other = run_tiny(tmp_path / "3", method=method, seed=5)
    summary = without_timing(first.summary())
    assert without_timing(again.summary()) == summary
    assert {**without_timing(other.summary()), "seed": 4} != summary
    assert summary["status"] == "finished"
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state(legacy=False)) == str(before[1])
    assert random.getstate() == before[2]


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, bool]:
    """A run on two workers, and whether an unrelated child process of ours survived it."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=receiver.recv)
    child.start()
    run = run_tiny(tmp_path_factory.mktemp("parallel"), two_tasks(), workers=2, seed=1)
    alive = child.is_alive()
    sender.send(None)
    child.join()
    return run, alive


def two_tasks() -> list[Task]:
    recipe: dict[str, Any] = {"optimizer": AdamW(0.01), "schedule": Cosine(warmup=0.1)}
    other = regression_task(name="b", batch_size=16, clip_norm=10.0, **recipe)
    return [regression_task(name="a"), other]


def test_the_number_of_workers_changes_nothing(
    in_two_processes: tuple[Run, bool], tmp_path: Path
) -> None:
    parallel, _ = in_two_processes
    single = run_tiny(tmp_path, two_tasks(), workers=1, seed=1)
    ours, theirs = without_timing(single.summary()), without_timing(parallel.summary())
    assert json.dumps(ours) == json.dumps(theirs)
    assert decisions(parallel) == decisions(single)
    assert (parallel.run_dir / BEST_LOSS).read_bytes() == (tmp_path / BEST_LOSS).read_bytes()


def test_workers_end_and_other_processes_live_on(in_two_processes: tuple[Run, bool]) -> None:
    _, bystander_survived = in_two_processes
    assert bystander_survived
    assert multiprocessing.active_children() == []


def test_the_fitness_is_the_mean_over_tasks(tmp_path: Path) -> None:
    tasks = two_tasks()
    run = run_tiny(tmp_path, tasks, method="gp-lfl", seed=1)
    assert run.summary()["task"] == ["a", "b"]
    bench = Workbench(tasks, tiny_settings(), 1)
    for entry in run.hall_of_fame:
        values = [train_candidates(bench, [entry.loss], i)[0].curve[0] for i in range(2)]
        assert values[0] != values[1]
        assert entry.fitness == pytest.approx(sum(values) / 2)


def test_weights_are_ones_without_and_tuned_with_local_search(tmp_path: Path) -> None:
    for method in ("gp-lfl", "evomal"):
        run = run_tiny(tmp_path / method, method=method, seed=1, generations=4)
        outcomes = [o for o in stored(run) if o.status == "evaluated"]
        assert outcomes
        for outcome in outcomes:
            assert bool((outcome.loss.phi == 1).all()) is (method == "gp-lfl")
            assert outcome.loss.link == "identity"


def test_the_baseline_learns_nothing(tmp_path: Path) -> None:
    run = run_tiny(tmp_path, classification_task(), method="baseline")
    summary = run.summary()
    assert summary["best"] is None
    assert summary["hall_of_fame"] == []
    assert [o.fitness for o in stored(run)] == [summary["task_loss_fitness"]]
    assert summary["generations"][0]["best"] == summary["task_loss_fitness"]
    assert summary["outcomes"]["evaluated"] == len(summary["generations"]) == 1
    assert set(contents(tmp_path)) == {DATABASE, LOCK}
    with pytest.raises(InputError, match="has no learned loss"):
        _ = run.best


NEW_PROCESS = """
import sys
import torch
from evomal import load_loss
loss_fn = load_loss(sys.argv[1])
torch.manual_seed(0)
x = torch.randn(64, 3)
y = x.sum(1, keepdim=True)
model = torch.nn.Linear(3, 1)
sgd = torch.optim.SGD(model.parameters(), lr=0.05)
before = loss_fn(model(x), y).item(), model.weight.detach().clone()
for _ in range(50):
    sgd.zero_grad()
    loss_fn(model(x), y).backward()
    sgd.step()
assert loss_fn(model(x), y).item() < before[0]
assert not torch.equal(model.weight, before[1])
assert "evomal.runs.search" not in sys.modules
"""


def test_the_best_loss_is_a_file_that_needs_no_search_code(tmp_path: Path) -> None:
    run = run_tiny(tmp_path, seed=1, method="gp-lfl")
    best = min((o for o in stored(run) if o.fitness < math.inf), key=lambda outcome: outcome.rank)
    assert best.loss.to_dict() == run.best.loss.to_dict()
    assert load_loss(tmp_path / BEST_LOSS).to_dict() == best.loss.to_dict()
    assert run.best.fitness == best.fitness == run.generations[-1].best
    assert set(contents(tmp_path)) == {DATABASE, BEST_LOSS, LOCK}
    assert run_python("-c", NEW_PROCESS, str(tmp_path / BEST_LOSS)) == (0, "", "")


def test_callbacks_are_called_in_order(tmp_path: Path) -> None:
    recorders = [Recorder(), Recorder()]
    run = run_tiny(tmp_path, callbacks=recorders)
    names = [name for name, _ in recorders[0].calls]
    sizes = [5, 4, 4]
    expected = [name for size in sizes for name in [*["candidate"] * size, "generation"]]
    assert names == ["start", *expected, "end"]
    assert recorders[0].calls == recorders[1].calls
    assert recorders[0].calls[0][1] == run.facts.task_loss_fitness
    assert [v for n, v in recorders[0].calls if n == "generation"] == [0, 1, 2]
    assert sorted(v for n, v in recorders[0].calls if n == "candidate") == list(range(13))


@pytest.mark.parametrize(
    ("stop", "at", "candidates", "generations"),
    [("start", 1, 0, 0), ("candidate", 7, 7, 1), ("generation", 2, 9, 2)],
)
def test_an_interrupted_run_can_be_read(
    stop: str, at: int, candidates: int, generations: int, tmp_path: Path
) -> None:
    recorder = Recorder(stop, at)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path, method="gp-lfl", seed=1, callbacks=[recorder])
    assert recorder.calls[-1][0] == "end"
    run = Run(tmp_path)
    summary = run.summary()
    assert summary["status"] == "interrupted"
    assert sum(summary["outcomes"].values()) == candidates
    assert len(summary["generations"]) == generations
    if candidates:
        assert load_loss(tmp_path / BEST_LOSS).to_dict() == run.best.loss.to_dict()
    whole = run_tiny(tmp_path / "whole", method="gp-lfl", seed=1)
    assert decisions(run) == decisions(whole)[:candidates]


def test_an_interrupt_while_formulas_are_made_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    recorder = Recorder()
    monkeypatch.setattr(run_module, "printed_forms", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path, method="gp-lfl", seed=1, callbacks=[recorder])
    monkeypatch.setattr(run_module, "printed_forms", made_up_formulas)
    assert recorder.calls[-1][0] == "end"
    assert set(contents(tmp_path)) == {DATABASE, BEST_LOSS, LOCK}
    assert Run(tmp_path).facts.status in ("finished", "interrupted")


def local_model() -> Any:
    return lambda: Perceptron(1)


def test_a_task_that_cannot_be_sent_needs_one_worker(tmp_path: Path) -> None:
    task = regression_task(model=local_model())
    with pytest.raises(InputError, match="cannot be sent to worker processes"):
        run_tiny(tmp_path / "two", task, workers=2)
    assert contents(tmp_path) == {}
    assert run_tiny(tmp_path / "one", task).facts.status == "finished"


NAN, INF = math.nan, math.inf
BAD_ARGUMENTS: list[dict[str, Any]] = [
    *({name: 0} for name in ("population_size", "generations", "tournament_size", "base_steps")),
    *({name: 0} for name in ("rejection_batch", "testing_steps", "threads", "workers")),
    *({name: -1} for name in ("meta_steps", "rejection_steps", "max_mutation_height")),
    {"population_size": 4.5},
    *({"meta_learning_rate": value} for value in (0.0, -1.0, NAN, INF)),
    *({name: NAN} for name in ("crossover_rate", "mutation_rate", "elitism_rate")),
    *({name: -0.1} for name in ("crossover_rate", "mutation_rate", "elitism_rate")),
    {"crossover_rate": 0.8, "mutation_rate": 0.3},
    {"elitism_rate": 1.0},
    {"min_initial_height": 5},
    {"max_initial_height": 11},
    {"min_initial_height": 0, "max_initial_height": 0},
    *({name: "no"} for name in ("activation", "meta_batch", "method", "preset", "nonsense")),
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=str)
def test_bad_arguments_write_nothing(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run_dir in (None, tmp_path / "run"):
        with pytest.raises(InputError) as error:
            run_tiny(run_dir, **arguments)
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "tasks",
    [[], [regression_task(), regression_task()], [regression_task(), classification_task()]],
    ids=["none", "equal names", "different links"],
)
def test_tasks_that_do_not_go_together_write_nothing(tasks: list[Task], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="different names, but the same link"):
        search(tasks, run_dir=tmp_path / "run", **TINY)
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_or_unwritable_run_dir_is_left_as_it_was(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run", method="gp-lfl", seed=1)
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    for place in ("run", "file", "file/run"):
        with pytest.raises(InputError, match="choose another"):
            run_tiny(tmp_path / place)
        assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert contents(tmp_path) == before


def test_the_default_run_dir_is_a_new_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = regression_task()
    runs = [search(task, method="baseline", **known_to("baseline", TINY)) for _ in range(2)]
    assert [run.run_dir for run in runs] == [Path("runs/0001"), Path("runs/0002")]
