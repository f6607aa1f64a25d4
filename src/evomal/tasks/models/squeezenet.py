"""SqueezeNet for 32 × 32 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SqueezeNet(nn.Module):
    """Eight fire modules with bypass connections: (B, channels, H, W) to (B, classes) logits.

    Source: Iandola, Han, Moskewicz, Ashraf, Dally and Keutzer, SqueezeNet: AlexNet-level accuracy
    with 50x fewer parameters and <0.5MB model size, 2016, with simple bypass, batch normalisation,
    and a 3 × 3 stem, as is common for CIFAR.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    width
        Squeezed channels of the first fire module; the others scale with it.
    """

    def __init__(self, classes: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 6 * w, 3, padding=1),
            nn.BatchNorm2d(6 * w),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.fire2 = Fire(6 * w, w, 8 * w)
        self.fire3 = Fire(8 * w, w, 8 * w)
        self.fire4 = Fire(8 * w, 2 * w, 16 * w)
        self.fire5 = Fire(16 * w, 2 * w, 16 * w)
        self.fire6 = Fire(16 * w, 3 * w, 24 * w)
        self.fire7 = Fire(24 * w, 3 * w, 24 * w)
        self.fire8 = Fire(24 * w, 4 * w, 32 * w)
        self.fire9 = Fire(32 * w, 4 * w, 32 * w)
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Sequential(
            nn.Conv2d(32 * w, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        f2 = self.fire2(self.stem(x))
        f4 = self.pool(self.fire4(self.fire3(f2) + f2))
        f6 = self.fire6(self.fire5(f4) + f4)
        f8 = self.pool(self.fire8(self.fire7(f6) + f6))
        out: Tensor = self.classifier(self.fire9(f8))
        return out


class Fire(nn.Module):
    """A 1 × 1 convolution to few channels, then parallel 1 × 1 and 3 × 3 convolutions."""

    def __init__(self, inputs: int, squeezed: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = _convolution(inputs, squeezed, 1)
        self.small = _convolution(squeezed, outputs // 2, 1)
        self.large = _convolution(squeezed, outputs // 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Both branches, concatenated along the channels."""
        x = self.squeeze(x)
        return torch.cat([self.small(x), self.large(x)], dim=1)


def _convolution(inputs: int, outputs: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.BatchNorm2d(outputs), nn.ReLU()
    )
