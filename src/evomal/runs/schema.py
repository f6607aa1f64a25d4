"""The tables of `run.sqlite`, and how it is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomal.errors import InputError, quoted

FORMAT_VERSION = 7
"""2: failures, tasks one by one; 3: the form of losses; 4: curves; 5: methods; 6: tasks' origins,
optimisers and directions; 7: recipe and confirmation."""

SCHEMA = """
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
CREATE TABLE checkpoints (
    candidates TEXT PRIMARY KEY, states BLOB NOT NULL, digest TEXT NOT NULL
);
CREATE TABLE retrainings (key TEXT PRIMARY KEY, result TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE printed_forms (
    request TEXT PRIMARY KEY, formula TEXT NOT NULL, latex TEXT NOT NULL
) WITHOUT ROWID;
"""


def require_version(facts: Mapping[str, Any]) -> None:
    """Raise an `InputError` for a run of another version; the message has no full stop."""
    version, versions = facts.get("format_version"), facts.get("versions")
    if version != FORMAT_VERSION or type(version) is not int:
        writer = versions.get("evomal") if isinstance(versions, dict) else None
        raise InputError(
            f"it has format version {quoted(version)}, but this evomal reads version "
            f"{FORMAT_VERSION}; use the evomal that wrote it ({quoted(writer)})"
        )


def connect_for_writing(path: Path) -> sqlite3.Connection:
    """A connection to a database whose every transaction is on disk when it ends."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    for pragma in ("synchronous=FULL", "fullfsync=ON", "checkpoint_fullfsync=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection
