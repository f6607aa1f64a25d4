"""The command line: what it prints, how it ends, what it leaves behind."""

from __future__ import annotations

import gzip
import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomal import SymbolicLoss, load_loss, save_loss
from evomal.cli import main
from evomal.losses.known import KNOWN_LOSSES
from evomal.methods.base import STATUSES
from evomal.methods.registry import METHODS, setting_names
from evomal.runs import run as run_module
from evomal.runs import search as search_module
from evomal.runs.run import Run
from evomal.runs.store import RunStore
from evomal.tasks.datasets import DATASETS
from evomal.tasks.registry import TASKS
from run_helpers import (
    contents,
    known_to,
    made_up_formulas,
    run_in_terminal,
    run_python,
    running,
    without_timing,
)

TINY = {
    "preset": "paper",
    "population-size": 4,
    "meta-steps": 1,
    "testing-steps": 2,
    "rejection-steps": 5,
}
OPTIONS = [f"--{name}={value}" for name, value in {**TINY, "generations": 2, "seed": 1}.items()]
SEARCH = ["search", "diabetes/mlp", *OPTIONS]
IN_PROCESS = [*SEARCH, "--workers", "1"]
SQUARED_ERROR = "square(sub(y, f))"
TWICE_SQUARED_ERROR = "mul(add(1, 1), square(sub(y, f)))"  # ahead after a few steps
LONG = "add(y, " * 60 + "f" + ")" * 60
LOSS_KEYS = {"expression", "formula", "latex", "python", "nodes", "link", "inputs", "phi"}
BEST_KEYS = {*LOSS_KEYS, "fitness", "value"}
SUMMARY_KEYS = {"best", "task_loss_fitness", "hall_of_fame", "outcomes", "generations", "task"}
SUMMARY_KEYS |= {"method", "seed", "run_dir", "timing"}

Evomal = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evomal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Evomal:
    """Run a command in an empty directory, without sympy: exit status, output, error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "printed_forms", made_up_formulas)

    def evomal(*arguments: object) -> tuple[int, str, str]:
        try:
            status: Any = main([str(argument) for argument in arguments])
        except SystemExit as end:  # after errors in parsing
            status = end.code
        return status, *capsys.readouterr()

    return evomal


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory and the output of a search in a process of its own."""
    run_dir = tmp_path_factory.mktemp("cli") / "run"
    status, output, errors = run_python("-m", "evomal.cli", *SEARCH, "--run-dir", str(run_dir))
    assert (status, errors) == (0, "")
    return run_dir, output


def only_error(result: tuple[int, str, str]) -> str:
    """The one line that a user's error leads to."""
    status, output, errors = result
    assert status == 2, errors
    assert output == ""
    assert re.fullmatch(r"Error: .*\n", errors), errors
    return errors


def test_a_search_prints_its_progress_and_result(finished: tuple[Path, str]) -> None:
    run_dir, output = finished
    best = Run(run_dir).summary()["best"]
    lines = output.splitlines()
    assert re.fullmatch(r"Run \S+run\.", lines[0])
    assert re.fullmatch(r"The task loss itself scores 0\.\d+\.", lines[1])
    for number, line in enumerate(lines[2:4], start=1):
        time = r"\d+:\d\d:\d\d"
        pattern = rf"Generation {number}/2: best \S+, \d+ \w+.*; {time}, about {time} left"
        assert re.fullmatch(pattern, line)
    assert "fitness  nodes  formula" in output
    assert f"{best['fitness']:.4g}" in output
    assert re.fullmatch(r"Candidates: .*; \d\.\d new losses trained per generation", lines[-2])
    assert lines[-1] == f"The best loss is saved in {run_dir / 'best.json'}."
    own = Run(run_dir).task_loss_fitness  # a few steps of a few losses do not beat it
    verdict = f"is worse than the task loss: {best['fitness']:.4g} against {own:.4g}, and lower"
    assert verdict in " ".join(output.split())


