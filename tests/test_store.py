"""The database of a run: exact, durable, readable while it is written."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from evomal.errors import InputError
from evomal.expressions.printing import PrintedForm
from evomal.losses.neural import NeuralLoss
from evomal.losses.symbolic import SymbolicLoss
from evomal.losses.target import FocalLoss
from evomal.losses.taylor import TaylorLoss
from evomal.methods.base import STATUSES, Candidate, Generation, Outcome
from evomal.runs.directory import DATABASE, LOCK, is_in_use, new_run_dir
from evomal.runs.run import Run
from evomal.runs.schema import FORMAT_VERSION
from evomal.runs.store import RunStore
from evomal.training.stages import StageSeconds
from run_helpers import contents, new_candidate, new_outcome, running

INF = math.inf
FACTS: dict[str, Any] = {"task": ["a", "b"], "seed": 3, "none": None, "nested": {"x": [1.5, "é"]}}
STATE = {"generator": {"state": 2**127 + 1}, "population": [["sub(y, f)", None]]}
COUNTS = {status: i for i, status in enumerate(STATUSES)}
NASTY = [1.0 + 2**-52, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "parent" / "run"


@pytest.fixture
def store(run_dir: Path) -> Iterator[RunStore]:
    store = RunStore.create(run_dir, FACTS)
    yield store
    store.close()


def as_values(outcome: Outcome) -> tuple[Any, ...]:
    """Everything about an outcome, the weights bit by bit."""

    def bits(loss: Any) -> Any:
        if loss is None:
            return None
        return loss.to_dict(), loss.phi.dtype, loss.phi.numpy().tobytes()

    candidate = outcome.candidate
    return (
        *(candidate.number, candidate.generation, bits(candidate.loss), bits(outcome.loss)),
        *(outcome.status, outcome.fitness, outcome.source, outcome.correlation),
        *(outcome.gradient_key, outcome.seconds, outcome.reason, outcome.curves, outcome.halted),
    )


def every_kind_of_outcome() -> list[Outcome]:
    weights = {dtype: torch.tensor(NASTY, dtype=dtype) for dtype in (torch.float64, torch.float32)}
    weights[torch.float32][4] = 3.4028234663852886e38
    losses = [
        SymbolicLoss("abs(sub(add(y, f), 1))", weights[torch.float64], "identity"),
        SymbolicLoss("abs(sub(add(y, f), 1))", weights[torch.float32], "softmax", "softplus"),
        SymbolicLoss("mul(y, f)", [0.1, 0.2], "sigmoid", "identity", "sum"),
    ]
    network = NeuralLoss(link="softmax").double()
    polynomial = TaylorLoss(weights[torch.float64], order=2)
    outcomes = [
        new_outcome(
            Candidate(number, 1, loss, f"loss {number}"),
            number / 3,
            seconds=StageSeconds(training=0.1),
        )
        for number, loss in enumerate(losses)
    ]
    outcomes[0] = new_outcome(new_candidate(0, "sub(y, f)"), 1e-300, loss=losses[0])
    return [
        *outcomes,
        new_outcome(new_candidate(3, "sub(y, f)"), 1e-300, "duplicate", source=0),
        new_outcome(new_candidate(4, "sub(y, f)"), INF, "rejected", correlation=-0.0),
        new_outcome(new_candidate(5, "sub(f, y)"), 0.5, "equivalent", source=1, gradient_key="k"),
        new_outcome(new_candidate(6, "mul(f, y)"), INF, "diverged", correlation=1 / 3),
        new_outcome(new_candidate(7, None, 2), 2 / 3),
        new_outcome(new_candidate(8, "add(f, y)"), INF, "failed", reason="ValueError: é"),
        new_outcome(
            new_candidate(9, "add(f, y)"), 0.1, "halted", curves=((INF, 0.1), (1 / 3,)), halted=True
        ),
        new_outcome(Candidate(10, 2, network, network.structure), 0.2),
        new_outcome(Candidate(11, 2, polynomial, polynomial.structure), 0.2),
    ]


def test_outcomes_come_back_exactly(store: RunStore, run_dir: Path) -> None:
    outcomes = every_kind_of_outcome()
    assert {outcome.status for outcome in outcomes} == set(STATUSES)
    for outcome in reversed(outcomes):
        store.write_outcome(outcome)
    for reader in (store, RunStore.open(run_dir)):
        assert [as_values(o) for o in reader.outcomes()] == [as_values(o) for o in outcomes]
    reader.close()


def test_a_handcrafted_loss_is_no_candidate(store: RunStore) -> None:
    store.write_outcome(new_outcome(Candidate(0, 0, FocalLoss(), ""), 1.0))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="candidate 0 is a FocalLoss, which no search proposes"):
        store.outcomes()


def test_a_candidate_is_stored_once(store: RunStore) -> None:
    store.write_outcome(new_outcome(new_candidate(0, "sub(y, f)"), 1.0))
    with pytest.raises(sqlite3.IntegrityError):
        store.write_outcome(new_outcome(new_candidate(0, "add(y, f)"), 2.0))
    assert [outcome.fitness for outcome in store.outcomes()] == [1.0]


def test_generations_facts_and_formulas_come_back(store: RunStore, run_dir: Path) -> None:
    assert store.last_state() is None
    generations = [Generation(0, None, None, COUNTS, 0.5), Generation(1, 1 / 3, 2 / 3, COUNTS)]
    store.write_generation(generations[1], STATE)
    store.write_generation(generations[0], {"earlier": True})
    store.write_facts({"status": "finished", "seed": 4})
    forms = {"request": PrintedForm("y - f", r"y - \hat f"), "é": PrintedForm("", "")}
    store.write_printed_forms(forms)
    store.write_printed_forms({"é": PrintedForm("φ", "x")})
    for reader in (store, RunStore.open(run_dir)):
        assert reader.generations() == generations
        assert reader.last_state() == STATE
        facts = reader.facts()
        assert {name: facts[name] for name in FACTS} == {**FACTS, "seed": 4}
        assert facts["status"] == "finished"
        assert reader.printed_forms() == {**forms, "é": PrintedForm("φ", "x")}
    reader.close()


def test_a_reader_sees_each_commit_at_once_and_cannot_write(store: RunStore, run_dir: Path) -> None:
    reader = RunStore.open(run_dir)
    for number in range(3):
        store.write_outcome(new_outcome(new_candidate(number, "sub(y, f)"), 1.0))
        assert [o.candidate.number for o in reader.outcomes()] == list(range(number + 1))
        store.write_facts({"number": number})
        assert reader.facts()["number"] == number
    attempts: list[Callable[[], None]] = [
        lambda: reader.write_facts({"seed": 0}),
        lambda: reader.write_outcome(new_outcome(new_candidate(9, "sub(y, f)"), 1.0)),
        lambda: reader.write_generation(Generation(0, None, None, COUNTS), STATE),
        lambda: reader.write_printed_forms({"a": PrintedForm("", "")}),
    ]
    for attempt in attempts:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            attempt()
    reader.close()
    assert store.facts()["seed"] == FACTS["seed"]
    assert len(store.outcomes()) == 3


def test_closing_leaves_one_file_and_the_lock(run_dir: Path) -> None:
    finished_run(run_dir)
    before = contents(run_dir)
    assert set(before) == {DATABASE, LOCK}
    assert before[LOCK] == b""
    RunStore.open(run_dir).close()
    assert contents(run_dir) == before


def test_one_process_writes_at_a_time(store: RunStore, run_dir: Path) -> None:
    before = (run_dir / DATABASE).read_bytes()
    with pytest.raises(InputError, match="Another process is writing the run"):
        RunStore.reopen(run_dir)
    assert is_in_use(run_dir)
    assert (run_dir / DATABASE).read_bytes() == before
    store.close()
    assert not is_in_use(run_dir)
    again = RunStore.reopen(run_dir)
    again.write_facts({"seed": 5})
    assert is_in_use(run_dir)
    again.close()
    assert RunStore.open(run_dir).facts()["seed"] == 5


def test_a_run_appears_whole_or_not_at_all(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "write_facts", fail)
        with pytest.raises(InputError, match=r"No run can be stored in .* disk is full"):
            RunStore.create(run_dir, FACTS)
    assert not run_dir.parent.exists()
    RunStore.create(run_dir, FACTS).close()
    assert RunStore.open(run_dir).facts()["seed"] == FACTS["seed"]


def test_a_run_is_never_begun_twice(store: RunStore, run_dir: Path) -> None:
    with pytest.raises(InputError, match="already holds a run"):
        RunStore.create(run_dir, {"seed": 99})
    assert store.facts()["seed"] == FACTS["seed"]


def test_a_place_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for place in (file, file / "run", file / "a" / "b"):
        with pytest.raises(InputError, match=r"run directory .* choose another"):
            RunStore.create(place, {})
    assert contents(tmp_path) == {"file": b"mine"}


def finished_run(run_dir: Path) -> Path:
    """A database of several pages; the path of its file."""
    facts = {"task": "t", "settings": {}, "long": "x" * 5000}
    store = RunStore.create(run_dir, facts)
    for number in range(40):
        store.write_outcome(new_outcome(new_candidate(number, "sub(y, f)"), 1.0))
    store.write_generation(Generation(0, 1.0, 1.0, COUNTS), STATE)
    store.write_printed_forms({"a": PrintedForm("", "")})
    store.close()
    return run_dir / DATABASE


def test_what_is_no_run_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(InputError, match=f"is not a run directory: it has no {DATABASE}"):
            RunStore.open(place)
    assert contents(tmp_path) == {}
    (tmp_path / "empty" / LOCK).touch()  # as a kill before the first commit leaves it
    with pytest.raises(InputError, match="ended before it began, so run its command again"):
        RunStore.open(tmp_path / "empty")


@pytest.mark.parametrize("content", [b"", b"garbage" * 999, b"SQLite format 3\x00"], ids=len)
def test_a_file_that_is_no_database_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        RunStore.open(tmp_path)
    assert contents(tmp_path) == {DATABASE: content}


def test_damage_anywhere_is_an_input_error(run_dir: Path) -> None:
    path = finished_run(run_dir)
    intact = path.read_bytes()
    page = 4096
    assert len(intact) >= 6 * page
    for start in range(0, len(intact), page):
        path.write_bytes(intact[:start] + b"\xaa" * page + intact[start + page :])
        with pytest.raises(InputError, match="cannot be read"):
            Run(run_dir)
        path.write_bytes(intact[:start])
        with pytest.raises(InputError, match="cannot be read"):
            Run(run_dir)
    path.write_bytes(intact)
    store = RunStore.open(run_dir)
    assert len(store.outcomes()) == 40
    store.close()


@pytest.mark.parametrize(
    "version", [0, 1, 3, FORMAT_VERSION - 1, FORMAT_VERSION + 1, str(FORMAT_VERSION), None]
)
def test_another_version_is_an_input_error(store: RunStore, run_dir: Path, version: Any) -> None:
    store.write_facts({"format_version": version})
    with pytest.raises(InputError, match=f"format version {version!r}, but this evomal reads"):
        RunStore.open(run_dir)


def test_numbered_directories_continue(tmp_path: Path) -> None:
    root = tmp_path / "a" / "runs"
    assert new_run_dir(root) == root / "0001"
    assert new_run_dir(root) == root / "0002"
    (root / "0041").mkdir()
    (root / "0042").write_text("a file")
    (root / "notes").mkdir()
    assert new_run_dir(root) == root / "0043"
    (root / "9999").mkdir()
    assert new_run_dir(root) == root / "10000"
    assert new_run_dir(root) == root / "10001"


def test_numbered_directories_are_never_shared(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_run_dir(tmp_path), range(40)))
    assert len(set(made)) == 40


def test_no_numbered_directory_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    for root in (tmp_path / "runs", tmp_path / "runs" / "deeper"):
        with pytest.raises(InputError, match="Cannot create a run directory"):
            new_run_dir(root)


ENDLESS = """
import sys
from evomal import search
from run_helpers import TINY
from tasks_for_tests import regression_task
search(regression_task(), run_dir=sys.argv[1], **{**TINY, "generations": 100000})
"""


def committed(run_dir: Path) -> int:
    """How many candidates another process has committed."""
    try:
        connection = sqlite3.connect(f"{(run_dir / DATABASE).as_uri()}?mode=ro", uri=True)
        try:
            return int(connection.execute("SELECT COUNT(*) FROM candidates").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.OperationalError:  # not yet made
        return 0


def test_a_killed_search_leaves_all_that_it_had_committed(run_dir: Path) -> None:
    with running("-c", ENDLESS, str(run_dir)) as process:
        never = threading.Event()
        for _ in range(2000):
            if committed(run_dir) or process.poll() is not None:
                break
            never.wait(0.05)
        seen = committed(run_dir)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr and process.stderr.read()
    store = RunStore.open(run_dir)
    outcomes = store.outcomes()
    assert len(outcomes) >= seen >= 1
    assert [outcome.candidate.number for outcome in outcomes] == list(range(len(outcomes)))
    assert store.facts()["status"] == "running"
    state = store.last_state()
    assert (state is None) == (store.generations() == [])
    store.close()
    counts = Run(run_dir).archive.counts
    assert counts.total() == len(outcomes)
    summary = json.dumps(Run(run_dir).summary(), allow_nan=False)
    assert json.loads(summary)["status"] == "killed"
