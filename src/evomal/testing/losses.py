"""Whether a loss keeps the contract of `evomal.losses.Loss`."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from torch import Tensor

import evomal
from evomal.errors import InputError
from evomal.losses.base import Loss, Reduction
from evomal.losses.files import LOSS_KINDS, load_loss, loss_from_dict, loss_to_dict, save_loss
from evomal.losses.form import FLOATS, HALVES, Link
from evomal.losses.meta import MetaLoss
from evomal.testing.expectations import (
    draw,
    expect,
    expect_close,
    expect_equal,
    expect_json,
    expect_refusal,
)
from evomal.testing.phi import check_phi, numeric_gradient

REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)


def check_loss(loss: Loss) -> None:
    """Check that a loss keeps the contract of `evomal.losses.Loss`, or of `MetaLoss`.

    Shapes and reductions, types of results, the gradient against central differences, batches of
    nothing, refusals, copies of every kind, files, and what it says of itself; of a `MetaLoss` also
    all that concerns φ.

    Parameters
    ----------
    loss
        The loss, with the settings and weights to be checked. Its class must be in
        ``evomal.losses.files.LOSS_KINDS``, unless `to_dict` refuses it.

    Raises
    ------
    AssertionError
        If it does not; the message says what is expected, and what was seen.

    Examples
    --------
    >>> from evomal import SymbolicLoss
    >>> check_loss(SymbolicLoss("square(sub(y, f))", link="softmax"))
    """
    expect(isinstance(loss, Loss), f"A loss must be a Loss, but is a {type(loss).__name__}.")
    _check_attributes(loss)
    _check_reductions(loss)
    _check_types(loss)
    _check_gradient(loss)
    _check_empty_batch(loss)
    _check_refusals(loss)
    _check_copies(loss)
    _check_moves(loss)
    _check_description(loss)
    _check_stored(loss)
    if isinstance(loss, MetaLoss):
        pred, target = examples(loss)[0]
        check_phi(loss, pred, target, inputs_of(loss))


def examples(loss: Loss) -> list[tuple[Tensor, Tensor]]:
    """Raw outputs in double precision and targets, of every kind of shape."""
    if loss.link == "softmax":
        count = 3 if loss.weight is None else len(loss.weight)
        shapes: list[tuple[int, ...]] = [(6, count), (2, count, 4), (count,)]
        preds = [draw(*shape) for shape in shapes]
        return [(pred, draw(*_samples(loss, pred), count).argmax(-1)) for pred in preds]
    pairs = [(draw(*shape), draw(*shape, seed=1)) for shape in [(6,), (4, 2), (2, 3, 2), ()]]
    if loss.link == "sigmoid":
        return [(pred, (target > 0).double()) for pred, target in pairs]
    return pairs


def inputs_of(loss: Loss) -> dict[str, Tensor | float]:
    """A value for every further input."""
    return {name: 0.5 + 0.25 * place for place, name in enumerate(loss.inputs)}


def _samples(loss: Loss, pred: Tensor) -> tuple[int, ...]:
    """The shape of what has one target each."""
    if loss.link != "softmax":
        return tuple(pred.shape)
    dim = min(1, pred.ndim - 1)
    return tuple(pred.shape[:dim] + pred.shape[dim + 1 :])


def _with(loss: Loss, reduction: Reduction) -> Loss:
    """A copy in double precision with another reduction."""
    twin = copy.deepcopy(loss).double()
    twin.reduction = reduction
    return twin


def _name(loss: Loss) -> str:
    return type(loss).__name__


def value_and_gradient(loss: Loss, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient of its sum by `pred`."""
    leaf = pred.detach().clone().requires_grad_()
    value: Tensor = loss(leaf, target, **inputs_of(loss))
    if not value.requires_grad:
        return value, torch.zeros_like(pred)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def _check_attributes(loss: Loss) -> None:
    name = _name(loss)
    expect(loss.link in get_args(Link), f"{name}.link must be a link, but is {loss.link!r}.")
    expect(loss.reduction in REDUCTIONS, f"{name}.reduction must be one of {REDUCTIONS}.")
    expect(type(loss.inputs) is tuple, f"{name}.inputs must be a tuple of names.")
    unknown = set(loss.required_inputs) - set(loss.inputs)
    expect(not unknown, f"{name}.required_inputs holds {unknown}, which inputs does not.")
    expect(type(loss.size) is int and loss.size >= 0, f"{name}.size must be a whole number.")
    expect(
        not list(loss.parameters()),
        f"{name} must have no parameters, or an optimiser of the model would train the loss too; "
        "register weights as buffers.",
    )


