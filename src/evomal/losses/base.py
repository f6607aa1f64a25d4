"""The base class of losses: modules from (pred, target) to a scalar."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from evomal.errors import InputError, require_name
from evomal.losses.class_indices import class_dim
from evomal.losses.form import (
    IGNORE_INDEX,
    Link,
    class_weights,
    input_names,
    require_ignore_index,
)
from evomal.losses.inputs import extra_input

Reduction = Literal["mean", "sum", "none"]


class Loss(nn.Module, ABC):
    """A loss of raw outputs and targets, called like PyTorch's losses.

    Parameters
    ----------
    link
        How to compute f and y. ``"softmax"``: f = softmax(pred) over classes,
        y = one-hot(target). ``"sigmoid"``: f = sigmoid(pred), y = target in [0, 1].
        ``"identity"``: f = pred, y = target.
    reduction
        As in torch.nn. With ``"softmax"`` the elements are summed over classes first, so
        ``"none"`` has the target's shape and ``"mean"`` is over samples that are not ignored,
        weighted by `weight`; otherwise all elements count.
    inputs
        Names of extra inputs, given as keyword arguments.
    weight
        With ``"softmax"`` only, as in ``torch.nn.CrossEntropyLoss``: one weight for the elements of
        each class, shape (C,).
    ignore_index
        With class indices as target, as in ``torch.nn.CrossEntropyLoss``: samples of this class
        are ignored. The mean over ignored samples only is NaN, as in torch.

    Raises
    ------
    InputError
        If an argument is invalid.
    """

    weight: Tensor | None

    def __init__(
        self,
        link: Link,
        reduction: Reduction,
        inputs: Sequence[str] = (),
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        require_name("link", link, get_args(Link))
        require_name("reduction", reduction, get_args(Reduction))
        self.link = link
        self.reduction = reduction
        self.inputs = input_names(inputs)
        self.ignore_index = require_ignore_index(ignore_index)
        self.register_buffer("weight", None if weight is None else class_weights(weight, link))

    @property
    @abstractmethod
    def size(self) -> int:
        """Complexity, for breaking ties: the number of nodes, or of weights."""

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """The extra inputs that must be given."""
        return self.inputs

    @abstractmethod
    def forward(self, pred: Tensor, target: Tensor, **inputs: Tensor | float) -> Tensor:
        """The loss of raw outputs.

        Parameters
        ----------
        pred
            Raw outputs of the network: with ``link="softmax"`` logits (B, C), (B, C, d₁, …) or (C,)
            as in ``torch.nn.CrossEntropyLoss``, otherwise any shape.
        target
            With ``"softmax"`` class indices (B,), (B, d₁, …) or (), or class probabilities of the
            shape of `pred`; otherwise the shape of `pred`.
        inputs
            The extra inputs by name: a number for all samples, one per sample (B,), or one per
            target. Unused inputs can be left out. ``torch.compile`` needs one graph for all
            tensors, and one for all Python numbers after the first.

        Returns
        -------
        Tensor
            A scalar, or with ``reduction="none"`` one loss per sample or element. Its dtype follows
            torch's losses: that of `pred`, promoted with a floating-point target, and at least
            float32 under autocast. float16 and bfloat16 are computed in float32; only the result
            is rounded, to infinity if it is too large.

        Raises
        ------
        InputError
            If the shapes do not match (targets are not broadcast), an input is missing, or `pred`
            and `target` are not real tensors on one device.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """A description of the loss, as JSON values by name.

        Every loss has ``link``, ``inputs`` and ``python`` (see `python_form`). If applicable:
        ``formula`` and ``latex`` in y and f, ``expression`` (prefix form without weights),
        ``nodes``, ``phi``, ``network`` (its widths), and ``parameters``, by name, or their number.
        """

    @abstractmethod
    def python_form(self) -> str | None:
        """Python code for an equal loss: ``evomal.SymbolicLoss("mul(y, f)", link="softmax")``.

        Weights have as many digits as their dtype needs; default arguments are left out. The code
        needs ``import evomal`` and, if the weights do not have torch's default dtype, ``import
        torch``. None for a loss without a short expression.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All that `from_dict` needs, as JSON values.

        Raises
        ------
        InputError
            If the loss contains a value that JSON cannot represent.
        """

    @classmethod
    @abstractmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The loss that `to_dict` described.

        Raises
        ------
        InputError
            If a field is missing, unknown, or invalid.
        """

    def _class_weights(self, pred: Tensor) -> Tensor | None:
        """`weight` in the dtype of `pred`; an `InputError` unless there is one per class."""
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

    def _samples(self, pred: Tensor) -> torch.Size:
        """The shape of samples with one target each: that of `pred` without its classes."""
        if self.link != "softmax":
            return pred.shape
        dim = class_dim(pred)
        return pred.shape[:dim] + pred.shape[dim + 1 :]

    def _expanded(self, inputs: Mapping[str, Tensor | float], pred: Tensor) -> dict[str, Tensor]:
        """The extra inputs, of shapes that broadcast to that of `pred`."""
        expanded = {}
        samples = self._samples(pred)
        for name, given in inputs.items():
            if name not in self.inputs:
                known = ", ".join(self.inputs) or "none"
                raise InputError(
                    f"The loss has no extra input {name!r}; its extra inputs: {known}."
                )
            value = extra_input(name, given, pred)
            if value.shape != samples[: value.ndim]:
                raise InputError(
                    f"The input {name!r} of the loss must be a number or have one value per sample "
                    f"or target, such as {tuple(samples)}, but has shape {tuple(value.shape)}."
                )
            value = value.reshape((*value.shape, *[1] * (len(samples) - value.ndim)))
            if self.link == "softmax":
                value = value.unsqueeze(class_dim(pred))
            expanded[name] = value
        return expanded
