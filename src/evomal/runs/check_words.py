"""The sentences of a check; pure functions of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from evomal.tasks.classes import held_classes
from evomal.tasks.direction import own_value
from evomal.tasks.functions import function_name
from evomal.tasks.lazy import LazyData
from evomal.tasks.sanity.yardsticks import Yardsticks
from evomal.tasks.task import Task
from evomal.training.learning import Learning
from evomal.training.trial import few_rows

Judgement = tuple[Literal["ok", "warning", "problem"], str]
"""The level and the text of a finding; no text if there is nothing to say."""

_GAIN = 0.05
"""Of the way from constant to perfect predictions: the least that a learning rate must gain."""


def about_data(task: Task) -> str:
    """Rows, shapes and types of the data."""
    parts = {"training": task.train, "validation": task.validation, "test": task.test}
    rows = [f"{len(data):,} {part}" for part, data in parts.items() if data is not None]
    batch, lazy = few_rows(task, task.train), _is_read_lazily(task)
    missing = "" if task.test is not None else " Without test rows, no loss can be compared later."
    known = "read batch by batch" if lazy else "all numbers finite"
    return (
        f"{', '.join(rows)} rows, {known}. The model gets {_shapes(batch.inputs)}, losses get "
        f"targets {_shapes(batch.targets)}.{missing}"
    )


def about_shared_rows(task: Task) -> str:
    """That no rows are in two splits, if nothing else was found."""
    if _is_read_lazily(task):
        return "Not looked for, because the rows are read batch by batch."
    return "No sign of rows that are in two splits."


def _is_read_lazily(task: Task) -> bool:
    """Whether the rows of a split are not in memory."""
    return any(isinstance(part, LazyData) for part in (task.train, task.validation, task.test))


def _shapes(values: Any) -> str:
    """The shape of a row and the type, of a tensor or of each in a tuple or dict."""
    if isinstance(values, Tensor):
        kind = str(values.dtype).removeprefix("torch.")
        return f"{kind} {tuple(values.shape[1:])}" if values.ndim > 1 else kind
    if isinstance(values, Mapping):
        return ", ".join(f"{name} {_shapes(value)}" for name, value in values.items())
    return ", ".join(map(_shapes, values))


def about_training_rows(task: Task) -> str:
    """The number of classes, and the rarest and most frequent ones; "" for regression."""
    classes = held_classes(task.train.targets, task.form)
    if classes is None:
        return ""
    counts = classes[classes >= 0].bincount()
    counts = counts[counts > 0]
    sampled = len(classes) < len(task.train)
    among = f" of {len(classes):,} sampled" if sampled else ""
    if task.link == "sigmoid" and task.train.targets.ndim == 2 and classes.shape[1] > 1:
        return f"{classes.shape[1]} labels; the rarest value has {int(counts.min()):,}{among} rows."
    rows = "rows" if task.train.targets.ndim == 1 or task.link == "sigmoid" else "targets"
    span = " to ".join(f"{count:,}" for count in sorted({int(counts.min()), int(counts.max())}))
    others = "" if sampled else "; those of the other splits are among them"
    return f"{len(counts)} classes with {span}{among} training {rows}{others}."


def about_model(name: str, parameters: int, shape: tuple[int, ...]) -> str:
    """The model's size and outputs."""
    return f"{name} with {parameters:,} trainable parameters; outputs {shape}."


def about_metric(task: Task, bars: Yardsticks, untrained: float | None) -> Judgement:
    """Whether the metric tells good predictions from bad ones."""
    metric = task.performance_metric
    better = "higher" if metric.maximize else "lower"
    values = {
        "perfect predictions": bars.perfect,
        "the best constant prediction": bars.constant,
        "the untrained model": untrained,
    }
    known = {who: value for who, value in values.items() if value is not None}
    listed = [f"{_shown(task, value)} for {who}" for who, value in known.items()]
    name = metric.label
    start = f"{name[:1].upper()}{name[1:]}, {better} is better"
    text = f"{start}: {', '.join(listed)}." if listed else f"{start}."
    others = [value for value in (bars.constant, untrained) if value is not None]
    if bars.perfect is None or not others or bars.perfect < min(others):
        return "ok", text
    return "problem", (
        f"{text} Perfect predictions must be best: correct the metric"
        + ("." if metric.maximize else ", or pass maximize=True if higher is better.")
    )


