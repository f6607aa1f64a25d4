"""Given losses, scored as a search scores its candidates."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import evomal
from evomal import InputError, Scorer, SymbolicLoss, load_loss, parse, save_loss, score, search
from evomal.cli import main
from evomal.losses.handcrafted import LabelSmoothingLoss
from evomal.losses.taylor import TaylorLoss
from evomal.methods.given import PRESETS
from evomal.methods.registry import METHODS
from run_helpers import OVERFLOW, TINY, Fixed, known_to
from tasks_for_tests import classification_task, regression_task

SIZES: dict[str, Any] = {
    "preset": "paper",
    "meta_steps": 2,
    "testing_steps": 5,
    "rejection_steps": 20,
}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
ERROR = "square(sub(y, f))"
ABSOLUTE = "abs(sub(y, f))"

pytestmark = pytest.mark.usefixtures("instant_formulas")


def verdicts(scores: Sequence[evomal.Score]) -> list[tuple[str, int | None]]:
    return [(one.status, one.source) for one in scores]


@pytest.mark.parametrize(("method", "tune"), [("evomal", True), ("gp-lfl", False)])
def test_a_loss_has_the_score_that_it_has_in_a_search(
    tmp_path: Path, method: str, tune: bool
) -> None:
    sizes = known_to(method, {**TINY, "population_size": 12, "generations": 1})
    sizes["initial_losses"] = [text for text, _, _ in Fixed.expected[0][:5]]
    task = regression_task()
    run = search(task, method=method, seed=3, run_dir=tmp_path / "run", **sizes)
    assert {outcome.status for outcome in run.outcomes} >= {"evaluated", "duplicate", "rejected"}
    losses = [outcome.candidate.loss for outcome in run.outcomes]
    own = {name: value for name, value in SIZES.items() if name in sizes}
    scores = score(task, [str(loss.expression) for loss in losses], seed=3, tune=tune, **own)  # type: ignore[union-attr]
    for outcome, found in zip(run.outcomes, scores, strict=True):
        assert (found.status, found.source) == (outcome.status, outcome.source)
        assert (math.inf if found.fitness is None else found.fitness) == outcome.fitness
        assert found.task_loss_fitness == run.task_loss_fitness
        assert (found.correlation, found.number) == (outcome.correlation, outcome.candidate.number)
        assert found.loss is not None
        assert outcome.loss is not None
        assert found.loss.to_dict() == outcome.loss.to_dict()


def test_scores_of_rows_read_batch_by_batch_are_those_in_memory() -> None:
    tasks = [classification_task(in_memory=held) for held in (True, False)]
    scores, lazy = ([one.fitness for one in score(task, [ERROR], **SIZES)] for task in tasks)
    assert scores == lazy


def test_the_settings_are_those_of_evomal() -> None:
    for preset, settings in PRESETS.items():
        theirs = METHODS["evomal"].presets[preset]
        for name, value in vars(settings).items():
            assert value == getattr(theirs, name), name


def test_every_verdict_has_its_reason() -> None:
    texts = [text for text, _, _ in Fixed.expected[0]]
    scores = score(regression_task(), texts, tune=False, testing_steps=5, rejection_steps=20)
    assert [one.status for one in scores] == [status for _, status, _ in Fixed.expected[0]]
    for one in scores:
        assert (one.reason is None) is (one.status == "evaluated")
        assert (one.fitness is None) is (one.status in ("rejected", "diverged"))
    assert scores[1].reason == "the same gradients as number 0"
    assert scores[3].reason == "the same loss as number 2"
    assert "the rejection protocol diverged" in (scores[5].reason or "")


def test_a_scorer_remembers_and_continues_to_count() -> None:
    with Scorer(regression_task(), **SIZES) as scorer:
        first = scorer.score([ERROR, "no loss"])
        later = scorer.score([ABSOLUTE, ERROR])
        (alone,) = scorer.score("mul(sub(y, f), sub(y, f))")
    assert verdicts(first) == [("evaluated", None), ("error", None)]
    assert verdicts(later) == [("evaluated", None), ("duplicate", 0)]
    assert [one.number for one in (*first, *later, alone)] == [0, 1, 2, 3, 4]
    assert later[1].fitness == first[0].fitness
    together = score(regression_task(), [ERROR, ABSOLUTE], **SIZES)
    for one, other in zip(together, [first[0], later[0]], strict=True):
        assert one.fitness == pytest.approx(other.fitness, rel=1e-5)  # other groups


def test_scores_arrive_while_others_are_computed() -> None:
    with Scorer(regression_task(), tune=False, testing_steps=5, rejection_steps=20) as scorer:
        scores = scorer.scores([ERROR, "no loss", ABSOLUTE])
        assert next(scores).status == "evaluated"
        assert scorer.archive.counts["evaluated"] == 1
        assert [one.status for one in scores] == ["error", "evaluated"]
        scores = scorer.scores([ABSOLUTE, "square(sub(f, 1))", ERROR])
        assert verdicts([next(scores)]) == [("duplicate", 2)]
        scores.close()
        assert verdicts(scorer.score(ERROR)) == [("duplicate", 0)]


def test_weights_are_kept_without_tuning(tmp_path: Path) -> None:
    learned = SymbolicLoss(ERROR, [1.0, 1.25, 1.5])
    save_loss(learned, tmp_path / "loss.json")
    given: list[Any] = [
        str(tmp_path / "loss.json"),
        learned,
        parse(ERROR),
        ERROR,
        TaylorLoss(order=2),
    ]
    options: dict[str, Any] = {"preset": "paper", "testing_steps": 5, "rejection_steps": 20}
    kept = score(regression_task(), given, tune=False, **options)
    assert verdicts(kept)[:2] == [("evaluated", None), ("duplicate", 0)]
    assert verdicts(kept)[3] == ("duplicate", 2), "other weights are another loss"
    assert kept[0].loss is not None
    assert kept[0].loss.phi.tolist() == [1.0, 1.25, 1.5]
    assert kept[1].given == learned.python_form()
    tuned = score(regression_task(), given, meta_steps=2, **options)
    assert verdicts(tuned)[1:4] == [("duplicate", 0)] * 3
    assert tuned[0].loss is not None
    assert tuned[0].loss.phi.tolist() == pytest.approx([1.0] * 3, abs=0.1)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("square(sub(y f))", "'square(sub(y f))'"),
        ("cross-entropy", "is for link 'softmax', but the task has link 'identity'; give its"),
        ("square(f)", "The loss 'square(f)' must use both y and f."),
        ("mul(t, sub(y, f))", "Unknown name 't'"),
        (SymbolicLoss("mul(t, sub(y, f))", inputs=["t"]), "needs the input 't', which the task"),
        (LabelSmoothingLoss(), "is neither an expression nor has weights to learn; train with it"),
        (5, "The loss '5' is neither an expression nor has weights"),
        ("absent.json", "absent.json"),
    ],
    ids=str,
)
def test_what_is_no_loss_for_the_task_is_an_error_of_its_own(given: Any, reason: str) -> None:
    with Scorer(regression_task(), **SIZES) as scorer:
        (one,) = scorer.score([given])
        assert "task_loss_fitness" not in vars(scorer), "nothing was trained"
    assert (one.status, one.loss, one.fitness) == ("error", None, None)
    assert reason in (one.reason or "")
    assert one.to_dict()["reason"] == one.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "quik"}, "Unknown preset 'quik'; did you mean quick?"),
        ({"meta_step": 3}, "Unknown setting 'meta_step'; did you mean meta_steps?"),
        ({"generations": 3}, "Unknown setting 'generations'"),
        ({"meta_steps": 0}, "The setting meta_steps must be a whole number from 1"),
        ({"seed": -1}, "The seed must be at least 0"),
        ({"tune": "no"}, "The argument tune must be True or False, got 'no'."),
        ({"workers": 0}, "The setting workers must be a whole number from 1"),
        ({"candidate_timeout": 0}, "The setting candidate_timeout must be a number above 0"),
    ],
    ids=str,
)
def test_bad_options_are_refused_before_anything_is_trained(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        score(regression_task(), [ERROR], **options)
    assert str(caught.value).startswith(message)


def test_a_task_that_its_own_loss_cannot_train_is_refused() -> None:
    def broken(pred: Any, target: Any) -> Any:
        raise ZeroDivisionError

    task = regression_task(metric=lambda pred, target: (pred - target).square().mean())
    task.task_loss = broken
    with pytest.raises(InputError, match="'test/identity'"):
        score(task, [ERROR], tune=False)


@pytest.mark.slow
def test_scores_do_not_depend_on_the_number_of_workers() -> None:
    texts = [ERROR, ABSOLUTE, "no loss", OVERFLOW]
    here, there = (
        score(classification_task(), texts, workers=workers, **SIZES) for workers in (1, 2)
    )
    timeless = [{**one.to_dict(), "seconds": None} for one in here]
    assert timeless == [{**one.to_dict(), "seconds": None} for one in there]


Evomal = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evomal_score(capsys: pytest.CaptureFixture[str], data_dir: Path) -> Evomal:
    """Run the command on a built-in task: exit status, output, error output."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status: Any = main(["score", *arguments, "--data-dir", str(data_dir)])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def test_the_command_prints_a_line_of_json_per_loss(evomal_score: Evomal, tmp_path: Path) -> None:
    losses = [ERROR, "squared-error", "no loss"]
    status, output, errors = evomal_score("diabetes/mlp", *losses, "--json", "--seed=2", *FLAGS)
    assert (status, errors) == (2, "")
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["given"] for line in lines] == losses
    assert [line["status"] for line in lines] == ["evaluated", "duplicate", "error"]
    task = evomal.load_task("diabetes/mlp")
    for line, same in zip(lines, score(task, losses, seed=2, **SIZES), strict=True):
        assert line.keys() == same.to_dict().keys()
        assert {**line, "seconds": 0} == {**same.to_dict(), "seconds": 0}
    (tmp_path / "loss.json").write_text(json.dumps(lines[0]["loss"]))
    assert isinstance(load_loss(tmp_path / "loss.json"), SymbolicLoss)


