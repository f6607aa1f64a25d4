"""Data sets and the built-in tasks: real files, splits, damaged files."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evomal.errors import InputError
from evomal.tasks.datasets import DATASETS, data_directory, load_arrays
from evomal.tasks.images import MNIST_MD5
from evomal.tasks.parts import Part
from evomal.tasks.registry import TASKS, Split, load_task
from evomal.tasks.task import Task

TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
ROWS = {"diabetes": 442, "boston": 506, "california": 20640}
TABLES = [name for name, info in TASKS.items() if DATASETS[info.dataset].link == "identity"]
POSITIVES = {"breast-cancer/mlp": (212, 569), "eights/mlp": (174, 1797)}
CLASSES = ["digits/mlp", *POSITIVES]
Rows = NDArray[np.float64]


def table(*parts: Part | None) -> Rows:
    """Features and targets of some data splits side by side."""
    return np.concatenate(
        [torch.cat([p.inputs, p.targets], dim=1).double().numpy() for p in parts if p is not None]
    )


def linked(data_dir: Path, folder: Path, dataset: str) -> Path:
    """A folder with links to the real files of a data set."""
    for name in DATASETS[dataset].files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(data_dir / name)
    return folder


def put(path: Path, content: bytes) -> None:
    """Write a file in the place of a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


# Real files


@pytest.fixture(scope="module")
def mnist(data_dir: Path) -> Task:
    return load_task("mnist/logistic", data_dir=data_dir)


def test_mnist_is_the_official_one_in_bytes(mnist: Task, data_dir: Path) -> None:
    for name, md5 in MNIST_MD5.items():
        content = (data_dir / name).read_bytes()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == md5
    parts = [mnist.train, mnist.validation, mnist.test]
    assert [tuple(p.inputs.shape) for p in parts if p] == [
        (n, 1, 28, 28) for n in (54000, 6000, 10000)
    ]
    assert all(p.inputs.dtype == torch.uint8 and p.targets.dtype == torch.long for p in parts if p)


def test_mnist_validation_is_a_stratified_tenth(mnist: Task) -> None:
    assert mnist.test is not None
    train, validation, test = (
        p.targets.bincount().tolist() for p in (mnist.train, mnist.validation, mnist.test)
    )
    assert test == TEST_COUNTS
    assert [a + b for a, b in zip(train, validation, strict=True)] == TRAIN_COUNTS
    for held, count in zip(validation, TRAIN_COUNTS, strict=True):
        assert abs(held - count / 10) <= 1


def test_mnist_is_standardised_by_the_whole_training_set(mnist: Task) -> None:
    everything = [mnist.batch(part, slice(None)).inputs for part in (mnist.train, mnist.validation)]
    pixels = torch.cat(everything)
    assert pixels.dtype == torch.float32
    assert abs(pixels.mean().item()) < 1e-3
    assert pixels.std().item() == pytest.approx(1, abs=1e-3)


def test_unpacked_mnist_is_read_like_the_packed_one(
    mnist: Task, data_dir: Path, tmp_path: Path
) -> None:
    for name in DATASETS["mnist"].files:
        put((tmp_path / name).with_suffix(""), gzip.decompress((data_dir / name).read_bytes()))
    assert load_task("mnist/logistic", data_dir=tmp_path).fingerprint() == mnist.fingerprint()


def test_known_rows(data_dir: Path) -> None:
    features, targets = load_arrays("california", data_dir)
    known = [8.3252, 41, 6.98412698, 1.02380952, 322, 2.55555556, 37.88, -122.23]  # scikit-learn's
    np.testing.assert_allclose(features[0], known, rtol=1e-8)
    assert targets[[0, -1]] == pytest.approx([4.526, 0.894])
    raw = joblib.load(data_dir / "cal_housing_py3.pkz")  # value, income, age, rooms, bedrooms, …
    np.testing.assert_allclose(features[:, 2], raw[:, 3] / raw[:, 6])
    np.testing.assert_allclose(features[:, 5], raw[:, 5] / raw[:, 6])
    features, targets = load_arrays("boston", data_dir)
    known = [0.00632, 18, 2.31, 0, 0.538, 6.575, 65.2, 4.09, 1, 296, 15.3, 396.9, 4.98]
    np.testing.assert_allclose(features[0], known)
    assert targets.mean() == pytest.approx(22.532806, abs=1e-6)
    features, targets = load_arrays("diabetes", data_dir)
    assert (targets.min(), targets.max(), targets[0]) == (25, 346, 151)


# Splits


