"""Sympy computations in a second process with a time limit.

Sympy can take minutes for one expression; Python cannot interrupt a computation, but can end a
process. Questions and answers are JSON objects, one per line.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

TIME_LIMIT = 20.0  # seconds for one question


def ask(module: str, questions: Sequence[Any], time_limit: float = TIME_LIMIT) -> list[Any]:
    """The answers of one process, up to the first question that it fails to answer.

    Parameters
    ----------
    module
        Name of the answering module; when run as a program, it calls `serve`.
    questions
        JSON values.
    time_limit
        Seconds per question.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    # Sympy orders some terms by hash: a fixed seed makes the answers reproducible.
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
    helper = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert helper.stdin is not None
    assert helper.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    to_helper, output = helper.stdin, helper.stdout

    def read() -> None:
        for line in itertools.chain(output, [""]):
            lines.put(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    answers: list[Any] = []
    try:
        for question in questions:
            to_helper.write(json.dumps(question) + "\n")
            to_helper.flush()
            line = lines.get(timeout=time_limit)
            if not line:  # the helper ended
                break
            answers.append(json.loads(line))
    except (queue.Empty, BrokenPipeError):
        pass
    finally:
        helper.kill()
        helper.wait()
        reader.join()
        output.close()
        with contextlib.suppress(BrokenPipeError):
            to_helper.close()
    return answers


def serve(answer: Callable[[Any], Any]) -> None:
    """Answer the questions of `ask` until the input ends; the program of the helper process."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
