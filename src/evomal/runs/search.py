"""Start or resume a search."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sqlite3
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGINT
from typing import Any

from evomal.errors import InputError, TaskWarning, require_name
from evomal.interrupts import Terminated, termination_interrupts
from evomal.losses.names import initial_loss
from evomal.methods.registry import METHODS, choose_preset, no_such_setting
from evomal.methods.settings import SearchSettings
from evomal.runs.callbacks import Callback, require_callbacks
from evomal.runs.directory import ROOT, named_run_dir, new_run_dir, taken_back
from evomal.runs.dispatch import Dispatcher, open_executor
from evomal.runs.driver import Driver, cannot_store
from evomal.runs.execution import Execution, require_cores
from evomal.runs.executors import Executor
from evomal.runs.identity import begin_facts, tasks_of, warn_of_versions
from evomal.runs.known_losses import known_losses
from evomal.runs.next_steps import to_resume
from evomal.runs.progress import with_progress
from evomal.runs.queue import Numbers
from evomal.runs.record import RunFacts, read_facts, read_record, require_continuable
from evomal.runs.run import Run
from evomal.runs.store import RunStore, reading
from evomal.tasks.arguments import instance, whole_number
from evomal.tasks.task import Task
from evomal.tasks.task_arguments import as_tasks
from evomal.training.engines.choice import with_engine
from evomal.training.settings import EvaluationSettings
from evomal.training.workbench import Workbench


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C during a search, SIGTERM or SIGHUP.

    Attributes
    ----------
    run
        The run, with all finished candidates.
    signal
        Number of the signal.
    """

    def __init__(self, run: Run, signal: int = SIGINT) -> None:
        command = to_resume(run.run_dir, run.facts.tasks)
        super().__init__(f"The search was interrupted. To continue: {command}")
        self.run = run
        self.signal = signal


