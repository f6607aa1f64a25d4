"""Learning curves and test errors of several losses on one task (paper, A.11, A.12, figure 15).

Run: python examples/training_curves.py mnist/lenet5 --figure curves.png

For each seed, all losses start from the same initial weights and see the same batches, so test
errors can be compared in pairs, such as sparse label smoothing with label smoothing.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student_t
from torch import nn

import evomal
from evomal.losses.base import Loss
from evomal.losses.known import HANDCRAFTED_LOSSES
from evomal.losses.names import resolve_loss
from evomal.runs.execution import available_cores
from evomal.runs.executors import WorkError
from evomal.runs.processes import LocalProcesses
from evomal.seeding import derive_generator
from evomal.tasks.data import Data
from evomal.tasks.parts import Part
from evomal.training.comparison import Sample
from evomal.training.loop import performance, train
from evomal.training.numerics import DivergedError
from evomal.training.settings import EvaluationSettings
from evomal.training.tuning import Recipe
from evomal.training.workbench import Workbench

EXAMPLES = """\
examples:
  python examples/training_curves.py mnist/lenet5 --figure curves.png
  python examples/training_curves.py cifar10/alexnet --seeds 3 --steps 5000 --every 250 \\
      --losses label-smoothing:smoothing=0.4 sparse-label-smoothing:smoothing=0.4
"""
LOSS_HELP = (
    "the name of a known loss (`evomal losses`), a loss file, a run directory or an expression in "
    "quotes; a handcrafted loss takes parameters, as in absolute-cross-entropy:phi1=1.1"
)
LOSSES = (
    "cross-entropy",
    "label-smoothing",
    "absolute-cross-entropy",
    "absolute-cross-entropy:phi1=1.1",
    "sparse-label-smoothing",
)


@dataclass(frozen=True)
class Plan:
    """How long to train and what to measure the error on."""

    steps: int
    every: int
    test_rows: int
    train_rows: int

    @property
    def measured_at(self) -> list[int]:
        """Steps after which the errors are measured."""
        return [*range(0, self.steps, self.every), self.steps]


@dataclass(frozen=True)
class Curve:
    """Error rates of one training at `Plan.measured_at`, or up to where it diverged."""

    test: list[float]
    train: list[float]
    diverged: bool

    @property
    def final(self) -> float | None:
        """Test error at the end."""
        return None if self.diverged else self.test[-1]


def classification_task(name: str, device: str = "cpu") -> evomal.Task:
    """A built-in task, or an `InputError` if it is not a classification task."""
    task = evomal.load_task(name, device=device)
    if task.link != "softmax":
        raise evomal.InputError(
            f"The task {name!r} has link {task.link!r}, but these losses are for classes; choose a "
            "task with link 'softmax', such as mnist/lenet5."
        )
    return task


def named_loss(text: str, task: evomal.Task) -> Loss:
    """A loss given by the user, with parameters after a colon for handcrafted ones.

    Raises
    ------
    InputError
        If there is no such loss or parameter, or the loss does not match the task.
    """
    name, colon, settings = text.partition(":")
    if colon and name in HANDCRAFTED_LOSSES:
        cls = HANDCRAFTED_LOSSES[name]
        parameters: dict[str, Any] = {}
        for setting in settings.split(","):
            key, _, value = setting.partition("=")
            if key not in cls.setting_names:
                raise evomal.InputError(
                    f"The loss {name!r} has no parameter {key!r}; choose from "
                    f"{', '.join(cls.setting_names)}."
                )
            try:
                parameters[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError) as error:
                raise evomal.InputError(
                    f"The parameter {key!r} of {name!r} must be a number or True or False, got "
                    f"{value!r}."
                ) from error
        loss: Loss = cls(weight=task.form.weight, ignore_index=task.form.ignore_index, **parameters)
    else:
        loss = resolve_loss(text, task.form)
    task.require_fit(loss)
    return loss


def some_rows(data: Part, count: int, *stream: str) -> Data:
    """At most `count` rows, always the same ones; a copy, which is not augmented."""
    rows = derive_generator(*stream).permutation(len(data))[:count]
    rows.sort()
    return data.rows(torch.from_numpy(rows))


def learning_curve(bench: Workbench, loss_name: str, seed: int, plan: Plan) -> Curve:
    """One training."""
    (task,) = bench.tasks
    assert task.test is not None
    loss = named_loss(loss_name, task).to(task.device)
    parts = (
        some_rows(task.test, plan.test_rows, "curves", task.name, "test rows"),
        some_rows(task.train, plan.train_rows, "curves", task.name, "training rows"),
    )
    curve = Curve([], [], diverged=False)

    def measure(learner: nn.Module) -> None:
        errors = [performance(task, learner, part) for part in parts]
        for values, error in zip((curve.test, curve.train), errors, strict=True):
            values.append(error)

    try:
        train(
            task,
            loss,
            plan.steps,
            stream=(seed, "curves", task.name),
            meta_testing=True,
            observers=dict.fromkeys(plan.measured_at, measure),
        )
    except DivergedError:
        return Curve(curve.test, curve.train, diverged=True)
    return curve


def all_curves(
    task: evomal.Task, losses: Sequence[str], seeds: int, plan: Plan, workers: int
) -> dict[str, list[Curve]]:
    """The curves of every loss, one for each seed; progress goes to stderr."""
    jobs = [(name, seed) for seed in range(seeds) for name in losses]
    curves: dict[str, list[Curve]] = {name: [] for name in losses}
    processes = LocalProcesses([task], EvaluationSettings(), 0, min(workers, len(jobs)))
    try:
        futures = [processes.submit(learning_curve, *job, plan) for job in jobs]
        for (name, seed), future in zip(jobs, futures, strict=True):
            curve = future.result()
            curves[name].append(curve)
            outcome = "diverged" if curve.final is None else f"{100 * curve.final:.2f} %"
            sys.stderr.write(f"{name}, seed {seed}: test error {outcome}\n")
    finally:
        processes.close()
    return curves


def differences(curves: Sequence[Curve], reference: Sequence[Curve]) -> list[float] | None:
    """Final test errors minus the reference's of the same seeds; None if a training diverged."""
    finals = [(a.final, b.final) for a, b in zip(curves, reference, strict=True)]
    found = [a - b for a, b in finals if a is not None and b is not None]
    return found if len(found) == len(finals) else None


