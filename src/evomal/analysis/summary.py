"""What a loss does in a few plain sentences, from the numbers of its analysis alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ALIKE = 0.01  # differences that count as none, of a share or a ratio
_STEP = 0.01  # of residuals: twice the grid's
_PLATEAU = 0.05  # of a probability: a range of minima that is wider is told as one
_GRID = 15.9  # of residuals: all of the grid
_FADED = 0.1  # of the largest slope: below, a slope has faded


def summary(fields: Mapping[str, Any]) -> list[str]:
    """One to five sentences about a loss; nothing is said of what is not known.

    Parameters
    ----------
    fields
        What `analyze` returns, with infinities as numbers.
    """
    card = {name: row["value"] for name, row in fields["card"].items() if "value" in row}
    if fields["classes"] is None:
        return list(_of_residuals(card, fields))
    return list(_of_classes(card, fields))


def _of_classes(card: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    lowest = card["minimum"]["confidence"]
    monotone = card["monotone"]["confidence"]
    if lowest is None:
        yield "Stays the same whatever the probability of the right class: it teaches nothing."
        return
    minima = _minima(fields, "confidence", lowest)
    right = lowest > 1 / fields["classes"]
    if len(minima) > 1 or minima[0][1] - minima[0][0] > _PLATEAU:
        yield _as_low(minima)
        right = all(low > 1 / fields["classes"] for low, _ in minima)
    else:
        yield _direction(lowest, monotone, right)
    start = fields["logits"]["null_epoch"]["target"]
    if start is not None:
        yield _at_the_start(start / (1 - 1 / fields["classes"]))
    if not right:
        return
    slopes, steepest = card["slope_at_extremes"], card["lipschitz_in_logits"]
    if None not in (*slopes.values(), steepest):
        yield _mistakes(-slopes["confidently_wrong"], slopes["confidently_right"], steepest)
    pushes_back = fields["pushes_back_overconfidence"]
    if pushes_back is not None:
        yield (
            "Pushes back over-confident predictions: it rises as the right class nears certainty."
            if pushes_back
            else "Does not push back over-confident predictions."
        )
    calibration = card["calibration"]
    if calibration is not None:
        yield _probabilities(calibration["proper"], calibration["calibrated"])


def _minima(fields: Mapping[str, Any], curve: str, lowest: float) -> list[tuple[float, float]]:
    """All minima of a curve, of which `lowest` is the first."""
    found: list[tuple[float, float]] = fields["card"]["minimum"].get("all", {}).get(curve, [])
    return found or [(lowest, lowest)]


def _direction(lowest: float, monotone: bool | None, right: bool) -> str:
    if lowest == 1 and monotone:
        return "Falls towards the right answer."
    if lowest == 1:
        return "Is lowest at the right answer, but does not fall all the way there."
    if lowest == 0:
        return "Is lowest where the right class has probability 0: it teaches the wrong answer."
    if right:
        dips = "" if monotone else ", and does not fall all the way there"
        return f"Is lowest where the right class has a probability of {lowest:.4g}, not 1{dips}."
    return (
        f"Is lowest where the right class has a probability of {lowest:.4g}, no more than chance: "
        "it teaches no right answer."
    )


def _as_low(minima: Sequence[Sequence[float]]) -> str:
    """`minima` are ranges of the probability of the right class."""
    if len(minima) == 1 and minima[0][1] == 1:
        return (
            f"Is lowest wherever the right class has a probability of {minima[0][0]:.3g} or more; "
            "it is flat there."
        )
    places = " and ".join(
        f"{low:.3g}" if high - low <= _PLATEAU else f"{low:.3g} to {high:.3g}"
        for low, high in minima
    )
    return f"Is equally low where the right class has a probability of {places}."


def _at_the_start(strength: float) -> str:
    """`strength` is the pull at equal probabilities over that of cross-entropy."""
    where = "Where training begins, with all classes equally probable, it"
    if abs(strength) <= 1e-9:
        return f"{where} does not move the right class's output."
    if strength < 0:
        return f"{where} pulls the right class's output down."
    if abs(strength - 1) <= _ALIKE:
        return f"{where} pulls the right class's output up as strongly as cross-entropy."
    return (
        f"{where} pulls the right class's output up, {strength:.3g} times as strongly as "
        "cross-entropy."
    )


def _mistakes(pull: float, right: float, steepest: float) -> str:
    """`pull` is how fast the loss grows where a prediction is confidently wrong, in the logit.

    `right` is its slope where it is confidently right.
    """
    where = "At a logit of -12, where a prediction is confidently wrong,"
    if math.isinf(pull) or math.isinf(steepest):
        if pull > abs(right):
            return "Punishes confident mistakes ever harder: its slope still grows at -12."
        return "Its slope in the logits still grows at ±12."
    if pull < -1e-9 * steepest:
        return f"{where} it pulls further the wrong way."
    if pull <= _FADED * steepest:
        return (
            f"Forgives outliers: {where[0].lower()}{where[1:]} its pull is {pull:.2g}, of at most "
            f"{steepest:.3g} elsewhere."
        )
    return (
        f"Does not forgive confident mistakes: {where[0].lower()}{where[1:]} it still pulls with "
        f"{pull:.3g}, of at most {steepest:.3g}."
    )


def _probabilities(proper: bool, calibrated: bool) -> str:
    if proper:
        return "Asks for the true probabilities (with two classes): a proper loss."
    if calibrated:
        return "Asks for the more probable of two classes, but not for its true probability."
    return "Does not always ask for the more probable of two classes."


def _of_residuals(card: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    lowest, ignored = card["minimum"], list(card["ignored_residuals"].values())
    known = {name: at for name, at in lowest.items() if at is not None}
    if not known:
        yield "Stays the same whatever the prediction: it teaches nothing."
        return
    minima = {name: _minima(fields, name, at) for name, at in known.items()}
    at_target = all(
        (at == 0 or _is_flat_around(at, card["ignored_residuals"][name]))
        and len(minima[name]) == 1
        and _holds_target(minima[name])
        for name, at in known.items()
    )
    if at_target:
        yield _at_target(lowest, card["monotone"])
    elif all(map(_holds_target, minima.values())):
        yield "Is lowest where the prediction is the target, but as low elsewhere: " + _places(
            {name: [one for one in ranges if one != (0.0, 0.0)] for name, ranges in minima.items()}
        )
    elif any(len(ranges) > 1 or ranges[0][0] < ranges[0][1] for ranges in minima.values()):
        yield "Is not always lowest where the prediction is the target: " + _places(minima)
    else:
        yield _elsewhere(lowest)
    if all(ranges and ranges[0][1] - ranges[0][0] >= _GRID for ranges in ignored):
        yield "Its slope is 0 almost everywhere, so that nothing trains under it."
        return
    if ignored[0] and all(ranges == ignored[0] for ranges in ignored):
        ranges = " and ".join(f"from {low:.3g} to {high:.3g}" for low, high in ignored[0])
        yield f"Ignores residuals {ranges}: it does not change there."
    if at_target:
        yield _sides(list(card["overestimation_asymmetry"].values()))
    if all(map(math.isfinite, known.values())):
        yield _outliers(card["slope_at_extremes"], card["lipschitz_in_f"])
    if not card["depends_on_residual_only"]:
        yield "Depends on the target, too, not on the residual alone."


def _holds_target(minima: Sequence[Sequence[float]]) -> bool:
    return any(low <= 0 <= high for low, high in minima)


def _places(minima: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Where the loss is lowest by target, in predictions relative to it."""
    parts = []
    for name, ranges in minima.items():
        places = " and ".join(_place(low, high) for low, high in ranges)
        if places:
            parts.append(f"for a target of {name.removeprefix('y=')}, {places}")
    return "; ".join(parts) + "."


