"""Dual-point analysis against the paper's closed forms (appendix A.3 to A.5), and its command."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import evomal
from evomal.analysis import analysis as analysis_module
from evomal.analysis.analysis import analyze, confirmed
from evomal.analysis.closed_forms import (
    ClosedForm,
    closed_forms,
    delta_absolute_cross_entropy,
    delta_cross_entropy,
    delta_label_smoothing,
)
from evomal.analysis.dual_point import Delta, DualPoint, distance, dual_points, references
from evomal.analysis.limits import STEPS, limit_of
from evomal.analysis.probe import probe
from evomal.cli import analyze as command
from evomal.cli import main
from evomal.errors import InputError
from evomal.expressions.expression import Expression
from evomal.losses.form import Link
from evomal.losses.symbolic import SymbolicLoss
from run_helpers import TINY, run_python
from strategies import expressions, fast, weights_of
from tasks_for_tests import classification_task

CROSS_ENTROPY = "mul(-1, mul(y, log(f)))"
ACE = "mul(y, abs(log(f)))"
LSR = "mul(add(y, 1), log(f))"
FOCAL = "mul(square(sub(1, f)), mul(-1, mul(y, log(f))))"
CLASSES = [3, 10, 1000]
F = [0.02, 0.3, 0.77, 0.99]


def softmax_loss(expression: str, weights: Sequence[float] | None = None) -> SymbolicLoss:
    phi = None if weights is None else torch.tensor(weights, dtype=torch.double)
    return SymbolicLoss(expression, phi, link="softmax")


def ace(phi_0: float, phi_1: float) -> SymbolicLoss:
    return softmax_loss(ACE, [1.0, phi_0, 1.0, phi_1])


def lsr(classes: int, smoothing: float) -> SymbolicLoss:
    return softmax_loss(LSR, [1.0, smoothing - 1, -smoothing / classes, 1.0, 1.0])


def in_f(loss: object, classes: int) -> DualPoint:
    found, _ = dual_points(probe(loss, classes))
    assert found is not None
    return found


def close(values: tuple[float | None, ...]) -> Any:
    return pytest.approx(values, rel=1e-5, abs=1e-9)


def without_sympy(*_: Any, **__: Any) -> tuple[None, None]:
    return None, None


# Equations (23), (27), (33)


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_derivatives_are_those_of_the_paper(y: float) -> None:
    f = torch.tensor(F, dtype=torch.double)
    known: list[tuple[SymbolicLoss, Callable[[float], float]]] = [
        (softmax_loss(CROSS_ENTROPY), lambda f: delta_cross_entropy(y, f)),
        (lsr(7, 0.2), lambda f: delta_label_smoothing(y, f, 7, 0.2)),
        (ace(0.7, 1.2), lambda f: delta_absolute_cross_entropy(y, f, 0.7, 1.2)),
    ]
    for loss, delta in known:
        found = -probe(loss, 7).slopes(torch.full_like(f, y), f)
        assert found.tolist() == pytest.approx([delta(p) for p in F], rel=1e-9)


@pytest.mark.parametrize("classes", CLASSES)
def test_cross_entropy_has_the_published_dual_points(classes: int) -> None:
    for loss in (softmax_loss(CROSS_ENTROPY), references("softmax", classes)["cross-entropy"]):
        found = in_f(loss, classes) if isinstance(loss, SymbolicLoss) else dual_points(loss)[0]
        assert found is not None
        assert found.values == close((classes, 0, 1, 0))  # (28), (30)
        assert found.pushes_back is False


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("phi_0", "phi_1"), [(1, 1), (0.3, 0.5), (1, 1.1), (2, 1.9)])
def test_absolute_cross_entropy_has_the_published_dual_points(
    classes: int, phi_0: float, phi_1: float
) -> None:
    found = in_f(ace(phi_0, phi_1), classes)
    end = -phi_0 if phi_1 > 1 else phi_0  # (39), (31)
    assert found.values == close((phi_0 * classes, 0, end, 0))  # (29), (36)
    assert found.pushes_back is (phi_1 > 1)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("xi", [0.1, 0.4])
def test_label_smoothing_has_the_published_dual_points(classes: int, xi: float) -> None:
    found = in_f(lsr(classes, xi), classes)
    target = classes - classes * xi + xi
    assert found.values == close((target, xi, 1 - xi + xi / classes, math.inf))  # (34), (37)
    assert found.pressure == (1, -1)  # (35), (38)
    assert found.pushes_back is True


@pytest.mark.parametrize("classes", CLASSES)
def test_the_focal_loss_has_no_pull_at_zero_error(classes: int) -> None:
    f = 1 / classes
    null = (1 - f) ** 2 / f - 2 * (1 - f) * math.log(f)  # by hand, from equation (50)
    assert in_f(softmax_loss(FOCAL), classes).values == close((null, 0, 0, 0))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_derivatives_in_the_logits(classes: int, smoothing: float) -> None:
    soft = smoothing / classes
    at_target, elsewhere = 1 - smoothing + soft, soft  # δ in the logits is target minus f
    f = 1 / classes
    expected = (at_target - f, elsewhere - f, at_target - 1, elsewhere)
    by_elements = dual_points(probe(lsr(classes, smoothing), classes))[1]
    none, by_logits = dual_points(probe(nn.CrossEntropyLoss(label_smoothing=smoothing), classes))
    assert none is None
    assert by_elements.values == close(expected)
    assert by_logits.values == close(expected)
    assert by_logits.pressure == by_elements.pressure


def test_with_a_sigmoid_the_points_are_those_of_one_output() -> None:
    for name, loss in references("sigmoid", 2).items():
        of_f, of_logits = dual_points(loss)
        assert of_f is not None
        pull = {
            "cross-entropy": (2, -2, 1, -1),
            "label smoothing": (1.8, -1.8, -math.inf, math.inf),
        }
        assert name == "focal" or of_f.values == close(pull[name])
        logits = {"cross-entropy": (0.5, -0.5, 0, 0), "label smoothing": (0.45, -0.45, -0.05, 0.05)}
        assert name == "focal" or of_logits.values == close(logits[name])


def test_the_protection_stays_where_it_is_the_loss() -> None:
    found = in_f(softmax_loss("mul(f, log(mul(y, f)))"), 10)  # ℓ(0, f) is f log ε
    assert found.null_epoch.non_target == pytest.approx(-math.log(1e-7))
    assert found.zero_error.non_target == pytest.approx(-math.log(1e-7), rel=1e-5)


class Smoothed(nn.Module):
    """Not one of evomal's, but with elements."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(pred, target, label_smoothing=0.1)

    def elementwise(self, y: Tensor, f: Tensor) -> Tensor:
        return -(y * 0.9 + 0.1 / f.shape[1]) * f.log()


