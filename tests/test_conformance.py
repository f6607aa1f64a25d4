"""Everything that is registered keeps its contract, by the checks that third parties import."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from evomal import NeuralLoss, SymbolicLoss, Task, TaylorLoss
from evomal.losses import symbolic
from evomal.losses.base import Loss
from evomal.losses.families import FAMILIES
from evomal.losses.files import LOSS_KINDS
from evomal.losses.form import Form, Link
from evomal.losses.known import KNOWN_LOSSES
from evomal.losses.log_cosh import LogCoshLoss
from evomal.losses.names import resolve_loss
from evomal.methods.base import Method
from evomal.methods.gp_lfl import GPLFL
from evomal.methods.registry import METHODS
from evomal.runs.executors import InProcess
from evomal.runs.processes import LocalProcesses
from evomal.runs.ray_actors import RayActors
from evomal.seeding import derive_generator
from evomal.testing import check_engine, check_executor, check_loss, check_method
from evomal.training import meta_training
from evomal.training.engines.base import Engine, EngineName
from evomal.training.engines.choice import ENGINES
from evomal.training.engines.loop import LoopEngine, trained_in_turn
from handcrafted_losses import DTYPES, LOSSES, draw
from run_helpers import made_up_formulas
from tasks_for_tests import VARIED_TASKS

PHI = torch.tensor([0.1, -2.5, 1 / 3, 7.0, 0.7, 1e-3])
CLASS_WEIGHTS = torch.tensor([0.1, 2.0, 1 / 3])
LINKS: list[Link] = ["softmax", "sigmoid", "identity"]


def expression(**changes: Any) -> SymbolicLoss:
    settings = {"phi": PHI, "link": "softmax", **changes}
    return SymbolicLoss("mul(y, abs(log(add(f, y))))", **settings)


EVERY_LOSS: list[Loss] = [
    *(make() for make in LOSSES),
    *(make(weight=CLASS_WEIGHTS.double(), ignore_index=1, reduction="none") for make in LOSSES),
    *(make(weight=CLASS_WEIGHTS).half() for make in LOSSES),
    *(resolve_loss(name, Form(link)) for name in KNOWN_LOSSES for link in LINKS),
    expression(activation="softplus", reduction="sum", weight=CLASS_WEIGHTS, ignore_index=1),
    *(expression(phi=PHI.to(dtype)) for dtype in DTYPES),
    SymbolicLoss("f", link="softmax", reduction="none"),
    SymbolicLoss("y"),
    SymbolicLoss("mul(w, square(sub(y, f)))", [0.1] * 5, "softmax", inputs=("w", "unused")),
    NeuralLoss(link="softmax"),
    NeuralLoss(link="softmax", activation="identity", reduction="none", inputs=("w",), hidden=[3]),
    NeuralLoss(link="softmax", weight=CLASS_WEIGHTS, ignore_index=1).double(),
    *(NeuralLoss(link=link, hidden=(6, 5)) for link in LINKS),
    TaylorLoss(link="softmax", reduction="sum", weight=CLASS_WEIGHTS, ignore_index=1),
    *(TaylorLoss(draw(12).to(dtype), "softmax", order=4) for dtype in DTYPES),
    *(TaylorLoss(draw(8), link) for link in LINKS),
    LogCoshLoss(),
    LogCoshLoss("none"),
    *(resolve_loss(family.example) for family in FAMILIES.values()),
]


@pytest.fixture(autouse=True)
def _without_sympy(monkeypatch: pytest.MonkeyPatch, instant_formulas: None) -> None:
    monkeypatch.setattr(symbolic, "printed_forms", made_up_formulas)


@pytest.mark.parametrize(
    "kind", {type(loss) for loss in EVERY_LOSS}, ids=lambda kind: kind.__name__
)
def test_every_loss_conforms(kind: type[Loss]) -> None:
    for loss in EVERY_LOSS:
        if type(loss) is kind:
            check_loss(loss)


def test_nothing_is_overridden_twice_in_one_chain() -> None:
    for loss in EVERY_LOSS:
        chain = [cls for cls in type(loss).__mro__ if cls.__module__.startswith("evomal.losses.")]
        names = {name for cls in chain for name in vars(cls) if not name.startswith("__")}
        for name in names - {"_abc_impl"}:
            assert len([cls for cls in chain if name in vars(cls)]) <= 2, (type(loss), name)


def test_every_kind_of_loss_is_checked() -> None:
    assert set(LOSS_KINDS.values()) <= {type(loss) for loss in EVERY_LOSS}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_conforms(name: str) -> None:
    check_method(METHODS[name], draws=name != "baseline")


def mean_output(pred: Tensor, _: Tensor) -> Tensor:
    """A metric that tells the slightest difference."""
    return pred.square().mean()


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_conforms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_training, "CHECK_EVERY", 2)  # so that what diverges leaves the group
    check_engine(ENGINES[name])


@pytest.mark.parametrize("task", VARIED_TASKS)
@pytest.mark.parametrize("name", [name for name in ENGINES if name != "loop"])
def test_engines_conform_on_varied_base_learners(name: str, task: str) -> None:
    tasks = [VARIED_TASKS[task](metric=mean_output, name=one) for one in "ab"]
    check_engine(ENGINES[name], tasks)


def test_work_in_this_process_conforms() -> None:
    check_executor(InProcess)


@pytest.mark.slow
def test_local_processes_conform() -> None:
    check_executor(partial(LocalProcesses, workers=2))


@pytest.mark.slow
def test_ray_conforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_executor(partial(RayActors, workers=2, address=None, most=2))


# The page for those who extend it

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"


@pytest.fixture
def files_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its blocks that begin with the name of a file, as importable modules."""
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, code in blocks:
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "nearby", GPLFL)  # both are put back afterwards
    monkeypatch.setitem(LOSS_KINDS, "power", SymbolicLoss)
    yield
    assert len(blocks) == 4


