"""What every learned loss is: a module from (pred, target) to a scalar, with weights φ."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from evomal.errors import InputError

Link = Literal["softmax", "sigmoid", "identity"]
Activation = Literal["identity", "softplus"]
Reduction = Literal["mean", "sum", "none"]


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
        ``"none"`` has shape (B,) and ``"mean"`` is over the batch; otherwise all elements count.

    Raises
    ------
    InputError
        If an argument is not one of those named.
    """

    weights: Tensor

    def __init__(
        self, weights: Tensor, link: Link, activation: Activation, reduction: Reduction
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
        self.register_buffer("weights", weights)

    @property
    @abstractmethod
    def key(self) -> str:
        """Equal for losses that are the same but for their weights."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Complexity, for breaking ties: the number of nodes, or of weights."""

    @abstractmethod
    def initial_weights(self, rng: np.random.Generator) -> Tensor:
        """φ₀, where optimising the weights begins; shape and dtype of `weights`."""

    @abstractmethod
    def elementwise(self, y: Tensor, f: Tensor, weights: Tensor) -> Tensor:
        """M_φ(y, f) for every element; `y`, `f` and the result have the same shape."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All that `from_dict` needs, as JSON values."""

    @classmethod
    @abstractmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The loss that `to_dict` described."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of raw outputs.

        Parameters
        ----------
        pred
            Raw outputs of the network: (B, C) logits with ``link="softmax"``, else any shape.
        target
            With ``"softmax"`` class indices (B,), or class probabilities (B, C); else the shape of
            `pred`.

        Returns
        -------
        Tensor
            A scalar, or with ``reduction="none"`` one loss per sample or element.

        Raises
        ------
        InputError
            If the shapes do not fit; nothing is ever broadcast.
        """
        return self.evaluate(pred, target, self.weights)

    def evaluate(self, pred: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """As `forward`, with φ given: differentiable in `weights` as well as in `pred`."""
        y, f = self._arguments(pred, target)
        values = self.elementwise(y, f, weights)
        if self.activation == "softplus":
            values = nn.functional.softplus(values)
        if self.link == "softmax":
            values = values.sum(dim=1)
        if self.reduction == "mean":
            return values.mean()
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
            if pred.ndim != 2:
                raise InputError(
                    f"A softmax loss takes logits (B, C), but pred has shape {_shape(pred)}."
                )
            f = torch.softmax(pred, dim=1)
            if target.is_floating_point() and target.shape == pred.shape:
                return target.to(f.dtype), f
            if target.is_floating_point() or target.shape != pred.shape[:1]:
                raise InputError(
                    f"A softmax loss takes class indices of shape {_shape(pred[:, 0])}, but target "
                    f"has shape {_shape(target)} and type {target.dtype}."
                )
            return torch.zeros_like(f).scatter_(1, target.long().unsqueeze(1), 1.0), f
        if target.shape != pred.shape:
            raise InputError(
                f"A loss with link {self.link!r} takes a target of pred's shape {_shape(pred)}, "
                f"but target has shape {_shape(target)}."
            )
        return target.to(pred.dtype), torch.sigmoid(pred) if self.link == "sigmoid" else pred


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
