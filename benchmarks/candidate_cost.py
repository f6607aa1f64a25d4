"""What one candidate costs at paper settings: local search, rejection, partial training.

Run: EVOMAL_DATA=… python benchmarks/candidate_cost.py [--tasks diabetes/mlp mnist/lenet5] [--n 5]

Every stage is timed in pieces of `--steps` steps, once to warm up and then n times, and multiplied
up to the paper's 250 meta steps, the task's rejection steps and 500 training steps. Prints
hardware, versions, n, median and spread.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import evomal
from evomal.losses.base import Loss
from evomal.methods.settings import PRESETS
from evomal.tasks.task import Task
from evomal.training.filters import correlation
from evomal.training.training import performance, train
from evomal.training.unrolled import optimize_weights

LOSSES = {"identity": "square(sub(y, f))", "softmax": "mul(y, abs(log(f)))"}


def stages(task: Task, loss: Loss, steps: int) -> dict[str, tuple[Callable[[], object], float]]:
    """By stage: the work of one timed piece, and how many pieces a candidate needs."""
    paper = PRESETS["paper"]
    piece = replace(paper, meta_steps=steps, rejection_steps=steps)
    learner = task.new_model(seed=0)
    return {
        "local search": (
            lambda: optimize_weights(loss, [task], piece, seed=0),
            paper.meta_steps / steps,
        ),
        "rejection": (
            lambda: correlation(loss, [task], piece, seed=0),
            task.rejection_steps / steps,
        ),
        "partial training": (
            lambda: train(task, loss, steps, stream=(0, "benchmark")),
            paper.testing_steps / steps,
        ),
        "validation": (lambda: performance(task, learner, task.validation), 1.0),
    }


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print one table per task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["diabetes/mlp", "mnist/lenet5"])
    parser.add_argument("--n", type=int, default=5, help="timed pieces per stage")
    parser.add_argument("--steps", type=int, default=25, help="steps in a piece")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{cpu_name()}, {os.cpu_count()} cores, {options.threads} thread(s); "
        f"evomal {evomal.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}; n = {options.n}"
    )
    for name in options.tasks:
        task = evomal.load_task(name)
        loss = evomal.SymbolicLoss(LOSSES[task.link], link=task.link)
        print(f"\n{name}, seconds per candidate at paper settings (ms per step in brackets)")
        print(f"{'stage':<18}{'median':>9}{'min':>9}{'max':>9}{'ms/step':>10}")
        total = 0.0
        for stage, (work, pieces) in stages(task, loss, options.steps).items():
            work()
            times = [seconds(work) for _ in range(options.n)]
            median = statistics.median(times)
            total += median * pieces
            cells = [median * pieces, min(times) * pieces, max(times) * pieces]
            per_step = "" if pieces == 1 else f"({1e3 * median / options.steps:.2f})"
            print(f"{stage:<18}" + "".join(f"{cell:9.2f}" for cell in cells) + f"{per_step:>10}")
        print(f"{'sum':<18}{total:9.2f}")


def cpu_name() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
