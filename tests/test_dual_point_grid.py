"""Dual points of every handcrafted loss against closed forms, over classes and settings.

By hand, with ε → 0, f = 1/C at the null epoch and t = 1 - f → 0 towards zero error. A loss of the
target alone, with the slope -δ(f), has the derivatives f(1 - f)·δ in the target's logit and
-f(1 - f)/(C - 1)·δ in each other's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from evomal.analysis.analysis import MOST_CLASSES, analyze
from evomal.analysis.dual_point import Delta, DualPoint, dual_points
from evomal.analysis.probe import probe
from evomal.errors import InputError
from evomal.losses.handcrafted import HandcraftedLoss, LabelSmoothingLoss
from evomal.losses.known import HANDCRAFTED_LOSSES
from evomal.losses.sparse import (
    FocalSparseLabelSmoothingLoss,
    SparseLabelSmoothingLoss,
    SparselySmoothedLoss,
)
from evomal.losses.target import (
    AbsoluteCrossEntropyLoss,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
)

CLASSES = [2, 3, 10, 100, 1000, 10_000]
SMOOTHINGS = [0.0, 0.01, 0.1, 0.2, 0.5, 0.9]
FOCUSINGS = [0.0, 1.0, 2.0, 5.0]

Values = tuple[float, float, float, float]
"""Null epoch, then zero error; target, then others."""


def of_target(classes: int, null: float, end: float, share: float) -> tuple[Values, Values]:
    """In f and in the logits, from δ at both points and lim (1 - f)·δ."""
    C = classes
    in_logits = ((C - 1) / C**2 * null, -1 / C**2 * null, share, -share / (C - 1))
    return (null, 0.0, end, 0.0), in_logits


def smoothed(classes: int, xi: float) -> tuple[Values, Values]:
    """(34) and (37); δ in the logits is the smoothed target minus f."""
    soft = xi / classes
    target, f = 1 - xi + soft, 1 / classes
    end = math.inf if xi else 0.0
    return (target / f, soft / f, target, end), (target - f, soft - f, target - 1, soft)


def focal_null(classes: int, gamma: float) -> float:
    """(50): δ = (1 - f)^γ/f - γ (1 - f)^(γ - 1)·log f."""
    f = 1 / classes
    return math.pow(1 - f, gamma) / f - gamma * math.pow(1 - f, gamma - 1) * math.log(f)


def focal(classes: int, gamma: float) -> tuple[Values, Values]:
    return of_target(classes, focal_null(classes, gamma), 1.0 if gamma == 0 else 0.0, 0.0)


def sparsely_smoothed(classes: int, xi: float, gamma: float = 0.0) -> tuple[Values, Values]:
    """(46), (51): δ = (1 - b)·focal δ + b·[γ f^(γ - 1)·log r - f^γ/(1 - f)], b = ξ(C - 1)/C."""
    b = xi * (classes - 1) / classes
    f = r = 1 / classes
    opposite = gamma * math.pow(f, gamma - 1) * math.log(r) - math.pow(f, gamma) / (1 - f)
    null = (1 - b) * focal_null(classes, gamma) + b * opposite
    return of_target(classes, null, -math.inf if b else 1.0 if gamma == 0 else 0.0, -b)


def relaxed(classes: int, xi: float) -> tuple[Values, Values]:
    """Footnote 3: δ = 1/f - ξ/(1 - f)."""
    null = classes - xi * classes / (classes - 1)
    return of_target(classes, null, -math.inf if xi else 1.0, -xi)


def absolute(classes: int, phi_0: float, phi_1: float) -> tuple[Values, Values]:
    """(29), (31), (36), (39): φ₀/f below f = 1/φ₁, -φ₀/f above."""
    return of_target(classes, phi_0 * classes, -phi_0 if phi_1 > 1 else phi_0, 0.0)


def generalised(classes: int, q: float) -> tuple[Values, Values]:
    """δ = f^(q - 1)."""
    return of_target(classes, classes ** (1 - q), 1.0, 0.0)


Case = tuple[HandcraftedLoss, Callable[[int], tuple[Values, Values]]]


def cases() -> Iterator[Case]:
    for xi in SMOOTHINGS:
        yield LabelSmoothingLoss(xi), partial(smoothed, xi=xi)
        yield SparseLabelSmoothingLoss(xi), partial(sparsely_smoothed, xi=xi)
        yield SparseLabelSmoothingLoss(xi, relaxed=True), partial(relaxed, xi=xi)
        yield SparselySmoothedLoss(Tensor.neg, xi), partial(sparsely_smoothed, xi=xi)
        for gamma in FOCUSINGS:
            loss = FocalSparseLabelSmoothingLoss(gamma, xi)
            yield loss, partial(sparsely_smoothed, xi=xi, gamma=gamma)
    for gamma in FOCUSINGS:
        yield FocalLoss(gamma), partial(focal, gamma=gamma)
    for q in (0.1, 0.7, 1.0):
        yield GeneralizedCrossEntropyLoss(q), partial(generalised, q=q)
    for phi in [(1.0, 1.0), (0.3, 0.5), (1.0, 1.1), (2.0, 1.9)]:
        yield AbsoluteCrossEntropyLoss(*phi), partial(absolute, phi_0=phi[0], phi_1=phi[1])


def differences(loss: object, found: DualPoint, expected: Values, rel: float) -> list[str]:
    """Where values are not as expected, in words; below 1e-12 is 0."""
    return [
        f"{loss}: {value} instead of {true}"
        for value, true in zip(found.values, expected, strict=True)
        if value is None
        or not (value == true or math.isclose(value, true, rel_tol=rel, abs_tol=1e-12))
    ]


@pytest.mark.parametrize("classes", CLASSES)
def test_dual_points_are_the_exact_ones(classes: int) -> None:
    wrong = []
    for loss, exact in cases():
        in_f, in_logits = exact(classes)
        of_f, of_logits = dual_points(probe(loss, classes))
        assert of_f is not None
        wrong += differences(loss, of_f, in_f, 5e-6) + differences(loss, of_logits, in_logits, 5e-6)
    assert wrong == []


@pytest.mark.parametrize("classes", CLASSES)
def test_the_limits_of_a_callable_of_logits_are_the_exact_ones(classes: int) -> None:
    """Its ε = 1e-7 cannot be taken away; it shows at the null epoch where little is left of δ."""
    wrong = []
    for loss, exact in cases():
        _, found = dual_points(probe(lambda z, t, loss=loss: loss(z, t), classes))
        wrong += differences(loss, found, exact(classes)[1], 3e-4)
        end = DualPoint(Delta(0.0, 0.0), found.zero_error, found.pressure)
        wrong += differences(loss, end, (0.0, 0.0, *exact(classes)[1][2:]), 1e-5)
    assert wrong == []


def test_sparse_label_smoothing_of_a_thousand_classes() -> None:
    """(46): δ in the target's logit is (1 - f)·(1 - b) - b·f, with b = ξ(C - 1)/C = 0.1998."""
    fields = analyze(SparseLabelSmoothingLoss(0.2), 1000, measure=False)
    assert fields["logits"]["zero_error"] == {"target": -0.1998, "non_target": 0.0002}
    assert fields["zero_error"] == {"target": "-inf", "non_target": 0.0}


def test_every_handcrafted_loss_is_in_the_grid() -> None:
    assert {type(loss) for loss, _ in cases()} >= set(HANDCRAFTED_LOSSES.values())


@pytest.mark.parametrize("classes", [10**6, 10**8])
def test_more_classes_than_memory_allows_are_refused_with_the_number(classes: int) -> None:
    with pytest.raises(InputError, match=f"at most {MOST_CLASSES}, got {classes}"):
        analyze(LabelSmoothingLoss(0.1), classes)


def test_many_classes_are_asked_in_parts() -> None:
    """The largest tensor of a card has as many elements as are asked at once, not points × C."""
    largest = 0

    def cross_entropy(z: Tensor, t: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, z.numel())
        return torch.nn.functional.cross_entropy(z, t, reduction="none")

    fields = analyze(cross_entropy, 20_000, name="mine", measure=False)
    assert fields["card"]["calibration"]["value"]["proper"] is True
    assert "grid of 241 logits" in fields["card"]["minimum"]["how"]
    assert 20_000 < largest <= 2**18
