"""Primitives and expressions: values, gradients, closure, writing, reading, comparing."""

from __future__ import annotations

import math
import pickle
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomal.errors import InputError
from evomal.expressions.expression import Expression, parse
from evomal.expressions.primitives import CONSTANTS, PRIMITIVES, TERMINALS, VARIABLES, arity
from strategies import (
    BINARY,
    PROBABILITIES,
    STANDARDISED,
    expressions,
    fast,
    losses,
    pairs,
    weighted_losses,
)

# name -> (arguments, value, derivatives by the arguments); at a kink torch's subgradient
KNOWN: dict[str, list[tuple[tuple[float, ...], float, tuple[float, ...]]]] = {
    "add": [((2.0, 3.0), 5.0, (1.0, 1.0))],
    "sub": [((2.0, 3.0), -1.0, (1.0, -1.0))],
    "mul": [((2.0, 3.0), 6.0, (3.0, 2.0))],
    "div": [
        ((1.0, 2.0), 0.447213595500, (0.447213595500, -0.178885438200)),
        ((3.0, 0.0), 3.0, (1.0, 0.0)),
    ],
    "min": [((2.0, 3.0), 2.0, (1.0, 0.0)), ((2.0, 2.0), 2.0, (0.5, 0.5))],
    "max": [((2.0, 3.0), 3.0, (0.0, 1.0)), ((2.0, 2.0), 2.0, (0.5, 0.5))],
    "sign": [((-2.0,), -1.0, (0.0,)), ((0.0,), 0.0, (0.0,)), ((0.3,), 1.0, (0.0,))],
    "square": [((-3.0,), 9.0, (-6.0,))],
    "abs": [((-2.0,), 2.0, (-1.0,)), ((0.0,), 0.0, (0.0,)), ((2.0,), 2.0, (1.0,))],
    "log": [
        ((2.0,), 0.693147230560, (0.499999975000,)),
        ((-2.0,), 0.693147230560, (-0.499999975000,)),
        ((0.0,), -16.118095650958, (0.0,)),
    ],
    "sqrt": [
        ((4.0,), 2.000000025000, (0.249999996875,)),
        ((-4.0,), 2.000000025000, (-0.249999996875,)),
        ((0.0,), 3.16227766e-4, (0.0,)),
    ],
    "tanh": [((0.5,), 0.462117157260, (0.786447732966,))],
}
KNOWN_CASES = [(name, *case) for name in PRIMITIVES for case in KNOWN[name]]
EXTREMES = [0.0, -0.0, 1e-30, -1e-30, 1.0, -1.0, 1e6, -1e6]
DTYPES = [torch.float32, torch.float64]


def apply(name: str, *args: Tensor) -> Tensor:
    value = PRIMITIVES[name].torch(torch, *args)
    assert isinstance(value, Tensor)
    return value


