"""Losses whose weights are in a file beside the loss file: round trips, damages, interruptions."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evomal import NeuralLoss, SymbolicLoss, load_loss, save_loss
from evomal.errors import InputError
from evomal.losses import files
from evomal.losses.files import loss_from_dict, loss_to_dict, remove_loss
from evomal.losses.tensor_file import read_phi, tensor_content, tensor_name
from handcrafted_losses import draw

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def drawn(seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> NeuralLoss:
    loss = NeuralLoss(hidden=(5, 4), **settings).to(dtype)
    return loss.with_phi(draw(loss.size, seed=seed).to(dtype))


def bits(phi: Tensor) -> list[int]:
    return phi.contiguous().view(torch.uint8).tolist()


def phi_of(path: Path) -> Tensor:
    loss = load_loss(path)
    assert isinstance(loss, NeuralLoss)
    return loss.phi


def tensor_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


# Round trips


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    loss = drawn(dtype=dtype, link="softmax", inputs=("w",), weight=[0.1, 2.0], ignore_index=1)
    limits = torch.finfo(dtype)
    extremes = [-0.0, limits.max, limits.tiny, limits.tiny / 2]
    loss.phi[:4] = torch.tensor(extremes, dtype=torch.float64).to(dtype)
    path = tmp_path / "loss.json"
    save_loss(loss, path)
    fields = json.loads(json.dumps(loss_to_dict(loss)))
    for twin in (load_loss(path), loss_from_dict(fields)):
        assert isinstance(twin, NeuralLoss)
        assert (twin.phi.dtype, bits(twin.phi)) == (dtype, bits(loss.phi))
        assert loss_to_dict(twin) == fields
        assert twin.hidden == (5, 4)
        twin.phi.zero_()  # memory of its own
    assert isinstance(fields["phi"], str)
    assert len(fields["phi"]) < 1.4 * loss.phi.numel() * dtype.itemsize + 4
    (beside,) = tensor_files(tmp_path)
    assert beside.name == json.loads(path.read_text())["phi_file"]


def test_the_json_has_what_a_person_reads(tmp_path: Path) -> None:
    save_loss(drawn(), tmp_path / "loss.json")
    fields = json.loads((tmp_path / "loss.json").read_text())
    name = fields.pop("phi_file")
    assert name.startswith("loss.json.")
    assert name.endswith(".safetensors")
    assert fields == {
        "format": "evomal-loss",
        "version": 3,
        "kind": "network",
        "hidden": [5, 4],
        "dtype": "float32",
        "link": "identity",
        "activation": "softplus",
        "reduction": "mean",
        "inputs": [],
        "weight": None,
        "ignore_index": -100,
    }


def test_a_pipe_gets_all_in_one(tmp_path: Path) -> None:
    loss, pipe = drawn(), tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(pipe.read_text)
        save_loss(loss, pipe)
        written = received.result()
    (tmp_path / "loss.json").write_text(written)
    assert torch.equal(phi_of(tmp_path / "loss.json"), loss.phi)
    assert tensor_files(tmp_path) == []


def test_a_link_and_a_copied_pair_are_read(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "there" / "loss.json")
    loss = drawn()
    save_loss(loss, tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert tensor_files(tmp_path) == []
    assert torch.equal(phi_of(tmp_path / "link.json"), loss.phi)
    (beside,) = tensor_files(tmp_path / "there")
    shutil.copy(beside, tmp_path)
    shutil.copy(tmp_path / "there" / "loss.json", tmp_path / "renamed.json")
    assert torch.equal(phi_of(tmp_path / "renamed.json"), loss.phi)


# Replacing


def test_the_older_file_goes_with_its_loss_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    others = [tmp_path / name for name in ("loss", "my.loss.json", "loss.json.json")]
    for other in others:
        save_loss(drawn(9), other)
    (tmp_path / "loss.json.0123456789abcdef.txt").write_text("mine")
    (tmp_path / "loss.json.safetensors").write_text("mine")
    for seed in (1, 2, 2):
        save_loss(drawn(seed), path)
        assert torch.equal(phi_of(path), drawn(seed).phi)
        assert len(tensor_files(tmp_path)) == len(others) + 2
    save_loss(SymbolicLoss("sub(y, f)"), path)
    assert len(tensor_files(tmp_path)) == len(others) + 1
    save_loss(drawn(), path)
    remove_loss(path)
    remove_loss(path)
    assert not path.exists()
    for other in others:
        assert torch.equal(phi_of(other), drawn(9).phi)
    assert (tmp_path / "loss.json.0123456789abcdef.txt").exists()
    assert (tmp_path / "loss.json.safetensors").exists()


class KilledError(BaseException):
    """What ends a process between two steps."""


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("before", ["network", "symbolic", "nothing"])
def test_a_kill_between_any_two_steps_leaves_a_whole_loss(
    before: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "loss.json"
    if before != "nothing":
        save_loss(drawn(1) if before == "network" else SymbolicLoss("sub(y, f)"), path)
        found = loss_to_dict(load_loss(path))
    done = 0

    def killing(name: str, owner: Any) -> None:
        act = getattr(owner, name)

        def acting(*arguments: Any) -> Any:
            nonlocal done
            if done == step:
                raise KilledError
            done += 1
            result = act(*arguments)
            if done == step:
                raise KilledError
            return result

        monkeypatch.setattr(owner, name, acting)

    killing("replace", Path)
    killing("unlink", Path)
    killing("fsync", os)
    killed = False
    try:
        save_loss(drawn(2), path)
    except KilledError:
        killed = True
    monkeypatch.undo()
    whole = loss_to_dict(drawn(2))
    if not killed:
        assert loss_to_dict(load_loss(path)) == whole
    elif before == "nothing" and not path.exists():
        assert step <= 3
    else:
        assert loss_to_dict(load_loss(path)) in (whole, found if before != "nothing" else whole)
    save_loss(drawn(3), path)
    assert torch.equal(phi_of(path), drawn(3).phi)
    assert len(tensor_files(tmp_path)) == 1, "what a kill left over goes at the next time"


@pytest.mark.parametrize("which", [1, 2])
def test_a_failed_replacement_leaves_what_was_there(
    which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "loss.json"
    save_loss(drawn(1), path)
    before = {one: one.read_bytes() for one in tmp_path.iterdir()}
    replace, calls = Path.replace, 0

    def failing(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == which:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    for seed in (2, 1):  # the tensor file of 1 is there already
        calls = 0
        with pytest.raises(InputError, match="No space left"):
            save_loss(drawn(seed), path)
        assert {one: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_a_loss_that_is_replaced_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "loss.json", read_phi
    save_loss(drawn(1), path)
    calls = 0

    def late(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            save_loss(drawn(2), path)
        return read(*arguments)

    monkeypatch.setattr(files, "read_phi", late)
    assert torch.equal(phi_of(path), drawn(2).phi)
    assert calls == 2


# Damages


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_loss(path)
    message = str(caught.value)
    assert message.isprintable()
    assert str(path) in message
    return message


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    save_loss(drawn(), path)
    (beside,) = tensor_files(tmp_path)
    beside.unlink()
    for changed in ({}, {"ignore_index": float("nan")}):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
        message = refused(path)
    assert message.endswith(f"are in {beside.name!r}, which is not next to it; copy both files.")


def test_a_changed_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    save_loss(drawn(), path)
    (beside,) = tensor_files(tmp_path)
    sound = beside.read_bytes()
    for content in (b"", sound[:-1], sound + b"\0", sound[:-1] + bytes([sound[-1] ^ 1])):
        beside.write_bytes(content)
        assert f"damaged: The content of its file {beside.name!r} has changed" in refused(path)
    beside.unlink()
    beside.mkdir()
    assert "cannot be read (Is a directory)" in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}q\x00.", "contains no tensors"),
        (b"", "contains no tensors"),
        (tensor_content(torch.ones(2).double()), "must contain a single tensor phi of 'float32'"),
        (tensor_content(torch.ones(2)), "takes 34 weights, but the given phi has shape (2,)"),
        (tensor_content(torch.full((34,), torch.inf)), "not finite"),
    ],
)
def test_a_file_of_other_content_is_told(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    save_loss(drawn(), path)
    name = tensor_name(path, content)
    path.with_name(name).write_bytes(content)
    path.write_text(json.dumps({**json.loads(path.read_text()), "phi_file": name}))
    assert message in refused(path)


NAMES = [
    None,
    3,
    "",
    "loss.safetensors",
    "../loss.json.0123456789abcdef.safetensors",
    "/loss.json.0123456789abcdef.safetensors",
    "a\0b.0123456789abcdef.safetensors",
    "loss.json.0123456789ABCDEF.safetensors",
    ["x.0123456789abcdef.safetensors"],
]


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_a_name_that_is_none_is_told(name: Any, tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    save_loss(drawn(), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "phi_file": name}))
    assert "The field 'phi_file' must name a tensor file" in refused(path)


def test_two_weights_are_told(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    save_loss(drawn(), path)
    fields = {**json.loads(path.read_text()), "phi": loss_to_dict(drawn())["phi"]}
    path.write_text(json.dumps(fields))
    assert "There is a field 'phi' as well as 'phi_file'" in refused(path)


def test_a_symbolic_loss_has_no_such_file(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    save_loss(drawn(), path)
    name = json.loads(path.read_text())["phi_file"]
    kept = (tmp_path / name).read_bytes()
    save_loss(SymbolicLoss("sub(y, f)"), path)
    (tmp_path / name).write_bytes(kept)
    fields = json.loads(path.read_text())
    del fields["phi"]
    path.write_text(json.dumps({**fields, "phi_file": name}))
    assert "The field 'phi' must be a list of numbers" in refused(path)


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        ("", "takes 34 weights"),
        ("AAAA", "not base64 text of numbers"),
        ("AAAAAA==", "takes 34 weights"),
        ("AAAAAB==", "written by evomal"),
        ("AAAA AA==", "not base64 text"),
        ("AAAAA", "not base64 text"),
        ("ÄÄÄÄ", "not base64 text"),
        ("AADAfw==", "not finite"),
        ([1.0], "must be text"),
        (None, "must be text"),
    ],
)
def test_a_stored_phi_is_validated(phi: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loss_from_dict({**loss_to_dict(drawn()), "phi": phi})
