"""Ray: the same run as in one process, on one node, on two, and when one of two is killed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from evomal import Run, load_task, search
from evomal.cli import main
from run_helpers import run_python, without_timing

SETTINGS: dict[str, Any] = {
    "preset": "paper",
    "population_size": 6,
    "generations": 3,
    "meta_steps": 2,
    "rejection_steps": 10,
    "testing_steps": 5,
    "max_initial_height": 3,
    "max_height": 4,
}


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run_dir = tmp_path_factory.mktemp("in-process") / "run"
    return search(load_task("diabetes/mlp"), run_dir=run_dir, **SETTINGS)


def arguments(run_dir: Path) -> list[str]:
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    execution = ["--executor", "ray", "--workers", "2", "--run-dir", str(run_dir), "--quiet"]
    return ["-m", "evomal.cli", "search", "diabetes/mlp", *settings, *execution]


def test_a_search_in_ray_is_the_same(
    in_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert run_python(*arguments(tmp_path / "run")) == (0, "", "")
    run = Run(tmp_path / "run")
    assert without_timing(run.summary()) == without_timing(in_process.summary())
    assert run.facts.status == "finished"


PAUSES = """
import sys
from evomal import load_task, search
from evomal.runs import queue

queue.CHECKPOINT_SECONDS = 0.0
for executor in ("ray", "local"):
    search(
        load_task("diabetes/mlp"), executor=executor, run_dir=f"{sys.argv[1]}/{executor}",
        method="ml3", preset="paper", meta_steps=4, testing_steps=5, progress=False,
    )
"""


@pytest.mark.slow
def test_tunings_pause_and_go_on_in_a_cluster(tmp_path: Path) -> None:
    assert run_python("-c", PAUSES, str(tmp_path)) == (0, "", "")
    shown = [without_timing(Run(tmp_path / name).summary()) for name in ("ray", "local")]
    assert shown[0] == shown[1]


TWO_NODES = """
import sys
import ray
from ray.cluster_utils import Cluster
from evomal import Callback, load_task, search

settings = eval(sys.argv[2])
head = {"num_cpus": 1, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
second = cluster.add_node(num_cpus=1)


def alive():
    return sum(node["Alive"] for node in ray.nodes())


class Killer(Callback):
    def on_candidate(self, method, outcome):
        done = method.archive.counts.total()
        if done == 1:
            print("==", alive(), "nodes")
        if done == 4:
            cluster.remove_node(second, allow_graceful=False)

    def on_run_end(self, method):
        print("==", alive(), "nodes")


try:
    run = search(
        load_task("diabetes/mlp"), executor="ray", ray_address=cluster.address, workers=2,
        run_dir=sys.argv[1], callbacks=[Killer()], **settings,
    )
    print("==", run.facts.status, run.archive.counts["failed"], ray.is_initialized())
finally:
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
def test_a_lost_node_costs_nothing_but_time(in_process: Run, tmp_path: Path) -> None:
    place = tmp_path / "run"
    status, output, errors = run_python("-c", TWO_NODES, str(place), repr(SETTINGS))
    assert status == 0, errors
    ours = [line for line in output.splitlines() if line.startswith("== ")]
    assert ours == ["== 2 nodes", "== 1 nodes", "== finished 0 False"], output
    assert without_timing(Run(place).summary()) == without_timing(in_process.summary())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray-address", "127.0.0.1:1"], "The Ray cluster at '127.0.0.1:1' does not answer"),
        (["--threads", "100000"], "is too small for a worker with 100000 CPUs"),
    ],
)
def test_no_cluster_is_an_input_error(options: list[str], message: str, tmp_path: Path) -> None:
    command = arguments(tmp_path / "run")
    status, output, errors = run_python(*command, *options)
    assert (status, output) == (2, ""), errors
    assert message in errors
    assert errors.startswith("Error: ")
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ray_is_named_if_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    assert main(["search", "diabetes/mlp", "--executor", "ray"]) == 2
    message = 'Error: The executor ray needs Ray; pip install "evomal[ray]".\n'
    assert capsys.readouterr() == ("", message)
    assert list(tmp_path.iterdir()) == []
