"""Shapes of functions of one variable on a grid: minimum, monotonicity, convexity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_FLAT = 1e-9  # differences below this fraction of the largest value are ignored
_TIED = 1e-6  # minima within this fraction of the spread of the values are equal
_KINK = 2.0  # ratio of neighbouring second differences above which a minimum is a kink

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Curve:
    """Values of a function on an evenly spaced grid.

    Attributes
    ----------
    at
        The grid.
    values
        The values; infinite and NaN values are ignored.
    """

    at: Array
    values: Array

    @property
    def _tolerance(self) -> float:
        finite = self.values[np.isfinite(self.values)]
        return _FLAT * float(np.abs(finite).max(initial=0.0))

    @property
    def lowest(self) -> int | None:
        """Index of the minimum; the first or last one means an infimum at that end.

        None for a constant.
        """
        finite = np.where(np.isfinite(self.values), self.values, np.inf)
        spread = finite[np.isfinite(finite)]
        if not len(spread) or spread.max() - spread.min() <= self._tolerance:
            return None
        lowest = int(finite.argmin())
        ends = [end for end in (0, len(finite) - 1) if self._runs_down_to(finite, lowest, end)]
        return ends[0] if ends else lowest

    @property
    def lowest_at(self) -> float | None:
        """Position of the minimum; ±∞ if towards an end. Interpolated unless it is a kink."""
        i = self.lowest
        if i is None:
            return None
        if i in (0, len(self.at) - 1):
            return -np.inf if i == 0 else np.inf
        bends = np.diff(self.values[max(i - 2, 0) : i + 3], 2)
        if not np.isfinite(bends).all() or bends.max() > _KINK * bends.min():
            return float(self.at[i])
        shift = 0.5 * (self.values[i - 1] - self.values[i + 1]) / bends[len(bends) // 2]
        return float(self.at[i] + shift * (self.at[1] - self.at[0]))

    @property
    def minima(self) -> list[tuple[float, float]]:
        """All minima: points and flat ranges, from left to right.

        A range at an end of the grid extends to ∓∞; so does a single point at an end.
        """
        finite = np.where(np.isfinite(self.values), self.values, np.inf)
        spread = finite[np.isfinite(finite)]
        if not len(spread) or spread.max() - spread.min() <= self._tolerance:
            return []
        padded = np.concatenate([[np.inf], finite, [np.inf]])
        is_low = (finite <= padded[:-2]) & (finite <= padded[2:])
        is_tied = finite - spread.min() <= _TIED * (spread.max() - spread.min())
        places = np.flatnonzero(is_low & is_tied)
        rises = np.cumsum(~is_tied)[places]  # between two places only where it differs
        parts = np.split(places, np.flatnonzero((np.diff(places) > 2) & (np.diff(rises) > 0)) + 1)
        ends = {0: -np.inf, len(finite) - 1: np.inf}

        return [
            (
                ends.get(part[0], float(self.at[part[0]])),
                ends.get(part[-1], float(self.at[part[-1]])),
            )
            for part in parts
        ]

    def _runs_down_to(self, values: Array, lowest: int, end: int) -> bool:
        """Whether it is flat, up to rounding, from its minimum to an end of the grid."""
        between = values[min(lowest, end) : max(lowest, end) + 1]
        flat = bool(between.max() - between.min() <= self._tolerance)
        return flat and abs(end - lowest) < len(values) // 4

    @property
    def monotone(self) -> bool | None:
        """Whether it never increases towards its minimum; None for a constant."""
        lowest = self.lowest
        if lowest is None:
            return None
        steps = np.diff(self.values)
        falls = (steps[:lowest] <= self._tolerance).all()
        return bool(falls and (steps[lowest:] >= -self._tolerance).all())

    @property
    def convex(self) -> bool | None:
        """Whether it is convex on the grid; None if it is not finite everywhere."""
        if not np.isfinite(self.values).all():
            return None
        bends = np.diff(self.values, 2)
        return bool((bends >= -self._tolerance).all())

    def mean_excess(self, part: np.ndarray[Any, Any]) -> float:
        """Mean height above the minimum on a part of the grid, given by a mask."""
        finite = self.values[np.isfinite(self.values)]
        return float((self.values[part] - finite.min()).mean())


def imbalance(a: float, b: float) -> float | None:
    """(a - b) / (a + b): 0 if they are equal, ±1 if one of them is 0; None if both are."""
    total = abs(a) + abs(b)
    return (a - b) / total if total > 0 and np.isfinite(total) else None


def still_growing(norms: Array) -> bool:
    """Whether the largest norm on a grid is at an end, far above those in the middle."""
    quarter = len(norms) // 4
    middle = norms[quarter:-quarter].max()
    return bool(max(norms[0], norms[-1]) >= norms.max() * (1 - _FLAT) > 1.5 * middle)
