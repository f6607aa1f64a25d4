"""The output of `evomal train`: test metrics by loss, and differences to the task loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evomal.cli.tables import PUBLISHED_WARNING, format_number, line
from evomal.training.comparison import Comparison, Sample
from evomal.training.meta_testing import TrainingDone
from evomal.training.paired import PairedDifference

_NAMES = {"learned": "learned loss", "task_loss": "task loss"}
_ENOUGH = 6
"""Observations from which on Wilcoxon's p-value can be below 0.05."""


def training_line(done: TrainingDone, splits: int) -> str:
    """One training that ended, and what remains."""
    split = f", split {done.split}" if splits > 1 else ""
    part = "" if done.part == "test" else f", validation at learning rate {done.learning_rate:g}"
    return (
        f"{_name(done.loss)}{part}{split}, seed {done.seed}: {_value(done.value)} "
        f"({done.done} of {done.total})"
    )


def comparison_report(comparison: Comparison, split: str) -> Group:
    """Test metrics of all losses, differences in pairs, and caveats."""
    lines: list[RenderableType] = []
    for one in (comparison, *comparison.reported):
        lines += [_values(one), Text(), _differences(one), Text()]
    lines += map(line, _caveats(comparison, split))
    return Group(*lines)


def _values(comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    direction = " (higher is better)" if comparison.metric.maximize else ""
    table.add_column(line(f"test {comparison.metric.label}{direction}"), overflow="fold")
    for title in ("learning rate", "steps", "mean", "sd"):
        table.add_column(title, justify="right")
    table.add_column("per seed", overflow="fold")
    for name, sample in comparison.samples.items():
        _add_values(table, _name(name), sample)
        if comparison.tuned is not None:
            _add_values(table, f"{_name(name)}, tuned", comparison.tuned.samples[name])
    return table


def _add_values(table: Table, name: str, sample: Sample) -> None:
    table.add_row(
        line(name + _lost(sample.diverged, len(sample.values))),
        _each("-" if one is None else f"{one.learning_rate:g}" for one in sample.recipes),
        _each("-" if one is None else str(one.steps) for one in sample.recipes),
        format_number(sample.mean),
        format_number(sample.std),
        " ".join(map(_value, sample.values)),
    )


def _differences(comparison: Comparison) -> Table:
    """Differences to the task loss, of tuned losses if there are any."""
    shown = comparison.tuned or comparison
    alike = ",\nboth tuned" if comparison.tuned is not None else ""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"minus the task loss{alike}", overflow="fold")
    table.add_column("mean", justify="right")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("better/equal\n/worse", justify="right")
    table.add_column("p of\nt-test", justify="right")
    table.add_column("p of\nWilcoxon", justify="right")
    for name, found in shown.differences.items():
        pairs = found.wins + found.ties + found.losses
        table.add_row(
            line(_name(name) + _lost(found.left_out, pairs)),
            _short(found.difference),
            _interval(found),
            f"{found.wins}/{found.ties}/{found.losses}",
            _short(found.t_test),
            _short(found.wilcoxon),
        )
    return table


def _caveats(comparison: Comparison, split: str) -> list[str]:
    found = comparison.differences["learned"]
    splits = len(comparison.learned.recipes)
    units = splits if splits > 1 else len(comparison.learned.values)
    lines = [f"Differences {_better(comparison)} 0 are better; {_basis(found, units)}"]
    if 2 <= units < _ENOUGH:
        lines.append(f"With {units} {found.unit}s, Wilcoxon's p is never below {2 / 2**units:.2g}.")
    if splits > 1:
        lines.append(
            "A search uses split 0: in the other splits, test rows can be rows that it has seen."
        )
    if split == "published":
        lines.append(PUBLISHED_WARNING)
    if comparison.tuned is None:
        lines.append(
            "A learned loss may only act as a different learning rate; --tune learning-rate,steps "
            "tunes all losses alike on validation data."
        )
    return lines


def _better(comparison: Comparison) -> str:
    return "above" if comparison.metric.maximize else "below"


def _basis(found: PairedDifference, units: int) -> str:
    if units == 1:
        return "one seed gives no interval, several do (--seeds 5)."
    what = "pairs of equal seeds" if found.unit == "seed" else "means, one per split"
    return f"interval and p-values are over {units} {what}."


def _lost(count: int, of: int) -> str:
    return f" ({count} of {of} diverged)" if count else ""


def _interval(found: PairedDifference) -> str:
    if found.interval is None:
        return "-"
    return f"[{', '.join(map(_short, found.interval))}]"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _each(texts: Iterable[str]) -> str:
    """One text per split; only one if all are equal."""
    listed: Sequence[str] = list(texts)
    return listed[0] if len(set(listed)) == 1 else " ".join(listed)


def _name(loss: str) -> str:
    return _NAMES.get(loss, loss)


def _value(value: float | None) -> str:
    return "diverged" if value is None else format_number(value)
