"""A run's directory: the names of its files, its number, its lock."""

from __future__ import annotations

import contextlib
from pathlib import Path

from filelock import FileLock, Timeout

from evomal.errors import InputError

DATABASE = "run.sqlite"
BEST_LOSS = "best.json"
LOCK = "run.lock"


def new_run_dir(root: Path = Path("runs")) -> Path:
    """Make the next numbered directory, such as ``runs/0001``.

    Raises
    ------
    InputError
        If it cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        while True:
            numbers = [int(entry.name) for entry in root.iterdir() if entry.name.isdecimal()]
            run_dir = root / f"{max(numbers, default=0) + 1:04d}"
            with contextlib.suppress(FileExistsError):  # another process was faster
                run_dir.mkdir()
                return run_dir
    except OSError as error:
        raise InputError(
            f"No run directory can be made in {str(root)!r} ({error.strerror}); "
            "choose one with --run-dir."
        ) from error


def is_in_use(run_dir: Path) -> bool:
    """Whether a process is writing the run, as far as that can be told."""
    try:
        lock_run_dir(run_dir).release()
    except InputError:
        return True
    except OSError:  # a directory that we may not write
        return False
    return False


def lock_run_dir(run_dir: Path) -> FileLock:
    """The lock of a run, taken; it goes with the process, however that ends.

    Raises
    ------
    InputError
        If another process has it.
    OSError
        If the directory cannot be written.
    """
    lock = FileLock(run_dir / LOCK, timeout=1.0)  # rides over a look by `is_in_use`
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"Another process is writing the run in {str(run_dir)!r}; wait until it ends."
        ) from error
    return lock
