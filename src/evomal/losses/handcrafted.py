"""Handcrafted softmax losses, usable like learned losses (paper, appendix A)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from evomal.errors import InputError
from evomal.losses import fields as read
from evomal.losses.base import Loss, Reduction
from evomal.losses.class_indices import class_dim
from evomal.losses.form import IGNORE_INDEX, require_smoothing
from evomal.losses.inputs import computed
from evomal.losses.python_form import call_text

_SETTING_READERS = {"relaxed": read.flag}  # all others are numbers


class HandcraftedLoss(Loss):
    """A loss of logits and class indices with fixed parameters, without weights φ.

    Called like ``torch.nn.CrossEntropyLoss``: logits (B, C), (B, C, d₁, …) or (C,), targets (B,),
    (B, d₁, …) or () of any integer dtype. float16 and bfloat16 logits are computed in float32; the
    result has their dtype, or float32 under autocast, as in torch.

    Parameters
    ----------
    reduction, weight, ignore_index
        As in ``torch.nn.CrossEntropyLoss``.

    Raises
    ------
    InputError
        If an argument is invalid, or the targets of a call do not match.
    """

    formula: ClassVar[str]
    """The loss of one output, as text."""
    setting_names: ClassVar[tuple[str, ...]]
    """Names of the parameters of the subclass, which are also attributes."""

    def __init__(
        self,
        reduction: Reduction = "mean",
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__("softmax", reduction, (), weight, ignore_index)

    @property
    def size(self) -> int:
        """Number of weights, which is none."""
        return 0

    @abstractmethod
    def elementwise(self, y: Tensor, f: Tensor) -> Tensor:
        """The loss of every output; `y`, `f` and the result have the shape of the logits."""

    def forward(self, pred: Tensor, target: Tensor, **inputs: Tensor | float) -> Tensor:
        """The loss of logits (B, C, …) and class indices (B, …); it takes no extra inputs."""
        value = None if inputs else self.short_way(pred, target)
        return self.whole_way(pred, target, **inputs) if value is None else value

    def short_way(self, pred: Tensor, target: Tensor) -> Tensor | None:
        """The loss by a faster method; None if the arguments do not allow it."""
        return None

    def whole_way(self, pred: Tensor, target: Tensor, **inputs: Tensor | float) -> Tensor:
        """The loss of any valid arguments; raises for others."""
        pred, dtype = computed(pred, target)
        if inputs:
            self._expanded(inputs, pred)  # raises, because there are no extra inputs
        fits = target.shape == pred.shape[:1] if pred.ndim == 2 else self._fits(pred, target)
        if not fits or target.is_floating_point():
            raise InputError(
                f"A handcrafted loss takes logits (B, C, …) and class indices (B, …), but pred has "
                f"shape {tuple(pred.shape)} and target shape {tuple(target.shape)} and type "
                f"{target.dtype}."
            )
        weight, target = self._class_weights(pred), target.long()
        if pred.ndim == 1:
            value = self._of_logits(pred.unsqueeze(0), target.unsqueeze(0), weight)
            value = value.squeeze(0) if value.ndim else value
        else:
            value = self._of_logits(pred, target, weight)
        return value if value.dtype == dtype else value.to(dtype)

    def _fits(self, pred: Tensor, target: Tensor) -> bool:
        return pred.ndim > 0 and target.shape == self._samples(pred)

    @abstractmethod
    def _of_logits(self, pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """The reduced loss of logits in at least single precision and int64 classes.

        `weight` has the dtype of the logits.
        """

    def describe(self) -> dict[str, Any]:
        """See `Loss.describe`."""
        return {
            "formula": self.formula,
            "python": self.python_form(),
            "link": self.link,
            "inputs": [],
            "parameters": {name: _said(getattr(self, name)) for name in self.setting_names},
        }

    def python_form(self) -> str | None:
        """See `Loss.python_form`; None for a loss that contains a function."""
        settings = {name: getattr(self, name) for name in self.setting_names}
        return None if any(map(callable, settings.values())) else call_text(self, [], **settings)

    def to_dict(self) -> dict[str, Any]:
        """Parameters and settings as JSON values; the dtype is that of the class weights."""
        settings = {name: getattr(self, name) for name in self.setting_names}
        if any(map(callable, settings.values())):
            raise InputError(f"A {type(self).__name__} contains a function, so it cannot be saved.")
        return {
            **settings,
            "reduction": self.reduction,
            "weight": None if self.weight is None else self.weight.tolist(),
            "dtype": None if self.weight is None else read.dtype_name(self.weight),
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The loss that `to_dict` described.

        Raises
        ------
        InputError
            If a field is missing, unknown, or invalid.
        """
        readers = {
            **{name: _SETTING_READERS.get(name, read.number) for name in cls.setting_names},
            "reduction": read.anything,
            "weight": read.optional(read.numbers),
            "dtype": read.optional(read.dtype),
            "ignore_index": read.integer,
        }
        values = read.read_fields(fields, readers)
        dtype, weight = values.pop("dtype"), values.pop("weight")
        if (dtype is None) != (weight is None):
            raise InputError("The fields 'weight' and 'dtype' must both be given, or both be null.")
        return cls(weight=None if weight is None else read.tensor(weight, dtype), **values)

    def extra_repr(self) -> str:
        """The arguments in the module's ``repr``."""
        return f"{self._settings()}, reduction={self.reduction!r}"

    def _settings(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.setting_names)


def _said(value: Any) -> Any:
    """A setting as a JSON value: a function by its name."""
    return getattr(value, "__name__", repr(value)) if callable(value) else value


class LabelSmoothingLoss(HandcraftedLoss):
    """Label smoothing: −Σ (y(1 − ξ) + ξ/C)·log f (paper, equation 40).

    The paper's ξ is torch's: this is ``torch.nn.CrossEntropyLoss(label_smoothing=ξ)``, with
    `weight` too. The second line of equation (40) has the wrong sign before the non-target sum.

    Parameters
    ----------
    smoothing
        ξ in [0, 1).
    reduction, weight, ignore_index
        As in ``torch.nn.CrossEntropyLoss``.
    """

    formula = "-(y (1 - ξ) + ξ/C) log f"
    setting_names = ("smoothing",)

    def __init__(
        self,
        smoothing: float = 0.1,
        reduction: Reduction = "mean",
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        self.smoothing = require_smoothing(smoothing)

    def elementwise(self, y: Tensor, f: Tensor) -> Tensor:
        """The loss of every output; `y`, `f` and the result have the shape of the logits."""
        log_f = f.clamp_min(torch.finfo(f.dtype).tiny).log()
        return -(y * (1 - self.smoothing) + self.smoothing / f.shape[class_dim(f)]) * log_f

    def _of_logits(self, pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        return functional.cross_entropy(
            pred,
            target,
            weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.smoothing,
        )
