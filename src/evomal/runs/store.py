"""`run.sqlite`: everything a run has finished, committed as soon as it is."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from evomal.errors import InputError
from evomal.expressions.symbolic import PrintedForm
from evomal.losses.files import loss_from_dict, loss_to_dict
from evomal.methods.base import Candidate, Generation, Outcome
from evomal.runs.directory import BEST_LOSS, DATABASE, LOCK, lock_run_dir

FORMAT_VERSION = 4  # 2: failures, tasks one by one; 3: the form of losses; 4: curves
_DRAFT = ".run.sqlite.draft"

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE candidates (
    number INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    proposed TEXT,
    status TEXT NOT NULL,
    fitness REAL,
    loss TEXT,
    source INTEGER REFERENCES candidates (number),
    correlation REAL,
    gradient_key TEXT,
    seconds TEXT NOT NULL,
    reason TEXT,
    curves TEXT NOT NULL,
    halted INTEGER NOT NULL,
    finished TEXT NOT NULL
);
CREATE TABLE generations (
    number INTEGER PRIMARY KEY,
    best REAL,
    mean REAL,
    counts TEXT NOT NULL,
    state TEXT NOT NULL,
    seconds REAL NOT NULL,
    finished TEXT NOT NULL
);
CREATE TABLE printed_forms (
    request TEXT PRIMARY KEY, formula TEXT NOT NULL, latex TEXT NOT NULL
) WITHOUT ROWID;
"""


