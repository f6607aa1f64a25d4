"""CIFAR-10 as it is, CIFAR-100 and SVHN in their own formats; augmentation and schedules."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import pickle
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.io
import torch

from conftest import Mirror
from evomal import InputError, load_task
from evomal.tasks import images
from evomal.tasks.data_files import fetch_archive
from evomal.tasks.datasets import DATASETS, load_arrays
from evomal.tasks.pixels import crop_and_flip, standardise_pixels
from evomal.tasks.schedules import Milestones
from evomal.tasks.task import Task
from evomal.training.loop import train
from tasks_for_tests import image_task


@pytest.fixture(scope="module")
def cifar10(data_dir: Path) -> Task:
    return load_task("cifar10/allcnnc", data_dir=data_dir)


def test_cifar10_is_the_official_one(cifar10: Task, data_dir: Path) -> None:
    for name, md5 in images.CIFAR10_MD5.items():
        digest = hashlib.md5((data_dir / name).read_bytes(), usedforsecurity=False).hexdigest()
        assert digest == md5
    parts = [cifar10.train, cifar10.validation, cifar10.test]
    counts = [part.targets.bincount().tolist() for part in parts if part]
    assert counts == [[4500] * 10, [500] * 10, [1000] * 10]
    assert all(
        p.inputs.dtype == torch.uint8 and p.inputs.shape[1:] == (3, 32, 32) for p in parts if p
    )
    held = sum(p.inputs.numel() + 8 * p.targets.numel() for p in parts if p)
    assert held < 250e6
    # The first training image is a frog (class 6), as every gallery of CIFAR-10 shows.
    raw, labels, *_ = load_arrays("cifar10", data_dir)
    assert labels[0] == 6
    assert raw[0, :, 0, 0].tolist() == [59, 62, 63]


def test_cifar10_is_standardised_by_channel(cifar10: Task) -> None:
    facts = DATASETS["cifar10"].images
    assert facts is not None
    parts = (cifar10.train, cifar10.validation)
    for channel in range(3):
        pixels = np.concatenate([p.inputs[:, channel].numpy() for p in parts]) / np.float32(255)
        assert pixels.mean(dtype=np.float64) == pytest.approx(facts.mean[channel], abs=1e-4)
        assert pixels.std(dtype=np.float64) == pytest.approx(facts.deviation[channel], abs=1e-4)
    batch = cifar10.batch(cifar10.validation, slice(0, 5000)).inputs
    assert batch.dtype == torch.float32
    assert batch.mean(dim=(0, 2, 3)).abs().max() < 0.02
    assert (batch.std(dim=(0, 2, 3)) - 1).abs().max() < 0.02


# Other files in the genuine formats


class Python2Pickler(pickle._Pickler):
    """Writes bytes as the strings of Python 2, in which CIFAR was published."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def save_bytes(self, content: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(content)) + content)  # type: ignore[attr-defined]

    dispatch[bytes] = save_bytes


def pickled(batch: Mapping[bytes, Any]) -> bytes:
    """A batch in the format of CIFAR's files; arrays have the names of their time."""
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(dict(batch))
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def random_pixels(count: int) -> Any:
    return np.random.default_rng(count).integers(0, 256, (count, 3072)).astype(np.uint8)


