"""TensorBoard and MLflow: read back, they hold every generation, resumed runs included."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evomal import InputError, MLflowTracker, Run, TensorBoardTracker, resume, search
from evomal.cli import main
from run_helpers import TINY, Recorder
from tasks_for_tests import regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A local file store of MLflow."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file:{tmp_path / 'mlruns'}"


SEARCH: dict[str, Any] = {**TINY, "seed": 1, "generations": 4}


def expected(run: Run) -> dict[str, dict[int, float]]:
    """By name, the values by generation."""
    series: dict[str, dict[int, float]] = {}
    for generation in run.generations:
        values = {"fitness/best": generation.best, "fitness/mean": generation.mean}
        values |= {f"outcomes/{status}": n for status, n in generation.counts.items()}
        for name, value in values.items():
            if value is not None:
                series.setdefault(name, {})[generation.number] = float(value)
    assert len(series["fitness/best"]) == 4
    return series


def in_tensorboard(folder: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name != "fitness/task_loss"]
    found = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}
    assert all(len({step for step, _ in series}) == len(series) for series in found.values())
    return {name: dict(series) for name, series in found.items()}


def in_mlflow(uri: str) -> tuple[Any, dict[str, dict[int, float]]]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("evomal")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    found = {}
    for name in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, name)
        found[name] = {metric.step: metric.value for metric in history}
        assert len(found[name]) == len(history), "a generation is logged twice"
    task_loss = found.pop("fitness/task_loss")
    assert set(task_loss) == {0}
    return run, found


def test_tensorboard_holds_every_generation(tmp_path: Path) -> None:
    run = search(
        regression_task(), run_dir=tmp_path / "run", callbacks=[TensorBoardTracker()], **SEARCH
    )
    found = in_tensorboard(tmp_path / "run" / "tensorboard")
    assert found == {
        name: pytest.approx(series, rel=1e-6) for name, series in expected(run).items()
    }
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    (task_loss,) = events.Scalars("fitness/task_loss")
    assert task_loss.value == pytest.approx(run.task_loss_fitness)
    text = events.Tensors("best loss/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert str(run.best.expression) in text


def test_mlflow_holds_every_generation(tmp_path: Path, uri: str) -> None:
    run = search(
        regression_task(), run_dir=tmp_path / "run", callbacks=[MLflowTracker(uri)], **SEARCH
    )
    tracked, found = in_mlflow(uri)
    assert found == expected(run)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["population_size"] == "5"
    assert tracked.data.params["task"] == "test/identity"
    assert tracked.data.tags["evomal.best_loss"] == run.best.expression
    assert tracked.data.tags["evomal.run_dir"] == str((tmp_path / "run").resolve())


@pytest.mark.parametrize("tracked_before", [True, False])
def test_after_a_resumption_nothing_is_missing_or_double(
    tracked_before: bool, tmp_path: Path, uri: str
) -> None:
    place = tmp_path / "run"
    before = [TensorBoardTracker(), MLflowTracker(uri)] if tracked_before else []
    with pytest.raises(KeyboardInterrupt):
        search(
            regression_task(),
            run_dir=place,
            callbacks=[*before, Recorder("generation", 2)],
            **SEARCH,
        )
    run = resume(place, regression_task(), callbacks=[TensorBoardTracker(), MLflowTracker(uri)])
    assert in_mlflow(uri)[1] == expected(run)
    found = in_tensorboard(place / "tensorboard")
    assert found == {
        name: pytest.approx(series, rel=1e-6) for name, series in expected(run).items()
    }


class Flaky:
    """A client whose server is away at first."""

    def __init__(self, client: Any, failures: int) -> None:
        self._client, self._failures = client, failures

    def __getattr__(self, name: str) -> Any:
        if self._failures:
            self._failures -= 1
            raise MlflowException("the server is away")
        return getattr(self._client, name)


def test_a_search_goes_on_while_mlflow_is_away(tmp_path: Path, uri: str) -> None:
    tracker = MLflowTracker(uri)
    tracker._client = Flaky(tracker._client, 2)
    with pytest.warns(UserWarning, match="MLflow does not respond: .*away; the search continues"):
        run = search(regression_task(), run_dir=tmp_path / "run", callbacks=[tracker], **SEARCH)
    assert run.facts.status == "finished"
    assert in_mlflow(uri)[1] == expected(run)


def test_the_command_line_has_both(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"population-size": 4, "meta-steps": 1, "testing-steps": 2, "rejection-steps": 5}
    options = [f"--{name}={value}" for name, value in {**sizes, "generations": 4}.items()]
    arguments = ["search", "diabetes/mlp", "--preset=paper", *options, "--workers=1"]
    arguments += ["--run-dir=run", "--quiet"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main([*arguments, "--tensorboard", "--mlflow", uri]) == 0
    run = Run("run")
    assert in_mlflow(uri)[1] == expected(run)
    assert set(in_tensorboard(Path("run/tensorboard"))) == set(expected(run))


def test_an_unusable_tracking_uri_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for bad in ("nonsense://x", f"file:{tmp_path / 'file' / 'mlruns'}"):
        with pytest.raises(InputError, match="MLflow cannot log to"):
            MLflowTracker(bad)


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("torch.utils.tensorboard", TensorBoardTracker, "tensorboard"),
        ("mlflow.tracking", lambda: MLflowTracker("file:x"), "mlflow"),
    ],
)
def test_what_is_not_installed_is_named(
    module: str, make: Any, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf'pip install "evomal\[{extra}\]"'):
        make()
