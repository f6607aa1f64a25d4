"""The search driver: asks a method, does the work on candidates, stores every outcome."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from evomal.errors import InputError
from evomal.losses.files import save_loss
from evomal.methods.base import Candidate, Method, Outcome, Status
from evomal.methods.registry import METHODS
from evomal.methods.settings import PRESETS, SearchSettings
from evomal.runs.callbacks import Callback
from evomal.runs.run import Run, describe
from evomal.runs.store import BEST_LOSS, RunStore, new_run_dir
from evomal.tasks.task import Task
from evomal.training.numerics import DivergedError
from evomal.training.screening import screen
from evomal.training.training import fitness


def search(
    tasks: Task | Sequence[Task],
    *,
    method: str = "evomal",
    preset: str = "paper",
    settings: SearchSettings | None = None,
    seed: int = 0,
    run_dir: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] = (),
    **overrides: Any,
) -> Run:
    """Learn a loss function.

    Parameters
    ----------
    tasks
        One task, or several that share a link: their mean metric is the fitness.
    method
        Name of a search method.
    preset
        Settings to begin with: ``"paper"`` (the published values) or ``"quick"`` (minutes).
    settings
        Instead of a preset.
    seed
        Fixes every random draw of the run.
    run_dir
        Directory of the run; default a new numbered one under ``runs/``.
    callbacks
        Are told about the run's progress.
    **overrides
        Single settings by name, such as ``generations=10``.

    Returns
    -------
    Run
        The finished run; ``run.best.loss`` is the learned loss.

    Raises
    ------
    InputError
        If an argument is not acceptable; nothing has been written then.
    KeyboardInterrupt
        After Ctrl-C; everything finished is in the run directory, ``best.json`` included.
    """
    tasks = [tasks] if isinstance(tasks, Task) else list(tasks)
    settings = settings or choose_preset(preset)
    try:
        settings = dataclasses.replace(settings, **overrides)
    except TypeError as error:
        known = ", ".join(field.name for field in dataclasses.fields(settings))
        raise InputError(f"Unknown setting ({error}); choose from {known}.") from error
    if method not in METHODS:
        raise InputError(f"Unknown method {method!r}; choose from {', '.join(METHODS)}.")
    links = {task.link for task in tasks}
    if len(links) != 1 or len({task.name for task in tasks}) != len(tasks):
        raise InputError("A search needs tasks with different names and one and the same link.")
    searcher = METHODS[method](settings, links.pop(), seed)
    directory = Path(run_dir) if run_dir is not None else new_run_dir()
    store = RunStore.create(directory, _facts(tasks, method, settings, seed))
    driver = _Driver(searcher, tasks, store, directory, callbacks)
    with _threads(settings.threads):
        driver.run()
    return Run(directory)


def choose_preset(name: str) -> SearchSettings:
    """The settings of a preset.

    Raises
    ------
    InputError
        If there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"Unknown preset {name!r}; choose from {', '.join(PRESETS)}.")
    return PRESETS[name]


