"""Metrics by name and direction, from a task to what is shown; label noise."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sklearn.metrics as sk
import torch
from torch import Tensor

import evomal
from evomal import InputError, PerformanceMetric, Task, TaskWarning, load_task
from evomal.cli import main
from evomal.losses.form import Form, Link
from evomal.runs.execution import SearchStopped, StopConditions
from evomal.runs.next_steps import to_train
from evomal.runs.scale import Scale
from evomal.tasks.data import Data
from evomal.tasks.label_noise import with_label_noise
from evomal.tasks.named_metrics import resolve_metric
from evomal.training.tuning import LEARNING_RATE_FACTORS, TUNING_SEEDS
from tasks_for_tests import Perceptron, binary_task, classification_task, regression_task

RNG = torch.Generator().manual_seed(3)
LOGITS = {n: torch.randn(200, n, generator=RNG) for n in (1, 2, 3, 4)}
CLASSES = {n: torch.randint(n, (200,), generator=RNG) for n in (2, 4)}
ONES = {n: torch.randint(2, (200, n), generator=RNG).float() for n in (1, 3)}


def value_of(name: str, link: Link, pred: Tensor, target: Tensor, **form: Any) -> float:
    metric = resolve_metric(name, Form(link, **form), maximize=False)
    assert metric.name == name
    return float(metric.function(pred, target))


# Values


def test_scores_of_classes_are_those_of_scikit_learn() -> None:
    pred, true = LOGITS[4], CLASSES[4]
    chances, chosen = pred.double().softmax(dim=1).numpy(), pred.argmax(dim=1).numpy()
    expected = {
        "balanced_accuracy": sk.balanced_accuracy_score(true, chosen),
        "f1_macro": sk.f1_score(true, chosen, average="macro"),
        "matthews_corrcoef": sk.matthews_corrcoef(true, chosen),
        "roc_auc_ovr": sk.roc_auc_score(true, chances, multi_class="ovr"),
        "top_k_accuracy": sk.top_k_accuracy_score(true, chances),
        "neg_log_loss": -sk.log_loss(true, chances),
        "log_loss": sk.log_loss(true, chances),
        "error_rate": 1 - sk.accuracy_score(true, chosen),
    }
    for name, value in expected.items():
        assert value_of(name, "softmax", pred, true) == pytest.approx(value, abs=1e-12), name


def test_scores_of_two_classes_do_not_depend_on_the_link() -> None:
    logit, true = LOGITS[2][:, 1] - LOGITS[2][:, 0], CLASSES[2]
    for name in ("f1", "roc_auc", "average_precision", "log_loss", "brier_score", "cost:3"):
        both = value_of(name, "softmax", LOGITS[2], true)
        for shape in ((200,), (200, 1), (50, 4, 1)):
            binary = logit.reshape(shape), true.float().reshape(shape)
            assert value_of(name, "sigmoid", *binary) == pytest.approx(both, rel=1e-5), name
    assert value_of("roc_auc", "softmax", LOGITS[2], true) == sk.roc_auc_score(true, logit.double())


def test_scores_of_several_labels_and_of_values() -> None:
    chosen = (LOGITS[3] > 0).int()
    f1 = sk.f1_score(ONES[3], chosen, average="macro")
    assert value_of("f1_macro", "sigmoid", LOGITS[3], ONES[3]) == f1
    r2 = sk.r2_score(LOGITS[3].double(), LOGITS[4][:, :3].double())
    assert value_of("r2", "identity", LOGITS[4][:, :3], LOGITS[3]) == pytest.approx(r2)


def test_ignored_and_dense_targets() -> None:
    kept = torch.arange(200) % 3 > 0
    true = torch.where(kept, CLASSES[4], -1)
    for name in ("balanced_accuracy", "error_rate", "log_loss"):
        ignoring = value_of(name, "softmax", LOGITS[4], true, ignore_index=-1)
        expected = value_of(name, "softmax", LOGITS[4][kept], true[kept])
        assert ignoring == pytest.approx(expected)
        dense = LOGITS[4].reshape(20, 10, 4).movedim(2, 1), CLASSES[4].reshape(20, 10)
        flat = value_of(name, "softmax", LOGITS[4], CLASSES[4])
        assert value_of(name, "softmax", *dense) == pytest.approx(flat)


def test_own_metrics_by_hand() -> None:
    pred, target = torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([[2.0], [2.0], [3.0]])
    assert value_of("mae", "identity", pred, target) == 1
    assert value_of("rmse", "identity", pred, target) == pytest.approx((5 / 3) ** 0.5)
    # one below by 1 costs 0.9, one above by 2 costs 0.2
    assert value_of("pinball:0.9", "identity", pred, target) == pytest.approx(1.1 / 3)
    logits, labels = torch.tensor([-1.0, 1.0, 2.0, -3.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert value_of("cost:10", "sigmoid", logits, labels) == 11 / 4
    pair = torch.stack([torch.zeros(4), logits], dim=1)
    classes = torch.tensor([1, 0, -100, 0])
    assert value_of("cost:10", "softmax", pair, classes) == pytest.approx(11 / 3)


def test_directions() -> None:
    up = {"balanced_accuracy", "neg_log_loss", "r2", "roc_auc"}
    for name in ("error-rate", "log_loss", "cost:2", *up - {"r2"}):
        assert resolve_metric(name, Form("sigmoid"), maximize=False).maximize is (name in up)
    for name in ("mae", "mse", "max_error", "neg_max_error", "pinball:0.5", "r2"):
        found = resolve_metric(name, Form("identity"), maximize=False)
        assert found.maximize is (name in up | {"neg_max_error"})


# Bad names


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (regression_task, {"metric": "mea"}, "Unknown metric 'mea'; did you mean"),
        (regression_task, {"metric": "f1"}, "is for regression, but|is for classification, but"),
        (regression_task, {"metric": "rand_score"}, "Unknown metric"),
        (regression_task, {"metric": "pinball:1"}, "a quantile between 0 and 1"),
        (regression_task, {"metric": "mae", "maximize": True}, "omit maximize=True"),
        (regression_task, {"maximize": True}, "'mean_squared_error' is lower for better"),
        (binary_task, {"metric": "cost:x"}, "a number above 0, as in cost:10"),
        (classification_task, {"metric": "cost:2"}, "does not suit 3 classes"),
        (classification_task, {"metric": "roc_auc"}, "does not suit 3 classes .*roc_auc_ovr"),
        (classification_task, {"report": ["f1"]}, r"The metric 'f1' does not suit 3 classes \(T"),
        (classification_task, {"report": ["error_rate"]}, "is given twice"),
        (regression_task, {"report": "mae"}, r"must be a list of metrics: \['mae'\]"),
        (regression_task, {"report": [max]}, "The metric max fails|The metric max must return"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    make: Callable[..., Task], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)


def test_a_metric_of_several_labels() -> None:
    rows = LOGITS[3], ONES[3]
    make = partial(Task, partial(Perceptron, 3), rows, rows, link="sigmoid")
    assert make(metric="f1_macro", report=["roc_auc"]).performance_metric.maximize
    with pytest.raises(InputError, match="'balanced_accuracy' does not suit 3 labels per row"):
        make(metric="balanced_accuracy")


# From a search to what is shown

SIZES: dict[str, Any] = {
    "preset": "paper",
    "generations": 2,
    "population_size": 4,
    "meta_steps": 5,
    "testing_steps": 10,
    "seed": 2,
}
KNOWN: dict[str, Any] = {"initial_losses": ["cross-entropy"]}


SQUARE = evomal.SymbolicLoss("square(sub(y, f))", link="softmax")


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.argmax(dim=1) == target).double().mean()


def minus_accuracy(pred: Tensor, target: Tensor) -> Tensor:
    return -accuracy(pred, target)


@pytest.fixture(scope="module")
def maximised(tmp_path_factory: pytest.TempPathFactory) -> evomal.Run:
    task = classification_task(metric=accuracy, maximize=True)
    run_dir = tmp_path_factory.mktemp("metrics") / "run"
    return evomal.search(task, run_dir=run_dir, **SIZES, **KNOWN)


def test_a_maximised_metric_gives_the_search_with_its_negative(
    maximised: evomal.Run, tmp_path: Path
) -> None:
    task = classification_task(metric=minus_accuracy)
    other = evomal.search(task, run_dir=tmp_path / "run", **SIZES, **KNOWN)
    assert [o.fitness for o in maximised.outcomes] == [o.fitness for o in other.outcomes]
    assert maximised.best.fitness == other.best.fitness == -maximised.best.value < 0
    assert maximised.best.loss.to_dict() == other.best.loss.to_dict()


def test_people_read_a_maximised_metric_in_its_direction(
    maximised: evomal.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = maximised.summary()
    assert (summary["metric"], summary["direction"]) == ("accuracy", "maximize")
    assert summary["task_loss_value"] == -summary["task_loss_fitness"] > 0
    for entry in (summary["best"], *summary["hall_of_fame"]):
        assert entry["value"] == -entry["fitness"]
    assert main(["show", str(maximised.run_dir)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "The score is the validation accuracy after 10 training steps, higher is better" in text
    assert f"the task loss itself scores {summary['task_loss_value']:.4g}." in text
    assert "accuracy nodes formula 0." in text
    assert f"accuracy {summary['best']['value']:.4g}" in text
    assert "fitness" not in text.lower()


def test_a_target_is_given_in_the_direction_of_the_metric(maximised: evomal.Run) -> None:
    value = maximised.best.value
    scale = maximised.facts.scale
    above = StopConditions(evomal.Execution(target_fitness=value + 0.01))
    above.check_archive(maximised.archive, scale)
    reached = StopConditions(evomal.Execution(target_fitness=value))
    with pytest.raises(SearchStopped, match="target_fitness of"):
        reached.check_archive(maximised.archive, scale)


def test_tasks_with_different_directions_are_minimised() -> None:
    scale = Scale(["mse", "r2"], ["minimize", "maximize"])
    assert (scale.direction, scale.value(0.5), scale.title) == ("minimize", 0.5, "fitness")
    assert scale.names == "mse and negative r2"
    both = Scale(["f1_macro", "f1_macro"], ["maximize", "maximize"])
    assert (both.direction, both.value(-0.5), both.title) == ("maximize", 0.5, "f1 macro")
    assert (both.value(None), str(both.value(0.0))) == (None, "0.0")


def test_a_metric_without_a_name_is_called_metric() -> None:
    task = regression_task(metric=lambda pred, target: float((pred - target).abs().mean()))
    assert task.performance_metric.label == "metric"
    scale = Scale([task.performance_metric.name] * 2, ["minimize", "maximize"])
    assert scale.names == "metric and negative metric"


def test_a_comparison_reports_further_metrics() -> None:
    report = ["log_loss", PerformanceMetric("hits", accuracy, maximize=True), "roc_auc_ovr"]
    task = classification_task(metric="balanced_accuracy", report=report)
    seen: list[float | None] = []
    result = evomal.compare(
        task,
        SQUARE,
        [0, 1],
        steps=10,
        tune=["learning-rate"],
        report=lambda done: seen.append(done.value),
    )
    fields = json.loads(json.dumps(result.to_dict()))
    assert [(one["metric"], one["direction"]) for one in (fields, *fields["reported"])] == [
        ("balanced_accuracy", "maximize"),
        ("log_loss", "minimize"),
        ("hits", "maximize"),
        ("roc_auc_ovr", "maximize"),
    ]
    assert all(value is not None and 0 <= value <= 1 for value in seen)
    assert fields["learned"]["values"] == seen[:2]
    plain = evomal.compare(classification_task(), SQUARE, [0, 1], steps=10)
    hits = fields["reported"][1]["learned"]["values"]
    assert hits == pytest.approx([1 - one for one in plain.learned.values if one is not None])
    at_rates = [seen[4 + TUNING_SEEDS * i :][:TUNING_SEEDS] for i in range(7)]
    means = [statistics.fmean(one or 0.0 for one in values) for values in at_rates]
    tuned = result.tuned
    assert tuned is not None
    (recipe,) = tuned.learned.recipes
    assert recipe is not None
    best = LEARNING_RATE_FACTORS.index(pytest.approx(recipe.learning_rate / 0.1))
    assert means[best] == max(means)
    assert result.reported[1].tuned is not None
    assert result.reported[1].tuned.learned.recipes == [recipe]


def test_a_reported_metric_may_be_undefined_on_the_test_rows() -> None:
    rows = torch.randn(12, 3)
    some = rows, torch.arange(12) % 3
    task = Task(
        partial(Perceptron, 3),
        some,
        some,
        (rows, torch.zeros(12).long()),
        link="softmax",
        report=["roc_auc_ovr"],
    )
    result = evomal.compare(task, SQUARE, [0], steps=2)
    assert result.learned.values[0] is not None
    assert result.reported[0].learned.values == [None]


def test_a_metric_that_fails_on_the_test_rows_is_one_sentence() -> None:
    some = torch.randn(12, 3), torch.arange(12) % 3
    two = some[0], torch.arange(12) % 2
    model = partial(Perceptron, 3)
    with pytest.warns(TaskWarning, match="on the test data"):
        task = Task(model, some, some, two, link="softmax", metric="log_loss")
    with pytest.raises(InputError, match=r"^The metric log_loss of 'custom' fails on the test "):
        evomal.compare(task, SQUARE, [0], steps=2)


# Built-in tasks


def test_label_noise_by_hand() -> None:
    clean = Data(torch.zeros(1000, 1), torch.arange(1000) % 4)
    noisy, again = with_label_noise([clean, clean], 0.3, 0)
    other = with_label_noise([clean], 0.3, 1)
    wrong = noisy.targets != clean.targets
    assert int(wrong.sum()) == 300
    shifts = (noisy.targets - clean.targets)[wrong] % 4
    assert all(70 < int((shifts == shift).sum()) < 130 for shift in (1, 2, 3))
    assert not torch.equal(noisy.targets, again.targets)  # another part
    assert not torch.equal(noisy.targets, other[0].targets)  # another seed
    repeated = with_label_noise([clean], 0.3, 0)[0]
    assert torch.equal(noisy.targets, repeated.targets)
    assert torch.equal(with_label_noise([clean], 0.0, 0)[0].targets, clean.targets)


def test_wrong_labels_of_two_classes_are_flipped() -> None:
    clean = Data(torch.zeros(100, 1), (torch.arange(100) % 5 == 0).float()[:, None])
    (noisy,) = with_label_noise([clean], 0.3, 0)
    assert (noisy.targets.shape, noisy.targets.dtype) == (clean.targets.shape, torch.float32)
    wrong = noisy.targets != clean.targets
    assert int(wrong.sum()) == 30
    assert torch.equal(noisy.targets[wrong], 1 - clean.targets[wrong])


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("mnist/logistic", "f1_macro"),
        ("digits/mlp", "f1_macro"),
        ("eights/mlp", "balanced_accuracy"),
    ],
)
def test_a_built_in_task_with_another_metric_and_wrong_labels(
    name: str, metric: str, data_dir: Path
) -> None:
    clean = load_task(name, data_dir=data_dir)
    assert clean.origin is not None
    settings: dict[str, Any] = {"metric": metric, "report": ["log_loss"], "label_noise": 0.4}
    task = load_task(name, data_dir=data_dir, **settings)
    assert task.origin == {**clean.origin, **settings}
    assert (task.performance_metric.name, task.performance_metric.maximize) == (metric, True)
    for part, share in {"train": 0.4, "validation": 0.4, "test": 0.0}.items():
        held, usual = getattr(task, part), getattr(clean, part)
        wrong = held.targets != usual.targets
        assert float(wrong.double().mean()) == pytest.approx(share, abs=0.5 / len(held))
        assert torch.equal(held.inputs, usual.inputs)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metric": accuracy}, "are given by name, such as 'mae'"),
        ({"metric": "f1_macro"}, "'f1_macro' is for classification, but the task has link"),
        ({"label_noise": 0.1}, "Label noise needs classes, but 'diabetes/mlp' is a regression"),
        ({"label_noise": 1}, r"must be in \[0, 1\), got 1"),
        ({"label_noise": "0.1"}, "must be a number"),
    ],
)
def test_what_a_built_in_task_does_not_take(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_task("diabetes/mlp", **settings)


def test_the_command_line_takes_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
    data = ["--metric", "r2", "--device", "cpu"]
    search = ["search", "diabetes/mlp", "--run-dir", str(run_dir), "--workers", "1", *sizes]
    assert main([*search, *data, "--generations", "1"]) == 0
    output = capsys.readouterr().out
    assert "The score is the validation r2 after 10 training steps, higher" in output
    run = evomal.Run(run_dir)
    assert run.facts.tasks[0].description["direction"] == "maximize"
    assert " --metric r2" in to_train(run_dir, run.facts.tasks)
    assert main(["resume", str(run_dir), "--generations", "2", "--workers", "1", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["status"], summary["metric"], summary["direction"]) == (
        "finished",
        "r2",
        "maximize",
    )
    train = ["train", "diabetes/mlp", "--loss", str(run_dir), "--steps", "3", *data]
    assert main([*train, "--report", "mae", "pinball:0.9"]) == 0
    output = capsys.readouterr().out
    for heading in ("test r2 (higher is better) ", "test mae ", "test pinball:0.9 "):
        assert heading in output