def test_show_describes_a_run(finished: tuple[Path, str], evomal: Evomal) -> None:
    run_dir, _ = finished
    before = contents(run_dir)
    status, output, errors = evomal("show", run_dir, "--json")
    assert (status, errors, output.count("\n")) == (0, "", 1)
    summary = json.loads(output)
    assert summary.keys() >= SUMMARY_KEYS
    assert summary["best"].keys() == BEST_KEYS
    assert all(entry.keys() == BEST_KEYS for entry in summary["hall_of_fame"])
    assert summary["best"] in summary["hall_of_fame"]
    assert summary["outcomes"].keys() == set(STATUSES)
    assert sum(summary["outcomes"].values()) == 4 + 3
    assert len(summary["generations"]) == 2
    assert all(g.keys() == {"best", "mean", *STATUSES} for g in summary["generations"])
    assert (summary["task"], summary["method"], summary["seed"]) == ("diabetes/mlp", "evomal", 1)
    best = load_loss(run_dir / "best.json")
    assert isinstance(best, SymbolicLoss)
    assert best.phi.tolist() == summary["best"]["phi"]
    assert len(summary["best"]["phi"]) == summary["best"]["nodes"] - 1
    status, output, errors = evomal("show", run_dir)
    assert (status, errors) == (0, "")
    assert "fitness  nodes  formula" in output
    assert "latex" in output
    assert contents(run_dir) == before


def test_two_searches_differ_in_timing_and_place_alone(
    evomal: Evomal, finished: tuple[Path, str]
) -> None:
    printed = [evomal(*IN_PROCESS, "--json") for _ in range(2)]
    assert [(status, out.count("\n"), err) for status, out, err in printed] == [(0, 1, "")] * 2
    first, second = (json.loads(output) for _, output, _ in printed)
    assert [first["run_dir"], second["run_dir"]] == ["runs/0001", "runs/0002"]
    assert without_timing(first) == without_timing(second)
    assert without_timing(Run("runs/0001").summary()) == without_timing(first)
    elsewhere = Run(finished[0]).summary()  # another process, other workers
    assert elsewhere["generations"] == first["generations"]
    assert elsewhere["best"]["phi"] == first["best"]["phi"]
    rest = json.dumps(without_timing(first))
    assert not re.search(r"\d{4}-\d\d-\d\d|seconds|runs/|" + re.escape(str(Path.cwd())), rest)


@pytest.mark.parametrize("method", METHODS)
def test_a_quiet_search_prints_nothing(evomal: Evomal, method: str) -> None:
    sizes = known_to(method, {name.replace("-", "_"): value for name, value in TINY.items()})
    options = [f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()]
    if "generations" in setting_names(method):
        options.append("--generations=2")
    search = ["search", "diabetes/mlp", *options, "--workers=1", "--seed=1", "--method", method]
    assert evomal(*search, "--quiet") == (0, "", "")
    assert Run("runs/0001").facts.status == "finished"
    status, output, errors = evomal("show", "runs/0001")
    assert (status, errors) == (0, "")
    assert f"{method} on diabetes/mlp, seed 1, finished" in output


def test_a_preset_sets_the_defaults(evomal: Evomal) -> None:
    status, output, _ = evomal(*IN_PROCESS, "--json", "--preset", "quick")
    settings = json.loads(output)["settings"]
    assert status == 0
    assert (settings["meta_steps"], settings["generations"]) == (1, 2)
    assert settings["prescreen"] is True
    assert settings["rejection_batch"] == 100


def test_tasks_and_methods_are_listed(evomal: Evomal, data_dir: Path) -> None:
    status, output, errors = evomal("tasks", "--json", "--data-dir", data_dir)
    assert (status, errors, output.count("\n")) == (0, "", 1)
    rows = json.loads(output)
    assert [row["name"] for row in rows] == list(TASKS)
    assert all(row.keys() == {"name", "parameters", "data"} for row in rows)
    there = ("diabetes", "boston", "california", "mnist", "cifar10")
    assert {row["data"] for row in rows if row["name"].split("/")[0] in there} == {"present"}
    assert {row["name"]: row["parameters"] for row in rows}["mnist/lenet5"] == 44426
    (Path.cwd() / "empty").mkdir()
    absent = json.loads(evomal("tasks", "--json", "--data-dir", "empty")[1])
    included = {row["name"] for row in absent if row["data"] == "present"}
    assert included == {"diabetes/mlp", "digits/mlp", "breast-cancer/mlp", "eights/mlp"}
    tasks, methods = evomal("tasks")[1], evomal("methods")[1]
    assert all(name in tasks for name in TASKS)
    assert all(name in methods for name in METHODS)


