"""Targets given as labels, such as text, become class indices."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evomal.arrays import read_array
from evomal.errors import InputError, quoted
from evomal.losses.form import Form
from evomal.tasks import arguments

Label = str | int | bool

_NAMED = 5
"""Maximum number of labels in a message."""


class Labels:
    """The classes of a task by index, and the targets of its parts as numbers.

    Without `given`, they are the sorted labels of the part that is read first. Numbers are class
    indices, unless the given classes are numbers themselves.

    Parameters
    ----------
    form
        The form of the task's losses.
    given
        The labels in the order of their class indices: all text, all whole numbers, or all flags.

    Raises
    ------
    InputError
        If they are not, one is there twice, or the link has no such classes.
    """

    def __init__(self, form: Form, given: Any) -> None:
        self.classes: tuple[Label, ...] | None = None if given is None else _classes(given)
        self._form, self._given = form, given is not None
        self._first: str | None = None
        if self._given and form.link == "identity":
            raise InputError("The argument classes needs the link 'softmax' or 'sigmoid'.")
        if self._given:
            self._require_two("There are")

    def read(self, values: Any, what: str, *, complete: bool = True) -> Tensor:
        """The targets of a part; labels as class indices, int64.

        Parameters
        ----------
        values
            The targets.
        what
            Their name in messages, in the plural.
        complete
            Whether these are all of them.

        Raises
        ------
        InputError
            If they are neither numbers nor labels, or hold a label that is no class.
        """
        labels = None if self._form.link == "identity" else label_array(values, what)
        first = self._first
        self._first = first or what
        if labels is None:
            return self._read_numbers(values, what, first)
        if self.classes is None:
            if not complete:
                raise InputError(
                    f"{what} hold labels, such as {_listed(labels.flat[:1].tolist())}, and are "
                    "not all read at once; pass all labels as classes=[...]."
                )
            if first is not None:
                raise InputError(
                    f"{what} hold labels, such as {_listed(labels.flat[:1].tolist())}, but "
                    f"{_lower(first)} numbers; give both in one way."
                )
            self.classes = tuple(np.unique(labels).tolist())
            self._require_two(f"{what} have")
        return self._indices(labels, what)

    def _read_numbers(self, values: Any, what: str, first: str | None) -> Tensor:
        numbers = read_array(values, what)
        if self._form.link == "identity":
            return numbers
        if self.classes is None and first is None and numbers.dtype == torch.bool:
            self.classes = (False, True)
        if self.classes is None or (self._given and isinstance(self.classes[0], str)):
            return numbers
        if isinstance(self.classes[0], str):
            raise InputError(
                f"{what} hold numbers, but {_lower(first or what)} labels, such as "
                f"{_listed(self.classes[:1])}; give both in one way."
            )
        return self._indices(numbers.cpu().numpy(), what).to(numbers.device)

    def _indices(self, labels: npt.NDArray[Any], what: str) -> Tensor:
        """The class index of every label; an ignored index stays."""
        assert self.classes is not None
        unique, places = np.unique(labels, return_inverse=True)
        indices = {label: index for index, label in enumerate(self.classes)}
        if not isinstance(self.classes[0], str):
            indices.setdefault(self._form.ignore_index, self._form.ignore_index)
        unknown = [label for label in unique.tolist() if label not in indices]
        if unknown:
            raise InputError(
                f"{what} hold {_listed(unknown)}, but the classes are {_listed(self.classes)}"
                f"{'' if self._given else ' (the training labels)'}; drop those rows, or pass all "
                "labels as classes=[...]."
            )
        found = np.array([indices[label] for label in unique.tolist()], dtype=np.int64)
        return torch.from_numpy(np.asarray(found[places].reshape(labels.shape)))

    def _require_two(self, start: str) -> None:
        assert self.classes is not None
        if self._form.link != "sigmoid" or len(self.classes) == 2:
            return
        if len(self.classes) == 1:
            seen, remedy = "only one class", "pass both as classes=[...]"
        else:
            seen = f"{len(self.classes)} classes"
            remedy = "use the link 'softmax' for several"
        raise InputError(
            f"{start} {seen} ({_listed(self.classes)}), but the link 'sigmoid' needs two; {remedy}."
        )


def label_array(values: Any, what: str) -> npt.NDArray[Any] | None:
    """Text or categories as an array; None for anything else, such as numbers.

    Raises
    ------
    InputError
        If some labels are missing.
    """
    if hasattr(values, "columns"):
        if len(values.columns) != 1:
            return None
        column = label_array(values[values.columns[0]], what)
        return None if column is None else column[:, None]
    if isinstance(values, Tensor | np.ma.MaskedArray):
        return None
    is_column = hasattr(values, "to_numpy")
    if not (is_column or isinstance(values, str | np.ndarray) or _holds_text(values)):
        return None
    array = values.to_numpy() if is_column else _array(values)
    is_category = str(getattr(values, "dtype", "")).lower().startswith(("categor", "enum"))
    if not (is_category or array.dtype.kind in "UT" or _some_text(array)):
        return None
    nulls = getattr(values, "null_count", None)  # of polars
    if nulls() if callable(nulls) else getattr(values, "hasnans", False):
        raise InputError(f"{what} hold missing labels; drop those rows first.")
    if array.dtype.kind in "OT":
        odd = [value for value in array.flat if not isinstance(value, str)]
        if odd:
            raise InputError(
                f"{what} hold text and other values, such as {quoted(odd[0])}; drop those rows, "
                "or convert all to text."
            )
        array = np.array(array.tolist(), dtype=str)
    return array if array.dtype.kind in "Uiub" else None


def _array(values: Any) -> npt.NDArray[Any]:
    if isinstance(values, str | np.ndarray):
        return np.asarray(values)
    try:
        return np.array(values, dtype=object)  # not to convert numbers beside text
    except ValueError:  # ragged, which is said by others
        return np.empty(0)


def _holds_text(values: Any) -> bool:
    """Whether the first value of nested lists is text."""
    while isinstance(values, Sequence) and not isinstance(values, str) and len(values):
        values = values[0]
    return isinstance(values, str) or (isinstance(values, np.ndarray) and values.dtype.kind == "U")


def _some_text(array: npt.NDArray[Any]) -> bool:
    return array.dtype.kind == "O" and any(isinstance(value, str) for value in array.flat)


def _classes(given: Any) -> tuple[Label, ...]:
    """The argument classes."""
    labels = arguments.listed(given, "argument classes")
    plain = [label.item() if isinstance(label, np.generic) else label for label in labels]
    kinds = {
        kind
        for label in plain
        for kind in (bool, str, Integral)
        if isinstance(label, kind) and (kind is bool or not isinstance(label, bool))
    }
    known = all(isinstance(label, str | Integral) for label in plain)
    if not known or len(kinds) != 1 or len(set(plain)) != len(plain):
        raise InputError(
            "The argument classes must be a list of different labels, all text or all whole "
            f"numbers, in the order of the class indices, got {quoted(given)}."
        )
    return tuple(plain)


def _listed(labels: Sequence[Any]) -> str:
    """Some labels, as Python writes them."""
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return ", ".join(quoted(label) for label in labels[:_NAMED]) + more


def _lower(what: str) -> str:
    return what[:1].lower() + what[1:]
