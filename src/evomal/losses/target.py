"""Handcrafted losses that depend only on the target's probability (paper, appendix A).

f is softmax(logits), y the one-hot target, p = f of the target class. They depend on the logits
only through log p, which costs one cross-entropy (equation 48), plus a few operations on one number
per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from evomal.losses.base import Reduction
from evomal.losses.class_indices import class_dim, sample_weights
from evomal.losses.form import HALVES, IGNORE_INDEX, require_gamma, require_real
from evomal.losses.handcrafted import HandcraftedLoss
from evomal.losses.target_coefficients import TargetCoefficients


class TargetLoss(HandcraftedLoss):
    """A loss y·ℓ(log f) of the log-probability of the target class.

    `weight` scales a sample by the weight of its target class.
    """

    def coefficients(self, classes: int) -> TargetCoefficients | None:
        """The coefficients of ℓ for C classes; None if ℓ has another form, given by `curve`."""
        return None

    def curve(self, log_p: Tensor, classes: int) -> Tensor:
        """ℓ(log p) for log p ≤ 0 of any shape and C classes."""
        coefficients = self.coefficients(classes)
        if coefficients is None:
            raise NotImplementedError(
                f"{type(self).__name__} defines neither coefficients nor a curve."
            )
        return coefficients.curve(log_p)

    def elementwise(self, y: Tensor, f: Tensor) -> Tensor:
        """The loss of every output; `y`, `f` and the result have the shape of the logits."""
        log_f = f.clamp_min(torch.finfo(f.dtype).tiny).log()
        return y * self.curve(log_f, f.shape[class_dim(f)])

    def short_way(self, pred: Tensor, target: Tensor) -> Tensor | None:
        """The usual mean over a batch on a CPU."""
        if (
            not torch.compiler.is_compiling()
            and isinstance(pred, Tensor)
            and isinstance(target, Tensor)
            and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            and pred.ndim == 2
            and target.ndim == 1
            and len(target) == len(pred) > 0
            and pred.is_cpu
            and target.is_cpu
            and pred.dtype not in HALVES
            and not target.is_floating_point()
            and self.reduction == "mean"
            and self.ignore_index < 0
            and self.weight is None
        ):
            try:  # on a CPU, gather checks for indices out of range at no cost
                log_p = pred.log_softmax(1).gather(1, target.long().unsqueeze(1))
            except RuntimeError:  # a target is ignored or invalid
                pass
            else:
                return self.curve(log_p, pred.shape[1]).mean()
        return None

    def _of_logits(self, pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        kept = target != self.ignore_index
        values = self.curve(self._log_p(pred, target, kept), pred.shape[class_dim(pred)])
        values = torch.where(kept, values, 0.0)
        by_sample = kept
        if weight is not None:
            by_sample = sample_weights(weight, target, kept)
            values = values * by_sample
        if self.reduction == "none":
            return values
        return values.sum() / by_sample.sum() if self.reduction == "mean" else values.sum()

    def _log_p(self, pred: Tensor, target: Tensor, kept: Tensor) -> Tensor:
        """The targets' log p, in the shape of `target`; 0 where not `kept`."""
        dim = class_dim(pred)
        if not torch.compiler.is_compiling():
            log_f = pred.log_softmax(dim)
            return -functional.nll_loss(
                log_f, target, ignore_index=self.ignore_index, reduction="none"
            )
        # This form saves a compiled backward pass one pass over the logits.
        logits = pred - pred.detach().amax(dim, keepdim=True)
        of_target = logits.gather(dim, torch.where(kept, target, 0).unsqueeze(dim)).squeeze(dim)
        return torch.where(kept, of_target - logits.exp().sum(dim).log(), 0.0)


class AbsoluteCrossEntropyLoss(TargetLoss):
    """Absolute cross-entropy: φ₀·y·|log(φ₁ f)| (paper, equation 19).

    Computed as φ₀·|log p + log φ₁|. For φ₁ ≤ 1 the argument is never positive, so the loss is
    φ₀·(−log p − log φ₁), which is smooth, and equals cross-entropy for φ₀ = φ₁ = 1. For φ₁ > 1 it
    has a kink at p = 1/φ₁, where its gradient is defined as 0; above the kink it pulls p down.

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
        self.phi0 = require_real("phi0", phi0, "above 0", lambda phi: phi > 0)
        self.phi1 = require_real("phi1", phi1, "above 0", lambda phi: phi > 0)

    def coefficients(self, classes: int) -> TargetCoefficients:
        """φ₀·|log p + log φ₁|, or −φ₀·(log p + log φ₁) if the argument is never positive."""
        return TargetCoefficients(self.phi0, shift=math.log(self.phi1), absolute=self.phi1 > 1)


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

    def coefficients(self, classes: int) -> TargetCoefficients:
        """−(1 − p)^γ·log p."""
        return TargetCoefficients(1.0, gamma=self.gamma)


class GeneralizedCrossEntropyLoss(TargetLoss):
    """Generalised cross-entropy: y·(1 − f^q)/q, robust to wrong labels (Zhang and Sabuncu, 2018).

    Between cross-entropy (q → 0) and the absolute error (q = 1).

    Parameters
    ----------
    q
        q in (0, 1].
    reduction, weight, ignore_index
        As in ``torch.nn.CrossEntropyLoss``.
    """

    formula = "y (1 - f^q) / q"
    setting_names = ("q",)

    def __init__(
        self,
        q: float = 0.7,
        reduction: Reduction = "mean",
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        self.q = require_real("q", q, "above 0 and up to 1", lambda value: 0 < value <= 1)

    def curve(self, log_p: Tensor, classes: int) -> Tensor:
        """(1 − p^q)/q."""
        return -torch.expm1(self.q * log_p) / self.q
