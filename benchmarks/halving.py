"""The savings of `--halving`, and the number of good losses that it stops.

Run: EVOMAL_DATA=… python benchmarks/halving.py [--tasks diabetes/mlp mnist/lenet5] [--n 60]

Trains promising losses of generation 0, with all weights 1, to the end at paper settings and
records L_P at the rungs. Then replays the halving decisions on these curves, in generations of 6
trained losses, the first of which sets the first bars.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from candidate_cost import print_machine
from prescreen import candidates

import evomal
from evomal.methods.evomal import EvoMALSettings
from evomal.runs.processes import LocalProcesses
from evomal.runs.work import train_candidates
from evomal.training.halving import LearningCurve, bars, rungs
from evomal.training.screening import screen
from evomal.training.settings import Pipeline

GENERATION = 6  # a quarter of 25, as many as are promising


def full_curves(task: evomal.Task, count: int, steps: int, workers: int) -> list[LearningCurve]:
    """Curves of this many promising losses whose trainings do not diverge."""
    settings = EvoMALSettings(testing_steps=steps)
    losses = candidates(task.form, 6 * count)
    executor = LocalProcesses([task], settings, 0, workers)
    filters = Pipeline(tune=False, reject=True, match_gradients=True)
    screened = [
        executor.submit(screen, losses[i : i + 4], filters) for i in range(0, len(losses), 4)
    ]
    found = [screening for future in screened for screening in future.result()]
    keys: set[str | None] = set()
    promising = []
    for one in found:
        if one.verdict == "promising" and one.gradient_key not in keys:
            keys.add(one.gradient_key)
            promising.append(one.loss)
    free = (math.inf,) * len(rungs(steps))
    trained = [executor.submit(train_candidates, [loss], 0, free) for loss in promising[:count]]
    curves = [future.result()[0].curve for future in trained]
    executor.close()
    return [curve for curve in curves if math.isfinite(curve[-1])]


def replay(curves: Sequence[LearningCurve], steps: int) -> list[int]:
    """Number of steps after which each training would have ended."""
    shown: list[LearningCurve] = []
    ends = []
    for start in range(0, len(curves), GENERATION):
        limits = bars(shown[-EvoMALSettings().population_size :], steps)
        for curve in curves[start : start + GENERATION]:
            passed = next((i for i, bar in enumerate(limits) if curve[i] > bar), None)
            ends.append(steps if passed is None else rungs(steps)[passed])
            shown.append(curve if passed is None else curve[: passed + 1])
    return ends


def main() -> None:
    """Train, replay and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["diabetes/mlp", "mnist/lenet5"])
    parser.add_argument("--n", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--testing-steps", type=int, default=500)
    options = parser.parse_args()
    steps = options.testing_steps
    print_machine(f"{options.workers} workers with one thread")
    for name in options.tasks:
        curves = full_curves(evomal.load_task(name), options.n, steps, options.workers)
        ends = replay(curves, steps)
        order = sorted(range(len(curves)), key=lambda i: curves[i][-1])
        best = order[: max(1, len(order) // 4)]
        print(f"\n{name}, {len(curves)} trainings of {steps} steps, generations of {GENERATION}")
        print(f"ended after: {', '.join(f'{ends.count(k)} {k}' for k in sorted(set(ends)))} steps")
        print(f"steps taken: {sum(ends) / (steps * len(ends)):.0%}")
        stopped = sum(ends[i] < steps for i in best)
        print(f"of the best quarter at the end, stopped before: {stopped} of {len(best)}")
        print(f"the best one: {'stopped' if ends[order[0]] < steps else 'kept'}")


if __name__ == "__main__":
    main()
