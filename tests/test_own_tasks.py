"""Own tasks by name: how they are found, what is said of mistakes, and runs with them."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import evomal
from evomal import InputError, Run, Task, load_task
from evomal.cli import main
from evomal.runs.next_steps import to_check, to_resume, to_train
from evomal.runs.processes import LocalProcesses
from evomal.runs.sending import Import, received, require_picklable, sent
from evomal.runs.task_facts import TaskFacts
from evomal.tasks.lazy import LazyData
from evomal.tasks.registry import Origin
from evomal.tasks.sources import TaskSource, load_own_task, source_of
from evomal.training.loop import partial_training
from evomal.training.settings import EvaluationSettings
from faulty_work import inputs
from run_helpers import TINY, Recorder, run_python, running, without_timing
from tasks_for_tests import regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_task.py"
SETTINGS: dict[str, Any] = {**TINY, "generations": 3, "seed": 1}

TASK = """
import evomal
from torch import nn, arange, rand, stack

def make():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)
        def forward(self, x):
            return self.layer(x)

    def rows(first):
        numbers = arange(first, first + 12.0)
        return stack([numbers.sin(), (2 * numbers).sin()], dim=1), numbers.cos()[:, None]

    return evomal.Task(
        Net, rows(0), rows(20), rows(40), link="identity",
        metric=lambda p, t: float((p - t).abs().mean()), name="mine", batch_size=4,
    )

