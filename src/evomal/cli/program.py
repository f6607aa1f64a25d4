"""One command from its arguments to its exit status: parse, call, say what went wrong."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import evomal
from evomal.cli.arguments import COMMANDS, parse
from evomal.errors import InputError, printable, require_name
from evomal.interrupts import interrupts_held

_NARROWEST = 20
"""Columns of a terminal; less, which some programs set as 0, is no width to lay out text in."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; `KeyboardInterrupt` is left to the caller."""
    _prepare_streams()
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < _NARROWEST:
        os.environ["COLUMNS"] = str(_NARROWEST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for developers, even under -W error
        warnings.showwarning = _show_warning
        try:
            status = _run(arguments)
            sys.stdout.flush()
        except InputError as error:
            sys.stderr.write(f"Error: {printable(str(error))}\n")
            return 2
        except BrokenPipeError:  # the reader of our output, such as `head`, has left
            _give_up_output()
            return 141
        except OSError as error:
            if error.filename is not None or error.errno not in _FULL:
                raise
            _give_up_output()
            with contextlib.suppress(OSError):  # that stream may be full, too
                sys.stderr.write(f"Error: The output cannot be written ({error.strerror}).\n")
            return 2
        return status


def _run(arguments: Sequence[str]) -> int:
    if not arguments:
        raise InputError(
            f"Name a command: {', '.join(COMMANDS)}; `evomal --help` says what they do."
        )
    if arguments[0] == "--version":
        sys.stdout.write(f"evomal {evomal.__version__}\n")
        return 0
    if not arguments[0].startswith("-"):
        require_name("command", arguments[0], COMMANDS, "`evomal --help` lists them")
    command = parse(arguments)
    with interrupts_held():  # an interrupted import can leave a library in pieces
        import_module("evomal.runs.search")
    return command.run()


def _prepare_streams() -> None:
    """Streams that are there, and that take any text: what an encoding lacks is escaped."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed; a file that is opened next would take its place
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper) and name != "stdin":
            stream.reconfigure(errors="backslashreplace")


def _give_up_output() -> None:
    """Send what is left of the output nowhere, so that nothing fails when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning on one line, without where in the code it comes from."""
    sys.stderr.write(f"Warning: {printable(' '.join(str(message).split()))}\n")
