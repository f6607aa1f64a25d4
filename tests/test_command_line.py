"""The program around the commands: help, streams, warnings, Ctrl-C while it loads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import evomal
from evomal import EvoMALSettings, TaskWarning
from evomal.cli import main
from evomal.cli.lists import Methods
from evomal.cli.parsing import COMMANDS, parse_command
from evomal.cli.searches import Search
from evomal.methods.registry import METHODS, setting_names
from run_helpers import contents, run_python

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command in an empty directory, 80 columns wide: exit status, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def program(*arguments: str) -> tuple[int, str, str]:
        try:
            status: Any = main(arguments)
        except SystemExit as end:
            status = end.code
        assert contents(tmp_path) == {}, "something was written"
        return status, *capsys.readouterr()

    return program


def test_the_package_can_be_run() -> None:
    assert run_python("-m", "evomal", "--version") == (0, f"evomal {evomal.__version__}\n", "")


def test_the_version_is_told(program: Run) -> None:
    assert program("--version") == (0, f"evomal {evomal.__version__}\n", "")


def test_the_programs_help_names_every_command(program: Run) -> None:
    status, output, errors = program("--help")
    assert (status, errors) == (0, "")
    assert all(f"• {name} " in output for name in COMMANDS)
    assert "evomal search diabetes/mlp --preset quick" in output
    assert "evomal --version" in output


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_has_an_example_and_no_ragged_lines(program: Run, command: str) -> None:
    status, output, errors = program(command, "--help")
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    example = lines.index("Example:") + 1
    assert lines[example].startswith(f"  evomal {command}")
    assert max(map(len, lines)) <= 80
    assert "{None}" not in output
    assert "default: None" not in output
    assert "STR" not in output
    texts = [line.strip("│").rstrip() for line in lines[example + 1 :]]
    width = max(len(text) for text in texts if text.strip("─- "))
    for text, following in pairwise(texts):
        first, *_ = following.split() or [""]
        goes_on = following.startswith(" " * 9) and " " in text.strip()
        alone = re.fullmatch(r" +--\S+( \S+)*", text)  # an option with its help below it
        fits = len(text) + 1 + len(first) <= width
        assert not (goes_on and not alone and fits), f"ragged: {text!r}, {following!r}"


def test_the_help_names_what_it_takes(program: Run) -> None:
    names = {
        "search": ["TASK [TASK ...]", "--run-dir PATH", "--workers INT|auto", "--max-time FLOAT"],
        "train": ["[TRAIN OPTIONS] TASK", "--loss LOSS", "--steps INT"],
        "show": ["show [-h] LOSS"],
        "resume": ["RUN", "--generations INT"],
        "analyze": ["LOSS", "--classes INT", "--link LINK"],
    }
    for command, expected in names.items():
        output = program(command, "--help")[1]
        assert [text for text in expected if text not in output] == []
    assert "--prescreen, --no-prescreen" in program("search", "--help")[1]


@pytest.mark.parametrize("method", METHODS)
def test_the_help_on_a_search_shows_the_settings_of_its_method_alone(
    program: Run, method: str
) -> None:
    status, output, errors = program("search", "--method", method, "--help")
    assert (status, errors) == (0, "")
    assert max(map(len, output.splitlines())) <= 80
    shown = {name.replace("-", "_") for name in re.findall(r"^\W+--([\w-]+)", output, re.MULTILINE)}
    every = {name for other in METHODS for name in setting_names(other)}
    assert shown & every == set(setting_names(method)) - {"initial_weights"}  # has no flag
    default = output.replace("(default: " + method, "(default: evomal")
    assert (program("search", "--help")[1] == default) is (method == "evomal")


def test_the_help_on_a_search_says_that_methods_have_their_own_settings(program: Run) -> None:
    text = " ".join(program("search", "--help")[1].replace("│", " ").split())
    assert "Each has its own settings" in text
    assert "`evomal search --method gp-lfl --help` shows those of gp-lfl" in text


@pytest.mark.parametrize("method", METHODS)
def test_a_method_and_its_preset_are_parsed_together(method: str) -> None:
    for preset, settings in METHODS[method].presets.items():
        command = parse_command(
            ["search", "diabetes/mlp", "--preset", preset, f"--method={method}"]
        )
        assert isinstance(command, Search)
        assert (command.method, command.preset) == (method, preset)
        assert command.settings == settings
        assert type(command.settings) is METHODS[method].settings_type


@pytest.mark.parametrize(
    ("options", "prescreen"),
    [
        ([], True),
        (["--prescreen"], True),
        (["--no-prescreen"], False),
        (["--preset", "paper"], False),
        (["--preset", "quick"], True),
        (["--preset", "quick", "--prescreen"], True),
        (["--preset=quick", "--no-prescreen"], False),
        (["--prescreen", "--preset", "quick", "--prescreen", "--no-prescreen"], False),
        (["--preset", "quick", "--preset", "paper"], False),
    ],
)
def test_a_flag_can_be_said_again_and_said_off(options: list[str], prescreen: bool) -> None:
    command = parse_command(["search", "diabetes/mlp", *options])
    assert isinstance(command, Search)
    assert isinstance(command.settings, EvoMALSettings)
    assert command.settings.prescreen is prescreen
    preset = METHODS["evomal"].presets[command.preset]
    assert vars(command.settings) == {**vars(preset), "prescreen": prescreen}


def test_an_optional_value_can_be_given_and_taken_back() -> None:
    options = ["--preset", "quick", "--rejection-steps", "None", "--max-time", "3", "--patience=2"]
    command = parse_command(["search", "diabetes/mlp", *options])
    assert isinstance(command, Search)
    assert isinstance(command.settings, EvoMALSettings)
    assert command.settings.rejection_steps is None
    assert (command.execution.max_time, command.execution.patience) == (3.0, 2)
    assert command.execution.candidate_timeout is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Error: Give a command: data, tasks, .*evomal --help.*"),
        (["serch"], r"Error: Unknown command 'serch'; did you mean search\?"),
        ([""], "Error: Unknown command ''; .*"),
        (["s\x1b[31mh\n"], r"Error: Unknown command 's\\x1b\[31mh\\n'.*"),
        (["search", "diabetes/mlp", "--", "--json"], "Error: Unknown task '--json'.*"),
        (["search", "diabets/mlp", "--json"], r"Error: .* did you mean diabetes/mlp\?"),
        (["search", ""], "Error: Unknown task ''.*"),
        (["show", "absent", "--json"], "Error: Unknown loss 'absent'.*"),
        (["show", "\u202e"], r"Error: Unknown loss '\\u202e'.*"),
        (["show", "x" * 5000], "Error: .{60,250}"),
        (["analyze", "focal", "--classes", "100000000"], "Error: --classes must .* to 262144, .*"),
        (["train", "diabetes/mlp", "--loss", "y", "--threads", "9000"], "Error: 9000 threads .*"),
        (["train", "diabetes/mlp", "--loss", "y", "--seeds", "9" * 30], "Error: --seeds must .*"),
        (["search", "diabetes/mlp", "--tournament-size", "9" * 20], "Error: .* from 1 to 10000,.*"),
        (
            ["search", "diabetes/mlp", "--method", "gp-lfl", "--prescreen"],
            "Error: The method gp-lfl has no setting 'prescreen'; .* that has it: evomal.*",
        ),
        (
            ["search", "--no-prescreen", "x", "--method=baseline"],
            "Error: The method baseline has no setting 'prescreen'; .*: evomal.*",
        ),
        (
            ["search", "diabetes/mlp", "--generations=3", "--method", "baseline", "--help"],
            "Error: The method baseline has no setting 'generations'; .*: evomal, gp-lfl.*",
        ),
        (["search", "x", "--method", "gp-lfk"], r"Error: Unknown method .*; did you mean gp-lfl\?"),
        (["search", "--method", "\x1b[31m", "--help"], r"Error: Unknown method '\\x1b\[31m'; .*"),
    ],
)
def test_an_error_is_one_printable_sentence(
    program: Run, arguments: list[str], message: str
) -> None:
    status, output, errors = program(*arguments)
    assert (status, output) == (2, "")
    assert re.fullmatch(f"{message}\n", errors), errors
    assert errors[:-1].isprintable()


@pytest.mark.parametrize(
    "options",
    [["--po\x1b[31m", "3"], ["--population-size", "\x1b[31m3"], ["--preset", "\u202e" * 3000]],
    ids=["option", "number", "choice"],
)
def test_what_cannot_be_parsed_is_shown_once_and_not_sent(program: Run, options: list[str]) -> None:
    status, output, errors = program("search", "diabetes/mlp", *options)
    assert (status, output) == (2, "")
    assert errors.replace("\n", "").isprintable()
    assert errors.count("full helptext") == 1
    assert len(errors) < 2000


def test_warnings_are_single_lines(program: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Methods) -> int:
        warnings.warn("12 rows\n  are \x1b[31mshared", TaskWarning, stacklevel=1)
        warnings.warn("of a library", DeprecationWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(Methods, "run", run)
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # here they are errors otherwise
        shown = warnings.showwarning
        assert program("methods") == (0, "", "Warning: 12 rows are \\x1b[31mshared\n")
        assert warnings.showwarning is shown


ASCII = {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}


@pytest.mark.parametrize(
    ("arguments", "escaped"),
    [(["losses"], r"(y - f)\xb2"), (["search", "--help"], r"cores \xf7 threads")],
    ids=["losses", "help"],
)
def test_any_encoding_will_do(arguments: list[str], escaped: str) -> None:
    command = [sys.executable, "-m", "evomal.cli", *arguments]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **ASCII}, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert escaped in done.stdout.decode("ascii")


def test_output_that_nobody_takes() -> None:
    full = "Error: The output cannot be written (No space left on device).\n"
    for command, expected in [
        ("--help >&-", (0, "")),
        ("--help <&-", (0, "")),
        ("--help > /dev/full", (2, full)),
        ("--version > /dev/full", (2, full)),
        ("--version | true; exit ${PIPESTATUS[0]}", (141, "")),
    ]:
        script = f"{sys.executable} -m evomal.cli {command}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == expected, command


INTERRUPTED = """
import os, signal, sys
where, arguments = sys.argv[1], sys.argv[2:]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == where:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from evomal.cli import main
sys.exit(main(arguments))
"""


@pytest.mark.parametrize(
    "module", ["evomal.interrupts", "evomal.cli.command", "rich", "tyro", "evomal.runs.search"]
)
def test_ctrl_c_while_a_module_is_loaded(module: str) -> None:
    result = run_python("-c", INTERRUPTED, module, "methods")
    assert result == (130, "", "Interrupted.\n")


def test_deprecations_in_libraries_do_not_matter(tmp_path: Path) -> None:
    sizes = {"population-size": 2, "generations": 1, "meta-steps": 1, "testing-steps": 1}
    options = [f"--{name}={size}" for name, size in {**sizes, "rejection-steps": 1}.items()]
    arguments = ["search", "diabetes/mlp", "--preset=paper", *options, "--workers=2", "--json"]
    status, output, errors = run_python("-W", "error", "-m", "evomal.cli", *arguments, cwd=tmp_path)
    assert (status, errors) == (0, "")
    assert json.loads(output)["status"] == "finished"
    assert json.loads(output)["outcomes"]["failed"] == 0


@pytest.mark.parametrize("columns", ["0", "5"])
def test_no_terminal_is_too_narrow(
    columns: str, program: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    status, output, errors = program("methods")
    assert (status, errors) == (0, "")
    assert "evomal" in output
    status, output, _ = program("methods", "--help")
    assert status == 0
    assert "--json" in output