def test_any_callable_is_analysed_by_what_it_offers() -> None:
    offers = {"f": Smoothed(), "logits": lambda z, t: Smoothed()(z, t)}
    for variable, loss in offers.items():
        fields = analyze(loss, 10, name="mine", measure=False)
        assert fields["with_respect_to"] == variable
        assert fields["comparison"]["nearest"] == "label smoothing"
        assert fields["comparison"]["losses"]["label smoothing"]["distance"] < 1e-6
        assert fields["closed_form"] == {"target": None, "non_target": None}
        end = fields["logits"]["zero_error"]
        assert (end["target"], end["non_target"]) == pytest.approx((-0.09, 0.01), abs=1e-6)
        points = fields if variable == "f" else fields["logits"]
        assert points["zero_error"]["non_target"] == (
            "inf" if variable == "f" else end["non_target"]
        )


# Comparison


@pytest.mark.parametrize(
    ("loss", "nearest", "same_signs"),
    [
        (ace(1, 1), "cross-entropy", ["cross-entropy"]),
        (ace(1, 1.1), "label smoothing", []),  # section A.5.4: alike in what dominates
        (lsr(10, 0.2), "label smoothing", ["label smoothing"]),
        (softmax_loss(FOCAL), "focal", ["focal"]),
    ],
    ids=["ACE 1", "ACE 1.1", "LSR", "focal"],
)
def test_the_nearest_loss(loss: SymbolicLoss, nearest: str, same_signs: list[str]) -> None:
    comparison = analyze(loss, 10, measure=False)["comparison"]
    assert comparison["nearest"] == nearest
    assert comparison["same_signs"] == same_signs


