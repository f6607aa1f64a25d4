"""Data read batch by batch: the same numbers as in memory, in any process; and its budget."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

import evomal
from evomal import InputError, Task, load_task
from evomal.tasks import memory
from evomal.tasks.data import Data
from evomal.tasks.lazy import SAMPLE, LazyData
from evomal.training.loop import partial_training
from evomal.training.raw_outputs import raw_outputs
from run_helpers import tiny_settings, without_timing
from tasks_for_tests import Perceptron

ROWS = 60
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 3)).astype(np.float32)
CLASSES = X.argmax(axis=1)


class Rows(Dataset[Any]):
    """Rows of three inputs in two arguments of the model, with noise if wanted."""

    def __init__(self, first: int = 0, last: int = ROWS, noise: float = 0.0) -> None:
        self.numbers, self.noise = range(first, last), noise

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        row = X[self.numbers[index]] + self.noise * np.random.randn(3).astype(np.float32)
        row = row + self.noise * torch.randn(3).numpy()
        return {"a": row[:1], "b": row[1:]}, CLASSES[self.numbers[index]]


class TwoInputs(Perceptron):
    """With dropout, whose masks tell a generator that was drawn from."""

    def __init__(self) -> None:
        super().__init__(3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
        return nn.functional.dropout(super().forward(torch.cat([a, b], dim=1)), 0.1, self.training)


def make(**settings: Any) -> Task:
    noise = settings.pop("noise", 0.0)
    parts = {"train": Rows(0, 40, noise), "validation": Rows(40, ROWS, noise)}
    settings = {"model": TwoInputs, "batch_size": 8, "name": "lazy", **parts, **settings}
    return Task(**settings, link="softmax", testing_steps=20)


def lazily(**settings: Any) -> Task:
    return make(in_memory=False, **settings)


def fitness(task: Task, seed: int = 0) -> float:
    return partial_training(task, cross_entropy, 20, seed)


# The same numbers


def smooth(pred: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(pred, target)


def test_trainings_are_those_in_memory() -> None:
    tasks = [make(metric=smooth), lazily(metric=smooth), lazily(metric=smooth, loader_workers=2)]
    assert all(isinstance(task.train, LazyData) for task in tasks[1:])
    for seed in range(3):
        assert len({fitness(task, seed) for task in tasks}) == 1
    outputs = [raw_outputs(task, 10, 0) for task in tasks[:2]]
    assert torch.equal(outputs[0].inputs, outputs[1].inputs)


def test_random_transforms_differ_by_batch_and_not_by_place() -> None:
    task, ahead = (
        lazily(noise=0.3, metric=smooth),
        lazily(noise=0.3, metric=smooth, loader_workers=1),
    )
    batches = [torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0]), torch.tensor([0, 1, 2])]
    torch.rand(1), np.random.rand()
    one, two, again = (batch.inputs["a"] for batch in task.batches(task.train, batches))
    assert torch.equal(one, again)
    assert not torch.equal(one, two.flip(0))
    found = [batch.inputs["a"] for batch in ahead.batches(ahead.train, batches)]
    assert torch.equal(torch.cat(found), torch.cat([one, two, again]))
    assert fitness(task) == fitness(ahead) != fitness(lazily(metric=smooth))


def test_reading_leaves_the_global_generators() -> None:
    task = lazily(noise=0.3, loader_workers=1)
    before = torch.get_rng_state(), np.random.get_state()
    list(task.train.each([slice(0, 4)]))
    task.train.rows(slice(0, 4))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == str(before[1])


def test_reading_ahead_can_end_early_and_begin_again() -> None:
    task = lazily(loader_workers=1)
    batches = list(torch.arange(40).split(4))  # type: ignore[no-untyped-call]
    for end in (1, 3, len(batches)):
        read = zip(range(end), task.train.each(batches), strict=False)
        targets = torch.cat([batch.targets for _, batch in read])
        assert targets.tolist() == CLASSES[: 4 * end].tolist()


def test_augmentation_and_preprocessing_come_after_reading() -> None:
    def doubled(inputs: Any) -> Any:
        return {name: 2 * values for name, values in inputs.items()}

    given = {"augment": doubled, "preprocess": doubled}
    task, plain = lazily(**given), lazily()
    rows = torch.tensor([3, 5])
    read, raw = task.batch(task.train, rows).inputs["a"], plain.train.rows(rows).inputs["a"]
    assert torch.equal(read, 4 * raw)
    assert torch.equal(
        task.batch(task.validation, rows).inputs["b"], 2 * plain.validation.rows(rows).inputs["b"]
    )


def test_loss_inputs_follow_their_rows() -> None:
    task = lazily(loss_inputs={"w": np.arange(40.0)})
    assert task.batch(task.train, torch.tensor([7, 2])).extras["w"].tolist() == [7.0, 2.0]
    with pytest.raises(InputError, match=r"has shape \(41,\), but the training targets \(40,\)"):
        lazily(loss_inputs={"w": np.arange(41.0)})


# Searches


def searched(task: Task, run_dir: Path, seed: int, **execution: Any) -> Any:
    settings = tiny_settings(population_size=4, generations=2)
    run = evomal.search(task, settings=settings, seed=seed, run_dir=run_dir, **execution)
    return without_timing(run.summary())


EXECUTIONS: dict[str, dict[str, Any]] = {
    "one": {},
    "two": {"workers": 2},
    "ray": {"workers": 2, "executor": "ray"},
}


@pytest.mark.usefixtures("instant_formulas")
def test_processes_read_what_one_reads(tmp_path: Path) -> None:
    given = {"noise": 0.2, "metric": smooth}
    one = searched(lazily(**given), tmp_path / "one", 0)
    two = searched(lazily(**given, loader_workers=1), tmp_path / "two", 0, workers=2)
    assert one == two


@pytest.mark.slow
@pytest.mark.usefixtures("instant_formulas")
def test_any_executor_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))  # Ray's workers import this module
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    task = lazily(noise=0.2, metric=smooth)
    with ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
        for seed in range(3):
            one, *others = (
                searched(task, tmp_path / f"{seed} {name}", seed, **execution)
                for name, execution in EXECUTIONS.items()
            )
            assert others == [one, one]


@pytest.mark.usefixtures("instant_formulas")
def test_a_run_is_resumed_on_the_same_rows(tmp_path: Path) -> None:
    task = lazily(noise=0.2, metric=smooth)
    whole = searched(task, tmp_path / "whole", 1)
    searched(task, tmp_path / "cut", 1, max_evaluations=1)
    resumed = evomal.resume(tmp_path / "cut", lazily(noise=0.2, metric=smooth))
    assert without_timing(resumed.summary())["best"] == whole["best"]
    with pytest.raises(InputError, match=r"has changed since the run was started \(data\)"):
        evomal.resume(tmp_path / "cut", lazily(noise=0.1, metric=smooth), generations=3)


def noisy_image(image: Tensor) -> Tensor:
    return image + 0.1 * torch.randn_like(image)


class Images(Dataset[Any]):
    """Images of a task's part, shifted at random when they are read."""

    def __init__(self, part: Any) -> None:
        self.images, self.targets = part.inputs[:600], part.targets[:600]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return noisy_image(self.images[index].float() / 255), int(self.targets[index])


