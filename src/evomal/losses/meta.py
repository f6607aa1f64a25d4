"""Losses with tunable weights φ: M_φ(y, f) for every output element."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from evomal.errors import InputError, require_name
from evomal.losses import fields as read
from evomal.losses.base import Loss, Reduction
from evomal.losses.class_indices import class_dim, one_hot, sample_weights
from evomal.losses.form import HALVES, IGNORE_INDEX, NO_INPUTS, Link, positive, real_numbers
from evomal.losses.inputs import computed

Activation = Literal["identity", "softplus"]


class MetaLoss(Loss):
    """A loss M_φ(y, f) applied to every output element.

    Parameters
    ----------
    phi
        φ, one dimension. A buffer: saved with the module, no gradient in ordinary training.
    activation
        Applied to every element before any sum: ``"identity"``, or ``"softplus"`` for a
        non-negative loss (paper, section 3.2.3).
    link, reduction, inputs, weight, ignore_index
        As in `Loss`; `weight` is converted to the dtype of `phi`.

    Raises
    ------
    InputError
        If an argument is invalid.
    """

    phi: Tensor

    structure_readers: ClassVar[Mapping[str, read.Reader]]
    """Readers of the fields of `to_dict` that define the loss without φ."""
    packed: ClassVar[bool] = False
    """Whether φ is long and stored as bytes instead of readable numbers."""

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
        super().__init__(link, reduction, inputs, weight, ignore_index)
        require_name("activation", activation, get_args(Activation))
        self.activation = activation
        self.register_buffer("phi", phi)
        if self.weight is not None:
            self.weight = self.weight.to(phi.dtype)

    @property
    @abstractmethod
    def structure(self) -> str:
        """Equal for losses that differ only in φ; names the random stream of φ₀."""

    @abstractmethod
    def initial_phi(self, rng: np.random.Generator) -> Tensor:
        """φ₀, the starting point for optimising φ; shape and dtype of `phi`."""

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
        """`elementwise` as factor × tensor, because factors are cheaper after the reduction.

        The factor is a number, a 0-dimensional tensor, or None for 1.
        """
        return None, self.elementwise(y, f, phi, inputs)

    def require_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        """Raise an `InputError` if one of the required inputs is missing."""
        missing = [name for name in self.required_inputs if name not in inputs]
        if missing:
            raise InputError(
                f"The loss also depends on {', '.join(missing)}; call it as "
                f"loss(pred, target, {missing[0]}=…)."
            )

    def forward(self, pred: Tensor, target: Tensor, **inputs: Tensor | float) -> Tensor:
        """The loss of raw outputs; see `Loss.forward`."""
        return self.evaluate(pred, target, self.phi, inputs)

    def evaluate(
        self,
        pred: Tensor,
        target: Tensor,
        phi: Tensor,
        inputs: Mapping[str, Tensor | float] = NO_INPUTS,
    ) -> Tensor:
        """Like `forward` for a given φ: differentiable in `phi` and in `pred`."""
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
        """The loss in the dtype of `pred`, which has at least single precision."""
        if self.link == "softmax" and not target.is_floating_point():
            target = target.long()  # smaller integers compare and index differently
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
            # without samples, 0 · NaN is NaN, as in torch
            scale = (1.0 if factor is None else factor) / count if count else math.nan
            return _times(values.sum(), scale)
        if self.link == "softmax":
            values = self._reduce_classes(values, target, kept)
        elif self.reduction != "none":
            values = values.mean() if self.reduction == "mean" else values.sum()
        return values if factor is None else _times(values, factor)

    def _reduce_classes(self, values: Tensor, target: Tensor, kept: Tensor | None) -> Tensor:
        """Sum over the classes, then reduce over samples that are not ignored, as torch does."""
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
            If they are not numbers, or their number is wrong.
        """
        twin = copy.deepcopy(self)
        phi = real_numbers("weights", phi, like=self.phi)
        if phi.shape != self.phi.shape:
            raise InputError(
                f"The loss has {len(self.phi)} weights, but the given phi has shape {_shape(phi)}."
            )
        twin.phi = phi
        return twin

    def scaled(self, factor: float) -> Self:
        """A loss that is this many times as large, up to rounding.

        The loss itself if its weights cannot express a factor: one with an activation, or of a
        class that does not override this.

        Raises
        ------
        InputError
            If the factor is not a finite number above 0.
        """
        positive(factor)
        return self

    @property
    @abstractmethod
    def structure_fields(self) -> dict[str, Any]:
        """The fields read by `structure_readers`, as JSON values."""

    def to_dict(self) -> dict[str, Any]:
        """Structure, weights and settings as JSON values."""
        return {
            **self.structure_fields,
            "phi": read.packed_text(self.phi) if self.packed else self.phi.tolist(),
            "dtype": read.dtype_name(self.phi),
            "link": self.link,
            "activation": self.activation,
            "reduction": self.reduction,
            "inputs": list(self.inputs),
            "weight": None if self.weight is None else self.weight.tolist(),
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The loss that `to_dict` described; an `InputError` for anything else."""
        readers = {
            **cls.structure_readers,
            "phi": read.text if cls.packed else read.numbers,
            "dtype": read.dtype,
            "link": read.anything,
            "activation": read.anything,
            "reduction": read.anything,
            "inputs": read.texts,
            "weight": read.optional(read.numbers),
            "ignore_index": read.integer,
        }
        values = read.read_fields(fields, readers)
        dtype, phi, weight = (values.pop(name) for name in ("dtype", "phi", "weight"))
        return cls(
            phi=read.unpacked(phi, dtype) if cls.packed else read.tensor(phi, dtype),
            weight=None if weight is None else read.tensor(weight, dtype),
            **values,
        )

    def _arguments(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Target y and prediction f from raw outputs, both of the shape of `pred`.

        Also a mask of the samples that are not ignored, of the shape of `target`; None for all.
        """
        if self.link == "softmax":
            if pred.ndim == 0:
                raise InputError("A softmax loss takes logits (B, C, …), but pred has shape ().")
            dim = class_dim(pred)
            f = torch.softmax(pred, dim)
            if target.is_floating_point() and target.shape == pred.shape:
                if self.ignore_index >= 0:
                    raise InputError(
                        f"The loss ignores class {self.ignore_index}, so it needs class indices "
                        "as target, not class probabilities."
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


def _times(values: Tensor, factor: Any) -> Tensor:
    """The product, avoiding the float64 tangent of number × 0-dimensional tensor in torch.func."""
    if isinstance(factor, Tensor):
        return values * factor
    return values * float(factor) if values.ndim else torch.rsub(values, 0.0, alpha=-factor)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
