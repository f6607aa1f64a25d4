"""Base learners of several inputs, outputs that are not one tensor, lazy and frozen layers."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from evomal import Execution, Run, search
from evomal.errors import InputError, TaskWarning
from evomal.tasks.inputs import tensors_of
from evomal.tasks.optimizers import SGD, AdamW, OptimizerSettings
from evomal.tasks.task import Task
from evomal.training.engines.choice import engine_on, with_engine
from evomal.training.loop import partial_training, performance, train
from evomal.training.settings import EvaluationSettings
from evomal.training.stack import Stack, stacked_training
from evomal.training.support import group_way
from evomal.training.trial import spoils_inputs
from evomal.training.workbench import Workbench
from run_helpers import run_python, tiny_settings, without_timing
from tasks_for_tests import PLAIN, ConvNet, Perceptron, image_task, losses_for, regression_task

F64 = torch.float64
KINDS = ["dict", "tuple"]


class TwoInputs(Perceptron):
    """A perceptron of two inputs, (B,) and (B, 2)."""

    def forward(self, first: Tensor, rest: Tensor) -> Any:  # type: ignore[override]
        return super().forward(torch.cat([first[:, None], rest], dim=1))


class Output(NamedTuple):
    """Like those of Hugging Face's models."""

    hidden: Tensor
    logits: Tensor


class NamedOutputs(TwoInputs):
    def forward(self, first: Tensor, rest: Tensor) -> Output:  # type: ignore[override]
        pred = super().forward(first, rest)
        return Output(pred + 1, pred)


class SeveralOutputs(Perceptron):
    def forward(self, x: Tensor) -> Any:
        pred = super().forward(x)
        return {"features": x, "pairs": (pred + 1, pred), "raw": pred}