@pytest.mark.parametrize("name", ["nearby", "power"])
def test_what_the_page_shows_conforms(name: str, files_of_the_page: None) -> None:
    getattr(importlib.import_module(f"test_{name}"), f"test_{name}")()


# The checks can fail


class Unreduced(SymbolicLoss):
    """Returns a vector whatever the reduction."""

    def forward(self, pred: Tensor, target: Tensor, **inputs: Any) -> Tensor:
        return self.elementwise(target, pred, self.phi)


class HalfGradient(SymbolicLoss):
    """Detaches a part of what it differentiates."""

    def forward(self, pred: Tensor, target: Tensor, **inputs: Any) -> Tensor:
        return super().forward((pred + pred.detach()) / 2, target, **inputs)


class Broadcasting(SymbolicLoss):
    """Takes a target of any shape."""

    def forward(self, pred: Tensor, target: Tensor, **inputs: Any) -> Tensor:
        return super().forward(pred, target.broadcast_to(pred.shape), **inputs)


class Single(SymbolicLoss):
    """Always answers in single precision."""

    def forward(self, pred: Tensor, target: Tensor, **inputs: Any) -> Tensor:
        return super().forward(pred, target, **inputs).float()


class Forgetful(SymbolicLoss):
    """Loses its weights on the way to a file."""

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "phi": [1.0] * len(self.phi)}


class SharedWeights(SymbolicLoss):
    """Changes the weights of the loss itself."""

    def with_phi(self, phi: Any) -> SharedWeights:
        self.phi.copy_(torch.as_tensor(phi))
        return self


class Constant(SymbolicLoss):
    """Takes its weights for constants, so that no derivative comes through."""

    def evaluate(self, pred: Tensor, target: Tensor, phi: Tensor, inputs: Any = None) -> Tensor:
        return super().evaluate(pred, target, phi.detach(), inputs or {})


class Unfinished(SymbolicLoss):
    """Says less of itself than it must."""

    def describe(self, printed: Any = None) -> dict[str, Any]:
        return {"link": self.link}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Unreduced, r"The shape of Unreduced .* 'sum' must be \(\), but is \(6,\)\."),
        (HalfGradient, "The gradient of HalfGradient in pred, by central differences"),
        (Broadcasting, "Broadcasting of pred .* must be refused with an InputError"),
        (Single, r"of pred torch\.float16 .* must be torch\.float16, but is torch\.float32\."),
        (Forgetful, "phi of a Forgetful by its dictionary must be the same to the last bit"),
        (Unfinished, r"Unfinished\.describe\(\)\['inputs'\] must be \[\], but is None\."),
        (SharedWeights, "SharedWeights.with_phi must leave the loss as it is"),
        (Constant, "The gradient of Constant in φ, by central differences"),
        (SymbolicLoss, None),
    ],
)
def test_a_broken_loss_is_caught(
    kind: type[SymbolicLoss], sentence: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSS_KINDS, "symbolic", kind)
    monkeypatch.setattr(kind, "python_form", lambda _: None)
    loss = kind("square(sub(y, f))", [1.0, 2.0, 3.0])
    if sentence is None:
        check_loss(loss)
        return
    with pytest.raises(AssertionError, match=sentence):
        check_loss(loss)


class ForgetsItsGenerator(GPLFL):
    """Draws again, after a stop, what it drew before."""

    name = "broken"

    def _state(self) -> dict[str, Any]:
        fresh = derive_generator(self.seed, "variation")
        return {**super()._state(), "generator": fresh.bit_generator.state}


class DrawsGlobally(GPLFL):
    """Draws from torch's global generator."""

    name = "broken"

    def _ask(self) -> Any:
        torch.rand(())
        return super()._ask()


class Repeats(GPLFL):
    """Gives the candidates of every generation the same numbers."""

    name = "broken"

    def ask(self) -> Any:
        self._candidates = 0
        return super().ask()