class RunStore:
    """The database of a run. One process writes, held by a lock on the directory; any number read.

    Every write is one transaction on disk. Infinite fitness is NULL. A candidate's `proposed`
    loss has its first weights, `loss` those it ended with; NULL stands for the task loss.
    """

    def __init__(self, connection: sqlite3.Connection, lock: FileLock | None = None) -> None:
        self._connection = connection
        self._lock = lock

    @classmethod
    def create(cls, run_dir: Path, facts: Mapping[str, Any]) -> RunStore:
        """Begin a run in a directory, which is made if need be.

        Raises
        ------
        InputError
            If the directory already holds a run or cannot be written.
        """
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            _require_no_run(run_dir)
            lock = lock_run_dir(run_dir)
            try:
                _require_no_run(run_dir)  # that another process has just made
            except FileExistsError:
                lock.release()
                raise
        except FileExistsError as error:
            reason = (
                "already holds a run; continue it with `evomal resume`, look at it with "
                "`evomal show`, or choose another --run-dir"
                if run_dir.is_dir()
                else "is a file; choose another --run-dir"
            )
            raise InputError(f"The run directory {str(run_dir)!r} {reason}.") from error
        except OSError as error:
            raise InputError(
                f"The run directory {str(run_dir)!r} cannot be written ({error.strerror}); "
                "choose another --run-dir."
            ) from error
        # The database appears whole or not at all, so that whatever is there can be resumed.
        draft = run_dir / _DRAFT
        try:
            draft.unlink(missing_ok=True)
            connection = sqlite3.connect(draft)
            with contextlib.closing(connection):
                connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
                store = cls(connection)
                store.write_facts({"format_version": FORMAT_VERSION, "started": _now(), **facts})
            draft.replace(run_dir / DATABASE)
            return cls(_connect_for_writing(run_dir), lock)
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            lock.release()
            raise InputError(
                f"No run can be stored in {str(run_dir)!r} ({error}); choose another --run-dir."
            ) from error

    @classmethod
    def reopen(cls, run_dir: Path) -> RunStore:
        """Open a run for writing, to continue it.

        Raises
        ------
        InputError
            As `open`; also if another process is writing, or the directory cannot be written.
        """
        cls.open(run_dir).close()
        try:
            lock = lock_run_dir(run_dir)
            try:
                return cls(_connect_for_writing(run_dir), lock)
            except sqlite3.Error:
                lock.release()
                raise
        except (sqlite3.Error, OSError) as error:
            raise InputError(
                f"The run in {str(run_dir)!r} cannot be continued, as the directory cannot be "
                f"written ({error})."
            ) from error

    @classmethod
    def open(cls, run_dir: Path) -> RunStore:
        """Open a run for reading.

        Raises
        ------
        InputError
            If the directory holds no run, a damaged one, or one of another format version.
        """
        path = run_dir / DATABASE
        if not path.is_file():
            begun = "; a search ended before it began, so type its command again"
            raise InputError(
                f"{str(run_dir)!r} is not a run directory: it holds no {DATABASE}"
                f"{begun if (run_dir / LOCK).exists() else ''}."
            )
        # Read-only places have no room for the files beside a database that is read normally.
        ordinary = os.access(run_dir, os.W_OK) or path.with_name(f"{DATABASE}-wal").exists()
        mode = "ro" if ordinary else "ro&immutable=1"
        try:
            store = cls(sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True))
            store.check()
            facts = store.facts()
        except (sqlite3.Error, ValueError) as error:
            raise InputError(f"The run in {str(run_dir)!r} cannot be read: {error}.") from error
        version = facts.get("format_version")
        if version != FORMAT_VERSION:
            writer = facts.get("versions", {}).get("evomal", "another version")
            raise InputError(
                f"The run in {str(run_dir)!r} has format version {version}, but this evomal reads "
                f"version {FORMAT_VERSION}; use the evomal that wrote it ({writer})."
            )
        return store

    def check(self) -> None:
        """Raise ``sqlite3.DatabaseError`` if the structure of the database is damaged."""
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict.splitlines()[-1])

    def close(self) -> None:
        """Fold the write-ahead log into the database, so that one file is left, and let it go."""
        with contextlib.suppress(
            sqlite3.Error
        ):  # somebody reads, this is a reader, or the disk is full
            self._connection.execute("PRAGMA journal_mode=DELETE")
        self._connection.close()
        if self._lock is not None:
            self._lock.release()

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Record named JSON values; a name that exists is replaced."""
        with self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO facts VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in facts.items()],
            )

    def facts(self) -> dict[str, Any]:
        """All named values."""
        rows = self._connection.execute("SELECT name, value FROM facts")
        return {name: json.loads(value) for name, value in rows}

    def write_outcome(self, outcome: Outcome) -> None:
        """Record a finished candidate."""
        proposed = outcome.candidate.loss
        with self._connection:
            self._connection.execute(
                "INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    outcome.candidate.number,
                    outcome.candidate.generation,
                    None if proposed is None else json.dumps(loss_to_dict(proposed)),
                    outcome.status,
                    outcome.fitness if math.isfinite(outcome.fitness) else None,
                    None if outcome.loss is None else json.dumps(loss_to_dict(outcome.loss)),
                    outcome.source,
                    outcome.correlation,
                    outcome.gradient_key,
                    json.dumps(dict(outcome.seconds)),
                    outcome.reason,
                    json.dumps(outcome.curves),
                    outcome.halted,
                    _now(),
                ),
            )

    def forget_failures(self, generation: int) -> None:
        """Delete the failed candidates of a generation, and those that took over from them."""
        with self._connection:
            self._connection.execute(
                "WITH RECURSIVE gone (number) AS ("
                "SELECT number FROM candidates WHERE generation = ? AND status = 'failed' UNION "
                "SELECT c.number FROM candidates c JOIN gone ON c.source = gone.number) "
                "DELETE FROM candidates WHERE number IN (SELECT number FROM gone)",
                (generation,),
            )

    def outcomes(self) -> list[Outcome]:
        """Every finished candidate, in the order of their numbers."""
        rows = self._connection.execute(
            "SELECT number, generation, proposed, status, fitness, loss, source, correlation, "
            "gradient_key, seconds, reason, curves, halted FROM candidates ORDER BY number"
        )
        collects = gc.isenabled()
        gc.disable()  # it would go through all that was read so far, again and again
        try:
            return [_outcome(*row) for row in rows]
        finally:
            if collects:
                gc.enable()

    def write_generation(
        self, generation: Generation, state: Mapping[str, Any], seconds: float
    ) -> None:
        """Close a generation together with the method's state."""
        with self._connection:
            self._connection.execute(
                "INSERT INTO generations VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    generation.number,
                    generation.best,
                    generation.mean,
                    json.dumps(dict(generation.counts)),
                    json.dumps(state),
                    seconds,
                    _now(),
                ),
            )

    def generations(self) -> list[tuple[Generation, float]]:
        """Every finished generation with its seconds."""
        rows = self._connection.execute(
            "SELECT number, best, mean, counts, seconds FROM generations ORDER BY number"
        )
        return [(Generation(n, best, mean, json.loads(c)), s) for n, best, mean, c, s in rows]

    def last_state(self) -> dict[str, Any] | None:
        """The method's state at the end of the last finished generation."""
        row = self._connection.execute(
            "SELECT state FROM generations ORDER BY number DESC LIMIT 1"
        ).fetchone()
        return None if row is None else json.loads(row[0])

    def write_printed_forms(self, forms: Mapping[str, PrintedForm]) -> None:
        """Keep formulas, which sympy takes long to find."""
        with self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO printed_forms VALUES (?, ?, ?)",
                [(request, form.formula, form.latex) for request, form in forms.items()],
            )

    def printed_forms(self) -> dict[str, PrintedForm]:
        """The formulas kept."""
        rows = self._connection.execute("SELECT request, formula, latex FROM printed_forms")
        return {request: PrintedForm(formula, latex) for request, formula, latex in rows}


def _require_no_run(run_dir: Path) -> None:
    if any((run_dir / name).exists() for name in (DATABASE, BEST_LOSS)):
        raise FileExistsError


def _connect_for_writing(run_dir: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(run_dir / DATABASE)
    connection.execute("PRAGMA journal_mode=WAL")
    for pragma in ("synchronous=FULL", "fullfsync=ON", "checkpoint_fullfsync=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _outcome(
    number: int,
    generation: int,
    proposed: str | None,
    status: Any,
    fitness: float | None,
    loss: str | None,
    source: int | None,
    correlation: float | None,
    gradient_key: str | None,
    seconds: str,
    reason: str | None,
    curves: str,
    halted: int,
) -> Outcome:
    """A row of the table of candidates."""
    before = None if proposed is None else loss_from_dict(json.loads(proposed))
    return Outcome(
        Candidate(number, generation, before),
        status,
        math.inf if fitness is None else fitness,
        None if loss is None else loss_from_dict(json.loads(loss)),
        source,
        correlation,
        gradient_key,
        json.loads(seconds),
        reason,
        tuple(map(tuple, json.loads(curves))),
        bool(halted),
    )
