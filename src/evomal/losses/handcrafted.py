"""Handcrafted softmax losses: modules that stand wherever a learned loss can (paper, appendix A).

f is softmax(logits), y the one-hot target, p = f of the target class, ξ the smoothing, γ the
focusing. All but label smoothing depend on the logits through log p alone, which costs one
cross-entropy (equation 48); what follows are a few operations on one number per sample.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from evomal.errors import InputError
from evomal.losses.base import Loss, Reduction, class_dim, sample_weights
from evomal.losses.form import (
    IGNORE_INDEX,
    NO_INPUTS,
    require_gamma,
    require_number,
    require_smoothing,
)

_HALVES = (torch.float16, torch.bfloat16)


class HandcraftedLoss(Loss):
    """A loss of logits and class indices with fixed parameters, and so without weights φ.

    Called like ``torch.nn.CrossEntropyLoss``: logits (B, C), (B, C, d₁, …) or (C,), targets (B,),
    (B, d₁, …) or () of any integer type. float16 and bfloat16 logits are computed in float32; the
    result has their type, or float32 under autocast, as torch's has.

    Parameters
    ----------
    reduction, weight, ignore_index
        As in ``torch.nn.CrossEntropyLoss``.

    Raises
    ------
    InputError
        If an argument makes no sense, or the targets of a call do not fit.
    """

    formula: ClassVar[str]
    """The loss of one output, as text."""
    setting_names: ClassVar[tuple[str, ...]]
    """Names of the parameters of its own, which are attributes too."""

    def __init__(
        self,
        reduction: Reduction = "mean",
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        no_weights = torch.empty(0)
        if isinstance(weight, Tensor) and weight.is_floating_point():
            no_weights = no_weights.to(weight.dtype)  # which `weight` keeps
        super().__init__(no_weights, "softmax", "identity", reduction, (), weight, ignore_index)
        self.register_buffer("weights", no_weights, persistent=False)

    @property
    def key(self) -> str:
        """Name and parameters."""
        return f"{type(self).__name__}({self._settings()})"

    @property
    def size(self) -> int:
        """Number of weights, which is none."""
        return 0

    def initial_weights(self, rng: np.random.Generator) -> Tensor:
        """No weights."""
        return self.weights.clone()

    def evaluate(
        self,
        pred: Tensor,
        target: Tensor,
        weights: Tensor,
        inputs: Mapping[str, Tensor | float] = NO_INPUTS,
    ) -> Tensor:
        """As `forward`; there are no weights that could change it."""
        return self.forward(pred, target, **inputs)

    def forward(self, pred: Tensor, target: Tensor, **inputs: Tensor | float) -> Tensor:
        """The loss of logits (B, C, …) and class indices (B, …); it takes no further inputs."""
        if inputs:
            self._expanded(inputs, pred)  # raises: it has none
        fits = target.shape == pred.shape[:1] if pred.ndim == 2 else self._fits(pred, target)
        if not fits or target.is_floating_point():
            raise InputError(
                f"A handcrafted loss takes logits (B, C, …) and class indices (B, …), but pred has "
                f"shape {tuple(pred.shape)} and target shape {tuple(target.shape)} and type "
                f"{target.dtype}."
            )
        weight = self._buffers["weight"]
        if weight is not None:
            self._require_class_weights(weight, pred.shape[class_dim(pred)])
        if pred.dtype not in _HALVES:
            return self._of_logits(pred, target.long(), weight)
        value = self._of_logits(pred.float(), target.long(), weight)
        return value if torch.is_autocast_enabled(pred.device.type) else value.to(pred.dtype)

    def _fits(self, pred: Tensor, target: Tensor) -> bool:
        return pred.ndim > 0 and target.shape == self._samples(pred)

    @abstractmethod
    def _of_logits(self, pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """The reduced loss of logits in at least single precision and classes in long."""

    def to_dict(self) -> dict[str, Any]:
        """Parameters and settings as JSON values."""
        return {
            **{name: getattr(self, name) for name in self.setting_names},
            "reduction": self.reduction,
            "weight": None if self.weight is None else self.weight.tolist(),
            "dtype": str(self.weights.dtype).removeprefix("torch."),
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The loss that `to_dict` described.

        Raises
        ------
        InputError
            If a field makes no sense.
        """
        weight = fields["weight"]
        if weight is not None:
            weight = torch.tensor(weight, dtype=getattr(torch, fields["dtype"]))
        own: dict[str, Any] = {name: fields[name] for name in cls.setting_names}
        own |= {"reduction": fields["reduction"], "ignore_index": fields["ignore_index"]}
        return cls(weight=weight, **own)

    def extra_repr(self) -> str:
        """What printing the module shows."""
        return f"{self._settings()}, reduction={self.reduction!r}"

    def _settings(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.setting_names)


Curve = tuple[float, Tensor, float]
"""A loss as factor × values + shift; numbers are cheaper applied after the reduction."""


