"""Expressions: immutable trees of primitives that can be parsed, printed, compared, evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from evomal.errors import InputError
from evomal.expressions.primitives import (
    CONSTANTS,
    PRIMITIVES,
    TERMINALS,
    VARIABLES,
    arity,
    is_input_name,
)

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

MOST_EDGES = 1000
"""Maximum height of an expression that `parse` accepts."""

MOST_CHARACTERS = 1_000_000
"""Maximum length of a text that `parse` accepts."""

_KNOWN = ", ".join((*PRIMITIVES, *TERMINALS))
_QUOTED = 60  # maximum characters of a text in a message


@dataclass(frozen=True)
class Expression:
    """An immutable tree of primitives over the terminals `y`, `f`, `1`, `-1` and extra inputs.

    Attributes
    ----------
    nodes
        The names of the nodes in prefix order: a node, then its arguments' subtrees. Node 0 is
        the root; edge i - 1 leads from node i to its parent. Any word that is not a primitive or
        another terminal is an extra input of the loss, such as a sample weight.

    Raises
    ------
    InputError
        If `nodes` is not exactly one tree of such names.
    """

    nodes: tuple[str, ...]

    def __post_init__(self) -> None:
        missing = 1  # arguments still to come
        for index, node in enumerate(self.nodes):
            if not (node in PRIMITIVES or node in TERMINALS or is_input_name(node)):
                name = excerpt(str(node))
                raise InputError(f"Unknown name {name} in the expression; known names: {_KNOWN}.")
            missing += arity(node) - 1
            if missing == 0 and index + 1 < len(self.nodes):
                raise InputError(f"The expression is complete before {self.nodes[index + 1]!r}.")
        if missing:
            nodes = excerpt(" ".join(self.nodes))
            raise InputError(f"The expression {nodes} is missing {missing} arguments.")

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.nodes)

    def __str__(self) -> str:
        """The prefix form, as `parse` reads it."""
        parts: list[str] = []
        waiting: list[int] = []  # for every open parenthesis, the number of missing arguments
        for node in self.nodes:
            parts.append(node)
            if arity(node):
                parts.append("(")
                waiting.append(arity(node))
                continue
            while waiting:
                waiting[-1] -= 1
                if waiting[-1]:
                    parts.append(", ")
                    break
                parts.append(")")
                waiting.pop()
        return "".join(parts)

    @cached_property
    def height(self) -> int:
        """Edges on the longest path from the root to a terminal."""
        return self.fold(lambda _, node, args: 1 + max(args) if args else 0)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """For every node i, the index after the last node of its subtree."""
        ends = [0] * len(self.nodes)
        self.fold(lambda i, _, args: ends.__setitem__(i, max(args, default=i + 1)) or ends[i])
        return tuple(ends)

    def subtree(self, index: int) -> tuple[str, ...]:
        """The nodes of the subtree whose root is node `index`."""
        return self.nodes[index : self.ends[index]]

    def replace(self, index: int, subtree: Sequence[str]) -> Expression:
        """The expression with the subtree at node `index` replaced."""
        return Expression((*self.nodes[:index], *subtree, *self.nodes[self.ends[index] :]))

    @cached_property
    def canonical(self) -> Expression:
        """One representative of all orders of the arguments of commutative primitives.

        Two expressions are symbolically equivalent (paper, section 3.5.1) if and only if their
        canonical forms are equal.
        """

        def sort(_: int, node: str, args: list[tuple[str, ...]]) -> tuple[str, ...]:
            if args and PRIMITIVES[node].commutative:
                args = sorted(args)
            return (node, *(name for arg in args for name in arg))

        return Expression(self.fold(sort))

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The terminals other than `y`, `f` and the constants, sorted."""
        others = {node for node in self.nodes if arity(node) == 0 and node not in TERMINALS}
        return tuple(sorted(others))

    def uses_both_arguments(self) -> bool:
        """Whether both `y` and `f` occur (paper, section 3.2.3)."""
        return all(name in self.nodes for name in VARIABLES)

    def evaluate(
        self,
        y: Tensor,
        f: Tensor,
        weights: Tensor | None = None,
        inputs: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Tensor:
        """The value of the expression, or of its meta-loss network, for every element.

        Parameters
        ----------
        y, f
            Target and prediction, of equal shape.
        weights
            φ, shape (nodes - 1,): ``weights[i - 1]`` scales the value of node i on its way to its
            parent (paper, section 3.3). None means all ones.
        inputs
            The extra inputs by name, each of a shape that broadcasts to that of `f`.

        Returns
        -------
        Tensor
            Shape of `f`.
        """
        import torch

        variables = {**inputs, "y": y, "f": f}
        scales = None if weights is None else weights.unbind()

        def apply(index: int, node: str, args: list[Tensor]) -> Tensor:
            if node in variables:
                value = variables[node]
            elif node in CONSTANTS:
                value = torch.full((), CONSTANTS[node], dtype=f.dtype, device=f.device)
            else:
                value = PRIMITIVES[node].torch(torch, *args)
            return value if scales is None or index == 0 else value * scales[index - 1]

        return self.fold(apply).expand_as(f)

    def fold(self, combine: Callable[[int, str, list[T]], T]) -> T:
        """Combine the tree bottom-up with ``combine(index, node, values of its arguments)``."""
        stack: list[T] = []
        for index in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[index]
            args = [stack.pop() for _ in range(arity(node))]
            stack.append(combine(index, node, args))
        return stack[0]


_TOKEN = re.compile(r"\s*(?:(?P<name>-?\w+)|(?P<mark>[(),])|(?P<other>\S))")


def parse(text: str, inputs: Sequence[str] = ()) -> Expression:
    """Parse the prefix form, such as ``"square(sub(y, f))"``; ``parse(str(e)) == e``.

    Parameters
    ----------
    text
        The prefix form, with at most `MOST_CHARACTERS` characters and a height of at most
        `MOST_EDGES`.
    inputs
        Names of extra inputs of the loss; ``parse(str(e), e.inputs) == e``.

    Raises
    ------
    InputError
        If `text` is malformed, too long or too deep; the message says where.
    """
    if not isinstance(text, str):
        raise InputError(f"An expression must be a string, not a {type(text).__name__}.")
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"The expression {excerpt(text)} has {len(text)} characters, but at most "
            f"{MOST_CHARACTERS} are allowed."
        )
    return _parse(text, tuple(inputs))


