"""Whether an engine keeps the contract of `evomal.training.engines.base.Engine`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from evomal.losses.meta import MetaLoss
from evomal.losses.neural import NeuralLoss
from evomal.losses.symbolic import SymbolicLoss
from evomal.losses.taylor import TaylorLoss
from evomal.tasks.task import Task
from evomal.testing.expectations import (
    expect,
    expect_close,
    expect_equal,
    generators_untouched,
)
from evomal.testing.small_tasks import small_task
from evomal.training.engines.base import Engine, Training
from evomal.training.engines.loop import LoopEngine
from evomal.training.numerics import DivergedError
from evomal.training.settings import EvaluationSettings
from evomal.training.workbench import Workbench

_TEXTS = ["square(sub(y, f))", "mul(tanh(sub(y, f)), sub(square(f), y))", "mul(y, abs(log(f)))"]
_LARGE = "square(" * 9 + "add(f, add(1, add(1, add(1, y))))" + ")" * 9
_SETTINGS = EvaluationSettings(meta_steps=4, testing_steps=12)
_SEED = 5


def check_engine(engine_type: type[Engine], tasks: Sequence[Task] | None = None) -> None:
    """Check that an engine tunes and trains as the plain loop does, up to rounding.

    Parameters
    ----------
    engine_type
        The class.
    tasks
        Two tasks or more of one link, of double precision, and with a metric that tells small
        differences; default tiny ones of regression, and then of classes.

    Raises
    ------
    AssertionError
        If it does not; the message says what is expected, and what was seen.

    Examples
    --------
    >>> from evomal.training.engines.batched import BatchedEngine
    >>> check_engine(BatchedEngine)
    """
    _check_class(engine_type)
    given = [[small_task(link), small_task(link, "other")] for link in ("identity", "softmax")]
    for group in given if tasks is None else [list(tasks)]:
        problems = [engine_type.problem(task) for task in group]
        for problem in problems:
            text = problem is None or (type(problem) is str and problem != "")
            expect(text, f"{engine_type.name}.problem must be a text or None, not {problem!r}.")
        found = [problem for problem in problems if problem is not None]
        expect(not found, f"{engine_type.name} must suit the tasks that it is checked on: {found}.")
        losses = _losses(group[0])
        _check_tuning(engine_type, group, losses)
        _check_training(engine_type, group, losses)


def _losses(task: Task) -> list[MetaLoss]:
    """Of every kind, in double precision; the second one diverges at once."""
    form = task.form
    symbolic = [SymbolicLoss.of_form(text, form) for text in _TEXTS]
    large = SymbolicLoss.of_form(_LARGE, form)
    others: list[MetaLoss] = [NeuralLoss.of_form(form, hidden=(4,)), TaylorLoss.of_form(form)]
    return [loss.double() for loss in (symbolic[0], large, *symbolic[1:], *others)]


def _check_class(engine_type: type[Engine]) -> None:
    name = engine_type.name
    expect(isinstance(name, str), f"The name of an engine must be a text, not {name!r}.")
    for attribute in ("tunes_in_groups", "trains_together"):
        value = getattr(engine_type, attribute)
        expect(type(value) is bool, f"{name}.{attribute} must be True or False, not {value!r}.")
    for count in (0, 1, 7, 25):
        for size in (None, 1, 4):
            sizes = engine_type.group_sizes(count, size)
            what = f"{name}.group_sizes({count}, {size})"
            expect_equal(sum(sizes), count, f"The sum of {what}")
            fits = all(1 <= one <= (size or count) for one in sizes)
            expect(fits, f"{what} must be of 1 to {size or count} losses each, not {sizes}.")


def _engines(engine_type: type[Engine], tasks: Sequence[Task]) -> tuple[Engine, Engine]:
    """The engine, and the plain loop; each at a bench of its own."""
    return engine_type(Workbench(tasks, _SETTINGS, _SEED)), LoopEngine(
        Workbench(tasks, _SETTINGS, _SEED)
    )


def _check_tuning(
    engine_type: type[Engine], tasks: Sequence[Task], losses: Sequence[MetaLoss]
) -> None:
    name = engine_type.name
    engine, loop = _engines(engine_type, tasks)
    before = [loss.phi.clone() for loss in losses]
    with generators_untouched(f"The engine {name}"):
        found = engine.tune(losses)
    expected = loop.tune(losses)
    unchanged = all(map(torch.equal, (loss.phi for loss in losses), before))
    expect(unchanged, f"{name}.tune must leave the losses as they are.")
    expect_equal(len(found), len(losses), f"The results of {name}.tune")
    for loss, ours, theirs in zip(losses, found, expected, strict=True):
        what = f"φ that {name} tunes for {loss.structure[:60]}, as by the plain loop,"
        if isinstance(theirs, DivergedError):
            diverged = isinstance(ours, DivergedError)
            expect(diverged, f"{what} must be a DivergedError, but is {ours!r}.")
        else:
            expect(isinstance(ours, Tensor), f"{what} must be a tensor, but is {ours!r}.")
            assert isinstance(ours, Tensor)
            expect_close(ours, theirs, what, 1e-9, 1e-9)
    (alone,) = engine.tune(losses[:1])
    assert isinstance(alone, Tensor)
    assert isinstance(expected[0], Tensor)
    expect_close(alone, expected[0], f"φ of a loss that {name} tunes alone", 1e-9, 1e-9)


def _check_training(
    engine_type: type[Engine], tasks: Sequence[Task], losses: Sequence[MetaLoss]
) -> None:
    """To the end, and judged at rungs so that some stop at the first, and some at the second."""
    engine, loop = _engines(engine_type, tasks)
    last = len(tasks) - 1
    given = [None, *losses]
    _check_curves(engine, given, loop.train(given, last), engine.train(given, last))
    none = (math.inf, math.inf)
    whole = loop.train(given, last, none)
    finite = [one.curve for one in whole if math.isfinite(sum(one.curve))]
    between = _middle([curve[0] for curve in finite]), _middle([curve[1] for curve in finite])
    _check_curves(engine, given, whole, engine.train(given, last, none))
    lengths = {len(curve) for curve in finite}
    for bars in (between, (math.inf, between[1])):
        ours, theirs = engine.train(given, last, bars), loop.train(given, last, bars)
        _check_curves(engine, given, theirs, ours)
        lengths |= {len(training.curve) for training in theirs}
    expect_equal(lengths, {1, 2, 3}, "The lengths of curves on tasks that tell losses apart")


def _middle(values: Sequence[float]) -> float:
    """Half-way between two of the values, so that rounding does not decide."""
    ordered = sorted(values)
    gaps = [(high - low, (low + high) / 2) for low, high in pairwise(ordered)]
    return max(gaps)[1]


def _check_curves(
    engine: Engine,
    losses: Sequence[MetaLoss | None],
    expected: Sequence[Training],
    found: Sequence[Training],
) -> None:
    expect_equal(len(found), len(losses), f"The results of {engine.name}.train")
    for loss, ours, theirs in zip(losses, found, expected, strict=True):
        of = "the task loss" if loss is None else loss.structure[:60]
        what = f"L_P of a training by {engine.name} under {of}, as by the plain loop,"
        expect_close(_curve(ours), _curve(theirs), what, 1e-12, 1e-9)


def _curve(training: Training) -> Tensor:
    return torch.tensor(training.curve, dtype=torch.float64)
