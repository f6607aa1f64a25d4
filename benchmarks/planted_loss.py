"""Methods against random search, at equal cost, where a good loss is planted.

Run: python benchmarks/planted_loss.py [--methods taylorglo glo] [--seeds 12] [--evaluations 200]

The task is a linear regression whose training labels are in other units: 1.5 to 3 times as large,
by a factor drawn from the seed, as the labels of the metric, the mean squared error on validation
data. The squared error learns the factor, too. A loss that has its minimum at f = y / factor scores
nearly 0.01, which is the noise. Every family of losses has one: square(sub(y, f)) with a weight,
a polynomial with the gradient f - y / factor, and a network of that shape. It takes the right
number, so that a method has to search for coefficients: among structures alone, it is rare.

Every seed draws other data, and a method is compared with `random` on the same data and seed. The
control is strong: it tunes the weights of what it draws and rejects what is hopeless, as EvoMAL
does. It is given as many evaluations (losses trained to the end; those that diverge or are rejected
are not counted, for any method), and as many training steps (those of all trainings, and
base_steps + 1 for each meta step). ML³ has few candidates, so that only the steps mean something.
Prints the final fitness by seed, wins and losses, and the p of the two-sided sign test.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from candidate_cost import print_machine
from scipy.stats import binomtest
from torch import nn

import evomal
from evomal.methods.registry import METHODS, setting_names
from evomal.runs.run import Run

INPUTS, ROWS = 5, 200
SETTINGS: dict[str, dict[str, Any]] = {
    "random": {"population_size": 20, "meta_steps": 10, "rejection_steps": 20},
    "taylorglo": {"population_size": 20},
    "glo": {"population_size": 20, "structure_generations": 4},
    "ml3": {"meta_steps": 500, "base_steps": 20},
}
"""Of every method; that of the evaluations ends the searches of all but ml3."""

TESTING_STEPS = 50
FIRST_SEED = 2
"""Those before it served to choose the settings of ml3: with base_steps of 1, 1000 meta steps did
well and 3000 did not, as they learn the best first step of a training of 50."""


def task(seed: int) -> evomal.Task:
    """A regression with training labels in other units, drawn from the seed."""
    rng = torch.Generator().manual_seed(seed)
    weights = torch.randn(INPUTS, 1, generator=rng) / INPUTS**0.5
    factor = 1.5 + 1.5 * float(torch.rand(1, generator=rng))
    parts = []
    for scale in (factor, 1.0, 1.0):
        inputs = torch.randn(ROWS, INPUTS, generator=rng)
        noise = 0.1 * torch.randn(ROWS, 1, generator=rng)
        parts.append((inputs, scale * (inputs @ weights + noise)))
    return evomal.Task(
        partial(nn.Linear, INPUTS, 1),
        *parts,
        link="identity",
        batch_size=32,
        optimizer=evomal.SGD(0.1, momentum=0.0, nesterov=False, weight_decay=0.0),
        name=f"other units {seed}",
    )


def search(method: str, seed: int, evaluations: int, folder: Path) -> Run:
    """A run of that many evaluations."""
    settings = {"preset": "paper", "testing_steps": TESTING_STEPS, **SETTINGS[method]}
    if "generations" in setting_names(method):
        settings["generations"] = 10 * evaluations  # more than it can take
    return evomal.search(
        task(seed),
        method=method,
        seed=seed,
        run_dir=folder / f"{method}-{seed}",
        max_evaluations=evaluations,
        progress=False,
        **settings,
    )


def steps_by_outcome(run: Run) -> list[int]:
    """How many training steps a run had taken when each of its outcomes was known."""
    settings: Any = run.facts.settings
    taken, total = [], 0
    for outcome in run.outcomes:
        if outcome.seconds.tuning is not None:
            total += settings.meta_steps * (settings.base_steps + 1)
        if outcome.seconds.training is not None:
            total += settings.testing_steps
        taken.append(total)
    return taken


def best_of(run: Run, evaluations: float = math.inf, steps: float = math.inf) -> float:
    """The best fitness of a run after so many evaluations or training steps."""
    best, count = math.inf, 0
    for outcome, taken in zip(run.outcomes, steps_by_outcome(run), strict=True):
        count += outcome.status == "evaluated"
        if count > evaluations or taken > steps:
            break
        if outcome.status == "evaluated":
            best = min(best, outcome.fitness)
    return best


def main() -> None:
    """Search, compare, print."""
    known = [name for name in SETTINGS if name in METHODS and name != "random"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--evaluations", type=int, default=200)
    options = parser.parse_args()
    print_machine(f"{options.evaluations} evaluations of {TESTING_STEPS} steps")
    methods: list[str] = options.methods
    print("fitness: own | random at equal evaluations | random at equal steps")
    print("seed  task loss" + "".join(f"  {name:^29}" for name in methods))
    results: dict[str, list[tuple[float, ...]]] = {name: [] for name in methods}
    taken: dict[str, list[int]] = {name: [] for name in (*methods, "random")}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with tempfile.TemporaryDirectory() as place:
            control = search("random", seed, options.evaluations, Path(place))
            taken["random"].append(steps_by_outcome(control)[-1])
            for name in methods:
                run = search(name, seed, options.evaluations, Path(place))
                evaluations = run.archive.counts["evaluated"]
                steps = steps_by_outcome(run)[-1]
                taken[name].append(steps)
                results[name].append(
                    (best_of(run), best_of(control, evaluations), best_of(control, steps=steps))
                )
        own = control.facts.task_loss_fitness or math.inf
        cells = ["".join(f" {value:9.5f}" for value in results[name][-1]) for name in methods]
        print(f"{seed:4}  {own:9.4f} " + " ".join(cells), flush=True)
    print("training steps: " + ", ".join(f"{n} {sum(t) // len(t)}" for n, t in taken.items()))
    for name in methods:
        for column, cost in enumerate(("evaluations", "steps"), start=1):
            if (name, cost) == ("ml3", "evaluations"):
                continue  # it has one
            wins = sum(result[0] < result[column] for result in results[name])
            losses = sum(result[0] > result[column] for result in results[name])
            p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
            print(f"{name}, equal {cost}: {wins} wins, {losses} losses, p = {p:.4f}")


if __name__ == "__main__":
    main()