def test_show_describes_a_loss(evomal: Evomal) -> None:
    save_loss(SymbolicLoss(SQUARED_ERROR, [1.0, 2.0, 3.0], link="softmax"), "loss.json")
    for what, link, weights in [
        ("loss.json", "softmax", [1.0, 2.0, 3.0]),
        (SQUARED_ERROR, "identity", [1.0, 1.0, 1.0]),
        (LONG, "identity", [1.0] * 120),
    ]:
        status, output, errors = evomal("show", what, "--json")
        assert (status, errors, output.count("\n")) == (0, "", 1)
        details = json.loads(output)
        assert details.keys() == LOSS_KEYS
        assert (details["link"], details["phi"]) == (link, weights)
        assert details["expression"] == (SQUARED_ERROR if len(weights) == 3 else LONG)
        assert "latex" in evomal("show", what)[1]


def test_train_compares_with_the_task_loss(evomal: Evomal, finished: tuple[Path, str]) -> None:
    save_loss(SymbolicLoss(SQUARED_ERROR), "loss.json")
    values = {}
    for loss in (SQUARED_ERROR, "loss.json", finished[0], finished[0] / "best.json"):
        status, output, errors = evomal(
            *("train", "diabetes/mlp", "--loss", loss, "--steps", 3, "--seeds", 2, "--json")
        )
        assert (status, errors, output.count("\n")) == (0, "", 1)
        result = json.loads(output)
        assert result.keys() == {"metric", "direction", "learned", "task_loss", "differences"}
        assert result["metric"] == "mean_squared_error"
        for sample in (result["learned"], result["task_loss"]):
            a, b = sample["values"]
            assert sample["mean"] == pytest.approx((a + b) / 2)
            assert sample["std"] == pytest.approx(abs(a - b) / 2**0.5)
        values[loss] = result["learned"]["values"], result["task_loss"]["values"]
    learned, own = values[SQUARED_ERROR]
    assert learned == pytest.approx(own, rel=1e-5)
    assert values["loss.json"] == values[SQUARED_ERROR]
    assert values[finished[0]] == values[finished[0] / "best.json"]
    assert values[finished[0]][0] != pytest.approx(own, rel=1e-3)
    assert values[finished[0]][1] == own


def test_train_tunes_all_losses_alike(evomal: Evomal) -> None:
    arguments = ["train", "diabetes/mlp", "--loss", SQUARED_ERROR, "--steps", 2]
    arguments += ["--against", "abs(sub(y, f)),huber:1", "--tune", "learning-rate,steps"]
    result = json.loads(evomal(*arguments, "--json")[1])
    fields = {"metric", "direction", "learned", "task_loss", "against", "differences"}
    assert result.keys() == {*fields, "tuned"}
    assert result["tuned"].keys() == fields
    assert result["learned"]["std"] is None
    assert list(result["against"]) == ["abs(sub(y, f))", "huber:1"]
    assert result["tuned"]["learned"]["recipes"] == result["tuned"]["task_loss"]["recipes"]
    assert result["tuned"]["differences"]["huber:1"]["interval"] is None
    status, output, errors = evomal(*arguments)
    assert (status, errors) == (0, "")
    for text in ("task loss, tuned", "huber:1, tuned", "(64 of 64)", "one seed gives no interval"):
        assert text in output
    assert evomal(*arguments, "--quiet") == (0, "", "")


def test_train_on_several_splits(evomal: Evomal) -> None:
    arguments = ["train", "diabetes/mlp", "--loss", "huber:1", "--steps", 2, "--seeds", 2]
    whole = json.loads(evomal(*arguments, "--splits", 3, "--json")[1])
    first = json.loads(evomal(*arguments, "--json")[1])
    assert len(whole["learned"]["values"]) == 6
    assert whole["learned"]["values"][:2] == first["learned"]["values"]
    assert whole["differences"]["learned"]["unit"] == "split"
    output = evomal(*arguments, "--splits", 3)[1]
    assert "learned loss, split 2, seed 1" in output
    assert "A search uses split 0" in output