class AnotherForm(GPLFL):
    """Asks for losses without the class weights of the task."""

    name = "broken"

    def _ask(self) -> Any:
        return [SymbolicLoss(loss.expression, link=self.form.link) for loss in super()._ask()]


class ReadsTheArchive(GPLFL):
    """Asks for what follows from outcomes of the same generation."""

    name = "broken"

    def _ask(self) -> Any:
        first, *others = super()._ask()
        return [first.with_phi(first.phi + self.archive.counts.total()), *others]


class Chance(GPLFL):
    """Draws from a stream that no seed names."""

    name = "broken"
    drawn = 0

    def __init__(self, settings: Any, form: Form, seed: int) -> None:
        Chance.drawn += 1
        super().__init__(settings, form, Chance.drawn)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (ForgetsItsGenerator, "resumed after 1 of 3 generations, must .*its state lacks something"),
        (DrawsGlobally, "must draw nothing from the global generator of torch"),
        (Repeats, "The numbers of the candidates of broken, in order, must be"),
        (AnotherForm, "The form of a loss of broken must be Form"),
        (ReadsTheArchive, "as after a stop within it, but does not; read the archive in _tell"),
        (Chance, "broken must ask for the same with the same seed"),
    ],
)
def test_a_broken_method_is_caught(
    kind: type[Method], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match=r"METHODS\['broken'\] .* add it"):
        check_method(kind)
    monkeypatch.setitem(METHODS, "broken", kind)
    with pytest.raises(AssertionError, match=sentence):
        check_method(kind)


class OnePercentOff(Engine):
    """The plain loop with results that are not quite its own."""

    name: ClassVar[EngineName] = "loop"
    tunes_in_groups: ClassVar[bool] = False
    trains_together: ClassVar[bool] = False
    tuned, trained = 1.01, 1.0

    @staticmethod
    def problem(task: Task) -> None:
        pass

    group_sizes = LoopEngine.group_sizes

    def tune(self, losses: Sequence[Any], states: Any = ()) -> list[Any]:
        found = LoopEngine(self.bench).tune(losses, states)
        return [self.tuned * phi if isinstance(phi, Tensor) else phi for phi in found]

    def _advance(self, tunings: Any) -> list[Any]:
        raise NotImplementedError

    def train(self, losses: Sequence[Any], index: int, bars: Any = None) -> list[Any]:
        found = trained_in_turn(self.bench, losses, index, bars)
        return [one._replace(curve=tuple(self.trained * v for v in one.curve)) for one in found]


class TrainsOff(OnePercentOff):
    tuned, trained = 1.0, 1.01


class LosesOne(OnePercentOff):
    @staticmethod
    def group_sizes(count: int, size: int | None) -> list[int]:
        return [1] * (count - 1)


class TakesNone(OnePercentOff):
    @staticmethod
    def problem(task: Task) -> Any:
        return "it takes no task"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (OnePercentOff, "φ that loop tunes for .*, as by the plain loop, must be"),
        (TrainsOff, "L_P of a training by loop under the task loss, as by the plain loop, must be"),
        (LosesOne, r"The sum of loop\.group_sizes\(1, None\) must be 1, but is 0\."),
        (TakesNone, "loop must suit the tasks that it is checked on: .*it takes no task"),
    ],
)
def test_a_broken_engine_is_caught(kind: type[Engine], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_engine(kind)


class LosesErrors(InProcess):
    """Work that raised has the value None."""

    def submit(self, function: Callable[..., Any], *args: Any, timeout: Any = None) -> Future[Any]:
        future = super().submit(function, *args, timeout=timeout)
        if future.exception() is not None:
            future = Future()
            future.set_result(None)
        return future


class ForgetsItsBench(InProcess):
    """Makes what a run fixes anew for every piece of work."""

    kept: list[Any]

    def submit(self, function: Callable[..., Any], *args: Any, timeout: Any = None) -> Future[Any]:
        self.kept = [*getattr(self, "kept", []), self._bench]
        self._bench = type(self._bench)(self._bench.tasks, self._bench.settings, self._bench.seed)
        return super().submit(function, *args, timeout=timeout)


class RaisesAtOnce(InProcess):
    """Raises what the work raised."""

    def submit(self, function: Callable[..., Any], *args: Any, timeout: Any = None) -> Future[Any]:
        future = super().submit(function, *args)
        error = future.exception()
        if error is not None and error.__cause__ is not None:
            future = Future()
            future.set_exception(error.__cause__)
        return future


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (LosesErrors, "Work that raises an error must end with a WorkError, but with None"),
        (ForgetsItsBench, "A worker must keep its bench, but 1 workers had"),
        (RaisesAtOnce, r"must end with a WorkError, but with ValueError\('in process"),
    ],
)
def test_a_broken_executor_is_caught(kind: type[InProcess], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_executor(kind)
