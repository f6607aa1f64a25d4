"""Dense prediction, many labels, many values, class weights, ignored classes, extra inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import evomal
from evomal import SymbolicLoss, Task, parse
from evomal.errors import InputError
from evomal.expressions import operators
from evomal.losses.base import Reduction
from evomal.losses.form import Form
from evomal.methods.base import Candidate
from evomal.seeding import derive_generator
from evomal.tasks.metrics import error_rate
from evomal.training.filters import correlation, gradient_key
from evomal.training.hypergradient.forward import forward_hypergradient
from evomal.training.hypergradient.reverse import reverse_hypergradient
from evomal.training.loop import performance, train
from evomal.training.meta_schedule import MetaSchedule
from evomal.training.settings import EvaluationSettings
from evomal.training.workbench import Workbench
from run_helpers import tiny_settings
from strategies import fast, generators
from tasks_for_tests import PLAIN, Perceptron

CROSS_ENTROPY = "mul(-1, mul(y, log(f)))"
REDUCTIONS: list[Reduction] = ["mean", "sum", "none"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def classes(*shape: int, count: int, seed: int = 0) -> Tensor:
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


def with_gradient(loss: Callable[..., Tensor], pred: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    leaf = pred.clone().requires_grad_()
    value = loss(leaf, *rest)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


# Torch's conventions


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("ignore_index", [-100, 255, 1])
@pytest.mark.parametrize(
    ("pred", "target"),
    [((4,), ()), ((7, 4), (7,)), ((3, 4, 5), (3, 5)), ((2, 4, 3, 5), (2, 3, 5))],
    ids=str,
)
def test_cross_entropy_is_torchs_in_every_shape(
    pred: tuple[int, ...],
    target: tuple[int, ...],
    ignore_index: int,
    weighted: bool,
    reduction: Reduction,
) -> None:
    weight = torch.tensor([0.5, 2.0, 0.0, 1.25], dtype=torch.float64) if weighted else None
    logits = draw(*pred)
    labels = classes(*target, count=2, seed=1)
    labels = torch.where(classes(*target, count=4, seed=2) == 0, ignore_index, labels)
    loss = SymbolicLoss(
        CROSS_ENTROPY,
        torch.ones(5, dtype=torch.float64),
        "softmax",
        reduction=reduction,
        weight=weight,
        ignore_index=ignore_index,
    )
    theirs = nn.CrossEntropyLoss(weight, ignore_index=ignore_index, reduction=reduction)
    for ours, expected in zip(
        with_gradient(loss, logits, labels), with_gradient(theirs, logits, labels), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("shape", [(4,), (7, 4), (3, 4, 5)], ids=str)
def test_class_probabilities_are_taken_as_torch_takes_them(
    shape: tuple[int, ...], weighted: bool, reduction: Reduction
) -> None:
    weight = torch.tensor([0.5, 2.0, 0.0, 1.25], dtype=torch.float64) if weighted else None
    dim = 0 if len(shape) == 1 else 1
    target = draw(*shape, seed=1).softmax(dim)
    loss = SymbolicLoss(
        CROSS_ENTROPY,
        torch.ones(5, dtype=torch.float64),
        "softmax",
        reduction=reduction,
        weight=weight,
    )
    ours = loss(draw(*shape), target)
    theirs = functional.cross_entropy(draw(*shape), target, weight, reduction=reduction)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_loss_of_all_classes_ignores_and_weights_by_hand() -> None:
    """(y - f)² has terms for every class, so that weights scale elements and not samples."""
    logits = torch.log(torch.tensor([[1.0, 3.0], [1.0, 1.0], [9.0, 1.0]]))
    target = torch.tensor([0, -1, 1])
    loss = SymbolicLoss(
        "square(sub(y, f))", link="softmax", weight=[1.0, 3.0], ignore_index=-1, reduction="none"
    )
    first = 1 * 0.75**2 + 3 * 0.75**2
    last = 1 * 0.9**2 + 3 * 0.9**2
    torch.testing.assert_close(loss(logits, target), torch.tensor([first, 0.0, last]))
    loss.reduction = "mean"
    torch.testing.assert_close(loss(logits, target), torch.tensor((first + last) / (1 + 3)))


def test_ignored_samples_get_no_gradient() -> None:
    loss = SymbolicLoss("add(square(sub(y, f)), log(f))", link="softmax", ignore_index=9)
    logits = draw(2, 3, 4).requires_grad_()
    target = classes(2, 4, count=3)
    target[0, 1] = target[1, 3] = 9
    loss(logits, target).backward()
    assert logits.grad is not None
    silent = logits.grad.abs().sum(dim=1) == 0
    assert torch.equal(silent, target == 9)


def test_a_class_out_of_range_is_torchs_error() -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        SymbolicLoss(CROSS_ENTROPY, link="softmax")(draw(2, 3), torch.tensor([0, 3]))


@pytest.mark.parametrize(
    ("weight", "link", "fragment"),
    [
        ([1.0], "identity", "need the link 'softmax'"),
        ([1.0, -1.0], "softmax", "at least 0"),
        ([1.0, math.nan], "softmax", "at least 0"),
        ([[1.0]], "softmax", "one per class"),
    ],
)
def test_class_weights_that_make_no_sense(weight: Any, link: Any, fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        SymbolicLoss(CROSS_ENTROPY, link=link, weight=weight)


def test_too_few_class_weights_are_not_stretched() -> None:
    loss = SymbolicLoss(CROSS_ENTROPY, link="softmax", weight=[2.0])
    with pytest.raises(InputError, match="1 class weights, but pred has 3 classes"):
        loss(draw(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_small_integers_are_classes_and_not_masks(dtype: torch.dtype) -> None:
    loss = SymbolicLoss(CROSS_ENTROPY, link="softmax", weight=[1.0, 2.0, 3.0], ignore_index=2)
    logits, target = draw(4, 3), torch.tensor([0, 1, 2, 1])
    assert torch.equal(loss(logits, target.to(dtype)), loss(logits, target))
    plain = SymbolicLoss(CROSS_ENTROPY, link="softmax")  # 156 is -100 in eight bits
    wide = draw(1, 200)
    assert plain(wide, torch.tensor([156], dtype=torch.uint8)) == plain(wide, torch.tensor([156]))


# Metrics


def test_error_rate_leaves_out_what_is_ignored() -> None:
    pred = torch.tensor([[[3.0, 0.0, 1.0]], [[0.0, 5.0, 0.0]]]).movedim(1, 0)  # (1, 2, 3)
    assert error_rate(pred, torch.tensor([[0, 0, 0]])) == pytest.approx(1 / 3)
    assert error_rate(pred, torch.tensor([[1, -100, 0]])) == pytest.approx(1 / 2)
    assert error_rate(pred, torch.tensor([[1, 7, 0]]), ignore_index=7) == pytest.approx(1 / 2)


# Further inputs


WEIGHTED = "mul(w, square(sub(y, f)))"


@fast
@given(rng=generators, height=st.integers(0, 4))
def test_expressions_with_extra_inputs_read_back(rng: Any, height: int) -> None:
    tree = operators.random_tree(rng, 0, height, full=True, inputs=("w", "t"))
    assert parse(str(tree), tree.inputs) == tree
    assert set(tree.inputs) <= {"w", "t"}
    mutant = operators.correct(rng, operators.uniform_mutation(rng, tree, 2, ("w", "t")))
    assert mutant.uses_both_arguments()


def test_extra_inputs_take_part_in_the_search_space_as_any_terminal() -> None:
    rng = derive_generator(0, "test")
    leaves = [operators.random_tree(rng, 0, 0, full=True, inputs=("w",)) for _ in range(2000)]
    share = sum(tree.inputs == ("w",) for tree in leaves) / len(leaves)
    assert share == pytest.approx(1 / 5, abs=0.03)


def test_a_name_that_nobody_declared_is_unknown() -> None:
    with pytest.raises(InputError, match="Unknown name 'w'"):
        SymbolicLoss(WEIGHTED)
    assert SymbolicLoss(parse(WEIGHTED, ("w",))).inputs == ("w",)


@pytest.mark.parametrize("name", ["y", "f", "add", "1", "two words", "", "lambda", "pred", 3])
def test_names_that_an_input_cannot_have(name: Any) -> None:
    with pytest.raises(InputError, match="cannot be called"):
        SymbolicLoss("sub(y, f)", inputs=(name,))


@pytest.mark.parametrize(
    ("pred", "value", "aligned"),
    [
        ((4, 1), (4,), (4, 1)),
        ((4, 3), (4,), (4, 1)),
        ((4, 3), (4, 3), (4, 3)),
        ((4, 3), (), ()),
        ((4,), (4,), (4,)),
        ((2, 3, 5), (2, 3), (2, 3, 1)),
    ],
    ids=str,
)
def test_an_input_per_sample_scales_that_sample(
    pred: tuple[int, ...], value: tuple[int, ...], aligned: tuple[int, ...]
) -> None:
    loss = SymbolicLoss(WEIGHTED, torch.ones(5, dtype=torch.float64), inputs=("w",))
    f, y, w = draw(*pred), draw(*pred, seed=1), draw(*value, seed=2)
    torch.testing.assert_close(loss(f, y, w=w), (w.reshape(aligned) * (y - f) ** 2).mean())


@pytest.mark.parametrize(
    ("pred", "value", "aligned"),
    [((4, 3), (4,), (4, 1)), ((4, 3, 5), (4,), (4, 1, 1)), ((4, 3, 5), (4, 5), (4, 1, 5))],
    ids=str,
)
def test_an_input_of_a_softmax_loss_is_per_sample_or_target(
    pred: tuple[int, ...], value: tuple[int, ...], aligned: tuple[int, ...]
) -> None:
    phi = torch.ones(5, dtype=torch.float64)
    loss = SymbolicLoss(WEIGHTED, phi, "softmax", inputs=("w",))
    logits, w = draw(*pred), draw(*value, seed=2)
    labels = classes(pred[0], *pred[2:], count=3)
    one_hot = functional.one_hot(labels, 3).movedim(-1, 1)
    expected = (w.reshape(aligned) * (one_hot - logits.softmax(1)) ** 2).sum(dim=1).mean()
    torch.testing.assert_close(loss(logits, labels, w=w), expected)


@pytest.mark.parametrize("shape", [(3,), (1,), (3, 4), (4, 3, 1)], ids=str)
def test_an_input_is_never_stretched(shape: tuple[int, ...]) -> None:
    loss = SymbolicLoss(WEIGHTED, inputs=("w",))
    with pytest.raises(InputError, match="one value per sample"):
        loss(torch.zeros(4, 3), torch.zeros(4, 3), w=torch.ones(shape))


def test_inputs_can_be_left_out_only_if_nothing_depends_on_them() -> None:
    loss = SymbolicLoss(WEIGHTED, inputs=("w", "t"))
    pred, target = torch.zeros(4), torch.ones(4)
    assert loss(pred, target, w=2.0) == 2.0
    assert loss(pred, target, w=2.0, t=0.3) == 2.0
    with pytest.raises(InputError, match="depends on w; call it as loss"):
        loss(pred, target, t=0.3)
    with pytest.raises(InputError, match=r"no extra input 'v'; its extra inputs: w, t"):
        loss(pred, target, w=2.0, v=1.0)


def test_saving_and_showing_carry_everything(tmp_path: Path) -> None:
    loss = SymbolicLoss(
        WEIGHTED, [0.1, 0.2, 0.3, 0.4, 0.5], "softmax", "softplus", "sum", ("w", "t"), [0.1, 2], 7
    )
    evomal.save_loss(loss, tmp_path / "loss.json")
    twin = evomal.load_loss(tmp_path / "loss.json")
    assert twin.to_dict() == loss.to_dict()
    arguments = torch.zeros(3, 2), torch.tensor([0, 1, 7])
    assert torch.equal(twin(*arguments, w=0.7), loss(*arguments, w=0.7))


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    path.write_text(
        '{"format": "evomal-loss", "version": 1, "kind": "symbolic", "expression": "sub(y, f)",'
        ' "weights": [1, 2], "dtype": "float32", "link": "softmax", "activation": "identity",'
        ' "reduction": "mean"}'
    )
    loss = evomal.load_loss(path)
    assert (loss.inputs, loss.weight, loss.ignore_index) == ((), None, -100)


# Tasks


class Dense(nn.Module):
    """(B, 1, 6, 6) images to (B, 3, 6, 6) logits."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, outputs, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def task(
    model: Callable[[], nn.Module], inputs: Tensor, targets: Tensor, link: Any, **settings: Any
) -> Task:
    """A task whose three parts are the first, second and third third of the rows."""
    parts = list(zip(inputs.chunk(3), targets.chunk(3), strict=True))
    defaults: dict[str, Any] = {"optimizer": PLAIN, "batch_size": 8, "rejection_steps": 20}
    return Task(model, *parts, link=link, name="kind", **(defaults | settings))


