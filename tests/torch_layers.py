"""Base learners around every layer of `torch.nn` that takes a tensor and returns one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from evomal.tasks.task import Task

Layer = Callable[[], nn.Module]

FEATURES = 16
FLAT, SEQUENCE, IMAGE, VOLUME = (16,), (4, 4), (4, 2, 2), (2, 2, 2, 2)


ELEMENTWISE = (
    *("ReLU", "ReLU6", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Sigmoid", "Tanh"),
    *("LogSigmoid", "Softplus", "Softsign", "Tanhshrink", "Hardtanh", "Hardsigmoid", "Hardswish"),
    *("Hardshrink", "Softshrink", "LeakyReLU", "PReLU", "RReLU", "GLU", "Identity"),
)


class Recurrent(nn.Module):
    """The outputs of a recurrent layer at every step."""

    def __init__(self, layer: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer = layer(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x)[0]
        return outputs


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(4, 2, dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x, x, x, need_weights=False)[0]
        return outputs


class OfTwo(nn.Module):
    """A layer of two inputs, given the two halves of one."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(*x.chunk(2, dim=1))
        return outputs.reshape(len(x), -1)


class Distances(nn.Module):
    """Distances within a sequence, which torch differentiates once only."""

    def forward(self, x: Tensor) -> Tensor:
        """Between every two of its elements."""
        return torch.cdist(x, x.flip(1))


def _by_dimension() -> dict[str, tuple[tuple[int, ...], Layer]]:
    found: dict[str, tuple[tuple[int, ...], Layer]] = {}
    for d, (shape, channels) in enumerate([(SEQUENCE, 4), (IMAGE, 4), (VOLUME, 2)], start=1):
        arguments: dict[str, tuple[object, ...]] = {
            f"Conv{d}d": (channels, 3, 2),
            f"ConvTranspose{d}d": (channels, 3, 2),
            f"MaxPool{d}d": (2,),
            f"AvgPool{d}d": (2,),
            f"LPPool{d}d": (2, 2),
            f"AdaptiveMaxPool{d}d": (2,),
            f"AdaptiveAvgPool{d}d": (1,),
            f"ReflectionPad{d}d": (1,),
            f"ReplicationPad{d}d": (1,),
            f"ZeroPad{d}d": (1,),
            f"ConstantPad{d}d": (1, 0.5),
            f"CircularPad{d}d": (1,),
            f"BatchNorm{d}d": (channels,),
            f"InstanceNorm{d}d": (channels, 1e-5, 0.1, True, True),
            f"Dropout{d}d": (0.3,),
        }
        for name, given in arguments.items():
            found[name] = (shape, partial(getattr(nn, name), *given))
    return found


LAYERS: dict[str, tuple[tuple[int, ...], Layer]] = {
    **{name: (FLAT, getattr(nn, name)) for name in ELEMENTWISE},
    "Threshold": (FLAT, partial(nn.Threshold, 0.1, 20.0)),
    **{name: (FLAT, partial(getattr(nn, name), -1)) for name in ("Softmax", "Softmin")},
    "LogSoftmax": (FLAT, partial(nn.LogSoftmax, -1)),
    "Softmax2d": (IMAGE, nn.Softmax2d),
    "Linear": (SEQUENCE, partial(nn.Linear, 4, 5)),
    "Bilinear": (FLAT, lambda: OfTwo(nn.Bilinear(8, 8, 3))),
    "CosineSimilarity": (FLAT, lambda: OfTwo(nn.CosineSimilarity())),
    "PairwiseDistance": (FLAT, lambda: OfTwo(nn.PairwiseDistance())),
    "cdist": (SEQUENCE, Distances),
    "Dropout": (FLAT, partial(nn.Dropout, 0.3)),
    "Dropout of a sequence": (SEQUENCE, partial(nn.Dropout, 0.3)),
    "Dropout of an image": (IMAGE, partial(nn.Dropout, 0.3)),
    "AlphaDropout": (FLAT, partial(nn.AlphaDropout, 0.3)),
    "FeatureAlphaDropout": (IMAGE, partial(nn.FeatureAlphaDropout, 0.3)),
    "LayerNorm": (SEQUENCE, partial(nn.LayerNorm, 4)),
    "RMSNorm": (SEQUENCE, partial(nn.RMSNorm, 4)),
    "GroupNorm": (IMAGE, partial(nn.GroupNorm, 2, 4)),
    "LocalResponseNorm": (IMAGE, partial(nn.LocalResponseNorm, 2)),
    **_by_dimension(),
    "Conv2d in groups": (IMAGE, partial(nn.Conv2d, 4, 4, 2, groups=2)),
    "Conv2d, circular": (IMAGE, partial(nn.Conv2d, 4, 3, 2, padding=1, padding_mode="circular")),
    "FractionalMaxPool2d": (IMAGE, partial(nn.FractionalMaxPool2d, 1, output_size=1)),
    "Upsample": (IMAGE, partial(nn.Upsample, scale_factor=2, mode="bilinear")),
    "PixelShuffle": (IMAGE, partial(nn.PixelShuffle, 2)),
    "PixelUnshuffle": (IMAGE, partial(nn.PixelUnshuffle, 2)),
    "ChannelShuffle": (IMAGE, partial(nn.ChannelShuffle, 2)),
    "Unfold": (IMAGE, partial(nn.Unfold, 2)),
    **{name: (SEQUENCE, partial(Recurrent, getattr(nn, name))) for name in ("RNN", "LSTM", "GRU")},
    "MultiheadAttention": (SEQUENCE, partial(SelfAttention, 0.2)),
    "TransformerEncoderLayer": (
        SEQUENCE,
        partial(nn.TransformerEncoderLayer, 4, 2, 8, 0.1, batch_first=True),
    ),
}
"""By name: the shape of one row that the layer takes, and the layer."""


class Around(nn.Module):
    """(B, 3) inputs to (B, 1) outputs, a layer in the middle.

    With `transposed`, the memory of what the layer takes is in the order of another shape.
    """

    def __init__(
        self, shape: tuple[int, ...], layer: Layer, transposed: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.shape = shape
        self.transposed = transposed
        self.first = nn.Linear(3, FEATURES)
        self.layer = layer()
        self.last = nn.Linear(self._middle(torch.zeros(2, 3)).shape[1], 1)
        self.to(dtype)

    def _middle(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        if not self.transposed:
            x = x.reshape(-1, *self.shape)
        elif self.shape == FLAT:
            x = x.t().contiguous().t()
        else:
            dims = range(len(self.shape), 0, -1)
            x = x.reshape(-1, *reversed(self.shape)).permute(0, *dims)
        return torch.flatten(self.layer(x), 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.last(self._middle(x))
        return outputs


def layer_task(name: str, *, transposed: bool = False, dtype: torch.dtype = torch.float64) -> Task:
    """A small regression."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(32, 3, generator=draw, dtype=torch.float64).to(dtype)
    y = 0.5 * x[:, :1] + x[:, 1:2].square()
    shape, layer = LAYERS[name]
    model = partial(Around, shape, layer, transposed, dtype)
    return Task(model, (x[:16], y[:16]), (x[16:], y[16:]), link="identity", batch_size=8)
