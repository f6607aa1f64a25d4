"""The meta-loss network: an expression with one weight on every edge (paper, section 3.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from evomal.errors import InputError, quoted
from evomal.expressions import program
from evomal.expressions.expression import Expression, excerpt, parse
from evomal.expressions.primitives import PRIMITIVES
from evomal.expressions.printing import PrintedForm, PrintRequest, printed_forms
from evomal.losses import fields as read
from evomal.losses.base import Reduction
from evomal.losses.form import (
    IGNORE_INDEX,
    NO_INPUTS,
    Form,
    Link,
    input_names,
    positive,
    real_numbers,
)
from evomal.losses.inputs import is_plain
from evomal.losses.meta import Activation, MetaLoss
from evomal.losses.python_form import call_text

INITIAL_DEVIATION = 1e-3
"""Standard deviation of φ₀ around 1."""


class SymbolicLoss(MetaLoss):
    """An expression as a loss, called like ``torch.nn.CrossEntropyLoss`` or ``MSELoss``.

    Parameters
    ----------
    expression
        An `Expression` or its prefix form, such as ``"square(sub(y, f))"``.
    phi
        φ, one weight per edge in the prefix order of the child node: ``phi[i - 1]`` scales
        node i on the edge to its parent. None means all ones, which is the bare expression. A
        tensor keeps its dtype.
    link, activation, reduction, weight, ignore_index
        As in `MetaLoss`.
    inputs
        Names of extra inputs that the expression may use; those in an `Expression` are added.

    Raises
    ------
    InputError
        If the expression is malformed or the number of weights differs from its number of edges.
    """

    structure_readers = {"expression": read.text}  # noqa: RUF012

    def __init__(
        self,
        expression: Expression | str,
        phi: Tensor | Sequence[float] | None = None,
        link: Link = "identity",
        activation: Activation = "identity",
        reduction: Reduction = "mean",
        inputs: Sequence[str] = (),
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        inputs = input_names(inputs)
        if isinstance(expression, str):
            expression = parse(expression, inputs)
        if not isinstance(expression, Expression):
            raise InputError(
                f"An expression must be text such as 'square(sub(y, f))', not {quoted(expression)}."
            )
        inputs = tuple(dict.fromkeys([*inputs, *expression.inputs]))
        edges = len(expression) - 1
        phi = torch.ones(edges) if phi is None else real_numbers("weights", phi)
        if phi.shape != (edges,):
            raise InputError(
                f"The expression {excerpt(str(expression))} takes {edges} weights, one per edge, "
                f"but the given phi has shape {tuple(phi.shape)}."
            )
        super().__init__(phi, link, activation, reduction, inputs, weight, ignore_index)
        self.expression = expression
        self._steps = program.steps_of(expression)

    @classmethod
    def of_form(
        cls,
        expression: Expression | str,
        form: Form,
        activation: Activation = "identity",
        phi: Tensor | Sequence[float] | None = None,
    ) -> Self:
        """An expression as a loss for tasks of a form; all weights are 1 unless given."""
        return cls(expression, phi, activation=activation, **dataclasses.asdict(form))

    @property
    def structure(self) -> str:
        """The canonical form: equal for symbolically equivalent expressions."""
        return str(self.expression.canonical)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.expression)

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """The extra inputs that occur in the expression."""
        return self.expression.inputs

    def initial_phi(self, rng: np.random.Generator) -> Tensor:
        """φ₀: a loss whose weights are not all 1 starts from them.

        The bare expression starts with a little noise, φ₀ ~ N(1, 0.001²) (paper, section 3.3).
        """
        if not bool((self.phi == 1).all()):
            return self.phi.detach().clone()
        phi = rng.normal(1.0, INITIAL_DEVIATION, len(self.phi))
        return torch.from_numpy(phi).to(self.phi)

    def elementwise(
        self, y: Tensor, f: Tensor, phi: Tensor, inputs: Mapping[str, Tensor] = NO_INPUTS
    ) -> Tensor:
        """M_φ(y, f) for every element; `y`, `f` and the result have the same shape."""
        self.require_inputs(inputs)
        return self.expression.evaluate(y, f, phi, inputs)

    def factored(
        self, y: Tensor, f: Tensor, phi: Tensor, inputs: Mapping[str, Tensor] = NO_INPUTS
    ) -> tuple[Any, Tensor]:
        """`elementwise` as factor × tensor, in fewer operations."""
        scales = phi.tolist() if _are_numbers(phi) else phi.unbind()
        try:
            return program.evaluate(self._steps, {**inputs, "y": y, "f": f}, scales, f)
        except KeyError:
            self.require_inputs(inputs)
            raise

    def scaled(self, factor: float) -> Self:
        """See `MetaLoss.scaled`.

        The factor goes into the weights of the root's edges. Where they cannot express it, as
        below a logarithm, the expression M becomes mul(1, M) with the factor on the edge of the 1
        and all its own weights behind.
        """
        factor = positive(factor)
        if self.activation != "identity":
            return self
        root = PRIMITIVES.get(self.expression.nodes[0])
        if root is None or root.powers is None:
            return type(self)(
                Expression(("mul", "1", *self.expression.nodes)),
                torch.cat([self.phi.new_tensor([factor, 1.0]), self.phi]),
                self.link,
                self.activation,
                self.reduction,
                self.inputs,
                self.weight,
                self.ignore_index,
            )
        phi, argument = self.phi.clone(), 1
        for power in root.powers:
            phi[argument - 1] *= factor**power
            argument = self.expression.ends[argument]
        return self.with_phi(phi)

    @property
    def print_request(self) -> PrintRequest:
        """The request for printing: with weights, and f and y as probabilities unless f = pred."""
        return PrintRequest(self.expression, self.phi.tolist(), self.link != "identity")

    def describe(self, printed: PrintedForm | None = None) -> dict[str, Any]:
        """See `Loss.describe`; without `printed`, the printed form is computed by sympy."""
        if printed is None:
            (printed,) = printed_forms([self.print_request])
        return {
            "expression": str(self.expression),
            "formula": printed.formula,
            "latex": printed.latex,
            "python": self.python_form(),
            "nodes": self.size,
            "link": self.link,
            "inputs": list(self.inputs),
            "phi": self.phi.tolist(),
        }

    def python_form(self) -> str:
        """See `Loss.python_form`."""
        plain = self.phi.dtype == torch.float32 and bool((self.phi == 1).all())
        return call_text(
            self,
            [f'"{self.expression}"'],
            phi=None if plain else self.phi,
            link=self.link,
            activation=self.activation,
            inputs=self.inputs,
        )

    @property
    def structure_fields(self) -> dict[str, Any]:
        """The expression."""
        return {"expression": str(self.expression)}

    def extra_repr(self) -> str:
        """The arguments in the module's ``repr``."""
        more = f", inputs={self.inputs!r}" if self.inputs else ""
        return f"{self.expression}, link={self.link!r}, reduction={self.reduction!r}{more}"


def _are_numbers(phi: Tensor) -> bool:
    """Whether the tensors are ordinary ones, neither differentiated nor mapped."""
    if phi.requires_grad or not phi.is_cpu or not is_plain(phi):
        return False
    return forward_ad.unpack_dual(phi).tangent is None  # type: ignore[no-untyped-call]
