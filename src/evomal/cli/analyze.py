"""The command that analyses a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from evomal.cli.options import Json, new_console, print_json, require_option
from evomal.errors import InputError, quoted

if TYPE_CHECKING:
    from evomal.losses.form import Link


@dataclass(frozen=True)
class Analyze:
    """Analyse a loss: its behaviour early and late in training, and its loss card."""

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LOSS")]
    """A run directory, a loss file, the name of a known loss, or an expression in quotes."""

    classes: int | None = None
    """Number of classes; default that of a run's task; none for a regression loss."""

    link: Annotated[
        Literal["softmax", "sigmoid", "identity"] | None,
        tyro.conf.arg(metavar="LINK"),
    ] = None
    """Link applied to raw outputs for an expression: softmax, sigmoid or identity; default softmax
    with --classes, otherwise identity."""

    json_output: Json = False
    """Print one JSON object and nothing else."""

    def run(self) -> int:
        """Analyse it and print the result."""
        from evomal.analysis.analysis import MOST_CLASSES, analyze
        from evomal.cli.analysis_report import analysis_report
        from evomal.losses.form import Form
        from evomal.losses.names import resolve_loss

        require_option("classes", self.classes, 2, MOST_CLASSES)
        link: Link = self.link or ("identity" if self.classes is None else "softmax")
        loss = resolve_loss(self.what, Form(link))
        own: str = getattr(loss, "link", "softmax")
        if self.link not in (None, own):
            raise InputError(f"The loss {quoted(self.what)} has link {own!r}, not {self.link!r}.")
        classes = self.classes
        if classes is None and own == "softmax":
            classes = _classes_of(self.what)
        fields: dict[str, Any] = analyze(loss, classes, name=self.what)
        if self.json_output:
            print_json(fields)
        else:
            new_console().print(analysis_report(fields))
        return 0


def _classes_of(what: str) -> int:
    """The number of classes of a run's task."""
    import torch

    from evomal.losses.names import is_run_dir
    from evomal.runs.identity import load_again
    from evomal.runs.run import Run
    from evomal.tasks.registry import TASKS
    from evomal.tasks.sources import TaskSource
    from evomal.training.raw_outputs import raw_outputs

    run = Run(what) if is_run_dir(what) else None
    if run is not None and isinstance(run.facts.tasks[0].origin, TaskSource):
        own = load_again(run.facts.tasks[0], "cpu")
        return int(raw_outputs(own, count=2, seed=0).inputs.shape[1])
    names = [] if run is None else run.task_names
    if not names or names[0] not in TASKS:
        raise InputError(f"The loss {quoted(what)} is a classification loss; give --classes.")
    with torch.device("meta"):
        *_, last = TASKS[names[0]].model().parameters()
    return len(last)
