"""Sparse label smoothing: smoothing with the target output only (paper, A.7 to A.9 and A.13)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evomal.errors import InputError
from evomal.expressions.primitives import EPSILON
from evomal.losses.base import Reduction
from evomal.losses.form import IGNORE_INDEX, require_flag, require_gamma, require_smoothing
from evomal.losses.target import TargetLoss
from evomal.losses.target_coefficients import TargetCoefficients


class SparseSmoothing(TargetLoss):
    """The redistributed loss trick, for any loss y·ℓ(log f) (paper, A.7 and A.13).

    Smoothing weights the loss of the target output by 1 − ξ + ξ/C and that of every other output
    by ξ/C. The C − 1 others are assumed to have the same probability r = (1 − p)/(C − 1), so their
    loss is also a function of p:

        y·[(1 − ξ + ξ/C)·ℓ(log p) + ξ(C − 1)/C·ℓ(log r)].

    As in equation (49), log r is computed as log((1 − p + ε)/(C − 1)) with ε = 1e-7 in every dtype.
    1 − p is −expm1(log p), as exact as log p itself: in single precision to about 6e-8, which is
    below ε. So ε matters only where 1 − p is not far above 1e-7: as p → 1 the loss stays finite,
    and its gradient with respect to the logits goes to 0. The relaxed form
    ℓ(log p) + ξ·ℓ(log(1 − p + ε)) omits the constants that depend on C (footnote 3).
    """

    smoothing: float
    relaxed: bool = False

    def shares(self, classes: int) -> tuple[float, float, int]:
        """Weights of the target output and of the others, and the number of others."""
        if self.relaxed:
            return 1.0, self.smoothing, 1
        if classes == 0:
            return 1.0, 0.0, 1  # arbitrary, because there are no samples
        rest = self.smoothing * (classes - 1) / classes
        return 1 - rest, rest, classes - 1 or 1


class SparseLabelSmoothingLoss(SparseSmoothing):
    """Sparse label smoothing of cross-entropy (paper, equation 46, in its stable form 49).

    −y·[(1 − ξ + ξ/C)·log f + ξ(C − 1)/C·log((1 − f + ε)/(C − 1))] with ε = 1e-7, or relaxed
    −y·[log f + ξ·log(1 − f + ε)]; see `SparseSmoothing` on ε. Apart from ε, it equals dense label
    smoothing where all non-target probabilities are equal, and is smaller elsewhere.

    Parameters
    ----------
    smoothing
        ξ in [0, 1), as in `LabelSmoothingLoss`.
    relaxed
        Leave out the constants that depend on the number of classes C (footnote 3).
    reduction, weight, ignore_index
        As in ``torch.nn.CrossEntropyLoss``; a sample counts with the weight of its target class.
    """

    formula = "-y [(1 - ξ + ξ/C) log f + ξ (C - 1)/C log((1 - f + ε)/(C - 1))]"
    setting_names = ("smoothing", "relaxed")

    def __init__(
        self,
        smoothing: float = 0.1,
        relaxed: bool = False,
        reduction: Reduction = "mean",
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        self.smoothing = require_smoothing(smoothing)
        self.relaxed = require_flag("relaxed", relaxed)

    def coefficients(self, classes: int) -> TargetCoefficients:
        """The coefficients of cross-entropy and of its redistributed part."""
        share, rest, others = self.shares(classes)
        return TargetCoefficients(share, rest, others=others)


class FocalSparseLabelSmoothingLoss(SparseSmoothing):
    """Focal loss with sparse label smoothing (paper, equation 51).

    −y·[(1 − f)^γ·(1 − ξ + ξ/C)·log f + f^γ·ξ(C − 1)/C·log((1 − f + ε)/(C − 1))] with ε = 1e-7 as
    in equation (49). The redistributed loss is focused by f^γ, not by (1 − r)^γ as the focal loss
    of the probability r would be; for C = 2 both are the same.

    Parameters
    ----------
    gamma
        γ ≥ 0; 0 is `SparseLabelSmoothingLoss`.
    smoothing
        ξ in [0, 1); 0 is `FocalLoss`.
    reduction, weight, ignore_index
        As in ``torch.nn.CrossEntropyLoss``; a sample counts with the weight of its target class.
    """

    formula = "-y [(1 - ξ + ξ/C) (1 - f)^γ log f + ξ (C - 1)/C f^γ log((1 - f + ε)/(C - 1))]"
    setting_names = ("gamma", "smoothing")

    def __init__(
        self,
        gamma: float = 2.0,
        smoothing: float = 0.1,
        reduction: Reduction = "mean",
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        self.gamma = require_gamma(gamma)
        self.smoothing = require_smoothing(smoothing)

    def coefficients(self, classes: int) -> TargetCoefficients:
        """The same, with focusing of both parts."""
        share, rest, others = self.shares(classes)
        return TargetCoefficients(share, rest, self.gamma, others)


class SparselySmoothedLoss(SparseSmoothing):
    """Any loss of the target's log-probability, sparsely smoothed; see `SparseSmoothing`.

    It cannot be saved, because it contains a function.

    Parameters
    ----------
    loss
        ℓ: an elementwise function of log p of any shape; ``lambda log_p: -log_p`` gives
        `SparseLabelSmoothingLoss`. Its gradient must be finite at log p = 0.
    smoothing
        ξ in [0, 1).
    relaxed
        Leave out the constants that depend on the number of classes C (footnote 3).
    reduction, weight, ignore_index
        As in ``torch.nn.CrossEntropyLoss``; a sample counts with the weight of its target class.
    """

    formula = "y [(1 - ξ + ξ/C) ℓ(log f) + ξ (C - 1)/C ℓ(log((1 - f + ε)/(C - 1)))]"
    setting_names = ("loss", "smoothing", "relaxed")

    def __init__(
        self,
        loss: Callable[[Tensor], Tensor],
        smoothing: float,
        relaxed: bool = False,
        reduction: Reduction = "mean",
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        if not callable(loss):
            raise InputError(f"The loss must be a function, got {loss!r}.")
        self.loss = loss
        self.smoothing = require_smoothing(smoothing)
        self.relaxed = require_flag("relaxed", relaxed)

    def curve(self, log_p: Tensor, classes: int) -> Tensor:
        """The weighted sum of the target loss and the redistributed loss (equation 46)."""
        share, rest, others = self.shares(classes)
        log_r = torch.rsub(torch.expm1(log_p), EPSILON / others, alpha=1 / others).log()
        return torch.add(share * self.loss(log_p), self.loss(log_r), alpha=rest)