def search(
    tasks: Task | Sequence[Task],
    *,
    method: str = "evomal",
    preset: str = "standard",
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
        One task, or several with the same link: one loss is learned for all of them, and the mean
        metric is its fitness (paper, eq. 2).
    method
        Name of a search method.
    preset
        Default settings: ``"standard"`` (tunes the learning rate first, starts from known losses,
        and ends with a verdict), ``"quick"`` (a smaller one, for a first look) or ``"paper"`` (the
        published search).
    settings
        Instead of a preset: an instance of the method's settings, such as `EvoMALSettings`.
    seed
        Seed of all random draws of the run.
    run_dir
        Run directory; default a new numbered one under ``runs/``.
    execution
        Workers and stop conditions; by default one worker in this process and no condition. With
        more workers, guard the call with ``if __name__ == "__main__":`` in a script.
    callbacks
        Callbacks to notify of the run's progress.
    progress
        Whether to show progress on standard error; None means on a terminal and in a notebook.
    **overrides
        Single settings of the method or of `Execution` by name, such as ``generations=10``,
        ``workers=2`` or ``max_time=3600``.

    Returns
    -------
    Run
        The finished or stopped run; ``run.best.loss`` is the learned loss.

    Raises
    ------
    InputError
        If an argument is invalid; nothing has been written then. Also if the run directory becomes
        unwritable, or no worker can be started; the run can then be resumed.
    SearchInterrupted
        After Ctrl-C; all finished work is in the run directory, including ``best.json``.
    """
    start = time.monotonic()
    tasks = as_tasks(tasks)
    seed = whole_number(seed, "seed", 0)
    usual = choose_preset(method, preset)
    require_callbacks(callbacks)
    callbacks = with_progress(callbacks, progress)
    directory = None if run_dir is None else named_run_dir(run_dir)
    kind = METHODS[method].settings_type
    if settings is not None:
        remedy = f"{kind.__name__}(...) for the method {method}"
        instance(settings, "argument settings", kind, remedy)
    given = usual if settings is None else settings
    chosen, execution = _apply(method, given, execution or Execution(), overrides)
    if len({task.form for task in tasks}) != 1 or len({task.name for task in tasks}) != len(tasks):
        raise InputError(
            "The tasks of a search must have different names, but the same link, loss inputs, "
            "class weights and ignore_index."
        )
    form = tasks[0].form
    chosen = chosen.resolved(lambda text: initial_loss(text, form), known_losses(tasks))
    chosen.validate(form.inputs)
    execution.validate()
    if execution.executor == "local":
        require_cores(chosen.threads)
    pipeline = METHODS[method].pipeline
    chosen, reason = with_engine(chosen, tasks, tunes=pipeline.tune)
    if pipeline.reject:
        _warn_of_metrics(tasks, chosen, seed)
    facts = begin_facts(tasks, method, chosen, reason, seed)
    with contextlib.closing(_open(tasks, chosen, seed, execution)) as executor:
        directory, store = _create(directory, facts)
        with contextlib.closing(store):
            _drive(directory, store, Dispatcher(executor, execution, start), callbacks, {}, 0)
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

    It ends exactly like an uninterrupted run; only candidates in flight are computed again, and
    only at most a minute of their tuning. A finished run is returned unchanged.

    Parameters
    ----------
    run_dir
        The run directory.
    tasks
        The tasks of the run; built-in ones are loaded by name.
    generations
        A larger number of generations, to extend the run.
    data_dir
        Folder of the data sets of built-in tasks; default the one that the run used.
    execution
        As in `search`; stop conditions of the original call do not apply again.
    callbacks
        Callbacks to notify of the run's progress.
    progress
        As in `search`.
    **overrides
        Single settings of `Execution` by name.

    Raises
    ------
    InputError
        If the directory has no run that can be continued, another process is writing it, or the
        tasks or their data have changed; nothing has been modified then.
    SearchInterrupted
        After Ctrl-C.
    """
    start = time.monotonic()
    require_callbacks(callbacks)
    callbacks = with_progress(callbacks, progress)
    _, execution = _apply(None, None, execution or Execution(), overrides)
    execution.validate()
    directory = Path(run_dir)
    if is_finished(directory, generations):
        return Run(directory)
    with contextlib.closing(RunStore.reopen(directory)) as store:
        with reading(directory):
            record = read_record(store)
        facts = record.facts
        settings = _with_generations(facts, generations)
        tasks = tasks_of(facts, tasks, directory, data_dir)
        with reading(directory):
            asked_last = require_continuable(record, store.last_state())
            checkpoints = store.checkpoints()
        warn_of_versions(facts.versions)
        with contextlib.closing(_open(tasks, settings, facts.seed, execution)) as executor:
            changes = {"settings": dataclasses.asdict(settings), "status": "running"}
            try:
                store.write_facts({**changes, "stop_reason": None})
            except sqlite3.Error as error:
                raise cannot_store(directory, facts.tasks, error) from error
            dispatcher = Dispatcher(executor, execution, start)
            _drive(directory, store, dispatcher, callbacks, checkpoints, asked_last)
    return Run(directory)


def is_finished(run_dir: str | os.PathLike[str], generations: int | None = None) -> bool:
    """Whether `resume` has nothing to do.

    Raises
    ------
    InputError
        If the directory has no readable run.
    """
    directory = Path(run_dir)
    with contextlib.closing(RunStore.open(directory)) as store, reading(directory):
        facts = read_facts(store.facts())
    return facts.status == "finished" and generations in (None, facts.settings.generations)


def _warn_of_metrics(tasks: Sequence[Task], settings: EvaluationSettings, seed: int) -> None:
    """Warn if the rejection protocol will reject nothing on a task."""
    metrics = Workbench(tasks, settings, seed).metrics_before
    for task, value in zip(tasks, metrics, strict=True):
        if math.isnan(value):
            warnings.warn(
                f"The metric of {task.name!r} fails or is not finite on the "
                f"{min(settings.rejection_batch, len(task.train))} training rows of the rejection "
                "protocol, so no loss will be rejected; raise rejection_batch if the metric needs "
                "more rows.",
                TaskWarning,
                stacklevel=3,
            )


def _create(run_dir: Path | None, facts: Mapping[str, Any]) -> tuple[Path, RunStore]:
    """A new run, in a numbered directory if none is given."""
    if run_dir is not None:
        return run_dir, RunStore.create(run_dir, facts)
    with taken_back(ROOT):
        run_dir = new_run_dir()
        try:
            return run_dir, RunStore.create(run_dir, facts)
        except InputError:
            with contextlib.suppress(OSError):
                run_dir.rmdir()
            raise


def _open(
    tasks: Sequence[Task], settings: SearchSettings, seed: int, execution: Execution
) -> Executor:
    """An executor with no more workers than a generation has work for."""
    execution.require_room(settings.threads)
    most = settings.largest_generation * len(tasks)
    return open_executor(tasks, settings, seed, execution, most)


def _drive(
    directory: Path,
    store: RunStore,
    dispatcher: Dispatcher,
    callbacks: Sequence[Callback],
    checkpoints: Mapping[Numbers, bytes],
    asked_last: int,
) -> None:
    """Run a stored run to its end."""
    try:
        facts = read_facts(store.facts())
        with termination_interrupts():
            Driver(facts, store, directory, callbacks, checkpoints, asked_last).run(dispatcher)
    except sqlite3.Error as error:
        raise cannot_store(directory, (), error) from error
    except KeyboardInterrupt as interruption:
        number = interruption.signal if isinstance(interruption, Terminated) else SIGINT
        raise SearchInterrupted(Run(directory), number) from None


def _apply(
    method: str | None,
    settings: SearchSettings | None,
    execution: Execution,
    overrides: Mapping[str, Any],
) -> tuple[Any, Execution]:
    """Settings and execution with overrides applied; without a method, execution only."""
    instance(execution, "argument execution", Execution, "evomal.Execution(...)")
    for name, value in overrides.items():
        if settings is not None and name in _names(settings):
            settings = dataclasses.replace(settings, **{name: value})
        elif name in _names(execution):
            execution = dataclasses.replace(execution, **{name: value})
        elif method is not None:
            raise no_such_setting(method, name, _names(execution))
        else:
            require_name("setting", name, _names(execution), "see Execution")
    return settings, execution


def _names(settings: SearchSettings | Execution) -> list[str]:
    return [field.name for field in dataclasses.fields(settings)]


def _with_generations(facts: RunFacts, generations: int | None) -> SearchSettings:
    """The settings of a run, possibly with more generations."""
    if generations is None:
        return facts.settings
    done = facts.settings.generations
    generations = whole_number(generations, "number of generations")
    if generations < done:
        raise InputError(
            f"The run was started with {done} generations; this number can only be increased, "
            f"not set to {generations}."
        )
    if generations == done:
        return facts.settings
    if "generations" not in _names(facts.settings):
        raise no_such_setting(facts.method, "generations")
    more: dict[str, Any] = {"generations": generations}
    settings = dataclasses.replace(facts.settings, **more)
    settings.validate(facts.form.inputs)
    return settings
