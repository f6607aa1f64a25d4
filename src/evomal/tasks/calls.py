"""The only place where a base learner is called: with its inputs, for its raw outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from evomal.errors import InputError, quoted
from evomal.tasks import arguments
from evomal.tasks.inputs import Inputs, arguments_of

Output = Callable[[Any], Tensor] | str | int
"""How raw outputs are picked from what a model returns: a function, name, key or index."""


def called(
    learner: nn.Module, inputs: Inputs, output: Output | None, state: Mapping[str, Tensor] | None
) -> Tensor:
    """The raw outputs of a learner, or of one with other parameters and buffers."""
    args, kwargs = arguments_of(inputs)
    if state is None:
        return picked(learner(*args, **kwargs), output)
    return picked(functional_call(learner, dict(state), args, kwargs), output)


def picked(returned: Any, output: Output | None) -> Tensor:
    """The raw outputs in what a model returns.

    Raises
    ------
    InputError
        If they are not there, or are not a tensor.
    """
    if output is None:
        found = returned if isinstance(returned, Tensor) else _entry(returned, "logits")
        remedy = "pass output=, the index, key or name of the raw outputs in it, or a function"
    elif callable(output):
        found = output(returned)
        remedy = "let the function output return a tensor"
    elif isinstance(returned, Tensor):
        raise InputError(
            f"The model returns one tensor, so there is nothing to pick with output={output!r}; "
            "omit output."
        )
    else:
        found = _entry(returned, output)
        remedy = f"pass another output than {output!r}"
    if isinstance(found, Tensor):
        return found
    seen = f"a {type(returned).__name__}"
    if isinstance(returned, Mapping):
        seen = f"{seen} with the keys {quoted(list(returned))}"
    elif isinstance(returned, tuple | list):
        seen = f"{seen} of length {len(returned)}"
    raise InputError(f"The model must return one tensor, not {seen}; {remedy}.")


def _entry(returned: Any, output: str | int) -> Any:
    """An entry of a dict or sequence, or an attribute; None if there is none."""
    if isinstance(returned, Mapping):
        return returned.get(output, getattr(returned, str(output), None))
    if isinstance(output, str):
        return getattr(returned, output, None)
    inside = isinstance(returned, tuple | list) and -len(returned) <= output < len(returned)
    return returned[output] if inside else None


def read_output(output: Any) -> Output | None:
    """The argument `output` of a task.

    Raises
    ------
    InputError
        If it is not a function, a name or an index.
    """
    if isinstance(output, str) or (isinstance(output, int) and not isinstance(output, bool)):
        return output
    if output is not None and not callable(output):
        raise InputError(
            "The argument output must be the index, key or name of the raw outputs in what the "
            f"model returns, or a function, got {quoted(output)}."
        )
    return arguments.function(output, "argument output", "(returned)")
