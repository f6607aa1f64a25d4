"""The command for data sets: list, download, verify."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from evomal.cli.options import Json, new_console, print_json
from evomal.errors import InputError, require_name


@dataclass(frozen=True)
class DataSets:
    """List, download or verify data sets."""

    action: Annotated[
        tyro.conf.Positional[Literal["list", "download", "verify"]],
        tyro.conf.arg(metavar="ACTION"),
    ]
    """Action: list, download, or verify (compare with the published checksums)."""

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="[NAME ...]"),
    ] = ()
    """Names of data sets; verify checks all present ones by default."""

    data_dir: Path | None = None
    """Folder of the data sets; default EVOMAL_DATA, otherwise the user's cache folder."""

    json_output: Json = False
    """Print one JSON list and nothing else."""

    def run(self) -> int:
        """Do it, and print the state of the data sets."""
        from evomal.cli.tables import line, simple_table
        from evomal.tasks.datasets import DATASETS, data_directory, load_arrays

        folder = data_directory(self.data_dir)
        for name in self.names:
            require_name("data set", name, DATASETS)
        names = self.names or tuple(DATASETS)
        verified: set[str] = set()
        if self.action == "download":
            if not self.names:
                raise InputError(f"Give the data sets to download: {', '.join(DATASETS)}.")
            for name in names:
                load_arrays(name, folder, download=True)
        if self.action == "verify":
            present = [name for name in names if self.names or DATASETS[name].is_present(folder)]
            for name in present:
                load_arrays(name, folder)
                DATASETS[name].verify(folder)
                verified.add(name)
        rows = [
            {
                "name": name,
                "data": "verified" if name in verified else DATASETS[name].presence(folder),
                "files": list(DATASETS[name].files),
            }
            for name in names
        ]
        if self.json_output:
            print_json(rows)
            return 0
        cells = [
            [str(row["name"]), str(row["data"]), " ".join(row["files"]) or "(with scikit-learn)"]
            for row in rows
        ]
        console = new_console()
        console.print(line(f"In {folder}:"), soft_wrap=True)
        console.print(simple_table(["data set", "data", "files"], cells))
        return 0
