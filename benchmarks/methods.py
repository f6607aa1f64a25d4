"""Every method at one budget: the fitness it reaches, beside the task loss's.

Run: EVOMAL_DATA=… python benchmarks/methods.py [--tasks diabetes/mlp mnist/lenet5] [--methods all]
     [--seeds 0 1] [--preset quick] [--max-evaluations 40] [--device cpu] [--parallel 1]

The budget is that of `small_search`, or a preset of the method, and with `--max-evaluations` so
many candidates trained to the end; both are printed. Fitness is the validation metric after partial
training, one draw of it: it says which method finds what here, not which loss is best on new data.
Prints a table per task, with seconds and counts; nothing is kept.
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

from evomal.methods.registry import METHODS, setting_names
from evomal.runs.run import Run

SMALL: dict[str, Any] = {
    "population_size": 20,
    "generations": 7,
    "meta_steps": 25,
    "rejection_steps": 100,
    "prescreen": True,
    "testing_steps": 100,
}
OWN: dict[str, dict[str, Any]] = {
    "glo": {"coefficient_population": 6},
    "ml3": {"meta_steps": 100},
}


def small_search(method: str) -> dict[str, Any]:
    """Arguments of a search of some minutes, as the method was published but for its size."""
    sizes = {name: value for name, value in SMALL.items() if name in setting_names(method)}
    return {"preset": "paper", **sizes, **OWN.get(method, {})}


def searched(
    task: str, method: str, seed: int, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """The summary of one search."""
    run_dir = folder / f"{task.replace('/', '-')}-{method}-{seed}"
    most = options.max_evaluations
    limit = [] if most is None else [f"--max-evaluations={most}"]
    given = small_search(method) if options.preset is None else {"preset": options.preset}
    arguments = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        arguments.append(flag if value is True else f"{flag}={value}")
    arguments += ["--seed", str(seed), "--run-dir", str(run_dir)]
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
    parser.add_argument("--preset", help="in place of the small search")
    parser.add_argument("--max-evaluations", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parallel", type=int, default=1, help="searches at a time")
    options = parser.parse_args()
    methods = list(METHODS) if "all" in options.methods else options.methods
    folder = Path(tempfile.mkdtemp(prefix="methods-"))
    budget = "" if options.max_evaluations is None else f", {options.max_evaluations} evaluations"
    size = "small search" if options.preset is None else f"preset {options.preset}"
    print_machine(f"{size}{budget}, {options.device}")
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
