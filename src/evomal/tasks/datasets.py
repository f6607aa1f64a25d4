"""Readers and downloads of the data sets, in the layout torchvision and scikit-learn keep."""

from __future__ import annotations

import gzip
import lzma
import os
import pickle
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evomal.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True)
class DatasetInfo:
    """A data set that a task can be made of.

    Attributes
    ----------
    name
        Name in task names and messages.
    kind
        ``"table"`` or ``"images"``.
    files
        Paths below the data directory; none where the data comes with scikit-learn.
    read
        ``read(data_dir)``: (features (n, d), targets (n,)) of a table, or the uint8 images and
        labels of the official training and test sets.
    download
        ``download(data_dir)`` puts `files` there and checks them.
    """

    name: str
    kind: Literal["table", "images"]
    files: tuple[str, ...]
    read: Callable[[Path], tuple[Array, ...]]
    download: Callable[[Path], None]

    def is_present(self, data_dir: Path) -> bool:
        """Whether every file is there, packed or unpacked."""
        return all(_existing(data_dir / name) is not None for name in self.files)


def data_directory(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where data sets lie: the argument, else ``EVOMAL_DATA``, else the user's cache folder."""
    import platformdirs

    chosen = data_dir or os.environ.get("EVOMAL_DATA")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("evomal"))


def load_arrays(name: str, data_dir: Path, *, download: bool = False) -> tuple[Array, ...]:
    """The arrays of a data set, as `DatasetInfo.read` returns them.

    Raises
    ------
    InputError
        If files are absent and `download` is false, or a file is damaged.
    """
    info = DATASETS[name]
    if not info.is_present(data_dir):
        if not download:
            raise InputError(
                f"The data set {name!r} is not in {str(data_dir)!r}; set EVOMAL_DATA or --data-dir "
                "to the folder that holds it, or add --download."
            )
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            info.download(data_dir)
        except (OSError, ValueError) as error:
            raise InputError(f"The data set {name!r} cannot be downloaded: {error}") from error
    return info.read(data_dir)


def _existing(path: Path) -> Path | None:
    """The file, or what torchvision leaves after unpacking it."""
    unpacked = path.with_suffix("") if path.suffix == ".gz" else path
    return next((found for found in (path, unpacked) if found.is_file()), None)


def _damaged(path: Path, reason: object) -> InputError:
    return InputError(
        f"The data file {str(path)!r} is damaged ({reason}); delete it and fetch it again with "
        "--download."
    )


def _fetch(data_dir: Path, urls: dict[str, str], hashes: dict[str, str]) -> None:
    """Download files by their path below `data_dir`, with checksums, saying so on stderr."""
    import pooch

    for name, url in urls.items():
        if _existing(data_dir / name) is None:
            sys.stderr.write(f"Downloading {url} to {data_dir / name}\n")
            folder = (data_dir / name).parent
            pooch.retrieve(url, hashes[name], fname=Path(name).name, path=folder)


def _read_diabetes(_: Path) -> tuple[Array, ...]:
    from sklearn.datasets import load_diabetes

    features, targets = load_diabetes(return_X_y=True)
    return features, targets


_BOSTON = "boston/housing.data"


def _read_boston(data_dir: Path) -> tuple[Array, ...]:
    path = data_dir / _BOSTON
    try:
        table = np.array([line.split() for line in path.read_text().splitlines()], np.float64)
    except (ValueError, OSError) as error:
        raise _damaged(path, error) from error
    if table.shape != (506, 14):
        raise _damaged(path, f"a table of shape {table.shape} instead of (506, 14)")
    return table[:, :13], table[:, 13]


def _download_boston(data_dir: Path) -> None:
    _fetch(
        data_dir,
        {_BOSTON: "https://archive.ics.uci.edu/ml/machine-learning-databases/housing/housing.data"},
        {_BOSTON: "sha256:baadf72995725d76efe787b664e1f083388c79ba21ef9a7990d87f774184735a"},
    )


_CALIFORNIA = "cal_housing_py3.pkz"


def _read_california(data_dir: Path) -> tuple[Array, ...]:
    from sklearn.datasets import fetch_california_housing

    path = data_dir / _CALIFORNIA
    try:
        features, targets = fetch_california_housing(
            data_home=data_dir, download_if_missing=False, return_X_y=True
        )
    except (
        OSError,
        EOFError,
        MemoryError,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ImportError,
    ) as error:
        raise _damaged(path, error) from error
    if features.shape != (20640, 8):
        raise _damaged(path, f"a table of shape {features.shape} instead of (20640, 8)")
    return features, targets


def _download_california(data_dir: Path) -> None:
    from sklearn.datasets import fetch_california_housing

    sys.stderr.write(f"Downloading California Housing to {data_dir / _CALIFORNIA}\n")
    fetch_california_housing(data_home=data_dir)  # checks its own checksum


_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_MNIST = tuple(f"MNIST/raw/{name}" for name in _MNIST_MD5)


def _read_mnist(data_dir: Path) -> tuple[Array, ...]:
    shapes: list[tuple[int, ...]] = [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    return tuple(
        _read_idx(data_dir / name, shape) for name, shape in zip(_MNIST, shapes, strict=True)
    )


def _download_mnist(data_dir: Path) -> None:
    mirror = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    _fetch(
        data_dir,
        {f"MNIST/raw/{name}": mirror + name for name in _MNIST_MD5},
        {f"MNIST/raw/{name}": f"md5:{md5}" for name, md5 in _MNIST_MD5.items()},
    )


def _read_idx(packed: Path, shape: tuple[int, ...]) -> Array:
    """An array of unsigned bytes in the IDX format, gzipped or not."""
    path = _existing(packed) or packed
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error
    header = struct.pack(f">HBB{len(shape)}I", 0, 0x08, len(shape), *shape)
    if not content.startswith(header) or len(content) != len(header) + int(np.prod(shape)):
        raise _damaged(path, f"not the IDX format of unsigned bytes of shape {shape}")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _nothing(_: Path) -> None:
    """The data comes with scikit-learn."""


DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in [
        DatasetInfo("diabetes", "table", (), _read_diabetes, _nothing),
        DatasetInfo("boston", "table", (_BOSTON,), _read_boston, _download_boston),
        DatasetInfo("california", "table", (_CALIFORNIA,), _read_california, _download_california),
        DatasetInfo("mnist", "images", _MNIST, _read_mnist, _download_mnist),
    ]
}
"""Every data set, by name."""