def about_learning(task: Task, found: Learning, bars: Yardsticks, asked: int) -> Judgement:
    """Whether the task loss learns with this recipe in S_testing steps."""
    if not found.steps:
        return "ok", f"Not tried: a training step takes about {duration(found.step_seconds)} here."
    metric, rate = task.performance_metric.label, f"at the learning rate {task.learning_rate:g}"
    name, steps, more = function_name(task.task_loss), f"in {found.steps:,} steps", ""
    if found.steps < asked:
        steps += f" (there was no time for all {asked:,})"
        more = " More time may help: raise --seconds."
    if found.value is None:
        remedy = "Lower it, or standardise the inputs and the targets."
        if found.best_factor is not None:
            best = found.best_factor * task.learning_rate
            remedy = f"Try {best:g}, the best lower one after {found.trial_steps:,} steps."
        return "problem", f"The task loss {name} diverges {rate} {steps}. {remedy}"
    values = f"{_shown(task, found.untrained)} to {_shown(task, found.value)}"
    text = f"The task loss {name} takes the {metric} from {values} {steps}"
    if found.untrained is not None and found.value >= found.untrained:
        return "warning" if more else "problem", (
            f"{text}: nothing is learned {rate}, so that no loss can be told from another. Change "
            "the learning rate, train longer (testing_steps), or look whether the inputs and "
            f"targets of a row belong together.{more}"
        )
    if bars.constant is not None and found.value >= bars.constant:
        return "warning", (
            f"{text}, no better than the best constant prediction. Losses will hardly differ: "
            f"train longer (testing_steps), or change the learning rate.{more}"
        )
    return "ok", f"{text}."


def about_rates(
    task: Task, found: Learning, bars: Yardsticks, asked: int, *, tunes: bool
) -> Judgement:
    """Whether another learning rate does clearly better; `tunes`: whether the search tunes it."""
    best = found.best_factor
    if best is None:
        untried = found.steps > 0 and not found.values
        return "ok", "There was no time to compare it with others." if untried else ""
    own, other = found.values[1.0], found.values[best]
    assert other is not None
    if found.steps and found.value is None:
        return "ok", ""  # `about_learning` has said it
    tried = [f"{factor * task.learning_rate:g}" for factor in found.values]
    steps = f"after {found.trial_steps:,} steps"
    if found.untrained is not None and other >= found.untrained:
        return "ok", f"None of {', '.join(tried)} learns anything {steps}."
    scale = abs((bars.constant or 0.0) - (bars.perfect or 0.0)) or abs(own or 1.0)
    if best == 1 or (own is not None and own - other < _GAIN * scale):
        return "ok", (f"{task.learning_rate:g} is as good as any of {', '.join(tried)} {steps}.")
    better = (
        f"{best * task.learning_rate:g} does better than {task.learning_rate:g} {steps}: "
        f"{task.performance_metric.label} {_shown(task, other)} against "
        f"{'divergence' if own is None else _shown(task, own)} (tried: {', '.join(tried)})."
    )
    if tunes:
        return "ok", f"{better} The search tunes it first."
    return "warning", (
        f"{better} A learned loss may then merely act as a different learning rate; set it in the "
        "optimizer first, or set tune_recipe."
    )


def about_time(step: float, candidate: float, searches: Mapping[str, float] | None = None) -> str:
    """How long a candidate and whole searches take."""
    if searches is None:
        return (
            f"A training step takes about {duration(step)} here, and the training of one "
            f"candidate about {duration(candidate)}; use a GPU, a smaller model, or fewer "
            "testing_steps. The engine was not tried for the same reason."
        )
    whole = [f"{duration(seconds)} with the preset {name}" for name, seconds in searches.items()]
    return (
        f"About {duration(candidate)} for a candidate that passes all filters; a search takes "
        f"about {' or '.join(whole)} on this machine, if half of the candidates pass."
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them, with two digits."""
    for unit, size in {"d": 86_400, "h": 3600, "min": 60}.items():
        if seconds >= 2 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{float(f'{seconds:.2g}'):g} s"


def _shown(task: Task, value: float | None) -> str:
    """A minimised metric as people read it."""
    if value is None:
        return "unknown"
    own = own_value(value, task.performance_metric.direction)
    return f"{own:.3g}"
