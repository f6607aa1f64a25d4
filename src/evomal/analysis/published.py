"""The example losses of the paper's Table 6 as expressions.

6a, 6e, 6g and 6h include the bars |·| shown in equation (14); text versions of the paper can omit
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from evomal.expressions.expression import parse
from evomal.losses.form import Link
from evomal.losses.symbolic import SymbolicLoss

_LARGE = 1e15


@dataclass(frozen=True)
class PublishedLoss:
    """A published loss; the weights were not published and are 1 unless given.

    Attributes
    ----------
    formula
        As printed, with y for the target and f for the prediction.
    expression, weights
        The same as a prefix expression, with weights.
    link
        Link of the task that it was learned on.
    note
        Differences between the two, or caveats.
    """

    formula: str
    expression: str
    link: Link
    weights: tuple[float, ...] | None = None
    note: str = ""

    @property
    def loss(self) -> SymbolicLoss:
        """The module, in double precision."""
        weights = self.weights or (1.0,) * (len(parse(self.expression)) - 1)
        phi = torch.tensor(weights, dtype=torch.double)
        return SymbolicLoss(self.expression, phi, link=self.link)


PUBLISHED_LOSSES: dict[str, PublishedLoss] = {
    "6a": PublishedLoss(
        "|log(√(y·f) + ε)|",
        "abs(log(sqrt(mul(y, f))))",
        "softmax",
        None,
        "Equation (14), analysed in appendix A.",
    ),
    "6b": PublishedLoss(
        "log(y·f + √log(y·f))²",
        "square(log(add(mul(y, f), sqrt(log(mul(y, f))))))",
        "softmax",
    ),
    "6c": PublishedLoss(
        "((y - f)/f)⁴",
        "square(square(div(sub(y, f), f)))",
        "softmax",
        (1.0, 1.0, _LARGE, 1.0, 1.0, _LARGE),
        "Unprotected division is the limit c → ∞ of div(c·a, c·b); here c = 10¹⁵.",
    ),
    "6d": PublishedLoss(
        "y³ + f³ + f·y² + f²·y",
        "add(add(mul(y, square(y)), mul(f, square(f))), add(mul(f, square(y)), mul(square(f), y)))",
        "softmax",
        None,
        "With all weights 1, it decreases towards f = 0 at the target: the signs are lost.",
    ),
    "6e": PublishedLoss("|log((y·f)² + ε)|", "abs(log(square(mul(y, f))))", "softmax"),
    "(15)": PublishedLoss(
        "|log((y·f + ε)²)|",
        "abs(mul(add(1, 1), log(mul(y, f))))",
        "softmax",
        None,
        "The form of 6e in appendix A, with ε in a different place.",
    ),
    "6f": PublishedLoss(
        "(f - min(max(y, -1), 1))²", "square(sub(f, min(max(y, -1), 1)))", "identity"
    ),
    "6g": PublishedLoss(
        "|y·√(y/√(1 + f²))|",
        "abs(mul(y, sqrt(div(y, f))))",
        "identity",
        None,
        "With all weights 1, it decreases as |f| grows, for any target.",
    ),
    "6h": PublishedLoss(
        "|y/(1 + log(y - 1)²) - f|",
        "abs(sub(div(div(y, log(sub(y, 1))), log(sub(y, 1))), f))",
        "identity",
    ),
    "6i": PublishedLoss("√(y·(y - f))", "sqrt(mul(y, sub(y, f)))", "identity"),
    "6j": PublishedLoss("√(y - f)", "sqrt(sub(y, f))", "identity"),
}
"""Losses by their label in the paper: a–j in Table 6, and equation (15)."""
