"""What losses are called and made with: tensors and numbers, or one sentence that says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomal import (
    AbsoluteCrossEntropyLoss,
    FocalLoss,
    LabelSmoothingLoss,
    SparselySmoothedLoss,
    SymbolicLoss,
)
from evomal.errors import InputError
from evomal.losses.base import Loss
from evomal.losses.form import Form
from handcrafted_losses import classes, draw

SQUARED_ERROR = "square(sub(y, f))"
PRED, CLASSES = draw(4, 3, dtype=torch.float32), classes(4, count=3)
OF_CLASSES: list[Loss] = [
    SymbolicLoss(SQUARED_ERROR, link="softmax"),
    SymbolicLoss(SQUARED_ERROR, link="softmax", activation="softplus", reduction="none"),
    AbsoluteCrossEntropyLoss(),
    FocalLoss(weight=[1.0, 2.0, 3.0]),
    LabelSmoothingLoss(reduction="sum"),
    SparselySmoothedLoss(torch.neg, 0.1),
]


def refused(loss: Any, *arguments: Any, **inputs: Any) -> str:
    with pytest.raises(InputError) as caught:
        loss(*arguments, **inputs)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 300
    return message


# Calls


@pytest.mark.parametrize("value", [[[0.1, 0.2, 0.7]] * 4, None, "logits", PRED.numpy(), 1.0, {}])
def test_what_is_no_tensor_is_told_with_the_remedy(value: Any) -> None:
    for loss in [*OF_CLASSES, SymbolicLoss(SQUARED_ERROR)]:
        told = refused(loss, value, CLASSES)
        assert "but pred is" in told
        assert "torch.as_tensor(pred)" in told
        told = refused(loss, PRED, value)
        assert "torch.as_tensor(target)" in told
        assert f"of type {type(value).__name__}" in told


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e5m2])
def test_a_pred_of_another_type_is_told(dtype: torch.dtype) -> None:
    for loss in [*OF_CLASSES, SymbolicLoss(SQUARED_ERROR)]:
        assert str(dtype) in refused(loss, PRED.to(dtype), CLASSES)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e5m2])
def test_a_target_of_another_type_is_told(dtype: torch.dtype) -> None:
    for loss in [*OF_CLASSES, SymbolicLoss(SQUARED_ERROR), SymbolicLoss("f", link="sigmoid")]:
        assert str(dtype) in refused(loss, PRED, PRED.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32])
def test_classes_of_any_integer_type_and_of_truth_are_indices(dtype: torch.dtype) -> None:
    target = torch.tensor([0, 1, 1, 0])
    for loss in OF_CLASSES:
        assert torch.equal(loss(PRED, target.to(dtype)), loss(PRED, target))


def test_integers_of_the_shape_of_probabilities_are_told() -> None:
    told = refused(OF_CLASSES[0], PRED, torch.eye(3)[CLASSES].bool())
    assert "floating-point class probabilities" in told


def test_other_devices_are_told() -> None:
    for loss in OF_CLASSES:
        told = refused(loss, PRED, CLASSES.to("meta"))
        assert "target is on meta, but pred is on cpu; move it with target.to(pred.device)" in told
        assert "target is on cpu, but pred is on meta" in refused(loss, PRED.to("meta"), CLASSES)
    pred, target = PRED.to("meta"), CLASSES.to("meta")
    for loss in OF_CLASSES:
        if loss.weight is None:
            assert loss(pred, target).device.type == "meta"  # weights φ may stay on the CPU
        else:
            assert "class weights are on cpu" in refused(loss, pred, target)
    moved = SymbolicLoss(SQUARED_ERROR).to("meta")
    assert "move it with loss.to(pred.device)" in refused(moved, PRED, PRED)
    assert FocalLoss()(pred.half(), target).dtype == torch.float16


def test_ignored_classes_need_class_indices_as_torchs_do() -> None:
    loss = SymbolicLoss(SQUARED_ERROR, link="softmax", ignore_index=1)
    assert "needs class indices" in refused(loss, PRED, PRED.softmax(1))
    with pytest.raises(RuntimeError, match="ignore_index is not supported"):
        torch.nn.functional.cross_entropy(PRED, PRED.softmax(1), ignore_index=1)


WEIGHTED = SymbolicLoss("mul(w, square(sub(y, f)))", inputs=("w",))


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (2, 2.0),
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (torch.tensor(2), 2.0),
        ([1, 2, 3, 4], torch.tensor([1.0, 2, 3, 4])),
        (np.array([1.0, 2, 3, 4])[::-1], torch.tensor([4.0, 3, 2, 1])),
        (torch.tensor([1, 2, 3, 4]), torch.tensor([1.0, 2, 3, 4])),
    ],
    ids=str,
)
def test_extra_inputs_are_numbers_of_many_kinds(value: Any, same: Any) -> None:
    target = draw(4, 3, seed=1, dtype=torch.float32)
    assert torch.equal(WEIGHTED(PRED, target, w=value), WEIGHTED(PRED, target, w=same))


def test_an_extra_input_is_as_exact_as_pred() -> None:
    pred = torch.ones(2, dtype=torch.float64)
    for value in (0.1, [0.1, 0.1], np.array([0.1, 0.1]), np.float64(0.1)):
        assert WEIGHTED(pred, torch.zeros(2), w=value).item() == 0.1


@pytest.mark.parametrize(
    "value",
    [
        *("0.5", None, 1j, {}, np.array(["a"]), torch.tensor([1j] * 4), 10**400, 10**5000, ["a"]),
        np.ma.array([0.5] * 4, mask=[True, False, False, False]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_extra_inputs_that_are_no_numbers_are_told(value: Any) -> None:
    assert "The values of the input 'w' of the loss" in refused(WEIGHTED, PRED, PRED, w=value)


# Settings


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        ({"expression": 5}, "not 5"),
        ({"expression": None}, "An expression must be text"),
        ({"expression": ["y"]}, "An expression must be text"),
        ({"phi": "abc"}, "weights hold text"),
        ({"phi": [[1.0, 2], [3]]}, "weights are ragged"),
        ({"phi": [1j, 1, 1]}, "hold complex numbers"),
        ({"phi": np.ma.array([1.0, 2, 3], mask=[True, False, False])}, "weights are a masked"),
        ({"phi": [10**400, 1, 1]}, "hold Python objects"),
        ({"phi": torch.ones(3, dtype=torch.float8_e5m2)}, "16 to 64 bits"),
        ({"weight": {0: 1.0}}, "class weights are of type dict"),
        ({"weight": "balanced"}, "class weights hold text"),
        ({"weight": np.ma.array([1.0, 2], mask=[True, False])}, "weights are a masked"),
        ({"weight": 5}, "one per class"),
        ({"weight": torch.ones(2, dtype=torch.complex64)}, "real numbers"),
        ({"inputs": "progress"}, "a list of names, got 'progress'"),
        ({"inputs": None}, "a list of names"),
        ({"inputs": [3]}, "cannot be called 3"),
        ({"ignore_index": True}, "a 64-bit integer, got True"),
        ({"ignore_index": 2**63}, "a 64-bit integer"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(settings: dict[str, Any], fragment: str) -> None:
    given: dict[str, Any] = {"expression": SQUARED_ERROR, "link": "softmax", **settings}
    assert fragment in refused(SymbolicLoss, **given)


@pytest.mark.parametrize(
    "value",
    [True, 10**400, 10**5000, "2", torch.tensor(2.0)],
    ids=lambda value: type(value).__name__,
)
def test_numbers_of_a_loss_are_numbers(value: Any) -> None:
    assert "gamma of a loss must be a number" in refused(FocalLoss, value)


def test_numbers_of_numpy_are_taken() -> None:
    given: Any = {"weight": np.array([1.0, 2, 3])[::-1], "ignore_index": np.int64(1)}
    loss = FocalLoss(np.float32(2), **given)  # type: ignore[arg-type]
    assert (loss.gamma, loss.ignore_index) == (2.0, 1)
    assert type(loss.ignore_index) is int
    assert isinstance(loss.weight, Tensor)
    assert loss.weight.tolist() == [3, 2, 1]
    phi: Any = np.ones(3)[::-1]
    assert SymbolicLoss(SQUARED_ERROR, phi).phi.dtype == torch.float64
    assert "must be True or False" in refused(SparselySmoothedLoss, torch.neg, 0.1, relaxed="no")


def test_other_weights_are_numbers_too() -> None:
    loss = SymbolicLoss(SQUARED_ERROR).double()
    assert loss.with_phi([0.1, 1, 1]).phi[0].item() == 0.1
    assert "hold text" in refused(loss.with_phi, "abc")


# The form of a task


def test_a_form_comes_back() -> None:
    form = Form("softmax", ("w",), (0.1, 2.0), 7)
    assert Form.from_dict(form.to_dict()) == form
    assert Form.from_dict(Form("identity").to_dict()) == Form("identity")


@pytest.mark.parametrize("field", ["link", "inputs", "weight", "ignore_index", "more"])
@pytest.mark.parametrize("value", [None, True, 0.5, "x", ["f"], [[3]], [float("nan")], {}, 2**70])
def test_a_damaged_form_is_told(field: str, value: Any) -> None:
    fields = Form("softmax", ("w",), (0.1, 2.0), 7).to_dict()
    if field == "weight" and value is None:
        assert Form.from_dict({**fields, field: value}).weight is None
        return
    refused(Form.from_dict, {**fields, field: value})
    if field in fields:
        del fields[field]
        refused(Form.from_dict, fields)
    refused(Form.from_dict, value)
