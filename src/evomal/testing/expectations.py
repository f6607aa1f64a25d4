"""What all checks share: assertions that speak, and draws that touch no global generator."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomal.errors import InputError


def expect(condition: bool, sentence: str) -> None:
    """Raise an `AssertionError` with the sentence unless the condition holds."""
    if not condition:
        raise AssertionError(sentence)


def expect_equal(found: object, expected: object, what: str) -> None:
    """Raise an `AssertionError` unless both are equal; `what` begins its sentence."""
    expect(found == expected, f"{what} must be {expected!r}, but is {found!r}.")


def expect_close(found: Tensor, expected: Tensor, what: str, atol: float, rtol: float) -> None:
    """Raise an `AssertionError` unless tensors are equal up to rounding, NaN to NaN too."""
    near = found.shape == expected.shape and torch.allclose(
        found, expected.to(found), rtol=rtol, atol=atol, equal_nan=True
    )
    expect(near, f"{what} must be {expected.tolist()}, but is {found.tolist()}.")


def expect_json(value: object, what: str) -> None:
    """Raise an `AssertionError` unless a value is the same after it was JSON text."""
    try:
        again = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} must hold JSON values only, but: {error}.") from error
    expect(again == value, f"{what} must hold JSON values only, but {value!r} becomes {again!r}.")


def expect_refusal(call: Callable[[], object], what: str) -> str:
    """The message of the `InputError` that a call must raise; one line."""
    try:
        value = call()
    except InputError as error:
        message = str(error)
        expect("\n" not in message.strip(), f"{what} is refused with several lines: {message!r}.")
        expect(message != "", f"{what} is refused without a word.")
        return message
    except Exception as error:
        raise AssertionError(
            f"{what} must be refused with an InputError, but raises {type(error).__name__}: {error}"
        ) from error
    raise AssertionError(f"{what} must be refused with an InputError, but gives {value!r}.")


@contextmanager
def generators_untouched(what: str) -> Iterator[None]:
    """Raise an `AssertionError` if the block draws from a global generator."""

    def states() -> list[Any]:
        numpy = np.random.get_state(legacy=True)
        return [torch.random.get_rng_state().tolist(), random.getstate(), str(numpy)]

    before = states()
    yield
    for name, was, found in zip(("torch", "Python", "NumPy"), before, states(), strict=True):
        expect(found == was, f"{what} must draw nothing from the global generator of {name}.")


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