def dense_task(**settings: Any) -> Task:
    """Bright, middle and dark pixels, their borders of the class 9 that is to be ignored."""
    images = draw(48, 1, 6, 6).float()
    labels = (images[:, 0] > -0.5).long() + (images[:, 0] > 0.5)
    labels[:, 0] = labels[:, :, 0] = 9
    defaults: dict[str, Any] = {"ignore_index": 9}
    return task(Dense, images, labels, "softmax", **(defaults | settings))


def multi_label_task(**settings: Any) -> Task:
    inputs = draw(90, 3).float()
    return task(partial(Perceptron, 3), inputs, (inputs > 0).float(), "sigmoid", **settings)


def multi_output_task(**settings: Any) -> Task:
    inputs = draw(90, 3).float()
    return task(partial(Perceptron, 2), inputs, inputs[:, 1:] ** 2, "identity", **settings)


def weighted_task(**settings: Any) -> Task:
    """Every second training row has a wild target and weight 0."""
    inputs = draw(120, 3).float()
    targets = inputs.sum(dim=1, keepdim=True)
    targets[:40:2] += 30.0
    weights = torch.ones(40)
    weights[::2] = 0.0
    given = {"w": weights, "t": "progress"}
    return task(Perceptron, inputs, targets, "identity", **({"loss_inputs": given} | settings))


