"""Tiny runs, synthetic outcomes and a stand-in for the workers, for the tests of searches."""

from __future__ import annotations

import contextlib
import math
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from evomal.expressions.expression import Expression, parse
from evomal.expressions.printing import PrintedForm, PrintRequest
from evomal.losses.meta import MetaLoss
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import Candidate, Method, Outcome, Status
from evomal.methods.evomal import EvoMALSettings
from evomal.methods.gp_lfl import GPLFL
from evomal.methods.registry import METHODS, setting_names
from evomal.methods.settings import SearchSettings
from evomal.runs.callbacks import Callback, RunStart
from evomal.runs.executors import WorkError
from evomal.runs.work import screen_candidates, train_candidates
from evomal.seeding import derive_seed
from evomal.testing.methods import SMALL, small_settings
from evomal.training.engines.base import Training
from evomal.training.halving import LearningCurve
from evomal.training.meta_training import first_state, tune_alone
from evomal.training.screening import Screening
from evomal.training.stages import StageSeconds
from evomal.training.workbench import Workbench

T = TypeVar("T")

TINY = {"preset": "paper", **SMALL}
"""Arguments of a search with evomal that takes less than a second."""


def known_to(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that a method has, and the preset; if there is no such method, that."""
    names = {"preset", *(setting_names(method) if method in METHODS else ())}
    return {name: value for name, value in settings.items() if name in names}


def tiny_settings(**overrides: Any) -> EvoMALSettings:
    return EvoMALSettings(**{**SMALL, **overrides})


def tiny_settings_of(method: str, **overrides: Any) -> SearchSettings:
    """The same for any method, which takes of the overrides what it knows."""
    return small_settings(METHODS[method], **overrides)


def new_candidate(number: int, expression: str | None, generation: int = 0) -> Candidate:
    if expression is None:
        return Candidate(number, generation, None, "task loss")
    loss = SymbolicLoss(expression)
    return Candidate(number, generation, loss, loss.structure)


def new_outcome(
    candidate: Candidate, fitness: float, status: Status = "evaluated", **fields: Any
) -> Outcome:
    return Outcome(candidate, status, fitness, fields.pop("loss", candidate.loss), **fields)


def synthetic_fitness(candidate: Candidate) -> float:
    """Fixed by the expression; infinite for about one in five, ties now and then."""
    draw = derive_seed("synthetic fitness", candidate.identity) % 50
    return math.inf if draw % 5 == 0 else draw / 50


def advance(method: Method) -> list[Candidate]:
    """One generation with synthetic fitness; the candidates asked for."""
    candidates = method.ask()
    outcomes = [
        new_outcome(c, value, "evaluated" if math.isfinite(value) else "diverged")
        for c, value in zip(candidates, map(synthetic_fitness, candidates), strict=True)
    ]
    for outcome in outcomes:
        method.archive.add(outcome)
    method.tell(outcomes)
    return candidates


LARGE = "add(f, add(1, add(1, add(1, y))))"
OVERFLOW = "square(" * 9 + LARGE + ")" * 9


class Fixed(GPLFL):
    """A method whose generations are given: every outcome occurs, for a known reason."""

    name: ClassVar[str] = "fixed"
    expected: ClassVar[list[list[tuple[str, str, int | None]]]] = [
        [
            ("square(sub(y, f))", "evaluated", None),
            ("square(sub(f, y))", "equivalent", 0),
            ("mul(1, square(sub(y, f)))", "equivalent", 0),
            ("mul(square(sub(y, f)), 1)", "duplicate", 2),
            ("mul(-1, square(sub(y, f)))", "rejected", None),
            (OVERFLOW, "diverged", None),
        ],
        [
            ("mul(square(sub(y, f)), -1)", "duplicate", 4),
            (OVERFLOW, "duplicate", 5),
            ("abs(sub(y, f))", "evaluated", None),
            ("abs(sub(f, y))", "equivalent", 8),
            ("mul(sub(y, f), sub(y, f))", "equivalent", 0),
        ],
    ]

    def _initial_population(self) -> list[Expression]:
        return [parse(text) for text, *_ in self.expected[0]]

    def _offspring(self) -> list[Expression]:
        return [parse(text) for text, *_ in self.expected[self.generation]]


def optimize_weights(bench: Workbench, loss: MetaLoss) -> Tensor:
    """φ after Algorithm 1 on one loss, the plain way; a `DivergedError` if it diverges."""
    return tune_alone(bench, (loss, first_state(bench, loss))).phi


class Recorder(Callback):
    """Notes every call; raises at the call with number `stop`."""

    def __init__(self, stop: str = "", at: int = 0) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.stop = stop
        self.at = at

    def note(self, name: str, value: Any) -> None:
        self.calls.append((name, value))
        if name == self.stop and sum(known == name for known, _ in self.calls) == self.at:
            raise KeyboardInterrupt

    def on_run_start(self, method: Any, start: RunStart) -> None:
        self.note("start", start.task_loss_fitness)

    def on_candidate(self, method: Any, outcome: Any) -> None:
        assert method.archive.find(outcome.candidate) is not None
        self.note("candidate", outcome.candidate.number)

    def on_generation(self, method: Any, generation: Any) -> None:
        self.note("generation", generation.number)

    def on_run_end(self, method: Any) -> None:
        self.note("end", None)


def without_timing(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be equal for two runs of the same search."""
    return {name: value for name, value in summary.items() if name not in ("timing", "run_dir")}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def made_up_formulas(
    requests: Sequence[PrintRequest], time_limit: float = 1.0
) -> list[PrintedForm]:
    """In place of sympy, which takes seconds to start."""
    return [PrintedForm(f"formula of {r.expression}", "latex") for r in requests]


def python(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A new interpreter that can import the tests' modules; its streams are text pipes."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("PYTHONUNBUFFERED", None)  # users do not set it
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], env=environment, **streams | options)


