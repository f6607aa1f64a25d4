"""The tables of `run.sqlite`."""

FORMAT_VERSION = 6
"""2: failures, tasks one by one; 3: the form of losses; 4: curves; 5: methods; 6: tasks' origins,
optimisers and directions."""

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
CREATE TABLE printed_forms (
    request TEXT PRIMARY KEY, formula TEXT NOT NULL, latex TEXT NOT NULL
) WITHOUT ROWID;
"""