def _place(low: float, high: float) -> str:
    if low == high and math.isinf(low):
        return f"towards the {'highest' if low > 0 else 'lowest'} predictions"
    if math.isinf(low) or math.isinf(high):
        edge = high if math.isinf(low) else low
        side = "lower" if math.isinf(low) else "higher"
        return f"from {_relative(edge)} to all {side} predictions"
    return _relative(low) if low == high else f"from {_relative(low)} to {_relative(high)}"


def _relative(residual: float) -> str:
    if residual == 0:
        return "it"
    return f"{abs(residual):.4g} {'above' if residual > 0 else 'below'} it"


def _is_flat_around(at: float, ranges: list[list[float]]) -> bool:
    """Whether a minimum is at, or next to, a range without slope that holds the residual 0."""
    return any(low < 0 < high and low - _STEP <= at <= high + _STEP for low, high in ranges)


def _at_target(lowest: Mapping[str, float | None], monotone: Mapping[str, bool | None]) -> str:
    known = [name for name, at in lowest.items() if at is not None]
    targets = ", ".join(name.removeprefix("y=") for name in known)
    constant = [name.removeprefix("y=") for name in lowest if name not in known]
    rises = all(monotone[name] for name in known)
    return (
        f"Is lowest where the prediction is the target ({targets}), and "
        f"{'rises' if rises else 'does not rise all the way'} on both sides."
        + (f" For a target of {', '.join(constant)} it is constant." if constant else "")
    )


def _elsewhere(lowest: Mapping[str, float | None]) -> str:
    """One sentence on where the minima are, in terms of predictions."""
    names: dict[str, list[str]] = {}
    for name, r in lowest.items():
        if r is None:
            where = "nowhere, as it is constant"
        elif math.isinf(r):
            where = f"towards the {'highest' if r > 0 else 'lowest'} predictions"
        elif r == 0:
            where = "at it"
        else:
            where = f"{abs(r):.4g} {'above' if r > 0 else 'below'} it"
        names.setdefault(where, []).append(name.removeprefix("y="))
    if len(names) == 1:
        (where,) = names
        return f"Is not lowest where the prediction is the target, but {where}."
    parts = [f"for a target of {' or '.join(targets)}, {where}" for where, targets in names.items()]
    return f"Is not always lowest where the prediction is the target: {'; '.join(parts)}."


def _sides(shares: list[float | None]) -> str:
    """`shares` are (over - under) / (over + under)."""
    known = [share for share in shares if share is not None] or [0.0]
    if all(abs(share) <= _ALIKE for share in known):
        return "Treats over- and underestimates alike."
    if max(known) - min(known) <= _ALIKE and abs(known[0]) < 1:
        more, less = ("over", "under") if known[0] > 0 else ("under", "over")
        ratio = (1 + abs(known[0])) / (1 - abs(known[0]))
        return f"{more.capitalize()}estimates cost {ratio:.3g} times as much as {less}estimates."
    return "Over- and underestimates do not cost the same."


def _outliers(slopes: Mapping[str, Mapping[str, float | None]], steepest: float | None) -> str:
    far = [s for row in slopes.values() for s in row.values() if s is not None]
    pull = max(map(abs, far), default=0.0)
    if steepest is None or not far:
        return "How it treats outliers cannot be told."
    if math.isinf(steepest):
        return "Outliers pull ever harder: its slope still grows at a residual of ±8."
    if pull <= _FADED * steepest:
        return (
            f"Forgives outliers: at a residual of ±8 its slope is at most {pull:.2g}, of "
            f"{steepest:.3g} elsewhere."
        )
    return (
        f"Outliers keep their pull: at a residual of ±8 its slope is up to {pull:.3g}, of at most "
        f"{steepest:.3g} within."
    )
