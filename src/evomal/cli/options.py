"""What several commands share: where data is, how output goes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

if TYPE_CHECKING:
    from evomal.tasks.task import Task

Json = Annotated[bool, tyro.conf.arg(name="json")]


@dataclass(frozen=True)
class DataOptions:
    """Where the data comes from and where computation happens."""

    data_dir: Path | None = None
    """Folder of the data sets; default EVOMAL_DATA, else the user's cache folder."""

    split: Literal["honest", "published"] = "honest"
    """How tables are split; published repeats the paper's leaking recipe, for its Table 3 only."""

    download: bool = False
    """Download data that is absent."""

    device: str = "auto"
    """Where to compute: cpu, cuda, or auto for a GPU if there is one."""

    def load(self, name: str) -> Task:
        """The task of that name."""
        from evomal.tasks.registry import load_task

        return load_task(
            name,
            data_dir=self.data_dir,
            split=self.split,
            download=self.download,
            device=self.device,
        )


def new_console() -> Console:
    """The terminal, or whatever takes its place."""
    return Console(highlight=False, markup=False)


def print_json(value: Any) -> None:
    """One line on stdout."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
