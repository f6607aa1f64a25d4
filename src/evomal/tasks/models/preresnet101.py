"""Pre-activation ResNet for 32 × 32 images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from evomal.tasks.models.residual_stages import residual_stages


class PreResNet101(nn.Module):
    """Pre-activation residual blocks, 3-4-23-3: (B, channels, H, W) to (B, classes) logits.

    Source: He, Zhang, Ren and Sun, Identity mappings in deep residual networks, 2016, with basic
    blocks instead of bottlenecks and without a final normalisation, as in the paper's published
    runs.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    width
        Channels of the first stage; doubled in every stage.
    blocks
        Number of blocks per stage; all stages but the first halve the image.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        width: int = 64,
        blocks: tuple[int, ...] = (3, 4, 23, 3),
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        widths = [width, *(width << stage for stage in range(len(blocks)))]
        self.blocks = residual_stages(PreActivationBlock, widths, blocks)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.classifier(self.blocks(self.stem(x)))
        return out


class PreActivationBlock(nn.Module):
    """Normalisation and ReLU before each of two convolutions, with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm2d(inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output; a convolutional shortcut starts from the activated input."""
        active = functional.relu(self.first_norm(x))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.second(functional.relu(self.second_norm(self.first(active))))
        return shortcut + residual
