"""Dual-point analysis (paper, appendix A.3): a loss at the start and the end of training.

δ = -∂L/∂f (eq. 21) is the pull of the loss on an output, up if positive, down if negative; f are
the probabilities as free variables. It is evaluated at the null epoch (eq. 24: all f = 1/C) and
towards zero training error (eq. 25: f → 1 at the target, f → 0 elsewhere), also in the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomal.analysis.limits import STEPS, limit_of
from evomal.analysis.probe import Probe, gradient, of_elements
from evomal.analysis.unprotected import Elementwise
from evomal.losses.form import Link

SMOOTHING = 0.1
"""ξ of the label smoothing used for comparison."""

FOCUSING = 2.0
"""γ of the focal loss used for comparison."""


@dataclass(frozen=True)
class Delta:
    """δ at the target and at the other outputs: a number, ±∞, or None if unknown."""

    target: float | None
    non_target: float | None

    @property
    def dominance(self) -> int | None:
        """Sign of the difference: the output that the loss favours (eqs. 35 and 38)."""
        if self.target is None or self.non_target is None or self.target == self.non_target:
            return None
        return 1 if self.target > self.non_target else -1


@dataclass(frozen=True)
class DualPoint:
    """δ at the two points, with respect to f or the logits.

    Attributes
    ----------
    null_epoch, zero_error
        δ at the two points.
    pressure
        Sign of δ(target) - δ(non-target) at the null epoch, and near zero error.
    """

    null_epoch: Delta
    zero_error: Delta
    pressure: tuple[int | None, int | None]

    @property
    def values(self) -> tuple[float | None, ...]:
        """The four numbers: null epoch, then zero error; target, then non-target."""
        points = (self.null_epoch, self.zero_error)
        return tuple(v for point in points for v in (point.target, point.non_target))

    @property
    def pushes_back(self) -> bool | None:
        """Whether the loss increases as f → 1 at the target and the others share the rest."""
        near = self.pressure[1]
        return None if near is None else near < 0


def dual_points(
    probe: Probe, known: tuple[float | None, float | None] = (None, None)
) -> tuple[DualPoint | None, DualPoint]:
    """δ in f, None for a loss that only takes logits, and δ in the logits.

    `known` are the limits of δ at the target and elsewhere, used if the numbers are inconclusive.
    """
    if probe.elementwise is None:
        return None, _by_logits(probe)
    return _by_elements(probe, known)


def _by_elements(
    probe: Probe, known: tuple[float | None, float | None]
) -> tuple[DualPoint, DualPoint]:
    """Both, from the derivatives of ℓ(1, f) and ℓ(0, f).

    With f → 1, the derivatives in the logits, f_i (δ_i - Σ_j f_j δ_j), only need
    A = lim (1 - f) δ(1, f) and B = lim f δ(0, f).
    """
    C = probe.classes
    uniform = torch.full((1,), 1 / C, dtype=torch.double)
    null = _deltas(probe, uniform, uniform)
    (at_target,), (elsewhere,) = null[0].tolist(), null[1].tolist()
    null_epoch = Delta(_number(at_target), _number(elsewhere))
    t = torch.tensor(STEPS, dtype=torch.double)
    near_one, near_zero = _deltas(probe, 1 - t, t)
    limits = [limit_of(near_one.tolist()), limit_of(near_zero.tolist())]
    zero_error = Delta(*(a if a is not None else b for a, b in zip(limits, known, strict=True)))
    (at_share,) = _deltas(probe, 1 - t[-1:], t[-1:] / (C - 1))[1].tolist()
    pressures = (_sign(at_target - elsewhere), zero_error.dominance)
    if pressures[1] is None:
        pressures = (pressures[0], _sign(near_one[-1].item() - at_share))
    in_f = DualPoint(null_epoch, zero_error, pressures)

    A = _share(zero_error.target, t * near_one)
    B = _share(zero_error.non_target, t * near_zero)
    if probe.link == "sigmoid":
        null_logits = Delta(_times(0.25, null_epoch.target), _times(0.25, null_epoch.non_target))
        end_logits = Delta(A, B)
    else:
        gap = at_target - elsewhere
        null_logits = Delta(_number((C - 1) / C**2 * gap), _number(-1 / C**2 * gap))
        end_logits = Delta(_sum(A, _times(1 - C, B)), _sum(B, _times(-1 / (C - 1), A)))
    return in_f, DualPoint(null_logits, end_logits, pressures)


def _share(delta: float | None, shares: Tensor) -> float | None:
    """The limit of (1 - f) δ or f δ, given that of δ."""
    finite = delta is not None and math.isfinite(delta)
    return 0.0 if finite else limit_of(shares.tolist())


def _deltas(probe: Probe, target: Tensor, non_target: Tensor) -> tuple[Tensor, Tensor]:
    """δ(1, f) and δ(0, f) at given f, for losses that may depend on the number of classes."""
    width = probe.classes
    f = torch.cat([target[:, None], non_target[:, None].expand(-1, width - 1)], 1)
    y = torch.zeros_like(f)
    y[:, 0] = 1
    found = 0.0 - probe.slopes(y, f)
    return found[:, 0], found[:, 1]


def _by_logits(probe: Probe) -> DualPoint:
    """δ in the logits of a loss that only takes logits, at z = log f."""
    C = probe.classes
    t = torch.tensor([(C - 1) / C, *STEPS], dtype=torch.double)
    logits = torch.cat([(1 - t).log()[:, None], (t / (C - 1)).log()[:, None].expand(-1, C - 1)], 1)
    labels = torch.zeros(len(t), dtype=torch.long)
    found = 0.0 - gradient(lambda t, z: probe.per_sample(z, t), labels, logits)
    null_target, *targets = found[:, 0].tolist()
    null_other, *others = found[:, 1].tolist()
    end = Delta(limit_of(targets), limit_of(others))
    near = end.dominance if end.dominance is not None else _sign(targets[-1] - others[-1])
    return DualPoint(
        Delta(_number(null_target), _number(null_other)),
        end,
        (_sign(null_target - null_other), near),
    )


def references(link: Link, classes: int) -> dict[str, Probe]:
    """Cross-entropy, label smoothing (eq. 40) and the focal loss (eq. 50), without ε."""

    def cross_entropy(y: Tensor, f: Tensor) -> Tensor:
        return -y * f.log() - (0 if link == "softmax" else (1 - y) * (1 - f).log())

    def label_smoothing(y: Tensor, f: Tensor) -> Tensor:
        return cross_entropy(y * (1 - SMOOTHING) + SMOOTHING / classes, f)

    def focal(y: Tensor, f: Tensor) -> Tensor:
        at_target = -y * (1 - f) ** FOCUSING * f.log()
        return at_target - (0 if link == "softmax" else (1 - y) * f**FOCUSING * (1 - f).log())

    losses: dict[str, Elementwise] = {
        "cross-entropy": cross_entropy,
        "label smoothing": label_smoothing,
        "focal": focal,
    }
    return {name: of_elements(loss, link, classes) for name, loss in losses.items()}


def compared(found: DualPoint, others: dict[str, DualPoint]) -> dict[str, dict[str, Any]]:
    """Signs, pressures and distance between a loss and others, by name.

    The distance is the mean of |s(a) - s(b)| over the four δ, with s(δ) = δ / (1 + |δ|), which
    maps ±∞ to ±1; it lies in [0, 2], and is None if a δ is unknown.
    """
    return {
        name: {
            "same_signs": _signs(found) is not None and _signs(found) == _signs(other),
            "same_pressure": None not in found.pressure and found.pressure == other.pressure,
            "distance": distance(found, other),
        }
        for name, other in others.items()
    }


def nearest(comparison: dict[str, dict[str, Any]]) -> str | None:
    """The closest loss, among those with the same pressure at both points if there are any."""
    known = {name: row for name, row in comparison.items() if row["distance"] is not None}
    alike = {name: row for name, row in known.items() if row["same_pressure"]} or known
    return min(alike, key=lambda name: float(alike[name]["distance"]), default=None)


def distance(a: DualPoint, b: DualPoint) -> float | None:
    """The distance between two losses; see `compared`."""
    gaps = []
    for x, z in zip(a.values, b.values, strict=True):
        if x is None or z is None:
            return None
        gaps.append(abs(_squashed(x) - _squashed(z)))
    return sum(gaps) / len(gaps)


def _squashed(delta: float) -> float:
    return math.copysign(1.0, delta) if math.isinf(delta) else delta / (1 + abs(delta))


def _signs(point: DualPoint) -> tuple[int, ...] | None:
    signs = tuple((v > 0) - (v < 0) for v in point.values if v is not None)
    return signs if len(signs) == len(point.values) else None


def _sign(value: float) -> int | None:
    return None if math.isnan(value) else (value > 0) - (value < 0)


def _number(value: float) -> float | None:
    return float(f"{value:.10g}") + 0.0 if math.isfinite(value) else None  # no -0


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value + 0.0


def _sum(a: float | None, b: float | None) -> float | None:
    if a is None or b is None or math.isnan(a + b):
        return None
    return float(f"{a + b:.6g}") + 0.0
