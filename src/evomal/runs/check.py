"""Check a task before hours are spent on a search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from evomal.errors import InputError
from evomal.methods.registry import METHODS, choose_preset
from evomal.methods.settings import SearchSettings
from evomal.runs.check_words import (
    about_data,
    about_learning,
    about_metric,
    about_model,
    about_rates,
    about_shared_rows,
    about_time,
    about_training_rows,
)
from evomal.runs.pace import Pace, measured_pace
from evomal.seeding import kept_rng
from evomal.tasks.arguments import positive
from evomal.tasks.direction import Direction
from evomal.tasks.sanity.suspicions import few_outputs
from evomal.tasks.sanity.yardsticks import Yardsticks, yardsticks
from evomal.tasks.task import Task
from evomal.tasks.task_arguments import require_task
from evomal.training.engines.choice import with_engine
from evomal.training.horizon import with_steps
from evomal.training.learning import Learning, learning
from evomal.training.support import require_trainable

Level = Literal["ok", "warning", "problem"]
"""A problem makes a search useless; a warning is a likely mistake."""

_ENGINE_STEPS = 25
"""Training steps that take about as long as finding out which engines a network supports."""


@dataclass(frozen=True)
class Finding:
    """What was found about one topic.

    Attributes
    ----------
    level
        *ok*, *warning* or *problem*.
    topic
        What was looked at.
    message
        What was seen and, unless it is ok, what it means and what to do.
    """

    level: Level
    topic: str
    message: str


@dataclass(frozen=True)
class Check:
    """The result of `check_task`; printed, it is one line for each finding.

    Attributes
    ----------
    task
        Name of the task.
    metric, direction
        Name and direction of its metric.
    findings
        What was found, in the order of the checks.
    yardsticks
        The metric of perfect and of constant predictions.
    learning
        Short trainings with the task loss; None if the base learner cannot be trained.
    engine, engine_reason
        The engine of a search, and why; None if unknown.
    seconds
        Expected seconds by stage of a candidate of the method's standard settings, and of a whole
        search by preset; empty if unknown.
    """

    task: str
    metric: str
    direction: Direction
    findings: tuple[Finding, ...]
    yardsticks: Yardsticks
    learning: Learning | None
    engine: str | None
    engine_reason: str | None
    seconds: Mapping[str, Any]

    @property
    def worst(self) -> Level:
        """The worst level of all findings."""
        levels = get_args(Level)
        return max((one.level for one in self.findings), key=levels.index)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; those of the metric are fitnesses: negated if it is maximised."""
        own = self.learning
        learned = None if own is None else asdict(own) | {"values": list(own.values.items())}
        return {
            "task": self.task,
            "metric": self.metric,
            "direction": self.direction,
            "worst": self.worst,
            "findings": [asdict(finding) for finding in self.findings],
            "yardsticks": self.yardsticks._asdict(),
            "learning": learned,
            "engine": self.engine,
            "engine_reason": self.engine_reason,
            "seconds": dict(self.seconds),
        }

    def __str__(self) -> str:
        return "\n".join(f"{one.level:<8} {one.topic}: {one.message}" for one in self.findings)


def check_task(
    task: Task, *, method: str = "evomal", preset: str = "standard", seconds: float = 10.0
) -> Check:
    """Check a task before a search: data, metric, learning, engine and time.

    The task loss is trained for S_testing steps and, for fewer, at other learning rates.

    Parameters
    ----------
    task
        The task.
    method, preset
        The search to prepare.
    seconds
        About how long the short trainings may take; the rest takes a few seconds.

    Raises
    ------
    InputError
        If there is no such method or preset.
    """
    require_task(task)
    seconds = positive(seconds, "number of seconds")
    settings = choose_preset(method, preset)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with kept_rng():
            return _Checking(task, method, settings, seconds).check()
    finally:
        torch.set_num_threads(threads)