def signs(values: Sequence[float]) -> str:
    """Numbers of negative, zero and positive values."""
    counts = (sum(v < 0 for v in values), sum(v == 0 for v in values), sum(v > 0 for v in values))
    return " / ".join(map(str, counts))


def percent(values: Sequence[float], sign: str = "") -> str:
    """Mean and, with two values or more, sample standard deviation of rates, in percent."""
    mean = f"{100 * statistics.fmean(values):{sign}.2f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.2f}"


def print_table(curves: dict[str, list[Curve]], reference: str, seeds: int) -> None:
    """Final test error of every loss, and the paired differences to the reference."""
    width = max(map(len, curves)) + 2
    versus = f"minus {reference}"
    column = max(len(versus), 15) + 3
    print(f"{'loss':<{width}}{'test error, %':>17}{versus:>{column}}   lower / same / higher")
    for name, found in curves.items():
        finals = [curve.final for curve in found if curve.final is not None]
        lost = seeds - len(finals)
        cell = f"{lost} of {seeds} diverged" if lost else percent(finals)
        line = f"{name:<{width}}{cell:>17}"
        gaps = differences(found, curves[reference])
        if name != reference and gaps is not None:
            line += f"{percent(gaps, '+'):>{column}}{signs(gaps):>24}"
        print(line)


def caveats(task: evomal.Task, seeds: int) -> list[str]:
    """Notes on the table."""
    lines = [
        "A difference is between trainings with the same seed, so the same initial weights and "
        "batches; lower / same / higher counts seeds.",
        f"Every loss is trained at the task's learning rate, {task.learning_rate:g}, "
        "tuned for none of them.",
    ]
    if seeds == 1:
        return [*lines, "With one seed, a difference between losses can be due to chance."]
    factor = student_t.ppf(0.975, seeds - 1) / math.sqrt(seeds)
    return [
        f"± is the sample standard deviation over {seeds} seeds.",
        *lines,
        f"A mean difference of less than {factor:.2f} of its ± is not significant at the 5 % "
        f"level (paired t-test, {seeds} seeds, each loss by itself).",
    ]