class ImageAndNumber(ConvNet):
    """Images, and a number that changes nothing."""

    def forward(self, image: Tensor, number: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(image) + 0 * number[:, None]


class InPlace(TwoInputs):
    def forward(self, first: Tensor, rest: Tensor) -> Any:  # type: ignore[override]
        return super().forward(first, rest.mul_(2))


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LazyLinear(5), nn.Tanh(), nn.LazyBatchNorm1d(), nn.Linear(5, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class Backbone(Perceptron):
    """A frozen first layer under layers that are trained."""

    def __init__(self, outputs: int = 1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(outputs, dtype)
        self.layers[0].requires_grad_(False)


def split(x: Tensor, kind: str) -> Any:
    first, rest = (x[:, 0], x[:, 1:])
    return {"rest": rest, "first": first} if kind == "dict" else (first, rest)


def of_two(kind: str, model: Callable[..., nn.Module] = TwoInputs, **settings: Any) -> Task:
    """The task of `regression_task`, with the inputs in two."""
    plain = regression_task(F64)
    parts = [(split(part.inputs, kind), part.targets) for part in (plain.train, plain.validation)]
    given: dict[str, Any] = {"batch_size": 8, "rejection_steps": 20, "testing_steps": 20}
    given |= {"optimizer": plain.optimizer, "name": plain.name} | settings
    return Task(partial(model, 1, F64), *parts, link="identity", **given)


# Reading


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_several_inputs(kind: str) -> None:
    task, plain = of_two(kind), regression_task(F64)
    rows = torch.tensor([3, 0, 5])
    batch, same = task.batch(task.train, rows), plain.batch(plain.train, rows)
    assert len(batch) == 3
    found, expected = (
        one.call(one.new_model(3), b.inputs) for one, b in [(task, batch), (plain, same)]
    )
    assert torch.equal(found, expected)
    for tensor in tensors_of(task.batch(task.train, slice(0, 3)).inputs):
        tensor.zero_()
    assert task.fingerprint() == of_two(kind).fingerprint()
    assert of_two("dict").fingerprint() != of_two("tuple").fingerprint()


class Rows(Dataset[Any]):
    def __init__(self, row: Callable[[int], Any]) -> None:
        self.row = row

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return self.row(index)


X = torch.arange(18.0, dtype=F64).reshape(6, 3) / 10
Y = X.sum(dim=1, keepdim=True)


@pytest.mark.parametrize(
    "row",
    [
        lambda i: ({"first": X[i, 0], "rest": X[i, 1:]}, Y[i]),
        lambda i: ((float(X[i, 0]), X[i, 1:].numpy()), Y[i]),
        lambda i: {"labels": Y[i], "rest": X[i, 1:].tolist(), "first": X[i, 0]},
    ],
    ids=["dicts", "tuples", "Hugging Face"],
)
def test_rows_of_a_data_set_of_several_inputs(row: Callable[[int], Any]) -> None:
    task = Task(partial(TwoInputs, 1, F64), Rows(row), Rows(row), link="identity")
    expected = partial_training(
        Task(partial(Perceptron, 1, F64), (X, Y), (X, Y), link="identity"),
        nn.functional.mse_loss,
        5,
        0,
    )
    assert partial_training(task, nn.functional.mse_loss, 5, 0) == expected


def test_preprocess_and_augment_get_what_the_model_gets() -> None:
    def doubled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs["first"] *= 2  # in place, which changes no data
        return inputs

    def apart(x: Tensor) -> Any:
        return {"first": x[:, 0], "rest": x[:, 1:]}

    task = of_two("dict", augment=doubled, preprocess=doubled)
    rows = slice(0, 4)
    once, twice = (task.batch(part, rows).inputs["first"] for part in (task.validation, task.train))
    assert torch.equal(once, 2 * task.validation.inputs["first"][rows])
    assert torch.equal(twice, 4 * task.train.inputs["first"][rows])
    made = Task(partial(TwoInputs, 1, F64), (X, Y), (X, Y), link="identity", preprocess=apart)
    assert list(made.batch(made.train, rows).inputs) == ["first", "rest"]


def test_warnings_name_the_input() -> None:
    far = ({"first": 1e4 * X[:, 0], "rest": X[:, 1:]}, Y)
    with pytest.warns(TaskWarning, match="training inputs 'first' are far from unit scale"):
        Task(partial(TwoInputs, 1, F64), far, far, link="identity", split="published")
    rows = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    part = (split(rows, "tuple"), rows[:, :1])
    with pytest.warns(TaskWarning, match="200 of 200 validation rows .* are also training rows"):
        Task(partial(TwoInputs, 1, F64), part, part, link="identity")


# Engines


@pytest.mark.parametrize("optimizer", [PLAIN, AdamW()], ids=["sgd", "adamw"])
@pytest.mark.parametrize("kind", KINDS)
def test_several_inputs_have_the_engine_of_one(kind: str, optimizer: OptimizerSettings) -> None:
    task, plain = of_two(kind, optimizer=optimizer), regression_task(F64, optimizer=optimizer)
    settings = tiny_settings(engine="auto")
    assert with_engine(settings, [task], tunes=True) == with_engine(settings, [plain], tunes=True)
    for stacked in (False, True):
        assert group_way(task, stacked=stacked) == group_way(plain, stacked=stacked)


def test_images_in_a_dict_have_the_memory_format_and_engine_of_one_tensor() -> None:
    plain = image_task()
    parts = [
        ({"image": part.inputs, "number": part.inputs[:, 0, 0, 0]}, part.targets)
        for part in (plain.train, plain.validation)
    ]
    for drop in (0.3, 0.0):
        made, alone = (
            Task(partial(_without_dropout, model, drop), *given, link="softmax", batch_size=8)
            for model, given in (
                (ImageAndNumber, parts),
                (ConvNet, (plain.train, plain.validation)),
            )
        )
        assert made._channels_last == alone._channels_last == (drop == 0)
        assert group_way(made, stacked=False) == group_way(alone, stacked=False)


def _without_dropout(model: type[ConvNet], drop: float) -> nn.Module:
    learner = model()
    learner.layers[3] = nn.Dropout(drop) if drop else nn.Identity()
    return learner


@pytest.mark.parametrize("model", [TwoInputs, NamedOutputs])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["loop", "batched", "stacked"])
def test_every_engine_gives_what_it_gives_for_one_input(
    engine: Literal["loop", "batched", "stacked"], kind: str, model: Callable[..., nn.Module]
) -> None:
    settings = EvaluationSettings(
        meta_steps=2, meta_learning_rate=0.01, engine=engine, testing_steps=5, rejection_batch=12
    )
    plain = regression_task(F64)
    benches = [Workbench([task], settings, 3) for task in (of_two(kind, model), plain)]
    found, expected = (engine_on(bench).tune(losses_for(plain)) for bench in benches)
    for ours, reference in zip(found, expected, strict=True):
        assert isinstance(ours, Tensor)
        assert isinstance(reference, Tensor)
        assert torch.equal(ours, reference)
    trained = [engine_on(bench).train(losses_for(plain), 0) for bench in benches]
    assert trained[0] == trained[1]
    assert torch.equal(*(bench.raw_outputs[0].inputs for bench in benches))


def test_inputs_that_a_learner_changes_are_copied() -> None:
    task = of_two("dict", InPlace)
    assert spoils_inputs(task)
    assert not spoils_inputs(of_two("dict"))
    for stacked in (False, True):
        assert group_way(task, stacked=stacked) is not None


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run_dir = tmp_path_factory.mktemp("in-process") / "run"
    return search(of_two("dict", NamedOutputs), settings=tiny_settings(), seed=1, run_dir=run_dir)


def test_a_search_in_two_processes_is_the_same(in_process: Run, tmp_path: Path) -> None:
    task, execution = of_two("dict", NamedOutputs), Execution(workers=2)
    run = search(
        task, settings=tiny_settings(), seed=1, execution=execution, run_dir=tmp_path / "run"
    )
    assert without_timing(run.summary()) == without_timing(in_process.summary())
    plain = search(
        regression_task(F64), settings=tiny_settings(), seed=1, run_dir=tmp_path / "plain"
    )
    assert plain.best.fitness == in_process.best.fitness


IN_RAY = """
import sys
sys.path.insert(0, sys.argv[1])
from evomal import Execution, search
from run_helpers import tiny_settings
from test_inputs import NamedOutputs, of_two

execution = Execution(executor="ray", workers=2)
search(
    of_two("dict", NamedOutputs), settings=tiny_settings(), seed=1, execution=execution,
    run_dir=sys.argv[2], progress=False,
)
"""


@pytest.mark.slow
def test_a_search_in_ray_is_the_same(
    in_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    tests = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", tests, prepend=":")
    assert run_python("-c", IN_RAY, tests, str(tmp_path / "run")) == (0, "", "")
    run = Run(tmp_path / "run")
    assert without_timing(run.summary()) == without_timing(in_process.summary())


# Outputs


def of_pairs(returned: dict[str, Any]) -> Tensor:
    found: Tensor = returned["pairs"][1]
    return found


class Listed(SeveralOutputs):
    def forward(self, x: Tensor) -> Any:
        return [*super().forward(x)["pairs"]]


class WithAttributes(Perceptron):
    def forward(self, x: Tensor) -> Any:
        pred = super().forward(x)
        return Output(pred + 1, pred)


@pytest.mark.parametrize(
    ("model", "output"),
    [
        (SeveralOutputs, "raw"),
        (SeveralOutputs, of_pairs),
        (Listed, 1),
        (Listed, -1),
        (WithAttributes, "logits"),
        (WithAttributes, None),
        (WithAttributes, 1),
    ],
)
def test_raw_outputs_are_picked(model: Callable[..., nn.Module], output: Any) -> None:
    plain = regression_task(F64)
    task = regression_task(F64, model=partial(model, 1, F64), output=output)
    square = nn.functional.mse_loss
    assert partial_training(task, square, 5, 0) == partial_training(plain, square, 5, 0)
    assert group_way(task, stacked=True) == group_way(plain, stacked=True)
    low, full = (
        one.call(one.new_model(0), one.train.inputs)
        for one in (
            regression_task(model=model, output=output).in_precision("bfloat16"),
            regression_task().in_precision("bfloat16"),
        )
    )
    assert low.dtype == torch.float32
    assert torch.equal(low, full)


MANY = tuple(torch.zeros(3) for _ in range(6))
MESSAGES: dict[str, tuple[dict[str, Any], str]] = {
    "a dict": (
        {"model": SeveralOutputs},
        "The model must return one tensor, not a dict with the keys ['features', 'pairs', 'raw']; "
        "pass output=, the index, key or name of the raw outputs in it, or a function.",
    ),
    "an LSTM": ({"model": lambda: nn.LSTM(3, 1)}, "not a tuple of length 2; pass output=, the"),
    "a wrong key": ({"model": SeveralOutputs, "output": "row"}, "pass another output than 'row'."),
    "a wrong index": (
        {"model": Listed, "output": 2},
        "The model must return one tensor, not a list of length 2; pass another output than 2.",
    ),
    "no tensor": ({"model": SeveralOutputs, "output": "pairs"}, "another output than 'pairs'."),
    "a function to none": (
        {"model": Listed, "output": len},
        "not a list of length 2; let the function output return a tensor.",
    ),
    "a tensor already": (
        {"output": 0},
        "The model returns one tensor, so there is nothing to pick with output=0; omit output.",
    ),
    "no name": ({"output": 1.5}, "The argument output must be the index, key or name of the raw"),
    "rows as a tuple": (
        {"train": (MANY, Y)},
        "The training inputs are a tuple of arrays with 3 rows for 6 targets, but each needs a row "
        "for every target, at least one; pass rows of a single input as a list or an array,",
    ),
    "rows as a tuple of another length": (
        {"train": ((*X.float()[:3], X.float()), Y)},
        "are a tuple of arrays with 3 or 6 rows for 6 targets",
    ),
    "numbers in a tuple": (
        {"train": ((1.0, 2.0), Y)},
        "The training inputs 0 are a single value; pass an array with one row per sample.",
    ),
    "no inputs": ({"train": ({}, Y)}, "The training inputs are a dict without keys; its keys must"),
    "numbered inputs": ({"train": ({0: X}, Y)}, "are a dict with the key 0; its keys must be"),
    "no such input": (
        {"train": ({"x": X, "mask": X}, Y)},
        "two rows of shapes 'mask': (2, 3), 'x': (2, 3): TypeError",
    ),
    "NaN in one": (
        {"train": ({"a": X, "b": X / 0}, Y)},
        "The training inputs 'b' hold NaN, infinity",
    ),
    "text in one": (
        {"train": ({"a": X, "b": ["cat"] * 6}, Y)},
        "The training inputs 'b' hold text",
    ),
    "targets missing": ({"train": ((X, X), Y[:4])}, "a tuple of arrays with 6 rows for 4 targets"),
    "rows of different inputs": (
        {"train": Rows(lambda i: ({"a": X[i]} | ({"b": X[i]} if i == 2 else {}), Y[i]))},
        "Row 2 of the training data set has other inputs than row 0: a dict with the keys ['a', "
        "'b'], not a dict with the keys ['a']; every row needs the same.",
    ),
    "a preprocess to a list": (
        {"preprocess": lambda x: [x]},
        "The function preprocess must return a tensor, or a tuple or dict of tensors, not ",
    ),
}


@pytest.mark.parametrize(("changes", "fragment"), MESSAGES.values(), ids=MESSAGES)
def test_what_is_wrong_is_one_sentence(changes: dict[str, Any], fragment: str) -> None:
    given: dict[str, Any] = {"model": Perceptron, "train": (X, Y), "validation": (X, Y)} | changes
    with pytest.raises(InputError) as caught:
        Task(**given, link="identity")
    message = str(caught.value)
    assert fragment in message
    assert "\n" not in message
    assert len(message) < 400


# Lazy layers


def test_lazy_layers_take_their_shapes_from_the_data() -> None:
    task = regression_task(model=Lazy)
    assert task.description() == regression_task(model=Lazy).description()
    elsewhere = pickle.loads(pickle.dumps(task))  # noqa: S301
    learners = (task.new_model(4), elsewhere.new_model(4), task.new_model(5))
    one, same, other = (list(learner.parameters()) for learner in learners)
    assert [tuple(p.shape) for p in one] == [(5, 3), (5,), (5,), (5,), (1, 5), (1,)]
    assert all(torch.equal(p, q) for p, q in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    learner = task.new_model(0)
    assert learner.training
    assert torch.equal(learner.get_buffer("layers.2.running_mean"), torch.zeros(5))
    losses = losses_for(regression_task())
    for curve, loss in zip(stacked_training(task, losses, 5, 0), losses, strict=True):
        assert list(curve) == [pytest.approx(partial_training(task, loss, 5, 0), rel=1e-4)]


def test_an_optimizer_function_gets_the_parameters_of_lazy_layers() -> None:
    task = regression_task(model=Lazy, optimizer=lambda group: torch.optim.NAdam(group, lr=0.02))
    assert task.learning_rate == 0.02
    assert task.description()["optimizer"]["class"] == "NAdam"
    assert math.isfinite(partial_training(task, task.task_loss, 3, 0))


def test_a_lazy_learner_draws_nothing_from_outside() -> None:
    state = torch.random.get_rng_state()
    regression_task(model=Lazy).new_model(3)
    assert torch.equal(torch.random.get_rng_state(), state)


# Frozen parameters


def test_frozen_parameters_stay_in_every_way_of_training() -> None:
    decaying = SGD(0.1, 0.9, True, weight_decay=0.1)
    task = regression_task(F64, model=partial(Backbone, 1, F64), optimizer=decaying)
    losses = losses_for(task)
    stack = Stack(task, losses, 5, 0)
    before = {name: p.detach().clone() for name, p in stack.learner.named_parameters()}
    stack.train(None)
    alone = train(task, losses[0], 5, stream=stack.stream)
    names = [name for name, p in stack.learner.named_parameters() if not p.requires_grad]
    assert names == ["layers.0.weight", "layers.0.bias"]
    assert not set(names) & set(stack.theta)
    for learner in (stack.learner, alone):
        for name in names:
            assert torch.equal(learner.get_parameter(name), before[name])
    assert not torch.equal(alone.get_parameter("layers.2.weight"), before["layers.2.weight"])
    torch.testing.assert_close(
        stack.theta["layers.2.weight"][0], alone.get_parameter("layers.2.weight")
    )
    values = [curve[-1] for curve in stacked_training(task, losses, 5, 0)]
    assert values == [pytest.approx(partial_training(task, loss, 5, 0)) for loss in losses]
    assert values[0] == pytest.approx(performance(task, alone, task.validation))


def test_frozen_parameters_stay_in_every_engine() -> None:
    task = regression_task(F64, model=partial(Backbone, 1, F64))
    found = []
    engines: list[Literal["loop", "batched", "stacked"]] = ["loop", "batched", "stacked"]
    for engine in engines:
        settings = EvaluationSettings(meta_steps=3, meta_learning_rate=0.01, engine=engine)
        found.append(engine_on(Workbench([task], settings, 0)).tune(losses_for(task)))
    for others in found[1:]:
        for ours, reference in zip(others, found[0], strict=True):
            assert isinstance(ours, Tensor)
            torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-9)


def test_the_code_in_the_documentation_runs() -> None:
    text = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
    section = text.split("## Models")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)
    assert sorted(names["task"].train.inputs) == ["measured", "sex"]
    learner = names["tuned"].new_model(0)
    assert [p.requires_grad for p in learner.parameters()] == [False, False, True, True]
