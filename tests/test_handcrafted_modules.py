"""Handcrafted losses as modules: compilers, arguments, files, names and the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import evomal
from evomal import (
    AbsoluteCrossEntropyLoss,
    FocalLoss,
    FocalSparseLabelSmoothingLoss,
    LabelSmoothingLoss,
    SparseLabelSmoothingLoss,
    SparselySmoothedLoss,
)
from evomal.cli import main
from evomal.errors import InputError
from evomal.losses.families import FAMILIES
from evomal.losses.files import loss_from_dict, loss_to_dict
from evomal.losses.form import Form
from evomal.losses.handcrafted import HandcraftedLoss
from evomal.losses.known import HANDCRAFTED_LOSSES, KNOWN_LOSSES
from evomal.losses.names import initial_loss, resolve_loss
from handcrafted_losses import LOSSES, SHAPES, Make, classes, draw, name, with_gradient
from tasks_for_tests import classification_task, regression_task

# torch.compile and torch.func


@pytest.mark.parametrize("common", [{}, {"weight": [0.5, 1.0, 2.0], "ignore_index": 1}], ids=str)
@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_a_loss_compiles_to_one_graph_and_only_once(make: Make, common: dict[str, Any]) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    loss = make(**common)
    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    for seed in range(3):
        pred = draw(8, 3, seed=seed, dtype=torch.float32).requires_grad_()
        target = (torch.arange(8) + seed) % 3
        ours, plain = compiled(pred, target), loss(pred, target)
        torch.testing.assert_close(ours, plain)
        slopes = [torch.autograd.grad(value, pred)[0] for value in (ours, plain)]
        torch.testing.assert_close(*slopes)
    assert len(graphs) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("common", [{}, {"weight": [0.5, 1, 2, 3], "ignore_index": 1}], ids=str)
@pytest.mark.parametrize(("shape", "count"), [SHAPES[0], SHAPES[2]], ids=str)
@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_what_a_compiler_gets_is_the_same_loss(
    make: Make, shape: tuple[int, ...], count: tuple[int, ...], common: dict[str, Any]
) -> None:
    """It is another formula of log p: here on ordinary logits, and up to ±1e4."""
    torch._dynamo.reset()
    for reduction in ("mean", "none"):
        loss = make(reduction=reduction, **common)
        compiled = torch.compile(loss, backend="eager", fullgraph=True)
        for scale in (1.0, 1e4):
            pred, target = scale * draw(*shape), classes(*count, count=4)
            ours = with_gradient(compiled, pred, target)
            torch.testing.assert_close(ours, with_gradient(loss, pred, target), equal_nan=True)
    torch._dynamo.reset()


@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_a_loss_exports_for_any_batch(make: Make) -> None:
    size = torch.export.Dim("batch", min=2)
    arguments = draw(8, 4), classes(8, count=4)
    exported = torch.export.export(
        make(), arguments, dynamic_shapes=({0: size}, {0: size}), strict=False
    )
    pred, target = draw(5, 4, seed=1), classes(5, count=4, seed=1)
    torch.testing.assert_close(exported.module()(pred, target), make()(pred, target))


@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_gradients_of_single_samples(make: Make) -> None:
    pred, target = draw(5, 3), classes(5, count=3)
    loss = make()
    each = torch.func.vmap(torch.func.grad(loss))(pred, target)
    torch.testing.assert_close(each, with_gradient(make(reduction="sum"), pred, target)[1])


# Arguments


@pytest.mark.parametrize(
    ("cls", "arguments", "fragment"),
    [
        (LabelSmoothingLoss, {"smoothing": -0.1}, "smoothing"),
        (LabelSmoothingLoss, {"smoothing": 1.0}, "smoothing"),
        (LabelSmoothingLoss, {"smoothing": "0.1"}, "smoothing"),
        (SparseLabelSmoothingLoss, {"smoothing": math.nan}, "smoothing"),
        (SparseLabelSmoothingLoss, {"smoothing": 2}, "smoothing"),
        (SparseLabelSmoothingLoss, {"relaxed": "yes"}, "relaxed"),
        (FocalLoss, {"gamma": -1.0}, "gamma"),
        (FocalLoss, {"gamma": math.inf}, "gamma"),
        (FocalLoss, {"gamma": None}, "gamma"),
        (FocalSparseLabelSmoothingLoss, {"gamma": -1}, "gamma"),
        (FocalSparseLabelSmoothingLoss, {"smoothing": 1}, "smoothing"),
        (AbsoluteCrossEntropyLoss, {"phi0": 0.0}, "phi0"),
        (AbsoluteCrossEntropyLoss, {"phi1": -1.0}, "phi1"),
        (SparselySmoothedLoss, {"loss": 3, "smoothing": 0.1}, "must be a function"),
        (SparselySmoothedLoss, {"loss": torch.neg, "smoothing": 1.5}, "smoothing"),
    ],
)
def test_parameters_that_make_no_sense(
    cls: type[HandcraftedLoss], arguments: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(InputError, match=fragment) as caught:
        cls(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", LOSSES, ids=name)
@pytest.mark.parametrize(
    ("common", "fragment"),
    [
        ({"reduction": "average"}, "Unknown reduction"),
        ({"weight": [1.0, -1.0]}, "at least 0"),
        ({"ignore_index": 0.5}, "ignore_index"),
    ],
)
def test_common_arguments_that_make_no_sense(
    make: Make, common: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(InputError, match=fragment):
        make(**common)


# The module as a value, its file, its name


@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_a_module_as_torch_has_them(make: Make) -> None:
    loss = make()
    assert loss.state_dict() == {}
    assert make(weight=[1.0, 2.0]).state_dict().keys() == {"weight"}
    assert (loss.link, loss.inputs, loss.required_inputs) == ("softmax", (), ())
    arguments = draw(4, 3), classes(4, count=3)
    assert "phi" not in dict(loss.named_buffers())
    assert loss.half().double()(*arguments) == loss(*arguments)
    assert all(setting in repr(loss) for setting in loss.setting_names)


def test_a_loss_that_is_a_function_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can(not)? be saved"):
        evomal.save_loss(SparselySmoothedLoss(torch.neg, 0.1), tmp_path / "loss.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"smoothing": 2.0}, {"reduction": "all"}, {"smoothing": None}])
def test_a_damaged_file_is_told(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    evomal.save_loss(SparseLabelSmoothingLoss(), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="damaged"):
        evomal.load_loss(path)


@pytest.mark.parametrize("kind", HANDCRAFTED_LOSSES)
def test_every_handcrafted_loss_has_a_kind_and_defaults(kind: str) -> None:
    loss = HANDCRAFTED_LOSSES[kind]()
    fields = loss_to_dict(loss)
    assert fields["kind"] == kind
    assert loss_to_dict(loss_from_dict(fields)) == fields
    assert loss(draw(4, 3), classes(4, count=3)).isfinite()


BY_NAME = [kind for kind in HANDCRAFTED_LOSSES if kind not in KNOWN_LOSSES]


@pytest.mark.parametrize("kind", BY_NAME)
def test_a_loss_by_name_fits_the_task(kind: str) -> None:
    task = classification_task(weight=[1.0, 2.0, 3.0], ignore_index=9)
    loss = resolve_loss(kind, task.form)
    assert type(loss) is HANDCRAFTED_LOSSES[kind]
    assert loss.weight is not None
    assert (loss.weight.tolist(), loss.ignore_index) == ([1.0, 2.0, 3.0], 9)
    sample = evomal.compare(task, loss, [0], steps=60).learned
    untrained = evomal.compare(task, loss, [0], steps=0).learned
    assert sample.mean is not None
    assert untrained.mean is not None
    assert sample.mean < untrained.mean
    with pytest.raises(InputError, match="is not an expression, so it cannot start a search"):
        initial_loss(kind, task.form)
    with pytest.raises(InputError, match="has link 'softmax', but the task"):
        evomal.compare(regression_task(), resolve_loss(kind, regression_task().form), [0], steps=1)


def test_known_expressions_keep_their_names() -> None:
    for kind in HANDCRAFTED_LOSSES:
        if kind in KNOWN_LOSSES:
            loss = resolve_loss(kind, Form("softmax"))
            assert isinstance(loss, evomal.SymbolicLoss)
            pred, target = draw(20, 5), classes(20, count=5)
            torch.testing.assert_close(
                loss.double()(pred, target),
                HANDCRAFTED_LOSSES[kind]()(pred, target),
                rtol=1e-5,
                atol=1e-5,
            )


def test_the_command_line_shows_and_trains_them(
    capsys: pytest.CaptureFixture[str], data_dir: Path
) -> None:
    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    listed = {row["name"]: row for row in json.loads(run("losses", "--json"))}
    families = [family.example for family in FAMILIES.values()]
    assert list(listed) == [*KNOWN_LOSSES, *BY_NAME, "log-cosh", *families]
    assert listed["label-smoothing"]["expression"] is None
    assert all(kind in run("losses") for kind in BY_NAME)
    shown = json.loads(run("show", "sparse-label-smoothing", "--json"))
    assert shown["parameters"] == {"smoothing": 0.1, "relaxed": False}
    assert shown["formula"] in run("show", "sparse-label-smoothing").replace("\n", "")
    train = ["train", "mnist/logistic", "--data-dir", str(data_dir), "--steps", "2", "--json"]
    result = json.loads(run(*train, "--loss", "focal-sparse-label-smoothing"))
    assert result["learned"]["mean"] is not None
