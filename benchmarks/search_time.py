"""The time of a whole search, projected from its first generations.

Run: EVOMAL_DATA=… python benchmarks/search_time.py [--tasks diabetes/mlp mnist/lenet5]

Runs the first generations of a search on all workers. The first one has hardly any duplicates, so
the projection uses the mean of the others; with `--whole` the search is run to its end. Prints
hardware, versions, seconds per generation and the projection, and the seconds of all else: workers'
start, recipe and confirmation.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from candidate_cost import print_machine

import evomal
from evomal.methods.evomal import EvoMAL


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["diabetes/mlp", "mnist/lenet5"])
    parser.add_argument("--preset", choices=["standard", "quick", "paper"], default="paper")
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="run the search to its end")
    parser.add_argument("--prescreen", action="store_true")
    parser.add_argument("--halving", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    chosen = [name for name in ("prescreen", "halving") if getattr(options, name)]
    more = "".join(f", {name}" for name in chosen)
    print_machine(f"preset {options.preset}{more}, seed {options.seed}")
    for name in options.tasks:
        task = evomal.load_task(name, device=options.device)
        overrides = {} if options.whole else {"generations": options.generations}
        overrides |= dict.fromkeys(chosen, True)
        with tempfile.TemporaryDirectory() as folder:
            run = evomal.search(
                task,
                preset=options.preset,
                seed=options.seed,
                run_dir=Path(folder) / "run",
                workers="auto",
                **overrides,
            )
        seconds = [generation.seconds for generation in run.generations]
        done = ", ".join(f"{value:.1f}" for value in seconds)
        print(f"{name}: engine {run.facts.settings.engine}, generations took {done} s")
        counts = {status: count for status, count in run.archive.counts.items() if count}
        print(f"  outcomes: {counts}")
        if not options.whole and len(seconds) > 1:
            wanted = EvoMAL.presets[options.preset].generations
            later = statistics.fmean(seconds[1:])
            total = sum(seconds) + (wanted - len(seconds)) * later
            print(f"  {wanted} generations: {total / 60:.1f} min (projected)")
        else:
            print(f"  {len(seconds)} generations: {sum(seconds) / 60:.1f} min")
        elapsed = run.summary()["timing"]["seconds"]
        print(f"  all else: {elapsed - sum(seconds):.1f} s")
        own = run.task_loss_fitness
        best = run.archive.best
        print(f"  best fitness {best.fitness if best else None}, the task loss's {own}")


if __name__ == "__main__":
    main()
