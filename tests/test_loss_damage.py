"""Damaged loss files: one sentence, or the loss that the file says, never another."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from evomal import FocalLoss, NeuralLoss, SymbolicLoss, TaylorLoss, load_loss, save_loss
from evomal.errors import InputError
from evomal.losses.files import LOSS_KINDS, loss_from_dict, loss_to_dict
from evomal.losses.known import HANDCRAFTED_LOSSES
from evomal.losses.log_cosh import LogCoshLoss

WEIGHT = [0.5, 2.0, 1.25]
LOSSES = {
    **{kind: cls(weight=WEIGHT, ignore_index=1) for kind, cls in HANDCRAFTED_LOSSES.items()},
    "without class weights": FocalLoss(),
    "symbolic": SymbolicLoss("mul(w, square(sub(y, f)))", [0.5, -2, 3, 1, 4], inputs=("w",)),
    "in float16": SymbolicLoss(
        "mul(y, log(f))", torch.tensor([0.1, 2, 3]).half(), "softmax", weight=WEIGHT
    ),
    "network": NeuralLoss(link="softmax", inputs=("w",), weight=WEIGHT, hidden=(3, 2)),
    "log-cosh": LogCoshLoss(),
    "taylor": TaylorLoss(link="softmax", weight=WEIGHT, order=2),
}
DEEP: list[Any] = []
for _ in range(400):
    DEEP = [DEEP]
DAMAGES: list[Any] = [
    None,
    True,
    0,
    -1,
    3,
    2.75,
    float("nan"),
    float("inf"),
    10**400,
    1e39,
    2**53 + 1,
    1 + 1e-9,
    "",
    "float",
    "int64",
    "float16",
    "\x1b[31m\n",
    [],
    [0.5],
    ["w"],
    [[0.5]],
    [True],
    ["f", 1],
    WEIGHT[::-1],
    [1e39, 1.0, 1.0],
    [10**400, 1.0, 1.0],
    [float("nan"), 1.0, 1.0],
    [0.123456789012, 1.0, 1.0],
    [1.0, None, 1.0],
    {},
    {"kind": "symbolic"},
    DEEP,
]


def fields_of(name: str) -> dict[str, Any]:
    return {"format": "evomal-loss", "version": 3, **loss_to_dict(LOSSES[name])}


def assert_one_line(error: InputError) -> None:
    message = str(error)
    assert message.isprintable()
    assert len(message) < 500


def outcome(path: Path, content: bytes) -> dict[str, Any] | None:
    """What the loss in a file says of itself; None if it is refused in one sentence."""
    path.write_bytes(content)
    try:
        return loss_to_dict(load_loss(path))
    except InputError as error:
        told = error
    assert_one_line(told)
    assert str(path) in str(told)
    return None


def test_every_kind_of_loss_is_damaged_below() -> None:
    assert set(LOSS_KINDS) <= set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_a_damaged_field_gives_one_sentence_or_the_loss_that_it_says(name: str) -> None:
    """As runs read the losses in their database."""
    fields, refused = loss_to_dict(LOSSES[name]), 0
    for field in fields:
        for changed in damaged(fields, field):
            try:
                assert loss_to_dict(loss_from_dict(changed)) == changed
            except InputError as error:
                told = error
            else:
                continue
            refused += 1
            assert_one_line(told)
            assert repr(changed) != repr(fields)
    assert refused > 0.6 * len(fields) * len(DAMAGES)


def damaged(fields: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """The fields without one of them, and with every damage of it, as JSON gives them."""
    without = {name: value for name, value in fields.items() if name != field}
    given = [without, *({**fields, field: damage} for damage in DAMAGES)]
    return [json.loads(json.dumps(one)) for one in given]


def test_a_damaged_file_names_itself(tmp_path: Path) -> None:
    fields = fields_of("sparse-label-smoothing")
    for field in fields:
        for changed in damaged(fields, field)[::4]:
            found = outcome(tmp_path / "loss.json", json.dumps(changed).encode())
            told = {k: v for k, v in changed.items() if k not in ("format", "version")}
            assert found is None or found == told


@pytest.mark.parametrize("name", ["focal", "symbolic", "network", "taylor"])
def test_bytes_that_changed_give_one_sentence_or_the_loss_that_they_say(
    name: str, tmp_path: Path
) -> None:
    rng = random.Random(0)
    sound = json.dumps(fields_of(name)).encode()
    for _ in range(60):
        place, byte = rng.randrange(len(sound)), rng.randrange(256)
        cut = rng.random() < 0.3
        content = sound[:place] + (b"" if cut else bytes([byte]) + sound[place + 1 :])
        found = outcome(tmp_path / "loss.json", content)
        if found is not None:
            told = {**json.loads(content)}
            del told["format"], told["version"]
            assert found == told


@pytest.mark.parametrize("field", ["formula", "Weights", "\u2028", "x" * 1000])
def test_a_field_that_there_is_none_of_is_told(field: str, tmp_path: Path) -> None:
    changed = {**fields_of("focal"), field: 1}
    assert outcome(tmp_path / "loss.json", json.dumps(changed).encode()) is None


def test_a_field_that_is_there_twice_is_told(tmp_path: Path) -> None:
    text = json.dumps(fields_of("focal"))[:-1] + ', "gamma": 3.0}'
    path = tmp_path / "loss.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"damaged.*twice"):
        load_loss(path)


@pytest.mark.parametrize("version", [0, -1, 4, 10**30, 2.0, True, "2", None, [2]])
def test_an_unknown_version_is_told(version: Any, tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    path.write_text(json.dumps({**fields_of("focal"), "version": version}))
    with pytest.raises(InputError, match=r"version.*reads versions up to 3"):
        load_loss(path)


def test_what_a_message_says(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    for change, message in (
        ({"dtype": "int64"}, "The field 'dtype' must be one of float16, bfloat16, float32"),
        ({"weight": [0.5, 1e39, 1.0]}, "The weight 1e+39 is not a float32; the nearest is inf."),
        ({"weight": [0.5, 1e-60, 1.0]}, "The weight 1e-60 is not a float32; the nearest is 0.0."),
        ({"weight": 0.5}, "The field 'weight' must be a list of numbers, got 0.5."),
        ({"weight": [0.5, None]}, "The field 'weight' must be a list of numbers, got [0.5, N"),
        (
            {"kind": "hinge"},
            "The field 'kind' must be one of symbolic, network, taylor, log-cosh, abso",
        ),
        ({"gamma": True}, "The field 'gamma' must be a number, got True."),
        ({"gamma": -1}, "The gamma of a loss must be a number of at least 0, got -1"),
        ({"ignore_index": 2**70}, "The ignore_index must be a 64-bit integer, got 118059"),
    ):
        path.write_text(json.dumps({**fields_of("focal"), **change}))
        with pytest.raises(InputError) as caught:
            load_loss(path)
        assert str(caught.value).startswith(f"The loss file {str(path)!r} is damaged: {message}")


def test_numbers_that_a_person_writes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    path.write_text(json.dumps({**fields_of("focal"), "weight": [0.1, 3, 0.12345679]}))
    loss = load_loss(path)
    assert loss.weight is not None
    assert torch.equal(loss.weight, torch.tensor([0.1, 3.0, 0.12345679]))


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    fields = {**fields_of("symbolic"), "version": 1, "expression": "add(y, mul(f, f))"}
    del fields["phi"]
    fields["weights"] = [1.0, 2.0, 3.0, 4.0]
    for name in ("inputs", "weight", "ignore_index"):
        del fields[name]
    path.write_text(json.dumps(fields))
    loss = load_loss(path)
    assert (loss.inputs, loss.weight, loss.ignore_index) == ((), None, -100)
    path.write_text(json.dumps({**fields, "version": 2}))
    with pytest.raises(InputError, match="'inputs' is missing"):
        load_loss(path)


def test_a_file_of_the_second_version_calls_phi_weights(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    fields = {**fields_of("symbolic"), "version": 2}
    fields["weights"] = fields.pop("phi")
    path.write_text(json.dumps(fields))
    assert loss_to_dict(load_loss(path)) == loss_to_dict(LOSSES["symbolic"])


def test_older_files_of_handcrafted_losses_are_read(tmp_path: Path) -> None:
    """They have a type of weights even where there are none."""
    path = tmp_path / "loss.json"
    for weight in (None, WEIGHT):
        loss = FocalLoss(3.0, weight=None if weight is None else torch.tensor(weight).double())
        fields = {**loss_to_dict(loss), "dtype": "float64"}
        path.write_text(json.dumps({"format": "evomal-loss", "version": 2, **fields}))
        assert loss_to_dict(load_loss(path)) == loss_to_dict(loss)
    path.write_text(json.dumps({**fields_of("without class weights"), "dtype": "float32"}))
    with pytest.raises(InputError, match="'weight' and 'dtype' must both be given"):
        load_loss(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_byte_order_mark_does_not_matter(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    text = json.dumps(fields_of("symbolic"))
    mark = "\ufeff" if encoding[-2:] in ("le", "be") else ""
    path.write_bytes((mark + text).encode(encoding))
    assert loss_to_dict(load_loss(path)) == loss_to_dict(LOSSES["symbolic"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (bytes(range(256)), "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b"1" * 5000, "not JSON"),
        (b" " * (2**24 + 1), "more than 16777216 bytes"),
    ],
    ids=["empty", "mark alone", "half a mark", "binary", "deep", "digits", "enormous"],
)
def test_other_files_are_told(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_loss(path)
    assert_one_line(caught.value)


@pytest.mark.parametrize("path", [None, 3, "a\0b", b"loss.json", "x" * 300, ["loss.json"]])
def test_paths_that_are_none(path: Any) -> None:
    for act in (load_loss, lambda path: save_loss(FocalLoss(), path)):
        with pytest.raises(InputError):
            act(path)


def test_class_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    loss = FocalLoss(weight=[1.0, 2.0])
    assert loss.weight is not None
    loss.weight[0] = float("inf")
    with pytest.raises(InputError, match="non-finite"):
        save_loss(loss, tmp_path / "loss.json")
    assert list(tmp_path.iterdir()) == []
