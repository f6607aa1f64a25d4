"""Algorithm 1 through AdamW against SGD, and from states of a training against fresh ones.

Run: EVOMAL_DATA=… python benchmarks/adaptive.py cost [--tasks mnist/lenet5 diabetes/mlp] [--n 9]
Run: EVOMAL_DATA=… python benchmarks/adaptive.py start [--tasks …] [--seeds 5] [--generations 7]

`cost` times meta steps with SGD and with AdamW alternately in one run, in one process with one
thread, on a group of four losses; the snapshots that AdamW starts from are computed before. Prints
the median ratio and its spread, and what the snapshots take.

`start` searches with SGD with `--meta-start fresh` and `training` on the same seeds. Prints the
final fitness of both by seed, also retrained on new batches and θ₀ (the search has chosen the
fitness, so that it is biased), their mean difference with a 95 % interval (t), and wins and losses
with the p of the two-sided sign test.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from candidate_cost import LOSSES, print_machine
from methods import SMALL, small_search
from scipy import stats

import evomal
from evomal.losses.symbolic import SymbolicLoss
from evomal.tasks.optimizers import OptimizerSettings
from evomal.tasks.task import Task
from evomal.training.engines.base import Engine
from evomal.training.engines.choice import ENGINES
from evomal.training.loop import partial_training
from evomal.training.numerics import DivergedError
from evomal.training.settings import EvaluationSettings
from evomal.training.workbench import Workbench

META_STEPS = 20
FRESH_SEEDS = range(1000, 1003)


def engine(task: Task, optimizer: OptimizerSettings, name: str) -> Engine:
    """An engine with its meta steps prepared."""
    task = copy.copy(task)
    task.optimizer, task.findings = optimizer, {}
    bench = Workbench([task], EvaluationSettings(meta_steps=META_STEPS), 0)
    found = ENGINES[name](bench)
    problem = found.problem(task)
    if problem is not None:
        raise SystemExit(f"{task.name} does not support the engine {name}: {problem}")
    return found


def seconds(own: Engine, losses: Sequence[SymbolicLoss]) -> float:
    """The time of a meta step of the group."""
    start = time.perf_counter()
    own.tune(losses)
    if own.bench.device.type == "cuda":
        torch.cuda.synchronize(own.bench.device)
    return (time.perf_counter() - start) / META_STEPS


def cost(options: argparse.Namespace) -> None:
    """Print one table per engine."""
    print_machine(f"{options.device}, n = {options.n}, groups of 4, one thread")
    torch.set_num_threads(1)
    print(
        f"{'task':<16}{'engine':<9}{'SGD, ms':>9}{'AdamW, ms':>11}{'ratio':>7}  min to max, start"
    )
    for name in options.tasks:
        task = evomal.load_task(name, device=options.device)
        losses = [SymbolicLoss.of_form(text, task.form) for text in LOSSES[task.link]]
        for which in options.engines:
            sgd, adamw = (engine(task, one, which) for one in (task.optimizer, evomal.AdamW()))
            seconds(sgd, losses)
            start = time.perf_counter()
            seconds(adamw, losses)  # with the training that passes through the snapshots
            first = time.perf_counter() - start
            pairs = [(seconds(sgd, losses), seconds(adamw, losses)) for _ in range(options.n)]
            own, other = (1e3 * statistics.median(pair[i] for pair in pairs) for i in (0, 1))
            ratios = [second / one for one, second in pairs]
            print(
                f"{name:<16}{which:<9}{own:9.2f}{other:11.2f}{statistics.median(ratios):7.2f}"
                f"  {min(ratios):.2f} to {max(ratios):.2f}, "
                f"{first - META_STEPS * other / 1e3:.1f} s once per worker",
                flush=True,
            )


def retrained(task: Task, loss: SymbolicLoss | None, steps: int) -> float:
    """The mean metric of partial trainings new to the search; infinite if one diverges."""
    try:
        return statistics.mean(
            partial_training(task, task.task_loss if loss is None else loss, steps, seed)
            for seed in FRESH_SEEDS
        )
    except DivergedError:
        return float("inf")


def start(options: argparse.Namespace) -> None:
    """Print one table per task."""
    print_machine(f"small search, {options.seeds} seeds, {options.workers} workers")
    given = {**small_search("evomal"), "generations": options.generations}
    for name in options.tasks:
        task = evomal.load_task(name, device=options.device)
        print(f"\n{name}: fitness, retrained on {len(FRESH_SEEDS)} new seeds, seconds")
        found: dict[str, list[tuple[float, float]]] = {"fresh": [], "training": []}
        for seed in range(options.seeds):
            for meta_start, values in found.items():
                with tempfile.TemporaryDirectory() as folder:
                    before = time.perf_counter()
                    run = evomal.search(
                        task,
                        seed=seed,
                        run_dir=Path(folder) / "run",
                        meta_start=meta_start,
                        workers=options.workers,
                        progress=False,
                        **given,
                    )
                    taken = time.perf_counter() - before
                best = run.archive.best
                assert best is not None
                assert isinstance(best.loss, SymbolicLoss)
                steps = run.facts.settings.fitness_steps
                values.append((best.fitness, retrained(task, best.loss, steps)))
                print(
                    f"seed {seed}  {meta_start:<9}{values[-1][0]:10.4f}{values[-1][1]:10.4f}"
                    f"{taken:8.0f}",
                    flush=True,
                )
        print(f"task loss retrained: {retrained(task, None, steps):.4f}")
        for place, what in enumerate(("fitness", "retrained")):
            fresh, training = ([pair[place] for pair in found[key]] for key in found)
            print(f"{what}: {compared(fresh, training)}")


def compared(fresh: Sequence[float], training: Sequence[float]) -> str:
    """The mean of training less fresh, an interval, and the sign test."""
    apart = [b - a for a, b in zip(fresh, training, strict=True)]
    mean, count = statistics.mean(apart), len(apart)
    text = f"means {statistics.mean(fresh):.4f} fresh, {statistics.mean(training):.4f} training"
    if count > 1:
        half = stats.t.ppf(0.975, count - 1) * statistics.stdev(apart) / count**0.5
        text += f"; difference {mean:+.4f} ± {half:.4f}"
    wins, losses = sum(one < 0 for one in apart), sum(one > 0 for one in apart)
    p = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    return f"{text}; training better {wins}, worse {losses}, p = {p:.3f}"


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    ways = parser.add_subparsers(required=True)
    one = ways.add_parser("cost")
    one.add_argument("--tasks", nargs="+", default=["mnist/lenet5", "mnist/mlp", "diabetes/mlp"])
    one.add_argument("--engines", nargs="+", default=["batched"])
    one.add_argument("--n", type=int, default=9, help="timed pairs")
    one.set_defaults(work=cost)
    other = ways.add_parser("start")
    names = ["diabetes/mlp", "california/mlp", "mnist/lenet5"]
    other.add_argument("--tasks", nargs="+", default=names)
    other.add_argument("--seeds", type=int, default=5)
    other.add_argument("--generations", type=int, default=SMALL["generations"])
    other.add_argument("--workers", type=int, default=2)
    other.set_defaults(work=start)
    options = parser.parse_args()
    options.work(options)


if __name__ == "__main__":
    main()
