"""Stages of residual blocks, shared by several networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn


def residual_stages(
    block: Callable[[int, int, int], nn.Module], widths: Sequence[int], blocks: Sequence[int]
) -> nn.Sequential:
    """Stages of blocks; the first block of each stage after the first halves the image.

    Parameters
    ----------
    block
        Function from (input channels, output channels, stride) to a block.
    widths
        Channels before the first stage, then those of every stage.
    blocks
        Number of blocks per stage.
    """
    layers: list[nn.Module] = []
    for stage, (inputs, outputs) in enumerate(pairwise(widths)):
        layers.append(block(inputs, outputs, 1 if stage == 0 else 2))
        layers += [block(outputs, outputs, 1) for _ in range(blocks[stage] - 1)]
    return nn.Sequential(*layers)
