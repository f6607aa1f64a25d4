"""What every loss is: a module from (pred, target) to a scalar, with weights φ if learned."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from evomal.errors import InputError, require_name
from evomal.losses.arguments import computed, further_input
from evomal.losses.classes import class_dim, one_hot, sample_weights
from evomal.losses.form import (
    HALVES,
    IGNORE_INDEX,
    NO_INPUTS,
    Link,
    class_weights,
    input_names,
    real_numbers,
    require_ignore_index,
)

Activation = Literal["identity", "softplus"]
Reduction = Literal["mean", "sum", "none"]
_LINKS, _ACTIVATIONS, _REDUCTIONS = get_args(Link), get_args(Activation), get_args(Reduction)


class Loss(nn.Module, ABC):
    """A loss M_φ(y, f) applied to every output element, called like torch's own losses.

    Parameters
    ----------
    phi
        φ, one dimension. A buffer: saved with the module, no gradient in ordinary training.
    link
        How raw outputs become f, and the target y. ``"softmax"``: f = softmax(pred) over classes,
        y = one-hot(target). ``"sigmoid"``: f = sigmoid(pred), y = target in [0, 1].
        ``"identity"``: f = pred, y = target.
    activation
        Applied to every element before any sum: ``"identity"``, or ``"softplus"`` for a loss that
        is never negative (paper, section 3.2.3).
    reduction
        As in torch.nn. With ``"softmax"`` the elements are summed over classes first, so
        ``"none"`` has the target's shape and ``"mean"`` is over what is not ignored, weighted by
        `weight`; otherwise all elements count.
    inputs
        Names of further inputs, which are given as keyword arguments.
    weight
        With ``"softmax"`` only, as in ``torch.nn.CrossEntropyLoss``: one weight for the elements of
        each class, shape (C,).
    ignore_index
        With class indices as target, as in ``torch.nn.CrossEntropyLoss``: samples of this class
        add nothing. The mean over none but such is NaN, as torch's.

    Raises
    ------
    InputError
        If an argument makes no sense.
    """

    phi: Tensor
    weight: Tensor | None

    def __init__(
        self,
        phi: Tensor,
        link: Link,
        activation: Activation,
        reduction: Reduction,
        inputs: Sequence[str] = (),
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("link", link, _LINKS),
            ("activation", activation, _ACTIVATIONS),
            ("reduction", reduction, _REDUCTIONS),
        ):
            require_name(name, value, known)
        self.link = link
        self.activation = activation
        self.reduction = reduction
        self.inputs = input_names(inputs)
        self.ignore_index = require_ignore_index(ignore_index)
        self.register_buffer("phi", phi)
        by_class = None if weight is None else class_weights(weight, link).to(phi.dtype)
        self.register_buffer("weight", by_class)

    @property
    @abstractmethod
    def key(self) -> str:
        """Equal for losses that are the same but for their weights."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Complexity, for breaking ties: the number of nodes, or of weights."""

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """The further inputs that cannot be left out."""
        return self.inputs

    @abstractmethod
    def initial_phi(self, rng: np.random.Generator) -> Tensor:
        """φ₀, where optimising the weights begins; shape and dtype of `phi`."""

    @abstractmethod
    def elementwise(
        self, y: Tensor, f: Tensor, phi: Tensor, inputs: Mapping[str, Tensor] = NO_INPUTS
    ) -> Tensor:
        """M_φ(y, f) for every element; `y`, `f` and the result have the same shape.

        The further `inputs` have shapes that broadcast to it.
        """

    def factored(
        self, y: Tensor, f: Tensor, phi: Tensor, inputs: Mapping[str, Tensor] = NO_INPUTS
    ) -> tuple[Any, Tensor]:
        """`elementwise` as factor × tensor, where a factor is cheaper applied after the reduction.

        The factor is a number, a tensor without dimensions, or None for 1.
        """
        return None, self.elementwise(y, f, phi, inputs)

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All that `from_dict` needs, as JSON values."""

    @classmethod
    @abstractmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The loss that `to_dict` described."""

    def forward(self, pred: Tensor, target: Tensor, **inputs: Tensor | float) -> Tensor:
        """The loss of raw outputs.

        Parameters
        ----------
        pred
            Raw outputs of the network: with ``link="softmax"`` logits (B, C), (B, C, d₁, …) or (C,)
            as ``torch.nn.CrossEntropyLoss`` takes them, else any shape.
        target
            With ``"softmax"`` class indices (B,), (B, d₁, …) or (), or class probabilities of the
            shape of `pred`; else the shape of `pred`.
        inputs
            The further inputs by name: a number for all samples, one per sample (B,), or one per
            target. Those that the loss does not depend on can be left out. Under ``torch.compile``
            one graph serves for all tensors, and one for all Python numbers after the first.

        Returns
        -------
        Tensor
            A scalar, or with ``reduction="none"`` one loss per sample or element. Its type is that
            of torch's own losses: that of `pred`, or what `pred` and a target of another floating
            type are promoted to, and under autocast float32 at least. float16 and bfloat16 are
            computed in float32; only the result is rounded, to infinity if it is too large.

        Raises
        ------
        InputError
            If the shapes do not fit, as no target is ever broadcast, an input is missing, or `pred`
            and `target` are no tensors of real numbers on one device.
        """
        return self.evaluate(pred, target, self.phi, inputs)

    def evaluate(
        self,
        pred: Tensor,
        target: Tensor,
        phi: Tensor,
        inputs: Mapping[str, Tensor | float] = NO_INPUTS,
    ) -> Tensor:
        """As `forward`, with φ given: differentiable in `phi` as well as in `pred`."""
        pred, dtype = computed(pred, target)
        if phi.dtype in HALVES:
            phi = phi.float()
        if not phi.is_cpu and phi.device != pred.device:
            raise InputError(
                f"The loss is on {phi.device}, but pred is on {pred.device}; move it with "
                "loss.to(pred.device)."
            )
        alone = pred.ndim == target.ndim == 0 and self.link != "softmax"
        if alone:
            pred, target = pred.reshape(1), target.reshape(1)
        value = self._reduced(pred, target, phi, inputs)
        value = value.reshape(()) if alone else value
        return value if value.dtype == dtype else value.to(dtype)

    def _reduced(
        self, pred: Tensor, target: Tensor, phi: Tensor, inputs: Mapping[str, Tensor | float]
    ) -> Tensor:
        """The loss in the type of `pred`, which has at least single precision."""
        if self.link == "softmax" and not target.is_floating_point():
            target = target.long()  # smaller integers would compare and index otherwise
        y, f, kept = self._arguments(pred, target)
        further = self._expanded(inputs, pred) if inputs else NO_INPUTS
        if self.activation == "softplus":
            factor, values = None, nn.functional.softplus(self.elementwise(y, f, phi, further))
        else:
            factor, values = self.factored(y, f, phi, further)
        if self.reduction == "mean" and kept is None and self.weight is None:
            count = values.numel()
            if self.link == "softmax":
                count //= values.shape[class_dim(values)] or 1
            # without samples 0 · NaN, which is NaN as torch's
            scale = (1.0 if factor is None else factor) / count if count else math.nan
            return _times(values.sum(), scale)
        if self.link == "softmax":
            values = self._reduce_classes(values, target, kept)
        elif self.reduction != "none":
            values = values.mean() if self.reduction == "mean" else values.sum()
        return values if factor is None else _times(values, factor)

    def _class_weights(self, pred: Tensor) -> Tensor | None:
        """`weight` in the type of `pred`, or an `InputError` unless there is one per class."""
        weight = self.weight
        if weight is None:
            return None
        classes = pred.shape[class_dim(pred)]
        if len(weight) != classes:
            raise InputError(
                f"The loss has {len(weight)} class weights, but pred has {classes} classes."
            )
        if weight.device != pred.device:
            raise InputError(
                f"The class weights are on {weight.device}, but pred is on {pred.device}; move "
                "the loss with loss.to(pred.device)."
            )
        return weight.to(pred.dtype)

    def _reduce_classes(self, values: Tensor, target: Tensor, kept: Tensor | None) -> Tensor:
        """Sum over the classes, then the reduction over what is not ignored, all as torch does."""
        dim = class_dim(values)
        weight = self._class_weights(values)
        if weight is not None:
            values = values * weight.reshape(-1, *[1] * (values.ndim - dim - 1))
        values = values.sum(dim=dim)
        count: Tensor | int = values.numel()
        if not target.is_floating_point():
            kept = torch.ones_like(target, dtype=torch.bool) if kept is None else kept
            values = torch.where(kept, values, 0.0)
            count = (kept if weight is None else sample_weights(weight, target, kept)).sum()
        if self.reduction == "mean":
            return values.sum() / count
        return values.sum() if self.reduction == "sum" else values

    def with_phi(self, phi: Tensor | Sequence[float]) -> Self:
        """A copy of this loss with other weights φ (detached).

        Raises
        ------
        InputError
            If they are not numbers, or another number of them.
        """
        twin = copy.deepcopy(self)
        phi = real_numbers("weights", phi, like=self.phi)
        if phi.shape != self.phi.shape:
            raise InputError(
                f"The loss has {len(self.phi)} weights, but those given have shape {_shape(phi)}."
            )
        twin.phi = phi
        return twin

    def _arguments(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Target y and prediction f of raw outputs, both of the shape of `pred`.

        Also which samples are not ignored, of the shape of `target`; None if all.
        """
        if self.link == "softmax":
            if pred.ndim == 0:
                raise InputError("A softmax loss takes logits (B, C, …), but pred has shape ().")
            dim = class_dim(pred)
            f = torch.softmax(pred, dim)
            if target.is_floating_point() and target.shape == pred.shape:
                if self.ignore_index >= 0:
                    raise InputError(
                        f"The loss ignores the class {self.ignore_index}, which needs class "
                        "indices as target, not class probabilities."
                    )
                return target.to(f.dtype), f, None
            fits = target.shape == (pred.shape[:1] if pred.ndim == 2 else self._samples(pred))
            if not fits or target.is_floating_point():
                kind = "floating" if target.is_floating_point() else "integer"
                raise InputError(
                    f"A softmax loss takes class indices of shape {tuple(self._samples(pred))} for "
                    f"logits of shape {_shape(pred)}, or floating-point class probabilities of the "
                    f"logits' shape, but target has shape {_shape(target)} and {kind} type."
                )
            y, kept = one_hot(f, target, dim, self.ignore_index)
            return y, f, kept
        if target.shape != pred.shape:
            raise InputError(
                f"A loss with link {self.link!r} takes a target of pred's shape {_shape(pred)}, "
                f"but target has shape {_shape(target)}."
            )
        f = torch.sigmoid(pred) if self.link == "sigmoid" else pred
        return target if target.dtype == f.dtype else target.to(f.dtype), f, None

    def _samples(self, pred: Tensor) -> torch.Size:
        """The shape of what has one target each: that of `pred` without its classes."""
        if self.link != "softmax":
            return pred.shape
        dim = class_dim(pred)
        return pred.shape[:dim] + pred.shape[dim + 1 :]

    def _expanded(self, inputs: Mapping[str, Tensor | float], pred: Tensor) -> dict[str, Tensor]:
        """The further inputs, of shapes that broadcast to that of `pred`."""
        expanded = {}
        samples = self._samples(pred)
        for name, given in inputs.items():
            if name not in self.inputs:
                known = ", ".join(self.inputs) or "none"
                raise InputError(f"The loss has no further input {name!r}; those it has: {known}.")
            value = further_input(name, given, pred)
            if value.shape != samples[: value.ndim]:
                raise InputError(
                    f"The input {name!r} of the loss must be a number or have one value per sample "
                    f"or target, as in {tuple(samples)}, but has shape {_shape(value)}."
                )
            value = value.reshape(*value.shape, *[1] * (len(samples) - value.ndim))
            if self.link == "softmax":
                value = value.unsqueeze(class_dim(pred))
            expanded[name] = value
        return expanded


def _times(values: Tensor, factor: Any) -> Tensor:
    """The product; number × tensor without dimensions has a tangent of float64 in torch.func."""
    if isinstance(factor, Tensor):
        return values * factor
    return values * float(factor) if values.ndim else torch.rsub(values, 0.0, alpha=-factor)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