def test_a_search_can_be_stopped_and_resumed(evomal: Evomal) -> None:
    assert evomal(*IN_PROCESS, "--quiet", "--run-dir", "whole") == (0, "", "")
    status, output, errors = evomal(*IN_PROCESS, "--run-dir", "run", "--max-evaluations", 1)
    assert (status, errors) == (0, "")
    assert "seed 1, stopped (max_evaluations of 1 reached) after " in " ".join(output.split())
    assert "To continue: evomal resume run\n" in output
    status, output, errors = evomal("resume", "run", "--workers", 1)
    assert (status, errors) == (0, "")
    done = sum(Run("whole").summary()["outcomes"].values())
    assert re.match(r"Run run, \d+ candidates already finished\.\nThe task loss itself ", output)
    assert "seed 1, finished after " in output
    assert "To continue" not in output
    assert without_timing(Run("run").summary()) == without_timing(Run("whole").summary())
    status, output, errors = evomal("resume", "run")
    assert (status, errors) == (0, "")
    assert output.startswith("The run in run is finished.")
    before = contents(Path("run"))
    status, output, errors = evomal("resume", "run", "--json")
    assert (status, errors, output.count("\n")) == (0, "", 1)
    assert sum(json.loads(output)["outcomes"].values()) == done
    assert evomal("resume", "run", "--quiet") == (0, "", "")
    assert contents(Path("run")) == before
    status, output, errors = evomal("resume", "run", "--generations", 3, "--workers", 1)
    assert (status, errors) == (0, "")
    assert "Generation 3/3" in output


def test_one_loss_for_several_tasks(evomal: Evomal, data_dir: Path) -> None:
    tasks = ["diabetes/mlp", "boston/mlp"]
    status, output, errors = evomal(
        *("search", *tasks, *OPTIONS, "--workers", 1, "--data-dir", data_dir),
        *("--initial-losses", TWICE_SQUARED_ERROR),
    )
    assert (status, errors) == (0, "")
    assert "on diabetes/mlp, boston/mlp, seed 1" in output
    assert "mean over the tasks" in " ".join(output.split())
    both_kinds = evomal("search", "diabetes/mlp", "mnist/mlp", "--data-dir", data_dir)
    assert "but the same link" in only_error(both_kinds)
    assert f"Next: evomal train diabetes/mlp --loss runs/0001 --data-dir {data_dir}" in output
    assert json.loads(evomal("show", "runs/0001", "--json")[1])["task"] == tasks


def test_initial_losses_open_generation_0(evomal: Evomal) -> None:
    save_loss(SymbolicLoss("tanh(sub(y, f))"), "loss.json")
    losses = ["square(sub(f, y))", "absolute-error", "loss.json"]
    assert evomal(*IN_PROCESS, "--quiet", "--initial-losses", *losses) == (0, "", "")
    assert evomal(*IN_PROCESS, "--quiet") == (0, "", "")
    stores = [RunStore.open(Path("runs") / name) for name in ("0001", "0002")]
    seeded, plain = [[str(o.candidate.loss) for o in store.outcomes()] for store in stores]
    settings = stores[0].facts()["settings"]
    for store in stores:
        store.close()
    expressions = ["square(sub(f, y))", "abs(sub(y, f))", "tanh(sub(y, f))"]
    assert settings["initial_losses"] == expressions
    assert all(e in loss for e, loss in zip(expressions, seeded, strict=False))
    assert seeded[3] == plain[3], "the rest of the population is as without"
    assert seeded[:3] != plain[:3]


def test_data_sets_are_listed_and_verified(evomal: Evomal, data_dir: Path) -> None:
    rows = json.loads(evomal("data", "list", "--json", "--data-dir", data_dir)[1])
    assert [row["name"] for row in rows] == list(DATASETS)
    present = {row["name"] for row in rows if row["data"] == "present"}
    assert present >= {"diabetes", "boston", "california", "mnist", "cifar10"}
    status, output, errors = evomal("data", "verify", "mnist", "--json", "--data-dir", data_dir)
    assert (status, errors) == (0, "")
    (row,) = json.loads(output)
    assert row["data"] == "verified"
    for name in DATASETS["mnist"].files:
        place = Path("copy") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        content = (data_dir / name).read_bytes()
        if "t10k-labels" in name:  # other labels, well packed
            content = gzip.compress(gzip.decompress(content)[:-1] + b"\x07")
        place.write_bytes(content)
    assert "t10k-labels" in only_error(evomal("data", "verify", "--data-dir", "copy"))
    assert "mnist" in evomal("data", "list", "--data-dir", "copy")[1]


