"""Class indices as targets, as in torch's cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from evomal.losses.inputs import is_plain


def class_dim(pred: Tensor) -> int:
    """The class dimension, as in torch's cross-entropy."""
    return 0 if pred.ndim == 1 else 1


def one_hot(f: Tensor, target: Tensor, dim: int, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """One-hot targets with the shape and dtype of `f`; arbitrary for ignored samples.

    Also a mask of the samples that are not ignored, of the shape of `target`; None for all.
    """
    plain = is_plain(f) and is_plain(target)
    if plain and ignore_index < 0 and f.is_cpu:
        try:  # on a CPU, scatter checks for indices out of range at no cost
            return torch.zeros_like(f).scatter_(dim, target.unsqueeze(dim), 1.0), None
        except RuntimeError:  # a target is ignored or invalid
            pass
    kept = target != ignore_index
    classes = torch.where(kept, target, 0).unsqueeze(dim)
    zeros = torch.zeros_like(f)
    y = zeros.scatter_(dim, classes, 1.0) if plain else zeros.scatter(dim, classes, 1.0)
    return y, kept


def sample_weights(weight: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """The class weight of every sample, in the shape of `target`; 0 where it is not `kept`."""
    classes = torch.where(kept, target, 0).flatten()  # so that () compiles as an index, too
    return torch.where(kept, weight[classes].reshape(target.shape), 0.0)
