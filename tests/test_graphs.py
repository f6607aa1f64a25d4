"""Steps as CUDA graphs, on a CPU: with a recorder that refuses most of what a graph refuses.

It replays the very operations that a step did, on the very tensors. So a step that depends on a
Python number, or puts its results into new memory at every call, is found out, and so is one with
an operation for which a GPU is waited for. What it cannot tell is what a CPU does without an
operation, such as ``Tensor.cpu``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evomal import SymbolicLoss, Task
from evomal.errors import InputError
from evomal.runs.work import train_candidates
from evomal.training import graphs
from evomal.training.filters import _optimize_outputs, correlations
from evomal.training.graphs import WARM_UP, Step, repeated
from evomal.training.settings import EvaluationSettings
from evomal.training.stacked import partial_training_stacked
from tasks_for_tests import VARIED_TASKS, classification_task, losses_for
from test_together import mean_output

CPU = torch.device("cpu")
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "lift_fresh"}
WAITING |= {"_unique2", "unique_consecutive", "unique_dim", "repeat_interleave"}


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the operations inside the block, which are done as well."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[tuple[Any, Sequence[Any], Mapping[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = [one for one in tree_leaves(args[1:]) if getattr(one, "dtype", None) == torch.bool]
        name = func._schema.name.removeprefix("aten::")
        if name in WAITING or (name in ("index", "index_put_", "index_put") and masks):
            raise RuntimeError(f"{func} would wait for the device.")
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.done:
            if func.is_view:
                continue  # still a view of the same memory
            new = func(*args, **kwargs)
            if func._schema.is_mutable:
                continue
            for held, found in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(held, Tensor) and held.data_ptr() != found.data_ptr():
                    held.copy_(found)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes CPUs have graphs; the number of operations of every recording."""
    lengths: list[int] = []

    def recorded(step: Step, device: torch.device) -> Step:
        recorder = Recorder()
        with recorder:
            step()  # a graph does it at its first replay only
        lengths.append(len(recorder.done))
        replays = iter([lambda: None])
        return lambda: next(replays, recorder.replay)()

    monkeypatch.setattr(graphs, "has_graphs", lambda _: True)
    monkeypatch.setattr(graphs, "recorded", recorded)
    monkeypatch.setattr(graphs, "aside", lambda step, _: step())
    return lengths


def test_without_a_gpu_a_step_is_itself() -> None:
    assert repeated(print, CPU, graphs=True) is print
    assert repeated(print, torch.device("cuda"), graphs=False) is print
    assert repeated(print, torch.device("cuda"), graphs=True) is not print


def test_the_recorder_replays_what_was_recorded(recordings: list[int]) -> None:
    total, tensor, number = torch.zeros((), dtype=torch.float64), torch.ones(()), 1

    def step() -> None:
        total.add_(tensor * number)

    take_step = repeated(step, CPU, graphs=True)
    for number in range(1, WARM_UP + 6):
        tensor.fill_(10.0**number)
        take_step()
    assert total == 444_443_210  # 4 is in the recording, and what is in the tensor is read anew
    assert recordings == [2]


READS: list[Callable[[Tensor], object]] = [
    float,
    lambda x: x[x > 0],
    lambda x: x.masked_select(x > 0),
    torch.unique,
    lambda x: torch.equal(x, x),
    lambda x: x + torch.tensor(3.0),
]


@pytest.mark.parametrize("read", READS)
def test_what_waits_is_refused(read: Callable[[Tensor], object], recordings: list[int]) -> None:
    x = torch.ones(1)

    def step() -> None:
        read(x)

    reading = repeated(step, CPU, graphs=True)
    for _ in range(WARM_UP):
        reading()
    with pytest.raises(RuntimeError, match="wait for the device"):
        reading()


def doubled(x: Tensor) -> Tensor:
    """Some batches with twice as many columns."""
    return x if x[0, 0] > 0 else torch.cat([x, x], dim=1)


class Averages(nn.Module):
    """Logits of the mean of a row, however long."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.mean(dim=1, keepdim=True))
        return out


def test_batches_of_several_shapes_are_refused(recordings: list[int]) -> None:
    task = VARIED_TASKS["classes"](augment=doubled, model=Averages)
    losses = losses_for(task)[:1]
    with pytest.raises(InputError, match="leave out --cuda-graphs"):
        partial_training_stacked(task, losses, 12, 6, graphs=True)
    (curve,) = partial_training_stacked(task, losses, 12, 6)
    assert math.isfinite(curve[-1])


@pytest.mark.parametrize("name", VARIED_TASKS)
def test_the_rejection_protocol(name: str, recordings: list[int]) -> None:
    task = VARIED_TASKS[name]()
    batch = task.batch(task.train, torch.arange(8))
    outputs = type(batch)(task.new_model(0)(batch.inputs).detach(), batch.targets)
    found, plain = (
        _optimize_outputs(losses_for(task), task, outputs, 12, graphs=graphs)
        for graphs in (True, False)
    )
    assert len(recordings) == 1
    assert all(map(torch.equal, found, plain))


@pytest.mark.parametrize("bars", [None, (math.inf, math.inf)], ids=str)
@pytest.mark.parametrize("name", VARIED_TASKS)
def test_stacked_trainings(name: str, bars: Any, recordings: list[int]) -> None:
    """Dropout, statistics and momentum included; what is halted leaves the stack."""
    task = VARIED_TASKS[name](metric=mean_output)
    losses = losses_for(task)
    if bars is not None:
        first = sorted(curve[0] for curve in partial_training_stacked(task, losses, 20, 6, bars))
        bars = ((first[1] + first[2]) / 2, math.inf)
    recordings.clear()
    found = partial_training_stacked(task, losses, 20, 6, bars, graphs=True)
    assert found == partial_training_stacked(task, losses, 20, 6, bars)
    reached = {sum(len(curve) > rung for curve in found) for rung in range(len(bars or ()) + 1)}
    assert len(recordings) == len(reached - {0})
    assert (len(reached) > 1) == (bars is not None)


def test_losses_of_the_progress_of_a_training(recordings: list[int]) -> None:
    """The progress is the one Python number that changes from step to step."""
    given: dict[str, Any] = {"t": "progress", "w": torch.linspace(0, 1, 40, dtype=torch.float64)}
    task: Task = classification_task(torch.float64, loss_inputs=given, metric=mean_output)
    text = "mul(add(t, w), square(sub(y, f)))"
    loss = SymbolicLoss(text, torch.ones(7).double(), "softmax", inputs=("t", "w"))
    ways: list[Callable[..., Any]] = [partial(partial_training_stacked, task, [loss], 12, 3)]
    batch = task.batch(task.train, torch.arange(8))
    outputs = type(batch)(task.new_model(0)(batch.inputs).detach(), batch.targets, batch.extras)
    ways.append(lambda graphs: _optimize_outputs([loss], task, outputs, 12, graphs=graphs)[0].sum())
    for way in ways:
        assert way(graphs=True) == way(graphs=False)
    assert len(recordings) == 2


@pytest.mark.parametrize("asked", [True, False])
def test_the_settings_of_a_run_ask_for_them(asked: bool, recordings: list[int]) -> None:
    task = VARIED_TASKS["classes"]()
    settings = EvaluationSettings(
        engine="stacked", cuda_graphs=asked, rejection_steps=8, testing_steps=8
    )
    correlations(losses_for(task), [task], settings, 0)
    assert len(recordings) == (1 if asked else 0)
    train_candidates([task], losses_for(task), settings, 0, 0)
    assert len(recordings) == (2 if asked else 0)
