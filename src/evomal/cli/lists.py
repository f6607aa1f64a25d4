"""The commands that list tasks, methods and losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evomal.cli.options import Json, new_console, print_json


@dataclass(frozen=True)
class Tasks:
    """List the built-in tasks."""

    data_dir: Path | None = None
    """Folder of the data sets; default EVOMAL_DATA, otherwise the user's cache folder."""

    json_output: Json = False
    """Print one JSON list and nothing else."""

    def run(self) -> int:
        """Print names, parameter counts and whether the data is present."""
        from evomal.tasks.datasets import DATASETS, data_directory
        from evomal.tasks.registry import TASKS

        folder = data_directory(self.data_dir)
        rows = [
            {
                "name": name,
                "parameters": info.parameters,
                "data": DATASETS[info.dataset].presence(folder),
            }
            for name, info in TASKS.items()
        ]
        if self.json_output:
            print_json(rows)
        else:
            from evomal.cli.tables import simple_table

            cells = [[str(row["name"]), f"{row['parameters']:,}", str(row["data"])] for row in rows]
            new_console().print(simple_table(["task", "parameters", "data"], cells))
        return 0


@dataclass(frozen=True)
class Methods:
    """List the search methods."""

    json_output: Json = False
    """Print one JSON list and nothing else."""

    def run(self) -> int:
        """Print names and descriptions."""
        from evomal.cli.tables import simple_table
        from evomal.methods.registry import METHODS

        if self.json_output:
            print_json([{"name": n, "description": m.description} for n, m in METHODS.items()])
            return 0
        cells = [[name, method.description] for name, method in METHODS.items()]
        new_console().print(simple_table(["method", "description"], cells))
        return 0


@dataclass(frozen=True)
class Losses:
    """List the losses known by name."""

    json_output: Json = False
    """Print one JSON list and nothing else."""

    def run(self) -> int:
        """Print names, descriptions and prefix forms, if any."""
        from evomal.cli.tables import simple_table
        from evomal.losses.families import FAMILIES
        from evomal.losses.known import HANDCRAFTED_LOSSES, KNOWN_LOSSES
        from evomal.losses.names import LOG_COSH

        rows: list[tuple[str, str | None, str, str | None]] = [
            (name, loss.link, loss.description, loss.expression)
            for name, loss in KNOWN_LOSSES.items()
        ]
        rows += [
            (name, "softmax", loss.formula, None)
            for name, loss in HANDCRAFTED_LOSSES.items()
            if name not in KNOWN_LOSSES
        ]
        rows.append((LOG_COSH, "identity", "log(cosh(y - f))", None))
        rows += [(one.example, one.link, one.description, None) for one in FAMILIES.values()]
        if self.json_output:
            names = ("name", "link", "description", "expression")
            print_json([dict(zip(names, row, strict=True)) for row in rows])
            return 0
        cells = [[name, link or "any", what, text or ""] for name, link, what, text in rows]
        table = simple_table(["loss", "link", "description", "expression"], cells)
        table.columns[0].no_wrap = True
        new_console().print(table)
        return 0
