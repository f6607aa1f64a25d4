"""Are learned losses worth having? Searches against the tuned task loss and the experts' losses.

Three parts; finished runs in the folder are not repeated:

    python benchmarks/search_quality.py search eights --preset quick --searches 10 --out runs/sq
    python benchmarks/search_quality.py test eights --preset quick --searches 10 --out runs/sq
    python benchmarks/search_quality.py anytime digits-noise --searches 5 --out runs/sq

search
    Searches with the seeds 0, 1, … of the data split 0, or of others with --splits: search k takes
    split k modulo splits. Prints the verdict of each.
test
    Trains fresh learners with every learned loss, the task loss and the losses that an expert
    would try, each with its learning rate and steps tuned alike on validation data
    (`evomal.compare`), and prints test metrics, differences to the task loss and verdicts. With
    only an expert's name as verdict, the search found no better loss than this one.
anytime
    Searches with the presets standard and paper. The best loss so far at every moment is trained
    again on fresh seeds, at the recipe of standard, each with its learning rate tuned: the presets
    measure their fitness after different trainings. Prints when standard is as good as paper ends.

The metric is printed in its own direction. Seconds are those of a search on this machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from candidate_cost import print_machine

import evomal
from evomal.losses.base import Loss
from evomal.methods.base import Method, Outcome
from evomal.runs.callbacks import RunStart
from evomal.training.paired import paired_difference
from evomal.training.retraining import Retraining, retrain

TASKS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "digits-noise": (
        "digits/mlp",
        {"label_noise": 0.4},
        ["gce:0.7", "half-gce", "absolute-error", "label-smoothing:0.1"],
    ),
    "breast-cancer-cost": (
        "breast-cancer/mlp",
        {"metric": "cost:10"},
        ["weighted:3", "weighted:10", "weighted:30", "absolute-error"],
    ),
    "diabetes-pinball": (
        "diabetes/mlp",
        {"metric": "pinball:0.9"},
        ["pinball:0.9", "absolute-error", "huber:1"],
    ),
    "eights": (
        "eights/mlp",
        {"metric": "balanced_accuracy"},
        ["weighted:3", "weighted:9", "weighted:30"],
    ),
    "california-pinball": (
        "california/mlp",
        {"metric": "pinball:0.9"},
        ["pinball:0.9", "absolute-error", "huber:1"],
    ),
    "mnist-noise": (
        "mnist/lenet5",
        {"label_noise": 0.4},
        ["gce:0.7", "half-gce", "absolute-error", "label-smoothing:0.1"],
    ),
    "diabetes": ("diabetes/mlp", {}, ["absolute-error", "huber:1"]),
    "digits": ("digits/mlp", {}, ["focal:2", "label-smoothing:0.1"]),
}
"""Name, options and experts' losses; the last ones are clean, with their usual metric and loss."""

TEST_SEEDS = 5
LEVEL = 0.05
NEAR = 1.1
"""Within 10 % of the best expert."""


def load(key: str, split: int) -> evomal.Task:
    """A task of the benchmark."""
    name, options, _ = TASKS[key]
    return evomal.load_task(name, split_seed=split, **options)


def run_dir(args: argparse.Namespace, key: str, preset: str, seed: int) -> Path:
    """Where a search is kept."""
    return Path(args.out) / f"{key}-{preset}-{seed % args.splits}-{seed}"


