"""AlexNet for 32 × 32 images."""

from __future__ import annotations

from torch import Tensor, nn


class AlexNet(nn.Module):
    """Five convolutions and three dense layers: (B, channels, 32, 32) to (B, classes) logits.

    Source: Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional neural
    networks, 2012, with 3 × 3 kernels throughout, as is common for CIFAR.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    width
        Channels of the first convolution; the others scale with it.
    hidden
        Units of the two hidden dense layers.
    dropout
        Dropout probability before each of these.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        width: int = 64,
        hidden: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        a, b, c, d = width, 3 * width, 6 * width, 4 * width
        self.features = nn.Sequential(
            nn.Conv2d(channels, a, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(a, b, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(d, d, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4 * d, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.classifier(self.features(x))
        return out
