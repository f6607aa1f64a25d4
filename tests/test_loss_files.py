"""Loss files: exact round trips, readable JSON, atomic replacement, errors of one sentence."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evomal import SymbolicLoss, load_loss, save_loss
from evomal.errors import InputError
from evomal.losses.files import (
    FORMAT_VERSION,
    loss_is_finite,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ABSENT: Any = object()
FIELDS = {
    "format": "evomal-loss",
    "version": FORMAT_VERSION,
    "kind": "symbolic",
    "expression": "square(sub(y, f))",
    "phi": [0.5, 2.0, 3.0],
    "dtype": "float32",
    "link": "identity",
    "activation": "identity",
    "reduction": "mean",
    "inputs": [],
    "weight": None,
    "ignore_index": -100,
}


def assert_one_sentence(error: InputError, path: Path) -> None:
    assert "\n" not in str(error)
    assert str(path) in str(error)


# Round trips


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_weights_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    phi = torch.tensor([-0.0, limits.max, limits.tiny, -limits.eps, 1 / 3], dtype=dtype)
    save_loss(SymbolicLoss("add(mul(y, f), abs(f))", phi), tmp_path / "loss.json")
    twin = load_loss(tmp_path / "loss.json")
    assert isinstance(twin, SymbolicLoss)
    assert torch.equal(twin.phi.view(torch.uint8), phi.view(torch.uint8))


def test_the_file_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    save_loss(SymbolicLoss("square(sub(y, f))", [0.5, 2.0, 3.0]), path)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == FIELDS
    assert len(text.splitlines()) > len(FIELDS)


# Replacing a file


def test_an_existing_file_is_replaced_and_no_draft_stays(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    for text in ("y", "square(sub(y, f))"):
        save_loss(SymbolicLoss(text), path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["loss.json"]
        loss = load_loss(path)
        assert isinstance(loss, SymbolicLoss)
        assert str(loss.expression) == text


def test_a_failed_replacement_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "loss.json"
    save_loss(SymbolicLoss("mul(y, f)"), path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match="No space left") as caught:
        save_loss(SymbolicLoss("sub(y, f)"), path)
    assert_one_sentence(caught.value, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["loss.json"]


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_not_saved(tmp_path: Path, weight: float) -> None:
    path = tmp_path / "loss.json"
    save_loss(SymbolicLoss("mul(y, f)"), path)
    before = path.read_bytes()
    loss = SymbolicLoss("mul(y, f)", [1.0, weight])
    assert not loss_is_finite(loss)
    with pytest.raises(InputError, match="non-finite"):
        save_loss(loss, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("module", [nn.MSELoss(), nn.Linear(2, 1)], ids=["MSELoss", "Linear"])
def test_other_modules_are_not_saved(tmp_path: Path, module: Any) -> None:
    with pytest.raises(InputError, match=f"{type(module).__name__}.*torch.save"):
        save_loss(module, tmp_path / "loss.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["folder", "file/loss.json", "absent/loss.json"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="choose another path") as caught:
        save_loss(SymbolicLoss("mul(y, f)"), tmp_path / place)
    assert_one_sentence(caught.value, tmp_path / place)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_without_a_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        save_loss(SymbolicLoss("mul(y, f)"), ".")


# Reading what is no loss file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\x80\x02}q\x00.", "not JSON"),
        (b'{"format": "evomal-loss",', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"null", "not a loss file"),
        (b"[1, 2]", "not a loss file"),
        (b'"evomal-loss"', "not a loss file"),
        (b'{"kind": "symbolic"}', "not a loss file"),
        (b'{"format": "evomal-run", "version": 1}', "not a loss file"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "loss.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_loss(path)
    assert_one_sentence(caught.value, path)


@pytest.mark.parametrize("place", ["absent.json", "folder", "file/loss.json"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="Cannot read") as caught:
        load_loss(tmp_path / place)
    assert_one_sentence(caught.value, tmp_path / place)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", FORMAT_VERSION + 1, "upgrade"),
        ("version", ABSENT, "version"),
        *((name, ABSENT, f"damaged.*{name}") for name in list(FIELDS)[2:]),
        ("kind", "polynomial", "damaged.*polynomial"),
        ("kind", ["symbolic"], "damaged"),
        ("expression", "exp(y)", "damaged.*Unknown name 'exp'"),
        ("expression", "square(sub(y, ", "damaged.*too early"),
        ("expression", 5, "damaged"),
        ("expression", ["square", "sub", "y", "f"], "damaged"),
        ("phi", [1.0, 2.0], "damaged.*3 weights"),
        ("phi", [1.0] * 4, "damaged.*3 weights"),
        ("phi", [], "damaged.*3 weights"),
        ("phi", 1.0, "damaged.*list of numbers"),
        ("phi", None, "damaged"),
        ("phi", "123", "damaged"),
        ("phi", [[1.0], [2.0, 3.0]], "damaged"),
        ("phi", [1.0, None, 3.0], "damaged"),
        ("phi", [1.0, "2.0", 3.0], "damaged"),
        ("phi", [1.0, 10**400, 3.0], "damaged"),
        ("phi", [1.0, float("nan"), 3.0], "damaged.*not finite"),
        ("phi", [1.0, float("inf"), 3.0], "damaged.*not finite"),
        ("dtype", "float33", "damaged.*float33"),
        ("dtype", "tensor", "damaged"),
        ("dtype", "int64", "damaged"),
        ("dtype", "complex64", "damaged"),
        ("dtype", 32, "damaged"),
        ("link", "relu", "damaged.*Unknown link"),
        ("activation", None, "damaged.*Unknown activation"),
        ("reduction", [], "damaged.*Unknown reduction"),
        ("inputs", ["f"], "damaged.*cannot be called 'f'"),
        ("inputs", 3, "damaged"),
        ("weight", [1.0], "damaged.*need the link 'softmax'"),
        ("weight", ["a"], "damaged"),
        ("ignore_index", "none", "damaged.*ignore_index"),
    ],
)
def test_a_damaged_field_is_refused(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    path = tmp_path / "loss.json"
    changed = {**FIELDS, field: value}
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not ABSENT}))
    with pytest.raises(InputError, match=message) as caught:
        load_loss(path)
    assert_one_sentence(caught.value, path)


def test_the_undamaged_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    path.write_text(json.dumps(FIELDS))
    loss = load_loss(path)
    assert isinstance(loss, SymbolicLoss)
    assert loss.phi.tolist() == FIELDS["phi"]


def test_a_pipe_is_written_to_and_a_link_stays_one(tmp_path: Path) -> None:
    loss = SymbolicLoss("square(sub(y, f))")
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(pipe.read_text)
        save_loss(loss, pipe)
        written = received.result()
    assert pipe.is_fifo()
    link.symlink_to(target)
    save_loss(loss, link)
    assert link.is_symlink()
    assert target.read_text() == written
    assert str(load_loss(target)) == str(loss)
