"""The search driver: asks a method, does the work on candidates, stores every outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from evomal.errors import InputError
from evomal.losses.files import save_loss
from evomal.methods.base import Method, Outcome
from evomal.methods.registry import METHODS
from evomal.methods.settings import PRESETS, SearchSettings
from evomal.runs.callbacks import Callback
from evomal.runs.executors import Executor, available_workers, open_executor, result_of
from evomal.runs.run import Run, describe
from evomal.runs.schedule import GenerationSchedule, train_candidate
from evomal.runs.store import BEST_LOSS, RunStore, new_run_dir
from evomal.tasks.task import Task


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C during a search; `run` holds everything that was finished."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run


def search(
    tasks: Task | Sequence[Task],
    *,
    method: str = "evomal",
    preset: str = "paper",
    settings: SearchSettings | None = None,
    seed: int = 0,
    run_dir: str | os.PathLike[str] | None = None,
    workers: int | Literal["auto"] = 1,
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
    workers
        Processes that work on candidates; the result does not depend on it. ``"auto"``: as many
        as the CPU has cores for, or one on a GPU. With more than one,
        guard the call with ``if __name__ == "__main__":`` in a script.
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
    SearchInterrupted
        After Ctrl-C; everything finished is in the run directory, ``best.json`` included.
    """
    tasks = [tasks] if isinstance(tasks, Task) else list(tasks)
    settings = settings or choose_preset(preset)
    known = [field.name for field in dataclasses.fields(settings)]
    for name in overrides:
        if name not in known:
            raise InputError(f"Unknown setting {name!r}; choose from {', '.join(known)}.")
    settings = dataclasses.replace(settings, **overrides)
    settings.validate()
    if method not in METHODS:
        raise InputError(f"Unknown method {method!r}; choose from {', '.join(METHODS)}.")
    links = {task.link for task in tasks}
    if len(links) != 1 or len({task.name for task in tasks}) != len(tasks):
        raise InputError("A search needs tasks with different names and one and the same link.")
    if workers == "auto":
        workers = available_workers(settings.threads) if tasks[0].device.type == "cpu" else 1
    if workers < 1:
        raise InputError(f"The number of workers must be at least 1, but is {workers}.")
    searcher = METHODS[method](settings, links.pop(), seed)
    with contextlib.closing(open_executor(tasks, settings.threads, workers)) as executor:
        directory = Path(run_dir) if run_dir is not None else new_run_dir()
        store = RunStore.create(directory, _facts(tasks, method, settings, seed))
        try:
            _Driver(searcher, store, directory, callbacks).run(executor)
        except KeyboardInterrupt as interruption:
            raise SearchInterrupted(Run(directory)) from interruption
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
        store: RunStore,
        run_dir: Path,
        callbacks: Sequence[Callback],
    ) -> None:
        self._method = method
        self._store = store
        self._run_dir = run_dir
        self._callbacks = callbacks

    def run(self, executor: Executor) -> None:
        start = time.perf_counter()
        status = "interrupted"
        try:
            self._search(executor)
            self._keep_formulas()
            status = "finished"
        finally:
            seconds = time.perf_counter() - start
            self._store.write_facts({"status": status, "seconds": seconds})
            self._store.close()
            for callback in self._callbacks:
                callback.on_run_end(self._method)

    def _search(self, executor: Executor) -> None:
        method, store = self._method, self._store
        own, _ = result_of(executor.submit(train_candidate, None, method.settings, method.seed))
        own_fitness = own if math.isfinite(own) else None
        store.write_facts({"task_loss_fitness": own_fitness})
        for callback in self._callbacks:
            callback.on_run_start(method, own_fitness)
        while not method.finished:
            start = time.perf_counter()
            outcomes = []
            for outcome in GenerationSchedule(method, method.ask(), executor).outcomes():
                self._record(outcome)
                outcomes.append(outcome)
            outcomes.sort(key=lambda outcome: outcome.candidate.number)
            generation = method.tell(outcomes)
            store.write_generation(generation, method.state_dict(), time.perf_counter() - start)
            for callback in self._callbacks:
                callback.on_generation(method, generation)

    def _keep_formulas(self) -> None:
        """Store the printed forms of the hall of fame."""
        forms = self._store.printed_forms()
        describe(list(self._method.archive.hall_of_fame.values()), forms)
        self._store.write_printed_forms(forms)

    def _record(self, outcome: Outcome) -> None:
        archive = self._method.archive
        archive.add(outcome)
        self._store.write_outcome(outcome)
        if archive.best is outcome and outcome.loss is not None:
            save_loss(outcome.loss, self._run_dir / BEST_LOSS)
        for callback in self._callbacks:
            callback.on_candidate(self._method, outcome)


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
