"""VGG-16 for 32 × 32 images."""

from __future__ import annotations

from torch import Tensor, nn

_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # widths; a pooling after each stage


class VGG16(nn.Module):
    """Thirteen 3 × 3 convolutions, one dense layer: (B, channels, 32, 32) to (B, classes) logits.

    Source: Simonyan and Zisserman, Very deep convolutional networks for large-scale image
    recognition, 2015, with batch normalisation after every convolution (Ioffe and Szegedy, 2015)
    and a single dense layer, as is common for CIFAR.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    width
        Channels of the first convolution; the others scale with it.
    """

    def __init__(self, classes: int, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage in _STAGES:
            for factor in stage:
                layers += [
                    nn.Conv2d(channels, factor * width, 3, padding=1),
                    nn.BatchNorm2d(factor * width),
                    nn.ReLU(),
                ]
                channels = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(channels, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.classifier(self.features(x))
        return out
