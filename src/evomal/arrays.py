"""Conversion of arrays, data frames and lists to tensors."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from evomal.errors import InputError, first_line

_BY_DTYPE_KIND = {
    "O": (
        "hold Python objects",
        "convert them to numbers, for example with .astype(float) or numpy.stack",
    ),
    "U": ("hold text", "encode it as numbers"),
    "S": ("hold text", "encode it as numbers"),
    "T": ("hold text", "encode it as numbers"),
    "M": ("hold dates", "convert them to numbers"),
    "m": ("hold times", "convert them to numbers"),
    "c": ("hold complex numbers", "pass real and imaginary parts as two columns"),
    "V": ("are a structured array", "stack its fields as the columns of one array"),
}
_DEFAULT_REMEDY = "pass a tensor, a numpy array or a list of numbers"

# torch supports few operations on unsigned integers
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def read_array(values: Any, what: str) -> Tensor:
    """Convert any kind of array to a contiguous tensor with its own memory.

    Parameters
    ----------
    values
        A torch tensor of any strides; a numpy array of any strides or byte order, read-only or
        memory-mapped; a pandas or polars data frame or series, read by position (the index is
        ignored); any other object with ``__array__`` or ``__dlpack__``; a number; a list or tuple
        of these.
    what
        Name of the values in messages, in the plural.

    Raises
    ------
    InputError
        If the values are not real numbers, some are masked or missing, or the array is not dense
        or not rectangular.
    """
    try:
        tensor = _as_tensor(values, what)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(
            f"{what} cannot be read as numbers ({first_line(error)}); {_DEFAULT_REMEDY}."
        ) from error
    is_copy = isinstance(values, np.ndarray | Sequence)
    return tensor if is_copy else tensor.clone(memory_format=torch.contiguous_format)


def _as_tensor(values: Any, what: str) -> Tensor:
    """The numbers as a plain tensor, possibly sharing memory with `values`."""
    if isinstance(values, Tensor):
        return _plain(values, what)
    if isinstance(values, np.ma.MaskedArray):
        raise _error(
            what, "are a masked array", "fill it with .filled(value), or drop the masked rows"
        )
    if isinstance(values, np.ndarray | np.generic | Number):
        return _from_numpy(np.asarray(values), what)
    if isinstance(values, str | bytes):
        raise _error(what, *_BY_DTYPE_KIND["U"])
    if hasattr(values, "to_numpy"):
        return _from_table(values, what)
    if hasattr(values, "nnz"):  # of scipy and others
        raise _error(what, "are a sparse array", "pass a dense one, .toarray()")
    if type(values).__module__.startswith("PIL."):
        remedy = "convert them to tensors, as with torchvision.transforms.ToTensor()"
        raise _error(what, "are PIL images", remedy)
    if isinstance(values, Sequence):
        return _stack(values, what)
    if not isinstance(values, type) and hasattr(values, "__array__"):
        return _from_numpy(np.asarray(values), what)
    if not isinstance(values, type) and hasattr(values, "__dlpack__"):
        return _plain(from_dlpack(values), what)
    if isinstance(values, Iterator):
        raise _error(what, f"come from a {type(values).__name__}", "pass a list or an array")
    kind = "None" if values is None else f"of type {type(values).__name__}"
    raise _error(what, f"are {kind}", _DEFAULT_REMEDY)


def _error(what: str, seen: str, remedy: str) -> InputError:
    return InputError(f"{what} {seen}; {remedy}.")


def _plain(tensor: Tensor, what: str) -> Tensor:
    """A dense, real tensor without gradient."""
    if tensor.is_nested:
        remedy = "pad the rows to one length (torch.nested.to_padded_tensor)"
        raise _error(what, "are a nested tensor", remedy)
    if tensor.layout != torch.strided:
        raise _error(what, "are a sparse tensor", "pass a dense one, .to_dense()")
    if tensor.is_quantized:
        raise _error(what, "are a quantized tensor", "pass .dequantize()")
    if isinstance(tensor, torch.masked.MaskedTensor):
        raise _error(what, "are a masked tensor", "fill it with .to_tensor(value)")
    if tensor.is_meta:
        raise _error(what, "are on the meta device, without values", "create them on a CPU or GPU")
    if tensor.is_complex():
        raise _error(what, *_BY_DTYPE_KIND["c"])
    tensor = tensor.as_subclass(Tensor).detach().resolve_neg()
    wider = tensor.to(_WIDER.get(tensor.dtype, tensor.dtype))
    if tensor.dtype == torch.uint64 and bool((wider < 0).any()):
        raise _error(what, "hold numbers too large for int64", "pass them as floats")
    return wider


def _from_numpy(array: np.ndarray[Any, Any], what: str, where: str = "") -> Tensor:
    kind = array.dtype.kind
    if kind == "O" and any(isinstance(value, str) for value in array.flat):
        kind = "U"
    if kind in _BY_DTYPE_KIND:
        seen, remedy = _BY_DTYPE_KIND[kind]
        raise _error(what, seen + where, remedy)
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 8:  # torch has no long double
        dtype = np.dtype(np.float64)
    # copied, because torch rejects negative strides and read-only arrays
    return _plain(torch.from_numpy(np.array(array, dtype=dtype, order="C")), what)


def _stack(values: Sequence[Any], what: str) -> Tensor:
    """Stack a list of numbers, or of arrays of equal shapes; a copy."""
    if all(isinstance(value, Number) for value in values):
        return _from_numpy(np.array(values), what)
    return stacked([_as_tensor(value, what) for value in values], what)


def stacked(tensors: list[Tensor], what: str, dim: int = 0) -> Tensor:
    """One tensor from several of equal shapes, which `read_array` returned.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    shapes = {tuple(tensor.shape): None for tensor in tensors}
    if len(shapes) > 1:
        first, second, *_ = shapes
        raise _error(
            what, f"are ragged, with rows of shapes {first} and {second}", "pad or cut them"
        )
    dtype = functools.reduce(torch.promote_types, {tensor.dtype for tensor in tensors})
    return torch.stack([tensor.to(tensors[0].device, dtype) for tensor in tensors], dim)


def _from_table(values: Any, what: str) -> Tensor:
    """Convert a data frame or series of pandas, polars or similar, or an array with its methods."""
    if not hasattr(values, "columns"):
        return _from_column(values, what, "")
    polars = hasattr(values, "iter_columns")
    columns = list(values.iter_columns() if polars else (column for _, column in values.items()))
    if not columns:
        raise _error(what, "are a table without columns", _DEFAULT_REMEDY)
    names = [f" in the column {str(name)!r}" for name in values.columns]
    pairs = zip(columns, names, strict=True)
    return stacked([_from_column(column, what, name) for column, name in pairs], what, dim=1)


def _from_column(column: Any, what: str, where: str) -> Tensor:
    kind = str(getattr(column, "dtype", "")).lower()
    if kind.startswith(("categor", "enum")):
        raise _error(what, f"hold categories{where}", "encode them as numbers")
    nulls = getattr(column, "null_count", None)  # of polars
    if nulls() if callable(nulls) else getattr(column, "hasnans", False):
        raise _error(what, f"hold missing values{where}", "remove or impute those rows first")
    return _from_numpy(column.to_numpy(), what, where)
