"""Parse arguments into a command and print the help, with tyro."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from itertools import pairwise, takewhile
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Protocol, Union, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from evomal.cli.analyze import Analyze
from evomal.cli.check import CheckTask
from evomal.cli.downloads import DataSets
from evomal.cli.lists import Losses, Methods, Tasks
from evomal.cli.losses import Show, Train
from evomal.cli.scores import Score
from evomal.cli.searches import Resume, Search
from evomal.errors import printable, require_name, shortened
from evomal.methods.given import PRESETS
from evomal.methods.registry import METHODS, methods_with, no_such_setting, setting_names


class Command(Protocol):
    """The parsed arguments of a command."""

    def run(self) -> int:
        """Run the command and return its exit status."""
        ...


@dataclass(frozen=True)
class _Entry:
    """A command with an example."""

    command: type[Command]
    example: str


COMMANDS: dict[str, _Entry] = {
    "data": _Entry(DataSets, "evomal data list"),
    "tasks": _Entry(Tasks, "evomal tasks"),
    "methods": _Entry(Methods, "evomal methods"),
    "losses": _Entry(Losses, "evomal losses"),
    "check": _Entry(CheckTask, "evomal check diabetes/mlp"),
    "search": _Entry(Search, "evomal search diabetes/mlp --preset quick"),
    "resume": _Entry(Resume, "evomal resume runs/0001"),
    "show": _Entry(Show, "evomal show runs/0001"),
    "score": _Entry(Score, "evomal score diabetes/mlp 'abs(sub(y, f))' --preset quick"),
    "train": _Entry(Train, "evomal train diabetes/mlp --loss runs/0001 --seeds 3"),
    "analyze": _Entry(Analyze, "evomal analyze cross-entropy --classes 10"),
}
"""All commands by name."""

_PROGRAM = """\
Learn a symbolic loss function for a PyTorch model and data set.

Examples:
  evomal check diabetes/mlp                      check a task, in seconds
  evomal search diabetes/mlp --preset quick      learn a loss, in minutes
  evomal show runs/0001                          show the learned losses
  evomal train diabetes/mlp --loss runs/0001     test the best loss on new data
  evomal COMMAND --help                          show the options of a command
  evomal --version                               show the version"""

_METAVARS = {
    "workers": "INT|auto",
    "ray_address": "HOST:PORT",
    "initial_losses": "LOSS [LOSS ...]",
    "hidden": "INT [INT ...]",
}
"""Metavars of settings whose classes do not depend on the command line."""

_WITHOUT_FLAG = ("initial_weights",)
"""Settings that runs store, and Python takes."""

_TYPES: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("INT", int),
    float: ("FLOAT", float),
    str: ("TEXT", str),
    Path: ("PATH", Path),
}


def parse_command(arguments: Sequence[str]) -> Command:
    """Parse the arguments into a command.

    Raises
    ------
    SystemExit
        With status 2 after printing what is wrong; with 0 after help.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return _parse(arguments, tell=False)
    except SystemExit:  # again, to print the error or the help, with control characters escaped
        return _parse([printable(shortened(text)) for text in arguments], tell=True)


def _parse(arguments: Sequence[str], *, tell: bool) -> Command:
    """The command with its options; the defaults of some depend on others, such as the preset."""
    defaults = {
        "search": _search(arguments if "search" in arguments[:1] else ()),
        "score": _score(arguments if "score" in arguments[:1] else ()),
    }
    subcommands: Any = Union[  # noqa: UP007
        tuple(
            Annotated[
                entry.command,
                tyro.conf.subcommand(
                    name,
                    description=_description(entry, alone=name in arguments[:1]),
                    default=defaults.get(name, tyro.MISSING_NONPROP),
                ),
            ]
            for name, entry in COMMANDS.items()
        )
    ]
    registry = ConstructorRegistry()
    registry.primitive_rule(_optional)
    registry.struct_rule(_Options())
    command: Command = tyro.cli(
        subcommands,
        prog="evomal",
        description=_PROGRAM,
        args=arguments,
        console_outputs=tell,
        config=(tyro.conf.OmitSubcommandPrefixes,),
        registry=registry,
    )
    return command


def _search(arguments: Sequence[str]) -> Search:
    """A search with the settings of its method and preset, before anything else is parsed.

    Raises
    ------
    InputError
        If the method is unknown, or a flag belongs to other methods.
    """
    options = list(takewhile(lambda text: text != "--", arguments))
    method = _value(options, "--method", "evomal")
    require_name("method", method, METHODS, "`evomal methods` lists them")
    for option in options:
        name = option.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
        if option.startswith("--") and name not in setting_names(method) and methods_with(name):
            raise no_such_setting(method, name)
    presets = METHODS[method].presets
    preset = _value(options, "--preset", "standard")  # if there is none, the parser will say so
    return Search(tyro.MISSING, method, settings=presets.get(preset, presets["standard"]))


def _score(arguments: Sequence[str]) -> Score:
    """A scoring with the settings of its preset."""
    preset = _value(arguments, "--preset", "standard")
    return Score(tyro.MISSING, tyro.MISSING, settings=PRESETS.get(preset, PRESETS["standard"]))


def _value(options: Sequence[str], name: str, default: str) -> str:
    """The last value given for an option."""
    for option, following in pairwise([*options, ""]):
        if option == name:
            default = following
        elif option.startswith(f"{name}="):
            default = option.removeprefix(f"{name}=")
    return default


def _description(entry: _Entry, *, alone: bool) -> str:
    """The description of a command, with an example on its own help page."""
    text = entry.command.__doc__ or ""
    return f"{text}\n\nExample:\n  {entry.example}" if alone else text


def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A type or None, written as the type; "None" still stands for the default."""
    known = [kind for kind in get_args(info.type) if kind in _TYPES]
    if not (len(known) == 1 and set(get_args(info.type)) == {known[0], NoneType}):
        return None
    metavar, convert = _TYPES[known[0]]
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: None if texts[0] == "None" else convert(texts[0]),
        is_instance=lambda value: value is None or isinstance(value, known[0]),
        str_from_instance=lambda value: [str(value)],
    )


class _Options:
    """Tyro's rule for dataclasses, with each help text on one line."""

    def __init__(self) -> None:
        self._busy: list[Any] = []

    def __call__(self, info: StructTypeInfo) -> StructConstructorSpec | None:
        if not is_dataclass(info.type) or info.type in self._busy:
            return None
        self._busy.append(info.type)  # so that tyro's own rule applies
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            self._busy.remove(info.type)
        if not isinstance(spec, StructConstructorSpec):
            return None
        return replace(spec, fields=tuple(map(_tidy, spec.fields)))


def _tidy(field: StructFieldSpec) -> StructFieldSpec:
    if is_dataclass(field.default):
        return field
    hint = tyro.conf.arg(metavar=_METAVARS.get(field.name), help_behavior_hint=_hint)
    kind: Any = Annotated[field.type, hint]
    if field.name in _WITHOUT_FLAG:
        kind = Annotated[kind, tyro.conf.Suppress, tyro.conf.Fixed]
    return replace(field, type=kind, helptext=lambda: _one_line(field.helptext))


def _one_line(helptext: str | Callable[[], str | None] | None) -> str:
    return " ".join(((helptext() if callable(helptext) else helptext) or "").split())


def _hint(default: str) -> str:
    """The default in the help; nothing if the text states it or a flag is off."""
    shown = {"None": "", "": "", "()": "", "False": "", "True": "(default: on)"}
    return shown.get(default, f"(default: {default})")