task = make()
"""

LAZY = (
    TASK.replace("import nn,", "import nn, utils,")
    .replace(
        "    def rows(", "    class Rows(utils.data.TensorDataset):\n        pass\n\n    def rows("
    )
    .replace("return stack(", "return Rows(stack(")
    .replace("numbers.cos()[:, None]", "numbers.cos()[:, None])")
    .replace("batch_size=4", "batch_size=4, in_memory=False")
)
"""The same rows in Datasets of a local class."""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(code: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        return path

    return write


@pytest.fixture(params=["file", "module", "package"])
def name(request: pytest.FixtureRequest, write: Write) -> str:
    """What stands before the colon."""
    if request.param == "file":
        return write(TASK, "elsewhere/a file.py").relative_to(Path.cwd()).as_posix()
    if request.param == "module":
        write(TASK, "own_module_1.py")
        return "own_module_1"
    write("", "own_package_1/__init__.py")
    write(TASK, "own_package_1/tasks.py")
    return "own_package_1.tasks"


@pytest.mark.parametrize("attribute", ["make", "task"])
def test_a_task_is_found_by_name(name: str, attribute: str) -> None:
    task = load_task(f"{name}:{attribute}")
    assert isinstance(task, Task)
    assert task.name == "mine"
    source = source_of(task)
    assert source is not None
    again = load_own_task(source.name, source.folder)
    assert again.description() == task.description()
    assert source_of(again) == source
    assert source.folder == str(Path.cwd() / "elsewhere" if "/" in name else Path.cwd())


def test_the_callers_own_task_is_left_as_it_is(write: Write) -> None:
    path = write(TASK)
    loaded = load_task("mine.py:task")
    assert loaded is not sys.modules["mine"].task
    assert sys.modules["mine"].task.origin is None
    path.write_text(TASK.replace('"mine"', '"edited"'))
    assert load_task("mine.py:task").name == "edited", "the file as it is now"


def test_a_file_may_be_named_like_a_module_and_has_neighbours(write: Write) -> None:
    import random

    write(TASK, "neighbour_of_mine.py")
    write("from neighbour_of_mine import make\nimport random\nrandom.random()", "random.py")
    assert load_task("random.py:make").name == "mine"
    assert sys.modules["random"] is random


def test_what_own_code_prints_is_no_output(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write(f"print('loading')\n{TASK}")
    load_task("mine.py:make")
    output, errors = capsys.readouterr()
    assert (output, errors) == ("", "loading\n")


MISTAKES: dict[str, tuple[str | None, str, str]] = {
    "no such file": (None, "absent.py:make", r"file '.*/absent\.py' cannot be read \(No such file"),
    "a folder": (None, ".:make", "neither a file that ends in .py nor a module"),
    "no such function": (TASK, "mine.py:mak", r"no mak in 'mine\.py'; did you mean make\?"),
    "nothing like it": (TASK, "mine.py:xyz", r"no xyz in 'mine\.py'; it has make, task\."),
    "an empty file": ("", "mine.py:make", "it has no function or task"),
    "no function named": (TASK, "mine.py", "must name a file or module, and a function"),
    "a name left out": (TASK, "mine.py:", "must name a file or module, and a function"),
    "a call": (TASK, "mine.py:make()", "must name a file or module, and a function"),
    "arguments": (
        "def make(n, k=1): ...",
        "mine.py:make",
        "without arguments, but needs n;",
    ),
    "a syntax error": ("\n\ndef make(:", "mine.py:make", r"^mine\.py, line 3: SyntaxError: inv"),
    "not text": ("\x00", "mine.py:make", r"^mine\.py: \w+: source code"),
    "an exception": (
        "def make():\n    return helper()\n\ndef helper():\n    return 1 / 0",
        "mine.py:make",
        r"^mine\.py, line 5: ZeroDivisionError: division by zero$",
    ),
    "an exception in a library": (
        "import torch\n\ndef make():\n    torch.ones(2) @ torch.ones(3)",
        "mine.py:make",
        r"^mine\.py, line 4: RuntimeError: inconsistent tensor size",
    ),
    "an assertion without words": ("assert False", "mine.py:make", "line 1: AssertionError$"),
    "a library that is missing": (
        "import no_such_library",
        "mine.py:make",
        r"^mine\.py, line 1: ModuleNotFoundError: No module named 'no_such_library'$",
    ),
    "a bad task": (
        TASK.replace("batch_size=4", "batch_size=0"),
        "mine.py:make",
        r"^mine\.py, line 17: The batch size must be at least 1, got 0\.$",
    ),
    "a script without a guard": (
        "import argparse\nargparse.ArgumentParser().parse_args(['--x'])",
        "mine.py:make",
        r"^mine\.py, line 2: This line ends the program .* `if __name__ == \"__main__\":`\.$",
    ),
    "nothing returned": ("def make(): pass", "mine.py:make", "an evomal.Task, but returned None"),
    "a model returned": (
        "from torch import nn\ndef make(): return nn.Linear(1, 1)",
        "mine.py:make",
        r"but returned an object of type Linear\.",
    ),
    "a value": ("data = [1]", "mine.py:data", "is an object of type list, but must be"),
    "no such module": (None, "no_such.thing:make", r"no module 'no_such\.thing' in '/"),
    "a module in a file": (TASK, "mine.deeper:make", r"no module 'mine\.deeper' in '/"),
    "a path as a module": (TASK, "here/mine:make", "neither a file that ends in .py nor a module"),
    "a module that fails": ("import no_such_library", "own_module_2:make", "own_module_2.py, line"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence(
    case: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    code, name, expected = MISTAKES[case]
    if code is not None:
        write(code, "own_module_2.py" if name.startswith("own") else "mine.py")
    with pytest.raises(InputError) as caught:
        load_task(name)
    message = str(caught.value)
    assert re.search(expected, message), message
    assert "\n" not in message
    capsys.readouterr()
    assert main(["search", name]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"Error: {message}"
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "option",
    [
        {"data_dir": "here"},
        {"split": "published"},
        {"download": True},
        {"metric": "mae"},
        {"report": ["mae"]},
        {"label_noise": 0.1},
        {"optimizer": "adam"},
        {"learning_rate": 0.1},
        {"batch_size": 64},
    ],
    ids=str,
)
def test_options_of_built_in_tasks_are_refused(option: dict[str, Any], write: Write) -> None:
    write(TASK)
    with pytest.raises(InputError, match=f"option {next(iter(option))} is for built-in tasks only"):
        load_task("mine.py:make", **option)
    with pytest.raises(InputError, match="report must be a list"):
        load_task("mine.py:make", report=None)  # type: ignore[arg-type]


SPLIT_TASK = """
import torch
import evomal
X = torch.arange(120.0).reshape(40, 3).sin()

def make(split_seed=0):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(split_seed))
    a, b, c = order[:20], order[20:30], order[30:]
    parts = [(X[rows], X[rows][:, :1]) for rows in (a, b, c)]
    return evomal.Task(lambda: torch.nn.Linear(3, 1), *parts, link="identity")

fixed = make()

