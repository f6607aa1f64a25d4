"""Wide residual networks."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from evomal.tasks.models.residual_stages import residual_stages


class WideResNet(nn.Module):
    """Three stages of wide pre-activation blocks: (B, channels, H, W) to (B, classes) logits.

    Source: Zagoruyko and Komodakis, Wide residual networks, 2016.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    depth
        Number of convolutions, 6n + 4.
    width
        Widening factor k: the stages have 16k, 32k and 64k channels.
    dropout
        Dropout probability between the convolutions of a block.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        depth: int = 28,
        width: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"the depth of a wide residual network must be 6n + 4, not {depth}")
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        block = partial(WideBlock, dropout=dropout)
        self.blocks = residual_stages(block, widths, [(depth - 4) // 6] * 3)
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


class WideBlock(nn.Module):
    """Normalisation and ReLU before each of two convolutions, with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        self.shortcut: nn.Module | None = None
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output; a convolutional shortcut starts from the activated input."""
        active = functional.relu(self.norm(x))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.residual(active)
        return shortcut + residual
