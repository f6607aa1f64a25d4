"""The loss of ML³: a small neural network of (y, f) (Bechtle et al., 2021)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from evomal.errors import InputError, quoted
from evomal.losses import fields as read
from evomal.losses.base import Reduction
from evomal.losses.form import IGNORE_INDEX, NO_INPUTS, Form, Link, input_names, real_numbers
from evomal.losses.inputs import without_autocast
from evomal.losses.meta import Activation, MetaLoss

MOST_LAYERS, WIDEST = 16, 10_000


class NeuralLoss(MetaLoss):
    """A network as a loss, called like ``torch.nn.CrossEntropyLoss`` or ``MSELoss``.

    It has linear layers without biases and ReLU between them. Its inputs are y, f and the extra
    `inputs`, in this order; its output is one number per element.

    Parameters
    ----------
    phi
        φ, the concatenated weights of all layers, each flattened from (out, in) as in
        ``torch.nn.Linear``. None means `drawn` with seed 0. A tensor keeps its dtype.
    activation
        As in `MetaLoss`, but ``"softplus"`` by default: the loss is never negative.
    link, reduction, inputs, weight, ignore_index
        As in `MetaLoss`.
    hidden
        Widths of the hidden layers.

    Raises
    ------
    InputError
        If a width is invalid, or the number of weights is wrong.
    """

    structure_readers = {"hidden": read.integers}  # noqa: RUF012
    packed = True

    def __init__(
        self,
        phi: Tensor | Sequence[float] | None = None,
        link: Link = "identity",
        activation: Activation = "softplus",
        reduction: Reduction = "mean",
        inputs: Sequence[str] = (),
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
        hidden: Sequence[int] = (50, 50),
    ) -> None:
        hidden, inputs = hidden_widths(hidden), input_names(inputs)
        widths = (2 + len(inputs), *hidden, 1)
        sizes = tuple(before * after for before, after in pairwise(widths))
        if phi is None:
            phi = _uniform(widths, np.random.default_rng(0)).to(torch.get_default_dtype())
        phi = real_numbers("weights", phi)
        if phi.shape != (sum(sizes),):
            raise InputError(
                f"A network {'-'.join(map(str, widths))} takes {sum(sizes)} weights, but the "
                f"given phi has shape {tuple(phi.shape)}."
            )
        super().__init__(phi, link, activation, reduction, inputs, weight, ignore_index)
        self.hidden = hidden
        self._widths, self._sizes = widths, list(sizes)

    @classmethod
    def of_form(cls, form: Form, hidden: Sequence[int] = (50, 50)) -> Self:
        """A network as a loss for tasks of a form."""
        return cls(hidden=hidden, **dataclasses.asdict(form))

    @property
    def network(self) -> str:
        """The widths of all layers, as in ``"2-50-50-1"``."""
        return "-".join(map(str, self._widths))

    @property
    def structure(self) -> str:
        """The widths of all layers."""
        return f"network({self.network})"

    @property
    def size(self) -> int:
        """Number of weights."""
        return len(self.phi)

    def drawn(self, rng: np.random.Generator) -> Self:
        """The same network with weights as ``torch.nn.Linear`` initialises them.

        They are uniform within ±1/√(inputs of the layer).
        """
        return self.with_phi(_uniform(self._widths, rng).to(self.phi))

    def initial_phi(self, rng: np.random.Generator) -> Tensor:
        """φ₀: the weights that it has, as every network is drawn on its own."""
        return self.phi.clone()

    def elementwise(
        self, y: Tensor, f: Tensor, phi: Tensor, inputs: Mapping[str, Tensor] = NO_INPUTS
    ) -> Tensor:
        """M_φ(y, f) for every element; `y`, `f` and the result have the same shape."""
        self.require_inputs(inputs)
        further = [inputs[name].to(f.dtype).expand_as(f) for name in self.inputs]
        values = torch.stack([y, f, *further], dim=-1)
        parts = torch.split(phi.to(f.device, f.dtype), self._sizes)
        with without_autocast(f.device):
            for part, (before, after) in zip(parts, pairwise(self._widths), strict=True):
                values = values if part is parts[0] else values.relu()
                values = functional.linear(values, part.reshape(after, before))
        return values.squeeze(-1)

    def describe(self) -> dict[str, Any]:
        """See `Loss.describe`."""
        return {
            "formula": None,
            "network": self.network,
            "parameters": self.size,
            "python": self.python_form(),
            "link": self.link,
            "inputs": list(self.inputs),
        }

    def python_form(self) -> str | None:
        """None, because it would contain all weights."""
        return None

    @property
    def structure_fields(self) -> dict[str, Any]:
        """The widths of the hidden layers."""
        return {"hidden": list(self.hidden)}

    def extra_repr(self) -> str:
        """The arguments in the module's ``repr``."""
        more = f", inputs={self.inputs!r}" if self.inputs else ""
        return f"{self.structure}, link={self.link!r}, reduction={self.reduction!r}{more}"


def hidden_widths(hidden: Sequence[int]) -> tuple[int, ...]:
    """Widths of hidden layers; an `InputError` if they make no sense."""
    if isinstance(hidden, str | Mapping) or not isinstance(hidden, Sequence):
        raise InputError(f"The hidden widths must be a list of numbers, got {quoted(hidden)}.")
    for width in hidden:
        if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= WIDEST:
            raise InputError(
                f"A hidden width must be a whole number from 1 to {WIDEST}, got {quoted(width)}."
            )
    if not 1 <= len(hidden) <= MOST_LAYERS:
        raise InputError(
            f"A network has 1 to {MOST_LAYERS} hidden layers, but {len(hidden)} widths were given."
        )
    return tuple(hidden)


def _uniform(widths: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Weights of all layers in double precision."""
    bounds = ((before * after, 1 / math.sqrt(before)) for before, after in pairwise(widths))
    return torch.from_numpy(np.concatenate([rng.uniform(-b, b, size) for size, b in bounds]))