def test_a_search_on_images_with_random_transforms(data_dir: Path, tmp_path: Path) -> None:
    mnist = load_task("mnist/logistic", data_dir=data_dir)
    task = Task(
        mnist.model,
        Images(mnist.train),
        Images(mnist.validation),
        link="softmax",
        in_memory=False,
        validation_rows=100,
        batch_size=32,
    )
    assert len(task.validation) == 100
    settings = tiny_settings(testing_steps=40, rejection_steps=5)
    run = evomal.search(task, settings=settings, run_dir=tmp_path / "run")
    assert run.task_loss_fitness is not None
    assert run.task_loss_fitness < 0.6


# Memory maps


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[Any, Any]:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", CLASSES)
    return tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")


def of_maps(x: Any, y: Any, **settings: Any) -> Task:
    model = partial(Perceptron, 3)
    parts = (x[:40], y[:40]), (x[40:], y[40:])
    return Task(model, *parts, link="softmax", batch_size=8, metric=smooth, **settings)


def test_memory_maps_are_read_by_batches(mapped: Any) -> None:
    task = of_maps(*mapped, in_memory=False)
    assert isinstance(task.train, LazyData)
    assert task.train.targets.tolist() == CLASSES[:40].tolist()
    assert fitness(task) == fitness(of_maps(*mapped)) == fitness(of_maps(X, CLASSES))


