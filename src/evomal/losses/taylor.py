"""The loss of TaylorGLO: a Taylor polynomial of (y, f) (Gonzalez and Miikkulainen, 2021)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from evomal.errors import InputError, quoted
from evomal.losses import fields as read
from evomal.losses.base import Reduction
from evomal.losses.form import IGNORE_INDEX, NO_INPUTS, Form, Link, positive, real_numbers
from evomal.losses.meta import Activation, MetaLoss
from evomal.losses.python_form import call_text, number_text

LOWEST_ORDER, HIGHEST_ORDER = 2, 5


@dataclasses.dataclass(frozen=True)
class _Notation:
    """Templates for printing a polynomial."""

    brackets: str
    power: str
    quotient: str
    times: str
    exponent: str
    """For a number such as 1e-9."""

    def number(self, text: str) -> str:
        """Format a non-negative number."""
        size, _, exponent = text.partition("e")
        return self.exponent.format(size, int(exponent)) if exponent else size

    def difference(self, name: str, centre: str) -> str:
        if float(centre) == 0:
            return name
        sign = "+" if centre.startswith("-") else "-"
        return self.brackets.format(f"{name} {sign} {self.number(centre.removeprefix('-'))}")

    def product(
        self, coefficient: str, divisor: int, names: tuple[str, str], powers: tuple[int, int]
    ) -> str:
        number = self.number(coefficient)
        factors = [number if divisor == 1 else self.quotient.format(number, divisor)]
        for name, power in zip(names, powers, strict=True):
            if power:
                factors.append(name if power == 1 else self.power.format(name, power))
        return self.times.join(factors)


_PYTHON = _Notation("({})", "{}**{}", "{}/{}", "*", "{}e{}")
_LATEX = _Notation(
    r"\left({}\right)", "{}^{{{}}}", r"\frac{{{}}}{{{}}}", " ", r"{} \cdot 10^{{{}}}"
)


class TaylorLoss(MetaLoss):
    """A Taylor polynomial around a point as a loss, called like ``torch.nn.CrossEntropyLoss``.

    With a = y − φ₀ and b = f − φ₁ it is the sum of φₖ·aʲ·bⁱ/(j!·i!) over all i ≥ 1 and j ≥ 0 with
    i + j ≤ `order`. Terms without f have no gradient and are left out. The coefficients are
    ordered by j, then by i; for order 3 they belong to b, b², b³, ab, ab² and a²b, so the loss is
    φ₂b + ½φ₃b² + ⅙φ₄b³ + φ₅ab + ½φ₆ab² + ½φ₇a²b.

    Parameters
    ----------
    phi
        φ: the centre of y, the centre of f, the coefficients. None means the squared error without
        y², which has no gradient: f² − 2yf. A tensor keeps its dtype.
    inputs
        Extra inputs that are accepted; the polynomial does not depend on them.
    link, activation, reduction, weight, ignore_index
        As in `MetaLoss`.
    order
        Highest degree of a term, 2 to 5.

    Raises
    ------
    InputError
        If the order is invalid, or the number of weights is wrong.
    """

    structure_readers = {"order": read.integer}  # noqa: RUF012

    def __init__(
        self,
        phi: Tensor | Sequence[float] | None = None,
        link: Link = "identity",
        activation: Activation = "identity",
        reduction: Reduction = "mean",
        inputs: Sequence[str] = (),
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
        order: int = 3,
    ) -> None:
        exponents = _exponents(order)
        if phi is None:
            squared_error = {(0, 2): 2.0, (1, 1): -2.0}
            phi = torch.tensor([0.0, 0.0, *(squared_error.get(one, 0.0) for one in exponents)])
        phi = real_numbers("weights", phi)
        if phi.shape != (2 + len(exponents),):
            raise InputError(
                f"A Taylor polynomial of order {order} takes {2 + len(exponents)} weights, but the "
                f"given phi has shape {tuple(phi.shape)}."
            )
        super().__init__(phi, link, activation, reduction, inputs, weight, ignore_index)
        self.order = order
        self._exponents = exponents
        self._factors = [1 / (math.factorial(j) * math.factorial(i)) for j, i in exponents]

    @classmethod
    def of_form(
        cls, form: Form, phi: Tensor | Sequence[float] | None = None, order: int = 3
    ) -> Self:
        """A polynomial as a loss for tasks of a form."""
        return cls(phi, order=order, **dataclasses.asdict(form))

    @property
    def structure(self) -> str:
        """The order."""
        return f"taylor({self.order})"

    @property
    def size(self) -> int:
        """Number of weights, including the two of the centre."""
        return len(self.phi)

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """None."""
        return ()

    def initial_phi(self, rng: np.random.Generator) -> Tensor:
        """The loss's current φ; nothing is drawn, because methods with such losses draw φ."""
        return self.phi.clone()

    def elementwise(
        self, y: Tensor, f: Tensor, phi: Tensor, inputs: Mapping[str, Tensor] = NO_INPUTS
    ) -> Tensor:
        """M_φ(y, f) for every element; `y`, `f` and the result have the same shape."""
        centre_y, centre_f = phi[:2].unbind()
        coefficients = (phi[2:] * phi.new_tensor(self._factors)).unbind()
        a, b = y - centre_y, f - centre_f
        of_term = dict(zip(self._exponents, coefficients, strict=True))
        value: Tensor | None = None
        for j in reversed(range(self.order)):  # Horner's scheme in a, and for each power in b
            in_b = of_term[j, self.order - j] * b
            for i in reversed(range(1, self.order - j)):
                in_b = (in_b + of_term[j, i]) * b
            value = in_b if value is None else torch.addcmul(in_b, value, a)
        assert value is not None
        return value

    def scaled(self, factor: float) -> Self:
        """See `MetaLoss.scaled`; the coefficients are that many times as large."""
        factor = positive(factor)
        if self.activation != "identity":
            return self
        return self.with_phi(torch.cat([self.phi[:2], self.phi[2:] * factor]))

    def describe(self) -> dict[str, Any]:
        """See `Loss.describe`."""
        return {
            "formula": self._sum(_PYTHON),
            "latex": self._sum(_LATEX),
            "python": self.python_form(),
            "parameters": self.size,
            "link": self.link,
            "inputs": list(self.inputs),
            "phi": self.phi.tolist(),
        }

    def _sum(self, notation: _Notation) -> str:
        """The polynomial in y and f, with exact numbers and without terms that are 0."""
        centre_y, centre_f, *coefficients = map(number_text, self.phi.unbind())
        names = notation.difference("y", centre_y), notation.difference("f", centre_f)
        text = ""
        for powers, coefficient in zip(self._exponents, coefficients, strict=True):
            if float(coefficient) != 0:
                divisor = math.prod(map(math.factorial, powers))
                text += " - " if coefficient.startswith("-") else " + "
                text += notation.product(coefficient.removeprefix("-"), divisor, names, powers)
        return f"-{text[3:]}" if text.startswith(" - ") else text[3:] or "0"

    def python_form(self) -> str:
        """See `Loss.python_form`."""
        return call_text(
            self,
            [],
            phi=self.phi,
            link=self.link,
            activation=self.activation,
            inputs=self.inputs,
            order=self.order,
        )

    @property
    def structure_fields(self) -> dict[str, Any]:
        """The order."""
        return {"order": self.order}

    def extra_repr(self) -> str:
        """The arguments in the module's ``repr``."""
        return f"{self.structure}, link={self.link!r}, reduction={self.reduction!r}"


def _exponents(order: int) -> tuple[tuple[int, int], ...]:
    """The exponents (j, i) of a and b in the order of their coefficients."""
    if (
        isinstance(order, bool)
        or not isinstance(order, int)
        or not LOWEST_ORDER <= order <= HIGHEST_ORDER
    ):
        raise InputError(
            f"The order of a Taylor polynomial must be a whole number from {LOWEST_ORDER} to "
            f"{HIGHEST_ORDER}, got {quoted(order)}."
        )
    return tuple((j, i) for j in range(order) for i in range(1, order - j + 1))
