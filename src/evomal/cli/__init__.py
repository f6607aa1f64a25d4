"""The command line; the rest is loaded when it is called."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 after bad input, 130 after Ctrl-C."""
    try:
        from evomal.interrupts import interrupts_held

        with interrupts_held():  # an interrupted import would end in a traceback
            from evomal.cli.command import run
        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130
