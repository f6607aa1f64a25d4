"""Tabular data: values to predict, and small tables with classes."""

from __future__ import annotations

import lzma
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np

from evomal.tasks.data_files import Array, DatasetInfo, damaged, fetch, retrieve


def _read_diabetes(_: Path) -> tuple[Array, ...]:
    from sklearn.datasets import load_diabetes

    features, targets = load_diabetes(return_X_y=True)
    return features, targets


def _read_digits(_: Path) -> tuple[Array, ...]:
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    return pixels, digits


def _read_eights(data_dir: Path) -> tuple[Array, ...]:
    """The digits, with 1 for an 8 and 0 for any other."""
    pixels, digits = _read_digits(data_dir)
    return pixels, digits == 8


def _read_breast_cancer(_: Path) -> tuple[Array, ...]:
    """Measurements of cells, with 1 for malignant: scikit-learn has 0 for it."""
    from sklearn.datasets import load_breast_cancer

    features, benign = load_breast_cancer(return_X_y=True)
    return features, 1 - benign


_BOSTON = "boston/housing.data"


def _read_boston(data_dir: Path) -> tuple[Array, ...]:
    path = data_dir / _BOSTON
    try:
        table = np.array([line.split() for line in path.read_text().splitlines()], np.float64)
    except (ValueError, OSError) as error:
        raise damaged(path, error) from error
    if table.shape != (506, 14):
        raise damaged(path, f"a table of shape {table.shape} instead of (506, 14)")
    return table[:, :13], table[:, 13]


def _download_boston(data_dir: Path) -> None:
    fetch(
        data_dir,
        {_BOSTON: "https://archive.ics.uci.edu/ml/machine-learning-databases/housing/housing.data"},
        {_BOSTON: "sha256:baadf72995725d76efe787b664e1f083388c79ba21ef9a7990d87f774184735a"},
    )


_CALIFORNIA = "cal_housing_py3.pkz"
CALIFORNIA_URL = "https://ndownloader.figshare.com/files/5976036"
CALIFORNIA_SHA256 = "aaa5c9a6afe2225cc2aed2723682ae403280c4a3695a2ddda4ffb5d8215ea681"


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
        raise damaged(path, error) from error
    if features.shape != (20640, 8):
        raise damaged(path, f"a table of shape {features.shape} instead of (20640, 8)")
    return features, targets


def _download_california(data_dir: Path) -> None:
    """Like `fetch_california_housing`, but atomic."""
    import joblib

    archive = data_dir / "cal_housing.tgz"
    retrieve(CALIFORNIA_URL, f"sha256:{CALIFORNIA_SHA256}", archive)
    with tarfile.open(archive) as tar:
        content = tar.extractfile("CaliforniaHousing/cal_housing.data")
        assert content is not None
        table = np.loadtxt(content, delimiter=",")
    draft = data_dir / f".{_CALIFORNIA}.draft"
    joblib.dump(table[:, [8, 7, 2, 3, 4, 5, 6, 1, 0]], draft, compress=6)
    draft.replace(data_dir / _CALIFORNIA)
    archive.unlink()


def _nothing(_: Path) -> None:
    """The data is included in scikit-learn."""


TABLES = [
    DatasetInfo("diabetes", (), _read_diabetes, _nothing),
    DatasetInfo("boston", (_BOSTON,), _read_boston, _download_boston),
    DatasetInfo("california", (_CALIFORNIA,), _read_california, _download_california),
    DatasetInfo("digits", (), _read_digits, _nothing, "softmax"),
    DatasetInfo("breast-cancer", (), _read_breast_cancer, _nothing, "sigmoid"),
    DatasetInfo("eights", (), _read_eights, _nothing, "sigmoid"),
]
"""The tabular data sets."""