class _Checking:
    """A check in progress: later findings use the results of earlier ones."""

    def __init__(self, task: Task, method: str, settings: SearchSettings, seconds: float) -> None:
        self.task = task
        self.method = method
        self.settings = settings
        self.seconds = seconds
        learner = task.new_model(seed=0)
        self.pred = few_outputs(task, learner).detach()
        self.parameters = sum(p.numel() for p in learner.parameters() if p.requires_grad)
        self.model_name = type(learner).__name__
        self.bars = yardsticks(task, self.pred)
        self.learning: Learning | None = None
        self.engine: tuple[str, str] | None = None
        self.times: dict[str, Any] = {}

    def check(self) -> Check:
        findings = (*self._cheap(), *self._trained())
        engine, reason = self.engine or (None, None)
        metric = self.task.performance_metric
        return Check(
            self.task.name,
            metric.name,
            metric.direction,
            findings,
            self.bars,
            self.learning,
            engine,
            reason,
            self.times,
        )

    def _cheap(self) -> Iterator[Finding]:
        """What is known without training; suspicions in place of what would be fine."""
        task = self.task
        shape = tuple(self.pred.shape[1:])
        fine = {
            "data": about_data(task),
            "scale": "Inputs and targets are near unit scale where the model needs it.",
            "classes": about_training_rows(task),
            "shared rows": about_shared_rows(task),
            "model": about_model(self.model_name, self.parameters, shape),
        }
        for topic, text in fine.items():
            doubts = [one.message for one in task.suspicions if one.topic == topic]
            if topic == "shared rows" and task.split == "published":
                doubts = [
                    "The test rows of the split 'published' include training rows; use its "
                    "results only for comparison with the paper's Table 3."
                ]
            if not doubts and text:
                yield Finding("ok", topic, text)
            yield from (Finding("warning", topic, doubt) for doubt in doubts)

    def _trained(self) -> Iterator[Finding]:
        task = self.task
        try:
            require_trainable(task, base_steps=None)
        except InputError as error:
            yield Finding("problem", "learning", str(error))
            return
        self.settings = with_steps(self.settings, [task])
        found = self.learning = learning(task, self.settings.fitness_steps, self.seconds)
        yield from self._about_metric(found)
        asked = self.settings.fitness_steps
        tunes = self.settings.tune_recipe
        for topic, (level, text) in {
            "learning": about_learning(task, found, self.bars, asked),
            "learning rate": about_rates(task, found, self.bars, asked, tunes=tunes),
        }.items():
            if text:
                yield Finding(level, topic, text)
        yield from self._about_engine(found)

    def _about_metric(self, found: Learning) -> Iterator[Finding]:
        doubts = [one.message for one in self.task.suspicions if one.topic == "metric"]
        level, text = about_metric(self.task, self.bars, found.untrained)
        if level == "problem" and doubts:
            yield Finding("problem", "metric", doubts[0])
            return
        yield Finding(level, "metric", text)
        yield from (Finding("warning", "metric", doubt) for doubt in doubts)

    def _about_engine(self, found: Learning) -> Iterator[Finding]:
        task, tunes = self.task, METHODS[self.method].pipeline.tune
        if _ENGINE_STEPS * found.step_seconds > self.seconds:
            whole = found.step_seconds * self.settings.fitness_steps
            yield Finding("warning", "time", about_time(found.step_seconds, whole))
            return
        try:
            choice = with_engine(self.settings, [task], tunes=tunes)
        except InputError as error:
            yield Finding("problem", "engine", str(error))
            return
        self.engine = choice.settings.engine, choice.reason
        yield Finding("ok", "engine", f"{choice.settings.engine} ({choice.reason}).")
        pace = measured_pace(task, self.method, choice.settings, found.step_seconds)
        yield self._about_time(pace)

    def _about_time(self, pace: Pace) -> Finding:
        searches = {
            preset: pace.search(self.task, self.method, with_steps(settings, [self.task]))
            for preset, settings in METHODS[self.method].presets.items()
        }
        one = pace.candidate(self.task, self.settings)
        self.times = {"candidate": asdict(one), "search": searches}
        return Finding("ok", "time", about_time(pace.training_step, one.total, searches))
