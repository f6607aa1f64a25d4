"""`run.sqlite`: everything a run has finished, committed as soon as it is."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from evomal.errors import InputError
from evomal.expressions.printing import PrintedForm
from evomal.losses.files import loss_to_dict
from evomal.losses.names import BEST_LOSS
from evomal.methods.base import Generation, Identity, Outcome, by_structure
from evomal.methods.stored import from_json, typed
from evomal.runs.directory import (
    DATABASE,
    LOCK,
    as_argument,
    lock_run_dir,
    require_run,
    taken_back,
    what_is_there,
)
from evomal.runs.rows import checkpoint_row, generation_of, intact_checkpoints, outcome_of
from evomal.runs.schema import FORMAT_VERSION, SCHEMA, connect_for_writing, require_version

_DRAFT = ".run.sqlite.draft"


class RunStore:
    """The database of a run. One process writes, held by a lock on the directory; any number read.

    Every write is one transaction on disk. Infinite fitness is NULL. A candidate's `proposed`
    loss has its first weights, `loss` those it ended with; NULL stands for the task loss.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        lock: FileLock | None = None,
        to_write: Path | None = None,
    ) -> None:
        self._connection = connection
        self._lock = lock
        self._to_write = to_write  # where to open it for writing, at the first write

    @classmethod
    def create(cls, run_dir: Path, facts: Mapping[str, Any]) -> RunStore:
        """Begin a run in a directory, which is made if need be.

        Raises
        ------
        InputError
            If the directory already holds a run or cannot be written; nothing is left there then.
        """
        made = (run_dir / LOCK, run_dir, *run_dir.parents)
        try:
            with taken_back(run_dir / DATABASE, *made):
                run_dir.mkdir(parents=True, exist_ok=True)
                return cls._create(run_dir, facts)
        except FileExistsError as error:
            reason = (
                f"already holds a run; `evomal show {as_argument(run_dir)}` says how to continue "
                "it; or choose another --run-dir"
                if run_dir.is_dir()
                else f"cannot be made, as {what_is_there(error)}; choose another --run-dir"
            )
            raise InputError(f"The run directory {str(run_dir)!r} {reason}.") from error
        except OSError as error:
            raise InputError(
                f"The run directory {str(run_dir)!r} cannot be written ({error.strerror}); "
                "choose another --run-dir."
            ) from error

    @classmethod
    def _create(cls, run_dir: Path, facts: Mapping[str, Any]) -> RunStore:
        """Raises a ``FileExistsError`` if there is a run; the others as `create`."""
        _require_no_run(run_dir)
        lock = lock_run_dir(run_dir)
        # The database appears whole or not at all, so that whatever is there can be resumed.
        draft = run_dir / _DRAFT
        try:
            _require_no_run(run_dir)  # that another process has just made
            draft.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(draft)) as connection:
                connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
                store = cls(connection)
                store.write_facts({"format_version": FORMAT_VERSION, "started": _now(), **facts})
            draft.replace(run_dir / DATABASE)
            return cls(connect_for_writing(run_dir / DATABASE), lock)
        except FileExistsError:
            lock.release()
            raise
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            lock.release()
            raise InputError(
                f"No run can be stored in {str(run_dir)!r} ({error}); choose another --run-dir."
            ) from error

    @classmethod
    def reopen(cls, run_dir: Path) -> RunStore:
        """Open a run to continue it; nothing changes before the first write.

        Raises
        ------
        InputError
            As `open`; also if another process is writing, or the directory cannot be written.
        """
        store = cls.open(run_dir)
        try:
            lock = lock_run_dir(run_dir)
        except InputError:
            store.close()
            raise
        except OSError as error:
            store.close()
            raise InputError(
                f"The run in {str(run_dir)!r} cannot be continued, as the directory cannot be "
                f"written ({error})."
            ) from error
        return cls(store._connection, lock, run_dir)

    @classmethod
    def open(cls, run_dir: Path) -> RunStore:
        """Open a run for reading.

        Raises
        ------
        InputError
            If the directory holds no run, a damaged one, or one of another format version.
        """
        require_run(run_dir)
        path = run_dir / DATABASE
        # Read-only places have no room for the files beside a database that is read normally.
        ordinary = os.access(run_dir, os.W_OK) or path.with_name(f"{DATABASE}-wal").exists()
        mode = "ro" if ordinary else "ro&immutable=1"
        with reading(run_dir), contextlib.ExitStack() as on_failure:
            store = cls(sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True))
            on_failure.callback(store.close)
            store.check()
            require_version(store.facts())
            on_failure.pop_all()
        return store

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside the block is as it was at one moment."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.rollback()

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

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction."""
        if self._to_write is not None:
            self._connection.close()
            self._connection = connect_for_writing(self._to_write / DATABASE)
            self._to_write = None
        with self._connection:
            yield

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Record named JSON values; a name that exists is replaced."""
        with self._writing():
            self._connection.executemany(
                "INSERT OR REPLACE INTO facts VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in facts.items()],
            )

    def facts(self) -> dict[str, Any]:
        """All named values."""
        rows = self._connection.execute("SELECT name, value FROM facts")
        return {name: from_json(value, f"the fact {name!r}") for name, value in rows}

    def write_outcome(self, outcome: Outcome) -> None:
        """Record a finished candidate."""
        proposed = outcome.candidate.loss
        with self._writing():
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
                    json.dumps(asdict(outcome.seconds)),
                    outcome.reason,
                    json.dumps(outcome.curves),
                    outcome.halted,
                    _now(),
                ),
            )

    def forget_failures(self, first: int) -> None:
        """Delete failed candidates from this one on, and those that took over from them."""
        with self._writing():
            self._connection.execute(
                "WITH RECURSIVE gone (number) AS ("
                "SELECT number FROM candidates WHERE number >= ? AND status = 'failed' UNION "
                "SELECT c.number FROM candidates c JOIN gone ON c.source = gone.number) "
                "DELETE FROM candidates WHERE number IN (SELECT number FROM gone)",
                (first,),
            )

    def outcomes(self, identity: Identity = by_structure) -> list[Outcome]:
        """Every finished candidate, in the order of their numbers; `identity` is the method's."""
        rows = self._connection.execute(
            "SELECT number, generation, proposed, status, fitness, loss, source, correlation, "
            "gradient_key, seconds, reason, curves, halted FROM candidates ORDER BY number"
        )
        collects = gc.isenabled()
        gc.disable()  # it would go through all that was read so far, again and again
        try:
            return [outcome_of(identity, *row) for row in rows]
        finally:
            if collects:
                gc.enable()

    def write_checkpoint(self, numbers: Sequence[int], states: bytes) -> None:
        """Keep how far the tuning of a group of candidates has come; the last one counts."""
        with self._writing():
            self._connection.execute(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)",
                checkpoint_row(numbers, states),
            )

    def checkpoints(self) -> dict[tuple[int, ...], bytes]:
        """How far tunings have come, by their candidates, without damaged ones."""
        rows = self._connection.execute("SELECT candidates, states, digest FROM checkpoints")
        return intact_checkpoints(rows)

    def write_generation(self, generation: Generation, state: Mapping[str, Any]) -> None:
        """Close a generation together with the method's state; its checkpoints go."""
        with self._writing():
            self._connection.execute("DELETE FROM checkpoints")
            self._connection.execute(
                "INSERT INTO generations VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    generation.number,
                    generation.best,
                    generation.mean,
                    json.dumps(dict(generation.counts)),
                    json.dumps(state),
                    generation.seconds,
                    _now(),
                ),
            )

    def generations(self) -> list[Generation]:
        """Every finished generation."""
        rows = self._connection.execute(
            "SELECT number, best, mean, counts, seconds FROM generations ORDER BY number"
        )
        return [generation_of(*row) for row in rows]

    def last_state(self) -> dict[str, Any] | None:
        """The method's state at the end of the last finished generation."""
        row = self._connection.execute(
            "SELECT state FROM generations ORDER BY number DESC LIMIT 1"
        ).fetchone()
        return None if row is None else from_json(row[0], "the state of the method")

    def write_retraining(self, key: str, result: Mapping[str, Any]) -> None:
        """Record a training on fresh seeds, as JSON values."""
        with self._writing():
            self._connection.execute(
                "INSERT OR REPLACE INTO retrainings VALUES (?, ?)", (key, json.dumps(result))
            )

    def retrainings(self) -> dict[str, Any]:
        """Every training on fresh seeds."""
        rows = self._connection.execute("SELECT key, result FROM retrainings")
        return {key: from_json(result, f"the training {key!r}") for key, result in rows}

    def write_printed_forms(self, forms: Mapping[str, PrintedForm]) -> None:
        """Keep formulas, which sympy takes long to find."""
        with self._writing():
            self._connection.executemany(
                "INSERT OR REPLACE INTO printed_forms VALUES (?, ?, ?)",
                [(request, form.formula, form.latex) for request, form in forms.items()],
            )

    def printed_forms(self) -> dict[str, PrintedForm]:
        """The formulas kept."""
        rows = self._connection.execute("SELECT request, formula, latex FROM printed_forms")
        what = "a printed formula"
        return {
            request: PrintedForm(typed(str, formula, what), typed(str, latex, what))
            for request, formula, latex in rows
        }


@contextlib.contextmanager
def reading(run_dir: Path) -> Iterator[None]:
    """Turns what goes wrong while a run is read into one sentence that names the run."""
    try:
        yield
    except (sqlite3.Error, InputError) as error:
        reason = str(error).rstrip(".")
        raise InputError(f"The run in {str(run_dir)!r} cannot be read: {reason}.") from error


def _require_no_run(run_dir: Path) -> None:
    if any((run_dir / name).exists() for name in (DATABASE, BEST_LOSS)):
        raise FileExistsError


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