def _check_reductions(loss: Loss) -> None:
    """As in torch: sum and mean are those of the elements, the mean weighted by class."""
    for pred, target in examples(loss):
        inputs, samples = inputs_of(loss), _samples(loss, pred)
        none, total, mean = (
            _with(loss, how)(pred, target, **inputs) for how in ("none", "sum", "mean")
        )
        what = f"{_name(loss)} of pred {tuple(pred.shape)} with reduction"
        expect_equal(tuple(none.shape), samples, f"The shape of {what} 'none'")
        expect_equal(tuple(total.shape), (), f"The shape of {what} 'sum'")
        expect_equal(tuple(mean.shape), (), f"The shape of {what} 'mean'")
        bound = 1e-9 * (1 + float(none.detach().abs().sum()))
        expect_close(total, none.sum(), f"{what} 'sum'", bound, 1e-9)
        count = torch.tensor(float(none.numel()))
        if loss.link == "softmax":
            kept = target != loss.ignore_index
            weight = kept.double()
            if loss.weight is not None:
                weight = torch.where(kept, loss.weight.double()[target], 0.0)
            count = weight.sum()
        expect_close(mean, none.sum() / count, f"{what} 'mean'", bound, 1e-9)


def _check_types(loss: Loss) -> None:
    """Of results and gradients as torch's own losses have them; halves computed in float32."""
    name = _name(loss)
    integers = [torch.uint8, torch.int32, torch.int64]
    for dtype in FLOATS:
        (pred, target), *_ = examples(loss)
        pred = pred.to(dtype)
        for of_target in integers if loss.link == "softmax" else [*FLOATS, torch.bool]:
            given = target.to(of_target)
            expected = torch.promote_types(dtype, of_target)
            expected = expected if of_target.is_floating_point else dtype
            value, gradient = value_and_gradient(loss, pred, given)
            what = f"{name} of pred {dtype} and target {of_target}"
            expect_equal(value.dtype, expected, f"The type of {what}")
            expect_equal(gradient.dtype, dtype, f"The type of the gradient of {what}")
        if dtype in HALVES:
            value, _ = value_and_gradient(loss, pred, target.to(integers[0]))
            single, _ = value_and_gradient(loss, pred.float(), target.to(integers[0]))
            what = f"{name} of pred {dtype}, which is computed in float32 and then rounded,"
            expect_close(value, single.to(dtype), what, 0, 0)
            with torch.autocast("cpu", dtype):
                value, _ = value_and_gradient(loss, pred, target.to(integers[0]))
            expect_equal(value.dtype, torch.float32, f"The type of {name} under autocast")


def _check_gradient(loss: Loss) -> None:
    """In `pred`, against central differences."""
    twin = _with(loss, "sum")
    for pred, target in examples(loss):

        def of_pred(pred: Tensor, target: Tensor = target) -> Tensor:
            value: Tensor = twin(pred, target, **inputs_of(twin))
            return value

        value, gradient = value_and_gradient(twin, pred, target)
        places, expected = numeric_gradient(of_pred, pred)
        found = gradient.flatten()[places]
        bound = 1e-6 * (1 + float(value.abs()) + float(found.abs().amax()))
        what = f"The gradient of {_name(loss)} in pred, by central differences in float64,"
        expect_close(found, expected, what, bound, 1e-5)


def _check_empty_batch(loss: Loss) -> None:
    """A batch of nothing has the sum 0 and the mean NaN, as torch's."""
    pred, target = (tensor[:0] for tensor in examples(loss)[0])
    for how, expected in (("none", []), ("sum", 0.0), ("mean", torch.nan)):
        value, gradient = value_and_gradient(_with(loss, how), pred, target)  # type: ignore[arg-type]
        what = f"{_name(loss)} of an empty batch with reduction {how!r}"
        expect_close(value, torch.tensor(expected).double(), what, 0, 0)
        expect_equal(gradient.shape, pred.shape, f"The shape of the gradient of {what}")


def _check_refusals(loss: Loss) -> None:
    """No target is broadcast, and each input has a name."""
    name, inputs = _name(loss), inputs_of(loss)
    (pred, target), *_ = examples(loss)
    wrong = [target[:, None], target[:3], target[:1], target[0]]
    for given in wrong:
        shapes = f"pred {tuple(pred.shape)} and target {tuple(given.shape)}"
        message = expect_refusal(lambda t=given: loss(pred, t, **inputs), f"{name} of {shapes}")  # type: ignore[misc]
        expect("shape" in message, f"{name} refuses {shapes}, but does not name shapes: {message}")
    unknown: dict[str, Any] = {**inputs, "no_such_input": 1.0}
    message = expect_refusal(lambda: loss(pred, target, **unknown), f"{name} of an unknown input")
    expect("no_such_input" in message, f"{name} does not name an unknown input: {message}")
    for missing in loss.required_inputs:
        rest = {name: value for name, value in inputs.items() if name != missing}
        what = f"{name} without its input {missing}"
        message = expect_refusal(lambda rest=rest: loss(pred, target, **rest), what)  # type: ignore[misc]
        expect(missing in message, f"{name} does not name the missing input {missing}: {message}")