def test_a_memory_map_is_sent_by_its_place(mapped: Any) -> None:
    task = of_maps(*mapped, in_memory=False)
    assert isinstance(task.validation, LazyData)
    sent = pickle.dumps(task.validation.reader)
    assert X[45].tobytes() not in sent
    rows = pickle.loads(sent)[[5, 0]]  # noqa: S301
    assert rows.inputs.tolist() == X[[45, 40]].tolist()


def test_text_beside_a_memory_map_is_read_at_once(mapped: Any) -> None:
    names = np.array(["ant", "bee", "cat"])[CLASSES]
    task = of_maps(mapped[0], names, in_memory=False)
    assert (task.classes, task.train.targets.tolist()) == (
        ("ant", "bee", "cat"),
        CLASSES[:40].tolist(),
    )


def test_maps_and_arrays_may_be_inputs_of_one_model(mapped: Any) -> None:
    inputs = {"a": mapped[0][:, :1].copy(), "b": mapped[0]}
    train = ({name: values[:40] for name, values in inputs.items()}, CLASSES[:40])
    task = Task(Wide, train, train, link="softmax", in_memory=False)
    read = task.train.rows(slice(1, 3)).inputs
    assert (read["a"].tolist(), read["b"].tolist()) == (X[1:3, :1].tolist(), X[1:3].tolist())


class Wide(Perceptron):
    def __init__(self) -> None:
        super().__init__(3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(b) + a


# What is known of rows that are not read


def test_the_fingerprint_is_over_length_types_and_a_sample() -> None:
    task = lazily()
    assert task.fingerprint() == lazily().fingerprint() == lazily(loader_workers=1).fingerprint()
    others = [lazily(train=Rows(0, 39)), lazily(noise=0.1), make()]
    assert len({task.fingerprint(), *(other.fingerprint() for other in others)}) == 4


def test_only_a_sample_is_read_at_once() -> None:
    class Counted(Rows):
        def __getitem__(self, index: int) -> Any:
            seen.add(index)
            return super().__getitem__(index % ROWS)

        def __len__(self) -> int:
            return 10**6

    seen: set[int] = set()
    task = lazily(train=Counted())
    assert len(task.train) == 10**6
    assert SAMPLE <= len(seen) <= SAMPLE + 600  # and those that the scale is told from
    assert len(task.train.targets) == SAMPLE


def test_arrays_are_read_into_memory_anyway() -> None:
    inputs = {"a": X[:, :1], "b": X[:, 1:]}
    task = lazily(validation=(inputs, CLASSES))
    assert isinstance(task.validation, Data)
    assert isinstance(task.train, LazyData)


def test_a_lazily_read_part_can_be_used_again() -> None:
    task = lazily()
    again = lazily(train=task.train, validation=task.validation)
    assert again.fingerprint() == task.fingerprint()


# Validation rows


def test_a_fitness_uses_a_fixed_sample_with_every_class() -> None:
    rare = np.where(np.arange(ROWS) == 17, 2, CLASSES % 2)
    tasks = [
        Task(
            partial(Perceptron, 3), (X, rare), (X, rare), link="softmax", validation_rows=6, name=n
        )
        for n in ("one", "one", "two")
    ]
    found = [task.validation.inputs.tolist() for task in tasks]
    assert found[0] == found[1] != found[2]
    for task in tasks:
        assert sorted(set(task.validation.targets.tolist())) == [0, 1, 2]
        assert len(task.validation) == 6


def test_more_validation_rows_than_there_are_is_all() -> None:
    assert len(make(validation_rows=100).validation) == 20
    assert len(lazily(validation_rows=20).validation) == 20


def test_lazily_read_validation_rows_are_the_same_ones() -> None:
    lazy, held = lazily(validation_rows=6), make(validation_rows=6)
    assert lazy.validation.rows(slice(None)).targets.tolist() == held.validation.targets.tolist()
    assert fitness(lazy) == fitness(held)


# Memory


def test_what_does_not_fit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Huge(Rows):
        def __len__(self) -> int:
            return 10**12

    monkeypatch.setattr(memory, "available_memory", lambda: 8e9)
    with pytest.raises(InputError) as caught:
        make(train=Huge())
    assert str(caught.value) == (
        "Reading the training data takes about 2.4e+04 GB of memory, but 8 GB are free; pass "
        "in_memory=False with a Dataset or memory maps, which are then read batch by batch."
    )
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    with pytest.raises(InputError, match=r"Reading the training data takes about .* MB"):
        make(train=({"a": X[:, :1], "b": X[:, 1:]}, CLASSES))


def test_free_memory_is_that_of_the_system_or_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "meminfo": "MemTotal: 9 kB\nMemAvailable:    2000 kB\n",
        "memory.max": "1000000\n",
        "memory.current": "300000\n",
        "memory.stat": "anon 1\ninactive_file 100000\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path)
    assert memory.available_memory() == 800_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() == 2_048_000
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "none")
    assert memory.available_memory() is None


