"""The data sets by name, in the layout of torchvision and scikit-learn."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from filelock import FileLock

from evomal.errors import InputError
from evomal.tasks.data_files import Array, DatasetInfo
from evomal.tasks.images import IMAGES
from evomal.tasks.tabular import TABLES

DATASETS: dict[str, DatasetInfo] = {info.name: info for info in (*TABLES, *IMAGES)}
"""All data sets by name."""


def data_directory(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the data sets: the argument, ``EVOMAL_DATA``, or the user's cache folder."""
    import platformdirs

    chosen = data_dir or os.environ.get("EVOMAL_DATA")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("evomal"))


def load_arrays(name: str, data_dir: Path, *, download: bool = False) -> tuple[Array, ...]:
    """The arrays of a data set, as `DatasetInfo.read` returns them.

    Raises
    ------
    InputError
        If files are missing and `download` is false or fails, or a file is damaged.
    """
    info = DATASETS[name]
    if not info.is_present(data_dir):
        if not download:
            raise InputError(
                f"The data set {name!r} is not in {str(data_dir)!r}; set EVOMAL_DATA or --data-dir "
                "to the folder that contains it, or add --download."
            )
        try:
            _download(info, data_dir)
        except InputError as error:
            raise InputError(f"The data set {name!r} cannot be downloaded: {error}") from error
        except OSError as error:
            raise InputError(
                f"The data set {name!r} cannot be downloaded: {error}; set EVOMAL_DATA or "
                "--data-dir to a writable folder with enough space."
            ) from error
    return info.read(data_dir)


def _download(info: DatasetInfo, data_dir: Path) -> None:
    """Download missing files, one process at a time."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / f".{info.name}.lock"
    with FileLock(path):
        try:
            if not info.is_present(data_dir):
                info.download(data_dir)
        finally:
            with contextlib.suppress(OSError):  # Windows deletes it later
                path.unlink()
