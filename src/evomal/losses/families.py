"""Losses by name and a number, such as ``pinball:0.9``: those that an expert would choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evomal.errors import InputError, quoted
from evomal.losses.base import Loss
from evomal.losses.form import Form, Link, require_real
from evomal.losses.handcrafted import HandcraftedLoss, LabelSmoothingLoss
from evomal.losses.known import weighted_loss
from evomal.losses.target import FocalLoss, GeneralizedCrossEntropyLoss

_PINBALL = "max(sub(y, f), sub(f, y))"
_HUBER = "mul(min(abs(sub(y, f)), 1), sub(abs(sub(y, f)), min(abs(sub(y, f)), 1)))"
_WEIGHTED = "mul(-1, add(mul(y, log(f)), mul(sub(1, y), log(sub(1, f)))))"


@dataclass(frozen=True)
class Family:
    """Losses that differ in one number.

    Attributes
    ----------
    make
        The loss for a number and a form; raises an `InputError` if the number is out of range.
    link
        The link that its losses have.
    example
        A name with a number.
    description
        In words, with the meaning of the number.
    """

    make: Callable[[float, Form], Loss]
    link: Link
    example: str
    description: str


def _pinball(quantile: float, form: Form) -> Loss:
    require_real("quantile", quantile, "between 0 and 1", lambda q: 0 < q < 1)
    return weighted_loss(_PINBALL, form, {1: quantile, 4: 1 - quantile})


def _huber(delta: float, form: Form) -> Loss:
    require_real("delta", delta, "above 0", lambda value: value > 0)
    return weighted_loss(_HUBER, form, {6: delta, 12: 0.5, 17: delta})


def _weighted(weight: float, form: Form) -> Loss:
    require_real("weight of positives", weight, "above 0", lambda value: value > 0)
    return weighted_loss(_WEIGHTED, form, {3: weight})


def _handcrafted(cls: type[HandcraftedLoss]) -> Callable[[float, Form], Loss]:
    def make(number: float, form: Form) -> Loss:
        (setting,) = cls.setting_names
        own: dict[str, Any] = {setting: number}
        return cls(**own, weight=form.weight, ignore_index=form.ignore_index)

    return make


FAMILIES: dict[str, Family] = {
    "pinball": Family(
        _pinball, "identity", "pinball:0.9", "q (y - f) if y > f, else (1 - q) (f - y): quantile q"
    ),
    "huber": Family(_huber, "identity", "huber:1", "r²/2 if |r| ≤ δ, else δ (|r| - δ/2)"),
    "weighted": Family(
        _weighted,
        "sigmoid",
        "weighted:30",
        "binary cross-entropy in which positives count w times, as pos_weight in BCEWithLogitsLoss",
    ),
    "focal": Family(_handcrafted(FocalLoss), "softmax", "focal:2", "-y (1 - f)^γ log f"),
    "gce": Family(
        _handcrafted(GeneralizedCrossEntropyLoss),
        "softmax",
        "gce:0.7",
        "y (1 - f^q) / q: generalised cross-entropy, robust to wrong labels",
    ),
    "label-smoothing": Family(
        _handcrafted(LabelSmoothingLoss), "softmax", "label-smoothing:0.1", "as in CrossEntropyLoss"
    ),
}
"""Families by name."""


def family_of(text: str) -> str | None:
    """The family that a name such as ``pinball:0.9`` belongs to; None if to none."""
    name, colon, _ = text.partition(":")
    return name if colon and name in FAMILIES else None


def family_loss(text: str, form: Form) -> Loss:
    """The loss with a name such as ``pinball:0.9``.

    Parameters
    ----------
    text
        A name for which `family_of` is not None.
    form
        The form of the loss, if it has the link of the family.

    Raises
    ------
    InputError
        If there is no number, or it is out of range.
    """
    name, _, given = text.partition(":")
    family = FAMILIES[name]
    try:
        number = float(given)
    except ValueError as error:
        raise InputError(
            f"The loss {quoted(text)} needs a number after the colon, as in {family.example}."
        ) from error
    return family.make(number, form if form.link == family.link else Form(family.link))
