"""Kill real runs at random moments, resume them, and compare with the uninterrupted run.

Run: python benchmarks/kill_test.py --n 100 [--methods all] [--seed 0] [--workers 2]
     [--executor local] [--preset paper]

Every kill hits a running `evomal search` or `evomal resume` at a moment drawn uniformly from half
the time of the whole run, the first seconds of Python's start included:

- coordinator: SIGKILL; its workers have to end by themselves
- power loss: SIGKILL, then the write-ahead log is cut at a random byte
- worker: SIGKILL to one worker process; the run has to go on by itself
- ctrl-c: SIGINT to the coordinator

The methods are tried in turn, each with n kills. A run is killed and resumed until it finishes;
then `evomal show --json`, less timing and run_dir, has to be that of the uninterrupted run. Prints
one line per run and the totals; exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomal.methods.registry import METHODS, setting_names

SETTINGS = {
    "population-size": 8,
    "generations": 4,
    "meta-steps": 20,
    "rejection-steps": 50,
    "testing-steps": 100,
    "max-initial-height": 3,
    "max-height": 4,
}
LONGER = {"baseline": {"testing-steps": 3000}, "ml3": {"meta-steps": 400, "restarts": 3}}
"""Settings of methods that have few candidates, for runs of some seconds."""
KINDS = ("coordinator", "power loss", "worker", "ctrl-c")
PATIENCE = 60.0  # timeout in seconds for expected events


@dataclass
class Report:
    """What happened in all runs."""

    kills: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    before_first_commit: int = 0
    differing: int = 0
    orphans: int = 0
    lost_to_power: int = 0
    lost_otherwise: int = 0


def evomal(*arguments: str) -> list[str]:
    """A command line of this interpreter's evomal."""
    return [sys.executable, "-m", "evomal.cli", *arguments]


