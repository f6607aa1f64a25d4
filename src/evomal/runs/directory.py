"""A run's directory: the names of its files, its number, its lock."""

from __future__ import annotations

import contextlib
import os
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from evomal.errors import InputError, quoted

DATABASE = "run.sqlite"
LOCK = "run.lock"
ROOT = Path("runs")


def named_run_dir(run_dir: object) -> Path:
    """The directory for a new run that a caller names.

    Raises
    ------
    InputError
        If it is no path, or one that nobody could type again.
    """
    if not isinstance(run_dir, str | os.PathLike):
        raise InputError(f"The run directory must be a path, not {quoted(run_dir)}.")
    text = os.fsdecode(run_dir)
    if not text:
        raise InputError(
            "The run directory is an empty text; name one with --run-dir, or leave that out for a "
            "new numbered one."
        )
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise InputError(
            f"The run directory {quoted(text)} holds a control character; choose another --run-dir."
        )
    return Path(text)


def new_run_dir(root: Path = ROOT) -> Path:
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


@contextlib.contextmanager
def taken_back(*paths: Path) -> Iterator[None]:
    """If the block raises, those of these files and empty folders go that were not there before."""
    new = [path for path in paths if not os.path.lexists(path)]
    try:
        yield
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise


def require_run(run_dir: Path) -> None:
    """Raise an `InputError` if a directory holds no run, or cannot be looked into."""
    try:
        (run_dir / DATABASE).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        begun = "; a search ended before it began, so type its command again"
        raise InputError(
            f"{str(run_dir)!r} is not a run directory: it holds no {DATABASE}"
            f"{begun if (run_dir / LOCK).exists() else ''}."
        ) from error
    except (OSError, ValueError) as error:  # no permission, a name that is too long, a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"The run in {quoted(str(run_dir))} cannot be read: {reason}.") from error


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


def as_argument(path: str | os.PathLike[str]) -> str:
    """A path as an argument of a command, quoted for the shell; never read as an option."""
    text = os.fspath(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def what_is_there(error: OSError) -> str:
    """What stands where a folder should be."""
    path = Path(os.fsdecode(error.filename))
    return f"{str(path)!r} is {'a file' if path.exists() else 'a link to nothing'}"
