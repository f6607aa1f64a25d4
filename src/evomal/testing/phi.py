"""Whether a loss keeps the part of the contract of `evomal.losses.MetaLoss` that concerns φ."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from evomal.losses.meta import MetaLoss
from evomal.testing.expectations import (
    draw,
    expect,
    expect_close,
    expect_equal,
    expect_refusal,
    generators_untouched,
)

_MOST_DIFFERENCES = 24
_STEP = 1e-6


def numeric_gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of a scalar, at some places of `at`: which ones, and their slopes."""
    places = torch.linspace(0, at.numel() - 1, min(at.numel(), _MOST_DIFFERENCES)).long()
    slopes = []
    for place in places:
        step = torch.zeros(at.numel(), dtype=at.dtype)
        step[place] = _STEP
        step = step.reshape(at.shape)
        slopes.append((function(at + step) - function(at - step)).detach() / (2 * _STEP))
    return places, torch.stack(slopes) if slopes else at.new_zeros(0)


def check_phi(
    loss: MetaLoss, pred: Tensor, target: Tensor, inputs: Mapping[str, Tensor | float]
) -> None:
    """Check φ of a loss: its copies, first values, and derivatives of every kind."""
    _check_copies(loss, pred, target, inputs)
    _check_scale(loss, pred, target, inputs)
    _check_first_values(loss)
    _check_elements(loss, inputs)
    _check_derivatives(loss, pred, target, inputs)


def _check_copies(
    loss: MetaLoss, pred: Tensor, target: Tensor, inputs: Mapping[str, Tensor | float]
) -> None:
    name, before = type(loss).__name__, loss.phi.clone()
    expect("phi" in dict(loss.named_buffers()), f"{name}.phi must be a buffer.")
    expect(loss.phi.ndim == 1, f"{name}.phi must have one dimension, not {loss.phi.ndim}.")
    expect(not loss.phi.requires_grad, f"{name}.phi must have no gradient in ordinary training.")
    structure = loss.structure
    expect(type(structure) is str and structure != "", f"{name}.structure must be a text.")
    other = (loss.phi + 1).requires_grad_()
    twin = loss.with_phi(other)
    expect(torch.equal(loss.phi, before), f"{name}.with_phi must leave the loss as it is.")
    expect(torch.equal(twin.phi, other), f"{name}.with_phi must make a copy with the φ given.")
    expect(not twin.phi.requires_grad, f"{name}.with_phi must detach φ.")
    expect_equal(type(twin), type(loss), f"The type of {name}.with_phi(…)")
    expect_equal(twin.phi.dtype, loss.phi.dtype, f"The type of φ of {name}.with_phi(…)")
    ours, theirs = ({**one.to_dict(), "phi": None} for one in (twin, loss))
    expect_equal(ours, theirs, f"All but φ of {name}.with_phi(…)")
    expect_equal(twin.structure, structure, f"The structure of {name}, which is without φ,")
    longer = torch.ones(len(before) + 1)
    expect_refusal(lambda: loss.with_phi(longer), f"{name}.with_phi of a wrong number of weights")
    what = f"{name}.evaluate at its own φ"
    expect_close(loss.evaluate(pred, target, loss.phi, inputs), loss(pred, target, **inputs), what,
                 1e-9, 1e-6)  # fmt: skip


def _check_scale(
    loss: MetaLoss, pred: Tensor, target: Tensor, inputs: Mapping[str, Tensor | float]
) -> None:
    name, before = type(loss).__name__, loss.phi.clone()
    twin = loss.scaled(2.0)
    expect(torch.equal(loss.phi, before), f"{name}.scaled must leave the loss as it is.")
    if twin is not loss:
        found, own = twin(pred, target, **inputs), loss(pred, target, **inputs)
        expect_close(found, 2 * own, f"{name}.scaled(2.0), as a loss,", 1e-9, 1e-6)
    expect_refusal(lambda: loss.scaled(0.0), f"{name}.scaled of a factor that is not above 0")


