"""The command that scores given losses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from evomal.cli.options import DataOptions, Json, Switch, print_json
from evomal.errors import InputError, printable
from evomal.methods.given import PRESETS, ScoreSettings

if TYPE_CHECKING:
    from evomal.runs.scoring import Score as ScoreOfLoss
    from evomal.runs.scoring import Scorer

FROM_STDIN = "-"


@dataclass(frozen=True)
class Score:
    """Score given losses as a search does: optimise weights, apply the filters, train."""

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """Name of a task, such as diabetes/mlp (`evomal tasks` lists them), or your own as
    my_task.py:make_task or package.module:task."""

    losses: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="LOSS [LOSS ...]"),
    ]
    """Expressions in quotes, names of known losses, loss files or run directories; or - for one per
    line of standard input, each answered before the next is read."""

    preset: Literal["standard", "quick", "paper"] = "standard"
    """Default settings: the paper's, or for a first look."""

    seed: int = 0
    """Seed of all random draws; a search with this seed gives the same fitness, up to rounding."""

    no_tune: Switch = False
    """Keep the weights that the losses have, which are 1 in an expression."""

    workers: int = 1
    """Number of parallel workers."""

    candidate_timeout: float | None = None
    """Time limit in seconds for screening a loss and for its training."""

    json_output: Json = False
    """Print one JSON object per loss, on a line each."""

    data: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    settings: tyro.conf.OmitArgPrefixes[ScoreSettings] = PRESETS["standard"]

    def run(self) -> int:
        """Print the score of every loss as soon as it is known."""
        from evomal.interrupts import termination_interrupts
        from evomal.runs.scoring import Scorer

        if not self.losses or (FROM_STDIN in self.losses and len(self.losses) > 1):
            raise InputError(
                "Give at least one loss after the task, such as 'square(sub(y, f))', or - alone "
                "to read losses from standard input."
            )
        task = self.data.load(self.task)
        failed = False
        with (
            termination_interrupts(),
            Scorer(
                task,
                preset=self.preset,
                seed=self.seed,
                tune=not self.no_tune,
                workers=self.workers,
                candidate_timeout=self.candidate_timeout,
                **asdict(self.settings),
            ) as scorer,
        ):
            if not self.json_output:
                metric = task.performance_metric
                better = "higher" if metric.maximize else "lower"
                sys.stdout.write(f"Validation {metric.label}, {better} is better\n")
                sys.stdout.write(f"{'loss':>9}  {'task loss':>9}  {'status':<10}  loss\n")
            for score in self._scores(scorer):
                failed |= score.status == "error"
                if self.json_output:
                    print_json(score.to_dict())
                else:
                    _print(score)
                sys.stdout.flush()
        return 2 if failed and self.losses != (FROM_STDIN,) else 0

    def _scores(self, scorer: Scorer) -> Iterator[ScoreOfLoss]:
        if self.losses != (FROM_STDIN,):
            yield from scorer.scores(self.losses)
            return
        sys.stdin.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        for line in sys.stdin:
            if line.strip():
                yield from scorer.scores([line.strip()])


def _print(score: ScoreOfLoss) -> None:
    """One line for a person."""
    from evomal.cli.tables import format_number

    own = "" if score.status == "error" else format_number(score.task_loss_value)
    reason = f": {score.reason}" if score.reason else ""
    line = f"{format_number(score.value):>9}  {own:>9}  {score.status:<10}  {score.given}{reason}"
    sys.stdout.write(f"{printable(line)}\n")
