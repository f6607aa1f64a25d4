"""Image data: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, SVHN, in torchvision's layout."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evomal.tasks.data_files import (
    Array,
    DatasetInfo,
    ImageFacts,
    checked_bytes,
    damaged,
    existing,
    fetch,
    fetch_archive,
)

MNIST_MD5 = {
    "MNIST/raw/train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "MNIST/raw/train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "MNIST/raw/t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "MNIST/raw/t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
FASHION_MNIST_MD5 = {
    "FashionMNIST/raw/train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "FashionMNIST/raw/train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "FashionMNIST/raw/t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}


def _read_idx_files(hashes: Mapping[str, str], data_dir: Path) -> tuple[Array, ...]:
    shapes: list[tuple[int, ...]] = [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    return tuple(
        _read_idx(data_dir / name, shape) for name, shape in zip(hashes, shapes, strict=True)
    )


def _download(mirror: str, hashes: Mapping[str, str], data_dir: Path) -> None:
    """Download single files, which have the same names on the mirror."""
    fetch(
        data_dir,
        {name: mirror + Path(name).name for name in hashes},
        {name: f"md5:{md5}" for name, md5 in hashes.items()},
    )


def _read_idx(packed: Path, shape: tuple[int, ...]) -> Array:
    """An array of unsigned bytes in the IDX format, gzipped or not."""
    path = existing(packed) or packed
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, error) from error
    header = struct.pack(f">HBB{len(shape)}I", 0, 0x08, len(shape), *shape)
    if not content.startswith(header) or len(content) != len(header) + int(np.prod(shape)):
        raise damaged(path, f"not the IDX format of unsigned bytes of shape {shape}")
    array = np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
    if array.ndim == 1 and array.max() > 9:
        raise damaged(path, f"labels from {array.min()} to {array.max()}")
    return array


CIFAR10_MD5 = {
    "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR100_MD5 = {
    "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
    "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}


def _read_cifar(
    hashes: Mapping[str, str], key: bytes, classes: int, data_dir: Path
) -> tuple[Array, ...]:
    """Training and test images and labels; the test file is the last one."""
    batches = [
        _read_cifar_batch(data_dir / name, md5, key, classes) for name, md5 in hashes.items()
    ]
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1]


def _read_cifar_batch(path: Path, md5: str, key: bytes, classes: int) -> tuple[Array, Array]:
    """Images (n, 3, 32, 32) and labels (n,) from a file of CIFAR's Python version, as uint8."""
    try:
        batch = _ArrayUnpickler(io.BytesIO(checked_bytes(path, md5)), encoding="bytes").load()
        pixels, labels = batch[b"data"], np.array(batch[key])
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * 32 * 32):
            raise ValueError(f"pixels of shape {pixels.shape} for {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        EOFError,
    ) as error:
        raise damaged(path, error) from error
    return pixels.reshape(-1, 3, 32, 32), labels.astype(np.uint8)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles bytes, numbers, containers and NumPy arrays, and refuses all other calls."""

    admitted: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The NumPy functions that reconstruct arrays."""
        if (module, name) not in self.admitted:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}")
        return self.admitted[module, name]


SVHN_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}


def _read_svhn(data_dir: Path) -> tuple[Array, ...]:
    parts = [_read_svhn_file(data_dir / name, md5) for name, md5 in SVHN_MD5.items()]
    return tuple(array for part in parts for array in part)


def _read_svhn_file(path: Path, md5: str) -> tuple[Array, Array]:
    """Images (n, 3, 32, 32) and labels (n,) of cropped digits, as uint8; the digit 0 is class 0."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(io.BytesIO(checked_bytes(path, md5)), variable_names=["X", "y"])
        pixels, labels = content["X"], content["y"].ravel()
        if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)):
            raise ValueError(f"pixels of shape {pixels.shape} for {len(labels)} labels")
        if labels.min() < 1 or labels.max() > 10:
            raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    except (
        MatReadError,
        zlib.error,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OSError,
    ) as error:
        raise damaged(path, error) from error
    return np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), (labels % 10).astype(np.uint8)


_UNIVERSITY = "https://www.cs.toronto.edu/~kriz/"
_SMALL, _COLOUR = (1, 28, 28), (3, 32, 32)

IMAGES = [
    DatasetInfo(
        "mnist",
        tuple(MNIST_MD5),
        partial(_read_idx_files, MNIST_MD5),
        partial(_download, "https://ossci-datasets.s3.amazonaws.com/mnist/", MNIST_MD5),
        "softmax",
        ImageFacts(_SMALL, 10, (0.1307,), (0.3081,), augmented=False),
        MNIST_MD5,
    ),
    DatasetInfo(
        "fashion-mnist",
        tuple(FASHION_MNIST_MD5),
        partial(_read_idx_files, FASHION_MNIST_MD5),
        partial(
            _download,
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            FASHION_MNIST_MD5,
        ),
        "softmax",
        ImageFacts(_SMALL, 10, (0.2860,), (0.3530,), augmented=False),
        FASHION_MNIST_MD5,
    ),
    DatasetInfo(
        "cifar10",
        tuple(CIFAR10_MD5),
        partial(_read_cifar, CIFAR10_MD5, b"labels", 10),
        partial(
            fetch_archive,
            url=f"{_UNIVERSITY}cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            hashes=CIFAR10_MD5,
        ),
        "softmax",
        ImageFacts(_COLOUR, 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), augmented=True),
        CIFAR10_MD5,
    ),
    DatasetInfo(
        "cifar100",
        tuple(CIFAR100_MD5),
        partial(_read_cifar, CIFAR100_MD5, b"fine_labels", 100),
        partial(
            fetch_archive,
            url=f"{_UNIVERSITY}cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            hashes=CIFAR100_MD5,
        ),
        "softmax",
        ImageFacts(
            _COLOUR, 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), augmented=True
        ),
        CIFAR100_MD5,
    ),
    DatasetInfo(
        "svhn",
        tuple(SVHN_MD5),
        _read_svhn,
        partial(_download, "http://ufldl.stanford.edu/housenumbers/", SVHN_MD5),
        "softmax",
        ImageFacts(_COLOUR, 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), augmented=True),
        SVHN_MD5,
    ),
]
"""The image data sets."""
