"""Memory maps: arrays in files, of which rows are read when they are needed."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from evomal.errors import InputError


@dataclass(frozen=True)
class MappedArray:
    """Whole rows of a memory map; only its place is sent to other processes."""

    path: str
    dtype: str
    offset: int
    shape: tuple[int, ...]

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        """Some rows, in memory."""
        return np.array(self._array[rows])

    def __getstate__(self) -> dict[str, Any]:
        fields = ("path", "dtype", "offset", "shape")
        return {name: value for name, value in vars(self).items() if name in fields}

    @cached_property
    def _array(self) -> npt.NDArray[Any]:
        try:
            return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        except (OSError, ValueError) as error:
            raise InputError(
                f"The memory map {self.path!r} cannot be read ({error}); all workers need the file."
            ) from error


def is_mapped(values: object) -> bool:
    """Whether this is an array whose values are in a file."""
    return _map_of(values) is not None


def mapped_array(values: npt.NDArray[Any], what: str) -> MappedArray:
    """The place of a memory map, or of some of its rows.

    Raises
    ------
    InputError
        If its rows are not one piece of the file, or its values are not numbers.
    """
    whole = _map_of(values)
    assert whole is not None
    if not values.flags.c_contiguous or values.ndim == 0 or values.dtype.kind not in "biuf":
        raise InputError(
            f"{what} are a memory map that is not one piece of rows of numbers in its file; pass "
            "a slice of its rows, such as array[:1000]."
        )
    offset = whole.offset + values.ctypes.data - whole.ctypes.data
    return MappedArray(str(whole.filename), values.dtype.str, offset, values.shape)


def _map_of(values: object) -> np.memmap[Any, Any] | None:
    """The memory map of a whole file that these values are a view of."""
    while isinstance(values, np.ndarray):
        base: Any = values.base
        if isinstance(values, np.memmap) and isinstance(base, mmap.mmap):
            return values if values.filename is not None else None
        values = base
    return None
