"""Losses by name and a number, against torch's own or the formula."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import evomal
from evomal.errors import InputError
from evomal.losses.families import FAMILIES, Family
from evomal.losses.files import loss_from_dict, loss_to_dict
from evomal.losses.form import Form, Link
from evomal.losses.names import initial_loss, resolve_loss
from handcrafted_losses import classes, draw


def named(text: str, link: Link = "identity") -> evomal.SymbolicLoss:
    loss = resolve_loss(text, Form(link))
    assert isinstance(loss, evomal.SymbolicLoss)
    return loss.double()


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_pinball(quantile: float) -> None:
    pred, target = draw(50), draw(50, seed=1)
    above = target - pred
    expected = torch.where(above > 0, quantile * above, (quantile - 1) * above).mean()
    torch.testing.assert_close(named(f"pinball:{quantile}")(pred, target), expected)


def test_the_minimum_of_pinball_is_the_quantile() -> None:
    target = torch.arange(101, dtype=torch.double)
    loss = named("pinball:0.9")
    values = [loss(torch.full_like(target, float(at)), target) for at in range(101)]
    assert min(range(101), key=lambda at: float(values[at])) == 90


@pytest.mark.parametrize("delta", [0.3, 1.0, 2.0])
def test_huber(delta: float) -> None:
    pred, target = 3 * draw(50), draw(50, seed=1)
    expected = nn.HuberLoss(delta=delta)(pred, target)
    torch.testing.assert_close(named(f"huber:{delta}")(pred, target), expected)


def test_weighted() -> None:
    pred, target = 3 * draw(50), classes(50, count=2).double()
    weight = torch.tensor(30.0, dtype=torch.double)
    expected = functional.binary_cross_entropy_with_logits(pred, target, pos_weight=weight)
    found = named("weighted:30", "sigmoid")(pred, target)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_generalised_cross_entropy(q: float) -> None:
    pred, target = draw(20, 5), classes(20, count=5)
    f = pred.softmax(1).gather(1, target[:, None])
    found = resolve_loss(f"gce:{q}", Form("softmax"))(pred, target)
    torch.testing.assert_close(found, ((1 - f**q) / q).mean())


def test_its_limits_are_cross_entropy_and_the_absolute_error() -> None:
    pred, target = draw(20, 5), classes(20, count=5)
    small = evomal.GeneralizedCrossEntropyLoss(1e-9)(pred, target)
    torch.testing.assert_close(small, functional.cross_entropy(pred, target))
    large = evomal.GeneralizedCrossEntropyLoss(1.0)(pred, target)
    absolute = evomal.SymbolicLoss("abs(sub(y, f))", link="softmax").double()(pred, target)
    torch.testing.assert_close(large, absolute / 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("focal:0.5", evomal.FocalLoss(0.5)),
        ("label-smoothing:0.2", evomal.LabelSmoothingLoss(0.2)),
    ],
)
def test_handcrafted_losses_take_the_number(text: str, expected: nn.Module) -> None:
    pred, target = draw(20, 5), classes(20, count=5)
    loss = resolve_loss(text, Form("softmax", weight=(1.0,) * 5))
    assert loss.weight is not None
    torch.testing.assert_close(loss(pred, target), expected(pred, target))


def test_log_cosh(tmp_path: Path) -> None:
    pred, target = draw(50), draw(50, seed=1)
    loss = resolve_loss("log-cosh")
    torch.testing.assert_close(loss(pred, target), (pred - target).cosh().log().mean())
    far = torch.tensor([1e4, -1e4], requires_grad=True)
    value = loss(far, torch.zeros(2))
    value.backward()
    assert value.item() == pytest.approx(1e4 - math.log(2))
    assert far.grad is not None
    assert far.grad.tolist() == [0.5, -0.5]
    path = tmp_path / "loss.json"
    evomal.save_loss(evomal.LogCoshLoss("sum"), path)
    again = evomal.load_loss(path)
    assert isinstance(again, evomal.LogCoshLoss)
    assert again.reduction == "sum"
    with pytest.raises(InputError, match="target of pred's shape"):
        loss(pred, target[:1])
    assert loss(pred.half(), target.half()).dtype == torch.float16


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_example_is_a_loss_that_can_be_saved(family: Family) -> None:
    loss = resolve_loss(family.example, Form("softmax"))
    fields = loss_to_dict(loss)
    assert loss_to_dict(loss_from_dict(fields)) == fields
    assert loss.describe()["python"] is not None


def test_the_structure_of_a_quantile_loss_can_start_a_search() -> None:
    loss = initial_loss("pinball:0.9", Form("identity"))
    assert str(loss.expression) == "max(sub(y, f), sub(f, y))"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pinball:1.5", "The quantile of a loss must be a number between 0 and 1, got 1.5."),
        ("pinball:high", "needs a number after the colon, as in pinball:0.9"),
        ("huber:nan", "The delta of a loss must be a number above 0, got nan"),
        ("pinball", "The loss pinball needs a number, as in pinball:0.9"),
        ("weighted:-1", "must be a number above 0, got -1"),
        ("gce:0", "must be a number above 0 and up to 1"),
        ("pinbal", "did you mean pinball"),
    ],
)
def test_a_wrong_name_is_told(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_loss(text)