def derivatives(value: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """Zero where `value` does not depend on a leaf; differentiable again."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    return torch.autograd.grad(
        value.sum(), leaves, create_graph=True, allow_unused=True, materialize_grads=True
    )


def all_derivatives(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """First and second derivatives."""
    first = derivatives(value, leaves)
    return [*first, *(second for slope in first for second in derivatives(slope, leaves))]


@pytest.mark.parametrize(("name", "args", "value", "slopes"), KNOWN_CASES)
def test_primitive_has_the_known_value_and_gradient(
    name: str, args: tuple[float, ...], value: float, slopes: tuple[float, ...]
) -> None:
    leaves = [torch.tensor(arg, dtype=torch.float64, requires_grad=True) for arg in args]
    result = apply(name, *leaves)
    assert result.item() == pytest.approx(value, rel=1e-9)
    for found, expected in zip(derivatives(result, leaves), slopes, strict=True):
        assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitive_passes_gradcheck_away_from_kinks(name: str) -> None:
    points = [[0.7, -2.0, 1.6, -0.3], [-1.3, 0.4, 2.5, -0.9]][: arity(name)]
    leaves = [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in points]
    assert torch.autograd.gradcheck(lambda *args: apply(name, *args), leaves)
    assert torch.autograd.gradgradcheck(lambda *args: apply(name, *args), leaves)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitive_is_closed_at_extremes(name: str, dtype: torch.dtype) -> None:
    points = torch.tensor(list(product(EXTREMES, repeat=arity(name))), dtype=dtype)
    leaves = [column.clone().requires_grad_() for column in points.unbind(1)]
    value = apply(name, *leaves)
    for result in (value, *all_derivatives(value, leaves)):
        assert result.isfinite().all()


@pytest.mark.parametrize("values", [PROBABILITIES, STANDARDISED], ids=["unit", "standardised"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@fast
@given(drawn=weighted_losses(max_height=4))
def test_meta_loss_network_is_closed(
    dtype: torch.dtype, values: list[float], drawn: tuple[Expression, Tensor]
) -> None:
    expression, phi = drawn
    y, f, phi = (part.requires_grad_() for part in (*pairs(values, dtype), phi.to(dtype)))
    leaves = [y, f, phi]
    value = expression.evaluate(y, f, phi)
    for result in (value, *all_derivatives(value, leaves)):
        assert result.isfinite().all()


def test_terminals_have_no_arguments_and_names_are_unique() -> None:
    assert [arity(name) for name in TERMINALS] == [0, 0, 0, 0]
    assert set(TERMINALS) == {*VARIABLES, *CONSTANTS}
    assert all(row.name == name and row.arity in (1, 2) for name, row in PRIMITIVES.items())
    assert arity("cosh") == 0


# Evaluation


def test_weights_scale_the_edges_in_prefix_order() -> None:
    y, f = torch.tensor([2.0, -1.0]), torch.tensor([3.0, 5.0])
    phi = torch.tensor([0.5, 7.0, 11.0])
    network = parse("square(sub(y, f))").evaluate(y, f, phi)
    assert network.tolist() == [(0.5 * (7 * 2 - 11 * 3)) ** 2, (0.5 * (7 * -1 - 11 * 5)) ** 2]
    # edges: 2 log(3 y), 5 (7 f)²; the root has no edge
    mixed = parse("add(log(y), square(f))").evaluate(y, f, torch.tensor([2.0, 3.0, 5.0, 7.0]))
    expected = [2 * math.log(6 + 1e-7) + 5 * 21**2, 2 * math.log(3 + 1e-7) + 5 * 35**2]
    assert mixed.tolist() == pytest.approx(expected, rel=1e-6)


@fast
@given(losses())
def test_weights_of_one_give_the_bare_expression_bit_for_bit(expression: Expression) -> None:
    y, f = pairs(STANDARDISED, torch.float32)
    network = expression.evaluate(y, f, torch.ones(len(expression) - 1))
    assert torch.equal(network, expression.evaluate(y, f))


@pytest.mark.parametrize("shape", [(), (3,), (4, 2)])
@pytest.mark.parametrize(
    ("text", "phi", "value"),
    [("1", [], 1.0), ("-1", [], -1.0), ("sub(-1, square(1))", [2.0, 3.0, 5.0], -2.0 - 3 * 25)],
)
def test_constants_take_the_shape_of_the_prediction(
    text: str, phi: list[float], value: float, shape: tuple[int, ...]
) -> None:
    y, f = torch.zeros(shape), torch.zeros(shape)
    network = parse(text).evaluate(y, f, torch.tensor(phi))
    assert torch.equal(network, torch.full(shape, value))
    assert parse(text).evaluate(y, f).shape == shape


# Structure

Tree = tuple[str, list["Tree"]]  # a plain recursive tree, as the reference


def tree_of(nodes: tuple[str, ...]) -> Tree:
    rest = list(nodes)

    def read() -> Tree:
        name = rest.pop(0)
        return name, [read() for _ in range(arity(name))]

    return read()


def flat(tree: Tree) -> tuple[str, ...]:
    name, args = tree
    return (name, *(node for arg in args for node in flat(arg)))


def height_of(tree: Tree) -> int:
    return max((1 + height_of(arg) for arg in tree[1]), default=0)


def subtrees(tree: Tree) -> list[Tree]:
    return [tree, *(below for arg in tree[1] for below in subtrees(arg))]


@fast
@given(expressions(), expressions(2))
def test_structure_agrees_with_a_recursive_tree(expression: Expression, graft: Expression) -> None:
    tree = tree_of(expression.nodes)
    below = [flat(part) for part in subtrees(tree)]
    size = len(expression)
    assert size == len(below)
    assert expression.height == height_of(tree)
    assert [expression.subtree(i) for i in range(size)] == below
    assert list(expression.ends) == [i + len(part) for i, part in enumerate(below)]
    assert expression.uses_both_arguments() == ({"y", "f"} <= set(expression.nodes))
    for i, part in enumerate(below):
        assert expression.replace(i, part) == expression
        child = expression.replace(i, graft.nodes)
        assert len(child) == size - len(part) + len(graft)
        assert child.subtree(i) == graft.nodes
        assert child.nodes[:i] == expression.nodes[:i]
        assert child.nodes[child.ends[i] :] == expression.nodes[expression.ends[i] :]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((), "is missing 1 argument"),
        (("add",), "is missing 2 arguments"),
        (("add", "y"), "is missing 1 argument"),
        (("y", "f"), "complete before 'f'"),
        (("square", "y", "abs", "f"), "complete before 'abs'"),
        (("cosh", "y"), "complete before 'y'"),
        (("2",), "Unknown name '2'"),
        (("Y-",), "Unknown name 'Y-'"),
        (("lambda",), "Unknown name 'lambda'"),
        (("abs", ""), "Unknown name ''"),
    ],
)
def test_nodes_that_are_no_tree_are_refused(nodes: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Expression(nodes)


@fast
@given(expressions(2), expressions(2))
def test_equality_and_hash_are_those_of_the_nodes(one: Expression, two: Expression) -> None:
    assert (one == two) == (one.nodes == two.nodes)
    twin = Expression(tuple(one.nodes))
    assert twin == one
    assert len({one, twin}) == 1
    assert one.height >= 0  # a cached value must not change what the expression equals
    assert one == twin
    assert hash(one) == hash(twin)
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301


# Symbolic equivalence


def swap(expression: Expression, index: int) -> Expression:
    """The expression with the two arguments of the binary node `index` exchanged."""
    nodes, ends = expression.nodes, expression.ends
    split = ends[index + 1]
    swapped = (nodes[index], *nodes[split : ends[index]], *nodes[index + 1 : split])
    return expression.replace(index, swapped)


def equivalent(one: Tree, two: Tree) -> bool:
    """Equal up to the order of commutative arguments, by trying every order."""
    if one[0] != two[0]:
        return False
    orders = [two[1]]
    if one[1] and PRIMITIVES[one[0]].commutative:
        orders.append(two[1][::-1])
    return any(all(map(equivalent, one[1], order)) for order in orders)


def test_only_four_primitives_commute() -> None:
    commutative = {name for name, row in PRIMITIVES.items() if row.commutative}
    assert commutative == {"add", "mul", "min", "max"}


@fast
@given(losses(), st.data())
def test_canonical_form_ignores_the_order_of_commutative_arguments(
    expression: Expression, data: st.DataObject
) -> None:
    twin = expression
    for _ in range(data.draw(st.integers(0, 6))):
        places = [i for i, n in enumerate(twin.nodes) if n in BINARY and PRIMITIVES[n].commutative]
        twin = swap(twin, data.draw(st.sampled_from(places))) if places else twin
    assert twin.canonical == expression.canonical
    assert twin.canonical.canonical == twin.canonical
    for values in (PROBABILITIES, STANDARDISED):
        y, f = pairs(values)
        assert torch.equal(expression.canonical.evaluate(y, f), expression.evaluate(y, f))


@fast
@given(losses(), st.data())
def test_canonical_forms_are_equal_only_for_equivalent_expressions(
    expression: Expression, data: st.DataObject
) -> None:
    place = data.draw(st.sampled_from([i for i, n in enumerate(expression.nodes) if n in BINARY]))
    twin = swap(expression, place)
    same = equivalent(tree_of(expression.nodes), tree_of(twin.nodes))
    assert (twin.canonical == expression.canonical) == same


def test_canonical_forms_of_known_expressions() -> None:
    def same(one: str, two: str) -> bool:
        return parse(one).canonical == parse(two).canonical

    assert same("mul(add(f, 1), abs(y))", "mul(abs(y), add(1, f))")
    assert same("sub(add(y, f), 1)", "sub(add(f, y), 1)")
    assert not same("sub(y, f)", "sub(f, y)")
    assert not same("div(y, f)", "div(f, y)")
    assert not same("add(y, sub(y, f))", "add(sub(f, y), y)")
    assert not same("min(y, f)", "max(y, f)")
    assert not same("add(add(y, f), 1)", "add(y, add(f, 1))")  # order only, not grouping
