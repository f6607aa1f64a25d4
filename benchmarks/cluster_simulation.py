"""Utilisation of a cluster: replays recorded durations of a run on 1 to 10 000 simulated workers.

Run: python benchmarks/cluster_simulation.py RUN [--generations 20] [--workers 1 2 5 …]

RUN is the directory of a finished run; its candidates' seconds are drawn with replacement,
generation by generation. Two ways to use the workers are simulated:

- one run: generations as scheduled by evomal. A candidate is screened, then decided after all
  earlier ones in the population, then trained; the next generation begins when all are done.
- many runs: independent runs (other seeds, tasks, methods) share the workers, one run for every
  `--share` of them. Every run gives the same result as alone.

Busy: seconds of work ÷ (workers × seconds until the last is done). Speed-up: work done per second,
relative to one worker.
"""

from __future__ import annotations

import argparse
import heapq
import platform
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evomal.runs.run import Run


@dataclass(frozen=True)
class Durations:
    """Seconds of a candidate's screening and training; 0 for skipped stages."""

    screening: float
    training: float


def recorded(run_dir: Path) -> list[list[Durations]]:
    """The candidates of every generation of a run."""
    generations: dict[int, list[Durations]] = {}
    for outcome in Run(run_dir).outcomes:
        seconds = outcome.seconds
        screening = (seconds.tuning or 0.0) + (seconds.filters or 0.0)
        candidate = Durations(screening, seconds.training or 0.0)
        generations.setdefault(outcome.candidate.generation, []).append(candidate)
    return [generations[number] for number in sorted(generations)]


@dataclass
class SimulatedRun:
    """One run: the work that it can start now, and the work in progress."""

    record: Sequence[Sequence[Durations]]
    generations: int
    rng: np.random.Generator
    candidates: list[Durations] = field(default_factory=list)
    to_screen: deque[int] = field(default_factory=deque)
    to_train: deque[int] = field(default_factory=deque)
    screened: set[int] = field(default_factory=set)
    decided: int = 0
    unfinished: int = 0
    number: int = 0

    def next_piece(self) -> tuple[str, int, float] | None:
        """The next piece of work with its seconds, trainings first; None if there is none now."""
        while self.unfinished == 0 and self.number < self.generations:
            self._next_generation()
        if self.to_train:
            index = self.to_train.popleft()
            return "training", index, self.candidates[index].training
        if self.to_screen:
            index = self.to_screen.popleft()
            return "screening", index, self.candidates[index].screening
        return None

    def finish(self, stage: str, index: int) -> None:
        """Record that a piece of work is done."""
        if stage == "training":
            self.unfinished -= 1
            return
        self.screened.add(index)
        self._decide()

    def _next_generation(self) -> None:
        # The first generations differ from later ones: fewer duplicates, more rejected.
        source = self.record[min(self.number, len(self.record) - 1)]
        draws = self.rng.integers(len(source), size=len(source))
        self.candidates = [source[i] for i in draws]
        self.to_screen = deque(i for i, c in enumerate(self.candidates) if c.screening)
        self.screened = {i for i, c in enumerate(self.candidates) if not c.screening}
        self.unfinished = len(self.candidates)
        self.decided = 0
        self.number += 1
        self._decide()

    def _decide(self) -> None:
        """Decide in population order, like evomal."""
        while self.decided < len(self.candidates) and self.decided in self.screened:
            if self.candidates[self.decided].training:
                self.to_train.append(self.decided)
            else:
                self.unfinished -= 1
            self.decided += 1


def simulate(runs: Sequence[SimulatedRun], workers: int) -> tuple[float, float]:
    """Seconds of work, and seconds until all runs are done."""
    now, work, idle = 0.0, 0.0, workers
    events: list[tuple[float, int, int, str, int]] = []  # end, order, run, stage, candidate
    order = 0
    waiting = dict.fromkeys(range(len(runs)))  # runs that may have something to start, in order
    while True:
        while idle and waiting:
            number = next(iter(waiting))
            del waiting[number]
            piece = runs[number].next_piece()
            if piece is None:
                continue
            stage, index, seconds = piece
            heapq.heappush(events, (now + seconds, order, number, stage, index))
            order += 1
            work += seconds
            idle -= 1
            waiting[number] = None
        if not events:
            return work, now
        now, _, number, stage, index = heapq.heappop(events)
        idle += 1
        runs[number].finish(stage, index)
        waiting[number] = None


def main() -> None:
    """Simulate and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--share", type=int, default=4, help="workers per run, of many runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2, 5, 10, 25, 50, 100, 1000, 10_000]
    )
    options = parser.parse_args()
    record = recorded(options.run_dir)
    candidates = [c for generation in record for c in generation]
    trained = [c.training for c in candidates if c.training]
    screened = [c.screening for c in candidates if c.screening]
    print(
        f"{platform.machine()}, Python {platform.python_version()}; {len(record)} generations, "
        f"{len(candidates)} candidates recorded; {len(screened)} screened in "
        f"{np.median(screened):.2f} s (median; {min(screened):.2f} to {max(screened):.2f}), "
        f"{len(trained)} trained in {np.median(trained):.2f} s; {options.generations} generations "
        f"simulated, seed {options.seed}"
    )
    print(f"{'':>8}{'one run':>22}{'many runs':>30}")
    print(f"{'workers':>8}{'busy':>11}{'speed-up':>11}{'runs':>10}{'busy':>10}{'speed-up':>10}")
    for workers in options.workers:
        cells = []
        for count in (1, max(1, workers // options.share)):
            runs = [
                SimulatedRun(record, options.generations, np.random.default_rng([options.seed, i]))
                for i in range(count)
            ]
            work, seconds = simulate(runs, workers)
            cells.append((count, work / (workers * seconds), work / seconds))
        (_, busy, speed), (count, busy_of_many, speed_of_many) = cells
        print(
            f"{workers:>8}{busy:>11.1%}{speed:>11.1f}{count:>10}{busy_of_many:>10.1%}"
            f"{speed_of_many:>10.1f}"
        )


if __name__ == "__main__":
    main()
