"""The speed-up of two workers, and the cost of the coordinator in a long run.

Run: EVOMAL_DATA=… python benchmarks/scaling.py [--task mnist/lenet5] [--pairs 3]

1. Candidates per minute with one and with two workers, one thread each, in pairs of the same search
   (without start-up); the ratio of every pair.
2. Coordinator: a search of 10 000 candidates whose work takes no time, so that only the coordinator
   is timed; the time per candidate at the end, and the time from `resume` to the first work.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import evomal
from evomal.methods.base import Generation, Method, Outcome
from evomal.runs import search as search_module
from evomal.runs.work import screen_candidates
from evomal.seeding import derive_seed
from evomal.training.engines.base import Training
from evomal.training.screening import Screening

PIECE: dict[str, Any] = {
    "preset": "paper",
    "population_size": 24,
    "generations": 2,
    "meta_steps": 25,
    "testing_steps": 50,
}


class Clock(evomal.Callback):
    """Records the start of the run and the time of every finished candidate."""

    def __init__(self) -> None:
        self.start = 0.0
        self.candidates: list[float] = []
        self.generations = 0

    def on_run_start(self, method: Method, start: evomal.RunStart) -> None:
        """Note the time."""
        self.start = time.perf_counter()

    def on_candidate(self, method: Method, outcome: Outcome) -> None:
        """Note the time."""
        self.candidates.append(time.perf_counter())

    def on_generation(self, method: Method, generation: Generation) -> None:
        """Count."""
        self.generations += 1

    @property
    def per_minute(self) -> float:
        """Candidates per minute."""
        return 60 * len(self.candidates) / (self.candidates[-1] - self.start)


def throughput(task: evomal.Task, workers: int) -> float:
    """Candidates per minute of one search; workers are processes also if there is one."""
    clock = Clock()
    from evomal.runs.processes import LocalProcesses

    def executor(tasks: Any, settings: Any, seed: int, *_: Any) -> LocalProcesses:
        return LocalProcesses(tasks, settings, seed, workers)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(search_module, "open_executor", executor),
    ):
        evomal.search(task, run_dir=Path(folder) / "run", callbacks=[clock], **PIECE)
    return clock.per_minute


class Instant:
    """An executor whose work takes no time: fitness is a digest of the expression."""

    workers = 8

    def __init__(self) -> None:
        self.starts: list[float] = []

    def submit(
        self, function: Callable[..., Any], *args: Any, timeout: float | None = None
    ) -> Future[Any]:
        """Return made-up results."""
        self.starts.append(time.perf_counter())
        future: Future[Any] = Future()
        if function is screen_candidates:
            losses = args[0]
            future.set_result([Screening(one, "promising", 1.0, one.structure) for one in losses])
        else:
            keys = ["task loss" if loss is None else loss.structure for loss in args[0]]
            future.set_result([Training((1 + derive_seed(key) / 2**63,), 0.0) for key in keys])
        return future

    def close(self) -> None:
        """Nothing to do."""


def coordinator(candidates: int) -> None:
    """Print the coordinator's time per candidate and the start of a resumption."""
    task = evomal.load_task("diabetes/mlp")
    population = 100
    generations = 1 + (candidates - population) // (population - 5)
    sizes: dict[str, Any] = {"population_size": population, "generations": generations}
    clock, instant = Clock(), Instant()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(search_module, "open_executor", return_value=instant))
        stack.enter_context(mock.patch("evomal.runs.driver.describe"))
        run_dir = Path(folder) / "run"
        evomal.search(task, run_dir=run_dir, callbacks=[clock], preset="paper", **sizes)
        times = clock.candidates
        last = [after - before for before, after in pairwise(times[-1001:])]
        size = (run_dir / "run.sqlite").stat().st_size / 2**20
        print(
            f"coordinator, {len(times)} candidates stored ({size:.0f} MiB): "
            f"the last {len(last)} took "
            f"{1e3 * statistics.fmean(last):.2f} ms each, "
            f"median {1e3 * statistics.median(last):.2f} ms"
        )
        starts = []
        for more in (1, 2, 3):
            instant.starts.clear()
            begin = time.perf_counter()
            evomal.resume(run_dir, task, generations=generations + more)
            starts.append(instant.starts[0] - begin)
        print(
            f"resume to first work: median {statistics.median(starts):.2f} s, "
            f"{min(starts):.2f} to {max(starts):.2f} s, n = {len(starts)}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="mnist/lenet5")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=10_000)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
    coordinator(options.candidates)
    task = evomal.load_task(options.task)
    ratios = []
    for pair in range(options.pairs):
        one, two = throughput(task, 1), throughput(task, 2)
        ratios.append(two / one)
        print(
            f"{options.task}, pair {pair + 1}: {one:.1f} candidates per minute with one worker, "
            f"{two:.1f} with two; ratio {two / one:.2f}",
            flush=True,
        )
    print(
        f"ratio: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}, "
        f"n = {len(ratios)}"
    )


if __name__ == "__main__":
    main()
