"""The progress of a search: a display that fits its terminal, and where it is shown."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evomal import search
from evomal.losses.form import Form
from evomal.methods.base import STATUSES
from evomal.methods.evomal import EvoMAL
from evomal.runs.callbacks import Callback, RunStart
from evomal.runs.identity import begin_facts
from evomal.runs.progress import LiveProgress, PlainProgress, with_progress
from evomal.runs.record import read_facts
from run_helpers import TINY, known_to, new_candidate, new_outcome, tiny_settings
from tasks_for_tests import regression_task

TASK = regression_task()
BEGUN = begin_facts([TASK], "evomal", tiny_settings(engine="loop"), "as requested", 0)
FACTS = read_facts(json.loads(json.dumps({"started": "2026-01-01", **BEGUN})))
LONG = "add(y, " * 9 + "f" + ")" * 9


def display(width: int, counts: dict[str, int], own: float | None = 0.5) -> list[str]:
    """The lines of the display, as last drawn."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, highlight=False, markup=False)
    method = EvoMAL(tiny_settings(population_size=25, generations=50), Form("identity"), 0)
    method.archive.add(new_outcome(new_candidate(0, LONG), 0.25))
    method.archive.counts.update(counts)  # type: ignore[arg-type]
    progress = LiveProgress(console)
    progress.on_run_open(method, Path("runs/0001"))
    progress.on_run_start(method, RunStart(Path("runs/0001"), FACTS, own, []))
    progress.on_retraining(method, "confirming the best losses", 3, 7)
    progress.on_run_end(method)
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", file.getvalue()).replace("\r", "\n")
    lines = [line.rstrip() for line in text.splitlines()]
    first = max(i for i, line in enumerate(lines) if line.startswith("generation"))
    last = max(i for i, line in enumerate(lines) if line.startswith("time"))
    return lines[first : last + 1]


@pytest.mark.parametrize("width", [80, 60])
def test_the_display_keeps_its_labels(width: int) -> None:
    lines = display(width, dict.fromkeys(STATUSES, 123))
    labels = [line[:14].rstrip() for line in lines if not line.startswith(" ")]
    assert labels == ["generation", "now", "best fitness", "best loss", "outcomes", "time"]
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "outcomes 124 evaluated, 123 duplicate, 123 rejected, 123 equivalent, " in text
    assert "123 halted, 123 diverged, 123 failed" in text
    assert "best fitness 0.25 (task loss 0.5)" in text


def test_the_display_leaves_out_what_there_is_none_of() -> None:
    lines = display(80, {"duplicate": 2}, own=None)
    assert lines[4] == "outcomes      1 evaluated, 2 duplicate"
    assert lines[2] == "best fitness  0.25   (task loss diverges)"
    assert lines[1] == "now           confirming the best losses, 3 of 7 trainings"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def kinds(callbacks: list[Callback]) -> list[type[Callback]]:
    return [type(callback) for callback in callbacks]


def test_it_is_shown_where_someone_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Callback()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert with_progress([own], None) == [own]
    assert with_progress([own], False) == [own]
    assert kinds(with_progress([own], True)) == [Callback, PlainProgress]
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert kinds(with_progress([own], None)) == [Callback, LiveProgress]
    assert kinds(with_progress([own], False)) == [Callback]
    assert kinds(with_progress([PlainProgress()], None)) == [PlainProgress], "not twice"


@pytest.mark.usefixtures("instant_formulas")
def test_a_search_shows_its_progress_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Any] = {**known_to("baseline", TINY), "method": "baseline"}
    arguments["preset"] = "paper"
    search(regression_task(), run_dir=tmp_path / "quiet", **arguments)
    assert capsys.readouterr() == ("", "")
    search(regression_task(), run_dir=tmp_path / "told", progress=True, **arguments)
    output, errors = capsys.readouterr()
    assert output == ""
    assert re.match(r"Run \S+told\.\nThe task loss itself scores \S+\.\nGeneration 1/1: ", errors)
