"""The examples, run as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import evomal

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


def printed_by(example: str, *options: str, cwd: Path) -> list[str]:
    """The lines that an example prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_own_model(tmp_path: Path) -> None:
    options = ["--run-dir", str(tmp_path / "run"), "--generations", "2"]
    learned, verdict, tested = printed_by("own_model.py", *options, cwd=tmp_path)
    assert learned.startswith("Learned: ")
    assert tested.startswith("Balanced test error")
    run = evomal.Run(tmp_path / "run")
    assert verdict == run.verdict
    assert run.task_names == ["breast-cancer"]
    assert run.best.loss.link == "sigmoid"
    saved = evomal.load_loss(tmp_path / "run" / "my_loss.json")
    assert saved.to_dict() == run.best.loss.to_dict()


def test_imbalanced(tmp_path: Path) -> None:
    options = ["--run-dir", str(tmp_path / "run"), "--generations", "2"]
    learned, verdict, *printed = printed_by("imbalanced.py", *options, cwd=tmp_path)
    assert learned.startswith("Learned: ")
    assert [line.split(":")[0] for line in printed] == [
        "Test balanced accuracy (higher is better)",
        "Test roc auc (higher is better)",
        "Test cost",
    ]
    run = evomal.Run(tmp_path / "run")
    assert verdict == run.verdict
    assert 0.5 <= run.best.value == -run.best.fitness <= 1


def test_token_sequences(tmp_path: Path) -> None:
    options = ["--generations", "1", "--population-size", "3", "--steps", "20", "--seeds", "1"]
    options += ["--run-dir", str(tmp_path / "run")]
    learned, verdict, *printed = printed_by("token_sequences.py", *options, cwd=tmp_path)
    assert learned.startswith("Learned: ")
    assert [line.split(":")[0] for line in printed] == [
        "Test error, learned",
        "Test error, cross-entropy",
    ]
    run = evomal.Run(tmp_path / "run")
    assert verdict == run.verdict
    assert run.best.loss.inputs == ("t",)


def test_proposer(tmp_path: Path, data_dir: Path) -> None:
    path = tmp_path / "loss.json"
    options = ["--rounds", "2", "--testing-steps", "5", "--save", str(path)]
    *lines, last = printed_by("proposer.py", *options, cwd=tmp_path)
    assert len(lines) == 6
    assert lines[2].startswith("error  cross_entropy(y, f): Unknown name 'cross_entropy'")
    assert last.startswith(f"Best: {evomal.load_loss(path).describe()['expression']}, 0.")


@pytest.mark.parametrize(
    ("example", "engine"),
    [
        ("recommender", "batched"),
        ("hugging_face", "batched"),
        ("lstm", "loop"),
        ("frozen_backbone", "batched"),
    ],
)
def test_own_tasks(example: str, engine: str, tmp_path: Path) -> None:
    """Searches on the command line, and a training with the loss of each."""
    task = f"{EXAMPLES / example}.py:make_task"

    def evomal_json(*arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "evomal", *arguments, "--json"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    settings = ["--preset", "quick", "--generations", "2", "--population-size", "4"]
    settings += ["--initial-losses", "squared-error", "--testing-steps", "100"]
    settings += ["--confirmation-steps", "20"]
    found = evomal_json("search", task, *settings, "--run-dir", "run", "--workers", "2")
    assert found["settings"]["engine"] == engine
    assert found["best"]["value"] is not None
    tested = evomal_json("train", task, "--loss", "run", "--steps", "100")
    assert tested["task_loss"]["mean"] is not None