def test_the_distance_is_bounded_and_zero_for_equals() -> None:
    def point(*v: float | None) -> DualPoint:
        return DualPoint(Delta(v[0], v[1]), Delta(v[2], v[3]), (1, 1))

    a, b = point(1, 0, math.inf, -1), point(3, 0, -math.inf, -1)
    assert distance(a, a) == 0
    assert distance(a, b) == pytest.approx((0.25 + 0 + 2 + 0) / 4)
    assert distance(a, point(1, None, 1, 1)) is None


# Limits

LIMITS: dict[str, tuple[Callable[[float], float], float | None]] = {
    "constant": (lambda t: 0.3, 0.3),
    "zero": (lambda t: 0.0, 0.0),
    "linear": (lambda t: 2 - 5 * t, 2.0),
    "rational": (lambda t: 1 / (1 - t), 1.0),
    "to zero": (lambda t: 3 * t**2, 0.0),
    "root": (lambda t: 1 + math.sqrt(t), 1.0),
    "t log t": (lambda t: t * math.log(t), 0.0),
    "pole": (lambda t: 1 / t, math.inf),
    "negative root pole": (lambda t: 7 - 1 / math.sqrt(t), -math.inf),
    "logarithm": (lambda t: -math.log(t), math.inf),
    "small logarithm": (lambda t: 1e-3 * math.log(t), -math.inf),
    "large": (lambda t: 1e9 + t, 1e9),
    "protected share": (lambda t: -0.09 * t / (t + 1e-7), -0.09),
    "protected sum": (lambda t: 0.9 * t / (1 - t) - 0.09 * t / (t + 1e-7), -0.09),
    "protected by linear": (lambda t: t - 0.1998 * (1 - t) * t / (t + 1e-7), -0.1998),
    "protected t log t": (lambda t: t * math.log(t) - 0.3 * t / (t + 1e-7), -0.3),
    "slow logarithm": (lambda t: 5 + 0.01 * math.log(t), None),
    "late kink": (lambda t: 1.0 if t > 1e-4 else -1.0, None),
    "oscillation": (lambda t: math.cos(math.pi * math.log2(t)), None),
    "too slow": (lambda t: 1 / math.log(t), None),
    "overflow": (lambda t: math.inf, None),
    "no number": (lambda t: math.nan, None),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name: str) -> None:
    function, expected = LIMITS[name]
    found = limit_of([function(t) for t in STEPS])
    if expected is None or math.isinf(expected):
        assert found == expected
    else:
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


# Closed forms by sympy


@pytest.mark.parametrize(
    ("loss", "target", "non_target"),
    [
        (softmax_loss(CROSS_ENTROPY), ("1/f", "10", "1"), ("0", "0", "0")),
        (ace(1, 1), ("-sign(log(f))/f", "10", "1"), ("0", "0", "0")),
        (ace(1, 1.5), ("-sign(log(3*f/2))/f", "10", "-1"), ("0", "0", "0")),
        (lsr(10, 0.5), ("11/(20*f)", "11/2", "11/20"), ("1/(20*f)", "1/2", "inf")),
        (softmax_loss("sqrt(sub(y, f))"), (None, "sqrt(10)/6", "inf"), (None, None, "-inf")),
        (softmax_loss("max(y, f)"), (None, "0", "0"), ("-1", "-1", "-1")),
        (softmax_loss("mul(f, f)"), ("-2*f", "-1/5", "-2"), ("-2*f", "-1/5", "0")),
    ],
    ids=lambda x: str(x.expression) if isinstance(x, SymbolicLoss) else "",
)
def test_closed_forms(
    loss: SymbolicLoss, target: tuple[str | None, ...], non_target: tuple[str | None, ...]
) -> None:
    forms = closed_forms(loss, 10, time_limit=60.0)
    for form, expected in zip(forms, (target, non_target), strict=True):
        assert form is not None
        found = (form.formula, form.null_epoch, form.zero_error)
        assert [(a, b) for a, b in zip(found, expected, strict=True) if b not in (None, a)] == []
    assert confirmed(forms, in_f(loss, 10)) == forms


