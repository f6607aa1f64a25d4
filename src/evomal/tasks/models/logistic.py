"""Multinomial logistic regression."""

from __future__ import annotations

from torch import Tensor, nn


class LogisticRegression(nn.Module):
    """One linear layer: (B, …) inputs, flattened, to (B, classes) logits.

    Source: McCullagh and Nelder, Generalized linear models, 1989.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.linear(x.flatten(1))
        return out
