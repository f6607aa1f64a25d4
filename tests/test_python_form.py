"""The Python expression of a loss makes an equal loss again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import evomal
from evomal.cli import main
from evomal.expressions.expression import Expression
from evomal.losses.base import Loss
from evomal.losses.files import save_loss
from evomal.losses.symbolic import SymbolicLoss
from strategies import expressions, fast

ACE = "mul(y, abs(log(f)))"


def pasted(text: str | None) -> Loss:
    assert text is not None
    made = eval(text, {"evomal": evomal, "torch": torch, "__builtins__": {}})
    assert isinstance(made, Loss)
    return made


def same(one: Loss, two: Loss) -> bool:
    """Equal in all that a file would hold, to the last bit."""
    return json.dumps(one.to_dict()) == json.dumps(two.to_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@fast
@given(expression=expressions(4), seed=st.integers(0, 2**32 - 1))
def test_what_is_pasted_is_the_loss(dtype: torch.dtype, expression: Expression, seed: int) -> None:
    phi = np.random.default_rng(seed).normal(0, 3, len(expression) - 1)
    loss = SymbolicLoss(expression, torch.tensor(phi, dtype=dtype), link="softmax")
    assert same(pasted(loss.python_form()), loss)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (SymbolicLoss("square(sub(y, f))"), 'evomal.SymbolicLoss("square(sub(y, f))")'),
        (
            SymbolicLoss(ACE, [1.1, 1.0, 0.3, 2e-9], link="softmax"),
            f'evomal.SymbolicLoss("{ACE}", phi=[1.1, 1.0, 0.3, 2e-09], link="softmax")',
        ),
        (
            SymbolicLoss("abs(f)", torch.tensor([0.1], dtype=torch.double), reduction="sum"),
            'evomal.SymbolicLoss("abs(f)", phi=torch.tensor([0.1], dtype=torch.float64), '
            'reduction="sum")',
        ),
        (
            SymbolicLoss("mul(w, f)", None, "softmax", "softplus", "none", ["w"], [1.0, 2.5], 7),
            'evomal.SymbolicLoss("mul(w, f)", link="softmax", activation="softplus", '
            'inputs=["w"], reduction="none", weight=[1.0, 2.5], ignore_index=7)',
        ),
        (
            evomal.TaylorLoss([0.1, 0, 1 / 3, 2, -1], link="softmax", order=2, inputs=["w"]),
            "evomal.TaylorLoss(phi=[0.1, 0.0, 0.33333334, 2.0, -1.0], "
            'link="softmax", inputs=["w"], order=2)',
        ),
        (evomal.FocalLoss(3.0), "evomal.FocalLoss(gamma=3.0)"),
        (
            evomal.SparseLabelSmoothingLoss(0.2, relaxed=True, ignore_index=0),
            "evomal.SparseLabelSmoothingLoss(smoothing=0.2, relaxed=True, ignore_index=0)",
        ),
    ],
)
def test_the_text_of_known_losses(loss: Loss, text: str) -> None:
    assert loss.python_form() == text
    assert same(pasted(text), loss)


def test_a_loss_that_holds_a_function_or_a_network_has_none() -> None:
    assert evomal.NeuralLoss().python_form() is None
    assert evomal.SparselySmoothedLoss(torch.neg, 0.1).python_form() is None


def test_show_prints_the_line_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    loss = SymbolicLoss(ACE, [1 / 3, 2 / 3, 1.1, 0.9], link="softmax")
    save_loss(loss, "loss.json")
    assert main(["show", "loss.json"]) == 0
    printed = capsys.readouterr().out
    python = re.search(r"^python +(.*\n(?: +.*\n)*)", printed, re.MULTILINE)
    assert python is not None
    found = "".join(line.strip() for line in python[1].splitlines())
    assert same(pasted(found), loss)
    assert loss.describe()["python"] == loss.python_form()
