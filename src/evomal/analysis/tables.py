"""What a person sees in the terminal about runs and losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evomal.runs.next_steps import to_resume
from evomal.runs.run import BestLoss, Run
from evomal.training.meta_testing import Comparison, Sample

_LEADERS = 10
_FAILURES = 3


def run_overview(run: Run) -> Group:
    """Task, leaderboard and outcome counts of a run."""
    facts = run.facts
    reason = f" ({facts['stop_reason']})" if facts.get("stop_reason") else ""
    metrics = facts["metric"] if isinstance(facts["metric"], list) else [facts["metric"]]
    lines: list[RenderableType] = [
        Text(
            f"Run {run.run_dir}: {facts['method']} on {', '.join(run.task_names)}, "
            f"seed {facts['seed']}, {facts['status']}{reason}"
            + (f" after {facts['seconds']:.0f} s" if "seconds" in facts else "")
        ),
        Text(
            f"Fitness is the validation {' and '.join(metrics).replace('_', ' ')} after "
            f"{facts['settings']['testing_steps']} training steps"
            + (", mean over the tasks" if len(run.task_names) > 1 else "")
            + f"; the task loss itself scores {number(run.task_loss_fitness)}."
        ),
    ]
    if "published" in facts["split"]:
        lines.append(Text(PUBLISHED_WARNING))
    if run.hall_of_fame:
        lines += [Text(), leaderboard(run.hall_of_fame), Text()]
    elif run.diagnosis is not None:
        lines.append(Text(run.diagnosis))
    counts = ", ".join(f"{count} {status}" for status, count in run.archive.counts.items())
    lines += [Text(_engine(facts["settings"])), Text(f"Candidates: {counts}")]
    lines += [
        Text(f"Candidate {outcome.candidate.number} failed: {outcome.reason}")
        for outcome in run.failures[:_FAILURES]
    ]
    if facts["status"] not in ("finished", "running"):
        onwards = f"To go on: {to_resume(run.run_dir, run.record.facts.tasks)}"
        lines.append(Text(onwards, no_wrap=True, overflow="ignore"))  # to be pasted
    return Group(*lines)


def _engine(settings: Mapping[str, Any]) -> str:
    precision = settings.get("precision", "full")
    more = "" if precision == "full" else f"; precision {precision}"
    if settings["engine"] == "loop":
        return f"Engine: loop, one candidate after the other{more}"
    size = settings["group_size"]
    return f"Engine: {settings['engine']}, in groups of {size or 'a generation'}{more}"


PUBLISHED_WARNING = (
    "Split 'published': the test rows include those trained on, so these numbers are only for "
    "comparison with the paper's Table 3."
)


def leaderboard(entries: list[BestLoss]) -> Table:
    """The best losses of different size, best first."""
    table = Table(box=None, pad_edge=False)
    table.add_column("fitness", justify="right")
    table.add_column("nodes", justify="right")
    table.add_column("formula", overflow="fold")
    for entry in sorted(entries, key=lambda entry: (entry.fitness, entry.nodes))[:_LEADERS]:
        table.add_row(number(entry.fitness), str(entry.nodes), Text(entry.formula or "-"))
    return table


def loss_details(fields: Mapping[str, Any]) -> Table:
    """One loss: its forms and weights."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    names = ("formula", "python", "latex", "expression", "nodes", "fitness", "link", "weights")
    for name in names:
        value = fields.get(name)
        if name == "weights" and value is not None:
            value = ", ".join(f"{weight:.6g}" for weight in value)
        if value is not None:
            table.add_row(name, Text(number(value) if name == "fitness" else str(value)))
    return table


def comparison_report(comparison: Comparison, metric: str, split: str) -> Group:
    """Test metrics of a learned loss and the task loss over seeds, with what to mind."""
    lines: list[RenderableType] = [_comparison_table(comparison, metric)]
    if split == "published":
        lines.append(Text(PUBLISHED_WARNING))
    if comparison.task_loss_tuned is None:
        lines.append(
            Text(
                "A learned loss may act as no more than another learning rate; --tune-baseline "
                "adds the task loss with a tuned one."
            )
        )
    return Group(*lines)


def _comparison_table(comparison: Comparison, metric: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(f"test {metric.replace('_', ' ')}")
    table.add_column("learning rate", justify="right")
    table.add_column("mean", justify="right")
    table.add_column("sd", justify="right")
    table.add_column("per seed", overflow="fold")
    rows: list[tuple[str, Sample | None]] = [
        ("learned loss", comparison.learned),
        ("task loss", comparison.task_loss),
        ("task loss, tuned", comparison.task_loss_tuned),
    ]
    for name, sample in rows:
        if sample is not None:
            table.add_row(
                name,
                f"{sample.learning_rate:g}",
                number(sample.mean),
                number(sample.std),
                " ".join(number(value) for value in sample.values),
            )
    return table


def simple_table(columns: list[str], rows: list[list[str]]) -> Table:
    """Rows of text under headings."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def number(value: float | None) -> str:
    """A metric with four significant digits; a dash for none."""
    return "-" if value is None else f"{value:.4g}"
