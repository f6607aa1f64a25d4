"""Limits from a sequence of values, in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

HALVINGS = range(4, 17)
"""t = 2⁻⁴ … 2⁻¹⁶ on the way to 0: at its end 150 times the ε = 1e-7 of the protected primitives."""

STEPS: tuple[float, ...] = tuple(2.0**-k for k in HALVINGS)
"""The t themselves."""

Array = np.ndarray[Any, np.dtype[np.float64]]

_TAIL = 7  # values that decide
_LAST = 6  # values that an ε = 1e-7 can change by more than 1e-4
_NOISE = 1e-9  # differences below this part of the values are rounding
_CONVERGENT = 0.85  # ratio of successive differences: a convergent sequence stays below …
_DIVERGENT = 0.97  # … and one that grows as a logarithm, or faster, comes above
_PROTECTION = 0.02  # of the values: what an ε = 1e-7 in the loss may change


def limit_of(values: Sequence[float]) -> float | None:
    """The limit of values at t, t/2, t/4, …: a number, ±∞, or None where it cannot be told.

    Values that approach a number as a power of t have differences that shrink by a fixed ratio;
    those of a logarithm stay as they are, and those of a pole grow. A number is extrapolated by
    Aitken's Δ² process, iterated, and rounded to six digits, or to three where the last values are
    left out, since an ε in the loss already shows in them.
    """
    whole = np.asarray(values, dtype=float)
    found = _limit(whole)
    if found is None and np.isfinite(whole).all():
        found = _limit(whole[:-_LAST])
        near = found is not None and (np.abs(whole[-_LAST:] - found) <= _PROTECTION * abs(found))
        return float(f"{found:.3g}") if found is not None and np.all(near) else None
    return found


def _limit(values: Array) -> float | None:
    tail = values[-_TAIL:]
    if not np.isfinite(tail).all():
        return None  # it overflows, which tells nothing about the limit
    largest = float(np.abs(values).max())
    if np.abs(tail).max() <= _NOISE:
        return 0.0
    steps = np.diff(tail)
    noise = _NOISE * float(np.abs(tail).max())
    if (np.abs(steps[-3:]) <= noise).all():
        return _rounded(float(tail[-1]), largest)
    if (steps == 0).any():
        return None
    ratios = (steps[1:] / steps[:-1])[-3:]
    if (ratios >= _DIVERGENT).all():
        if np.ptp(tail) > _PROTECTION * np.abs(tail).max():
            return math.copysign(math.inf, steps[-1])
        calm = int(np.abs(np.diff(values)).argmin())
        constant = np.ptp(values) <= _PROTECTION * largest  # but for an ε
        return _rounded(float(values[calm]), largest) if constant else None
    if not (np.abs(ratios) < _CONVERGENT).all():
        return None
    shrinking = (tail[1:] / tail[:-1])[-3:] if (tail != 0).all() else ratios
    if (np.abs(shrinking - ratios) < 0.1 * np.abs(ratios)).all():
        return 0.0  # as t, √t or t log t
    return _rounded(_extrapolated(tail, noise), largest)


def _extrapolated(tail: Array, noise: float) -> float:
    """Aitken's Δ² process, repeated while the differences are more than rounding."""
    while len(tail) >= 3:
        steps = np.diff(tail)
        bends = np.diff(steps)
        if (np.abs(bends) <= noise).any():
            break
        tail = tail[2:] - steps[1:] ** 2 / bends
    return float(tail[-1])


def _rounded(value: float, largest: float) -> float:
    """Six significant digits; 0 where only rounding is left."""
    return 0.0 if abs(value) <= _NOISE * max(largest, 1e-3) else float(f"{value:.6g}")