@pytest.mark.parametrize("name", TABLES)
def test_honest_splits_hold_every_row_once(name: str, data_dir: Path) -> None:
    task = load_task(name, data_dir=data_dir)
    features, targets = load_arrays(TASKS[name].dataset, data_dir)
    n = ROWS[TASKS[name].dataset]
    sizes = [len(part) for part in (task.train, task.validation, task.test) if part]
    assert sum(sizes) == n == len(features)
    np.testing.assert_allclose(np.array(sizes) / n, [0.6, 0.2, 0.2], atol=1 / n)
    # Standardising keeps the order in every column, so sorted rows correspond.
    raw = np.column_stack([features, targets])
    found = table(task.train, task.validation, task.test)
    raw, found = (rows[np.lexsort(np.round(rows, 12).T)] for rows in (raw, found))
    raw, found = ((rows - rows.mean(axis=0)) / rows.std(axis=0) for rows in (raw, found))
    np.testing.assert_allclose(found, raw, atol=1e-4)


@pytest.mark.parametrize("split", ["honest", "published"])
@pytest.mark.parametrize("name", TABLES)
def test_the_training_rows_are_standardised_and_no_others(
    name: str, split: Split, data_dir: Path
) -> None:
    task = load_task(name, data_dir=data_dir, split=split)
    rows = table(task.train)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(rows.std(axis=0), 1, atol=1e-5)
    for part in (task.validation, task.test):
        assert np.abs(table(part).mean(axis=0)).max() > 1e-3


@pytest.mark.parametrize("name", TABLES)
def test_the_published_split_tests_on_the_rows_trained_on(name: str, data_dir: Path) -> None:
    task = load_task(name, data_dir=data_dir, split="published")
    seen = table(task.train, task.validation)
    assert len(seen) == np.ceil(0.4 * ROWS[TASKS[name].dataset])
    assert sorted(map(tuple, seen)) == sorted(map(tuple, table(task.test)))
    assert abs(len(task.train) - len(task.validation)) <= 1
    again = load_task(name, data_dir=data_dir, split="published", split_seed=3)
    assert again.fingerprint() == task.fingerprint()
    assert (again.split, again.name) == ("published", name)


def parts_of(task: Task) -> list[Part]:
    assert task.test is not None
    return [task.train, task.validation, task.test]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("seed", [0, 2])
def test_tables_with_classes_are_split_with_the_same_share_of_each(
    name: str, seed: int, tmp_path: Path
) -> None:
    parts = parts_of(load_task(name, split_seed=seed, data_dir=tmp_path))
    features, targets = load_arrays(TASKS[name].dataset, tmp_path)
    n = len(features)
    np.testing.assert_allclose(np.array([len(p) for p in parts]) / n, [0.6, 0.2, 0.2], atol=1 / n)
    counts = np.array([p.targets.flatten().long().bincount().numpy() for p in parts])
    assert counts.sum(axis=0).tolist() == np.bincount(targets).tolist()
    shares = counts / np.array([[len(p)] for p in parts])
    np.testing.assert_allclose(shares, np.tile(np.bincount(targets) / n, (3, 1)), atol=0.01)
    # Every row is there once: standardising is a linear map of the columns.
    varied = features.std(axis=0) > 0.1
    found = np.concatenate([p.inputs.double().numpy() for p in parts])[:, varied]
    raw = features[:, varied]
    found, raw = ((rows - rows.mean(axis=0)) / rows.std(axis=0) for rows in (found, raw))
    found, raw = (rows[np.lexsort(np.round(rows, 3).T)] for rows in (found, raw))
    np.testing.assert_allclose(found, raw, atol=1e-4)


@pytest.mark.parametrize("name", CLASSES)
def test_inputs_of_classes_are_standardised_by_the_training_rows(name: str) -> None:
    train, validation, test = (p.inputs.double().numpy() for p in parts_of(load_task(name)))
    constant = train.std(axis=0) == 0
    assert constant.sum() < 8  # pixels in a corner
    np.testing.assert_array_equal(train[:, constant], 0)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(train[:, ~constant].std(axis=0), 1, atol=1e-5)
    for inputs in (validation, test):
        assert np.abs(inputs.mean(axis=0)).max() > 1e-3


@pytest.mark.parametrize("name", POSITIVES)
def test_the_positives_are_what_is_looked_for(name: str) -> None:
    task = load_task(name, metric="cost:10")
    assert task.form.link == "sigmoid"
    assert all(p.targets.dtype == torch.float32 for p in parts_of(task))
    positives = sum(int(p.targets.sum()) for p in parts_of(task))
    assert (positives, sum(len(p) for p in parts_of(task))) == POSITIVES[name]
    assert task.train.targets.shape == (len(task.train), 1)


