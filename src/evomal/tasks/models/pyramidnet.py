"""Pyramidal residual networks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PyramidNet(nn.Module):
    """Residual blocks that widen one by one: (B, channels, H, W) to (B, classes) logits.

    Source: Han, Kim and Kim, Deep pyramidal residual networks, 2017, additive, with basic blocks.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    depth
        Number of layers, 6n + 2.
    alpha
        Total number of channels that the blocks add to the first 16.
    """

    def __init__(self, classes: int, channels: int = 3, depth: int = 110, alpha: int = 48) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"the depth of a pyramidal network must be 6n + 2, not {depth}")
        blocks = (depth - 2) // 6
        count = 3 * blocks
        widths = [round(16 + alpha * k / count) for k in range(count + 1)]
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0])
        )
        self.blocks = nn.Sequential(
            *(
                PyramidBlock(widths[k], widths[k + 1], stride=2 if k in (blocks, 2 * blocks) else 1)
                for k in range(count)
            )
        )
        self.classifier = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.classifier(self.blocks(self.stem(x)))
        return out


class PyramidBlock(nn.Module):
    """Two convolutions with normalisation around them and a zero-padded shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added = outputs - inputs
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        shortcut = functional.avg_pool2d(x, 2, ceil_mode=True) if self.stride == 2 else x
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.added))
        residual: Tensor = self.residual(x)
        return residual + shortcut
