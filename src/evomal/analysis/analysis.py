"""The results of `evomal analyze` as JSON values."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from evomal.analysis.card import classification_card, entry
from evomal.analysis.closed_forms import ClosedForm, closed_forms
from evomal.analysis.cost import timing
from evomal.analysis.dual_point import (
    FOCUSING,
    SMOOTHING,
    DualPoint,
    compared,
    dual_points,
    nearest,
    references,
)
from evomal.analysis.probe import Probe, probe
from evomal.analysis.regression_card import regression_card
from evomal.analysis.summary import summary
from evomal.errors import InputError
from evomal.losses.form import Link
from evomal.losses.meta import MetaLoss
from evomal.losses.neural import NeuralLoss
from evomal.losses.symbolic import SymbolicLoss

DISTANCE = (
    "mean of |s(a) - s(b)| over the four δ, s(δ) = δ/(1 + |δ|), s(±inf) = ±1; nearest is the "
    "closest loss, if possible among those whose δ(target) - δ(non_target) has the same sign at "
    "both points"
)

MOST_CLASSES = 2**18
"""Maximum number of classes: takes half a minute and under 2 GB of memory."""

MOST_CLASSES_OF_A_NETWORK = 1000
"""The same for a `NeuralLoss`, whose elements cost a thousand times as much."""

_AGREES = 1e-3  # relative deviation from the numbers above which a closed form is dropped


def analyze(
    loss: Any, classes: int | None = None, *, name: str | None = None, measure: bool = True
) -> dict[str, Any]:
    """Dual-point analysis and loss card of a loss, with a summary in plain sentences.

    Parameters
    ----------
    loss
        An evomal loss, or any callable ``loss(pred, target)`` of logits and class indices.
    classes
        Number of classes, at most `MOST_CLASSES`, or `MOST_CLASSES_OF_A_NETWORK`; required with
        the link ``"softmax"``, None with ``"identity"``.
    name
        Name of the loss in the result.
    measure
        Whether to measure its time, the only result that differs between calls.

    Returns
    -------
    dict
        JSON values, with ``"inf"`` and ``"-inf"`` for infinities, and null for unknown values.

    Raises
    ------
    InputError
        If the number of classes does not match the loss, or the loss cannot be analysed.
    """
    link: Link = getattr(loss, "link", "softmax")
    most = MOST_CLASSES_OF_A_NETWORK if isinstance(loss, NeuralLoss) else MOST_CLASSES
    classes = _checked_classes(link, classes, most)
    asked = probe(loss, classes or 1)
    symbolic = isinstance(loss, SymbolicLoss)
    fields: dict[str, Any] = {
        "loss": name if name is not None else str(loss.expression if symbolic else loss),
        "summary": [],
        "classes": classes,
        "null_epoch": None,
        "zero_error": None,
        "link": link,
        "expression": str(loss.expression) if symbolic else None,
        "phi": loss.phi.tolist() if isinstance(loss, MetaLoss) and not loss.packed else None,
    }
    with np.errstate(all="ignore"):  # a deep expression can overflow
        if classes is not None:
            fields |= _dual_point_fields(loss, asked)
        card = regression_card(asked) if classes is None else classification_card(asked)
    nodes = (loss.size, "exact") if symbolic else (None, "none: not an expression")
    card["nodes"] = entry(*nodes)
    fields["card"] = dict(card)
    fields["summary"] = summary(fields)
    if measure:
        fields["card"]["timing"] = timing(loss, link, classes or 1)
    safe: dict[str, Any] = json_values(fields)
    return safe


def _checked_classes(link: Link, classes: int | None, most: int) -> int | None:
    if link == "identity":
        if classes is not None:
            raise InputError(
                "A loss with link 'identity' has no classes and no dual points; omit the number of "
                "classes, or give another link."
            )
        return None
    if classes is None and link == "sigmoid":
        return 2
    if classes is None:
        raise InputError(f"A loss with link {link!r} needs the number of classes.")
    if isinstance(classes, bool) or not isinstance(classes, (int, np.integer)):
        raise InputError(f"The number of classes must be a whole number, got {classes!r}.")
    if classes < 2:
        raise InputError(f"The number of classes must be at least 2, got {classes}.")
    if classes > most:
        raise InputError(
            f"The number of classes must be at most {most}, got {classes}; analyse the loss with "
            "fewer."
        )
    if link == "sigmoid" and classes != 2:
        raise InputError(f"A loss with link 'sigmoid' has 2 classes, not {classes}.")
    return int(classes)


def _dual_point_fields(loss: Any, asked: Probe) -> dict[str, Any]:
    in_f, in_logits = dual_points(asked)
    forms: tuple[ClosedForm | None, ClosedForm | None] = (None, None)
    if in_f is not None and isinstance(loss, SymbolicLoss):
        forms = confirmed(closed_forms(loss, asked.classes), in_f)
        limits = [None if form is None else form.zero_error_value for form in forms]
        in_f, in_logits = dual_points(asked, (limits[0], limits[1]))
    found = in_f if in_f is not None else in_logits
    both = {name: dual_points(other) for name, other in references(*asked.kind).items()}
    others = {name: of_logits for name, (_, of_logits) in both.items()}
    if in_f is not None:
        others |= {name: of_f for name, (of_f, _) in both.items() if of_f is not None}
    comparison = compared(found, others)
    target, non_target = (None if form is None else asdict(form) for form in forms)
    return {
        "null_epoch": asdict(found.null_epoch),
        "zero_error": asdict(found.zero_error),
        "with_respect_to": "logits" if in_f is None else "f",
        "logits": _point_fields(in_logits),
        "closed_form": {"target": target, "non_target": non_target},
        "pushes_back_overconfidence": found.pushes_back,
        "comparison": {
            "smoothing": SMOOTHING,
            "focusing": FOCUSING,
            "distance": DISTANCE,
            "losses": {
                other: {
                    **_point_fields(others[other]),
                    "logits": _point_fields(both[other][1]),
                    **row,
                }
                for other, row in comparison.items()
            },
            "same_signs": [other for other, row in comparison.items() if row["same_signs"]],
            "nearest": nearest(comparison),
        },
    }


def _point_fields(point: DualPoint) -> dict[str, Any]:
    return {"null_epoch": asdict(point.null_epoch), "zero_error": asdict(point.zero_error)}


def confirmed(
    forms: tuple[ClosedForm | None, ClosedForm | None], found: DualPoint
) -> tuple[ClosedForm | None, ClosedForm | None]:
    """The closed forms that agree with the numbers, because sympy can be wrong."""

    def check(form: ClosedForm | None, null: float | None, end: float | None) -> ClosedForm | None:
        if form is None:
            return None
        pairs = [(form.null_epoch_value, null), (form.zero_error_value, end)]
        good = all(b is None or math.isclose(a, b, rel_tol=_AGREES, abs_tol=1e-6) for a, b in pairs)
        return form if good else None

    null, end = found.null_epoch, found.zero_error
    return (
        check(forms[0], null.target, end.target),
        check(forms[1], null.non_target, end.non_target),
    )


def json_values(value: Any) -> Any:
    """The same with infinities as text and None for NaN, because JSON has neither."""
    if isinstance(value, dict):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
