"""Begin a search, or take one up again where it stands."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evomal.errors import InputError, require_name
from evomal.losses.form import Form
from evomal.methods.registry import METHODS
from evomal.methods.settings import PRESETS, SearchSettings, choose_preset
from evomal.runs.callbacks import Callback
from evomal.runs.directory import new_run_dir
from evomal.runs.dispatch import Dispatcher, open_executor
from evomal.runs.driver import Driver, cannot_store
from evomal.runs.execution import Execution, require_cores
from evomal.runs.executors import Executor, torch_settings
from evomal.runs.progress import with_progress
from evomal.runs.run import Run, expression_of
from evomal.runs.store import RunStore
from evomal.tasks.functions import function_name
from evomal.tasks.registry import load_task
from evomal.tasks.task import Task
from evomal.training.settings import as_seed
from evomal.training.together import with_engine


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
    execution: Execution | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    **overrides: Any,
) -> Run:
    """Learn a loss function.

    Parameters
    ----------
    tasks
        One task, or several that share a link: one loss is learned for all of them, and its mean
        metric is the fitness (paper, eq. 2).
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
    execution
        Workers and stop conditions; by default one worker, in this process, and none. With more
        workers, guard the call with ``if __name__ == "__main__":`` in a script.
    callbacks
        Are told about the run's progress.
    progress
        Whether to show it, on standard error; None: where someone looks, which is on a terminal
        and in a notebook.
    **overrides
        Single settings of `SearchSettings` or `Execution` by name, such as ``generations=10``,
        ``workers=2`` or ``max_time=3600``.

    Returns
    -------
    Run
        The finished or stopped run; ``run.best.loss`` is the learned loss.

    Raises
    ------
    InputError
        If an argument is not acceptable; nothing has been written then. Also if the run directory
        cannot be written any more, or no worker can be had; then the run can be resumed.
    SearchInterrupted
        After Ctrl-C; everything finished is in the run directory, ``best.json`` included.
    """
    tasks = [tasks] if isinstance(tasks, Task) else list(tasks)
    callbacks = with_progress(callbacks, progress)
    seed = as_seed(seed)
    usual = [choose_preset(preset)] if settings is None else list(PRESETS.values())
    settings, execution = _apply(settings or usual[0], execution or Execution(), overrides)
    if len({task.form for task in tasks}) != 1 or len({task.name for task in tasks}) != len(tasks):
        raise InputError(
            "A search needs tasks with different names and one and the same link, loss inputs, "
            "class weights and class to ignore."
        )
    form = tasks[0].form
    initial = tuple(expression_of(text, form) for text in settings.initial_losses)
    settings = dataclasses.replace(settings, initial_losses=initial)
    settings.validate(form.inputs)
    execution.validate()
    require_name("method", method, METHODS, "`evomal methods` lists them")
    METHODS[method].require_use(settings, usual)
    if execution.executor == "local":
        require_cores(settings.threads)
    settings = with_engine(settings, tasks, optimizes=METHODS[method].optimizes_weights)
    facts = _facts(tasks, method, settings, seed)
    with contextlib.closing(_open(tasks, settings, execution)) as executor:
        directory = Path(run_dir) if run_dir is not None else new_run_dir()
        with contextlib.closing(RunStore.create(directory, facts)) as store:
            _drive(directory, store, Dispatcher(executor, execution), callbacks)
    return Run(directory)


def resume(
    run_dir: str | os.PathLike[str],
    tasks: Task | Sequence[Task] | None = None,
    *,
    generations: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    execution: Execution | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    **overrides: Any,
) -> Run:
    """Continue a run that was stopped, interrupted or killed at any moment.

    It ends exactly as if nothing had happened; only candidates that were in flight are computed
    again. A finished run is returned as it is.

    Parameters
    ----------
    run_dir
        The run's directory.
    tasks
        The tasks that the run was made with; built-in ones are loaded by their names.
    generations
        Another number of generations, to search on longer.
    data_dir
        Folder of the data sets of built-in tasks; default where the run found them.
    execution
        As for `search`; nothing is taken over from the run, so that a stop condition that holds
        does not stop it again.
    callbacks
        Are told about the run's progress.
    progress
        As for `search`.
    **overrides
        Single settings of `Execution` by name.

    Raises
    ------
    InputError
        If the directory holds no run that can be continued, another process is writing it, or the
        tasks or their data are not those of the run; nothing has been changed then.
    SearchInterrupted
        After Ctrl-C.
    """
    callbacks = with_progress(callbacks, progress)
    _, execution = _apply(None, execution or Execution(), overrides)
    execution.validate()
    directory = Path(run_dir)
    if is_finished(directory, generations):
        return Run(directory)
    with contextlib.closing(RunStore.reopen(directory)) as store:
        facts = store.facts()
        settings = _settings_of(facts, generations)
        tasks = _tasks_of(facts, tasks, data_dir)
        _warn_of_versions(facts)
        with contextlib.closing(_open(tasks, settings, execution)) as executor:
            try:
                store.write_facts({"settings": dataclasses.asdict(settings)})
            except sqlite3.Error as error:
                raise cannot_store(directory, error) from error
            _drive(directory, store, Dispatcher(executor, execution), callbacks)
    return Run(directory)


def is_finished(run_dir: str | os.PathLike[str], generations: int | None = None) -> bool:
    """Whether `resume` has nothing to do.

    Raises
    ------
    InputError
        If the directory holds no readable run.
    """
    with contextlib.closing(RunStore.open(Path(run_dir))) as store:
        facts = store.facts()
    return facts["status"] == "finished" and generations in (None, facts["settings"]["generations"])


def _open(tasks: Sequence[Task], settings: SearchSettings, execution: Execution) -> Executor:
    """An executor with no more workers than a generation has work for."""
    execution.require_room(settings.threads)
    most = settings.population_size * len(tasks)
    return open_executor(tasks, settings.threads, execution, most)


def _drive(
    directory: Path, store: RunStore, dispatcher: Dispatcher, callbacks: Sequence[Callback]
) -> None:
    """Bring the run in a store to its end."""
    facts = store.facts()
    method = METHODS[facts["method"]](
        _settings_of(facts), Form.from_dict(facts["form"]), facts["seed"]
    )
    names = [task["name"] for task in facts["tasks"]]
    try:
        Driver(method, names, store, directory, callbacks).run(dispatcher)
    except KeyboardInterrupt as interruption:
        raise SearchInterrupted(Run(directory)) from interruption


def _apply(
    settings: SearchSettings | None, execution: Execution, overrides: Mapping[str, Any]
) -> tuple[Any, Execution]:
    """Both with single settings replaced by name."""
    for name, value in overrides.items():
        if settings is not None and name in _names(settings):
            settings = dataclasses.replace(settings, **{name: value})
        elif name in _names(execution):
            execution = dataclasses.replace(execution, **{name: value})
        else:
            known = [*(_names(settings) if settings else []), *_names(execution)]
            require_name("setting", name, known, "see SearchSettings and Execution")
    return settings, execution


def _names(settings: SearchSettings | Execution) -> list[str]:
    return [field.name for field in dataclasses.fields(settings)]


def _settings_of(facts: Mapping[str, Any], generations: int | None = None) -> SearchSettings:
    """The settings that a run was begun with, perhaps with more generations."""
    fields = dict(facts["settings"])
    fields["initial_losses"] = tuple(fields["initial_losses"])
    if generations is not None:
        done = fields["generations"]
        if not (isinstance(generations, int) and generations >= done):
            raise InputError(
                f"The run was begun with {done} generations; on resuming there can only be more, "
                f"not {generations}."
            )
        fields["generations"] = generations
    return SearchSettings(**fields)


def _tasks_of(
    facts: Mapping[str, Any],
    tasks: Task | Sequence[Task] | None,
    data_dir: str | os.PathLike[str] | None,
) -> list[Task]:
    """The tasks of a run, checked to be the same as when it was begun."""
    described = facts["tasks"]
    if tasks is None:
        tasks = [_load(task, facts["device"], data_dir) for task in described]
    tasks = [tasks] if isinstance(tasks, Task) else list(tasks)
    names = [task["name"] for task in described]
    if [task.name for task in tasks] != names:
        given = ", ".join(task.name for task in tasks)
        raise InputError(
            f"The run was made with {', '.join(names)}, not with {given}; resume it with the same "
            "tasks, or begin a new run."
        )
    for task, before in zip(tasks, described, strict=True):
        now = task.description()
        changed = [name for name, value in now.items() if before[name] != value]
        if str(task.device) != facts["device"]:
            changed.append("device")
        if changed:
            raise InputError(
                f"The task {task.name!r} is not the one that the run was made with: its "
                f"{', '.join(changed)} changed; resume it with the same task, or begin a new run."
            )
    return tasks


def _load(task: Mapping[str, Any], device: str, data_dir: str | os.PathLike[str] | None) -> Task:
    """A built-in task as it was when the run was begun."""
    if task["origin"] is None:
        raise InputError(
            f"The run was made with a task of your own, {task['name']!r}; resume it in Python: "
            "evomal.resume(run_dir, task)."
        )
    origin = {**task["origin"], **({} if data_dir is None else {"data_dir": data_dir})}
    return load_task(task["name"], device=device, **origin)


def _warn_of_versions(facts: Mapping[str, Any]) -> None:
    before, now = facts["versions"], _versions()
    if before != now:
        changed = ", ".join(f"{name} {before[name]}" for name in now if before[name] != now[name])
        warnings.warn(
            f"The run was begun with {changed}; with other versions, the last digits of the "
            "results can differ.",
            stacklevel=3,
        )


def _facts(
    tasks: Sequence[Task], method: str, settings: SearchSettings, seed: int
) -> dict[str, Any]:
    """What a run records about itself when it begins."""
    described = [{**task.description(), "origin": task.origin} for task in tasks]
    return {
        "task": _common([task["name"] for task in described]),
        "split": _common([task["split"] for task in described]),
        "metric": _common([function_name(task.metric) for task in tasks]),
        "form": tasks[0].form.to_dict(),
        "tasks": described,
        "method": method,
        "seed": seed,
        "settings": dataclasses.asdict(settings),
        "status": "running",
        "device": str(tasks[0].device),
        "versions": _versions(),
    }


def _common(values: Sequence[str]) -> str | Sequence[str]:
    """The one value that all have, or all values."""
    return values[0] if len(set(values)) == 1 else values


def _versions() -> dict[str, str]:
    import evomal

    return {
        "evomal": evomal.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "torch settings": " ".join(str(value) for value in torch_settings().values()),
    }