class _Driver:
    """One search from its first to its last generation."""

    def __init__(
        self,
        method: Method,
        tasks: Sequence[Task],
        store: RunStore,
        run_dir: Path,
        callbacks: Sequence[Callback],
    ) -> None:
        self._method = method
        self._tasks = tasks
        self._store = store
        self._run_dir = run_dir
        self._callbacks = callbacks

    def run(self) -> None:
        start = time.perf_counter()
        status = "interrupted"
        try:
            self._search()
            status = "finished"
        finally:
            fame = self._method.archive.hall_of_fame
            if status == "finished":
                known = self._store.printed_forms()
                describe(list(fame.values()), known)
                self._store.write_printed_forms(known)
            seconds = time.perf_counter() - start
            self._store.write_facts({"status": status, "seconds": seconds})
            self._store.close()
            for callback in self._callbacks:
                callback.on_run_end(self._method)

    def _search(self) -> None:
        method, store = self._method, self._store
        own = _fitness(self._tasks, [task.task_loss for task in self._tasks], method)
        own_fitness = own if math.isfinite(own) else None
        store.write_facts({"task_loss_fitness": own_fitness})
        for callback in self._callbacks:
            callback.on_run_start(method, own_fitness)
        while not method.finished:
            start = time.perf_counter()
            outcomes = []
            for candidate in method.ask():
                outcome = evaluate(candidate, method, self._tasks)
                self._record(outcome)
                outcomes.append(outcome)
            generation = method.tell(outcomes)
            store.write_generation(generation, method.state_dict(), time.perf_counter() - start)
            for callback in self._callbacks:
                callback.on_generation(method, generation)

    def _record(self, outcome: Outcome) -> None:
        archive = self._method.archive
        archive.add(outcome)
        self._store.write_outcome(outcome)
        if archive.best is outcome and outcome.loss is not None:
            save_loss(outcome.loss, self._run_dir / BEST_LOSS)
        for callback in self._callbacks:
            callback.on_candidate(self._method, outcome)


def evaluate(candidate: Candidate, method: Method, tasks: Sequence[Task]) -> Outcome:
    """What becomes of a candidate: the filters in their order, then partial training.

    Equal to an earlier candidate (section 3.5.1), optimised (3.3), rejected (3.5.2), equal in its
    gradients (3.5.3), or trained (3.5.4).
    """
    known = method.archive.find(candidate)
    if known is not None:
        source = known.candidate.number if known.source is None else known.source
        return Outcome(candidate, "duplicate", known.fitness, known.loss, source)
    if candidate.loss is None:
        start = time.perf_counter()
        value = _fitness(tasks, [task.task_loss for task in tasks], method)
        seconds = {"training": time.perf_counter() - start}
        return Outcome(candidate, _status(value), value, None, seconds=seconds)
    screening = screen(
        candidate.loss,
        tasks,
        method.settings,
        method.seed,
        optimize=method.optimizes_weights,
        filters=method.filters,
    )
    outcome = Outcome(
        candidate,
        "diverged",
        math.inf,
        screening.loss,
        correlation=screening.correlation,
        gradient_key=screening.gradient_key,
        seconds=screening.seconds,
    )
    if screening.verdict != "promising":
        return dataclasses.replace(outcome, status=screening.verdict)
    twin = method.archive.find_gradient(screening.gradient_key) if screening.gradient_key else None
    if twin is not None:
        return dataclasses.replace(
            outcome, status="equivalent", fitness=twin.fitness, source=twin.candidate.number
        )
    start = time.perf_counter()
    value = _fitness(tasks, [screening.loss] * len(tasks), method)
    seconds = {**screening.seconds, "training": time.perf_counter() - start}
    return dataclasses.replace(outcome, status=_status(value), fitness=value, seconds=seconds)


def _status(value: float) -> Status:
    """How a training ended that gave this fitness."""
    return "evaluated" if math.isfinite(value) else "diverged"


def _fitness(tasks: Sequence[Task], losses: Sequence[Any], method: Method) -> float:
    """Fitness of one loss per task; infinity if a training diverges."""
    try:
        return fitness(losses, tasks, method.settings.testing_steps, method.seed)
    except DivergedError:
        return math.inf


def _facts(
    tasks: Sequence[Task], method: str, settings: SearchSettings, seed: int
) -> dict[str, Any]:
    """What a run records about itself when it begins."""
    import evomal

    names = [task.name for task in tasks]
    metrics = [getattr(task.metric, "__name__", "metric") for task in tasks]
    return {
        "task": names[0] if len(names) == 1 else names,
        "split": tasks[0].split,
        "metric": metrics[0],
        "link": tasks[0].link,
        "fingerprints": [task.fingerprint() for task in tasks],
        "method": method,
        "seed": seed,
        "settings": dataclasses.asdict(settings),
        "status": "running",
        "device": str(tasks[0].device),
        "versions": {
            "evomal": evomal.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