def draw(curves: dict[str, list[Curve]], plan: Plan, sizes: Sequence[int], title: str) -> Any:
    """A matplotlib figure: mean test and training error by step, and the range of the seeds.

    On a logarithmic axis, where an error of 0 is drawn as half a row. Trainings that diverged are
    left out.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    steps = plan.measured_at
    for axis, part, count in zip(axes, ("test", "train"), sizes, strict=True):
        for place, (name, found) in enumerate(curves.items()):
            rows = [getattr(curve, part) for curve in found if not curve.diverged]
            if not rows:
                continue
            columns = [[100 * max(v, 0.5 / count) for v in at] for at in zip(*rows, strict=True)]
            lost = len(found) - len(rows)
            label = f"{name} ({lost} of {len(found)} diverged)" if lost else name
            style = ("-", "--", "-.", ":")[place % 4]  # curves often lie on top of each other
            (line,) = axis.plot(steps, list(map(statistics.fmean, columns)), style, label=label)
            low, high = list(map(min, columns)), list(map(max, columns))
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, lw=0)
        rows_of = "test rows" if part == "test" else "training rows"
        axis.set(xlabel="training step", yscale="log", title=f"error on {count} {rows_of}, %")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_tick_params(labelleft=True)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure


def as_json(
    task: evomal.Task, curves: dict[str, list[Curve]], plan: Plan, reference: str
) -> dict[str, Any]:
    """All numbers as JSON values; error rates from 0 to 1."""
    recipes = [Recipe(task.learning_rate, plan.steps)]
    return {
        "task": task.name,
        "steps": plan.measured_at,
        "reference": reference,
        "losses": {
            name: {
                "curves": [asdict(curve) for curve in found],
                "test_error": Sample([curve.final for curve in found], recipes).to_dict(),
                "difference": differences(found, curves[reference]),
            }
            for name, found in curves.items()
        },
    }


def at_least_one(text: str) -> int:
    """A whole number, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def require_writable(path: Path | None) -> None:
    """Raise an `InputError` if a file cannot be written."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise evomal.InputError(
            f"Cannot write to {str(path)!r}; choose a file in an existing folder."
        )


def require_figure(path: Path | None) -> None:
    """Raise an `InputError` if the requested figure cannot be drawn or written."""
    require_writable(path)
    if path is None:
        return
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise evomal.InputError(f"The figure {str(path)!r} must end in .png, .pdf or .svg.")
    if find_spec("matplotlib") is None:
        raise evomal.InputError('A figure needs matplotlib; pip install "evomal[bench]".')


def parsed_options() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, number = parser.add_argument, at_least_one
    add("task", help="name of a task with classes; `evomal tasks` lists them")
    add("--losses", nargs="+", metavar="LOSS", default=list(LOSSES), help=LOSS_HELP)
    add("--seeds", type=number, default=5, help="trainings per loss, with seeds 0, 1, … (5)")
    add("--steps", type=number, default=2000, help="training steps (2000)")
    add("--every", type=number, default=100, help="steps between two points of a curve (100)")
    add("--test-rows", type=number, default=sys.maxsize, help="rows of the test error (all)")
    add("--train-rows", type=number, default=2000, help="rows of the training error (2000)")
    add("--figure", type=Path, help="where to save the curves, as PNG, PDF or SVG")
    add("--json", type=Path, help="where to save all numbers")
    add("--workers", type=number, default=available_cores(), help="processes (one per core)")
    add("--device", default="cpu", help="where to train (cpu)")
    return parser.parse_args()


def report(options: argparse.Namespace) -> None:
    """Train, print and save."""
    require_writable(options.json)
    require_figure(options.figure)
    task = classification_task(options.task, options.device)
    assert task.test is not None
    losses = list(dict.fromkeys(options.losses))
    for name in losses:
        named_loss(name, task)
    reference = "label-smoothing" if "label-smoothing" in losses else losses[0]
    plan = Plan(options.steps, options.every, options.test_rows, options.train_rows)
    curves = all_curves(task, losses, options.seeds, plan, options.workers)
    sizes = min(plan.test_rows, len(task.test)), min(plan.train_rows, len(task.train))
    title = f"{task.name}, {plan.steps} steps, seeds: {options.seeds}"
    print(f"{title}, test rows: {sizes[0]}\n")
    print_table(curves, reference, options.seeds)
    print("", *caveats(task, options.seeds), sep="\n")
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(task, curves, plan, reference), indent=1))
    if options.figure is not None:
        draw(curves, plan, sizes, title).savefig(options.figure, dpi=120)


def main() -> int:
    """The exit status: 2 after bad input, 1 if a worker fails."""
    options = parsed_options()
    try:
        report(options)
    except (evomal.InputError, WorkError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2 if isinstance(error, evomal.InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
