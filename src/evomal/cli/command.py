"""Run one command, from its arguments to its exit status."""

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
from evomal.cli.parsing import COMMANDS, parse_command
from evomal.errors import InputError, printable, require_name
from evomal.interrupts import interrupts_held

_NARROWEST = 20
"""Minimum number of terminal columns; some programs set 0."""

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
        except BrokenPipeError:  # the reader of the output, such as `head`, has exited
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
        raise InputError(f"Give a command: {', '.join(COMMANDS)}; `evomal --help` describes them.")
    if arguments[0] == "--version":
        sys.stdout.write(f"evomal {evomal.__version__}\n")
        return 0
    if not arguments[0].startswith("-"):
        require_name("command", arguments[0], COMMANDS, "`evomal --help` lists them")
    command = parse_command(arguments)
    with interrupts_held():  # an interrupted import can leave a library half loaded
        import_module("evomal.runs.search")
    return command.run()


def _prepare_streams() -> None:
    """Open closed streams on the null device; escape characters that an encoding lacks."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed; otherwise the next opened file would take its descriptor
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper) and name != "stdin":
            stream.reconfigure(errors="backslashreplace")


def _give_up_output() -> None:
    """Discard the rest of the output, so that nothing fails when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning on one line, without its place in the code."""
    sys.stderr.write(f"Warning: {printable(' '.join(str(message).split()))}\n")
