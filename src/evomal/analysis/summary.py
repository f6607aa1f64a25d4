"""A summary of a loss in a few sentences, from the numbers of its analysis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ALIKE = 0.01  # differences of a fraction or ratio that are ignored
_STEP = 0.01  # twice the step of the grid of residuals
_PLATEAU = 0.05  # ranges of minima wider than this, in probability, are reported as ranges
_GRID = 15.9  # nearly the whole grid of residuals
_FADED = 0.1  # slopes below this fraction of the largest one count as faded


def summary(fields: Mapping[str, Any]) -> list[str]:
    """One to five sentences about a loss; unknown properties are left out.

    Parameters
    ----------
    fields
        The result of `analyze`, with infinities as numbers.
    """
    card = {name: row["value"] for name, row in fields["card"].items() if "value" in row}
    if fields["classes"] is None:
        return list(_of_residuals(card, fields))
    return list(_of_classes(card, fields))


def _of_classes(card: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    lowest = card["minimum"]["confidence"]
    monotone = card["monotone"]["confidence"]
    if lowest is None:
        yield (
            "Does not depend on the probability of the correct class, so it cannot be used for "
            "training."
        )
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
            "Penalises over-confident predictions: it increases near certainty."
            if pushes_back
            else "Does not penalise over-confident predictions."
        )
    calibration = card["calibration"]
    if calibration is not None:
        yield _probabilities(calibration["proper"], calibration["calibrated"])


def _minima(fields: Mapping[str, Any], curve: str, lowest: float) -> list[tuple[float, float]]:
    """All minima of a curve; `lowest` is the first."""
    found: list[tuple[float, float]] = fields["card"]["minimum"].get("all", {}).get(curve, [])
    return found or [(lowest, lowest)]


def _direction(lowest: float, monotone: bool | None, right: bool) -> str:
    if lowest == 1 and monotone:
        return "Decreases towards the correct class."
    if lowest == 1:
        return "Has its minimum at the correct class, but does not decrease monotonically."
    if lowest == 0:
        return "Has its minimum where the correct class has probability 0: it rewards errors."
    if right:
        dips = "" if monotone else ", and does not decrease monotonically"
        return f"Has its minimum where the correct class has probability {lowest:.4g}, not 1{dips}."
    return (
        f"Has its minimum where the correct class has probability {lowest:.4g}, no more than "
        "chance: it does not reward correct predictions."
    )


def _as_low(minima: Sequence[Sequence[float]]) -> str:
    """`minima` are ranges of the probability of the correct class."""
    if len(minima) == 1 and minima[0][1] == 1:
        return (
            "Has its minimum wherever the correct class has a probability of "
            f"{minima[0][0]:.3g} or more; it is flat there."
        )
    places = " and ".join(
        f"{low:.3g}" if high - low <= _PLATEAU else f"{low:.3g} to {high:.3g}"
        for low, high in minima
    )
    return f"Has equal minima where the correct class has a probability of {places}."


def _at_the_start(strength: float) -> str:
    """`strength` is the pull at equal probabilities relative to that of cross-entropy."""
    where = "At the start of training, with all classes equally probable, it"
    if abs(strength) <= 1e-9:
        return f"{where} does not change the correct class's output."
    if strength < 0:
        return f"{where} pulls the correct class's output down."
    if abs(strength - 1) <= _ALIKE:
        return f"{where} pulls the correct class's output up as strongly as cross-entropy."
    return (
        f"{where} pulls the correct class's output up, {strength:.3g} times as strongly as "
        "cross-entropy."
    )


def _mistakes(pull: float, right: float, steepest: float) -> str:
    """`pull` is the negative slope in the logit where a prediction is confidently wrong.

    `right` is the slope where it is confidently correct.
    """
    where = "at a logit of -12 (confidently wrong),"
    if math.isinf(pull) or math.isinf(steepest):
        if pull > abs(right):
            return "Is sensitive to confident mistakes: its slope still grows at a logit of -12."
        return "Its slope in the logits still grows at ±12."
    if pull < -1e-9 * steepest:
        return f"{where.capitalize()} it pulls in the wrong direction."
    if pull <= _FADED * steepest:
        return (
            f"Is robust to outliers: {where} its slope is {pull:.2g}, and at most {steepest:.3g} "
            "elsewhere."
        )
    return (
        f"Penalises confident mistakes: {where} its slope is still {pull:.3g}, and at most "
        f"{steepest:.3g} elsewhere."
    )


def _probabilities(proper: bool, calibrated: bool) -> str:
    if proper:
        return "Has its minimum at the true probabilities (with two classes): a proper loss."
    if calibrated:
        return "With two classes, favours the more probable one, but not its true probability."
    return "With two classes, does not always favour the more probable one."


def _of_residuals(card: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    lowest, ignored = card["minimum"], list(card["ignored_residuals"].values())
    known = {name: at for name, at in lowest.items() if at is not None}
    if not known:
        yield "Does not depend on the prediction, so it cannot be used for training."
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
        yield "Has a minimum at the target, but equal ones elsewhere: " + _places(
            {name: [one for one in ranges if one != (0.0, 0.0)] for name, ranges in minima.items()}
        )
    elif any(len(ranges) > 1 or ranges[0][0] < ranges[0][1] for ranges in minima.values()):
        yield "Does not always have its minimum at the target: " + _places(minima)
    else:
        yield _elsewhere(lowest)
    if all(ranges and ranges[0][1] - ranges[0][0] >= _GRID for ranges in ignored):
        yield "Its slope is 0 almost everywhere, so it cannot be used for training."
        return
    if ignored[0] and all(ranges == ignored[0] for ranges in ignored):
        ranges = " and ".join(f"from {low:.3g} to {high:.3g}" for low, high in ignored[0])
        yield f"Ignores residuals {ranges}: it is constant there."
    if at_target:
        yield _sides(list(card["overestimation_asymmetry"].values()))
    if all(map(math.isfinite, known.values())):
        yield _outliers(card["slope_at_extremes"], card["lipschitz_in_f"])
    if not card["depends_on_residual_only"]:
        yield "Depends on the target, not only on the residual."


def _holds_target(minima: Sequence[Sequence[float]]) -> bool:
    return any(low <= 0 <= high for low, high in minima)


def _places(minima: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """The minima for each target, as predictions relative to it."""
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
    """Whether a minimum is in, or next to, a flat range that contains the residual 0."""
    return any(low < 0 < high and low - _STEP <= at <= high + _STEP for low, high in ranges)


def _at_target(lowest: Mapping[str, float | None], monotone: Mapping[str, bool | None]) -> str:
    known = [name for name, at in lowest.items() if at is not None]
    targets = ", ".join(name.removeprefix("y=") for name in known)
    constant = [name.removeprefix("y=") for name in lowest if name not in known]
    rises = all(monotone[name] for name in known)
    return (
        f"Has its minimum at the target ({targets}) and "
        f"{'increases' if rises else 'does not increase monotonically'} on both sides."
        + (f" For a target of {', '.join(constant)} it is constant." if constant else "")
    )


def _elsewhere(lowest: Mapping[str, float | None]) -> str:
    """A sentence about the minima, in terms of predictions."""
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
        return f"Does not have its minimum at the target, but {where}."
    parts = [f"for a target of {' or '.join(targets)}, {where}" for where, targets in names.items()]
    return f"Does not always have its minimum at the target: {'; '.join(parts)}."


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
        return "Its response to outliers is unknown."
    if math.isinf(steepest):
        return "Is sensitive to outliers: its slope still grows at a residual of ±8."
    if pull <= _FADED * steepest:
        return (
            f"Is robust to outliers: at a residual of ±8 its slope is at most {pull:.2g}, and up "
            f"to {steepest:.3g} elsewhere."
        )
    return (
        f"Outliers keep their influence: at a residual of ±8 its slope is up to {pull:.3g}, and "
        f"at most {steepest:.3g} elsewhere."
    )