class TargetLoss(HandcraftedLoss):
    """A loss y·ℓ(log f): of the target class alone, through the logarithm of its probability.

    `weight` scales a sample by the weight of its target class.
    """

    @abstractmethod
    def curve(self, log_p: Tensor, classes: int) -> Curve:
        """ℓ(log p) for log p ≤ 0 of any shape and C classes."""

    def elementwise(
        self, y: Tensor, f: Tensor, weights: Tensor, inputs: Mapping[str, Tensor] = NO_INPUTS
    ) -> Tensor:
        """The loss of every output; `y`, `f` and the result have the shape of the logits."""
        log_f = f.clamp_min(torch.finfo(f.dtype).tiny).log()
        factor, values, shift = self.curve(log_f, f.shape[class_dim(f)])
        return y * (factor * values + shift)

    def forward(self, pred: Tensor, target: Tensor, **inputs: Tensor | float) -> Tensor:
        """As `HandcraftedLoss.forward`; what is most usual takes a shorter way."""
        if (
            not torch.compiler.is_compiling()
            and pred.ndim == 2
            and not target.is_floating_point()
            and target.ndim == 1
            and len(target) == len(pred) > 0
            and pred.is_cpu
            and pred.dtype not in _HALVES
            and self.reduction == "mean"
            and self.ignore_index < 0
            and self._buffers["weight"] is None
            and not inputs
        ):
            try:  # a CPU tells an index out of range by itself, at no cost
                log_p = pred.log_softmax(1).gather(1, target.long().unsqueeze(1))
            except RuntimeError:  # something is ignored, or is no class, which torch says below
                pass
            else:
                factor, values, shift = self.curve(log_p, pred.shape[1])
                return torch.rsub(values.sum(), shift, alpha=-factor / len(target))
        return super().forward(pred, target, **inputs)

    def _of_logits(self, pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        kept = target != self.ignore_index
        factor, values, shift = self.curve(
            self._log_p(pred, target, kept), pred.shape[class_dim(pred)]
        )
        values = torch.where(kept, values * factor + shift, 0.0)
        by_sample = kept
        if weight is not None:
            by_sample = sample_weights(weight.to(values.dtype), target, kept)
            values = values * by_sample
        if self.reduction == "none":
            return values
        return values.sum() / by_sample.sum() if self.reduction == "mean" else values.sum()

    def _log_p(self, pred: Tensor, target: Tensor, kept: Tensor) -> Tensor:
        """The targets' log p, in the shape of `target`; 0 where none is `kept`."""
        dim = class_dim(pred)
        if not torch.compiler.is_compiling():
            log_f = pred.log_softmax(dim)
            return -functional.nll_loss(
                log_f, target, ignore_index=self.ignore_index, reduction="none"
            )
        # One pass over the logits less in the backward pass of what a compiler makes of it.
        logits = pred - pred.detach().amax(dim, keepdim=True)
        of_target = logits.gather(dim, torch.where(kept, target, 0).unsqueeze(dim)).squeeze(dim)
        return torch.where(kept, of_target - logits.exp().sum(dim).log(), 0.0)


class AbsoluteCrossEntropyLoss(TargetLoss):
    """Absolute cross-entropy: φ₀·y·|log(φ₁ f)| (paper, equation 19).

    Computed as φ₀·|log p + log φ₁|. For φ₁ ≤ 1 the argument is never positive, so that the loss is
    φ₀·(−log p − log φ₁), smooth, and with φ₀ = φ₁ = 1 cross-entropy itself. For φ₁ > 1 it has a
    kink at p = 1/φ₁, where its gradient is taken as 0, and above it drives p down.

    Parameters
    ----------
    phi0
        φ₀ > 0, a factor.
    phi1
        φ₁ > 0; above 1 it acts against overconfidence, as label smoothing does (section A.5).
    reduction, weight, ignore_index
        As in ``torch.nn.CrossEntropyLoss``.
    """

    formula = "φ₀ y |log(φ₁ f)|"
    setting_names = ("phi0", "phi1")

    def __init__(
        self,
        phi0: float = 1.0,
        phi1: float = 1.0,
        reduction: Reduction = "mean",
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        self.phi0 = require_number("phi0", phi0, "above 0", lambda phi: phi > 0)
        self.phi1 = require_number("phi1", phi1, "above 0", lambda phi: phi > 0)

    def curve(self, log_p: Tensor, classes: int) -> Curve:
        """φ₀ times |log p + log φ₁|; -φ₀ times what is inside where that is never positive."""
        shifted = log_p if self.phi1 == 1 else log_p + math.log(self.phi1)
        return (-self.phi0, shifted, 0.0) if self.phi1 <= 1 else (self.phi0, shifted.abs(), 0.0)


class FocalLoss(TargetLoss):
    """Focal loss: −y·(1 − f)^γ·log f (paper, equation 50).

    1 − p is computed as −expm1(log p), as exact as log p itself.

    Parameters
    ----------
    gamma
        γ ≥ 0; 0 is cross-entropy.
    reduction, weight, ignore_index
        As in ``torch.nn.CrossEntropyLoss``.
    """

    formula = "-y (1 - f)^γ log f"
    setting_names = ("gamma",)

    def __init__(
        self,
        gamma: float = 2.0,
        reduction: Reduction = "mean",
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        self.gamma = require_gamma(gamma)

    def curve(self, log_p: Tensor, classes: int) -> Curve:
        """-1 times (1 − p)^γ·log p."""
        return -1.0, focused(log_p, self.gamma), 0.0


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

    def elementwise(
        self, y: Tensor, f: Tensor, weights: Tensor, inputs: Mapping[str, Tensor] = NO_INPUTS
    ) -> Tensor:
        """The loss of every output; `y`, `f` and the result have the shape of the logits."""
        log_f = f.clamp_min(torch.finfo(f.dtype).tiny).log()
        return -(y * (1 - self.smoothing) + self.smoothing / f.shape[class_dim(f)]) * log_f

    def _of_logits(self, pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        return functional.cross_entropy(
            pred,
            target,
            None if weight is None else weight.to(pred.dtype),
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.smoothing,
        )


def focused(log_p: Tensor, gamma: float) -> Tensor:
    """(1 − p)^γ·log p (equation 50), with a finite gradient at p = 1 for every γ ≥ 0.

    The smallest normal number is added to 1 − p, which changes no value other than 0.
    """
    rest = torch.rsub(torch.expm1(log_p), torch.finfo(log_p.dtype).tiny)
    return rest.pow(gamma) * log_p
