"""Every method at one budget: the fitness it reaches, beside the task loss's.

Run: EVOMAL_DATA=… python benchmarks/methods.py [--tasks diabetes/mlp mnist/lenet5] [--methods all]
     [--seeds 0 1] [--preset quick] [--max-evaluations 40] [--device cpu] [--parallel 1]

The budget is the preset of the method, and with `--max-evaluations` so many candidates trained to
the end; both are printed. Fitness is the validation metric after partial training, one draw of it:
it says which method finds what here, not which loss is best on new data. Prints a table per task,
with seconds and counts; nothing is kept.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from candidate_cost import print_machine
from kill_test import evomal as command

from evomal.methods.registry import METHODS
from evomal.runs.run import Run


def searched(
    task: str, method: str, seed: int, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """The summary of one search."""
    run_dir = folder / f"{task.replace('/', '-')}-{method}-{seed}"
    most = options.max_evaluations
    limit = [] if most is None else [f"--max-evaluations={most}"]
    arguments = ["--preset", options.preset, "--seed", str(seed), "--run-dir", str(run_dir)]
    arguments += ["--device", options.device, "--quiet", *limit]
    subprocess.run(command("search", task, "--method", method, *arguments), check=True)
    run = Run(run_dir)
    run.formula_seconds = 0.0
    return run.summary()


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["diabetes/mlp", "mnist/lenet5"])
    parser.add_argument("--methods", nargs="+", choices=["all", *METHODS], default=["all"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--max-evaluations", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parallel", type=int, default=1, help="searches at a time")
    options = parser.parse_args()
    methods = list(METHODS) if "all" in options.methods else options.methods
    folder = Path(tempfile.mkdtemp(prefix="methods-"))
    budget = "" if options.max_evaluations is None else f", {options.max_evaluations} evaluations"
    print_machine(f"preset {options.preset}{budget}, {options.device}")
    with ThreadPoolExecutor(options.parallel) as pool:
        futures = {
            (task, method, seed): pool.submit(searched, task, method, seed, options, folder)
            for task in options.tasks
            for method in methods
            for seed in options.seeds
        }
        for task in options.tasks:
            seeds = ", ".join(map(str, options.seeds))
            print(f"\n{task}: best fitness, seeds {seeds}; candidates and evaluations; seconds")
            for method in methods:
                found = [futures[task, method, seed].result() for seed in options.seeds]
                row(method, found)
            row("the task loss", found)


def row(name: str, found: list[dict[str, Any]]) -> None:
    """Print the line of a method."""
    if name == "the task loss":
        own = [summary["task_loss_fitness"] for summary in found]
        print(f"{name:<14}" + "".join(f"{value:10.4g}" for value in own), flush=True)
        return
    best = [summary["best"] and summary["best"]["fitness"] for summary in found]
    tried = [sum(summary["outcomes"].values()) for summary in found]
    evaluated = [summary["outcomes"]["evaluated"] for summary in found]
    seconds = [summary["timing"]["seconds"] for summary in found]
    fitness = "".join(f"{'-' if value is None else f'{value:.4g}':>10}" for value in best)
    counts = ", ".join(f"{all_}/{own}" for all_, own in zip(tried, evaluated, strict=True))
    print(
        f"{name:<14}{fitness}  {counts:>16}  {', '.join(f'{s:.0f}' for s in seconds)}", flush=True
    )


if __name__ == "__main__":
    main()