def start(run_dir: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start the run, or resume it if it exists."""
    execution = ["--workers", str(options.workers), "--executor", options.executor, "--quiet"]
    if (run_dir / "run.sqlite").exists():
        command = evomal("resume", str(run_dir), *execution)
    else:
        own = {name.replace("_", "-") for name in setting_names(options.method)}
        chosen = {**SETTINGS, **LONGER.get(options.method, {})}
        settings = [f"--{name}={value}" for name, value in chosen.items() if name in own]
        settings += ["--method", options.method, "--preset", options.preset]
        settings += ["--run-dir", str(run_dir)]
        command = evomal("search", options.task, *settings, *execution)
    with run_dir.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, start_new_session=True, stderr=log)


def result(run_dir: Path) -> dict[str, Any]:
    """The result of the run, without times and paths."""
    output = subprocess.run(
        evomal("show", str(run_dir), "--json"), check=True, capture_output=True
    ).stdout
    summary: dict[str, Any] = json.loads(output)
    del summary["timing"], summary["run_dir"]
    return summary


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of the spawned workers (Linux)."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        commands = {int(c): Path(f"/proc/{c}/cmdline").read_bytes() for c in children}
    except OSError:  # it has ended in the meantime
        return []
    return [pid for pid, command in commands.items() if b"spawn_main" in command]


def committed(run_dir: Path) -> int:
    """Number of candidates in the store."""
    if not (run_dir / "run.sqlite").exists():
        return 0
    connection = sqlite3.connect(f"{(run_dir / 'run.sqlite').as_uri()}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM candidates").fetchone()[0])
    finally:
        connection.close()


def is_running(pid: int) -> bool:
    """Whether a process is running and not a zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def wait_until_gone(pids: list[int]) -> int:
    """Number of processes that do not exit."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and any(map(is_running, pids)):
        time.sleep(0.05)
    return sum(map(is_running, pids))


def kill(process: subprocess.Popen[bytes], kind: str, run_dir: Path, rng: random.Random) -> int:
    """Kill; return the number of workers that outlive their coordinator."""
    workers = workers_of(process)
    process.send_signal(signal.SIGINT if kind == "ctrl-c" else signal.SIGKILL)
    process.wait(PATIENCE)
    orphans = wait_until_gone(workers)
    log = run_dir / "run.sqlite-wal"
    if kind == "power loss" and log.exists():
        (run_dir / "run.sqlite-shm").unlink(missing_ok=True)  # memory does not survive it
        os.truncate(log, rng.randint(0, log.stat().st_size))
    return orphans


def one_run(
    run_dir: Path, options: argparse.Namespace, rng: random.Random, longest: float, report: Report
) -> Counter[str]:
    """Kill and resume a run until it finishes or the kills are used up; return the kills."""
    done: Counter[str] = Counter()
    while True:
        process = start(run_dir, options)
        report.sessions += 1
        wants = report.kills.total() < options.n
        kind = rng.choice(KINDS) if wants else ""
        try:
            process.wait(rng.uniform(0.0, longest / 2) if wants else None)
        except subprocess.TimeoutExpired:
            if kind == "worker":
                victims = workers_of(process)
                if victims:
                    os.kill(rng.choice(victims), signal.SIGKILL)
                    report.kills[kind] += 1
                    done[kind] += 1
                wants = report.kills.total() < options.n
                try:  # once per session: a candidate that loses its worker twice is failed
                    process.wait(rng.uniform(0.0, longest / 2) if wants else None)
                except subprocess.TimeoutExpired:
                    kind = "coordinator"
            if process.poll() is None:
                before = committed(run_dir)
                report.before_first_commit += before == 0
                report.orphans += kill(process, kind, run_dir, rng)
                lost = max(0, before - committed(run_dir))
                if kind == "power loss":
                    report.lost_to_power += lost
                else:
                    report.lost_otherwise += lost
                report.kills[kind] += 1
                done[kind] += 1
                continue
        if process.returncode == 0:
            return done
        log = run_dir.with_suffix(".log").read_text()
        raise SystemExit(f"a session ended with status {process.returncode}: {log}")


def main() -> None:
    """Kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="kills of every method")
    parser.add_argument("--methods", nargs="+", choices=["all", *METHODS], default=["evomal"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", default="local")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--task", default="diabetes/mlp")
    options = parser.parse_args()
    methods = list(METHODS) if "all" in options.methods else options.methods
    failed = [kill_runs(argparse.Namespace(**vars(options), method=m)) for m in methods]
    sys.exit(any(failed))


def kill_runs(options: argparse.Namespace) -> bool:
    """Kill runs of one method, compare, print; whether something is wrong."""
    rng = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-test-"))
    begin = time.monotonic()
    if start(folder / "reference", options).wait() != 0:
        raise SystemExit("the uninterrupted run failed")
    longest = time.monotonic() - begin
    reference = result(folder / "reference")
    candidates = sum(reference["outcomes"].values())
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"{options.method} on {options.task}, {options.workers} workers ({options.executor}), "
        f"{candidates} candidates; "
        f"uninterrupted {longest:.1f} s; seed {options.seed}",
        flush=True,
    )
    report = Report()
    runs = 0
    while report.kills.total() < options.n:
        runs += 1
        run_dir = folder / f"{runs:04d}"
        done = one_run(run_dir, options, rng, longest, report)
        equal = result(run_dir) == reference
        report.differing += not equal
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.items())) or "no kill"
        print(f"run {runs}: {kinds}: {'equal' if equal else 'DIFFERENT'}", flush=True)
    kinds = ", ".join(f"{report.kills[kind]} {kind}" for kind in KINDS)
    print(
        f"{report.kills.total()} kills ({kinds}) in {runs} runs and {report.sessions} sessions, "
        f"{report.before_first_commit} before a first candidate was committed; "
        f"{report.differing} runs differ, {report.orphans} workers outlived their coordinator; "
        f"committed candidates lost: {report.lost_to_power} to power losses, "
        f"{report.lost_otherwise} otherwise; "
        f"{time.monotonic() - begin:.0f} s"
    )
    shutil.rmtree(folder)
    return bool(report.differing or report.orphans or report.lost_otherwise)


if __name__ == "__main__":
    main()