@lru_cache(maxsize=1024)  # a stored loss names its expression twice
def _parse(text: str, inputs: tuple[str, ...]) -> Expression:
    nodes: list[str] = []
    waiting: list[int] = []  # for every open parenthesis, the arguments that it still lacks
    expected = "name"
    for match in _TOKEN.finditer(text.rstrip()):
        token = match.group().strip()
        if match["name"] and expected == "name":
            if token not in PRIMITIVES and token not in TERMINALS and token not in inputs:
                known = ", ".join([_KNOWN, *inputs])
                raise InputError(
                    f"Unknown name {excerpt(token)} {_place(text, match)}; known names: {known}."
                )
            nodes.append(token)
            if arity(token):
                waiting.append(arity(token))
                expected = "("
                if len(waiting) > MOST_EDGES:
                    raise InputError(
                        f"The expression is nested too deeply: {excerpt(token)} "
                        f"{_place(text, match)} is {MOST_EDGES} edges below the root, but at most "
                        f"{MOST_EDGES} edges are allowed."
                    )
            else:
                expected = _after_argument(waiting)
        elif match["mark"] and token == expected:
            if token == ")":
                waiting.pop()
                expected = _after_argument(waiting)
            else:
                expected = "name"
        else:
            wanted = {"name": "a name", "end": "the end"}.get(expected, repr(expected))
            found = excerpt(token)
            raise InputError(f"Expected {wanted} but found {found} {_place(text, match)}.")
    if expected != "end":
        wanted = "a name" if expected == "name" else repr(expected)
        end = excerpt(text, len(text))
        raise InputError(f"The expression {end} ends too early; expected {wanted}.")
    return Expression(tuple(nodes))


def _place(text: str, match: re.Match[str]) -> str:
    """The position of a token, for messages."""
    start = match.start(match.lastgroup or 0)
    return f"at position {start + 1} of {excerpt(text, start)}"


def excerpt(text: str, place: int = 0) -> str:
    """A quoted text, with control characters escaped; long texts are cut around a position.

    Parameters
    ----------
    text
        Any text.
    place
        The index of the character that matters.
    """
    start = max(0, min(place - _QUOTED // 2, len(text) - _QUOTED))
    end = start + _QUOTED
    before, after = "…" if start > 0 else "", "…" if end < len(text) else ""
    return repr(f"{before}{text[start:end]}{after}")


def _after_argument(waiting: list[int]) -> str:
    """Count one finished argument and return what must follow it."""
    if not waiting:
        return "end"
    waiting[-1] -= 1
    return "," if waiting[-1] else ")"
