"""Own tasks by name: a task, or a function that makes one, in a Python file or a module."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from evomal.errors import InputError, meant, named, quoted
from evomal.tasks.functions import default_of, required_arguments
from evomal.tasks.task import Task

_PACKAGE = Path(__file__).parents[1]
_EXAMPLES = "my_task.py:make_task or package.module:task"


@dataclass(frozen=True)
class TaskSource:
    """Where an own task comes from; recorded by runs and sent to workers.

    Attributes
    ----------
    name
        ``/path/to/my_task.py:name`` or ``package.module:name``.
    folder
        The first place where modules are looked for: that of the file, or the working directory.
    digest
        Of the code in the file or module, so that a change is noticed.
    """

    name: str
    folder: str
    digest: str


def is_source(name: object) -> bool:
    """Whether this names an own task, not a built-in one."""
    return isinstance(name, str) and (":" in name or name.endswith(".py"))


def source_of(task: Task) -> TaskSource | None:
    """Where `load_own_task` found a task; None for others."""
    origin = task.origin or {}
    return TaskSource(**origin) if "digest" in origin else None


def load_own_task(
    name: str,
    folder: str | None = None,
    device: str | torch.device | None = None,
    split_seed: int = 0,
) -> Task:
    """The task with a name such as ``my_task.py:make_task`` or ``package.module:task``.

    A file is run anew at every call, and can import the modules beside it, as a script can.

    Parameters
    ----------
    name
        A file or module, and in it a `Task` or a function without arguments that returns one.
    folder
        Where relative paths start and modules are looked for first; default the working directory.
    device
        Device of the task; default its own.
    split_seed
        If not 0, the function receives it as `split_seed`. Such a task has no origin, so that it is
        sent to workers as any task made in Python.

    Raises
    ------
    InputError
        If there is no such file, module or name, the code fails, or it makes no task; or there is
        no argument ``split_seed=0`` for another split.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute.isidentifier():
        raise InputError(
            f"The task {quoted(name)} must name a file or module, and a function or task in it, "
            f"such as {_EXAMPLES}."
        )
    start = Path(folder or ".").resolve()
    if place.endswith(".py"):
        path = (start / Path(place).expanduser()).resolve()
        source, start = f"{path}:{attribute}", path.parent
        module, code = _run_file(path)
    else:
        source = name
        module, code = _import_module(place, start)
    found = _task_in(module, attribute, place, start, split_seed)
    task = copy.copy(found) if device is None else found.to(device)
    if split_seed:
        task.origin = None
        return task
    digest = hashlib.blake2b(code, digest_size=16).hexdigest()
    task.origin = dataclasses.asdict(TaskSource(source, str(start), digest))
    return task


def _run_file(path: Path) -> tuple[ModuleType, bytes]:
    """The module of a file, and its code."""
    try:
        code = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"The task's file {quoted(str(path))} cannot be read ({error.strerror}); check its "
            f"path, and name the task as {_EXAMPLES}."
        ) from error
    name = path.stem
    if _file_of(sys.modules.get(name, path)) != path:  # as of a file named random.py
        name = f"{name}_{hashlib.blake2b(bytes(path), digest_size=8).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _look_first_in(path.parent)
    with _own_code(path.name, path.parent):
        exec(compile(code, path, "exec", dont_inherit=True), vars(module))
    return module, code


def _import_module(name: str, folder: Path) -> tuple[ModuleType, bytes]:
    """The module of that name, and its code."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise InputError(
            f"{quoted(name)} is neither a file that ends in .py nor a module; name a task as "
            f"{_EXAMPLES}."
        )
    _look_first_in(folder)
    importlib.invalidate_caches()
    try:
        with _own_code(name, folder):
            module = importlib.import_module(name)
    except InputError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{name}.".startswith(f"{cause.name}."):
            raise InputError(
                f"There is no module {quoted(name)} in {quoted(str(folder))} or among the "
                f"installed packages; name a task as {_EXAMPLES}."
            ) from cause
        raise
    path = _file_of(module)
    return module, path.read_bytes() if path is not None and path.is_file() else b""


def _task_in(module: ModuleType, attribute: str, place: str, folder: Path, split_seed: int) -> Task:
    """The task of that name in a module, or the one that the function of that name returns."""
    with _own_code(place, folder):
        value = getattr(module, attribute, module)
    if value is module:
        known = [
            name
            for name, other in vars(module).items()
            if isinstance(other, Task)
            or (inspect.isfunction(other) and other.__module__ == module.__name__)
        ]
        remedy = meant(attribute, known) or f"it has {', '.join(known) or 'no function or task'}."
        raise InputError(f"There is no {attribute} in {quoted(place)}; {remedy}")
    if split_seed and default_of(value, "split_seed") != 0:
        raise InputError(
            f"{attribute} in {quoted(place)} has one split; for others, let it be a function "
            "with an argument split_seed=0 that returns the task for this split."
        )
    if isinstance(value, Task):
        return value
    if not callable(value):
        raise InputError(
            f"{attribute} in {quoted(place)} is {_kind(value)}, but must be an evomal.Task or a "
            "function that returns one."
        )
    needed = required_arguments(value)
    if needed:
        raise InputError(
            f"{attribute} in {quoted(place)} is called without arguments, but needs "
            f"{', '.join(needed)}; give defaults to them."
        )
    with _own_code(place, folder):
        returned = value(split_seed=split_seed) if split_seed else value()
    if not isinstance(returned, Task):
        raise InputError(
            f"{attribute} in {quoted(place)} must return an evomal.Task, but returned "
            f"{_kind(returned)}."
        )
    return returned


def _kind(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _file_of(module: Any) -> Path | None:
    """The file of a module; a path is its own."""
    file = module if isinstance(module, Path) else getattr(module, "__file__", None)
    return None if file is None else Path(file).resolve()


def _look_first_in(folder: Path) -> None:
    """Put a folder at the front of Python's path, as for a script in it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@contextlib.contextmanager
def _own_code(place: str, folder: Path) -> Iterator[None]:
    """Run own code: its errors become one sentence, and what it prints goes to standard error."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:  # own code may raise anything
        raise InputError(f"{_line_of(error, folder) or place}: {_told(error)}") from error


def _told(error: Exception | SystemExit) -> str:
    """What own code raised, as the end of a sentence."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, SystemExit):
        return (
            "This line ends the program while the task is made; put what only a script does under "
            '`if __name__ == "__main__":`.'
        )
    return f"SyntaxError: {error.msg}" if isinstance(error, SyntaxError) else named(error)


def _line_of(error: Exception | SystemExit, folder: Path) -> str | None:
    """The last line of own code that led to an error, if possible in this folder; None if none."""
    places = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno or 1))
    others = [(Path(file), line) for file, line in places if Path(file).is_file()]
    others = [(path, line) for path, line in others if not path.is_relative_to(_PACKAGE)]
    own = [
        (path, line)
        for path, line in others
        if path.is_relative_to(folder) and "site-packages" not in path.parts
    ]
    if not others:
        return None
    path, line = (own or others)[-1]
    return f"{path.name}, line {line}"
