"""The examples, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import evomal

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_own_model(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            EXAMPLES / "own_model.py",
            *("--run-dir", str(tmp_path / "run"), "--generations", "2"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert [line.split(" ")[0] for line in printed] == ["Learned:", "Validation", "Balanced"]
    run = evomal.Run(tmp_path / "run")
    assert run.facts["task"] == "breast-cancer"
    assert run.best.loss.link == "sigmoid"
    saved = evomal.load_loss(tmp_path / "run" / "my_loss.json")
    assert saved.to_dict() == run.best.loss.to_dict()
