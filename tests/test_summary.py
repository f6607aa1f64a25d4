"""What `analyze` says in plain words: from numbers alone, and for losses that are known."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import evomal
from evomal.analysis import analysis as analysis_module
from evomal.analysis.analysis import analyze
from evomal.analysis.published import PUBLISHED_LOSSES
from evomal.analysis.summary import summary
from evomal.expressions.expression import Expression
from evomal.losses.form import Link
from evomal.losses.known import KNOWN_LOSSES
from evomal.losses.symbolic import SymbolicLoss
from strategies import expressions, fast, weights_of


@pytest.fixture(autouse=True)
def without_sympy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_module, "closed_forms", lambda *_: (None, None))


def said(loss: Any, classes: int | None = None) -> str:
    fields = analyze(loss, classes, name="mine", measure=False)
    return " ".join(fields["summary"])


def known(name: str, link: Link = "softmax") -> SymbolicLoss:
    return SymbolicLoss(KNOWN_LOSSES[name].expression, link=link)


CLASSIFICATION: dict[str, tuple[Any, list[str], list[str]]] = {
    "cross-entropy": (
        known("cross-entropy"),
        [
            "Decreases towards the correct class.",
            "up as strongly as cross-entropy.",
            "its slope is still 1, and at most 1.41 elsewhere.",
            "Does not penalise over-confident predictions.",
            "a proper loss.",
        ],
        ["robust"],
    ),
    "label smoothing": (
        nn.CrossEntropyLoss(label_smoothing=0.3),
        [  # 1 - ξ + ξ/C; (1 - ξ)(1 - 1/C) of cross-entropy's 1 - 1/C
            "Has its minimum where the correct class has probability 0.73, not 1.",
            "up, 0.7 times as strongly as cross-entropy.",
            "Penalises over-confident predictions",
            "but not its true probability.",
        ],
        ["Decreases towards", "proper"],
    ),
    "absolute error": (
        known("absolute-error"),
        ["Decreases towards", "robust to outliers: at a logit of -12", "not its true probability."],
        ["Penalises confident"],
    ),
    "6c": (PUBLISHED_LOSSES["6c"].loss, ["sensitive to confident mistakes"], ["robust"]),
    "6d": (
        PUBLISHED_LOSSES["6d"].loss,
        ["it rewards errors.", "pulls the correct class's output down."],
        ["Decreases", "Penalises", "proper"],
    ),
    "past chance": (
        evomal.AbsoluteCrossEntropyLoss(1.0, 12.0),
        ["probability 0.0832, no more than chance: it does not reward correct predictions."],
        ["Penalises"],
    ),
    "constant": (
        SymbolicLoss("y", link="softmax"),
        ["cannot be used for training."],
        ["Decreases", "proper"],
    ),
}


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_sentences_about_classification_losses(name: str) -> None:
    loss, expected, absent = CLASSIFICATION[name]
    found = said(loss, 10)
    assert [part for part in expected if part not in found] == []
    assert [part for part in absent if part in found] == []


REGRESSION: dict[str, tuple[str, list[str]]] = {
    "squared error": (
        "square(sub(y, f))",
        [
            "Has its minimum at the target (-2, 0, 2) and increases on both sides.",
            "Treats over- and underestimates alike.",
            "Is sensitive to outliers: its slope still grows at a residual of ±8.",
        ],
    ),
    "absolute error": ("abs(sub(y, f))", ["its slope is up to 1, and at most 1 elsewhere."]),
    "pinball": (
        "max(sub(y, f), add(sub(f, y), sub(f, y)))",
        ["Overestimates cost 2 times as much as underestimates."],
    ),
    "insensitive": (  # |r| - 1 above |r| = 1, where the slope at the edge is half of that
        "max(sub(abs(sub(y, f)), 1), sub(1, 1))",
        ["Has its minimum at the target", "Ignores residuals from -0.995 to 0.995:"],
    ),
    "saturating": (
        "tanh(square(sub(y, f)))",
        ["Ignores residuals from -8 to -3.46 and from 3.46 to 8:", "robust to outliers:"],
    ),
    "shifted": (
        "square(sub(add(y, 1), f))",
        ["Does not have its minimum at the target, but 1 above it."],
    ),
    "endless": ("f", ["but towards the lowest predictions."]),
    "of the target, too": (
        "square(sub(f, min(max(y, -1), 1)))",
        [
            "for a target of -2, 1 above it; for a target of 0, at it; for a target of 2, 1 below",
            "Depends on the target, not only",
        ],
    ),
    "constant for one": ("sqrt(mul(y, sub(y, f)))", ["For a target of 0 it is constant."]),
    "constant": ("y", ["cannot be used for training."]),
}


@pytest.mark.parametrize("name", REGRESSION)
def test_sentences_about_regression_losses(name: str) -> None:
    text, expected = REGRESSION[name]
    found = said(SymbolicLoss(text))
    assert [part for part in expected if part not in found] == []
    assert ("Treats" in found) is ("alike" in found)


@pytest.mark.parametrize("link", ["softmax", "identity"])
@fast
@given(expression=expressions(3), seed=st.integers(0, 2**32 - 1))
def test_any_loss_gets_at_most_five_sentences(
    link: Link, expression: Expression, seed: int
) -> None:
    loss = SymbolicLoss(expression, weights_of(expression, seed), link=link)
    sentences = analyze(loss, 3 if link == "softmax" else None, measure=False)["summary"]
    assert 1 <= len(sentences) <= 5
    assert all(s[0].isupper() and s.endswith(".") and "None" not in s for s in sentences)
    assert all("nan" not in s and "inf " not in s for s in sentences)


# The pure function

FIELDS: dict[str, Any] = {
    "classes": 10,
    "logits": {"null_epoch": {"target": 0.9, "non_target": -0.1}},
    "pushes_back_overconfidence": False,
    "card": {
        "minimum": {"value": {"confidence": 1.0}},
        "monotone": {"value": {"confidence": True}},
        "slope_at_extremes": {"value": {"confidently_right": 0.0, "confidently_wrong": -1.0}},
        "lipschitz_in_logits": {"value": 1.4},
        "calibration": {"value": {"proper": True, "calibrated": True}},
        "timing": {"relative": 1.0},
    },
}


def changed(path: str, value: Any) -> Mapping[str, Any]:
    fields = copy.deepcopy(FIELDS)
    *parents, last = path.split(".")
    part = fields
    for name in parents:
        part = part[name]
    part[last] = value
    return fields


@pytest.mark.parametrize(
    ("path", "value", "about"),
    [
        ("logits.null_epoch.target", None, "start of training"),
        ("pushes_back_overconfidence", None, "over-confident"),
        ("card.calibration.value", None, "proper"),
        ("card.lipschitz_in_logits.value", None, "mistake"),
        ("card.slope_at_extremes.value.confidently_wrong", None, "mistake"),
    ],
)
def test_nothing_is_said_of_what_is_not_known(path: str, value: Any, about: str) -> None:
    assert about in " ".join(summary(FIELDS))
    assert about not in " ".join(summary(changed(path, value)))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("card.monotone.value.confidence", False, "does not decrease monotonically."),
        ("card.monotone.value.confidence", None, "does not decrease monotonically."),
        ("logits.null_epoch.target", 0.0, "does not change the correct class's output."),
        ("logits.null_epoch.target", -0.1, "pulls the correct class's output down."),
        ("logits.null_epoch.target", 1.8, "up, 2 times as strongly as cross-entropy."),
        ("card.slope_at_extremes.value.confidently_wrong", 0.2, "pulls in the wrong direction."),
        ("card.slope_at_extremes.value.confidently_wrong", -0.01, "its slope is 0.01, and at most"),
        ("card.lipschitz_in_logits.value", math.inf, "Is sensitive to confident mistakes"),
        (
            "card.calibration.value",
            {"proper": False, "calibrated": False},
            "With two classes, does not always favour the more probable one.",
        ),
    ],
)
def test_what_a_number_changes(path: str, value: Any, sentence: str) -> None:
    assert sentence not in " ".join(summary(FIELDS))
    assert sentence in " ".join(summary(changed(path, value)))


@pytest.mark.parametrize(
    ("text", "classes", "sentence"),
    [
        ("sign(sub(y,f))", None, "for a target of 0, from 0.005 above it to all higher"),
        ("sign(sub(y,f))", None, "Its slope is 0 almost everywhere"),
        (
            "square(sub(square(y),square(f)))",
            None,
            "at the target, but equal ones elsewhere: for a target of -2, 4 above it; for a target "
            "of 2, 4 below it.",
        ),
        (
            "max(sub(f,y),sub(f,f))",
            None,
            "but equal ones elsewhere: for a target of -2, from it to all",
        ),
        ("abs(sub(abs(sub(y,f)),1))", None, "for a target of 0, 1 below it and 1 above it"),
        ("max(mul(y,abs(log(f))),1)", 3, "a probability of 0.368 or more; it is flat there."),
    ],
)
def test_ties_and_plateaus_are_told(text: str, classes: int | None, sentence: str) -> None:
    loss = SymbolicLoss(text, link="identity" if classes is None else "softmax")
    said = analyze(loss, classes, measure=False)["summary"]
    assert any(sentence in one for one in said), said
