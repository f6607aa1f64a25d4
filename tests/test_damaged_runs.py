"""Runs whose database is sound, but what is stored in it is not: one sentence, nothing written."""

from __future__ import annotations

import contextlib
import copy
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evomal import InputError, Run, resume, search
from evomal.runs.directory import DATABASE
from run_helpers import TINY, Recorder
from tasks_for_tests import regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")

TASK = regression_task()
SETTINGS: dict[str, Any] = {**TINY, "generations": 2, "seed": 1, "meta_steps": 1}
Damage = Callable[[sqlite3.Connection], object]

HUGE = "9" * 5000  # more digits than Python reads
VALUES = ["null", '"x"', "-1", "1e400", "NaN", "[]", "{}", "true", HUGE, "[" * 100_000, "{"]
"""What takes the place of a stored JSON value, as text."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run = search(TASK, run_dir=tmp_path_factory.mktemp("finished"), **SETTINGS)
    return (run.run_dir / DATABASE).read_bytes()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A run with one generation finished and half of the next."""
    place = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        search(TASK, run_dir=place, callbacks=[Recorder("candidate", 7)], **SETTINGS)
    return (place / DATABASE).read_bytes()


def damaged(intact: bytes, damage: Damage, place: Path) -> Path:
    """A run directory with a damaged copy of a database."""
    place.mkdir(exist_ok=True)
    for left in place.iterdir():
        left.unlink()
    (place / DATABASE).write_bytes(intact)
    connection = sqlite3.connect(place / DATABASE)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA foreign_keys=OFF")
    with connection, contextlib.suppress(sqlite3.IntegrityError):  # one that SQLite refuses
        damage(connection)
    connection.close()
    return place


def fact(name: str) -> Callable[[str], Damage]:
    """Sets a fact to a JSON text."""
    return lambda text: (
        lambda c: c.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, text))
    )


def column(table: str, name: str, row: str) -> Callable[[str], Damage]:
    """Sets a value in some rows of a table."""
    return lambda text: lambda c: c.execute(f"UPDATE {table} SET {name} = ? WHERE {row}", (text,))


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the parts of a JSON value are; of a list the first and the last."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from paths(value[index], (*path, index))


MARK = "the text goes here"


def variants(value: Any, texts: list[str]) -> Iterator[str]:
    """JSON texts of a value with one part replaced by every text, or absent, or with one more."""
    for path in paths(value):
        twin = copy.deepcopy(value)
        parent = twin
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = MARK
        whole = json.dumps(twin)
        yield from (whole.replace(json.dumps(MARK), text) for text in texts)
        del parent[path[-1]]
        yield json.dumps(twin)
    if isinstance(value, dict):
        yield json.dumps({**value, "unknown": 1})
    yield from texts


def stored(intact: bytes, query: str, place: Path) -> Any:
    (place / "copy").write_bytes(intact)
    connection = sqlite3.connect(place / "copy")
    value = connection.execute(query).fetchone()[0]
    connection.close()
    return json.loads(value)


def column_damages(intact: bytes, place: Path) -> Iterator[Damage]:
    (place / "copy").write_bytes(intact)
    connection = sqlite3.connect(place / "copy")
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master")]
    for table in (name for name in tables if not name.startswith("sqlite_")):
        yield lambda c, t=table: c.execute(f"DROP TABLE {t}")  # type: ignore[misc]
        yield lambda c, t=table: c.execute(f"DELETE FROM {t}")  # type: ignore[misc]
        for _, name, *_ in connection.execute(f"PRAGMA table_info({table})"):
            yield lambda c, t=table, n=name: c.execute(f"ALTER TABLE {t} RENAME {n} TO gone")  # type: ignore[misc]
            if table in ("candidates", "generations"):
                for value in ("x", -1, b"\xff", None):
                    yield lambda c, t=table, n=name, v=value: c.execute(  # type: ignore[misc]
                        f"UPDATE OR IGNORE {t} SET {n} = ? WHERE number = 0", (v,)
                    )
    connection.close()


FACTS = ["form", "tasks", "task", "split", "metric", "method", "seed", "status", "stop_reason"]
FACTS += ["device", "versions", "started", "seconds", "task_loss_fitness", "format_version"]


def fact_damages(intact: bytes, place: Path) -> Iterator[Damage]:
    for name in FACTS:
        yield lambda c, n=name: c.execute("DELETE FROM facts WHERE name = ?", (n,))  # type: ignore[misc]
        yield from map(fact(name), VALUES)


def part_damages(
    change: Callable[[str], Damage], query: str, texts: list[str]
) -> Callable[[bytes, Path], Iterator[Damage]]:
    return lambda intact, place: map(change, variants(stored(intact, query, place), texts))


LAST = "number = (SELECT max(number) FROM generations)"
AREAS: dict[str, Callable[[bytes, Path], Iterator[Damage]]] = {
    "facts": fact_damages,
    "tables": column_damages,
    "settings": part_damages(
        fact("settings"), "SELECT value FROM facts WHERE name = 'settings'", VALUES[:7]
    ),
    "tasks": part_damages(
        fact("tasks"), "SELECT value FROM facts WHERE name = 'tasks'", VALUES[:3]
    ),
    "losses": part_damages(
        column("candidates", "loss", "number = 0"),
        "SELECT loss FROM candidates WHERE number = 0",
        VALUES[:5],
    ),
    "state": part_damages(
        column("generations", "state", LAST),
        f"SELECT state FROM generations WHERE {LAST}",
        VALUES[:4],
    ),
}


