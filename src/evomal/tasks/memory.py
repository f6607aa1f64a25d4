"""The memory that is free, and whether data fits into it."""

from __future__ import annotations

import re
from pathlib import Path

from evomal.errors import InputError

_SYSTEM = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that this process can still use, including limits of containers; None if unknown."""
    found = [_of_system(), _of_container()]
    return min((number for number in found if number is not None), default=None)


def require_room(part: str, needed: float) -> None:
    """Raise an `InputError` if the rows of a part need more bytes of memory than are free."""
    free = available_memory()
    if free is not None and needed > free:
        raise InputError(
            f"Reading the {part} data takes about {in_units(needed)} of memory, but "
            f"{in_units(free)} are free; pass in_memory=False with a Dataset or memory maps, which "
            "are then read batch by batch."
        )


def in_units(number: float) -> str:
    """A number of bytes in MB or GB."""
    return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"


def _of_system() -> int | None:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(_SYSTEM), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _of_container() -> int | None:
    """The limit of a control group (version 2) less what is in use; None without a limit.

    File contents that the system would drop first are not in use.
    """
    limit, used = (_text(_CONTAINER / f"memory.{name}").strip() for name in ("max", "current"))
    if not (limit.isdecimal() and used.isdecimal()):
        return None
    dropped = re.search(r"^inactive_file (\d+)", _text(_CONTAINER / "memory.stat"), re.MULTILINE)
    return int(limit) - int(used) + (int(dropped[1]) if dropped else 0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not Linux, or no such limit
        return ""