def _check_same(twin: Loss, loss: Loss, what: str) -> None:
    """To the last bit: type, settings, buffers, values and gradients."""
    expect_equal(type(twin), type(loss), f"The type of {what}")
    for setting in ("link", "reduction", "inputs", "ignore_index", "size"):
        expect_equal(getattr(twin, setting), getattr(loss, setting), f"The {setting} of {what}")
    ours, theirs = twin.state_dict(), loss.state_dict()
    expect_equal(list(ours), list(theirs), f"The names in the state_dict of {what}")
    for key, tensor in theirs.items():
        expect_equal(ours[key].dtype, tensor.dtype, f"The type of {key} of {what}")
        same = torch.equal(_bits(ours[key]), _bits(tensor))
        expect(same, f"{key} of {what} must be the same to the last bit, but is not.")
    pred, target = examples(loss)[0]
    pairs = zip(*(value_and_gradient(one, pred, target) for one in (twin, loss)), strict=True)
    for part, (found, expected) in zip(("value", "gradient"), pairs, strict=True):
        expect_close(found, expected, f"The {part} of {what}", 0, 0)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def _by_state_dict(loss: Loss) -> Loss:
    other = copy.deepcopy(loss)
    for buffer in other.buffers():
        buffer.fill_(5.0)
    other.load_state_dict(_by_torch(loss.state_dict(), weights_only=True))
    return other


def _by_torch(value: Any, *, weights_only: bool) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


_COPIES: dict[str, Callable[[Loss], Loss]] = {
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda loss: pickle.loads(pickle.dumps(loss)),  # noqa: S301 - what we just made
    "torch.save": partial(_by_torch, weights_only=False),
    "its state_dict": _by_state_dict,
}


def _check_copies(loss: Loss) -> None:
    for way, copied in _COPIES.items():
        _check_same(copied(loss), loss, f"a {_name(loss)} copied by {way}")


def _check_moves(loss: Loss) -> None:
    for dtype in FLOATS:
        for name, buffer in copy.deepcopy(loss).to(dtype).named_buffers():
            expect_equal(buffer.dtype, dtype, f"The type of {name} after .to({dtype})")
    for name, buffer in copy.deepcopy(loss).to("meta").named_buffers():
        expect_equal(buffer.device.type, "meta", f"The device of {name} after .to('meta')")
    if torch.cuda.is_available():
        pred, target = examples(loss)[0]
        twin = copy.deepcopy(loss).to("cuda")
        there = value_and_gradient(twin, pred.cuda(), target.cuda())
        for found, expected in zip(there, value_and_gradient(loss, pred, target), strict=True):
            expect_close(found.cpu(), expected, f"{_name(loss)} on a GPU", 1e-5, 1e-5)


def _check_description(loss: Loss) -> None:
    name, described = _name(loss), loss.describe()
    expect_json(described, f"{name}.describe()")
    text = loss.python_form()
    said = {"link": loss.link, "inputs": list(loss.inputs), "python": text}
    for key, value in said.items():
        expect_equal(described.get(key), value, f"{name}.describe()[{key!r}]")
    if text is None:
        return
    package = type(loss).__module__.partition(".")[0]
    names: dict[str, Any] = {"evomal": evomal, "torch": torch}
    names[package] = importlib.import_module(package)
    try:
        twin = eval(text, names)
    except Exception as error:
        raise AssertionError(f"{name}.python_form() must run, but {text!r}: {error}.") from error
    _check_same(twin, loss, f"what {name}.python_form() makes")


def _check_stored(loss: Loss) -> None:
    """As a dictionary and as a file; or refused by both."""
    name = _name(loss)
    with TemporaryDirectory() as folder:
        path = Path(folder, "loss.json")
        try:
            fields = loss.to_dict()
        except InputError:
            expect_refusal(lambda: save_loss(loss, path), f"save_loss of what {name} cannot store")
            return
        expect_json(fields, f"{name}.to_dict()")
        _check_same(type(loss).from_dict(fields), loss, f"a {name} by its dictionary")
        expect_refusal(lambda: type(loss).from_dict({}), f"{name}.from_dict of nothing")
        more = {**fields, "no_such_field": 1}
        expect_refusal(lambda: type(loss).from_dict(more), f"{name}.from_dict of an unknown field")
        expect(
            type(loss) in LOSS_KINDS.values(),
            f"{name} must be in evomal.losses.files.LOSS_KINDS, so that files can name it.",
        )
        expect_equal(loss_to_dict(loss_from_dict(loss_to_dict(loss))), loss_to_dict(loss), name)
        save_loss(loss, path)
        _check_same(load_loss(path), loss, f"a {name} by its file")
