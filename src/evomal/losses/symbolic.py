"""The meta-loss network: an expression with one weight on every edge (paper, section 3.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from evomal.errors import InputError
from evomal.expressions import program
from evomal.expressions.expression import Expression, parse, quoted
from evomal.losses.base import Activation, Loss, Reduction
from evomal.losses.form import IGNORE_INDEX, NO_INPUTS, Form, Link

INITIAL_DEVIATION = 1e-3
"""Standard deviation of φ₀ around 1."""


class SymbolicLoss(Loss):
    """An expression as a loss, called like ``torch.nn.CrossEntropyLoss`` or ``MSELoss``.

    Parameters
    ----------
    expression
        An `Expression` or its prefix form, such as ``"square(sub(y, f))"``.
    weights
        φ, one weight per edge in the prefix order of the child node: ``weights[i - 1]`` scales
        node i on its way to its parent. None means all ones, which is the bare expression. A
        tensor keeps its dtype.
    link, activation, reduction, weight, ignore_index
        As in `Loss`.
    inputs
        Names of further inputs that the expression may use; those in an `Expression` are added.

    Raises
    ------
    InputError
        If the expression is malformed or the number of weights is not its number of edges.
    """

    def __init__(
        self,
        expression: Expression | str,
        weights: Tensor | Sequence[float] | None = None,
        link: Link = "identity",
        activation: Activation = "identity",
        reduction: Reduction = "mean",
        inputs: Sequence[str] = (),
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        if isinstance(expression, str):
            expression = parse(expression, tuple(inputs))
        inputs = tuple(dict.fromkeys([*inputs, *expression.inputs]))
        edges = len(expression) - 1
        phi = torch.ones(edges) if weights is None else torch.as_tensor(weights).detach().clone()
        if not phi.is_floating_point():
            phi = phi.to(torch.get_default_dtype())
        if phi.shape != (edges,):
            raise InputError(
                f"The expression {quoted(str(expression))} takes {edges} weights, one per edge, "
                f"but the weights given have shape {tuple(phi.shape)}."
            )
        super().__init__(phi, link, activation, reduction, inputs, weight, ignore_index)
        self.expression = expression
        self._steps = program.steps_of(expression)

    @classmethod
    def of_form(
        cls, expression: Expression | str, form: Form, activation: Activation = "identity"
    ) -> Self:
        """The bare expression as a loss for the tasks of a form."""
        return cls(expression, activation=activation, **dataclasses.asdict(form))

    @property
    def key(self) -> str:
        """The canonical form: equal for symbolically equivalent expressions."""
        return str(self.expression.canonical)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.expression)

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """The further inputs that occur in the expression."""
        return self.expression.inputs

    def initial_weights(self, rng: np.random.Generator) -> Tensor:
        """φ₀ ~ N(1, 0.001²): the bare expression but for a little noise (paper, section 3.3)."""
        phi = rng.normal(1.0, INITIAL_DEVIATION, len(self.weights))
        return torch.from_numpy(phi).to(self.weights)

    def elementwise(
        self, y: Tensor, f: Tensor, weights: Tensor, inputs: Mapping[str, Tensor] = NO_INPUTS
    ) -> Tensor:
        """M_φ(y, f) for every element; `y`, `f` and the result have the same shape."""
        self._require_inputs(inputs)
        return self.expression.evaluate(y, f, weights, inputs)

    def factored(
        self, y: Tensor, f: Tensor, weights: Tensor, inputs: Mapping[str, Tensor] = NO_INPUTS
    ) -> tuple[Any, Tensor]:
        """`elementwise` as factor × tensor, in fewer operations."""
        fixed = not weights.requires_grad and weights.device.type == "cpu"
        as_numbers = fixed and not torch.compiler.is_compiling()
        phi = weights.tolist() if as_numbers else weights.unbind()
        try:
            return program.evaluate(self._steps, {**inputs, "y": y, "f": f}, phi, f)
        except KeyError:
            self._require_inputs(inputs)
            raise

    def _require_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        missing = [name for name in self.required_inputs if name not in inputs]
        if missing:
            raise InputError(
                f"The loss also depends on {', '.join(missing)}; call it as "
                f"loss(pred, target, {missing[0]}=…)."
            )

    def to_dict(self) -> dict[str, Any]:
        """Expression, weights and settings as JSON values."""
        return {
            "expression": str(self.expression),
            "weights": self.weights.tolist(),
            "dtype": str(self.weights.dtype).removeprefix("torch."),
            "link": self.link,
            "activation": self.activation,
            "reduction": self.reduction,
            "inputs": list(self.inputs),
            "weight": None if self.weight is None else self.weight.tolist(),
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The loss that `to_dict` described.

        Raises
        ------
        InputError
            If a field makes no sense.
        """
        dtype = getattr(torch, fields["dtype"])
        if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise InputError(f"weights of type {fields['dtype']!r} make no loss.")
        weight = fields.get("weight")
        return cls(
            fields["expression"],
            torch.tensor(fields["weights"], dtype=dtype),
            fields["link"],
            fields["activation"],
            fields["reduction"],
            tuple(fields.get("inputs", ())),  # this and the rest: since version 2
            None if weight is None else torch.tensor(weight, dtype=dtype),
            fields.get("ignore_index", IGNORE_INDEX),
        )

    def extra_repr(self) -> str:
        """What printing the module shows."""
        more = f", inputs={self.inputs!r}" if self.inputs else ""
        return f"{self.expression}, link={self.link!r}, reduction={self.reduction!r}{more}"