def searched(args: argparse.Namespace, key: str, preset: str, seed: int, **more: Any) -> evomal.Run:
    """A finished search, from the folder if it is there."""
    place = run_dir(args, key, preset, seed)
    task = load(key, seed % args.splits)
    if place.exists():
        return evomal.resume(place, task, workers=args.workers, progress=False)
    return evomal.search(
        task,
        preset=preset,
        seed=seed,
        run_dir=place,
        workers=args.workers,
        progress=False,
        **settings(args),
        **more,
    )


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Settings to change, such as those of an ablation."""
    return dict(json.loads(args.set))


def search(args: argparse.Namespace) -> None:
    """Search, and print the verdicts."""
    for key in args.tasks:
        for seed in range(args.searches):
            run = searched(args, key, args.preset, seed)
            found = run.facts.confirmation
            winner = "-" if found is None else found.winner
            print(f"{key}  seed {seed}  {run.facts.seconds:5.0f} s  {winner}: {run.verdict}")


def test(args: argparse.Namespace) -> None:
    """Compare the learned losses on test data."""
    for key in args.tasks:
        rows = [one for split in range(args.splits) for one in tested(args, key, split)]
        report(key, rows)


def tested(args: argparse.Namespace, key: str, split: int) -> list[dict[str, Any]]:
    """The comparison of all searches of a split, and of the experts' losses."""
    runs = {seed: searched(args, key, args.preset, seed) for seed in range(args.searches)}
    runs = {seed: run for seed, run in runs.items() if seed % args.splits == split}
    if not runs:
        return []
    task, experts = load(key, split), TASKS[key][2]
    losses: list[Loss] = [run.best.loss for run in runs.values()]
    first, *others = losses
    found = evomal.compare(
        task,
        first,
        range(TEST_SEEDS),
        against=[*others, *experts],
        tune=("learning-rate", "steps"),
        steps=args.steps,
    ).tuned
    assert found is not None
    own = found.task_loss
    further = list(found.against.values())
    learned = [found.learned, *further[: len(others)]]
    by_expert = dict(zip(experts, further[len(others) :], strict=True))
    maximize = found.metric.maximize
    print(f"{key}, split {split}: {found.metric.name}, {found.metric.direction}")
    print(f"  task loss            {mean(own)}")
    for name, sample in by_expert.items():
        print(f"  {name:<21}{mean(sample)}")
    best = [sample.mean for sample in by_expert.values() if sample.mean is not None]
    expert = (max if maximize else min)(best)
    rows = []
    for (seed, run), sample in zip(runs.items(), learned, strict=True):
        pair = paired_difference(sample.values, own.values, maximize=maximize)
        confirmed = run.facts.confirmation
        verdict = None if confirmed is None else confirmed.verdict
        winner = "-" if confirmed is None else confirmed.winner
        better = pair.difference is not None and (pair.difference > 0) == maximize
        rows.append(
            {
                "better": better and pair.difference != 0,
                "significant": pair.t_test is not None and pair.t_test < LEVEL,
                "verdict": verdict is not None and verdict.better,
                "near": near(sample.mean, expert, maximize=maximize),
                "ratio": ratio(sample.mean, own.mean, maximize=maximize),
                "seconds": run.facts.seconds,
            }
        )
        said = "better" if rows[-1]["verdict"] else "not shown"
        p = "-" if pair.t_test is None else f"{pair.t_test:.3f}"
        print(
            f"  search {seed:<3} {run.facts.seconds:5.0f} s  {mean(sample)}  p {p:<6} "
            f"wins {pair.wins}/{TEST_SEEDS}  verdict: {said:<10} {winner}: {run.best.formula}"
        )
    return rows


def mean(sample: Any) -> str:
    """Mean and standard deviation."""
    if sample.mean is None:
        return "diverged         "
    return f"{sample.mean:.4f} ± {sample.std or 0:.4f}"


def error(value: float, *, maximize: bool) -> float:
    """What is to be small: for an accuracy, what it lacks to 1."""
    return 1 - value if maximize else value


def near(value: float | None, expert: float, *, maximize: bool) -> bool:
    """Whether a loss is within 10 % of the best expert."""
    if value is None:
        return False
    return error(value, maximize=maximize) <= NEAR * error(expert, maximize=maximize)


def ratio(value: float | None, own: float | None, *, maximize: bool) -> float:
    """The error of a loss as a multiple of that of the task loss."""
    if value is None or own is None:
        return math.inf
    return error(value, maximize=maximize) / max(error(own, maximize=maximize), 1e-12)


