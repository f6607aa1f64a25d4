"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Union

import tyro

from evomal.cli.analyze import Analyze
from evomal.cli.data import Data
from evomal.cli.lists import Losses, Methods, Tasks
from evomal.cli.losses import Show, Train
from evomal.cli.searches import Resume, Search
from evomal.errors import InputError
from evomal.interrupts import interrupts_held
from evomal.methods.settings import PRESETS

_Command = Data | Tasks | Methods | Losses | Search | Resume | Show | Train | Analyze


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 after bad input, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        command = _parse(arguments)
        with interrupts_held():  # an interrupted import can leave a library in pieces
            import_module("evomal.runs.search")
        status = command.run()
        if sys.stdout is not None:  # as it is where it was closed
            sys.stdout.flush()  # here, where it can still be told that it cannot be written
        return status
    except InputError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        _drop_output()
        return 141
    except OSError as error:
        if error.filename is not None or error.errno not in _OUTPUT_ERRORS:
            raise
        _drop_output()
        with contextlib.suppress(OSError):
            sys.stderr.write(f"Error: The output cannot be written ({error.strerror}).\n")
        return 2


_OUTPUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)


def _drop_output() -> None:
    """Send what is still to be written to nowhere, so that the interpreter's end can write it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(arguments: Sequence[str]) -> _Command:
    """The command with its options; the defaults of the settings are those of the preset."""
    settings = PRESETS[_preset(arguments)]
    search = Search(tasks=tyro.MISSING, settings=settings)
    subcommands: Any = Union[  # noqa: UP007
        Annotated[Data, tyro.conf.subcommand("data")],
        Annotated[Tasks, tyro.conf.subcommand("tasks")],
        Annotated[Methods, tyro.conf.subcommand("methods")],
        Annotated[Losses, tyro.conf.subcommand("losses")],
        Annotated[Search, tyro.conf.subcommand("search", default=search)],
        Annotated[Resume, tyro.conf.subcommand("resume")],
        Annotated[Show, tyro.conf.subcommand("show")],
        Annotated[Train, tyro.conf.subcommand("train")],
        Annotated[Analyze, tyro.conf.subcommand("analyze")],
    ]
    command: _Command = tyro.cli(
        subcommands,
        prog="evomal",
        description="Learn a symbolic loss function for a PyTorch model and data set.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
    )
    return command


def _preset(arguments: Sequence[str]) -> str:
    """The preset that is asked for, before anything else is parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    try:
        name: str = parser.parse_known_args(arguments)[0].preset
    except argparse.ArgumentError:  # the real parser will say so
        name = "paper"
    return name
