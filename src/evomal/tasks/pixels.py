"""Preprocessing and augmentation of batches of uint8 images, on their device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

PADDING = 4
"""Black pixels around an image before a random crop to its original size."""


def standardise_pixels(images: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """Scale pixels of 0 to 255 to mean 0 and standard deviation 1 by channel; float32.

    Parameters
    ----------
    images
        (B, channels, height, width), uint8.
    mean, deviation
        Statistics of the pixels divided by 255, one per channel.
    """
    shift, scale = (
        torch.tensor([255 * value for value in values], device=images.device).view(-1, 1, 1)
        for values in (mean, deviation)
    )
    return images.float().sub(shift).div_(scale)


def crop_and_flip(images: Tensor) -> Tensor:
    """Shift every image by up to 4 pixels in both directions and flip half of them.

    Equivalent to a random crop after padding with black; draws from torch's global generator.

    Parameters
    ----------
    images
        (B, channels, height, width), of any dtype.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (PADDING,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, channels, 9, 9, …)
    top, left = torch.randint(2 * PADDING + 1, (2, count), device=images.device)
    cropped = windows[torch.arange(count, device=images.device), :, top, left]
    mirrored = torch.rand(count, device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], cropped.flip(3), cropped)
