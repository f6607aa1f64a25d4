"""The data sets by name, in the layout torchvision and scikit-learn keep."""

from __future__ import annotations

import os
from pathlib import Path

from evomal.errors import InputError
from evomal.tasks.files import Array, DatasetInfo
from evomal.tasks.images import IMAGES
from evomal.tasks.tables import TABLES

DATASETS: dict[str, DatasetInfo] = {info.name: info for info in (*TABLES, *IMAGES)}
"""Every data set, by name."""


def data_directory(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where data sets lie: the argument, else ``EVOMAL_DATA``, else the user's cache folder."""
    import platformdirs

    chosen = data_dir or os.environ.get("EVOMAL_DATA")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("evomal"))


def load_arrays(name: str, data_dir: Path, *, download: bool = False) -> tuple[Array, ...]:
    """The arrays of a data set, as `DatasetInfo.read` returns them.

    Raises
    ------
    InputError
        If files are absent and `download` is false, or a file is damaged.
    """
    info = DATASETS[name]
    if not info.is_present(data_dir):
        if not download:
            raise InputError(
                f"The data set {name!r} is not in {str(data_dir)!r}; set EVOMAL_DATA or --data-dir "
                "to the folder that holds it, or add --download."
            )
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            info.download(data_dir)
        except (OSError, ValueError) as error:
            raise InputError(f"The data set {name!r} cannot be downloaded: {error}") from error
    return info.read(data_dir)