KINDS = [dense_task, multi_label_task, multi_output_task, weighted_task]


@pytest.mark.parametrize("make", KINDS)
def test_every_kind_of_task_is_searched_and_trained(
    make: Callable[..., Task], tmp_path: Path
) -> None:
    settings = tiny_settings(population_size=6, generations=2)
    run = evomal.search(make(), settings=settings, run_dir=tmp_path / "run")
    assert run.facts.status == "finished"
    loss = evomal.load_loss(tmp_path / "run" / "best.json")
    assert Form(loss.link, loss.inputs, None, loss.ignore_index) == make().form
    result = evomal.compare(make(), loss, [0], steps=10)
    assert result.learned.mean is not None
    again = evomal.resume(tmp_path / "run", make(), generations=3)
    assert len(again.generations) == 3


@pytest.mark.parametrize("make", KINDS)
def test_hypergradients_agree_on_every_kind_of_task(make: Callable[..., Task]) -> None:
    one = make()
    text = "mul(add(1, mul(w, t)), square(sub(y, f)))" if one.form.inputs else "square(sub(y, f))"
    loss = SymbolicLoss.of_form(text, one.form)
    phi = loss.initial_phi(derive_generator(1, "phi")).requires_grad_()
    schedule = MetaSchedule(one, EvaluationSettings(meta_steps=2), seed=3)
    for i in range(2):
        step = schedule.step(i)
        assert 0 <= step.progress < 1
        reference = reverse_hypergradient(loss, phi, step)
        assert reference.abs().max() > 0
        torch.testing.assert_close(
            forward_hypergradient(loss, phi, step), reference, rtol=1e-4, atol=1e-7
        )


