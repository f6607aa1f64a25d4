"""Text from outside as an expression: any text, very deep and very long ones, and the messages."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import evomal
from evomal.errors import InputError
from evomal.expressions.expression import (
    MOST_CHARACTERS,
    MOST_EDGES,
    Expression,
    excerpt,
    parse,
)
from evomal.expressions.primitives import PRIMITIVES, TERMINALS
from strategies import fast

WORDS = [*PRIMITIVES, *TERMINALS, "(", ")", ",", " ", "w", "2", "\n"]


@fast
@given(st.text() | st.lists(st.sampled_from(WORDS)).map("".join))
@example("abs(\x1b[31m")
@example("\ud800")
@example("abs\u202e(y)")
@example("-" * 1000)
@example("١")  # a digit to Python
def test_any_text_is_an_expression_or_one_printable_line(text: str) -> None:
    message, expression = "", None
    try:
        expression = parse(text)
    except InputError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 500
    if expression is not None:
        assert parse(str(expression)) == expression
        assert str(expression) == "".join(text.split()).replace(",", ", ")


@given(st.text(), st.integers(0, 300))
def test_a_quotation_is_one_printable_line_with_its_place(text: str, place: int) -> None:
    place = min(place, len(text))
    shown = excerpt(text, place)
    assert shown.isprintable()
    assert len(text) > 60 or shown == repr(text)
    around = text[max(0, place - 20) : place + 20]
    assert repr(around)[1:-1] in shown or "'" in text or '"' in text  # which choose repr's marks


def test_a_message_quotes_what_is_around_the_place() -> None:
    text = "add(y, " * 500 + "\x1bg" + ")" * 500
    with pytest.raises(InputError) as caught:
        parse(text)
    assert "found '\\x1b' at position 3501 of '…" in str(caught.value)
    assert "add(y, \\x1bg))" in str(caught.value)
    assert len(str(caught.value)) < 150
    with pytest.raises(InputError) as caught:
        parse("y" * 10_000)
    assert len(str(caught.value)) < 300
    assert str(caught.value).startswith("Unknown name 'yyyy")
    with pytest.raises(InputError, match=r"The expression '…abs\(.*abs\(' ends too early"):
        parse("abs(" * 900)
    with pytest.raises(InputError) as caught:
        Expression(("add",) * 10_000)
    assert len(str(caught.value)) < 150


def nested(start: str, levels: int) -> str:
    return start * levels + "f" + ")" * levels


@pytest.mark.parametrize("levels", [MOST_EDGES + 1, 10_000, 190_000])
def test_deeper_text_is_refused_with_the_limit_and_the_place(levels: int) -> None:
    with pytest.raises(InputError) as caught:
        parse(nested("abs(", levels))
    assert f"at most {MOST_EDGES} edges" in str(caught.value)
    assert f"at position {4 * MOST_EDGES + 1} of '…" in str(caught.value)


def test_longer_text_is_refused_with_the_limit() -> None:
    longest = "y".ljust(MOST_CHARACTERS)
    assert parse(longest).nodes == ("y",)
    with pytest.raises(InputError, match=f"at most {MOST_CHARACTERS} are allowed"):
        parse(longest + " ")


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="not a list"):
        parse(["add", "y", "f"])  # type: ignore[arg-type]
    assert parse("mul(w, f)", ["w"]).inputs == ("w",)


@pytest.mark.parametrize("start", ["abs(", "tanh(", "sqrt(", "min(f, ", "div(y, ", "add(y, "])
def test_everything_works_up_to_the_greatest_depth(start: str) -> None:
    text = nested(start, MOST_EDGES)
    expression = parse(text)
    assert str(expression) == text
    assert expression.height == MOST_EDGES
    assert expression.ends[0] == len(expression)
    assert expression.canonical.height == MOST_EDGES
    assert expression.replace(len(expression) - 1, ("f",)) == expression
    twins = (parse(text + " "), copy.deepcopy(expression), pickle.loads(pickle.dumps(expression)))  # noqa: S301
    assert {expression, *twins} == {expression}
    loss = evomal.SymbolicLoss(expression)
    pred = torch.full((3,), 0.5, requires_grad=True)
    loss(pred, torch.ones(3)).backward()
    assert pred.grad is not None
    assert pred.grad.isfinite().all()
    assert evomal.SymbolicLoss.from_dict(copy.deepcopy(loss).to_dict()).expression == expression
    torch.testing.assert_close(
        expression.evaluate(torch.ones(3), pred),
        loss.elementwise(torch.ones(3), pred, loss.phi),
    )
