"""The loss card of a regression loss, in terms of the residual r = f - y."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from evomal.analysis.card import Entry, digits, entry
from evomal.analysis.curves import Array, Curve, imbalance, still_growing
from evomal.analysis.probe import Probe, gradient

_FAR = 8.0
_POINTS = 3201
_RESIDUALS = np.linspace(-_FAR, _FAR, _POINTS)
_NEAR = np.geomspace(1e-8, 1e-2, 61)  # roots are steepest close to 0
_TARGETS = (-2.0, 0.0, 2.0)
_WITHOUT = 1e-9  # slopes below this fraction of the largest one count as 0
_FEWEST = 5  # minimum number of consecutive points in a flat range
_GRID = f"grid of {_POINTS} residuals in ±{_FAR:g}, y = -2, 0, 2"


def regression_card(probe: Probe) -> dict[str, Entry]:
    """All properties, except size and time, of a loss with link identity.

    Targets and predictions are assumed to be standardised: y is -2, 0 or 2.
    """
    curves = {f"y={y:g}": Curve(_RESIDUALS, _values(probe, y)) for y in _TARGETS}
    slopes = {f"y={y:g}": _slopes(probe, y, _RESIDUALS) for y in _TARGETS}
    close = np.concatenate([_slopes(probe, y, r) for y in _TARGETS for r in (_NEAR, -_NEAR)])
    by_target = np.stack(list(slopes.values()))
    how = f"numerical, {_GRID}"
    largest = np.abs(by_target).max()
    endless = any(still_growing(np.abs(slope)) for slope in by_target)
    spread = np.ptp(by_target, axis=0).max()
    return {
        "minimum": {
            **entry({name: _lowest_residual(c) for name, c in curves.items()}, how),
            "all": {name: curve.minima for name, curve in curves.items()},
        },
        "monotone": entry({name: curve.monotone for name, curve in curves.items()}, how),
        "convex_in_f": entry({name: curve.convex for name, curve in curves.items()}, how),
        "slope_at_extremes": entry(
            {
                name: {"far_below": digits(slope[0]), "far_above": digits(slope[-1])}
                for name, slope in slopes.items()
            },
            f"numerical, ∂ℓ/∂f at r = ±{_FAR:g}",
        ),
        "lipschitz_in_f": entry(
            np.inf if endless else digits(max(largest, np.abs(close).max())),
            f"numerical, largest |∂ℓ/∂f| on the {_GRID}, and close to r = 0: a lower bound; inf: "
            "still growing at its end",
        ),
        "ignored_residuals": entry(
            {name: _ignored(np.abs(slope) <= _WITHOUT * largest) for name, slope in slopes.items()},
            f"numerical, where ∂ℓ/∂f is 0, {how.removeprefix('numerical, ')}",
        ),
        "depends_on_residual_only": entry(
            bool(spread <= 1e-6 * max(largest, 1e-300)),
            f"numerical, ∂ℓ/∂f equal for all y, {_GRID}",
        ),
        "overestimation_asymmetry": entry(
            {name: _asymmetry(curve) for name, curve in curves.items()},
            "numerical, (over - under) / (over + under) of the mean losses above their minimum, "
            f"at r > 0 and r < 0, {_GRID}; 0: symmetric",
        ),
    }


def _values(probe: Probe, y: float) -> Array:
    target = torch.full((_POINTS,), y, dtype=torch.double)
    values = probe.per_sample(target + torch.from_numpy(_RESIDUALS), target)
    found: Array = values.detach().numpy().astype(np.float64)
    return found


def _slopes(probe: Probe, y: float, residuals: Array) -> Array:
    target = torch.full((len(residuals),), y, dtype=torch.double)
    at = target + torch.from_numpy(residuals)
    found: Array = gradient(lambda t, f: probe.per_sample(f, t), target, at).numpy()
    return found


def _lowest_residual(curve: Curve) -> Any:
    """The minimum; ±∞ if towards an end of the grid, None for a constant."""
    lowest = curve.lowest_at
    return None if lowest is None else round(lowest, 4) + 0.0


def _ignored(flat: np.ndarray[Any, Any]) -> list[list[float]]:
    """The ranges of residuals in a mask, without those of a few points."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int), [0]])))
    return [
        [round(float(_RESIDUALS[i]), 4) + 0.0 for i in (start, end - 1)]
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        if end - start >= _FEWEST
    ]


def _asymmetry(curve: Curve) -> float | None:
    over, under = (curve.mean_excess(part) for part in (_RESIDUALS > 0, _RESIDUALS < 0))
    share = imbalance(over, under)
    return None if share is None else digits(share)