def bare():
    return fixed
"""


def test_an_own_function_may_take_a_split_seed(write: Write) -> None:
    write(SPLIT_TASK)
    first, other, again = (load_task("mine.py:make", split_seed=seed) for seed in (0, 1, 1))
    rows = [next(iter(one.batches(one.train, [slice(20)]))).inputs for one in (first, other, again)]
    assert torch.equal(rows[1], rows[2])
    assert not torch.equal(rows[0], rows[1])
    assert source_of(first) is not None  # what recreates a task has no split
    assert source_of(other) is None
    for name in ("fixed", "bare"):
        with pytest.raises(InputError, match=f"{name} in 'mine.py' has one split; .* split_seed=0"):
            load_task(f"mine.py:{name}", split_seed=2)


def test_options_of_built_in_tasks(data_dir: Path, tmp_path: Path) -> None:
    task = load_task("diabetes/mlp", learning_rate=0.5, batch_size=7)
    usual = load_task("diabetes/mlp")
    assert task.batch_size == 7
    assert task.optimizer == replace(usual.optimizer, learning_rate=0.5)
    assert load_task("diabetes/mlp", optimizer="sgd").optimizer == usual.optimizer
    with pytest.raises(InputError, match="did you mean adam or adamw"):
        load_task("diabetes/mlp", optimizer="adamv")
    with pytest.raises(InputError, match="learning rate must be above 0"):
        load_task("diabetes/mlp", learning_rate=0)
    with pytest.raises(KeyboardInterrupt):
        evomal.search(task, run_dir=tmp_path, callbacks=[Recorder("candidate", 2)], **SETTINGS)
    run = evomal.resume(tmp_path)
    assert run.facts.status == "finished"
    options = "--learning-rate 0.5 --batch-size 7"
    command = f"evomal train diabetes/mlp --loss {tmp_path} {options}"
    assert to_train(tmp_path, run.facts.tasks) == command


def test_what_to_type_next() -> None:
    own = TaskFacts("mine", "custom", TaskSource("/a b/c.py:make", "/a b", "0"), 10, {})
    assert to_resume("runs/0001", [own]) == "evomal resume runs/0001"
    assert to_train("r", [own]) == "evomal train '/a b/c.py:make' --loss r"
    assert to_check([own]) == "`evomal check '/a b/c.py:make'`"
    faster = TaskFacts("diabetes/mlp", "honest", Origin(learning_rate=0.5), 10, {})
    assert to_check([faster]) == "`evomal check diabetes/mlp --learning-rate 0.5`"


def interrupted(name: str, run_dir: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        evomal.search(
            load_task(name), run_dir=run_dir, callbacks=[Recorder("candidate", 2)], **SETTINGS
        )


def test_a_run_goes_on_from_another_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(TASK, "here/mine.py")
    interrupted("here/mine.py:make", tmp_path / "run")
    monkeypatch.chdir(path.parent)
    expected = evomal.search(load_task("mine.py:make"), run_dir=tmp_path / "whole", **SETTINGS)
    with pytest.raises(InputError, match="option data_dir is for built-in tasks only"):
        evomal.resume(tmp_path / "run", data_dir=tmp_path)
    found = evomal.resume(tmp_path / "run")
    assert without_timing(found.summary()) == without_timing(expected.summary())


def test_code_that_has_changed(write: Write, tmp_path: Path) -> None:
    path = write(TASK)
    interrupted("mine.py:make", tmp_path / "run")
    path.write_text(TASK.replace("2 * numbers", "3 * numbers"))
    with (
        pytest.warns(UserWarning, match=r"code of .*mine\.py:make has changed"),
        pytest.raises(InputError, match=r"'mine' has changed .*\(data\)"),
    ):
        evomal.resume(tmp_path / "run")
    path.rename(tmp_path / "moved.py")
    with pytest.raises(InputError, match=r"'.*/mine\.py' cannot be read"):
        evomal.resume(tmp_path / "run")
    (tmp_path / "moved.py").write_text(TASK + "# the same")
    run = evomal.resume(tmp_path / "run", load_task("moved.py:make"))
    assert run.facts.status == "finished"


def test_analyze_finds_the_number_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evomal.search(load_task(f"{EXAMPLE}:make_task"), run_dir=tmp_path / "run", **SETTINGS)
    assert main(["analyze", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == 10


# Workers


def test_what_a_worker_gets_is_the_same_task(write: Write) -> None:
    path = write(TASK)
    task, other = load_task("mine.py:make"), regression_task()
    first, second = sent([task, other])
    assert isinstance(first, Import)
    assert isinstance(second, Task)
    pickle.dumps((replace(first, data={}), second))
    (own,) = received([first], "cpu")
    assert own.description() == task.description()
    assert own.train.inputs.data_ptr() == task.train.inputs.data_ptr(), "the data that was sent"
    path.write_text(TASK.replace("batch_size=4", "batch_size=5"))
    with pytest.raises(InputError, match=r"another task in a worker \(batch size, code changed\)"):
        received([first], "cpu")
    path.write_text("raise OSError('no disk')")
    with pytest.raises(InputError, match=r"mine\.py, line 1: OSError: no disk"):
        received([first], "cpu")


def test_workers_read_for_themselves_what_is_not_in_memory(write: Write) -> None:
    path = write(LAZY)
    task = load_task("mine.py:make")
    (first,) = sent([task])
    assert isinstance(first, Import)
    assert not first.data
    require_picklable([first])
    pickle.dumps(first)
    (own,) = received([first], "cpu")
    assert isinstance(own.train, LazyData)
    assert len({partial_training(one, one.task_loss, 5, 0) for one in (task, own)}) == 1
    path.write_text(LAZY.replace("numbers.cos()", "numbers.exp()"))
    with pytest.raises(InputError, match=r"another task in a worker \(data, code changed\)"):
        received([first], "cpu")


@pytest.mark.parametrize(
    "functions",
    [
        {"output": lambda x: x},
        {"report": [lambda p, t: float((p - t).abs().max())]},
        {"schedule": lambda progress: 1 - progress},
        {"optimizer": lambda parameters: torch.optim.NAdam(parameters)},
    ],
    ids=["output", "report", "schedule", "optimizer"],
)
def test_a_task_made_in_python_must_be_picklable(functions: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"cannot be sent .* evomal\.load_task\(\"my_task\.py"):
        require_picklable(sent([regression_task(**functions)]))


def test_a_worker_says_what_is_wrong_with_a_task(write: Write) -> None:
    write(TASK.replace("numbers.cos()", "rand(12)"))
    task = load_task("mine.py:make")
    with closing(LocalProcesses([task], EvaluationSettings(), 0, 1)) as executor:
        errors = [future.exception() for future in [executor.submit(inputs) for _ in range(2)]]
    assert isinstance(errors[0], InputError)
    error = errors[0]
    assert repr(errors[1]) == repr(error)
    assert "made another task in a worker (data changed); seed what it draws" in str(error)


def test_a_killed_search_goes_on_and_its_loss_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    search = ["search", "own_task.py:make_task", *options, "--run-dir", "run", "--workers", "2"]
    with running("-m", "evomal.cli", *search) as process:
        assert process.stdout is not None
        assert any(line.startswith("Generation 1/3") for line in process.stdout)
        process.kill()
    assert Run("run").facts.status == "killed"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert main(["resume", "../run", "--workers", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = evomal.search(load_task("../own_task.py:make_task"), run_dir="whole", **SETTINGS)
    assert without_timing(found) == without_timing(expected.summary())
    train = ["train", "../own_task.py:make_task", "--loss", "../run", "--steps", "5", "--json"]
    assert main(train) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "error_rate"


@pytest.mark.slow
@pytest.mark.parametrize("code", [TASK, LAZY], ids=["in memory", "lazily"])
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_lambdas_and_local_classes_reach_workers(
    executor: str, code: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write(code)
    name = "mine.py:make"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    execution = ["--executor", executor, "--workers", "2", "--quiet"]
    run_dir = str(tmp_path / "run")
    arguments = ["-m", "evomal.cli", "search", name, *options, *execution, "--run-dir", run_dir]
    assert run_python(*arguments, cwd=tmp_path) == (0, "", "")
    expected = evomal.search(load_task(name), run_dir=tmp_path / "whole", **SETTINGS)
    found = Run(run_dir)
    assert found.summary()["generations"] == expected.summary()["generations"]
    assert found.best.loss.to_dict() == expected.best.loss.to_dict()
