"""Do methods find a good loss better than random search, at equal cost, where the usual one is bad?

Run: python benchmarks/planted_loss.py [--methods taylorglo glo] [--seeds 12] [--evaluations 300]

The task is a linear regression in which 30 % of the training labels are too high by about 4, while
the metric, the mean squared error on validation data, is of right labels. The squared error takes
the mean of both, so that it scores about 1.4. A loss whose gradient vanishes at residuals of 4
scores nearly 0. Every family of losses has one: tanh(square(sub(y, f))) among expressions, a cubic
polynomial of the residual r with the gradient -r + r²/4, and any such shape as a network.

Every seed draws other data, and a method is compared with `random` on the same data and seed, at an
equal number of evaluations; those that diverged or were rejected are not counted, for any method.
The control is strong: it tunes the weights of what it draws, as EvoMAL does. ML³ has few
candidates, so that its cost is counted in training steps: a meta step costs base_steps + 1, an
evaluation testing_steps, and `random` gets as many steps, the same count for its own meta steps.
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
    "random": {"population_size": 20, "meta_steps": 20, "rejection_steps": 50},
    "evomal": {"population_size": 20, "meta_steps": 20, "rejection_steps": 50},
    "taylorglo": {"population_size": 20},
    "glo": {"population_size": 20, "structure_generations": 6},
    "ml3": {"meta_steps": 1000},
}
"""Of every method; that of the evaluations ends the searches of all but ml3."""

TESTING_STEPS = 100


def task(seed: int) -> evomal.Task:
    """A regression with labels that are too high, drawn from the seed."""
    rng = torch.Generator().manual_seed(seed)
    weights = torch.randn(INPUTS, 1, generator=rng) / INPUTS**0.5
    parts = []
    for wrong in (0.3, 0.0, 0.0):
        inputs = torch.randn(ROWS, INPUTS, generator=rng)
        noise = 0.1 * torch.randn(ROWS, 1, generator=rng)
        too_high = 4.0 + 0.5 * torch.randn(ROWS, 1, generator=rng)
        chosen = torch.rand(ROWS, 1, generator=rng) < wrong
        parts.append((inputs, inputs @ weights + noise + torch.where(chosen, too_high, 0.0)))
    return evomal.Task(
        partial(nn.Linear, INPUTS, 1),
        *parts,
        link="identity",
        batch_size=32,
        optimizer=evomal.SGD(0.05, momentum=0.0, nesterov=False, weight_decay=0.0),
        name=f"wrong labels {seed}",
    )


def search(method: str, seed: int, evaluations: int, folder: Path) -> Run:
    """A run of that many evaluations."""
    settings = {"testing_steps": TESTING_STEPS, **SETTINGS[method]}
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


def steps_of(method: str, evaluations: int) -> int:
    """Training steps of that many evaluations: their own, and two for every meta step."""
    meta_steps = SETTINGS[method].get("meta_steps", 0)
    return evaluations * (TESTING_STEPS + 2 * meta_steps)


def best_of(run: Run, evaluations: int) -> float:
    """The best fitness of the first evaluations of a run."""
    found = [outcome.fitness for outcome in run.outcomes if outcome.status == "evaluated"]
    return min(found[:evaluations], default=math.inf)


def main() -> None:
    """Search, compare, print."""
    known = [name for name in SETTINGS if name in METHODS and name != "random"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--evaluations", type=int, default=300)
    options = parser.parse_args()
    print_machine(f"{options.evaluations} evaluations of {TESTING_STEPS} steps")
    methods: list[str] = options.methods
    print("seed  task loss  " + "  ".join(f"{name:>9}  {'random':>9}" for name in methods))
    wins = dict.fromkeys(methods, 0)
    losses = dict.fromkeys(methods, 0)
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as place:
            control = search("random", seed, options.evaluations, Path(place))
            cells = []
            for name in methods:
                run = search(name, seed, options.evaluations, Path(place))
                own = best_of(run, options.evaluations)
                count = options.evaluations
                if name == "ml3":
                    count = max(1, steps_of(name, len(run.outcomes)) // steps_of("random", 1))
                other = best_of(control, count)
                wins[name] += own < other
                losses[name] += own > other
                cells.append(f"{own:9.5f}  {other:9.5f}")
            own_loss = control.facts.task_loss_fitness or math.inf
            print(f"{seed:4}  {own_loss:9.4f}  " + "  ".join(cells), flush=True)
    for name in methods:
        decided = wins[name] + losses[name]
        p = binomtest(wins[name], decided).pvalue if decided else 1.0
        print(f"{name}: {wins[name]} wins, {losses[name]} losses against random, p = {p:.4f}")


if __name__ == "__main__":
    main()