def test_the_command_prints_a_line_for_people(evomal_score: Evomal) -> None:
    status, output, errors = evomal_score(
        "diabetes/mlp", ERROR, "bad\x1b", "--no-tune", "--preset", "quick", "--testing-steps=5"
    )
    assert (status, errors) == (2, "")
    title, header, first, second = output.splitlines()
    assert title == "Validation mean squared error, lower is better"
    assert header.split() == ["loss", "task", "loss", "status", "loss"]
    fitness, own, *rest = first.split()
    assert float(fitness) > 0
    assert fitness == own
    assert rest == ["evaluated", *ERROR.split()]
    assert second.split()[:3] == ["-", "error", "bad\\x1b:"]


class Lines(io.RawIOBase):
    """A standard input that notes what has been printed whenever a line is read."""

    def __init__(self, lines: Sequence[bytes], printed: Callable[[], str]) -> None:
        self.lines = list(lines)
        self.printed = printed
        self.answers: list[str] = []

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.answers.append(self.printed())
        line = self.lines.pop(0) if self.lines else b""
        buffer[: len(line)] = line
        return len(line)


def test_every_line_of_standard_input_is_answered_before_the_next(
    evomal_score: Evomal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"{ERROR}\n".encode(), b"\n", b"\xff(\n", f"  {ERROR}".encode()]
    stdin = Lines(lines, lambda: capsys.readouterr().out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(stdin)))
    status, output, errors = evomal_score("diabetes/mlp", "-", "--json", *FLAGS)
    assert (status, errors) == (0, "")
    answers = [json.loads(answer) for answer in [*stdin.answers, output] if answer]
    assert [bool(answer) for answer in stdin.answers[:4]] == [False, True, False, True]
    assert [one["status"] for one in answers] == ["evaluated", "error", "duplicate"]
    assert [one["number"] for one in answers] == [0, 1, 2]
    assert answers[1]["given"] == "\\xff("


@pytest.mark.parametrize("losses", [[], ["-", ERROR]], ids=str)
def test_the_command_needs_losses_or_standard_input(
    evomal_score: Evomal, losses: list[str]
) -> None:
    status, output, errors = evomal_score("diabetes/mlp", *losses)
    assert (status, output) == (2, "")
    assert "LOSS" in errors or "Give at least one loss after the task" in errors


def test_without_tuning_a_loss_stays_as_it_is() -> None:
    loss = SymbolicLoss("square(sub(y, f))", phi=[3.0, 1.0, 1.0])
    with Scorer(regression_task(), preset="quick", tune=False, testing_steps=5) as scorer:
        (found,) = scorer.score([loss])
    assert isinstance(found.loss, SymbolicLoss)
    assert found.loss.phi.tolist() == [3.0, 1.0, 1.0]
