"""Agreement of the rejection protocol before and after the weights are optimised.

Run: EVOMAL_DATA=… python benchmarks/prescreen.py [--tasks diabetes/mlp mnist/lenet5] [--n 200]

The candidates are distinct ones of generation 0 at paper settings. Prints the verdicts before (unit
weights) and after as a table, and the fraction of time that `--prescreen` saves on them.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence

from candidate_cost import print_machine
from torch import Tensor

import evomal
from evomal.expressions import operators
from evomal.losses.form import Form
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.evomal import EvoMALSettings
from evomal.runs.processes import LocalProcesses
from evomal.seeding import derive_generator
from evomal.training.engines.choice import engine_on
from evomal.training.filters import correlation
from evomal.training.numerics import DivergedError
from evomal.training.workbench import Workbench

VERDICTS = ("promising", "rejected", "diverged")


def candidates(form: Form, count: int) -> list[SymbolicLoss]:
    """The first different losses of generation 0 of a large population."""
    paper = EvoMALSettings()
    rng = derive_generator(0, "benchmark")
    heights = paper.min_initial_height, paper.max_initial_height
    losses: dict[str, SymbolicLoss] = {}
    while len(losses) < count:
        for tree in operators.ramped_half_and_half(rng, 25, *heights):
            loss = SymbolicLoss.of_form(operators.correct(rng, tree), form)
            losses.setdefault(loss.structure, loss)
    return list(losses.values())[:count]


def verdict(bench: Workbench, loss: SymbolicLoss) -> str:
    """The verdict of the rejection protocol."""
    try:
        return "rejected" if correlation(bench, loss) <= 0 else "promising"
    except DivergedError:
        return "diverged"


def judge(bench: Workbench, losses: Sequence[SymbolicLoss]) -> list[tuple[str, str, float, float]]:
    """In a worker: (verdict before, verdict after, seconds of rejection, of optimisation)."""
    start = time.perf_counter()
    before = [verdict(bench, loss) for loss in losses]
    middle = time.perf_counter()
    weights = engine_on(bench).tune(losses)
    end = time.perf_counter()
    after = [
        verdict(bench, loss.with_phi(phi)) if isinstance(phi, Tensor) else "diverged"
        for loss, phi in zip(losses, weights, strict=True)
    ]
    count = len(losses)
    times = (middle - start) / count, (end - middle) / count
    return [(old, new, *times) for old, new in zip(before, after, strict=True)]


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["diabetes/mlp", "mnist/lenet5"])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--meta-steps", type=int, default=250)
    options = parser.parse_args()
    print_machine(f"{options.workers} workers with one thread")
    for name in options.tasks:
        task = evomal.load_task(name)
        settings = EvoMALSettings(meta_steps=options.meta_steps, engine="batched")
        losses = candidates(task.form, options.n)
        executor = LocalProcesses([task], settings, 0, options.workers)
        futures = [
            executor.submit(judge, losses[start : start + 4]) for start in range(0, len(losses), 4)
        ]
        rows = [row for future in futures for row in future.result()]
        executor.close()
        report(name, rows, options.meta_steps)


def report(name: str, rows: Sequence[tuple[str, str, float, float]], steps: int) -> None:
    """Print one task's table."""
    counts = Counter((before, after) for before, after, *_ in rows)
    print(f"\n{name}, {len(rows)} losses, {steps} meta steps")
    print(f"{'before | after':<16}" + "".join(f"{after:>11}" for after in VERDICTS))
    for before in VERDICTS:
        print(f"{before:<16}" + "".join(f"{counts[before, after]:>11}" for after in VERDICTS))
    agree = sum(counts[one, one] for one in VERDICTS)
    hopeless = sum(n for (before, _), n in counts.items() if before != "promising")
    lost = sum(n for (b, after), n in counts.items() if b != "promising" and after == "promising")
    promising = sum(n for (_, after), n in counts.items() if after == "promising")
    rejection = sum(row[2] for row in rows)
    optimisation = sum(row[3] for row in rows)
    saved = sum(row[3] for row in rows if row[0] != "promising")
    plain, screened = optimisation + rejection, 2 * rejection + optimisation - saved
    print(f"agreement: {agree} of {len(rows)} ({agree / len(rows):.1%})")
    print(f"stopped before: {hopeless} of {len(rows)} ({hopeless / len(rows):.1%})")
    print(f"of those promising after, stopped before: {lost} of {promising}")
    print(
        f"seconds per loss: optimisation {optimisation / len(rows):.2f}, rejection "
        f"{rejection / len(rows):.3f}; with prescreening {screened / plain:.0%} of the time"
    )


if __name__ == "__main__":
    main()
