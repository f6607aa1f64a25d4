"""Real runs killed at random moments: the benchmark in its small form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from run_helpers import run_python

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kill_test.py"


@pytest.mark.slow
def test_twenty_kills_change_nothing() -> None:
    status, output, errors = run_python(str(SCRIPT), "--n", "20", "--seed", "7", timeout=1500)
    assert status == 0, output + errors
    last = output.splitlines()[-1]
    kills = re.match(r"(\d+) kills \((\d+) coordinator, (\d+) power loss, (\d+) worker", last)
    assert kills is not None, last
    assert int(kills[1]) >= 20
    assert all(int(count) > 0 for count in kills.groups())
    assert "0 runs differ, 0 workers outlived their coordinator" in last
    assert " 0 otherwise;" in last
