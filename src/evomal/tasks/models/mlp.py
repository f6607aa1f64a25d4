"""The multi-layer perceptron of Baydin et al. (2018)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """A fully connected ReLU network: (B, …) inputs, flattened, to (B, outputs) raw outputs.

    Source: Baydin et al., Online learning rate adaptation with hypergradient descent, 2018, with
    the paper's two hidden layers of 1000 units.
    """

    def __init__(self, inputs: int, outputs: int, hidden: tuple[int, ...] = (1000, 1000)) -> None:
        super().__init__()
        sizes = (inputs, *hidden, outputs)
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs."""
        out: Tensor = self.layers(x)
        return out
