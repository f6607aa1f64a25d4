"""What every learned loss is: a module from (pred, target) to a scalar, with weights φ."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from evomal.errors import InputError
from evomal.expressions.primitives import is_input_name

Link = Literal["softmax", "sigmoid", "identity"]
Activation = Literal["identity", "softplus"]
Reduction = Literal["mean", "sum", "none"]

IGNORE_INDEX = -100
"""The class index that torch's losses ignore by default."""

NO_INPUTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Form:
    """How a loss reads what it is given; a task fixes it for all losses that are learned on it.

    The fields are those of `Loss`, but that `weight` holds numbers.
    """

    link: Link
    inputs: tuple[str, ...] = ()
    weight: tuple[float, ...] | None = None
    ignore_index: int = IGNORE_INDEX

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        weight = None if self.weight is None else list(self.weight)
        return {**vars(self), "inputs": list(self.inputs), "weight": weight}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Form:
        """The form that `to_dict` described."""
        weight = None if fields["weight"] is None else tuple(fields["weight"])
        return cls(**{**fields, "inputs": tuple(fields["inputs"]), "weight": weight})


class Loss(nn.Module, ABC):
    """A loss M_φ(y, f) applied to every output element, called like torch's own losses.

    Parameters
    ----------
    weights
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

    weights: Tensor
    weight: Tensor | None

    def __init__(
        self,
        weights: Tensor,
        link: Link,
        activation: Activation,
        reduction: Reduction,
        inputs: Sequence[str] = (),
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        for name, value, known in [
            ("link", link, get_args(Link)),
            ("activation", activation, get_args(Activation)),
            ("reduction", reduction, get_args(Reduction)),
        ]:
            if value not in known:
                raise InputError(f"Unknown {name} {value!r}; choose from {', '.join(known)}.")
        self.link = link
        self.activation = activation
        self.reduction = reduction
        if not isinstance(ignore_index, int):
            raise InputError(f"The ignore_index must be an integer, but is {ignore_index!r}.")
        self.inputs = tuple(inputs)
        for name in self.inputs:
            require_input_name(name)
        self.ignore_index = ignore_index
        self.register_buffer("weights", weights)
        by_class = None if weight is None else class_weights(weight, link).to(weights.dtype)
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
    def initial_weights(self, rng: np.random.Generator) -> Tensor:
        """φ₀, where optimising the weights begins; shape and dtype of `weights`."""

    @abstractmethod
    def elementwise(
        self, y: Tensor, f: Tensor, weights: Tensor, inputs: Mapping[str, Tensor] = NO_INPUTS
    ) -> Tensor:
        """M_φ(y, f) for every element; `y`, `f` and the result have the same shape.

        The further `inputs` have shapes that broadcast to it.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All that `from_dict` needs, as JSON values."""

    @classmethod
    @abstractmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
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
            target. Those that the loss does not depend on can be left out.

        Returns
        -------
        Tensor
            A scalar, or with ``reduction="none"`` one loss per sample or element.

        Raises
        ------
        InputError
            If the shapes do not fit, as no target is ever broadcast, or an input is missing.
        """
        return self.evaluate(pred, target, self.weights, inputs)

    def evaluate(
        self,
        pred: Tensor,
        target: Tensor,
        weights: Tensor,
        inputs: Mapping[str, Tensor | float] = NO_INPUTS,
    ) -> Tensor:
        """As `forward`, with φ given: differentiable in `weights` as well as in `pred`."""
        if self.link == "softmax" and not target.is_floating_point():
            target = target.long()  # smaller integers would compare and index otherwise
        y, f = self._arguments(pred, target)
        values = self.elementwise(y, f, weights, self._expanded(inputs, pred))
        if self.activation == "softplus":
            values = nn.functional.softplus(values)
        if self.link == "softmax":
            return self._reduce_classes(values, target)
        if self.reduction == "mean":
            return values.mean()
        return values.sum() if self.reduction == "sum" else values

    def _reduce_classes(self, values: Tensor, target: Tensor) -> Tensor:
        """Sum over the classes, then the reduction over what is not ignored, all as torch does."""
        dim = _class_dim(values)
        if self.weight is not None:
            if len(self.weight) != values.shape[dim]:
                raise InputError(
                    f"The loss has {len(self.weight)} class weights, but pred has "
                    f"{values.shape[dim]} classes."
                )
            by_class = (-1, *[1] * (values.ndim - dim - 1))
            values = values * self.weight.to(values.dtype).reshape(by_class)
        values = values.sum(dim=dim)
        count: Tensor | int = values.numel()
        if not target.is_floating_point():
            kept = target != self.ignore_index
            values = torch.where(kept, values, 0.0)
            if self.weight is None:
                count = kept.sum()
            else:
                count = torch.where(kept, self.weight[torch.where(kept, target, 0)], 0.0).sum()
        if self.reduction == "mean":
            return values.sum() / count
        return values.sum() if self.reduction == "sum" else values

    def with_weights(self, weights: Tensor | Sequence[float]) -> Self:
        """A copy of this loss with other weights φ (detached).

        Raises
        ------
        InputError
            If their number differs.
        """
        twin = copy.deepcopy(self)
        phi = torch.as_tensor(weights, dtype=self.weights.dtype, device=self.weights.device)
        if phi.shape != self.weights.shape:
            raise InputError(
                f"The loss has {len(self.weights)} weights, but those given have shape "
                f"{_shape(phi)}."
            )
        twin.weights = phi.detach().clone()
        return twin

    def _arguments(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Target y and prediction f of raw outputs, both of the shape of `pred`."""
        if self.link == "softmax":
            if pred.ndim == 0:
                raise InputError("A softmax loss takes logits (B, C, …), but pred has shape ().")
            dim = _class_dim(pred)
            f = torch.softmax(pred, dim)
            if target.is_floating_point() and target.shape == pred.shape:
                return target.to(f.dtype), f
            if target.is_floating_point() or target.shape != self._samples(pred):
                raise InputError(
                    f"A softmax loss takes class indices of shape {tuple(self._samples(pred))} for "
                    f"logits of shape {_shape(pred)}, but target has shape {_shape(target)} and "
                    f"type {target.dtype}."
                )
            classes = torch.where(target == self.ignore_index, 0, target)
            return torch.zeros_like(f).scatter_(dim, classes.unsqueeze(dim), 1.0), f
        if target.shape != pred.shape:
            raise InputError(
                f"A loss with link {self.link!r} takes a target of pred's shape {_shape(pred)}, "
                f"but target has shape {_shape(target)}."
            )
        return target.to(pred.dtype), torch.sigmoid(pred) if self.link == "sigmoid" else pred

    def _samples(self, pred: Tensor) -> torch.Size:
        """The shape of what has one target each: that of `pred` without its classes."""
        if self.link != "softmax":
            return pred.shape
        dim = _class_dim(pred)
        return pred.shape[:dim] + pred.shape[dim + 1 :]

    def _expanded(self, inputs: Mapping[str, Tensor | float], pred: Tensor) -> dict[str, Tensor]:
        """The further inputs, of shapes that broadcast to that of `pred`."""
        expanded = {}
        samples = self._samples(pred)
        for name, given in inputs.items():
            if name not in self.inputs:
                known = ", ".join(self.inputs) or "none"
                raise InputError(f"The loss has no further input {name!r}; those it has: {known}.")
            value = torch.as_tensor(given, dtype=pred.dtype, device=pred.device)
            if value.shape != samples[: value.ndim]:
                raise InputError(
                    f"The input {name!r} of the loss must be a number or have one value per sample "
                    f"or target, as in {tuple(samples)}, but has shape {_shape(value)}."
                )
            value = value.reshape(*value.shape, *[1] * (len(samples) - value.ndim))
            if self.link == "softmax":
                value = value.unsqueeze(_class_dim(pred))
            expanded[name] = value
        return expanded


def require_input_name(name: object) -> None:
    """Raise an `InputError` if a further input of a loss cannot be called so."""
    if not (isinstance(name, str) and is_input_name(name)):
        raise InputError(
            f"A further input of a loss cannot be called {name!r}; choose a word that is no "
            "primitive, not y and not f."
        )


def _class_dim(pred: Tensor) -> int:
    """The dimension of the classes, as in torch's cross-entropy."""
    return 0 if pred.ndim == 1 else 1


def class_weights(weight: Tensor | Sequence[float], link: Link) -> Tensor:
    """Class weights as a tensor of their own, (C,).

    Raises
    ------
    InputError
        If they are no finite numbers of at least 0, or the link is not ``"softmax"``.
    """
    tensor = torch.as_tensor(weight).detach().clone()
    tensor = tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
    if link != "softmax":
        raise InputError(f"Class weights need the link 'softmax', not {link!r}.")
    if tensor.ndim != 1 or not bool((tensor >= 0).all()) or not bool(tensor.isfinite().all()):
        raise InputError("The class weights must be finite numbers of at least 0, one per class.")
    return tensor


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