def publish(
    monkeypatch: pytest.MonkeyPatch, hashes: dict[str, str], files: Mapping[str, bytes]
) -> None:
    """Let these files be the official ones."""
    for name, content in files.items():
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(hashes, name, digest)


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def cifar100_files(fine: Any = None, train_rows: int = 200) -> dict[str, bytes]:
    fine = list(range(100)) * 2 if fine is None else fine
    files = {}
    for name, rows in [("train", train_rows), ("test", 100)]:
        batch = {
            b"data": random_pixels(rows),
            b"fine_labels": fine[:rows],
            b"coarse_labels": [label // 5 for label in fine[:rows]],
            b"filenames": [b"image.png"] * rows,
            b"batch_label": b"training batch 1 of 1",
        }
        files[f"cifar-100-python/{name}"] = pickled(batch)
    return files


def cifar10_files(labels: Any = range(10), columns: int = 3072) -> dict[str, bytes]:
    return {
        name: pickled(
            {
                b"batch_label": b"a batch",
                b"labels": list(labels),
                b"data": random_pixels(10)[:, :columns],
                b"filenames": [b"image.png"] * 10,
            }
        )
        for name in images.CIFAR10_MD5
    }


def svhn_files(
    labels: Any = None, channels: int = 3, height: int = 32, more: int = 0
) -> dict[str, bytes]:
    files = {}
    for name, rows in [("train", 600), ("test", 20)]:
        stream = io.BytesIO()
        pixels = random_pixels(rows).reshape(rows, 32, 32, 3).transpose(1, 2, 3, 0)
        digits = np.arange(rows + more) % 10 + 1 if labels is None else np.full(rows, labels)
        scipy.io.savemat(
            stream,
            {"X": pixels[:height, :, :channels], "y": digits[:, None].astype(np.uint8)},
            do_compression=True,
        )
        files[f"{name}_32x32.mat"] = stream.getvalue()
    return files


SMALL = {
    "cifar10": (images.CIFAR10_MD5, cifar10_files),
    "cifar100": (images.CIFAR100_MD5, cifar100_files),
    "svhn": (images.SVHN_MD5, svhn_files),
}
"""Data sets with the digests of their files, and small files in their formats."""


def test_cifar10_batches_follow_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = cifar10_files()
    publish(monkeypatch, images.CIFAR10_MD5, files)
    pixels, labels, test_pixels, test_labels = load_arrays("cifar10", write(tmp_path, files))
    assert labels.tolist() == list(range(10)) * 5
    assert test_labels.tolist() == list(range(10))
    np.testing.assert_array_equal(pixels, np.tile(test_pixels, (5, 1, 1, 1)))


def test_cifar100_has_the_fine_labels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = cifar100_files()
    publish(monkeypatch, images.CIFAR100_MD5, files)
    write(tmp_path, files)
    pixels, labels, test_pixels, test_labels = load_arrays("cifar100", tmp_path)
    assert labels.tolist() == list(range(100)) * 2
    assert test_labels.tolist() == list(range(100))
    np.testing.assert_array_equal(pixels, random_pixels(200).reshape(-1, 3, 32, 32))
    assert test_pixels.shape == (100, 3, 32, 32)


def test_svhn_digits_are_their_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = svhn_files()
    publish(monkeypatch, images.SVHN_MD5, files)
    task = load_task("svhn/squeezenet", data_dir=write(tmp_path, files))
    pixels, labels, _, _ = load_arrays("svhn", tmp_path)
    assert labels.tolist() == [(i % 10 + 1) % 10 for i in range(600)]
    expected = random_pixels(600).reshape(600, 32, 32, 3)  # rows, columns, channels
    np.testing.assert_array_equal(pixels.transpose(0, 2, 3, 1), expected)
    assert (len(task.train), len(task.validation)) == (540, 60)
    assert task.batch(task.train, slice(0, 4)).inputs.shape == (4, 3, 32, 32)


class Malicious:
    """Leaves a file when it is unpickled by anybody who is not careful."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_malicious_pickle_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = cifar100_files()
    for attack in (
        pickle.dumps(Malicious(tmp_path / "mark"), protocol=2),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
    ):
        attacked = {**files, "cifar-100-python/train": attack}
        publish(monkeypatch, images.CIFAR100_MD5, attacked)  # even if it has the right digest
        write(tmp_path, attacked)
        with pytest.raises(InputError, match="is damaged \\(it wants to call"):
            load_arrays("cifar100", tmp_path)
        assert not (tmp_path / "mark").exists()


def halves(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: content[: len(content) // 2] for name, content in files.items()}


DAMAGES: dict[str, tuple[str, Callable[[], dict[str, bytes]], str]] = {
    "label 10": ("cifar10", lambda: cifar10_files([10] * 10), "labels from 10 to 10"),
    "label -1": ("cifar10", lambda: cifar10_files([*range(9), -1]), "labels from -1 to 8"),
    "9 labels": ("cifar10", lambda: cifar10_files(range(9)), "for 9 labels"),
    "narrow": ("cifar10", lambda: cifar10_files(columns=3071), "pixels of shape (10, 3071)"),
    "half a pickle": ("cifar10", lambda: halves(cifar10_files()), ""),
    "label 100": ("cifar100", lambda: cifar100_files([100] * 200), "labels from 100"),
    "150 labels": ("cifar100", lambda: cifar100_files([1] * 150), "for 150 labels"),
    "no pickle": ("cifar100", lambda: dict.fromkeys(images.CIFAR100_MD5, b"<html>"), ""),
    "other pickle": ("cifar100", lambda: dict.fromkeys(images.CIFAR100_MD5, pickle.dumps([1])), ""),
    "digit 11": ("svhn", lambda: svhn_files(11), "labels from 11"),
    "digit 0": ("svhn", lambda: svhn_files(0), "labels from 0"),
    "grey": ("svhn", lambda: svhn_files(channels=1), "pixels of shape (32, 32, 1, 600)"),
    "low": ("svhn", lambda: svhn_files(height=28), "pixels of shape (28, 32, 3, 600)"),
    "601 digits": ("svhn", lambda: svhn_files(more=1), "for 601 labels"),
    "no mat file": ("svhn", lambda: dict.fromkeys(images.SVHN_MD5, b"<html>"), ""),
    "half a mat file": ("svhn", lambda: halves(svhn_files()), ""),
    "altered mat file": (
        "svhn",
        lambda: {name: content[:-1] + b"?" for name, content in svhn_files().items()},
        "",
    ),
    "two lines": (
        "cifar100",
        lambda: dict.fromkeys(images.CIFAR100_MD5, b"\x8c\x03o\ns\x8c\x01a\x93."),
        "wants to call o s.a",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_what_does_not_fit_is_named(
    case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dataset, make, message = DAMAGES[case]
    files = make()
    publish(monkeypatch, SMALL[dataset][0], files)
    with pytest.raises(InputError) as error:
        load_arrays(dataset, write(tmp_path, files))
    assert str(error.value).startswith("The data file ")
    assert " is damaged (" in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dataset", SMALL)
@pytest.mark.parametrize("damage", ["altered", "truncated", "empty"])
def test_a_file_that_is_not_as_published_is_not_read(
    damage: str, dataset: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hashes, make = SMALL[dataset]
    files = make()
    publish(monkeypatch, hashes, files)
    write(tmp_path, files)
    for name in files:
        content = bytearray(files[name])
        content[len(content) // 2] ^= 1
        damaged = {"altered": content, "truncated": content[:-9], "empty": bytearray()}[damage]
        write(tmp_path, {name: bytes(damaged)})
        with pytest.raises(
            InputError, match="its content differs from the published file"
        ) as error:
            load_arrays(dataset, tmp_path)
        assert repr(str(tmp_path / name)) in str(error.value)
        write(tmp_path, {name: files[name]})


def idx(value: int, *shape: int) -> bytes:
    """A gzipped file in the IDX format."""
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    return gzip.compress(header + bytes([value]) * math.prod(shape), compresslevel=1)


@pytest.fixture(scope="module")
def blank() -> dict[str, bytes]:
    """The images and labels of MNIST and Fashion-MNIST by the ends of their names, all 0."""
    return {
        "train-images-idx3-ubyte.gz": idx(0, 60000, 28, 28),
        "train-labels-idx1-ubyte.gz": idx(0, 60000),
        "t10k-images-idx3-ubyte.gz": idx(0, 10000, 28, 28),
        "t10k-labels-idx1-ubyte.gz": idx(0, 10000),
    }


IDX_DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "higher": ("train-images-idx3-ubyte.gz", lambda c: idx(0, 60000, 32, 28), "IDX format"),
    "fewer": ("train-images-idx3-ubyte.gz", lambda c: idx(0, 59999, 28, 28), "IDX format"),
    "label 10": ("train-labels-idx1-ubyte.gz", lambda c: idx(10, 60000), "labels from 10 to 10"),
    "truncated": ("train-images-idx3-ubyte.gz", lambda c: c[:-9], ""),
    "altered": ("train-labels-idx1-ubyte.gz", lambda c: c[:-5] + b"\xff" + c[-4:], ""),
    "empty": ("train-images-idx3-ubyte.gz", lambda c: b"", "IDX format"),
}


@pytest.mark.parametrize("case", IDX_DAMAGES)
@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist"])
def test_what_does_not_fit_in_the_idx_format_is_named(
    dataset: str, case: str, blank: dict[str, bytes], tmp_path: Path
) -> None:
    ending, damage, message = IDX_DAMAGES[case]
    folder = str(Path(DATASETS[dataset].files[0]).parent)
    files = {**blank, ending: damage(blank[ending])}
    write(tmp_path, {f"{folder}/{name}": content for name, content in files.items()})
    with pytest.raises(InputError) as error:
        load_arrays(dataset, tmp_path)
    place = repr(str(tmp_path / folder / ending))
    assert str(error.value).startswith(f"The data file {place} is damaged (")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_archive_is_unpacked_whole_or_not_at_all(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = cifar100_files()
    publish(monkeypatch, images.CIFAR100_MD5, files)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in {**files, "../evil": b"x"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (mirror.folder / "cifar-100-python.tar.gz").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match=r"'cifar100' cannot be downloaded: .*(?i:md5)"):
        load_arrays("cifar100", tmp_path / "data", download=True)
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []
    digest = hashlib.md5(stream.getvalue(), usedforsecurity=False).hexdigest()
    arguments = {**DATASETS["cifar100"].download.keywords, "md5": digest}  # type: ignore[attr-defined]
    fetch_archive(tmp_path / "data", **arguments)
    assert load_arrays("cifar100", tmp_path / "data")[0].shape == (200, 3, 32, 32)
    assert not (tmp_path / "evil").exists()


# Augmentation


def test_a_crop_is_a_shift_and_a_mirror_of_the_whole_image() -> None:
    rng = torch.Generator().manual_seed(0)
    original = torch.randint(1, 256, (400, 3, 8, 8), dtype=torch.uint8, generator=rng)
    before = original.clone()
    found = crop_and_flip(original)
    assert found.shape == original.shape
    assert found.dtype == torch.uint8
    assert torch.equal(original, before)
    padded = torch.nn.functional.pad(original, (4, 4, 4, 4))
    seen = set()
    for image, source in zip(found, padded, strict=True):
        matches = [
            (top, left, mirrored)
            for top in range(9)
            for left in range(9)
            for mirrored in (False, True)
            for window in [source[:, top : top + 8, left : left + 8]]
            if torch.equal(image, window.flip(2) if mirrored else window)
        ]
        assert matches
        seen.add(matches[0])
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))
    assert {mirrored for *_, mirrored in seen} == {False, True}


def test_only_training_batches_are_augmented() -> None:
    plain, augmented = image_task(), image_task(augment=lambda x: x + 1)
    rows = torch.arange(5)
    for part in ("train", "validation", "test"):
        difference = augmented.batch(getattr(augmented, part), rows).inputs
        difference = difference - plain.batch(getattr(plain, part), rows).inputs
        expected = torch.full_like(difference, 1.0 if part == "train" else 0.0)
        torch.testing.assert_close(difference, expected)


def test_augmentation_is_fixed_by_the_stream_and_leaves_torch_alone(cifar10: Task) -> None:
    state = torch.get_rng_state()
    small = load_small(cifar10)
    vectors = [
        torch.nn.utils.parameters_to_vector(
            train(small, small.task_loss, 2, stream=stream).parameters()
        )
        for stream in ((0, "a"), (0, "a"), (1, "a"))
    ]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])
    assert torch.equal(torch.get_rng_state(), state)


def load_small(task: Task) -> Task:
    """The same data with a small model."""
    from evomal.tasks.models.logistic import LogisticRegression

    return Task(
        lambda: LogisticRegression(3072, 10),
        task.train,
        task.validation,
        link="softmax",
        preprocess=task.preprocess,
        augment=task.augment,
    )


def test_standardised_pixels_by_hand() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    found = standardise_pixels(images, (0.5, 0.25), (0.5, 0.25))
    assert found.flatten().tolist() == pytest.approx([-1.0, 3.0])


# Schedules


def test_the_learning_rate_falls_at_the_milestones() -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step
    task = image_task(schedule=Milestones((0.5, 0.8)))

    def noting(self: torch.optim.SGD, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", noting)
        train(task, task.task_loss, 10, stream=(0, "test"), meta_testing=True)
    assert rates == pytest.approx([0.1] * 5 + [0.01] * 3 + [0.001] * 2)


def test_colour_tasks_have_the_published_schedule(cifar10: Task) -> None:
    assert isinstance(cifar10.schedule, Milestones)
    assert cifar10.testing_steps == 150_000
    assert [round(share * cifar10.testing_steps) for share in cifar10.schedule.at] == [
        100_000,
        135_000,
    ]
    with pytest.raises(InputError, match="between 0 and 1"):
        Milestones((100, 135))