def test_a_closed_form_that_the_numbers_contradict_is_left_out() -> None:
    found = in_f(ace(1, 1), 10)
    right, zero = ClosedForm("1/f", "10", "1", 10.0, 1.0), ClosedForm("0", "0", "0", 0.0, 0.0)
    assert confirmed((right, zero), found) == (right, zero)
    wrong = ClosedForm("1/f", "10", "-inf", 10.0, -math.inf)
    assert confirmed((wrong, None), found) == (None, None)


def test_a_closed_form_tells_what_numbers_cannot() -> None:
    fields = analyze(ace(1, 1.0001), 10, measure=False)  # turns at 1 - f = 1e-4
    assert fields["zero_error"] == {"target": -1.0, "non_target": 0.0}
    assert fields["logits"]["zero_error"] == {"target": 0.0, "non_target": 0.0}
    assert fields["pushes_back_overconfidence"] is True
    assert in_f(ace(1, 1.0001), 10).zero_error.target is None


def test_late_sympy_is_no_answer() -> None:
    assert closed_forms(softmax_loss(FOCAL), 10, time_limit=1e-4) == (None, None)


# The whole


def finite(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("link", ["softmax", "sigmoid", "identity"])
@fast
@given(expression=expressions(4), seed=st.integers(0, 2**32 - 1))
def test_every_expression_can_be_analysed(link: Link, expression: Expression, seed: int) -> None:
    loss = SymbolicLoss(expression, weights_of(expression, seed), link=link)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis_module, "closed_forms", without_sympy)
        fields = analyze(loss, 3 if link == "softmax" else None, measure=False)
    assert finite(json.dumps(fields)) == fields
    assert (fields["null_epoch"] is None) is (link == "identity")