def test_the_filters_use_the_inputs() -> None:
    one = weighted_task()
    settings = EvaluationSettings(rejection_steps=20, rejection_batch=10)

    def loss(text: str) -> SymbolicLoss:
        return SymbolicLoss.of_form(text, one.form)

    keys = {
        text: gradient_key(Workbench([one], settings, 0), loss(text))
        for text in [
            "square(sub(y, f))",
            WEIGHTED,
            "mul(t, square(sub(y, f)))",
            "mul(square(t), square(sub(y, f)))",
        ]
    }
    assert len(set(keys.values())) == len(keys)
    assert correlation(Workbench([one], settings, 0), loss(WEIGHTED)) > 0
    flat = loss("mul(sub(w, w), square(sub(y, f)))")
    assert correlation(Workbench([one], settings, 0), flat) == 0


def test_a_weight_of_zero_takes_a_row_out_of_the_training() -> None:
    one = weighted_task()

    def error(text: str) -> float:
        loss = SymbolicLoss.of_form(text, one.form)
        learner = train(one, loss, 300, stream=(0, "test"))
        return performance(one, learner, one.validation)

    assert error(WEIGHTED) < 0.5
    assert error("square(sub(y, f))") > 10


def test_progress_runs_from_zero_towards_one() -> None:
    seen: list[float] = []

    class Watched(SymbolicLoss):
        def forward(self, pred: Tensor, target: Tensor, **inputs: Tensor | float) -> Tensor:
            seen.append(float(inputs["t"]))
            return super().forward(pred, target, **inputs)

    one = weighted_task()
    train(one, Watched("sub(square(f), y)", inputs=("t",)), 4, stream=(0,))
    assert seen == [0, 0.25, 0.5, 0.75]


