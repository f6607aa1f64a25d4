"""Targets given as labels: their class indices, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import LabelEncoder
from torch.utils.data import Dataset

from evomal import InputError, Task
from evomal.losses.form import Form
from evomal.tasks.labels import Labels
from tasks_for_tests import Perceptron

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
NAMES = ["cat", "ant", "bee", "ant", "cat", "bee"]
INDICES = [2, 0, 1, 0, 2, 1]


class Named(Dataset[Any]):
    """Rows with text for targets."""

    def __len__(self) -> int:
        return len(NAMES)

    def __getitem__(self, index: int) -> Any:
        return X[index], NAMES[index]


def make(train: Any, validation: Any = None, **settings: Any) -> Task:
    given = {"model": partial(Perceptron, 3), "link": "softmax", **settings}
    return Task(train=train, validation=train if validation is None else validation, **given)


HELD: dict[str, Callable[[], Any]] = {
    "list": lambda: NAMES,
    "tuple": lambda: tuple(NAMES),
    "array": lambda: np.array(NAMES),
    "objects": lambda: np.array(NAMES, dtype=object),
    "long text": lambda: np.array(NAMES, dtype=np.dtypes.StringDType()),
    "series": lambda: pd.Series(NAMES, index=[5, 4, 3, 2, 1, 0]),
    "text series": lambda: pd.Series(NAMES, dtype="string"),
    "categories": lambda: pd.Series(pd.Categorical(NAMES, ["bee", "cat", "ant"])),
    "polars": lambda: pl.Series(NAMES),
    "polars categories": lambda: pl.Series(NAMES, dtype=pl.Categorical),
    "enumeration": lambda: pl.Series(NAMES, dtype=pl.Enum(["bee", "cat", "ant"])),
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_labels_are_the_indices_of_the_sorted_ones(held: Callable[[], Any]) -> None:
    task = make((X, held()))
    assert task.classes == ("ant", "bee", "cat")
    assert task.train.targets.tolist() == task.validation.targets.tolist() == INDICES
    assert task.fingerprint() == make((X, INDICES)).fingerprint()


def test_a_data_set_may_hold_labels() -> None:
    assert make(Named()).train.targets.tolist() == INDICES


@given(st.lists(st.text(max_size=3), min_size=1, max_size=20))
def test_they_are_those_of_scikit_learn(names: list[str]) -> None:
    names = [name.replace("\0", "") for name in names]  # which numpy cuts off
    labels, encoder = Labels(Form("softmax"), None), LabelEncoder()
    assert labels.read(names, "The targets").tolist() == encoder.fit_transform(names).tolist()
    assert labels.classes == tuple(encoder.classes_)


def test_given_classes_fix_the_order() -> None:
    task = make((X, NAMES), classes=["cat", "bee", "ant"])
    assert task.classes == ("cat", "bee", "ant")
    assert task.train.targets.tolist() == [0, 2, 1, 2, 0, 1]


def test_given_names_leave_class_indices() -> None:
    task = make((X, INDICES), classes=["ant", "bee", "cat"])
    assert (task.classes, task.train.targets.tolist()) == (("ant", "bee", "cat"), INDICES)


def test_numbers_of_classes_need_not_start_at_0() -> None:
    task = make((X, [3, 1, 2, 1, 3, -100]), classes=range(1, 4))
    assert task.train.targets.tolist() == [2, 0, 1, 0, 2, -100]
    categories = make((X, pd.Series([30, 10, 20, 10, 30, 20], dtype="category")))
    assert (categories.classes, categories.train.targets.tolist()) == ((10, 20, 30), INDICES)


def test_flags_are_two_classes() -> None:
    flags = [True, False, True, True, False, False]
    for held in (flags, np.array(flags), torch.tensor(flags), pd.Series(flags), pl.Series(flags)):
        task = make((X, held))
        assert (task.classes, task.train.targets.tolist()) == (
            (False, True),
            [int(f) for f in flags],
        )
    assert make((X, flags), classes=[True, False]).train.targets.tolist() == [0, 1, 0, 0, 1, 1]


def test_a_binary_target_may_have_two_labels() -> None:
    answers = pd.DataFrame({"answer": ["yes", "no", "no", "yes", "no", "yes"]})
    task = make((X, answers), model=Perceptron, link="sigmoid")
    assert task.classes == ("no", "yes")
    assert task.train.targets.tolist() == [[1.0], [0.0], [0.0], [1.0], [0.0], [1.0]]


def test_without_labels_there_are_no_classes() -> None:
    assert make((X, INDICES)).classes is None


def test_labels_are_named_in_warnings() -> None:
    with pytest.warns(match="No training row has class 'dog', but the validation rows do"):
        make(
            (X, NAMES),
            (X, [*NAMES[:5], "dog"]),
            classes=["ant", "bee", "cat", "dog"],
            model=partial(Perceptron, 4),
        )


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "another label": (
        lambda: make((X, NAMES), (X, [*NAMES[:5], "dog"])),
        "The validation targets hold 'dog', but the classes are 'ant', 'bee', 'cat' (the training "
        "labels); drop those rows, or pass all labels as classes=[...].",
    ),
    "no class": (
        lambda: make((X, NAMES), classes=["ant", "cat"]),
        "The training targets hold 'bee', but the classes are 'ant', 'cat'; drop those rows",
    ),
    "numbers later": (
        lambda: make((X, NAMES), (X, INDICES)),
        "The validation targets hold numbers, but the training targets labels, such as 'ant'",
    ),
    "labels later": (
        lambda: make((X, INDICES), (X, NAMES)),
        "The validation targets hold labels, such as 'cat', but the training targets numbers",
    ),
    "three of two": (
        lambda: make((X, np.array(NAMES)[:, None]), model=Perceptron, link="sigmoid"),
        "The training targets have 3 classes ('ant', 'bee', 'cat'), but the link 'sigmoid' needs "
        "two; use the link 'softmax' for several.",
    ),
    "one of two": (
        lambda: make((X, [["yes"]] * 6), model=Perceptron, link="sigmoid"),
        "have only one class ('yes'), but the link 'sigmoid' needs two; pass both as",
    ),
    "regression": (
        lambda: make((X, NAMES), link="identity"),
        "The training targets hold text; encode it as numbers.",
    ),
    "classes of a regression": (
        lambda: make((X, X[:, :1]), link="identity", classes=["a", "b"]),
        "The argument classes needs the link 'softmax' or 'sigmoid'.",
    ),
    "a missing label": (
        lambda: make((X, pd.Series([*NAMES[:5], None]))),
        "The training targets hold missing labels; drop those rows first.",
    ),
    "text and numbers": (
        lambda: make((X, [*NAMES[:5], 3])),
        "The training targets hold text and other values, such as 3; drop those rows, or convert",
    ),
    "one label": (lambda: make((X, "cat")), "The training targets are a single value; pass an"),
    "masked": (lambda: make((X, np.ma.array(NAMES))), "are a masked array; fill it"),
    "bytes": (lambda: make((X, np.array([b"a"] * 6))), "hold text; encode it as numbers"),
    "more classes than outputs": (
        lambda: make((X, NAMES), model=partial(Perceptron, 2)),
        "The model returns 2 logits, but the training targets hold classes 0 to 2",
    ),
}


@pytest.mark.parametrize(("call", "fragment"), REFUSED.values(), ids=REFUSED)
def test_labels_that_do_not_fit_are_one_sentence(call: Callable[[], object], fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert fragment in message
    assert "\n" not in message
