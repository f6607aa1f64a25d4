"""How messages quote what a user gave, and what they take it for."""

from __future__ import annotations

from typing import Any

import pytest

from evomal import InputError, load_task, search
from evomal.errors import printable, quoted, require_name
from evomal.losses.form import Form
from evomal.losses.names import resolve_loss
from tasks_for_tests import regression_task


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain φ² …", "plain φ² …"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\x9b2J", r"\x9b2J"),
        ("caf\udce9", r"caf\udce9"),
    ],
)
def test_control_characters_are_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_message_quotes_a_line_at_most() -> None:
    assert quoted("short") == "'short'"
    assert quoted("\x1b") == r"'\x1b'"
    long = quoted("x" * 10_000)
    assert len(long) == 100
    assert (long[:3], long[-2:]) == ("'xx", "x…")
    assert quoted(10**5000) == "a number of 16610 bits"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("diabets/mlp", r"Unknown task 'diabets/mlp'; did you mean diabetes/mlp\?"),
        ("Diabetes/MLP", r"did you mean diabetes/mlp\?"),
        ("cifar10/resnet", r"did you mean cifar10/resnet18 or cifar100/resnet18\?"),
        ("zzz", "Unknown task 'zzz'; `evomal tasks` lists them, and your own has a name such as "),
        (3, "Unknown task 3; "),
        (["diabetes/mlp"], "Unknown task"),
    ],
)
def test_a_task_that_may_be_meant_is_named(name: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}" if message[0] == "U" else message) as error:
        load_task(name)
    assert len(str(error.value)) < 160, "not all 39 names"


def test_of_a_few_names_all_are_listed() -> None:
    require_name("split", "honest", ["honest", "published"])
    with pytest.raises(InputError, match=r"Unknown split 'x'; choose from honest, published\.$"):
        require_name("split", "x", ["honest", "published"])


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ({"method": "evomall"}, "did you mean evomal?"),
        ({"preset": "quik"}, "did you mean quick?"),
        ({"generatons": 3}, "did you mean generations?"),
        ({"max_tme": 3}, "did you mean max_time?"),
    ],
)
def test_names_of_a_search_that_may_be_meant(arguments: dict[str, Any], meant: str) -> None:
    with pytest.raises(InputError) as error:
        search(regression_task(), **arguments)
    assert meant in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cross-entropi", r"Unknown loss 'cross-entropi'; did you mean cross-entropy\?"),
        ("nothing-like-it", "`evomal losses` lists"),
        ("", "Unknown loss ''"),
        ("runs/0099", "There is no run directory or loss file 'runs/0099'"),
    ],
)
def test_a_loss_that_may_be_meant_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_loss(text, Form("softmax"))