# Refusals


class Failing(Rows):
    """A row that cannot be read is not among the sample."""

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> Any:
        if index == 999_999:
            raise OSError(f"no file for row {index}\nsearched everywhere")
        return super().__getitem__(index % 40)


class TextRows(Rows):
    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0], "cat"


def test_text_needs_its_classes() -> None:
    message = (
        "The training targets hold labels, such as 'cat', and are not all read at once; pass all "
        "labels as classes=[...]."
    )
    with pytest.raises(InputError) as caught:
        lazily(train=TextRows())
    assert str(caught.value) == message
    with pytest.warns(match="All training rows have class 'cat', so there is nothing to learn"):
        task = lazily(train=TextRows(), validation=TextRows(), classes=["ant", "bee", "cat"])
    assert set(task.train.targets.tolist()) == {2}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_row_that_cannot_be_read_is_named(workers: int) -> None:
    task = lazily(train=Failing(), loader_workers=workers)
    with pytest.raises(InputError) as caught:
        list(task.batches(task.train, [torch.tensor([1, 999_999])]))
    assert str(caught.value) == (
        "Row 999999 of the training data set cannot be read: OSError: no file for row 999999"
    )


class Ragged(Rows):
    def __getitem__(self, index: int) -> Any:
        inputs, target = super().__getitem__(index)
        return (inputs if index else {"a": inputs["a"]}), target


class Endless(Rows):
    def __getitem__(self, index: int) -> Any:
        return {"a": X[0, :1] * math.inf, "b": X[0, 1:]}, 0


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "columns": (
        lambda x: of_maps(x[:, ::-1], CLASSES, in_memory=False),
        "The training inputs are a memory map that is not one piece of rows of numbers in its "
        "file; pass a slice of its rows, such as array[:1000].",
    ),
    "rows without targets": (
        lambda x: Task(Perceptron, (x, CLASSES[:9]), (x, CLASSES), link="softmax", in_memory=False),
        "The training data has 60 inputs and 9 targets; it needs the same number of each",
    ),
    "no rows": (lambda x: lazily(train=Rows(0, 0)), "The training data has no rows"),
    "other inputs": (
        lambda x: lazily(train=Ragged()),
        "of the training data set has other inputs than row",
    ),
    "infinity": (lambda x: lazily(train=Endless()), "The training inputs 'a' hold NaN, infinity"),
    "workers without need": (
        lambda x: make(loader_workers=2),
        "Loader workers need in_memory=False, or omit loader_workers.",
    ),
}


@pytest.mark.parametrize(("call", "fragment"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_one_sentence(
    call: Callable[[Any], object], fragment: str, mapped: Any
) -> None:
    with pytest.raises(InputError) as caught:
        call(mapped[0])
    assert fragment in str(caught.value)


def test_a_map_whose_file_is_gone_is_named(mapped: Any) -> None:
    task = of_maps(*mapped, in_memory=False)
    assert isinstance(task.train, LazyData)
    sent = pickle.dumps(task.train.reader)
    Path(mapped[0].filename).unlink()
    with pytest.raises(InputError, match=r"The memory map .*x.npy' cannot be read"):
        pickle.loads(sent)[[0]]  # noqa: S301


def test_a_local_data_set_cannot_be_sent(tmp_path: Path) -> None:
    class Local(Rows):
        pass

    with pytest.raises(InputError, match="define its functions and data sets at the top level"):
        evomal.search(lazily(train=Local()), workers=2, run_dir=tmp_path / "run")


def test_inputs_are_not_in_memory() -> None:
    with pytest.raises(AttributeError, match=r"no inputs in memory; use rows\(\.\.\.\)"):
        lazily().train.inputs  # noqa: B018
