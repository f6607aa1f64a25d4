"""Every benchmark runs and prints what it promises, in its smallest form; no time is asserted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import evomal
from run_helpers import run_python, tiny_settings
from tasks_for_tests import regression_task

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL: dict[str, tuple[list[str], str]] = {
    "adaptive": (
        ["cost", "--tasks", "diabetes/mlp", "--n", "1"],
        r"diabetes/mlp +batched +[\d.]+ +[\d.]+ +[\d.]+ ",
    ),
    "candidate_cost": (
        ["--tasks", "diabetes/mlp", "--n", "1", "--steps", "2"],
        r"mean, 25% promising +[\d.]+ +[\d.]+ +[\d.]+\n",
    ),
    "data": (
        ["--n", "2", "--rows", "3000", "--columns", "5", "--candidates", "4"],
        r"CIFAR-10 from its files, digests checked +[\d.]+ ms(.*\n)+"
        r"in memory: task (.*\n)+memory map: task (.*\n)+Dataset: task (.*\n)+ +worker \d+ MB",
    ),
    "halving": (
        ["--tasks", "diabetes/mlp", "--n", "3", "--testing-steps", "8"],
        r"steps taken: \d+%",
    ),
    "label_smoothing": (["--n", "2"], r"SparseLabelSmoothingLoss +[\d.]+ .* +[\d.]+  "),
    "loss_overhead": (
        ["--tasks", "mnist/mlp", "--n", "2", "--threads", "1"],
        r"mnist/mlp, training step +\d+ +\d+ +[\d.]+",
    ),
    "methods": (
        [
            "--tasks",
            "diabetes/mlp",
            "--methods",
            "gp-lfl",
            "--seeds",
            "0",
            "--max-evaluations",
            "1",
        ],
        r"gp-lfl +[\d.]+ .*\nthe task loss +[\d.]+\n",
    ),
    "planted_loss": (
        ["--seeds", "1", "--evaluations", "3", "--methods", "taylorglo", "glo"],
        r"glo, equal steps: [01] wins, [01] losses, p = 1",
    ),
    "prescreen": (
        ["--tasks", "diabetes/mlp", "--n", "4", "--meta-steps", "2"],
        r"agreement: [0-4] of 4",
    ),
    "scaling": (
        ["--task", "mnist/logistic", "--candidates", "300", "--pairs", "1"],
        r"candidates stored .*\nresume to first work: (.*\n)+ratio: median [\d.]+",
    ),
    "search_time": (
        ["--tasks", "mnist/logistic", "--prescreen", "--generations", "2"],
        r"generations: [\d.]+ min \(projected\)",
    ),
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", SMALL)
def test_benchmark(name: str, data_dir: Path) -> None:
    arguments, promised = SMALL[name]
    status, output, errors = run_python(
        str(BENCHMARKS / f"{name}.py"), *arguments, timeout=600, cwd=BENCHMARKS
    )
    assert status == 0, output + errors
    assert re.search(promised, output), output


def test_cluster_simulation(tmp_path: Path) -> None:
    run = evomal.search(regression_task(), settings=tiny_settings(), run_dir=tmp_path / "run")
    script = str(BENCHMARKS / "cluster_simulation.py")
    status, output, errors = run_python(script, str(run.run_dir), "--generations", "2")
    assert status == 0, output + errors
    assert re.search(r"\n +10000 +[\d.]+%", output), output


def test_search_quality(tmp_path: Path) -> None:
    small = {"generations": 1, "population_size": 4, "testing_steps": 40, "confirmation_steps": 40}
    common = ["eights", "--preset", "quick", "--searches", "1", "--set", json.dumps(small)]
    common += ["--steps", "40", "--out", str(tmp_path)]
    promised = {
        "search": r"eights  seed 0 +\d+ s  \S.*: (Better|Not shown to be better) ",
        "test": r"eights: 1 searches; better on test data [01], .*; verdict better [01], ",
        "anytime": r"eights: median at the end: standard -[\d.]+, paper \S+; .*: ratio \S+",
    }
    script = str(BENCHMARKS / "search_quality.py")
    for part, pattern in promised.items():
        status, output, errors = run_python(script, part, *common, timeout=600, cwd=BENCHMARKS)
        assert status == 0, output + errors
        assert re.search(pattern, output), output
