"""Limits from a sequence of values, in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

HALVINGS = range(4, 17)
"""t = 2⁻⁴ … 2⁻¹⁶; the last is 150 times the ε = 1e-7 of the protected primitives."""

STEPS: tuple[float, ...] = tuple(2.0**-k for k in HALVINGS)
"""The values of t."""

Array = np.ndarray[Any, np.dtype[np.float64]]

_TAIL = 7  # number of values that decide
_LAST = 6  # number of values that an ε = 1e-7 can change by more than 1e-4
_NOISE = 1e-9  # differences below this fraction of the values are rounding
_CONVERGENT = 0.85  # ratio of successive differences: convergent sequences stay below …
_DIVERGENT = 0.97  # … and sequences that grow like a logarithm, or faster, exceed this
_PROTECTION = 0.02  # maximum relative change of the values by an ε = 1e-7 in the loss
_DIGITS = 6  # maximum digits of a limit
_UNSURE = 0.005  # relative error of a limit that needs all values

_T: Array = np.asarray(STEPS)
_LOG: Array = np.log(_T)
_EPSILON: list[Array] = [_T**-k for k in (1, 2, 3)]
_SERIES: tuple[tuple[list[Array], bool], ...] = (
    ([*(_T**k for k in range(5)), *_EPSILON], True),
    ([*(_T**k for k in range(4)), *(_T**k * _LOG for k in (1, 2, 3)), *_EPSILON], True),
    ([*(_T ** (k / 2) for k in range(7)), _T * _LOG, _T**1.5 * _LOG], False),
)
"""Expansions at t = 0, with the constant first, and whether their last terms belong to an ε.

Smooth in t and ε/t; with logarithms; with roots.
"""


def limit_of(values: Sequence[float]) -> float | None:
    """The limit of values at `STEPS`: a number, ±∞, or None if unknown.

    If the values follow, up to rounding, a truncated expansion in powers of t, √t or log t, or in
    ε/t with an ε that only protects, the limit is its constant, to six digits. Other values that
    approach a number like a power of t have differences that shrink by a fixed ratio; they are
    extrapolated by Aitken's Δ² process, iterated while that brings them closer together, to the
    digits in which the last ones agree. The differences of a logarithm stay constant, and those of
    a pole grow.
    """
    whole = np.asarray(values, dtype=float)
    if not np.isfinite(whole[-_TAIL:]).all():
        return None  # overflow, which says nothing about the limit
    if not np.isfinite(whole).all():
        return _limit(whole)
    for terms, protected in _SERIES:
        constant = _constant(whole, terms, len(_EPSILON) if protected else 0)
        if constant is not None:
            return constant
    found = _limit(whole)
    if found is not None:
        return _agreed(found, whole)
    found = _limit(whole[:-_LAST])
    near = found is not None and (np.abs(whole[-_LAST:] - found) <= _PROTECTION * abs(found))
    return _agreed(found, whole[:-_LAST]) if found is not None and np.all(near) else None


def _agreed(found: float, values: Array) -> float:
    """A limit to the digits that do not change without the last value."""
    if found == 0 or math.isinf(found):
        return found
    earlier = _limit(values[:-1])
    if earlier is None or math.isinf(earlier):
        return _rounded(found, abs(found), _UNSURE * abs(found))
    return _rounded(found, abs(found), abs(found - earlier))


def _constant(values: Array, terms: list[Array], protective: int) -> float | None:
    """The constant of an expansion that fits the values, if a part of them gives the same."""
    largest = float(np.abs(values).max())
    if largest == 0:
        return 0.0
    constants = []
    for part in (slice(1, None), slice(2, None), slice(1, -1)):
        basis = np.stack([term[part] / np.abs(term[part]).max() for term in terms], 1)
        factors, *_ = np.linalg.lstsq(basis, values[part], rcond=None)
        if np.abs(basis @ factors - values[part]).max() > _NOISE * largest:
            return None
        constants.append(float(factors[0]))
        added = np.abs(basis * factors)[:, len(terms) - protective :]
        if added.max(initial=0.0) > _PROTECTION * abs(factors[0]):
            return None
    spread = max(constants) - min(constants)
    if abs(constants[0]) <= 10 * _NOISE * largest and spread <= 10 * _NOISE * largest:
        return 0.0
    agree = spread <= 10.0**-_DIGITS * abs(constants[0])
    return _rounded(constants[0], largest) if agree else None


def _limit(values: Array) -> float | None:
    tail = values[-_TAIL:]
    if not np.isfinite(tail).all():
        return None
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
        grows = (
            np.ptp(tail) > _PROTECTION * np.abs(tail).max()
        )  # not only where an ε begins to matter
        return math.copysign(math.inf, steps[-1]) if grows else None
    if not (np.abs(ratios) < _CONVERGENT).all():
        return None
    shrinking = (tail[1:] / tail[:-1])[-3:] if (tail != 0).all() else ratios
    if (np.abs(shrinking - ratios) < 0.1 * np.abs(ratios)).all():
        return 0.0  # like t, √t or t log t
    return _extrapolated(tail, noise, largest)


def _extrapolated(tail: Array, noise: float, largest: float) -> float:
    """Aitken's Δ² process, repeated while the differences shrink and are more than rounding."""
    while len(tail) >= 3:
        steps = np.diff(tail)
        bends = np.diff(steps)
        if (np.abs(bends) <= noise).any():
            break
        better = tail[2:] - steps[1:] ** 2 / bends
        if len(better) > 1 and abs(better[-1] - better[-2]) >= abs(steps[-1]):
            break
        tail = better
    error = max(noise, float(np.abs(np.diff(tail[-2:])).max(initial=0.0)))
    return _rounded(float(tail[-1]), largest, error)


def _rounded(value: float, largest: float, error: float = 0.0) -> float:
    """Round to six significant digits, or as many as the error allows; 0 for rounding errors."""
    if abs(value) <= max(error, _NOISE * max(largest, 1e-3)):
        return 0.0
    certain = _DIGITS if error == 0 else math.floor(math.log10(abs(value) / error))
    return float(f"{value:.{min(max(certain, 1), _DIGITS)}g}")