def test_known_losses_are_listed_and_taken(evomal: Evomal) -> None:
    rows = json.loads(evomal("losses", "--json")[1])
    assert [row["name"] for row in rows if row["expression"]] == list(KNOWN_LOSSES)
    assert all(name in evomal("losses")[1] for name in KNOWN_LOSSES)
    details = json.loads(evomal("show", "cross-entropy", "--json")[1])
    assert (details["link"], details["nodes"]) == ("softmax", 6)
    train = ["train", "diabetes/mlp", "--steps", 3, "--json", "--loss"]
    values = [json.loads(evomal(*train, loss)[1]) for loss in ("squared-error", SQUARED_ERROR)]
    assert values[0] == values[1]


ERRORS: dict[str, tuple[list[str], str]] = {
    "task": (["search", "nonsense/mlp"], "nonsense/mlp"),
    "method": ([*IN_PROCESS, "--method", "nonsense"], "nonsense"),
    "setting": ([*IN_PROCESS, "--population-size", "0"], "population_size"),
    "rates": ([*IN_PROCESS, "--crossover-rate", "0.9"], "crossover_rate"),
    "workers": ([*SEARCH, "--workers", "0"], "workers"),
    "device": ([*IN_PROCESS, "--device", "nonsense"], "nonsense"),
    "patience": ([*IN_PROCESS, "--patience", "0"], "patience"),
    "time": ([*IN_PROCESS, "--max-time", "-1"], "max_time"),
    "address": ([*IN_PROCESS, "--ray-address", "auto"], "--executor ray"),
    "no task": (["search"], "at least one task"),
    "the same task twice": (["search", "diabetes/mlp", "diabetes/mlp"], "different names"),
    "initial loss": ([*IN_PROCESS, "--initial-losses", "sub(y"], "sub(y"),
    "initial loss without y": ([*IN_PROCESS, "--initial-losses", "abs(f)"], "both y and f"),
    "high initial loss": ([*IN_PROCESS, "--initial-losses", LONG], "max_height"),
    "too many initial losses": (
        [*IN_PROCESS, "--initial-losses", *[SQUARED_ERROR] * 5],
        "5 initial",
    ),
    "resume nothing": (["resume", "absent"], "absent"),
    "unknown data set": (["data", "list", "nonsense"], "nonsense"),
    "download nothing": (["data", "download"], "Give the data sets"),
    "verify absent data": (["data", "verify", "svhn", "--data-dir", "absent"], "'svhn' is not in"),
    "resume a file": (["resume", "file"], "'file'"),
    "data": (["search", "boston/mlp", "--data-dir", "absent"], "'absent'"),
    "empty table": (["search", "boston/mlp", "--data-dir", "empty"], "housing.data"),
    "corrupt table": (["search", "boston/mlp", "--data-dir", "corrupt"], "housing.data"),
    "corrupt images": (["search", "mnist/mlp", "--data-dir", "corrupt"], "train-images"),
    "run_dir is a file": ([*IN_PROCESS, "--run-dir", "file"], "'file'"),
    "run_dir below a file": ([*IN_PROCESS, "--run-dir", "file/run"], "'file/run'"),
    "published images": (["train", "mnist/mlp", "--loss", "f", "--split", "published"], "mnist"),
    "show nothing": (["show", "absent"], "absent"),
    "show a broken expression": (["show", "sub(y, f"], "sub(y, f"),
    "show a broken long expression": (["show", LONG + ")"], "at position 482 of"),
    "show lines": (["show", "sub(y,\nf,\nf)"], "sub(y"),
    "show an absent file": (["show", "absent.json"], "absent.json"),
    "show another file": (["show", "file"], "'file'"),
    "loss is absent": (["train", "diabetes/mlp", "--loss", "no/loss.json"], "no/loss.json"),
    "loss is malformed": (["train", "diabetes/mlp", "--loss", "sub(y)"], "sub(y)"),
    "loss has another link": (["train", "diabetes/mlp", "--loss", "softmax.json"], "softmax"),
    "loss without f": (["train", "diabetes/mlp", "--loss", "y", "--steps", "1"], "prediction"),
    "steps": (["train", "diabetes/mlp", "--loss", "loss.json", "--steps", "0"], "--steps"),
    "what to tune": (["train", "diabetes/mlp", "--loss", "f", "--tune", "rate"], "learning-rate"),
    "splits": (["train", "diabetes/mlp", "--loss", "f", "--splits", "0"], "--splits"),
    "splits of the published split": (
        ["train", "diabetes/mlp", "--loss", "f", "--splits", "2", "--split", "published"],
        "published",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_users_error_is_one_line_and_changes_nothing(evomal: Evomal, case: str) -> None:
    arguments, named = ERRORS[case]
    save_loss(SymbolicLoss(SQUARED_ERROR), "loss.json")
    save_loss(SymbolicLoss(SQUARED_ERROR, link="softmax"), "softmax.json")
    files = {
        "file": b"mine",
        "corrupt/boston/housing.data": b"1.0 two 3.0\n",
        "empty/boston/housing.data": b"",
        "corrupt/MNIST/raw/train-images-idx3-ubyte.gz": gzip.compress(b"images")[:-4],
    }
    for name in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        files[f"corrupt/MNIST/raw/{name}-ubyte.gz"] = gzip.compress(b"")
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    before = contents(Path.cwd())
    folders = sorted(Path.cwd().rglob("*"))
    assert named in only_error(evomal(*arguments))
    assert contents(Path.cwd()) == before
    assert sorted(Path.cwd().rglob("*")) == folders


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        [*IN_PROCESS, "--nonsense"],
        [*IN_PROCESS, "--population-size", "many"],
        [*IN_PROCESS, "--preset", "nonsense"],
        [*IN_PROCESS, "--workers", "many"],
        ["train", "diabetes/mlp"],
    ],
    ids=" ".join,
)
def test_a_command_that_cannot_be_parsed_exits_2(evomal: Evomal, arguments: list[str]) -> None:
    status, output, errors = evomal(*arguments)
    assert (status, output) == (2, "")
    assert errors.strip()
    assert "Traceback" not in errors
    assert list(Path.cwd().iterdir()) == []


