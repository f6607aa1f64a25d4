"""The logarithm of the hyperbolic cosine of the residual."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor
from torch.nn import functional

from evomal.errors import InputError
from evomal.losses import fields as read
from evomal.losses.base import Loss, Reduction
from evomal.losses.inputs import computed


class LogCoshLoss(Loss):
    r"""log cosh(y − f): half the square of a small residual, the absolute value of a large one.

    Computed as \|r\| + log(1 + exp(−2\|r\|)) − log 2, which does not overflow.

    Parameters
    ----------
    reduction
        As in ``torch.nn.MSELoss``.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__("identity", reduction)

    @property
    def size(self) -> int:
        """Number of weights, which is none."""
        return 0

    def forward(self, pred: Tensor, target: Tensor, **inputs: Tensor | float) -> Tensor:
        """The loss of predictions and targets of the same shape; it takes no extra inputs."""
        pred, dtype = computed(pred, target)
        self._expanded(inputs, pred)  # raises if there are any
        if target.shape != pred.shape:
            raise InputError(
                f"The log-cosh loss takes a target of pred's shape {tuple(pred.shape)}, but target "
                f"has shape {tuple(target.shape)}."
            )
        size = (target.to(pred.dtype) - pred).abs()
        values = size + functional.softplus(-2 * size) - math.log(2)
        if self.reduction != "none":
            values = values.mean() if self.reduction == "mean" else values.sum()
        return values.to(dtype)

    def describe(self) -> dict[str, Any]:
        """See `Loss.describe`."""
        return {
            "formula": "log(cosh(y - f))",
            "python": self.python_form(),
            "link": self.link,
            "inputs": [],
        }

    def python_form(self) -> str:
        """See `Loss.python_form`."""
        setting = "" if self.reduction == "mean" else f'reduction="{self.reduction}"'
        return f"evomal.LogCoshLoss({setting})"

    def to_dict(self) -> dict[str, Any]:
        """The reduction."""
        return {"reduction": self.reduction}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The loss that `to_dict` described; an `InputError` for anything else."""
        return cls(**read.read_fields(fields, {"reduction": read.anything}))

    def extra_repr(self) -> str:
        """The arguments in the module's ``repr``."""
        return f"reduction={self.reduction!r}"
