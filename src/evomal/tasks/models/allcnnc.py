"""All-CNN-C: a network of convolutions only."""

from __future__ import annotations

from torch import Tensor, nn


class AllCNNC(nn.Module):
    """Nine convolutions and a global average: (B, channels, H, W) to (B, classes) logits.

    Source: Springenberg, Dosovitskiy, Brox and Riedmiller, Striving for simplicity: the all
    convolutional net, 2015, with batch normalisation after all nine convolutions.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    width
        Channels of the first three convolutions; the next five have twice as many.
    dropout
        Dropout probability after each convolution with stride 2; 0.2 on the images if above 0.
    """

    def __init__(
        self, classes: int, channels: int = 3, width: int = 96, dropout: float = 0.5
    ) -> None:
        super().__init__()
        a, b = width, 2 * width
        self.layers = nn.Sequential(
            nn.Dropout(min(0.2, dropout)),
            *_convolution(channels, a, 3, padding=1),
            *_convolution(a, a, 3, padding=1),
            *_convolution(a, a, 3, padding=1, stride=2),
            nn.Dropout(dropout),
            *_convolution(a, b, 3, padding=1),
            *_convolution(b, b, 3, padding=1),
            *_convolution(b, b, 3, padding=1, stride=2),
            nn.Dropout(dropout),
            *_convolution(b, b, 3),
            *_convolution(b, b, 1),
            *_convolution(b, classes, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.layers(x)
        return out


def _convolution(
    inputs: int, outputs: int, size: int, padding: int = 0, stride: int = 1
) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, size, padding=padding, stride=stride),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
