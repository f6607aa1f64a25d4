"""The output of `evomal train`: every loss has its rows, and a diverged training is named."""

from __future__ import annotations

from rich.console import Console

from evomal.cli.comparison_report import comparison_report, training_line
from evomal.tasks.metrics import PerformanceMetric, mean_squared_error
from evomal.training.comparison import Comparison, Sample
from evomal.training.meta_testing import TrainingDone
from evomal.training.tuning import Recipe

USUAL, OTHER = Recipe(0.1, 50), Recipe(0.03, 20)
ERROR = PerformanceMetric("mean_squared_error", mean_squared_error)
HITS = PerformanceMetric("hits", mean_squared_error, maximize=True)


def printed(comparison: Comparison, split: str = "honest", width: int = 80) -> list[str]:
    console = Console(width=width, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(comparison_report(comparison, split))
    return [row.rstrip() for row in capture.get().splitlines()]


def test_all_losses_with_their_recipes_and_differences() -> None:
    learned, own = Sample([1.0, 2.0], [USUAL]), Sample([2.0, 4.0], [USUAL])
    tuned = Comparison(
        ERROR, Sample([0.5, None], [OTHER]), own, {"huber:1": Sample([None, None], [None])}
    )
    rows = printed(Comparison(ERROR, learned, own, {"huber:1": own}, tuned), width=120)
    assert [row.split() for row in rows[1:7]] == [
        ["learned", "loss", "0.1", "50", "1.5", "0.7071", "1", "2"],
        [
            "learned",
            "loss,",
            "tuned",
            "(1",
            "of",
            "2",
            "diverged)",
            "0.03",
            "20",
            "0.5",
            "-",
            "0.5",
            "diverged",
        ],
        ["task", "loss", "0.1", "50", "3", "1.414", "2", "4"],
        ["task", "loss,", "tuned", "0.1", "50", "3", "1.414", "2", "4"],
        ["huber:1", "0.1", "50", "3", "1.414", "2", "4"],
        [
            "huber:1,",
            "tuned",
            "(2",
            "of",
            "2",
            "diverged)",
            "-",
            "-",
            "-",
            "-",
            "diverged",
            "diverged",
        ],
    ]
    assert rows[10].split() == [
        "learned",
        "loss",
        "(1",
        "of",
        "2",
        "diverged)",
        "-1.5",
        "-",
        "1/0/1",
        "-",
        "-",
    ]
    assert rows[11].split() == [
        "huber:1",
        "(2",
        "of",
        "2",
        "diverged)",
        "-",
        "-",
        "0/0/2",
        "-",
        "-",
    ]
    assert "Differences below 0 are better" in rows[13]


def test_reported_metrics_splits_and_caveats() -> None:
    a, b = Sample([0.5, 0.7], [USUAL, OTHER]), Sample([0.4, 0.4], [USUAL, USUAL])
    hits = Comparison(HITS, a, b)
    rows = printed(Comparison(HITS, a, b, reported=[hits]), "published", width=200)
    assert sum(row.startswith("test hits (higher is better)") for row in rows) == 2
    assert rows[1].split()[:6] == ["learned", "loss", "0.1", "0.03", "50", "20"]
    assert rows[2].split()[:4] == ["task", "loss", "0.1", "50"]
    text = "\n".join(rows)
    assert "Differences above 0 are better; interval and p-values are over 2 means" in text
    assert "With 2 splits, Wilcoxon's p is never below 0.5." in text
    for part in ("A search uses split 0", "Split 'published'", "--tune learning-rate,steps tunes"):
        assert part in text


def test_the_differences_fit_a_terminal_of_80_columns() -> None:
    own = Sample([2.0123, 4.0321, 3.1], [USUAL])
    other = Sample([1.0012, 2.1234, 3.0], [USUAL])
    tuned = Comparison(ERROR, other, own, {"pinball:0.9": other})
    rows = printed(Comparison(ERROR, other, own, {"pinball:0.9": other}, tuned))
    (row,) = [row for row in rows if row.startswith("pinball:0.9 ") and "/" in row]
    assert row.split()[1:] == ["-1.01", "[-3.25,", "1.24]", "3/0/0", "0.194", "0.25"]


def test_a_training_and_what_remains() -> None:
    done = TrainingDone("task_loss", "validation", 1, 0, 0.03, None, 5, 12)
    expected = "task loss, validation at learning rate 0.03, split 1, seed 0: diverged (5 of 12)"
    assert training_line(done, 3) == expected
    done = TrainingDone("huber:1", "test", 0, 4, 0.03, 0.25, 6, 12)
    assert training_line(done, 1) == "huber:1, seed 4: 0.25 (6 of 12)"