def test_an_occupied_run_dir_is_left_as_it_was(evomal: Evomal, finished: tuple[Path, str]) -> None:
    run_dir, _ = finished
    before = contents(run_dir)
    assert str(run_dir) in only_error(evomal(*IN_PROCESS, "--run-dir", run_dir))
    assert contents(run_dir) == before


SCRIPT = str(Path(sys.executable).with_name("evomal"))


@pytest.mark.parametrize("command", [["-m", "evomal.cli"], [SCRIPT]], ids=["module", "script"])
def test_the_exit_status_reaches_the_shell(command: list[str]) -> None:
    assert "nonsense" in only_error(run_python(*command, "search", "nonsense"))


def test_an_early_interrupt_exits_130(evomal: Evomal, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search_module, "open_executor", interrupt)
    status, _, errors = evomal(*IN_PROCESS)
    assert status == 130
    assert "Error" not in errors


def test_ctrl_c_ends_a_search_with_all_it_has(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    low = ["--min-initial-height=1", "--max-initial-height=1", "--max-height=3"]  # soon printed
    arguments = [*IN_PROCESS, *low, "--generations", "25", "--run-dir", str(run_dir)]
    with running("-m", "evomal.cli", *arguments) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("Generation 1/25") for line in lines)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert "interrupted" in output
    run = Run(run_dir)
    assert run.facts.status == "interrupted"
    assert 1 <= len(run.generations) < 25
    assert load_loss(run_dir / "best.json").to_dict() == run.best.loss.to_dict()


def test_a_terminal_shows_a_live_display(tmp_path: Path) -> None:
    status, text = run_in_terminal("-m", "evomal.cli", *IN_PROCESS, cwd=tmp_path)
    assert status == 0, text
    assert "Traceback" not in text
    assert "\x1b[" in text, "no live display"
    assert "candidate 0 of about 7" in text
    best = Run(tmp_path / "runs" / "0001").best
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text)
    leaderboard = plain[plain.index("fitness  nodes  formula") :]
    assert re.search(rf"{best.fitness:.4g} +{best.size} +\S", leaderboard)
    assert "Candidates: " in leaderboard
