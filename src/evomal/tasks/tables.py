"""The tables: diabetes, Boston Housing, California Housing."""

from __future__ import annotations

import lzma
import pickle
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

from evomal.tasks.files import Array, DatasetInfo, damaged, fetch


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
    from sklearn.datasets import fetch_california_housing

    sys.stderr.write(f"Downloading California Housing to {data_dir / _CALIFORNIA}\n")
    fetch_california_housing(data_home=data_dir)  # checks its own checksum


def _nothing(_: Path) -> None:
    """The data comes with scikit-learn."""


TABLES = [
    DatasetInfo("diabetes", (), _read_diabetes, _nothing),
    DatasetInfo("boston", (_BOSTON,), _read_boston, _download_boston),
    DatasetInfo("california", (_CALIFORNIA,), _read_california, _download_california),
]
"""The data sets of tables."""
