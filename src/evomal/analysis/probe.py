"""A loss prepared for analysis: in double precision, per element and per sample."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evomal.analysis.unprotected import Elementwise, unprotected
from evomal.errors import InputError
from evomal.losses.form import Link

_ELEMENTS = 2**18  # maximum elements of a tensor computed at once
_WITHOUT_EFFECT = 0.02  # maximum relative change of a derivative by an ε that only protects


@dataclass(frozen=True)
class Probe:
    """A loss of `classes` outputs, or of one number with the link ``"identity"``.

    Attributes
    ----------
    link, classes
        How f is computed. With ``"sigmoid"`` there are two classes and one output.
    elementwise
        ℓ(y, f), of tensors of equal shape; None for a loss that only takes logits.
    unprotected
        The same with ε → 0 in the protected primitives; None if not available.
    per_sample
        The loss of logits (N, C) and class indices (N,), shape (N,); of outputs and targets (N,)
        with the other links.
    """

    link: Link
    classes: int
    elementwise: Elementwise | None
    unprotected: Elementwise | None
    per_sample: Callable[[Tensor, Tensor], Tensor]

    @property
    def kind(self) -> tuple[Link, int]:
        """Link and number of classes."""
        return self.link, self.classes

    def slopes(self, y: Tensor, f: Tensor) -> Tensor:
        """∂ℓ/∂f for every element; without ε where it only protects."""
        assert self.elementwise is not None
        found = gradient(self.elementwise, y, f)
        if self.unprotected is None:
            return found
        bare = gradient(self.unprotected, y, f)
        near = (found - bare).abs() <= _WITHOUT_EFFECT * bare.abs()
        return torch.where(near, bare, found)


def by_rows(function: Callable[..., Tensor], width: int, *tensors: Tensor) -> Tensor:
    """Apply a function to the rows of tensors in chunks, which bounds memory.

    `width` is the number of values that the function computes per row.
    """
    rows = max(1, _ELEMENTS // width)
    parts = zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)
    return torch.cat([function(*part) for part in parts])


def gradient(function: Callable[[Tensor, Tensor], Tensor], other: Tensor, at: Tensor) -> Tensor:
    """Derivative of the sum of ``function(other, at)`` by `at`; 0 if it does not depend on it."""

    def part(other: Tensor, at: Tensor) -> Tensor:
        at = at.detach().clone().requires_grad_()
        with torch.enable_grad():
            total = function(other, at).sum() + (0.0 * at).sum()
            (found,) = torch.autograd.grad(total, at)
        return found

    return by_rows(part, at[:1].numel(), other, at)


def probe(loss: Any, classes: int) -> Probe:
    """Prepare a loss for analysis.

    Parameters
    ----------
    loss
        An evomal loss, whose class weights are ignored, or any callable ``loss(pred, target)`` of
        logits and class indices. It may have a `link`, and an ``elementwise(y, f)``, or with an
        attribute `phi` an ``elementwise(y, f, phi)``.
    classes
        Number of classes.

    Raises
    ------
    InputError
        If the loss needs extra inputs, or lacks the methods for the analysis.
    """
    needed = getattr(loss, "required_inputs", ())
    if needed:
        raise InputError(
            f"The loss also depends on {', '.join(needed)}; only losses of y and f can be analysed."
        )
    link: Link = getattr(loss, "link", "softmax")
    twin = copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss
    elementwise = _elementwise(twin)
    if elementwise is not None:
        return of_elements(elementwise, link, classes, unprotected(twin, classes))
    if link != "softmax":
        raise InputError(f"A loss with link {link!r} needs a method elementwise(y, f).")
    return Probe(link, classes, None, None, _by_sample(twin))


def of_elements(
    elementwise: Elementwise, link: Link, classes: int, unprotected: Elementwise | None = None
) -> Probe:
    """The probe of a loss given by its elements."""

    def per_sample(pred: Tensor, target: Tensor) -> Tensor:
        if link == "softmax":
            y = torch.nn.functional.one_hot(target.long(), pred.shape[1]).to(pred.dtype)
            return elementwise(y, torch.softmax(pred, 1)).sum(1)
        f = torch.sigmoid(pred) if link == "sigmoid" else pred
        return elementwise(target.to(pred.dtype), f)

    return Probe(link, classes, elementwise, unprotected, per_sample)


def _elementwise(loss: Any) -> Elementwise | None:
    """ℓ(y, f) of a loss, with its weights and output activation."""
    if not hasattr(loss, "elementwise"):
        return None
    softplus = getattr(loss, "activation", "identity") == "softplus"
    phi = () if getattr(loss, "phi", None) is None else (loss.phi,)

    def elementwise(y: Tensor, f: Tensor) -> Tensor:
        values: Tensor = loss.elementwise(y, f, *phi)
        return nn.functional.softplus(values) if softplus else values

    return elementwise


def _by_sample(loss: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Per-sample losses of a callable that may reduce them."""
    if isinstance(getattr(loss, "reduction", None), str):
        loss = copy.copy(loss)
        loss.reduction = "none"

    def per_sample(pred: Tensor, target: Tensor) -> Tensor:
        values: Tensor = loss(pred, target)
        if values.shape == target.shape:
            return values
        rows = (slice(i, i + 1) for i in range(len(target)))
        return torch.stack([loss(pred[row], target[row]).reshape(()) for row in rows])

    return per_sample