def run_python(*arguments: str, timeout: float = 120, **options: Any) -> tuple[int, str, str]:
    """Exit status, output and error output of a new interpreter."""
    with running(*arguments, **options) as process:
        output, errors = process.communicate(timeout=timeout)
        return process.returncode, output, errors


@contextlib.contextmanager
def running(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A new interpreter that does not outlive the block."""
    with python(*arguments, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def run_in_terminal(*arguments: str, **options: Any) -> tuple[int, str]:
    """Exit status of a new interpreter on a terminal, and everything that appeared there."""
    ours, theirs = pty.openpty()
    shown = b""
    with running(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, **options) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # how Linux says that the other side is closed
            while piece := os.read(ours, 65536):
                shown += piece
        os.close(ours)
        return process.wait(), shown.decode()


@dataclass(frozen=True)
class Fate:
    """What work on a loss yields: the screening's verdict and gradient key, and the fitness.

    `faults` are what the first attempts at a stage end with.
    """

    verdict: Literal["promising", "rejected", "diverged"] = "promising"
    gradient_key: str | None = None
    fitness: float = 1.0
    faults: Mapping[str, Sequence[WorkError]] = field(default_factory=dict)

    def screening(self, loss: MetaLoss) -> Screening:
        """The screened loss has the weights 2."""
        key = self.gradient_key if self.verdict == "promising" else None
        return Screening(
            loss.with_phi(torch.full_like(loss.phi, 2.0)),
            self.verdict,
            0.5,
            key,
            StageSeconds(tuning=1.0),
        )

    def curve(self, index: int, bars: Sequence[float] | None) -> LearningCurve:
        """Of the training on the task of this index: the same at the rungs as at the end."""
        value = self.fitness * (1 + index)
        curve: LearningCurve = ()
        for bar in bars or ():
            curve = (*curve, value)
            if value > bar:
                return curve
        return (*curve, value)


class ShuffledExecutor:
    """Hands out canned results by the key of the loss; work is finished in a random order.

    Its `wait` has to take the place of `concurrent.futures.wait`, so that what finishes, and when,
    is drawn from a seed rather than left to threads.
    """

    def __init__(self, fates: Mapping[str, Fate], workers: int, seed: int) -> None:
        self.workers = workers
        self.screened: list[str] = []
        self.groups: list[tuple[str, ...]] = []
        self.trained_groups: list[tuple[str, ...]] = []
        self.trained: list[str] = []
        self.arguments: list[tuple[Any, ...]] = []
        self._fates = fates
        self._rng = np.random.default_rng(seed)
        self._pending: dict[Future[Any], Any] = {}
        self._faults: dict[tuple[int, str], list[WorkError]] = {}

    def submit(
        self, function: Callable[..., T], *args: Any, timeout: float | None = None
    ) -> Future[T]:
        assert len(self._pending) < self.workers, "more work than workers"
        future: Future[Any] = Future()
        self.arguments.append(args[1:])
        if function is screen_candidates:
            losses: list[MetaLoss] = args[0]
            self.screened += [loss.structure for loss in losses]
            self.groups.append(tuple(loss.structure for loss in losses))
            fates = [self._fates.get(loss.structure, Fate()) for loss in losses]
            result = [fate.screening(loss) for fate, loss in zip(fates, losses, strict=True)]
            faulty = next((fate for fate in fates if self._has_fault(fate, "screening")), fates[0])
            self._pending[future] = self._or_fault(faulty, "screening", result)
        else:
            assert function is train_candidates
            given: list[MetaLoss | None] = args[0]
            for loss in given:
                assert loss is None or bool((loss.phi == 2.0).all()), "not the screened loss"
            keys = ["task loss" if loss is None else loss.structure for loss in given]
            self.trained += keys
            self.trained_groups.append(tuple(keys))
            fates = [self._fates.get(key, Fate()) for key in keys]
            index, bars, _ = args[1:]
            values = [Training(fate.curve(index, bars), 0.0) for fate in fates]
            faulty = next((fate for fate in fates if self._has_fault(fate, "training")), fates[0])
            self._pending[future] = self._or_fault(faulty, "training", values)
        return future

    def _or_fault(self, fate: Fate, stage: str, result: Any) -> Any:
        """The result, or as often as the fate has it, what went wrong instead."""
        return self._left(fate, stage).pop(0) if self._has_fault(fate, stage) else result

    def _has_fault(self, fate: Fate, stage: str) -> bool:
        return bool(self._left(fate, stage))

    def _left(self, fate: Fate, stage: str) -> list[WorkError]:
        return self._faults.setdefault((id(fate), stage), list(fate.faults.get(stage, ())))

    def close(self) -> None:
        self._pending.clear()

    def wait(
        self, futures: Collection[Future[Any]], timeout: float | None, return_when: str
    ) -> tuple[list[Future[Any]], list[Future[Any]]]:
        """Finish at least one piece of work."""
        assert set(futures) == set(self._pending)
        waiting = list(self._pending)
        count = int(self._rng.integers(1, len(waiting) + 1))
        done = [waiting[i] for i in self._rng.permutation(len(waiting))[:count]]
        for future in done:
            result = self._pending.pop(future)
            if isinstance(result, WorkError):
                future.set_exception(result)
            else:
                future.set_result(result)
        return done, list(self._pending)
