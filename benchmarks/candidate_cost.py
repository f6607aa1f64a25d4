"""The cost of a candidate at paper settings: ours on all workers against the naive peer, in pairs.

Run: EVOMAL_DATA=… python benchmarks/candidate_cost.py [--tasks diabetes/mlp mnist/lenet5] [--n 5]

Every stage is timed in pieces of `--steps` steps, ours and the peer's alternately, once to warm up
and then n times, and scaled to the paper's 250 meta steps, the task's rejection steps and 500
training steps. Ours works like a search, with one thread in each of `--workers` processes (on a
GPU: in this process); the cost of a candidate is the time of a piece divided by its candidates. The
peer (`naive_peer.py`) uses all cores as threads. There are four losses of 4 to 13 nodes.

The last lines combine the stages: for a candidate that passes all of them, and for the mean
candidate of a generation of which the fraction `--promising` is promising, without and with
`--prescreen`. Prints hardware, versions, n, medians, spreads and ratios from one run.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import evomal
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.evomal import EvoMALSettings
from evomal.runs.executors import Executor, InProcess
from evomal.runs.processes import LocalProcesses
from evomal.tasks.task import Task
from evomal.training.engines.choice import engine_on, with_engine
from evomal.training.filters import correlations
from evomal.training.loop import performance, train
from evomal.training.stack import stacked_training
from evomal.training.workbench import Workbench

LOSSES = {
    "identity": [
        "square(sub(y, f))",
        "sqrt(square(sub(y, f)))",
        "mul(square(sub(y, f)), add(1, square(tanh(sub(f, y)))))",
        "add(abs(sub(y, f)), log(add(1, square(sub(f, y)))))",
    ],
    "softmax": [
        "mul(y, abs(log(f)))",
        "square(sub(y, f))",
        "add(mul(y, abs(log(f))), square(sub(y, mul(f, tanh(f)))))",
        "sub(mul(y, abs(log(f))), mul(f, sub(y, f)))",
    ],
}
Losses = list[SymbolicLoss]
Piece = Callable[[], float]
STAGES = ("local search", "rejection", "partial training", "validation")


def local_search(bench: Workbench, losses: Losses) -> int:
    """In a worker: a group of candidates."""
    return len(engine_on(bench).tune(losses))


def rejection(bench: Workbench, losses: Losses) -> int:
    """In a worker: a group of candidates."""
    return len(correlations(bench, losses))


def training(bench: Workbench, losses: Losses) -> int:
    """In a worker: one candidate, or in one pass those of a group that are promising."""
    engine, (task,), steps = engine_on(bench), bench.tasks, bench.settings.fitness_steps
    if engine.trains_together:
        own = losses[: -(-len(losses) // 4)]
        stacked_training(task, own, steps, 0)
        return len(own)
    train(task, losses[0], steps, stream=(0, "benchmark"))
    return 1


def validation(bench: Workbench, losses: Losses) -> int:
    """In a worker: one candidate."""
    (task,) = bench.tasks
    performance(task, task.new_model(0), task.validation)
    return 1


def ours(executor: Executor, losses: Losses) -> dict[str, Piece]:
    """By stage: seconds of a piece per candidate, all workers busy."""

    def timed(work: Callable[..., int]) -> Piece:
        def piece() -> float:
            start = time.perf_counter()
            futures = [executor.submit(work, losses) for _ in range(executor.workers)]
            done = sum(future.result() for future in futures)
            return (time.perf_counter() - start) / done

        return piece

    work = (local_search, rejection, training, validation)
    return dict(zip(STAGES, map(timed, work), strict=True))


def peers(task: Task, losses: Losses, steps: int) -> dict[str, Piece]:
    """The same for the naive peer: one candidate, alternating the losses."""
    import naive_peer

    learner = naive_peer.new_learner(task)
    naive_peer.datasets(task)

    def timed(work: Callable[[SymbolicLoss], object]) -> Piece:
        turn = cycle(losses)

        def piece() -> float:
            loss = next(turn)
            start = time.perf_counter()
            work(loss)
            if task.device.type == "cuda":
                torch.cuda.synchronize(task.device)
            return time.perf_counter() - start

        return piece

    work: list[Callable[[SymbolicLoss], object]] = [
        lambda loss: naive_peer.local_search(task, loss.expression, 0, steps),
        lambda loss: naive_peer.rejection(task, loss.expression, loss.phi, steps),
        lambda loss: naive_peer.train(task, loss.expression, loss.phi, steps),
        lambda _: naive_peer.validation_metric(task, learner),
    ]
    return dict(zip(STAGES, map(timed, work), strict=True))


def main() -> None:
    """Print one table per task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["diabetes/mlp", "mnist/mlp", "mnist/lenet5"])
    parser.add_argument("--n", type=int, default=5, help="timed pairs per stage")
    parser.add_argument("--steps", type=int, default=25, help="steps in a piece")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", choices=["auto", "loop", "batched", "stacked"], default="auto")
    parser.add_argument("--promising", type=float, default=0.25, help="share of the candidates")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for name in options.tasks:
        task = evomal.load_task(name, device=options.device)
        paper = EvoMALSettings()
        piece = replace(
            paper,
            meta_steps=options.steps,
            rejection_steps=options.steps,
            testing_steps=options.steps,
            engine=options.engine,
        )
        piece, reason = with_engine(piece, [task], tunes=True)
        losses = [SymbolicLoss.of_form(text, task.form) for text in LOSSES[task.link]]
        losses *= 1 if piece.group_size else paper.population_size // len(losses)
        on_cpu = task.device.type == "cpu"
        executor: Executor = (
            LocalProcesses([task], piece, 0, options.workers)
            if on_cpu
            else InProcess([task], piece, 0)
        )
        print_machine(f"{name}, {task.device}, n = {options.n}")
        torch.set_num_threads(1)
        print_floor(task, executor.workers, piece.group_size)
        torch.set_num_threads(os.cpu_count() or 1)  # the peer's
        print(
            f"ours: engine {piece.engine} ({reason}), groups of {piece.group_size or 'all'}, "
            f"{executor.workers} workers with one thread; peer: {torch.get_num_threads()} threads"
        )
        pieces = [
            paper.meta_steps / options.steps,
            task.rejection_steps / options.steps,
            paper.testing_steps / options.steps,
            1.0,
        ]
        a, b = ours(executor, losses), peers(task, losses, options.steps)
        times = {stage: pairs(a[stage], b[stage], options.n) for stage in STAGES}
        executor.close()
        report(times, dict(zip(STAGES, pieces, strict=True)), options)


