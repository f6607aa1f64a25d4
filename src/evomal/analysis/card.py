"""The loss card of a classification loss: properties, each with its method of computation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomal.analysis.curves import Array, Curve, imbalance, still_growing
from evomal.analysis.probe import Probe, by_rows, gradient, of_elements

_FAR = 12.0
_PROTECTION = 0.03  # maximum relative change of a value by an ε that only protects
_PROBABILITIES = np.arange(1, 20) / 20
_PROPER = 0.01  # maximum distance from p to the minimiser of a proper loss, due to grid and ε

Entry = dict[str, Any]


@dataclass(frozen=True)
class _Grid:
    """Evaluation points for curves of a loss: a grid of logits, and random chords."""

    points: int
    chords: int

    @property
    def u(self) -> Array:
        """Logits."""
        return np.linspace(-_FAR, _FAR, self.points)

    @property
    def f(self) -> Array:
        """Their probabilities."""
        found: Array = 1 / (1 + np.exp(-self.u))
        return found

    def __str__(self) -> str:
        return f"grid of {self.points} logits in ±{_FAR:g}"


_FINE = _Grid(2401, 500)
_COARSE = _Grid(241, 20)
_MANY = 1000  # number of classes above which the fine grid takes too long


def _grid(probe: Probe) -> _Grid:
    return _FINE if probe.classes <= _MANY else _COARSE


def entry(value: Any, how: str) -> Entry:
    """A property and how it was computed."""
    return {"value": value, "how": how}


def classification_card(probe: Probe) -> dict[str, Entry]:
    """All properties, except size and time, of a loss with link softmax or sigmoid.

    Curves over f are those of the elements ℓ(1, f) and ℓ(0, f). The confidence curve is the whole
    loss of a sample whose target has probability f, with the rest shared equally by the other
    classes; a loss that only takes logits has no other curve. The ε of protected primitives is
    omitted if it changes no value on the grid by more than a few per cent.
    """
    grid = _grid(probe)
    curves: dict[str, Curve] = {}
    probe = _ordinary(probe)
    if probe.elementwise is not None:
        curves = {f"y={y}": _element_curve(probe, y) for y in (1, 0)}
    curves["confidence"] = Curve(grid.u, _whole(probe, grid, 0))
    confidence = curves["confidence"]
    how = f"numerical, {grid}"
    slopes = np.gradient(confidence.values, grid.u)
    return {
        "minimum": {
            **entry({name: _lowest_f(curve) for name, curve in curves.items()}, how),
            "all": {
                name: [(_probability(low), _probability(high)) for low, high in curve.minima]
                for name, curve in curves.items()
            },
        },
        "monotone": entry({name: curve.monotone for name, curve in curves.items()}, how),
        "convex_in_logits": entry(
            _is_convex(probe, confidence),
            f"numerical, confidence curve on a {grid}, and the midpoints of {grid.chords} random "
            "chords",
        ),
        "slope_at_extremes": entry(
            {"confidently_right": digits(slopes[-2]), "confidently_wrong": digits(slopes[1])},
            f"numerical, slope of the confidence curve in its logit at ±{_FAR:g}",
        ),
        "lipschitz_in_logits": entry(
            _largest_gradient(probe),
            f"numerical, largest gradient norm on the confidence curve and at {grid.chords} random "
            "logits of sd 4: a lower bound; inf: still growing at the end of the curve",
        ),
        "calibration": _calibration(probe),
        "label_noise": _symmetry(probe),
        "false_positive_asymmetry": _asymmetry(curves),
    }


def _ordinary(probe: Probe) -> Probe:
    """The loss without ε, for the values of y where this does not change it."""
    bare, protected = probe.unprotected, probe.elementwise
    if bare is None or protected is None:
        return probe
    f = torch.from_numpy(_FINE.f)
    chosen = []
    for value in (0.0, 1.0):
        y = torch.full_like(f, value)
        same = torch.isclose(bare(y, f), protected(y, f), rtol=_PROTECTION, atol=_PROTECTION**2)
        chosen.append(bare if bool(same.all()) else protected)

    def elementwise(y: Tensor, f: Tensor) -> Tensor:
        return torch.where(y > 0.5, chosen[1](y, f), chosen[0](y, f))

    return of_elements(elementwise, probe.link, probe.classes)


def _element_curve(probe: Probe, y: int) -> Curve:
    """ℓ(y, f) over the logit of f."""
    assert probe.elementwise is not None
    width = probe.classes if probe.link == "softmax" else 1
    grid = _grid(probe)
    function = probe.elementwise

    def first(f: Tensor) -> Tensor:
        f = f[:, None].expand(-1, width)
        return function(torch.full_like(f, float(y)), f)[:, 0]

    return Curve(grid.u, _array(by_rows(first, width, torch.from_numpy(grid.f))))


def _logits(probe: Probe, u: Tensor) -> Tensor:
    """Raw outputs for which class 0 has the logits u against all other classes combined."""
    if probe.link == "sigmoid":
        return u
    rest = u.new_zeros(len(u), probe.classes - 1)
    return torch.cat([u[:, None] + np.log(probe.classes - 1), rest], 1)


def _whole(probe: Probe, grid: _Grid, label: int) -> Array:
    """The loss of samples with target `label`, when class 0 has the logits u."""
    if probe.link == "sigmoid":  # class 0, whose logit u is, is the positive one
        labels = torch.full((grid.points,), float(label == 0), dtype=torch.double)
    else:
        labels = torch.full((grid.points,), label, dtype=torch.long)
    u = torch.from_numpy(grid.u)
    with torch.no_grad():
        values = by_rows(
            lambda u, t: probe.per_sample(_logits(probe, u), t), probe.classes, u, labels
        )
    return _array(values)


def _lowest_f(curve: Curve) -> float | None:
    """The minimum on the f axis: 0 or 1 if towards that end, None for a constant."""
    lowest = curve.lowest_at
    return None if lowest is None else _probability(lowest)


def _probability(logit: float) -> float:
    """Four digits."""
    return round(float(1 / (1 + np.exp(-logit))), 4)


def _random_logits(probe: Probe, deviation: float) -> tuple[Tensor, Tensor]:
    """Pairs of raw outputs, shape (2, n) or (2, n, C), and targets (n,); always the same."""
    draw = torch.Generator().manual_seed(0)
    chords = _grid(probe).chords
    shape = (2, chords) if probe.link == "sigmoid" else (2, chords, probe.classes)
    pairs = deviation * torch.randn(shape, generator=draw, dtype=torch.double)
    labels = torch.arange(chords) % probe.classes
    return pairs, labels.double() if probe.link == "sigmoid" else labels


def _is_convex(probe: Probe, confidence: Curve) -> bool | None:
    if confidence.convex is None:
        return None
    pairs, labels = _random_logits(probe, 4.0)
    with torch.no_grad():
        ends = [by_rows(probe.per_sample, probe.classes, z, labels) for z in pairs]
        middle = by_rows(probe.per_sample, probe.classes, pairs.mean(0), labels)
    slack = 1e-9 * (1 + ends[0].abs() + ends[1].abs())
    return confidence.convex and bool((middle <= (ends[0] + ends[1]) / 2 + slack).all())


def _largest_gradient(probe: Probe) -> float | None:
    """The largest gradient norm in the logits of a sample; ∞ if it grows without bound."""
    pairs, drawn = _random_logits(probe, 4.0)
    first = torch.full_like(drawn[:1], float(probe.link == "sigmoid"))

    def norms(logits: Tensor, labels: Tensor) -> Tensor:
        slope = gradient(lambda t, z: probe.per_sample(z, t), labels, logits)
        found: Tensor = torch.linalg.vector_norm(slope.reshape(len(slope), -1), dim=1)
        return found

    def norms_at(u: Tensor) -> Tensor:
        return norms(_logits(probe, u), first.expand(len(u)))

    on_curve = _array(by_rows(norms_at, probe.classes, torch.from_numpy(_grid(probe).u)))
    if still_growing(on_curve):
        return np.inf
    return digits(max(on_curve.max(), _array(norms(pairs[0], drawn)).max()))


def _calibration(probe: Probe) -> Entry:
    """The minimiser f of the expected loss p·ℓ(+, f) + (1 - p)·ℓ(-, f) of two classes."""
    how = (
        f"numerical, two classes, p = 0.05 … 0.95, {_FINE}; proper: the minimiser is p within "
        f"{_PROPER}; calibrated: the correct side of ½ is strictly better"
    )
    two = Probe(probe.link, 2, probe.elementwise, None, probe.per_sample)
    try:
        positive, negative = (_whole(two, _FINE, label) for label in (0, 1))
    except (IndexError, RuntimeError, ValueError):
        return entry(None, "unknown: the loss does not support two classes")
    minimisers: dict[str, float | None] = {}
    calibrated = True
    for p in _PROBABILITIES:
        risk = Curve(_FINE.u, p * positive + (1 - p) * negative)
        minimisers[f"{p:.2f}"] = _lowest_f(risk)
        if p != 0.5:
            right = ((_FINE.f - 0.5) * (p - 0.5) > 0) & np.isfinite(risk.values)
            wrong = ~right & np.isfinite(risk.values)
            best, other = (risk.values[part].min(initial=np.inf) for part in (right, wrong))
            calibrated = calibrated and bool(best < other - 1e-9 * (1 + abs(other)))
    off = [abs(f - float(p)) if f is not None else np.inf for p, f in minimisers.items()]
    return entry(
        {
            "proper": bool(max(off) <= _PROPER),
            "calibrated": calibrated,
            "minimiser": {p: minimisers[p] for p in ("0.10", "0.25", "0.50", "0.75", "0.90")},
        },
        how,
    )


def _symmetry(probe: Probe) -> Entry:
    """The deviation of Σ_y L(y, f) from a constant; a constant is robust to label noise."""
    grid = _grid(probe)
    how = (
        f"numerical, (max - min) / max |Σ_y L(y, f)| on the confidence curve, {grid}; 0: symmetric"
    )
    total = _whole(probe, grid, 0) + (probe.classes - 1) * _whole(probe, grid, 1)
    largest = np.abs(total).max()
    if not np.isfinite(largest):
        return entry(None, how)
    return entry(digits(np.ptp(total) / largest) if largest > 0 else 0.0, how)


def _asymmetry(curves: dict[str, Curve]) -> Entry:
    """Whether false positives or false negatives of one output cost more (section 5.3.3)."""
    if "y=1" not in curves:
        return entry(None, "unknown: needs ℓ(y, f)")
    how = (
        "numerical, (FP - FN) / (FP + FN) of the mean losses above their minimum, of ℓ(0, f) at "
        "f > ½ and ℓ(1, f) at f < ½, f evenly spaced; 0: symmetric, -1: only false negatives cost"
    )
    f = np.linspace(0.0, 1.0, 1001)[1:-1]
    fp, fn = (
        float(
            np.interp(part, 1 / (1 + np.exp(-curve.at)), curve.values).mean()
            - curve.values[np.isfinite(curve.values)].min(initial=np.inf)
        )
        for curve, part in [(curves["y=0"], f[f > 0.5]), (curves["y=1"], f[f < 0.5])]
    )
    share = imbalance(fp, fn)
    return entry(None if share is None else digits(share), how)


def digits(value: float) -> float | None:
    """Round to four significant digits; None for NaN."""
    value = float(value)
    if not np.isfinite(value):
        return None if np.isnan(value) else value
    return 0.0 if abs(value) < 1e-12 else float(f"{value:.4g}")


def _array(values: Tensor) -> Array:
    return values.detach().numpy().astype(np.float64)