def report(key: str, rows: Sequence[dict[str, Any]]) -> None:
    """The summary of a task."""

    def count(*names: str, no: str = "") -> int:
        return sum(all(row[name] for name in names) and not (no and row[no]) for row in rows)

    ratios = sorted(row["ratio"] for row in rows)
    seconds = statistics.median(row["seconds"] for row in rows)
    print(
        f"{key}: {len(rows)} searches; better on test data {count('better')}, with p < {LEVEL} "
        f"{count('better', 'significant')}; within 10 % of the best expert {count('near')}; error "
        f"relative to the task loss: median {statistics.median(ratios):.3f}, worst "
        f"{ratios[-1]:.3f}; verdict better {count('verdict')}, contradicted by test data "
        f"{count('verdict', no='better')}; median {seconds:.0f} s",
        flush=True,
    )


class Improvements(evomal.Callback):
    """When the best loss changed, and to what."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.found: list[tuple[float, Loss]] = []

    def on_run_start(self, method: Method, start: RunStart) -> None:
        """The clock runs from the start of the search, the tuning of the recipe included."""

    def on_candidate(self, method: Method, outcome: Outcome) -> None:
        """Note the best loss so far."""
        if method.archive.best is outcome and outcome.loss is not None:
            self.found.append((time.monotonic() - self.start, outcome.loss))


FACTORS = (0.1, 0.3, 1.0, 3.0)
ANYTIME_SEEDS = 3


def quality(task: evomal.Task, loss: Loss | None, rate: float, steps: int) -> float:
    """The best mean L_P on fresh seeds over some learning rates; infinite if all diverge."""
    values = []
    for factor in FACTORS:
        todo = [
            Retraining("anytime", seed, factor * rate, steps, (steps,), matched=True)
            for seed in range(ANYTIME_SEEDS)
        ]
        values.append(statistics.fmean(retrain(task, loss, one, 0).last for one in todo))
    return min(values)


def anytime(args: argparse.Namespace) -> None:
    """Quality against time, of the presets standard and paper."""
    for key in args.tasks:
        ends: dict[str, list[float]] = {"standard": [], "paper": []}
        curves: dict[str, list[list[tuple[float, float]]]] = {"standard": [], "paper": []}
        for seed in range(args.searches):
            task = load(key, 0)
            noted = {preset: Improvements() for preset in ends}
            runs = {
                preset: evomal.search(
                    task,
                    preset=preset,
                    seed=seed,
                    run_dir=Path(args.out) / f"{key}-anytime-{preset}-{seed}",
                    workers=args.workers,
                    progress=False,
                    callbacks=[noted[preset]],
                    **settings(args),
                )
                for preset in ends
            }
            facts = runs["standard"].facts
            rate, steps = facts.rates[0], facts.settings.fitness_steps
            for preset, run in runs.items():
                points = [
                    (at, quality(task, loss, rate, steps)) for at, loss in noted[preset].found
                ]
                found_one = run.archive.best is not None
                last = quality(task, run.best.loss, rate, steps) if found_one else math.inf
                points.append((run.facts.seconds or 0.0, last))
                curves[preset].append(points)
                ends[preset].append(last)
                print(
                    f"{key}  {preset:<9} seed {seed}  {run.facts.seconds:5.0f} s  "
                    + "  ".join(f"{at:.0f} s {value:.4f}" for at, value in points),
                    flush=True,
                )
        target = statistics.median(ends["paper"])
        paper = statistics.median(one[-1][0] for one in curves["paper"])
        reached = [
            next((at for at, value in points if value <= target), math.inf)
            for points in curves["standard"]
        ]
        print(
            f"{key}: median at the end: standard {statistics.median(ends['standard']):.4f}, paper "
            f"{target:.4f}; standard is as good after {statistics.median(reached):.0f} s "
            f"(median), paper takes {paper:.0f} s: ratio {statistics.median(reached) / paper:.3f}"
        )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("search", "test", "anytime"))
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--searches", type=int, default=10)
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, help="most steps of the trainings of test")
    parser.add_argument("--set", default="{}", help="settings to change, as JSON")
    parser.add_argument("--out", required=True, help="folder of the runs")
    args = parser.parse_args()
    warnings.simplefilter("ignore", evomal.TaskWarning)
    print_machine(f"preset {args.preset}, {args.splits} splits, settings {args.set}")
    {"search": search, "test": test, "anytime": anytime}[args.part](args)


if __name__ == "__main__":
    main()