def pairs(first: Piece, second: Piece, n: int) -> list[tuple[float, float]]:
    """Seconds per piece of both, n times alternately after a warm-up."""
    return [(first(), second()) for _ in range(n + 1)][1:]


def report(
    times: dict[str, list[tuple[float, float]]],
    pieces: dict[str, float],
    options: argparse.Namespace,
) -> None:
    """Print one task's table."""
    print(f"{'seconds per candidate':<34}{'ours':>8}{'peer':>8}{'ratio':>7}  min to max, ms a step")
    cost: dict[str, tuple[float, float]] = {}
    for stage, found in times.items():
        own, peer = (statistics.median(pair[i] for pair in found) for i in (0, 1))
        cost[stage] = own * pieces[stage], peer * pieces[stage]
        ratios = [second / first for first, second in found]
        more = f"  {min(ratios):.2f} to {max(ratios):.2f}"
        if stage != "validation":
            more += f", {1e3 * own / options.steps:.2f} and {1e3 * peer / options.steps:.2f}"
        row(stage, *cost[stage], more)
    first, last = ([cost[stage][i] for stage in STAGES] for i in (0, 1))
    row("a candidate that passes all", sum(first), sum(last))
    share = options.promising
    mean = [sum(one[:2]) + share * sum(one[2:]) for one in (first, last)]
    row(f"mean, {share:.0%} promising", mean[0], mean[1])
    row("the same, ours with --prescreen", first[1] + share * sum(first), mean[1])
    print()


def row(label: str, own: float, peer: float, more: str = "") -> None:
    """Print one line."""
    print(f"{label:<34}{own:8.3f}{peer:8.3f}{peer / own:7.2f}{more}")


def print_floor(task: Task, workers: int, group: int | None) -> None:
    """Print the time of the arithmetic of a meta step and a training step, at the rate of products.

    A meta step has the forward pass shared by its group, and the equivalent of seven more:
    pull-back 2, forward at the updated parameters 1, its gradient 2, forward-mode product 2.
    """
    size = 2048
    first, second = torch.randn(2, size, size, device=task.device)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        float((first @ second)[0, 0])
        times.append(time.perf_counter() - start)
    rate = 2 * size**3 / min(times)
    inputs = task.batch(task.train, slice(0, task.batch_size)).inputs
    with FlopCounterMode(display=False) as counter:
        task.new_model(0)(inputs)
    forward = counter.get_total_flops()
    meta, step = (7 + 1 / (group or 25)) * forward, 3 * forward
    print(
        f"floor: {forward / 1e9:.3f} GFLOP a forward pass, {rate / 1e9:.0f} GFLOP/s a worker; "
        f"meta step {1e3 * meta / rate / workers:.2f} ms, "
        f"training step {1e3 * step / rate / workers:.2f} ms a candidate"
    )


def print_machine(more: str) -> None:
    """Print hardware and versions."""
    print(
        f"{cpu_name()}, {os.cpu_count()} cores; evomal {evomal.__version__}, "
        f"torch {torch.__version__}, Python {platform.python_version()}; {more}"
    )


def cpu_name() -> str:
    """The processor's name, if the system provides it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
