"""Terminal output for runs and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evomal.errors import printable
from evomal.runs.diagnosis import nothing_learned
from evomal.runs.next_steps import to_check, to_train
from evomal.runs.record import RunFacts
from evomal.runs.run import BestLoss, Run
from evomal.tasks.registry import Origin

_LEADERS = 10
_DETAILS = (
    "formula",
    "python",
    "latex",
    "expression",
    "network",
    "nodes",
    "parameters",
    "value",
    "link",
    "phi",
)
_FAILURES = 3


def run_overview(run: Run) -> Group:
    """The tasks, leaderboard and outcome counts of a run."""
    facts = run.facts
    reason = f" ({facts.stop_reason})" if facts.stop_reason else ""
    lines: list[RenderableType] = [
        line(
            f"Run {run.run_dir}: {facts.method} on {', '.join(run.task_names)}, "
            f"seed {facts.seed}, {facts.status}{reason}"
            + ("" if facts.seconds is None else f" after {facts.seconds:.0f} s")
        ),
        line(
            f"{'Fitness' if facts.scale.better == 'lower' else 'The score'} is the validation "
            f"{facts.scale.names} after {facts.settings.fitness_steps} training steps"
            + (", mean over the tasks" if len(run.task_names) > 1 else "")
            + (", higher is better" if facts.scale.better == "higher" else "")
            + f"; the task loss itself {_score(run)}."
        ),
        *map(line, _recipes(facts)),
    ]
    if any(task.split == "published" for task in facts.tasks):
        lines.append(Text(PUBLISHED_WARNING))
    origins = [task.origin for task in facts.tasks]
    noise = {one.label_noise for one in origins if isinstance(one, Origin)}
    if any(noise):
        shares = " or ".join(f"{100 * share:g} %" for share in sorted(noise))
        lines.append(Text(f"{shares} of the training and validation labels were made wrong."))
    if run.hall_of_fame:
        lines += [Text(), leaderboard(run.hall_of_fame, facts.scale.title), Text()]
        if run.learned is False:
            lines.append(line(nothing_learned(to_check(facts.tasks))))
        if run.verdict is not None:
            lines += [confirmed(facts), Text(), *map(line, _best(run)), bold(run.verdict), Text()]
        elif run.learned is not False:
            if run.beats_task_loss is False:
                lines.append(Text(_verdict(run)))
            lines.append(line(_without_verdict(facts)))
    elif run.diagnosis is not None:
        lines.append(line(run.diagnosis))
    counts = ", ".join(f"{n} {status}" for status, n in run.archive.counts.items() if n) or "none"
    if run.distinct is not None and len(run.generations) > 1:
        counts += f"; {run.distinct:.1f} new losses trained per generation"
    lines += [line(_engine(facts)), line(f"Candidates: {counts}")]
    lines += [
        line(f"Candidate {outcome.candidate.number} failed: {outcome.reason}")
        for outcome in run.failures[:_FAILURES]
    ]
    return Group(*lines)


def _without_verdict(facts: RunFacts) -> str:
    """Why there is no verdict."""
    if facts.settings.confirm:
        return (
            "No verdict yet: when the search is continued to its end, the best losses are trained "
            "on fresh seeds, tuned like the task loss."
        )
    return (
        "No verdict: the fitness is that of one training each, at one learning rate. With "
        "--confirm 5, a search trains its best losses on fresh seeds, tuned like the task loss."
    )


def _recipes(facts: RunFacts) -> list[str]:
    """The tuned learning rate of every task."""
    return [
        f"Learning rate tuned with the task loss{_of(facts, task.name)}: "
        f"{recipe.learning_rate:.3g}, {recipe.factor:g} times the task's."
        for task, recipe in zip(facts.tasks, facts.recipes, strict=False)
    ]


def _of(facts: RunFacts, task: str) -> str:
    """Which task is meant, if there are several."""
    return f" of {task}" if len(facts.tasks) > 1 else ""


def confirmed(facts: RunFacts) -> Table:
    """The losses that were trained again, finalists first."""
    found, value = facts.confirmation, facts.scale.value
    assert found is not None
    rows = []
    for entry in found.entries:
        mean = format_number(value(entry.mean))
        recipes = entry.recipes or ()
        rows.append(
            [
                entry.name,
                format_number(value(entry.first)),
                mean if entry.error is None else f"{mean} ± {entry.error:.2g}",
                ", ".join(f"{recipe.learning_rate:.2g}" for recipe in recipes),
                ", ".join(str(recipe.steps) for recipe in recipes),
            ]
        )
    columns = ["confirmation", "first seed", "fresh seeds", "learning rate", "steps"]
    return simple_table(columns, rows)


def _best(run: Run) -> list[str]:
    """The winner of the confirmation, and how it was trained."""
    found = run.facts.confirmation
    assert found is not None
    if found.winner is None:
        return []
    best = run.best
    return [f"Best: {found.winner}, {best.formula or _shape(best)}"]


def bold(text: str) -> Text:
    """A line that stands out."""
    return Text(printable(text), style="bold")


def line(text: str) -> Text:
    """A text on one line, with control characters escaped."""
    return Text(printable(text))


def _score(run: Run) -> str:
    """The fitness of the task loss as a phrase."""
    if not run.facts.has_own_fitness:
        return "has not been trained yet"
    own = run.facts.scale.value(run.task_loss_fitness)
    return "diverges" if own is None else f"scores {format_number(own)}"


def _verdict(run: Run) -> str:
    """The message if the task loss is not beaten, with enough digits to tell the two apart."""
    scale = run.facts.scale
    best, own = run.best.value, scale.value(run.task_loss_fitness)
    assert own is not None
    if best == own:
        return (
            f"The best loss is no better than the task loss: both score {format_number(own)}. "
            "Choose a finer metric if it has few values; otherwise, search longer or with another "
            "seed."
        )
    digits = next(n for n in (4, 8, 17) if f"{best:.{n}g}" != f"{own:.{n}g}")
    return (
        f"The best loss is worse than the task loss: {best:.{digits}g} against {own:.{digits}g}, "
        f"and {scale.better} is better. Search longer or with another seed."
    )


def next_step(run: Run) -> str | None:
    """How to train with the best loss on the data of the search; None if it is not better."""
    if run.beats_task_loss is False:
        return None
    steps = None if run.verdict is None else run.facts.confirmation_steps
    return to_train(run.run_dir, run.facts.tasks, steps)


def _engine(facts: RunFacts) -> str:
    settings = facts.settings
    more = "" if settings.precision == "full" else f"; precision {settings.precision}"
    size = settings.group_size
    groups = f"in groups of {size or 'a generation'}"
    if size == 1:
        groups = "one candidate at a time"
    return f"Engine: {settings.engine}, {groups} ({facts.engine_reason}){more}"


PUBLISHED_WARNING = (
    "Split 'published': the test rows include training rows, so use these numbers only for "
    "comparison with the paper's Table 3."
)


def pareto_front(entries: Sequence[BestLoss]) -> list[BestLoss]:
    """The losses that are better than all smaller ones, best first."""
    front: list[BestLoss] = []
    for entry in sorted(entries, key=lambda entry: (entry.size, entry.fitness)):
        if not front or entry.fitness < front[0].fitness:
            front.insert(0, entry)
    return front


def leaderboard(entries: Sequence[BestLoss], title: str = "fitness") -> Table:
    """The best losses for their size, best first; the title is that of their values."""
    table = Table(box=None, pad_edge=False)
    table.add_column(line(title), justify="right")
    table.add_column(
        "nodes" if "nodes" in entries[0].description else "parameters", justify="right"
    )
    table.add_column("formula", overflow="fold")
    for entry in pareto_front(entries)[:_LEADERS]:
        table.add_row(
            format_number(entry.value), str(entry.size), line(entry.formula or _shape(entry))
        )
    return table


def _shape(entry: BestLoss) -> str:
    """A short name for a loss without a formula."""
    network = entry.description.get("network")
    return "-" if network is None else f"network {network}"


def loss_details(fields: Mapping[str, Any], title: str = "") -> Table:
    """The forms and weights of one loss; the title is that of its value in a run."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name in _DETAILS:
        value = fields.get(name)
        if value is not None:
            table.add_row(line(title) if name == "value" else name, line(_written(name, value)))
    return table


def _written(name: str, value: Any) -> str:
    if name == "phi":
        return ", ".join(f"{weight:.6g}" for weight in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{parameter} {of}" for parameter, of in value.items())
    return format_number(value) if name == "value" else str(value)


def simple_table(columns: list[str], rows: list[list[str]]) -> Table:
    """Rows of text under headings."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(line, row))
    return table


def format_number(value: float | None) -> str:
    """A metric with four significant digits; a dash for none."""
    return "-" if value is None else f"{value:.4g}"
