"""Callbacks that log every generation to TensorBoard or MLflow.

The logs are copies of data in the run directory. A resumed run adds missing earlier generations, so
the copies are complete.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evomal.errors import InputError
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import Generation, Method
from evomal.runs.callbacks import Callback, RunStart
from evomal.runs.executors import describe_error
from evomal.runs.record import RunFacts


def scalars(generation: Generation) -> dict[str, float]:
    """The metrics of a generation: best fitness so far, mean fitness, outcome counts."""
    values: dict[str, float | None] = {
        "fitness/best": generation.best,
        "fitness/mean": generation.mean,
        **{f"outcomes/{status}": count for status, count in generation.counts.items()},
    }
    return {name: float(value) for name, value in values.items() if value is not None}


class TensorBoardTracker(Callback):
    """Event files with the metrics of every generation, and the best loss as text.

    Parameters
    ----------
    log_dir
        Folder for event files; default ``tensorboard`` in the run directory.

    Raises
    ------
    InputError
        If TensorBoard is not installed.
    """

    def __init__(self, log_dir: str | Path | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                'TensorBoard is not installed; pip install "evomal[tensorboard]".'
            ) from error
        self._new_writer: Any = SummaryWriter
        self._log_dir = log_dir
        self._writer: Any = None

    def on_run_start(self, method: Method, start: RunStart) -> None:
        """Open a new event file; for a resumed run, add all earlier generations."""
        folder = Path(self._log_dir or start.run_dir / "tensorboard")
        resumed = folder.exists()
        # Readers drop the data of older files from the purge step on.
        self._writer = self._new_writer(str(folder), purge_step=0 if resumed else None)
        if start.task_loss_fitness is not None:
            self._writer.add_scalar("fitness/task_loss", start.task_loss_fitness, 0)
        self._writer.add_text(
            "settings", f"```\n{json.dumps(asdict(start.facts.settings))}\n```", 0
        )
        for generation in start.generations:
            self._add(generation)
        self._writer.flush()

    def on_generation(self, method: Method, generation: Generation) -> None:
        """Add the metrics and the best loss."""
        self._add(generation)
        best = method.archive.best
        if best is not None and isinstance(best.loss, SymbolicLoss):
            text = f"```\n{best.loss.expression}\n```"
            self._writer.add_text("best loss", text, generation.number)
        self._writer.flush()

    def on_run_end(self, method: Method) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, generation: Generation) -> None:
        for name, value in scalars(generation).items():
            self._writer.add_scalar(name, value, generation.number)


class MLflowTracker(Callback):
    """An MLflow run with the settings as parameters and the metrics of every generation.

    A resumed search continues its MLflow run. If the server does not respond, the search continues
    with a warning, and missing metrics are sent with the next generation.

    Parameters
    ----------
    tracking_uri
        For example ``"http://host:5000"``, ``"sqlite:///mlflow.db"`` or ``"file:mlruns"`` (newer
        versions of MLflow need MLFLOW_ALLOW_FILE_STORE=true for the latter).
    experiment
        Name of the experiment, created if it does not exist.

    Raises
    ------
    InputError
        If MLflow is not installed or rejects the tracking URI.
    """

    def __init__(self, tracking_uri: str, experiment: str = "evomal") -> None:
        try:
            from mlflow.entities import Metric
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise InputError('MLflow is not installed; pip install "evomal[mlflow]".') from error
        self._error: type[Exception] = MlflowException
        self._new_metric: Any = Metric
        try:
            self._client: Any = MlflowClient(tracking_uri=tracking_uri)
            found = self._client.get_experiment_by_name(experiment)
            self._experiment: str = (
                found.experiment_id if found else self._client.create_experiment(experiment)
            )
        except (MlflowException, OSError) as error:
            raise InputError(
                f"MLflow cannot log to {tracking_uri!r}: {describe_error(error)}"
            ) from error
        self._start: RunStart | None = None
        self._run_id: str | None = None
        self._waiting: list[Generation] = []

    def on_run_start(self, method: Method, start: RunStart) -> None:
        """Start a run, or continue the one of this run directory."""
        self._start = start
        self._waiting = list(start.generations)
        self._send()

    def on_generation(self, method: Method, generation: Generation) -> None:
        """Send the metrics."""
        self._waiting.append(generation)
        self._send()

    def on_run_end(self, method: Method) -> None:
        """Close the MLflow run, with the best loss as a tag."""
        best = method.archive.best
        tags = {}
        if best is not None and isinstance(best.loss, SymbolicLoss):
            tags["evomal.best_loss"] = str(best.loss.expression)[:5000]
        self._send(tags, "FINISHED" if method.finished else "KILLED")

    def _send(self, tags: Mapping[str, str] | None = None, ending: str | None = None) -> None:
        """Send pending metrics in order; those that fail remain pending."""
        if self._start is None:
            return
        try:
            run_id = self._run_id = self._run_id or self._begin(self._start)
            while self._waiting:
                self._log(run_id, self._waiting[0])
                del self._waiting[0]
            for name, value in (tags or {}).items():
                self._client.set_tag(run_id, name, value)
            if ending is not None:
                self._client.set_terminated(run_id, ending)
        except (self._error, OSError) as error:
            warnings.warn(
                f"MLflow does not respond: {describe_error(error)}; the search continues",
                stacklevel=2,
            )

    def _begin(self, start: RunStart) -> str:
        """The MLflow run of the run directory, started if there is none."""
        place = str(start.run_dir.resolve())
        key = hashlib.blake2b(place.encode(), digest_size=16).hexdigest()
        known = self._client.search_runs(
            [self._experiment], f"tags.`evomal.key` = '{key}'", max_results=1
        )
        if known:
            run_id: str = known[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            history = self._client.get_metric_history(run_id, "outcomes/failed")
            logged = {metric.step for metric in history}
            self._waiting = [g for g in self._waiting if g.number not in logged]
            return run_id
        tags = {
            "evomal.key": key,
            "evomal.run_dir": place,
            "mlflow.runName": start.run_dir.name,
        }
        run_id = self._client.create_run(self._experiment, tags=tags).info.run_id
        for name, value in _parameters(start.facts).items():
            self._client.log_param(run_id, name, value)
        if start.task_loss_fitness is not None:
            self._client.log_metric(run_id, "fitness/task_loss", start.task_loss_fitness)
        return run_id

    def _log(self, run_id: str, generation: Generation) -> None:
        """Send the metrics of a generation, all or none."""
        now = int(1000 * time.time())
        metrics = [
            self._new_metric(name, value, now, generation.number)
            for name, value in scalars(generation).items()
        ]
        self._client.log_batch(run_id, metrics=metrics)


def _parameters(facts: RunFacts) -> dict[str, Any]:
    """The inputs of the run as a flat dictionary."""
    return {**facts.named, "device": facts.device, **asdict(facts.settings)}
