"""Losses by name, and their copies of every kind: the same values and gradients, bit for bit."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import evomal
import evomal.losses
from evomal import NeuralLoss, SparselySmoothedLoss, SymbolicLoss, TaylorLoss
from evomal.losses import Loss, load_loss, save_loss
from evomal.losses.files import loss_to_dict
from handcrafted_losses import DTYPES, LOSSES, classes, draw

PHI = torch.tensor([0.1, -2.5, 1 / 3, 7.0, 0.7, 1e-3])


def symbolic(**changes: Any) -> SymbolicLoss:
    settings = {"phi": PHI, "link": "softmax", **changes}
    return SymbolicLoss("mul(y, abs(log(add(f, y))))", **settings)


CLASS_WEIGHTS = torch.tensor([0.1, 2.0, 1 / 3])
EVERY_LOSS: list[Loss] = [
    *(make() for make in LOSSES),
    *(make(weight=CLASS_WEIGHTS.double(), ignore_index=1, reduction="none") for make in LOSSES),
    symbolic(),
    symbolic(activation="softplus", reduction="sum", weight=CLASS_WEIGHTS, ignore_index=1),
    *(symbolic(phi=PHI.to(dtype)) for dtype in (torch.float16, torch.bfloat16, torch.float64)),
    SymbolicLoss("f", link="softmax", reduction="none"),
    SymbolicLoss("mul(w, square(sub(y, f)))", [0.1] * 5, "softmax", inputs=("w", "unused")),
    NeuralLoss(link="softmax"),
    NeuralLoss(link="softmax", activation="identity", reduction="none", inputs=("w",), hidden=[3]),
    NeuralLoss(link="softmax", weight=CLASS_WEIGHTS, ignore_index=1).double(),
    TaylorLoss(link="softmax", reduction="sum", weight=CLASS_WEIGHTS, ignore_index=1),
    *(TaylorLoss(draw(12).to(dtype), "softmax", order=4) for dtype in DTYPES),
]


def by_state_dict(loss: Loss, folder: Path) -> Loss:
    """Into a loss with other weights, from a file that holds no code."""
    other = copy.deepcopy(loss)
    for buffer in other.buffers():
        buffer.fill_(5.0)
    torch.save(loss.state_dict(), folder / "state.pt")
    other.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return other


def by_torch_save(loss: Loss, folder: Path) -> Loss:
    torch.save(loss, folder / "loss.pt")
    found: Loss = torch.load(folder / "loss.pt", weights_only=False)
    return found


def by_file(loss: Loss, folder: Path) -> Loss:
    save_loss(loss, folder / "loss.json")
    found = load_loss(folder / "loss.json")
    assert loss_to_dict(found) == loss_to_dict(loss)
    return found


WAYS: list[Callable[[Loss, Path], Loss]] = [
    lambda loss, _: copy.deepcopy(loss),
    lambda loss, _: copy.copy(loss),
    lambda loss, _: pickle.loads(pickle.dumps(loss)),  # noqa: S301
    by_state_dict,
    by_torch_save,
    by_file,
]


def value_and_gradient(loss: Loss) -> tuple[Tensor, Tensor]:
    pred, target = draw(5, 3, dtype=torch.float32).requires_grad_(), classes(5, count=3)
    inputs = {"w": 0.3} if loss.inputs else {}
    value: Tensor = loss(pred, target, **inputs)
    return value.detach(), torch.autograd.grad(value.sum(), pred)[0]


@pytest.mark.parametrize(
    "way", WAYS, ids=["deepcopy", "copy", "pickle", "state_dict", "torch.save", "file"]
)
def test_a_copy_computes_the_same_bit_for_bit(
    way: Callable[[Loss, Path], Loss], tmp_path: Path
) -> None:
    for loss in EVERY_LOSS:
        if way is by_file and isinstance(loss, SparselySmoothedLoss):
            continue  # it holds a function
        expected = value_and_gradient(loss)
        twin = way(loss, tmp_path)
        assert twin is not loss
        assert type(twin) is type(loss)
        for ours, theirs in zip(value_and_gradient(twin), expected, strict=True):
            assert torch.equal(ours, theirs)
        states = twin.state_dict(), loss.state_dict()
        assert states[0].keys() == states[1].keys()
        for name, tensor in states[0].items():
            assert tensor.dtype == states[1][name].dtype
            assert torch.equal(tensor, states[1][name])


def test_nothing_is_overridden_twice_in_one_chain() -> None:
    for loss in EVERY_LOSS:
        chain = [cls for cls in type(loss).__mro__ if cls.__module__.startswith("evomal.losses.")]
        names = {name for cls in chain for name in vars(cls) if not name.startswith("__")}
        for name in names - {"_abc_impl"}:
            assert len([cls for cls in chain if name in vars(cls)]) <= 2, (type(loss), name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_class_weights_keep_the_type_that_the_module_is_moved_to(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    for make in LOSSES:
        loss = make(weight=CLASS_WEIGHTS).to(dtype)
        assert loss.weight is not None
        assert loss.weight.dtype == dtype
        assert list(loss.state_dict()) == ["weight"]
        if not isinstance(loss, SparselySmoothedLoss):
            twin = by_file(loss, tmp_path)
            assert twin.weight is not None
            assert twin.weight.dtype == dtype


def test_losses_are_where_they_are_looked_for() -> None:
    for name in evomal.losses.__all__:
        value = getattr(evomal.losses, name)
        assert value is getattr(evomal, name, value)
        assert name in dir(evomal.losses)
    assert {name for name in evomal.__all__ if name.endswith("Loss")} < set(evomal.losses.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'CrossEntropyLoss'"):
        evomal.losses.CrossEntropyLoss  # noqa: B018


def test_the_names_cost_no_import_of_torch() -> None:
    code = (
        "import evomal.losses as all, sys; print('torch' in sys.modules, 'FocalLoss' in dir(all))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
