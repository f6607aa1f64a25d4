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
    """The dual points beside those of well-known losses, and the loss card."""
    lines: list[RenderableType] = []
    if fields["classes"] is not None:
        lines += [dual_point_table(fields), *map(Text, dual_point_sentences(fields)), Text()]
    return Group(*lines, card_table(fields["card"]))


def dual_point_table(fields: Mapping[str, Any]) -> Table:
    """δ of the loss and of those that it is compared with."""
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
    """What the numbers mean."""
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
        f"Smoothing has ξ = {comparison['smoothing']:g}, focal γ = {comparison['focusing']:g}. "
        f"Nearest: {_nearest_text(comparison)}; same signs: "
        f"{', '.join(comparison['same_signs']) or 'none'}."
    )
    lines.append(
        {
            None: "Whether over-confident predictions are pushed back cannot be told.",
            True: "Over-confident predictions are pushed back: the loss rises as f → 1.",
            False: "Over-confident predictions are not pushed back: the loss does not rise as "
            "f → 1.",
        }[fields["pushes_back_overconfidence"]]
    )
    return lines


def _nearest_text(comparison: Mapping[str, Any]) -> str:
    name = comparison["nearest"]
    if name is None:
        return "unknown"
    alike = comparison["losses"][name]["same_pressure"]
    return f"{name}" if alike else f"{name}, though it favours other outputs"


def card_table(card: Mapping[str, Any]) -> Table:
    """One row per property."""
    table = Table(box=None, pad_edge=False)
    table.add_column("property", no_wrap=True)
    table.add_column("value", max_width=29)
    table.add_column("how it is known", style="dim")
    for name, row in card.items():
        if name == "timing":
            value = f"{row['ns_per_element']:g} ns per element, {row['relative']:g} × "
            table.add_row("time", Text(value + row["relative_to"]), Text(row["how"]))
        else:
            table.add_row(property_text(name), Text(value_text(row["value"])), Text(row["how"]))
    return table


def property_text(name: str) -> str:
    """The key of a property as words."""
    return name.replace("false_positive_", "FP / FN ").replace("_", " ")


def value_text(value: Any) -> str:
    """A value of the card: yes, no, a number, or several of them with their names."""
    if isinstance(value, Mapping):
        return "\n".join(_named_lines(value))
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _named_lines(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        name = str(key).replace("_", " ")
        if isinstance(value, Mapping):
            yield f"{name}:"
            yield from (f"  {line}" for line in _named_lines(value))
        else:
            yield f"{name}: {value_text(value)}"