def _check_first_values(loss: MetaLoss) -> None:
    name = type(loss).__name__
    with generators_untouched(f"{name}.initial_phi"):
        first, again = (loss.initial_phi(np.random.default_rng(3)) for _ in range(2))
    expect(torch.equal(first, again), f"{name}.initial_phi of equal generators must be equal.")
    expect_equal(first.shape, loss.phi.shape, f"The shape of {name}.initial_phi(…)")
    expect_equal(first.dtype, loss.phi.dtype, f"The type of {name}.initial_phi(…)")
    expect(not first.requires_grad, f"{name}.initial_phi must have no gradient.")
    expect(bool(first.isfinite().all()), f"{name}.initial_phi must be finite.")
    before = loss.phi.clone()
    first.fill_(7.0)
    expect(torch.equal(loss.phi, before), f"{name}.initial_phi must be a tensor of its own.")


def _phi_near_first(loss: MetaLoss) -> Tensor:
    """Away from the kinks that there may be at round numbers."""
    first = loss.initial_phi(np.random.default_rng(3)).double()
    return first + 0.05 * draw(len(first), seed=6)


def _check_elements(loss: MetaLoss, inputs: Mapping[str, Tensor | float]) -> None:
    name, phi = type(loss).__name__, _phi_near_first(loss)
    y, f = draw(4, 3, seed=4).sigmoid(), draw(4, 3, seed=5).sigmoid()
    further = {key: torch.as_tensor(value).double() for key, value in inputs.items()}
    values = loss.elementwise(y, f, phi, further)
    expect_equal(values.shape, f.shape, f"The shape of {name}.elementwise(…)")
    factor, parts = loss.factored(y, f, phi, further)
    bound = 1e-9 * (1 + float(values.abs().max()))
    product = parts if factor is None else factor * parts
    expect_close(product.expand_as(values), values, f"{name}.factored, multiplied,", bound, 1e-9)


def _check_derivatives(
    loss: MetaLoss, pred: Tensor, target: Tensor, inputs: Mapping[str, Tensor | float]
) -> None:
    """By φ: against central differences, as a tangent, of several φ at once, by `pred` too."""
    name, phi = type(loss).__name__, _phi_near_first(loss)

    def of_phi(phi: Tensor) -> Tensor:
        return loss.evaluate(pred, target, phi, inputs).sum()

    leaf = phi.clone().requires_grad_()
    value = of_phi(leaf)
    slope = torch.zeros_like(phi)
    if value.requires_grad:
        slope = torch.autograd.grad(value, leaf)[0]
    bound = 1e-6 * (1 + float(value.detach().abs()) + float(slope.abs().sum()))
    places, expected = numeric_gradient(of_phi, phi)
    what = f"The gradient of {name} in φ, by central differences in float64,"
    expect_close(slope[places], expected, what, bound, 1e-5)
    direction = draw(len(phi), seed=7)
    tangent = torch.func.jvp(of_phi, (phi,), (direction,))[1]
    expect_close(tangent, slope @ direction, f"The tangent of {name} in φ", bound, 1e-6)
    several = torch.stack([phi, 1.5 * phi])
    both = torch.func.grad_and_value(of_phi)
    mapped = torch.func.vmap(both)(several)
    one_by_one = zip(*(both(one) for one in several), strict=True)
    for part, found, each in zip(("gradient", "value"), mapped, one_by_one, strict=True):
        what = f"The {part} of {name} under torch.func.vmap over φ"
        expect_close(found, torch.stack(each), what, bound, 1e-6)

    def push(phi: Tensor) -> Tensor:
        """The derivative in `pred`, which the hypergradient differentiates by φ."""
        ones = (torch.ones_like(pred),)
        found: Tensor = torch.func.jvp(
            lambda x: loss.evaluate(x, target, phi, inputs).sum(), (pred,), ones
        )[1]
        return found

    forward, reverse = torch.func.jacfwd(push)(phi), torch.func.jacrev(push)(phi)
    expect_close(forward, reverse, f"The mixed derivative of {name} in pred and φ", bound, 1e-6)
