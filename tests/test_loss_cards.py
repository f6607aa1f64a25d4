"""Loss cards against what is known of well-known losses, and the published losses of Table 6."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evomal.analysis.card import classification_card
from evomal.analysis.curves import Curve, still_growing
from evomal.analysis.dual_point import dual_points
from evomal.analysis.probe import probe
from evomal.analysis.published import PUBLISHED_LOSSES
from evomal.analysis.regression_card import regression_card
from evomal.losses.form import Link
from evomal.losses.known import KNOWN_LOSSES
from evomal.losses.symbolic import SymbolicLoss

DOCUMENT = Path(__file__).parents[1] / "docs" / "loss-cards.md"


def card(loss: object, classes: int = 10) -> dict[str, Any]:
    """The values of a card."""
    asked = probe(loss, classes)
    rows = regression_card(asked) if asked.link == "identity" else classification_card(asked)
    assert all(
        row["how"].split(",")[0].split(":")[0] in ("numerical", "unknown") for row in rows.values()
    )
    return {name: row["value"] for name, row in rows.items()}


def known(name: str, link: Link = "softmax") -> SymbolicLoss:
    return SymbolicLoss(KNOWN_LOSSES[name].expression, link=link)


# Classification


def test_card_of_cross_entropy() -> None:
    for loss in (known("cross-entropy"), nn.CrossEntropyLoss()):
        found = card(loss)
        assert found["minimum"]["confidence"] == 1.0
        assert found["monotone"]["confidence"] is True
        assert found["convex_in_logits"] is True
        assert found["slope_at_extremes"]["confidently_wrong"] == pytest.approx(-1, abs=1e-4)
        assert found["slope_at_extremes"]["confidently_right"] == pytest.approx(0, abs=1e-4)
        assert found["lipschitz_in_logits"] == pytest.approx(math.sqrt(2), abs=2e-3)
        assert found["calibration"]["proper"] is True
        assert found["calibration"]["calibrated"] is True
        assert found["label_noise"] > 0.5
    by_elements = card(known("cross-entropy"))
    assert by_elements["minimum"] == {"y=1": 1.0, "y=0": None, "confidence": 1.0}
    assert by_elements["false_positive_asymmetry"] == -1.0, "others than the target cost nothing"


def test_absolute_error_is_symmetric_and_not_proper() -> None:
    found = card(known("absolute-error"))
    assert found["label_noise"] == pytest.approx(0, abs=1e-9)
    assert found["false_positive_asymmetry"] == pytest.approx(0, abs=1e-6)
    assert found["calibration"]["proper"] is False
    assert found["calibration"]["calibrated"] is True
    assert found["minimum"] == {"y=1": 1.0, "y=0": 0.0, "confidence": 1.0}
    assert found["convex_in_logits"] is False


def test_the_brier_score_is_proper() -> None:
    calibration = card(known("squared-error"))["calibration"]
    assert calibration["proper"] is True
    for p, minimiser in calibration["minimiser"].items():
        assert minimiser == pytest.approx(float(p), abs=1e-3)


def test_the_focal_loss_is_calibrated_and_not_proper() -> None:
    calibration = card(known("focal"))["calibration"]
    assert (calibration["proper"], calibration["calibrated"]) == (False, True)
    assert 0.6 < calibration["minimiser"]["0.90"] < 0.8, "less confident than it should be"


def test_a_loss_that_prefers_errors_is_not_calibrated() -> None:
    found = card(SymbolicLoss("mul(y, f)", link="softmax"))
    assert found["calibration"]["calibrated"] is False
    assert found["minimum"] == {"y=1": 0.0, "y=0": None, "confidence": 0.0}


@pytest.mark.parametrize(("classes", "smoothing"), [(10, 0.1), (4, 0.4)])
def test_label_smoothing_is_lowest_before_the_end(classes: int, smoothing: float) -> None:
    found = card(nn.CrossEntropyLoss(label_smoothing=smoothing), classes)
    lowest = 1 - smoothing + smoothing / classes
    assert found["minimum"] == {"confidence": pytest.approx(lowest, abs=1e-4)}
    assert found["slope_at_extremes"]["confidently_right"] > 0
    p = 0.9
    expected = p * (1 - smoothing) + smoothing / 2  # the smoothed probability, for two classes
    assert found["calibration"]["minimiser"]["0.90"] == pytest.approx(expected, abs=1e-3)
    assert found["false_positive_asymmetry"] is None


def test_binary_cross_entropy() -> None:
    found = card(known("binary-cross-entropy", "sigmoid"), 2)
    assert found["minimum"] == {"y=1": 1.0, "y=0": 0.0, "confidence": 1.0}
    assert found["convex_in_logits"] is True
    assert found["calibration"]["proper"] is True
    assert found["lipschitz_in_logits"] == pytest.approx(1, abs=1e-4)
    assert found["false_positive_asymmetry"] == pytest.approx(0, abs=1e-6)


def test_false_positives_and_false_negatives_are_told_apart() -> None:
    """Mean of f² over f > ½ is 7/12; 2·(1 - f)² over f < ½ is twice that: (1 - 2) / (1 + 2)."""
    loss = SymbolicLoss("mul(add(1, y), square(sub(y, f)))", link="softmax")
    assert card(loss)["false_positive_asymmetry"] == pytest.approx(-1 / 3, abs=1e-3)


def test_a_loss_that_grows_like_a_pole_has_no_lipschitz_constant() -> None:
    assert card(PUBLISHED_LOSSES["6c"].loss)["lipschitz_in_logits"] == math.inf


def test_samples_that_are_reduced_are_asked_one_by_one() -> None:
    reduced = card(lambda z, t: nn.functional.cross_entropy(z, t), 3)
    assert reduced == card(nn.CrossEntropyLoss(), 3)


def test_a_loss_of_a_fixed_number_of_classes() -> None:
    found = card(nn.CrossEntropyLoss(weight=torch.ones(3, dtype=torch.double)), 3)
    expected = card(nn.CrossEntropyLoss(), 3)
    assert found == {**expected, "calibration": None}


# Regression


def test_card_of_the_squared_error() -> None:
    found = card(known("squared-error", "identity"))
    assert set(found["minimum"].values()) == {0.0}
    assert set(found["monotone"].values()) == set(found["convex_in_f"].values()) == {True}
    assert found["slope_at_extremes"]["y=0"] == {"far_below": -16.0, "far_above": 16.0}
    assert found["lipschitz_in_f"] == math.inf
    assert found["depends_on_residual_only"] is True
    assert set(found["overestimation_asymmetry"].values()) == {0.0}


def test_card_of_the_absolute_error() -> None:
    found = card(known("absolute-error", "identity"))
    assert found["lipschitz_in_f"] == 1.0
    assert set(found["convex_in_f"].values()) == {True}


def test_card_of_a_pinball_loss() -> None:
    """max(-r, 2 r): overestimates cost twice as much."""
    r = "sub(f, y)"
    loss = SymbolicLoss(f"max(sub(y, f), add({r}, {r}))")
    found = card(loss)
    for share in found["overestimation_asymmetry"].values():
        assert share == pytest.approx(1 / 3, abs=1e-3)
    assert found["slope_at_extremes"]["y=2"] == {"far_below": -1.0, "far_above": 2.0}
    assert set(found["minimum"].values()) == {0.0}


def test_the_root_is_steep_at_its_minimum() -> None:
    found = card(PUBLISHED_LOSSES["6j"].loss)
    assert found["lipschitz_in_f"] == pytest.approx(0.5 / math.sqrt(1e-7), rel=0.1)
    assert set(found["convex_in_f"].values()) == {False}


def test_a_threshold_on_the_target_shows() -> None:
    found = card(PUBLISHED_LOSSES["6f"].loss)
    assert found["minimum"] == {"y=-2": 1.0, "y=0": 0.0, "y=2": -1.0}
    assert found["depends_on_residual_only"] is False


# Curves


def curve(function: Callable[[Any], Any]) -> Curve:
    at = np.linspace(-2.0, 2.0, 401)
    return Curve(at, np.asarray(function(at), dtype=float) + 0 * at)


def test_dips_of_rounding_are_one_minimum() -> None:
    ripples = curve(lambda x: np.maximum(1 - x, 0) ** 2 - 1e-9 * np.sin(20 * x) ** 2)
    ((low, high),) = ripples.minima
    assert low == pytest.approx(1.0, abs=0.1)
    assert high > 1.9
    two = curve(lambda x: (x**2 - 1) ** 2)
    assert [low for low, _ in two.minima] == pytest.approx([-1.0, 1.0])


def test_shapes_of_curves() -> None:
    bowl = curve(lambda x: (x - 0.5031) ** 2)
    assert bowl.lowest_at == pytest.approx(0.5031)
    assert (bowl.monotone, bowl.convex) == (True, True)
    wave = curve(lambda x: np.cos(4 * x))
    assert (wave.monotone, wave.convex) == (False, False)
    slope = curve(lambda x: -x)
    assert (slope.lowest_at, slope.monotone, slope.convex) == (math.inf, True, True)
    flat = curve(lambda x: 3.0)
    assert (flat.lowest_at, flat.monotone, flat.convex) == (None, None, True)
    broken = curve(lambda x: np.where(x < 0, np.nan, x))
    assert broken.lowest_at == pytest.approx(0)
    assert broken.convex is None
    kink = curve(lambda x: np.maximum(-x, 2 * x))
    assert kink.lowest_at == pytest.approx(0, abs=1e-12)
    at = np.linspace(-9.0, 9.0, 101)
    assert still_growing(np.abs(at))
    assert still_growing(np.exp(at))
    assert not still_growing(np.abs(np.tanh(at)))


# Table 6

EPSILON = 1e-7


def root(a: Tensor) -> Tensor:
    return (a.abs() + EPSILON).sqrt()


def log(a: Tensor) -> Tensor:
    return (a.abs() + EPSILON).log()


PRINTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "6a": lambda y, f: (root(y * f) + EPSILON).log().abs(),
    "6b": lambda y, f: log(y * f + root(log(y * f))) ** 2,
    "6c": lambda y, f: ((y - f) / f) ** 4,
    "6d": lambda y, f: y**3 + f**3 + f * y**2 + f**2 * y,
    "6e": lambda y, f: ((y * f) ** 2 + EPSILON).log().abs(),
    "(15)": lambda y, f: ((y * f + EPSILON) ** 2).log().abs(),
    "6f": lambda y, f: (f - y.clamp(-1, 1)) ** 2,
    "6g": lambda y, f: (y * root(y / (1 + f**2).sqrt())).abs(),
    "6h": lambda y, f: (y / (1 + log(y - 1) ** 2) - f).abs(),
    "6i": lambda y, f: root(y * (y - f)),
    "6j": lambda y, f: root(y - f),
}


@pytest.mark.parametrize("place", PUBLISHED_LOSSES)
def test_published_losses_have_their_printed_values(place: str) -> None:
    loss = PUBLISHED_LOSSES[place].loss
    targets, outputs = ([0.0, 1.0], [0.05, 0.3, 0.9])
    if loss.link == "identity":
        targets, outputs = ([-2.0, -0.4, 0.3, 1.5], [-1.0, 0.2, 2.0])
    pairs = torch.cartesian_prod(
        torch.tensor(targets, dtype=torch.double), torch.tensor(outputs, dtype=torch.double)
    )
    y, f = pairs[:, 0], pairs[:, 1]
    found = loss.elementwise(y, f, loss.phi)
    torch.testing.assert_close(found, PRINTED[place](y, f), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("place", "y", "f", "value"),
    [  # by hand
        ("6a", 1, 0.25, math.log(2)),
        ("6a", 0, 0.25, 8.058732),  # |log(√ε + ε)|
        ("6b", 1, math.exp(-1), math.log(math.exp(-1) + 1) ** 2),
        ("6c", 1, 0.25, 81),
        ("6c", 0, 0.25, 1),
        ("6d", 1, 0.5, 1.875),
        ("6e", 1, 0.5, math.log(4)),
        ("6e", 0, 0.5, 16.118096),  # |log ε|
        ("(15)", 1, 0.5, math.log(4)),
        ("6f", 2, 0.5, 0.25),
        ("6g", -2, 0, math.sqrt(8)),
        ("6g", 2, math.sqrt(3), 2),
        ("6h", 2, 0.5, 1.5),
        ("6h", 2, 3, 1),
        ("6h", 1 + math.e, 0, (1 + math.e) / 2),
        ("6i", 2, -2, math.sqrt(8)),
        ("6j", 3, -1, 2),
        ("6j", -1, 3, 2),
    ],
)
def test_published_losses_at_values_by_hand(place: str, y: float, f: float, value: float) -> None:
    loss = PUBLISHED_LOSSES[place].loss
    target, output = (torch.tensor([v], dtype=torch.double) for v in (y, f))
    found = loss.elementwise(target, output, loss.phi).item()
    assert found == pytest.approx(value, rel=2e-6)


@pytest.mark.parametrize("place", PUBLISHED_LOSSES)
def test_published_losses_fall_towards_the_right_answer(place: str) -> None:
    """All but two, and these say so."""
    published = PUBLISHED_LOSSES[place]
    found = card(published.loss)
    if published.link == "softmax":
        falls = found["minimum"]["confidence"] == 1.0 and found["monotone"]["confidence"]
    else:  # with a target in the range that 6f leaves as it is
        target = torch.tensor([0.25, 0.75], dtype=torch.double)
        near, far = (
            published.loss.elementwise(target, target + r, published.loss.phi) for r in (0.0, 2.0)
        )
        falls = bool((near < far).all())
    assert falls is (place not in ("6d", "6g"))
    assert published.note.startswith("With all weights 1, it decreases") is (place in ("6d", "6g"))


def test_the_form_of_appendix_a_is_not_6e() -> None:
    y, f = torch.ones(1, dtype=torch.double), torch.tensor([1e-4], dtype=torch.double)
    a, b = (PRINTED[place](y, f).item() for place in ("6e", "(15)"))
    assert abs(a - b) > 1


@pytest.mark.parametrize(
    "place", [p for p, row in PUBLISHED_LOSSES.items() if row.link != "identity"]
)
def test_dual_points_of_published_losses(place: str) -> None:
    C = 10
    spread = math.sqrt(math.log(C))
    inner = 1 / C + spread
    expected = {  # by hand, from the printed forms with ε → 0
        "6a": (C / 2, 0, 0.5, 0),
        "6b": (-2 * math.log(inner) / inner * (1 - C / (2 * spread)), 0, 1, 0),
        "6c": (4 * (C - 1) ** 3 * C**2, 0, 0, 0),
        "6d": (-3 / C**2 - 1 - 2 / C, -3 / C**2, -6, 0),
        "6e": (2 * C, 0, 2, 0),
        "(15)": (2 * C, 0, 2, 0),
    }
    found, _ = dual_points(probe(PUBLISHED_LOSSES[place].loss, C))
    assert found is not None
    assert found.values == pytest.approx(expected[place], rel=1e-5, abs=1e-9)


def test_the_document_holds_every_published_loss_and_its_command() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert "python examples/loss_cards.py > docs/loss-cards.md" in text
    for place, published in PUBLISHED_LOSSES.items():
        assert f"## {place}: {published.formula}" in text
        assert f"`{published.expression}`" in text
