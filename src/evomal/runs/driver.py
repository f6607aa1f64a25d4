"""Drives a run to its end: asks the method, and stores every outcome immediately."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evomal.errors import InputError, TaskWarning
from evomal.losses.files import loss_from_dict, remove_loss, save_loss
from evomal.losses.names import BEST_LOSS
from evomal.methods.base import Candidate, Generation, Outcome
from evomal.runs.callbacks import Callback, RunStart
from evomal.runs.confirmation import confirm
from evomal.runs.contenders import leading
from evomal.runs.diagnosis import nothing_learned
from evomal.runs.directory import DATABASE
from evomal.runs.dispatch import Dispatcher
from evomal.runs.execution import SearchStopped
from evomal.runs.next_steps import to_check, to_resume
from evomal.runs.queue import GenerationQueue, Numbers
from evomal.runs.recipe import find_recipes
from evomal.runs.record import RunFacts
from evomal.runs.retrainings import Retrainings
from evomal.runs.run import describe
from evomal.runs.store import RunStore
from evomal.runs.task_facts import TaskFacts
from evomal.runs.task_loss import task_loss_fitness

FAILURES_IN_A_ROW = 10
"""Number of consecutive failures that end a run; those that were asked for last are retried on
resume."""


class Driver:
    """Drives a run until it ends or is stopped.

    Parameters
    ----------
    facts
        The facts recorded when the run was started.
    store
        The run's database, open for writing.
    run_dir
        The run's directory.
    callbacks
        Callbacks to notify.
    checkpoints
        Stored checkpoints of unfinished tunings.
    asked_last
        The number of the first candidate of those that were asked for last.
    """

    def __init__(
        self,
        facts: RunFacts,
        store: RunStore,
        run_dir: Path,
        callbacks: Sequence[Callback],
        checkpoints: Mapping[Numbers, bytes],
        asked_last: int,
    ) -> None:
        self._method = facts.new_method()  # its state is restored later
        self._facts = facts
        self._tasks = [task.name for task in facts.tasks]
        self._store = store
        self._run_dir = run_dir
        self._callbacks = callbacks
        self._checkpoints = checkpoints
        self._asked_last = asked_last
        self._unfinished: list[Outcome] = []  # outcomes of the current generation
        self._failed_in_a_row = 0
        self._generations: list[Generation] = []
        self._start = time.perf_counter()
        self._seconds_before = 0.0  # duration of earlier sessions

    def run(self, dispatcher: Dispatcher) -> None:
        """Search until the method is finished, a stop condition is met or an error occurs.

        Raises
        ------
        InputError
            If the run directory becomes unwritable, no worker can be started, or the task loss
            itself cannot be used for training.
        """
        ending: dict[str, Any] = {"status": "failed"}
        try:
            self._restore()
            stop = self._search(dispatcher)
            self._confirm(dispatcher)
            if stop is None:
                self._keep_formulas(dispatcher.stop.seconds_left())
            ending = {"status": "finished"} if stop is None else _stopped(stop)
        except SearchStopped as stop:
            ending = _stopped(stop)
        except KeyboardInterrupt:
            ending["status"] = "interrupted"
            raise
        except (sqlite3.Error, _BestLossError) as error:
            raise cannot_store(self._run_dir, self._facts.tasks, error) from error
        finally:
            with contextlib.suppress(sqlite3.Error, _BestLossError):  # the run can still be resumed
                self._save_best()
                self._store.write_facts({**ending, "seconds": self._seconds()})
            for callback in self._callbacks:
                callback.on_run_end(self._method)

    def _restore(self) -> None:
        """Restore the method's state from the store."""
        method, store = self._method, self._store
        self._seconds_before = self._facts.seconds or 0.0
        self._generations = store.generations()
        state = store.last_state()
        if state is not None:
            method.load_state_dict(state)
        store.forget_failures(self._asked_last)
        for outcome in store.outcomes(method.identity):
            method.archive.add(outcome)
            if outcome.candidate.generation == method.generation:
                self._unfinished.append(outcome)
        self._save_best()
        store.write_facts({"status": "running", "stop_reason": None})

    def _search(self, dispatcher: Dispatcher) -> SearchStopped | None:
        """Search until the method is finished, or another stop condition than the time is met."""
        method, stop = self._method, dispatcher.stop
        for callback in self._callbacks:
            callback.on_run_open(method, self._run_dir)
        self._tune_recipe(dispatcher)
        own = self._task_loss_fitness(dispatcher)
        self._warn_if_nothing_is_learned(own)
        start = RunStart(self._run_dir, self._facts, own, list(self._generations))
        for callback in self._callbacks:
            callback.on_run_start(method, start)
        try:
            stop.check_archive(method.archive, self._facts.scale)
            while not method.finished:
                stop.check_generations(self._generations)
                self._run_generation(dispatcher)
        except SearchStopped as reason:
            if reason.out_of_time:
                raise
            dispatcher.abandon()
            return reason
        return None

    def _tune_recipe(self, dispatcher: Dispatcher) -> None:
        """Find the recipe of the search, if the settings say so and it is not known."""
        facts = self._facts
        if not facts.settings.tune_recipe or facts.recipes:
            return
        rates = [task.description["optimizer"]["learning_rate"] for task in facts.tasks]
        trainings = self._trainings(dispatcher, "tuning the task loss")
        recipes = find_recipes(trainings, rates, facts.settings.fitness_steps)
        self._store.write_facts({"recipes": [asdict(recipe) for recipe in recipes]})
        self._facts = replace(facts, recipes=recipes)

    def _warn_if_nothing_is_learned(self, own: float | None) -> None:
        """Warn if the task loss at its best learning rate is no better than constants."""
        facts, bar = self._facts, self._facts.constant_fitness
        if facts.recipes and bar is not None and (own is None or own >= bar):
            warnings.warn(nothing_learned(to_check(facts.tasks)), TaskWarning, stacklevel=4)

    def _confirm(self, dispatcher: Dispatcher) -> None:
        """Train the leading losses again, and choose the best one."""
        facts = self._facts
        contenders = leading(self._method.archive, facts)
        if facts.confirmation is not None or not contenders:
            return
        own = [task.description["optimizer"]["learning_rate"] for task in facts.tasks]
        rates = [recipe.learning_rate for recipe in facts.recipes] or own
        trainings = self._trainings(dispatcher, "confirming the best losses", facts.rates)
        confirmation = confirm(trainings, contenders, rates, facts.confirmation_steps)
        self._store.write_facts({"confirmation": asdict(confirmation)})
        self._facts = replace(facts, confirmation=confirmation)

    def _trainings(
        self, dispatcher: Dispatcher, stage: str, rates: Sequence[float] = ()
    ) -> Retrainings:
        """Trainings on fresh seeds, of which the callbacks are told."""

        def report(done: int, total: int) -> None:
            for callback in self._callbacks:
                callback.on_retraining(self._method, stage, done, total)

        steps = self._facts.settings.fitness_steps
        return Retrainings(dispatcher, self._store, self._tasks, steps, rates, report)

    def _task_loss_fitness(self, dispatcher: Dispatcher) -> float | None:
        """The fitness of the task loss itself; None if it diverges."""
        if self._facts.has_own_fitness:
            return self._facts.task_loss_fitness
        own = task_loss_fitness(dispatcher, self._tasks, self._facts.rates)
        stored = {"task_loss_fitness": own.fitness, "task_loss_reason": own.reason}
        self._store.write_facts(stored)
        return own.fitness

    def _run_generation(self, dispatcher: Dispatcher) -> None:
        method = self._method
        start = time.perf_counter()
        if self._facts.confirmation is not None:  # of fewer generations
            self._store.write_facts({"confirmation": None})
            self._facts = replace(self._facts, confirmation=None)
            self._save_best()
        outcomes: list[Outcome] = []
        candidates = method.ask()
        while candidates:
            outcomes += self._outcomes(candidates, dispatcher)
            candidates = method.ask_more(outcomes)
        self._unfinished = []
        told = method.tell(outcomes)
        generation = replace(told, seconds=time.perf_counter() - start)
        self._generations.append(generation)
        self._store.write_generation(generation, method.state_dict())
        self._store.write_facts({"seconds": self._seconds()})
        for callback in self._callbacks:
            callback.on_generation(method, generation)

    def _outcomes(self, candidates: Sequence[Candidate], dispatcher: Dispatcher) -> list[Outcome]:
        """The outcomes of candidates that were asked for together, in population order."""
        numbers = {candidate.number for candidate in candidates}
        known = [one for one in self._unfinished if one.candidate.number in numbers]
        queue = GenerationQueue(
            self._method,
            candidates,
            dispatcher,
            len(self._tasks),
            known,
            self._checkpoints,
            self._store.write_checkpoint,
            rates=self._facts.rates,
        )
        outcomes = list(known)
        for outcome in queue.outcomes():
            self._record(outcome, dispatcher)
            outcomes.append(outcome)
        return sorted(outcomes, key=lambda outcome: outcome.candidate.number)

    def _record(self, outcome: Outcome, dispatcher: Dispatcher) -> None:
        archive = self._method.archive
        self._store.write_outcome(outcome)
        archive.add(outcome)
        if archive.best is outcome:
            self._save_best()
        for callback in self._callbacks:
            callback.on_candidate(self._method, outcome)
        self._check_failures(outcome)
        dispatcher.stop.check_archive(archive, self._facts.scale)

    def _check_failures(self, outcome: Outcome) -> None:
        """End the run if nothing works any more, as after some errors on a GPU.

        Raises
        ------
        InputError
            If too many candidates have failed in a row.
        """
        if outcome.status != "failed":
            if outcome.source is None:  # not copied from another candidate
                self._failed_in_a_row = 0
            return
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= FAILURES_IN_A_ROW:
            reason = (outcome.reason or "").rstrip(".")
            raise InputError(
                f"{FAILURES_IN_A_ROW} candidates in a row failed, the last one: {reason}. Fix the "
                f"cause, then continue with: {to_resume(self._run_dir, self._facts.tasks)}"
            )

    def _keep_formulas(self, seconds: float | None) -> None:
        """Store as many printed forms of the hall of fame as the time allows."""
        forms = self._store.printed_forms()
        fame = list(self._method.archive.hall_of_fame.values())
        describe(fame, forms, self._facts.scale, seconds)
        self._store.write_printed_forms(forms)

    def _save_best(self) -> None:
        """Write the best loss so far; remove one that is not in the store."""
        best, confirmation = self._method.archive.best, self._facts.confirmation
        path = self._run_dir / BEST_LOSS
        try:
            if confirmation is not None and confirmation.loss is not None:
                verdict = confirmation.to_dict(self._facts.scale)
                save_loss(loss_from_dict(dict(confirmation.loss)), path, {"verdict": verdict})
            elif best is not None and best.loss is not None:
                save_loss(best.loss, path)
            else:
                remove_loss(path)
        except (InputError, OSError) as error:
            raise _BestLossError(str(error.__cause__ or error)) from error

    def _seconds(self) -> float:
        """Duration of the run over all sessions."""
        return self._seconds_before + time.perf_counter() - self._start


def cannot_store(run_dir: Path, tasks: Sequence[TaskFacts], error: Exception) -> InputError:
    """The error if the disk is full, the database is damaged or the directory is gone."""
    if not (run_dir / DATABASE).exists():
        return InputError(
            f"The run directory {str(run_dir)!r} was moved or deleted during the search. If it was "
            f"moved, move it back, then continue with: {to_resume(run_dir, tasks)}"
        )
    return InputError(
        f"Cannot write to the run in {str(run_dir)!r} ({error}); free some space or fix the disk, "
        f"then continue with: {to_resume(run_dir, tasks)}"
    )


def _stopped(reason: SearchStopped) -> dict[str, Any]:
    """The facts of a run that a stop condition ended."""
    return {"status": "stopped", "stop_reason": str(reason)}


class _BestLossError(Exception):
    """`best.json` cannot be written."""