@pytest.mark.filterwarnings("ignore:The run was started with")
@pytest.mark.parametrize(
    ("area", "kind"),
    [*((area, "interrupted") for area in AREAS), ("settings", "finished")],
)
def test_no_damage_ends_in_anything_but_one_sentence(
    area: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    intact: bytes = request.getfixturevalue(kind)
    refused = 0
    for damage in AREAS[area](intact, tmp_path):
        place = damaged(intact, damage, tmp_path / "run")
        before = (place / DATABASE).read_bytes()
        shown = True
        try:
            Run(place).summary()
        except InputError as error:
            shown = False
            assert_is_a_sentence(error)
        try:
            resume(place, TASK)
        except InputError as error:
            refused += 1
            assert_is_a_sentence(error)
            assert (place / DATABASE).read_bytes() == before
        else:
            assert shown, "continued, but not readable before"
            assert Run(place).facts.status == "finished"
    assert refused > 20


def assert_is_a_sentence(error: InputError) -> None:
    text = str(error)
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 600


SETTING = "UPDATE facts SET value = json_set(value, '$.{}', {}) WHERE name = 'settings'"
REFUSED: dict[str, tuple[str, str]] = {
    "an unknown engine": (SETTING.format("engine", "'x'"), "'engine' is 'x', not one of auto, "),
    "a rate below 0": (SETTING.format("crossover_rate", -1), "crossover_rate"),
    "a group size below 0": (SETTING.format("group_size", -1), "group_size"),
    "a size that is a text": (SETTING.format("population_size", "'5'"), "is '5', not a whole"),
    "half a step": (SETTING.format("meta_steps", 1.5), "is 1.5, not a whole number"),
    "an unknown setting": (SETTING.format("speed", 9), "has the unknown field 'speed'"),
    "a removed setting": (
        "UPDATE facts SET value = json_remove(value, '$.halving') WHERE name = 'settings'",
        "the settings lacks 'halving'",
    ),
    "an engine that was not chosen": (SETTING.format("engine", "'auto'"), "engine is 'auto'"),
    "an unknown method": (
        "UPDATE facts SET value = '\"magic\"' WHERE name = 'method'",
        "the method 'magic' is unknown",
    ),
    "a missing fact": ("DELETE FROM facts WHERE name = 'seed'", "the fact 'seed' is missing"),
    "no JSON": ("UPDATE facts SET value = 'abc' WHERE name = 'form'", "which is not JSON"),
    "a dropped table": ("DROP TABLE printed_forms", "no such table: printed_forms"),
    "a generator of another kind": (
        "UPDATE generations SET state = "
        "json_set(state, '$.method.generator.bit_generator', 'MT19937')",
        "is 'MT19937', not one of PCG64",
    ),
    "a stream that is none": (
        "UPDATE generations SET state = json_set(state, '$.method.generator.uinteger', -1)",
        "impossible state",
    ),
    "an expression that is none": (
        "UPDATE generations SET state = "
        "json_set(state, '$.method.population[0].expression', 'sub(y')",
        "the expression of member 0 of the population is damaged",
    ),
    "an expression without f": (
        "UPDATE generations SET state = json_set(state, '$.method.population[0].expression', 'y')",
        "is not one that the method can propose",
    ),
    "a member too few": (
        "UPDATE generations SET state = json_remove(state, '$.method.population[0]')",
        "has 4 members, not 5",
    ),
    "other counts than candidates": (
        "UPDATE generations SET state = json_set(state, '$.candidates', 6)",
        "is inconsistent with the finished candidates",
    ),
    "a candidate that is missing": (
        "DELETE FROM candidates WHERE number = 4",
        "the counts of generation 0 do not match",
    ),
    "a generation that is missing": ("DELETE FROM generations", "the wrong generation"),
    "a candidate never asked for": (
        "UPDATE candidates SET number = 50 WHERE number = 6",
        "candidate 50 is not the one that",
    ),
    "an unknown status": (
        "UPDATE candidates SET status = 'magic' WHERE number = 1",
        "the status of candidate 1 is 'magic'",
    ),
    "a fitness that is a text": (
        "UPDATE candidates SET fitness = 'good' WHERE number = 1",
        "the fitness of candidate 1 is 'good', not a finite number",
    ),
    "a source after the candidate": (
        "UPDATE candidates SET status = 'duplicate', source = 3 WHERE number = 1",
        "candidate 3, which is not an earlier one",
    ),
    "an evaluated one without fitness": (
        "UPDATE candidates SET status = 'evaluated', fitness = NULL, source = NULL "
        "WHERE number = 1",
        "candidate 1 is evaluated, but has no fitness",
    ),
    "another candidate of the unfinished generation": (
        "UPDATE candidates SET "
        "proposed = json_set(proposed, '$.expression', 'add(y, f)', '$.phi', json('[1,1]')),"
        "loss = json_set(loss, '$.expression', 'add(y, f)', '$.phi', json('[1,1]')) "
        "WHERE number = 6",
        "candidate 6 is not the one that this evomal would propose",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_named_and_nothing_is_written(
    case: str, interrupted: bytes, tmp_path: Path
) -> None:
    statement, message = REFUSED[case]
    place = damaged(interrupted, lambda c: c.execute(statement), tmp_path / "run")
    before = (place / DATABASE).read_bytes()
    with pytest.raises(InputError) as error:
        resume(place, TASK)
    assert str(error.value).startswith(f"The run in {str(place)!r} cannot be read: ")
    assert message in str(error.value)
    assert (place / DATABASE).read_bytes() == before


def test_the_undamaged_copy_is_continued(
    interrupted: bytes, finished: bytes, tmp_path: Path
) -> None:
    place = damaged(interrupted, lambda c: None, tmp_path / "run")
    whole = damaged(finished, lambda c: None, tmp_path / "whole")
    assert resume(place, TASK).summary()["best"] == Run(whole).summary()["best"]
