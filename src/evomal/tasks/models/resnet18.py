"""ResNet-18 for 32 × 32 images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from evomal.tasks.models.residual_stages import residual_stages


class ResNet18(nn.Module):
    """Eight residual blocks of two convolutions: (B, channels, H, W) to (B, classes) logits.

    Source: He, Zhang, Ren and Sun, Deep residual learning for image recognition, 2016, with a
    3 × 3 stem without pooling, as is common for CIFAR.

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
        blocks: tuple[int, ...] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        widths = [width, *(width << stage for stage in range(len(blocks)))]
        self.blocks = residual_stages(BasicBlock, widths, blocks)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.classifier(self.blocks(self.stem(x)))
        return out


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, which is a 1 × 1 convolution if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return functional.relu(self.residual(x) + self.shortcut(x))
