"""The examples after the appendix, as a user runs them; figures need more than the tests do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import evomal
from evomal.training.loop import performance, train

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.slow


def run_example(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    example, *options = arguments
    return subprocess.run(
        [sys.executable, EXAMPLES / example, *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


def table_of(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """The cells of the printed table, which two blank lines enclose; two spaces part cells."""
    assert done.returncode == 0, done.stderr
    rows = done.stdout.split("\n\n")[1].splitlines()
    return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows]


def test_training_curves(tmp_path: Path, data_dir: Path) -> None:
    names = ["label-smoothing", "absolute-cross-entropy:phi1=1.5", "sparse-label-smoothing"]
    options = ["--seeds", "2", "--steps", "4", "--every", "3", "--train-rows", "50"]
    done = run_example(
        "training_curves.py", "mnist/logistic", "--losses", *names, *options,
        "--workers", "2", "--json", "out.json", cwd=tmp_path,
    )  # fmt: skip
    header, *rows = table_of(done)
    assert header == ["loss", "test error, %", "minus label-smoothing", "lower / same / higher"]
    assert [row[0] for row in rows] == names
    assert [len(row) for row in rows] == [2, 4, 4]

    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["steps"] == [0, 3, 4]
    task = evomal.load_task("mnist/logistic", data_dir=data_dir)
    assert task.test is not None
    losses = [
        evomal.LabelSmoothingLoss(),
        evomal.AbsoluteCrossEntropyLoss(phi1=1.5),
        evomal.SparseLabelSmoothingLoss(),
    ]
    for row, name, loss in zip(rows, names, losses, strict=True):
        found = saved["losses"][name]
        finals = [
            performance(task, train(task, loss, 4, stream=(seed, "curves", task.name)), task.test)
            for seed in (0, 1)
        ]
        assert found["test_error"]["values"] == pytest.approx(finals, abs=2e-4), "trains as train"
        assert float(row[1].split()[0]) == pytest.approx(50 * sum(finals), abs=0.03)
        for curve in found["curves"]:
            assert len(curve["test"]) == len(curve["train"]) == 3
            assert curve["test"][0] > 0.8, "untrained"
            assert {round(50 * error, 6) % 1 for error in curve["train"]} == {0}, "of 50 rows"
        if name != "label-smoothing":
            lower, same, higher = map(int, row[3].split(" / "))
            gaps = found["difference"]
            assert (lower, higher) == (sum(g < 0 for g in gaps), sum(g > 0 for g in gaps))
            assert lower + same + higher == 2
    initial = {found["curves"][0]["test"][0] for found in saved["losses"].values()}
    assert len(initial) == 1, "equal initial weights"


def test_representations(tmp_path: Path, data_dir: Path) -> None:
    names = ["cross-entropy", "sparse-label-smoothing:smoothing=0.4"]
    done = run_example(
        "representations.py", "mnist/lenet5", "--losses", *names, "--steps", "4", "--rows", "60",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.startswith("mnist/lenet5, 4 steps, seed 0, 84 features of 60 test rows\n")
    header, *rows = table_of(done)
    assert header == ["loss", "test error, %", "silhouette"]
    assert [row[0] for row in rows] == names
    for _, error, silhouette in rows:
        assert 0 < float(error) <= 100
        assert -1 <= float(silhouette) <= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["training_curves.py", "diabetes/mlp"], "has link 'identity'"),
        (["representations.py", "diabetes/mlp"], "has link 'identity'"),
        (["representations.py", "mnist/logistic"], "has no hidden layer"),
        (
            ["training_curves.py", "mnist/logistic", "--losses", "focal:phi1=2"],
            "has no parameter 'phi1'; choose from gamma",
        ),
        (
            ["training_curves.py", "mnist/logistic", "--losses", "focal:gamma=x"],
            "must be a number",
        ),
        (["training_curves.py", "mnist/logistic", "--figure", "no/a.png"], "'no/a.png'"),
        (["representations.py", "mnist/lenet5", "--figure", "a.txt"], "must end in .png"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    arguments: list[str], said: str, tmp_path: Path, data_dir: Path
) -> None:
    done = run_example(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line