@pytest.mark.parametrize("name", ["diabetes/mlp", "digits/mlp", "mnist/logistic"])
def test_the_split_seed_fixes_the_split(name: str, data_dir: Path) -> None:
    tasks = [load_task(name, data_dir=data_dir, split_seed=seed) for seed in (0, 1, 1)]
    digests = [task.fingerprint() for task in tasks]
    assert digests[0] != digests[1] == digests[2]
    tests = [task.test.inputs for task in tasks if task.test]
    assert torch.equal(tests[0], tests[1]) == (name == "mnist/logistic")  # the official one


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"name": "mnist/logistic", "split": "published"}, "'published' exists only for tables"),
        (
            {"name": "digits/mlp", "split": "published"},
            "only for tables of the paper, not for 'dig",
        ),
        ({"name": "diabetes/mlp", "split": "half"}, "Unknown split 'half'"),
        ({"name": "diabetes/lenet5"}, "Unknown task 'diabetes/lenet5'"),
        ({"name": "diabetes/mlp", "split_seed": -1}, "split"),
    ],
    ids=str,
)
def test_bad_arguments_are_input_errors(
    arguments: dict[str, Any], fragment: str, data_dir: Path
) -> None:
    with pytest.raises(InputError, match=fragment):
        load_task(**arguments, data_dir=data_dir)


# Where data lies


def test_the_argument_goes_before_the_variable_before_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"/cache/{name}")
    monkeypatch.setenv("EVOMAL_DATA", "/from/variable")
    assert data_directory(tmp_path) == data_directory(str(tmp_path)) == tmp_path
    assert data_directory() == Path("/from/variable")
    monkeypatch.setenv("EVOMAL_DATA", "")
    assert data_directory() == Path("/cache/evomal")
    monkeypatch.delenv("EVOMAL_DATA")
    assert data_directory() == Path("/cache/evomal")


@pytest.mark.parametrize("name", ["boston/mlp", "california/mlp", "mnist/mlp"])
def test_absent_data_is_an_input_error_with_the_remedy(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path))
    with pytest.raises(InputError) as caught:
        load_task(name)
    for word in (repr(TASKS[name].dataset), str(tmp_path), "EVOMAL_DATA", "--download"):
        assert word in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# Damaged files


def pickled(value: object) -> bytes:
    stream = io.BytesIO()
    joblib.dump(value, stream)
    return stream.getvalue()


LABELS = "MNIST/raw/train-labels-idx1-ubyte.gz"
IMAGES = "MNIST/raw/train-images-idx3-ubyte.gz"
BOSTON, CALIFORNIA = "boston/housing.data", "cal_housing_py3.pkz"
HEADER = bytes.fromhex("00000801 0000ea60")
DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "truncated": (IMAGES, lambda c: c[:5000]),
    "flipped": (LABELS, lambda c: c[:999] + bytes([c[999] ^ 255]) + c[1000:]),
    "no gzip": (LABELS, lambda c: b"<html>not found</html>"),
    "nothing": (LABELS, lambda c: b""),
    "wrong type": (LABELS, lambda c: gzip.compress(b"\0\0\x09" + gzip.decompress(c)[3:])),
    "wrong count": (LABELS, lambda c: gzip.compress(HEADER[:-1] + b"\x61" + bytes(60001))),
    "short": (LABELS, lambda c: gzip.compress(HEADER + bytes(59999))),
    "long": (LABELS, lambda c: gzip.compress(HEADER + bytes(60001))),
    "labels out of range": (LABELS, lambda c: gzip.compress(HEADER + bytes(59999) + b"\x0a")),
    "labels for images": (IMAGES, lambda c: gzip.compress(HEADER + bytes(60000))),
    "words": (BOSTON, lambda c: b"<html> not found </html>"),
    "bytes": (BOSTON, lambda c: bytes(range(128, 256))),
    "no rows": (BOSTON, lambda c: b""),
    "one row less": (BOSTON, lambda c: c[: c.rstrip().rindex(b"\n")]),
    "one column less": (BOSTON, lambda c: b"\n".join(r[:-7] for r in c.splitlines())),
    "ragged": (BOSTON, lambda c: c[:-9]),
    "cut": (CALIFORNIA, lambda c: c[:100_000]),
    "zlib garbage": (CALIFORNIA, lambda c: c[:2] + b"garbage"),
    "xz garbage": (CALIFORNIA, lambda c: b"\xfd7zXZ\0garbage"),
    "text": (CALIFORNIA, lambda c: b"<html>not found</html>"),
    "empty pickle": (CALIFORNIA, lambda c: b""),
    "other pickle": (CALIFORNIA, lambda c: pickled({"rows": 3})),
    "few rows": (CALIFORNIA, lambda c: pickled(np.ones((100, 9)))),
    "few columns": (CALIFORNIA, lambda c: pickled(np.ones((20640, 4)))),
}


@pytest.mark.parametrize(("file", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(
    file: str, damage: Callable[[bytes], bytes], data_dir: Path, tmp_path: Path
) -> None:
    dataset = next(name for name, info in DATASETS.items() if file in info.files)
    linked(data_dir, tmp_path, dataset)
    put(tmp_path / file, damage((data_dir / file).read_bytes()))
    with pytest.raises(InputError) as caught:
        load_arrays(dataset, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"The data file {str(tmp_path / file)!r} is damaged (")
    assert message.endswith("delete it and download it again with --download.")
    assert "\n" not in message
