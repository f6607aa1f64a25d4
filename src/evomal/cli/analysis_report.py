"""What a person sees of the analysis of a loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_POINTS = {
    ("null_epoch", "target"): "null epoch, target",
    ("null_epoch", "non_target"): "null epoch, others",
    ("zero_error", "target"): "zero error, target",
    ("zero_error", "non_target"): "zero error, others",
}
_SHORT = {"label smoothing": "smoothing"}


def analysis_report(fields: Mapping[str, Any]) -> Group:
    """The summary of a loss, its dual points next to those of well-known losses, and its card."""
    lines: list[RenderableType] = [Text(" ".join(fields["summary"])), Text()]
    if fields["classes"] is not None:
        lines += [dual_point_table(fields), Text(), *map(Text, dual_point_sentences(fields))]
        lines += [Text(), Text(_symbols(fields), style="dim"), Text()]
    return Group(*lines, *card_report(fields["card"]))


def _symbols(fields: Mapping[str, Any]) -> str:
    """A legend for the dual points."""
    comparison = fields["comparison"]
    variable = (
        "f is the predicted probability of an output and z its logit; δ = -∂L/∂f, or in logits "
        "-∂L/∂z,"
        if fields["with_respect_to"] == "f"
        else "z is the logit of an output and f its predicted probability; δ = -∂L/∂z"
    )
    return (
        f"{variable} is the pull of the loss on that output: up if positive, down if negative. "
        "Target: the output of the correct class. Null epoch: the start of training, with all f "
        "equal. Zero error: the limit f → 1 at the target and f → 0 elsewhere. Smoothing: label "
        f"smoothing with ξ = {comparison['smoothing']:g}; focal: the focal loss with γ = "
        f"{comparison['focusing']:g}. Distance: from this loss, 0 to 2, over the first four rows."
    )


def dual_point_table(fields: Mapping[str, Any]) -> Table:
    """δ of the loss and of the reference losses."""
    others = fields["comparison"]["losses"]
    variable = "f" if fields["with_respect_to"] == "f" else "z"
    table = Table(box=None, pad_edge=False)
    table.add_column(f"δ = -∂L/∂{variable}, {fields['classes']} classes")
    for name in ("this loss", *others):
        table.add_column(_SHORT.get(name, name), justify="right")
    for (point, output), title in _POINTS.items():
        cells = [value_text(row[point][output]) for row in (fields, *others.values())]
        table.add_row(title, *cells)
    if variable == "f":
        for (point, output), title in _POINTS.items():
            rows = (fields, *others.values())
            cells = [value_text(row["logits"][point][output]) for row in rows]
            table.add_row(f"{title}, in logits", *cells)
    table.add_row("distance", "", *(value_text(row["distance"]) for row in others.values()))
    return table


def dual_point_sentences(fields: Mapping[str, Any]) -> list[str]:
    """δ in closed form and the nearest reference loss, in words."""
    comparison = fields["comparison"]
    lines = []
    forms = fields["closed_form"]
    if forms["target"] or forms["non_target"]:
        written = [
            f"{title} {'-' if forms[key] is None else forms[key]['formula']}"
            for key, title in (("target", "target"), ("non_target", "others"))
        ]
        lines.append(f"δ in closed form: {'; '.join(written)}")
    lines.append(
        f"Nearest: {_nearest_text(comparison)}; same signs of δ: "
        f"{', '.join(comparison['same_signs']) or 'none'}."
    )
    return lines


def _nearest_text(comparison: Mapping[str, Any]) -> str:
    name = comparison["nearest"]
    if name is None:
        return "unknown"
    alike = comparison["losses"][name]["same_pressure"]
    return f"{name}" if alike else f"{name}, though it favours other outputs"


def card_report(card: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The properties as a table, followed by how they were computed."""
    table = Table(box=None, pad_edge=False)
    table.add_column("property", no_wrap=True)
    table.add_column("value")
    known: dict[str, list[str]] = {}
    for name, row in card.items():
        title, value = property_text(name), ""
        if name == "timing":
            title = "time"
            value = f"{row['ns_per_element']:g} ns per element, {row['relative']:g} × "
            value += str(row["relative_to"])
        else:
            value = value_text(row["value"])
        table.add_row(title, Text(value))
        known.setdefault(row["how"], []).append(title)
    yield table
    yield Text()
    for how, titles in known.items():
        yield Text(f"{', '.join(titles)}: {how}", style="dim")


def property_text(name: str) -> str:
    """The name of a property in words."""
    return name.replace("false_positive_", "FP / FN ").replace("_", " ")


def value_text(value: Any) -> str:
    """A value of the card as text: yes, no, a number, ranges, or several named values."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(key).replace('_', ' ')}: "
            + (f"({value_text(item)})" if isinstance(item, Mapping) else value_text(item))
            for key, item in value.items()
        )
    if isinstance(value, list):
        return " and ".join(f"{low:.4g} to {high:.4g}" for low, high in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