@pytest.mark.parametrize(
    ("loss", "classes", "message"),
    [
        (softmax_loss(ACE), None, "number of classes"),
        (softmax_loss(ACE), 1, "at least 2"),
        (softmax_loss(ACE), 2.5, "a whole number, got 2.5"),
        (softmax_loss(ACE), True, "a whole number, got True"),
        (SymbolicLoss(ACE), 3, "no classes"),
        (SymbolicLoss(ACE, link="sigmoid"), 3, "has 2 classes"),
        (SymbolicLoss("mul(w, f)", link="softmax", inputs=["w"]), 3, "depends on w"),
    ],
)
def test_what_makes_no_sense_is_refused(loss: SymbolicLoss, classes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        analyze(loss, classes)


# The command

Evomal = Callable[..., tuple[int, str, str]]
KEYS = {
    "loss",
    "summary",
    "classes",
    "null_epoch",
    "zero_error",
    "card",
    "link",
    "expression",
    "phi",
}
DUAL_KEYS = {"with_respect_to", "logits", "closed_form", "pushes_back_overconfidence", "comparison"}


@pytest.fixture
def run_evomal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Evomal:
    """Run a command in an empty directory: exit status, output, error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run_evomal(*arguments: object) -> tuple[int, str, str]:
        return main([str(argument) for argument in arguments]), *capsys.readouterr()

    return run_evomal


def test_analyze_prints_one_json_object(run_evomal: Evomal) -> None:
    results = []
    for _ in range(2):
        status, output, errors = run_evomal("analyze", ACE, "--classes", 10, "--json")
        assert (status, errors, output.count("\n")) == (0, "", 1)
        results.append(finite(output))
    fields = results[0]
    assert fields.keys() == KEYS | DUAL_KEYS
    assert (fields["loss"], fields["classes"], fields["link"]) == (ACE, 10, "softmax")
    assert fields["null_epoch"] == {"target": 10.0, "non_target": 0.0}
    assert fields["zero_error"] == {"target": 1.0, "non_target": 0.0}
    assert fields["closed_form"]["target"]["formula"] == "-sign(log(f))/f"
    for row in (result["card"].pop("timing") for result in results):
        assert row.keys() == {"ns_per_element", "relative", "relative_to", "how"}
        assert row["ns_per_element"] > 0
    keys = {
        name: {"value", "how"} | ({"all"} if name == "minimum" else set())
        for name in fields["card"]
    }
    assert {name: row.keys() for name, row in fields["card"].items()} == keys
    assert results[0] == results[1], "all but the timing is the same"


@pytest.mark.parametrize(
    "arguments",
    [["focal", "--classes", 10], ["squared-error"], ["binary-cross-entropy"]],
    ids=lambda a: str(a[0]),
)
def test_analyze_prints_tables_of_80_columns(run_evomal: Evomal, arguments: list[Any]) -> None:
    status, output, errors = run_evomal("analyze", *arguments)
    assert (status, errors) == (0, "")
    assert max(map(len, output.splitlines())) <= 80
    assert ("null epoch, target" in output) is (arguments[0] != "squared-error")
    text = " ".join(output.split())
    assert re.search(r"ns per element", text)
    assert text.startswith(("Decreases towards", "Has its minimum")), "first what it does"
    explained = ["δ = -∂L/∂f", "z its logit", "ξ = 0.1", "γ = 2", "Null epoch:", "Zero error:"]
    assert [word in text for word in explained] == [arguments[0] != "squared-error"] * 6


def test_analyze_reads_runs_and_files(run_evomal: Evomal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_module, "closed_forms", without_sympy)
    run = evomal.search(classification_task(), run_dir="run", **TINY)
    status, output, errors = run_evomal("analyze", "run", "--classes", 3, "--json")
    assert (status, errors) == (0, "")
    assert finite(output)["phi"] == run.best.loss.phi.tolist()
    assert run_evomal("analyze", "run", "--json")[0] == 2, "of a task of the user's own"
    evomal.save_loss(run.best.loss, "loss.json")
    copy = finite(run_evomal("analyze", "loss.json", "--classes", 3, "--json")[1])
    assert copy["null_epoch"] == finite(output)["null_epoch"]
    evomal.search(evomal.load_task("diabetes/mlp"), run_dir="table", seed=1, **TINY)
    fields = finite(run_evomal("analyze", "table", "--json")[1])
    assert (fields.keys(), fields["null_epoch"]) == (KEYS, None)
    monkeypatch.setattr(evomal.Run, "task_names", ["cifar100/resnet18"])
    assert finite(run_evomal("analyze", "run", "--json")[1])["classes"] == 100


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([ACE, "--classes", "1"], "--classes"),
        (["nonsense", "--classes", "10"], "nonsense"),
        (["absent.json", "--classes", "10"], "absent.json"),
        (["cross-entropy"], "--classes"),
        (["squared-error", "--classes", "10", "--link", "identity"], "no dual points"),
        (["cross-entropy", "--classes", "2", "--link", "sigmoid"], "softmax"),
        (["binary-cross-entropy", "--classes", "10"], "2 classes"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input_is_one_line(run_evomal: Evomal, arguments: list[str], named: str) -> None:
    status, output, errors = run_evomal("analyze", *arguments)
    assert (status, output) == (2, "")
    assert re.fullmatch(r"Error: .*\n", errors)
    assert named in errors


def test_help_needs_no_torch() -> None:
    program = (
        "import sys; from evomal.cli import main\n"
        "try: main(['analyze', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'sympy'} & set(sys.modules)"
    )
    status, output, errors = run_python("-c", program)
    assert (status, errors) == (0, "")
    assert "--classes" in output
    assert command.__name__ == "evomal.cli.analyze"