def test_class_weights_of_a_task_reach_every_loss() -> None:
    one = dense_task(weight=[1.0, 2.0, 0.0])
    pred, target = draw(4, 3, 2, 2).float(), classes(4, 2, 2, count=3)
    expected = functional.cross_entropy(pred, target, torch.tensor([1.0, 2.0, 0.0]), ignore_index=9)
    assert torch.equal(one.task_loss(pred, target), expected)
    learned = SymbolicLoss.of_form(CROSS_ENTROPY, one.form)
    torch.testing.assert_close(learned(pred, target), expected, rtol=1e-5, atol=1e-6)


def test_a_loss_is_refused_where_its_inputs_are_not_given() -> None:
    loss = SymbolicLoss(WEIGHTED, inputs=("w", "t"))
    with pytest.raises(InputError, match=r"depends on w, which the task 'kind' does not provide"):
        evomal.compare(multi_output_task(), loss, [0], steps=1)
    unused = SymbolicLoss("square(sub(y, f))", inputs=("w",))
    assert evomal.compare(multi_output_task(), unused, [0], steps=1).learned.mean is not None


def test_initial_losses_can_use_the_inputs(tmp_path: Path) -> None:
    settings = tiny_settings(population_size=3, generations=1, initial_losses=(WEIGHTED,))
    run = evomal.search(weighted_task(), settings=settings, run_dir=tmp_path / "run")
    loss = SymbolicLoss.of_form(WEIGHTED, weighted_task().form)
    found = run.archive.find(Candidate(9, 9, loss, loss.structure))
    assert found is not None
    assert found.candidate.number == 0
    with pytest.raises(InputError, match="Unknown name 'w'"):
        evomal.search(multi_output_task(), settings=settings, run_dir=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_other_inputs_make_another_task() -> None:
    one = weighted_task()
    changed = weighted_task(loss_inputs={"w": torch.ones(40), "t": "progress"})
    without = weighted_task(loss_inputs={"w": one.train.extras["w"]})
    descriptions = [t.description() for t in (one, changed, without)]
    assert descriptions[0]["data"] != descriptions[1]["data"]
    assert descriptions[0]["form"] != descriptions[2]["form"]
    moved = one.to("cpu")
    assert moved.fingerprint() == one.fingerprint()


BAD: dict[str, tuple[Callable[[], Task], str]] = {
    "too few weights": (lambda: weighted_task(loss_inputs={"w": torch.ones(7)}), "shape (7,)"),
    "no numbers": (lambda: weighted_task(loss_inputs={"w": "later"}), "must be 'progress' or"),
    "NaN": (lambda: weighted_task(loss_inputs={"w": torch.full((40,), math.nan)}), "holds NaN"),
    "a taken name": (lambda: weighted_task(loss_inputs={"f": torch.ones(40)}), "called 'f'"),
    "weights without classes": (lambda: weighted_task(weight=[1.0]), "need the link 'softmax'"),
    "too few classes": (lambda: dense_task(weight=[1.0]), "1 class weights, but the model"),
    "all ignored": (
        lambda: task(Dense, torch.zeros(6, 1, 6, 6), torch.full((6, 6, 6), -100), "softmax"),
        "All training targets equal ignore_index",
    ),
    "class out of range": (lambda: dense_task(ignore_index=-100), "classes 0 to 9"),
    "another height": (
        lambda: task(Dense, torch.zeros(6, 1, 6, 6), torch.zeros(6, 5, 6).long(), "softmax"),
        "targets of shape (2, 5, 6)",
    ),
}


@pytest.mark.parametrize(("make", "fragment"), BAD.values(), ids=BAD)
def test_bad_input_is_named_in_one_sentence(make: Callable[[], Task], fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert fragment in message
    assert message.endswith(".")
    assert "\n" not in message
