"""Arrays as people have them: what is read, by value and in order, and what is refused."""

from __future__ import annotations

import array
import datetime
import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from evomal.arrays import read_array
from evomal.errors import InputError
from evomal.tasks.data import Data
from evomal.tasks.task import Task
from tasks_for_tests import Perceptron, classification_task, regression_task

SHUFFLED = [2, 0, 1]
DOCUMENTED = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
TABLE = DOCUMENTED.double().numpy()


class Exported:
    """An array of a library that evomal knows nothing of."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.values, dtype)


class OnlyDlpack:
    """An array of the array API's standard, without numpy's protocol."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.values.__dlpack__(**arguments)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


def frame(index: list[int] | None = None) -> Any:
    return pd.DataFrame({"a": TABLE[:, 0], "b": TABLE[:, 1]}, index=index)


def memory_map(folder: Path) -> Any:
    np.save(folder / "rows.npy", TABLE)
    return np.load(folder / "rows.npy", mmap_mode="r")


# Each holds the numbers of `TABLE`
SAME: dict[str, Callable[[], Any]] = {
    "array": lambda: TABLE,
    "Fortran order": lambda: np.asfortranarray(TABLE),
    "negative strides": lambda: TABLE[::-1, ::-1].copy()[::-1, ::-1],
    "every other column": lambda: np.repeat(TABLE, 2, axis=1)[:, ::2],
    "big-endian": lambda: TABLE.astype(">f8"),
    "little-endian": lambda: TABLE.astype("<f4"),
    "half": lambda: TABLE.astype(np.float16),
    "long double": lambda: TABLE.astype(np.longdouble),
    "integers": lambda: TABLE.astype(np.int16),
    "unsigned integers": lambda: TABLE.astype(np.uint16),
    "records": lambda: TABLE.view(np.recarray),
    "tensor": lambda: DOCUMENTED,
    "transposed tensor": lambda: DOCUMENTED.T.contiguous().T,
    "tensor with gradient": lambda: DOCUMENTED.clone().requires_grad_(),
    "parameter": lambda: torch.nn.Parameter(DOCUMENTED.clone()),
    "bfloat16": DOCUMENTED.bfloat16,
    "imaginary part of a conjugate": lambda: torch.complex(DOCUMENTED, -DOCUMENTED).conj().imag,
    "nested lists": lambda: [[0, 1], [2, 3.0], [4, 5]],
    "tuple of lists": lambda: ([0, 1], [2, 3], [4, 5]),
    "list of arrays": lambda: list(TABLE),
    "list of tensors": lambda: list(DOCUMENTED),
    "mixed list": lambda: [DOCUMENTED[0], TABLE[1], [4, 5.0]],
    "list of series": lambda: [pd.Series(row, index=[1, 0]) for row in TABLE],
    "list of scalars": lambda: [[torch.tensor(0), np.float64(1)], [np.int8(2), 3], [4.0, 5]],
    "exported": lambda: Exported(TABLE),
    "DLPack": lambda: OnlyDlpack(DOCUMENTED),
    "pandas": frame,
    "pandas with a shuffled index": lambda: frame(SHUFFLED),
    "pandas with equal names": lambda: pd.DataFrame(TABLE, columns=["a", "a"]),
    "pandas with names of methods": lambda: pd.DataFrame(
        {"nnz": TABLE[:, 0], "dtype": TABLE[:, 1]}
    ),
    "pandas of several types": lambda: pd.DataFrame({"a": [0, 2, 4], "b": TABLE[:, 1]}),
    "pandas nullable": lambda: frame().astype({"a": "Int64", "b": "Float64"}),
    "polars": lambda: pl.DataFrame({"a": [0, 2, 4], "b": TABLE[:, 1]}),
    "polars arrays": lambda: pl.Series(TABLE.tolist(), dtype=pl.Array(pl.Float64, 2)),
}


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_what_holds_the_same_numbers_is_read_the_same(make: Callable[[], Any]) -> None:
    read = read_array(make(), "The rows")
    torch.testing.assert_close(read.float(), DOCUMENTED, rtol=0, atol=0)
    assert type(read) is Tensor
    assert not read.requires_grad
    assert read.stride() == (2, 1)


def test_a_memory_map_is_read_into_memory(tmp_path: Path) -> None:
    mapped = memory_map(tmp_path)
    read = read_array(mapped, "The rows")
    del mapped
    (tmp_path / "rows.npy").write_bytes(b"")
    torch.testing.assert_close(read, DOCUMENTED.double(), rtol=0, atol=0)


ONE_DIMENSIONAL: dict[str, tuple[Callable[[], Any], list[float]]] = {
    "series by position": (lambda: pd.Series([7, 8, 9], index=SHUFFLED), [7, 8, 9]),
    "polars series": (lambda: pl.Series([7, 8, 9]), [7, 8, 9]),
    "pandas index": (lambda: pd.Index([7, 8, 9]), [7, 8, 9]),
    "pandas sparse": (lambda: pd.Series(pd.arrays.SparseArray([0, 0, 9])), [0, 0, 9]),
    "range": (lambda: range(3), [0, 1, 2]),
    "array of the standard library": (lambda: array.array("d", [0.5, 1]), [0.5, 1]),
    "flags": (lambda: [True, np.False_], [1, 0]),
    "polars flags": (lambda: pl.Series([True, False]), [1, 0]),
    "large unsigned": (lambda: np.array([2**32 - 1], np.uint32), [2**32 - 1]),
    "empty": (lambda: [], []),
}


@pytest.mark.parametrize(("make", "expected"), ONE_DIMENSIONAL.values(), ids=ONE_DIMENSIONAL)
def test_series_and_lists(make: Callable[[], Any], expected: list[float]) -> None:
    assert read_array(make(), "The rows").tolist() == expected


def test_columns_of_flags_and_numbers_are_numbers() -> None:
    table = pd.DataFrame({"age": [30, 40], "smokes": [True, False], "height": [1.5, 2.0]})
    expected = [[30.0, 1.0, 1.5], [40.0, 0.0, 2.0]]
    assert read_array(table, "The rows").tolist() == expected
    assert read_array(pl.from_dict(table.to_dict("list")), "The rows").tolist() == expected


@pytest.mark.parametrize("make", [TABLE.copy, DOCUMENTED.clone, lambda: frame(SHUFFLED)])
def test_what_is_read_does_not_change_with_the_array(make: Callable[[], Any]) -> None:
    source = make()
    read = read_array(source, "The rows")
    source *= 0
    torch.testing.assert_close(read.float(), DOCUMENTED, rtol=0, atol=0)


@given(
    values=arrays.arrays(
        dtype=st.sampled_from(["?", "u1", ">i4", "<f4", ">f8", "f2", ">u2"]),
        shape=arrays.array_shapes(max_dims=3, min_side=0, max_side=4),
        elements={"allow_nan": False},
    ),
    cut=st.slices(4),
    turn=st.booleans(),
)
def test_any_array_is_read_by_value(values: Any, cut: slice, turn: bool) -> None:
    view = values[cut].T if turn else values[cut]
    read = read_array(view, "The rows")
    assert read.shape == view.shape
    assert read.tolist() == view.tolist()
    assert read.is_contiguous()


# Refusals

MASKED = np.ma.array([1.0, 2.0], mask=[False, True])
DATES = [datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)]
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "masked": (lambda: MASKED, "are a masked array; fill it with .filled(value)"),
    "masked rows": (lambda: [MASKED, MASKED], "are a masked array"),
    "masked tensor": (
        lambda: torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False])),
        "are a masked tensor; fill it with .to_tensor(value)",
    ),
    "scipy": (lambda: scipy.sparse.csr_matrix(TABLE), "are a sparse array; pass a dense one"),
    "scipy array": (lambda: scipy.sparse.coo_array(TABLE), ".toarray()"),
    "sparse tensor": (DOCUMENTED.to_sparse, "are a sparse tensor; pass a dense one, .to_dense()"),
    "nested tensor": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "are a nested tensor; pad",
    ),
    "tensor without values": (lambda: torch.ones(2, device="meta"), "on the meta device"),
    "ragged": (lambda: [[1, 2], [3]], "are ragged, with rows of shapes (2,) and (1,); pad"),
    "ragged tensors": (lambda: [torch.ones(2, 3), torch.ones(2)], "(2, 3) and (2,)"),
    "ragged objects": (
        lambda: np.array([np.ones(2), np.ones(3)], dtype=object),
        "hold Python objects",
    ),
    "objects": (lambda: np.array([1, 2.5], dtype=object), "hold Python objects; convert them"),
    "decimals": (lambda: [decimal.Decimal("1.5")], "hold Python objects"),
    "text": (lambda: np.array(["a", "b"]), "hold text; encode it as numbers"),
    "numbers as text": (lambda: ["1", "2"], "hold text"),
    "bytes": (lambda: np.array([b"a"]), "hold text"),
    "long text": (lambda: np.array(["a"], dtype=np.dtypes.StringDType()), "hold text"),
    "dates": (lambda: np.array(["2020"], "M8[D]"), "hold dates; convert them to numbers"),
    "durations": (lambda: np.array([1], "m8[s]"), "hold times"),
    "complex": (lambda: [1j, 2], "hold complex numbers; pass real and imaginary parts"),
    "complex tensor": (lambda: torch.ones(2, dtype=torch.cfloat), "hold complex numbers"),
    "fields": (lambda: np.zeros(2, "i4, f8"), "are a structured array; stack its fields"),
    "beyond int64": (lambda: np.array([2**63], np.uint64), "too large for int64"),
    "nothing": (lambda: None, "are None; pass a tensor, a numpy array or a list of numbers"),
    "a gap": (lambda: [1.0, None], "are None"),
    "dict": (lambda: {"a": [1.0]}, "are of type dict; pass a tensor"),
    "set": (lambda: {1.0, 2.0}, "are of type set"),
    "generator": (lambda: (i for i in range(3)), "come from a generator; pass a list"),
    "zip": (lambda: zip([1], [2], strict=True), "come from a zip"),
    "class": (lambda: np.ndarray, "are of type type"),
    "images": (lambda: [Image.new("L", (3, 2))], "are PIL images; convert them to tensors"),
    "text column": (lambda: frame().assign(sex="f"), "hold text in the column 'sex'"),
    "missing": (
        lambda: frame().assign(age=pd.array([1, None, 2], "Int64")),
        "hold missing values in the column 'age'; remove or impute those rows first",
    ),
    "missing float": (lambda: pd.Series([1.0, np.nan]), "hold missing values; remove"),
    "categories": (
        lambda: frame().astype({"b": "category"}),
        "hold categories in the column 'b'; encode them as numbers",
    ),
    "date column": (lambda: frame().assign(t=pd.Timestamp(0)), "hold dates in the column 't'"),
    "no columns": (lambda: pd.DataFrame(index=[0, 1]), "are a table without columns"),
    "polars text": (lambda: pl.DataFrame({"sex": ["f"]}), "hold text in the column 'sex'"),
    "polars missing": (lambda: pl.Series([1, None]), "hold missing values"),
    "polars categories": (lambda: pl.Series(["a"], dtype=pl.Categorical), "hold categories"),
    "polars enumeration": (lambda: pl.Series(["a"], dtype=pl.Enum(["a"])), "hold categories"),
    "polars dates": (lambda: pl.Series(DATES), "hold dates"),
    "polars lists": (lambda: pl.Series([[1, 2], [3]]), "hold Python objects"),
    "polars lazy": (lambda: pl.DataFrame({"a": [1]}).lazy(), "are of type LazyFrame"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
@pytest.mark.parametrize(("make", "fragment"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_dense_array_of_numbers_is_refused(
    make: Callable[[], Any], fragment: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_array(make(), "The rows")
    message = str(caught.value)
    assert message.startswith("The rows ")
    assert fragment in message
    assert message.endswith(".")
    assert ". " not in message
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantized_tensor_is_refused() -> None:
    quantized = torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)
    with pytest.raises(InputError, match=r"are a quantized tensor; pass \.dequantize\(\)"):
        read_array(quantized, "The rows")


def test_an_array_that_cannot_be_exported_is_named() -> None:
    class Remote:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
            raise TypeError("values are on a GPU\ncall .get()")

    with pytest.raises(InputError, match=r"cannot be read as numbers \(values are on a GPU\);"):
        read_array(Remote(), "The rows")


# Tasks

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
Y = X[:, 0]


def regression(train: Any, **settings: Any) -> Task:
    return Task(Perceptron, train, (X, Y[:, None]), link="identity", **settings)


TARGETS: dict[str, Any] = {
    "column of stride 0": Y[:, None],
    "expanded": torch.from_numpy(Y)[:, None].expand(6, 1),
    "frame": pd.DataFrame({"price": Y}, index=[5, 3, 1, 0, 2, 4]),
    "polars": pl.DataFrame({"price": Y}),
    "list": Y[:, None].tolist(),
}


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_one_task_whatever_the_targets_are_held_in(targets: Any) -> None:
    given, plain = regression((X, targets)), regression((X, Y.reshape(6, 1).copy()))
    assert given.fingerprint() == plain.fingerprint()
    assert given.train.targets.stride() == (1, 1)


def test_a_constant_target_has_a_digest() -> None:
    everywhere = regression((X, torch.ones(1, 1).expand(6, 1)))
    assert everywhere.fingerprint() == regression((X, np.ones((6, 1)))).fingerprint()
    assert regression((X, np.broadcast_to(1.0, (6, 1)))).train.targets.tolist() == [[1.0]] * 6


def test_a_frame_and_its_series_keep_the_order_of_their_rows() -> None:
    table = pd.DataFrame(X, index=[5, 3, 1, 0, 2, 4])
    labels = pd.Series([0, 1, 2, 0, 1, 1], index=[4, 0, 1, 5, 2, 3])
    task = classification_task()
    made = Task(task.model, (table, labels), task.validation, link="softmax")
    assert made.train.inputs.tolist() == X.tolist()
    assert made.train.targets.tolist() == [0, 1, 2, 0, 1, 1]


def test_data_can_be_given_twice() -> None:
    data = Data(torch.from_numpy(X.copy()), torch.from_numpy(Y[:, None].copy()))
    task = regression(data)
    again = Task(Perceptron, data, data, data, link="identity")
    assert again.train.inputs.tolist() == task.train.inputs.tolist()
    data.inputs.zero_()
    assert again.validation.inputs.tolist() == again.train.inputs.tolist() == X.tolist()


def test_a_task_does_not_change_with_the_users_arrays() -> None:
    inputs, targets, weights = X.copy(), Y[:, None].copy(), np.ones(6)
    task = regression((inputs, targets), loss_inputs={"w": weights})
    before = task.fingerprint()
    for values in (inputs, targets, weights):
        values[:] = 7.0
    assert task.fingerprint() == before


def test_loss_inputs_are_read_as_all_arrays_are() -> None:
    weights = pd.Series(np.arange(6.0), index=[5, 4, 3, 2, 1, 0])
    task = regression((X, Y[:, None]), loss_inputs={"w": weights})
    assert task.train.extras["w"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    with pytest.raises(InputError, match="The values of the loss input 'w' are a masked array"):
        regression((X, Y[:, None]), loss_inputs={"w": np.ma.array(np.ones(6))})


class Pairs(Dataset[Any]):
    """Rows of two arrays."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index], self.targets[index]


DOORS: dict[str, Callable[[Any], Task]] = {
    "inputs": lambda bad: regression((bad, Y[:, None])),
    "targets": lambda bad: regression((X, bad)),
    "several inputs": lambda bad: regression(({"x": bad}, Y[:, None])),
    "validation": lambda bad: Task(Perceptron, (X, X), (bad, X), link="identity"),
    "test": lambda bad: regression((X, Y[:, None]), test=(X, bad)),
    "rows": lambda bad: regression(Pairs(bad, Y[:, None])),
    "rows of targets": lambda bad: regression(Pairs(X, bad)),
    "lazily read rows": lambda bad: regression(Pairs(bad, Y[:, None]), in_memory=False),
    "loss inputs": lambda bad: regression((X, Y[:, None]), loss_inputs={"w": bad}),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_bad_arrays_are_refused_at_every_door(door: Callable[[Any], Task]) -> None:
    bad = {
        "masked": np.ma.array(X, mask=X > 9),
        "sparse": scipy.sparse.csr_matrix(X),
        "sparse tensor": torch.from_numpy(X).to_sparse(),
        "hold Python objects": X.astype(object),
    }
    for said, values in bad.items():
        with pytest.raises(InputError, match=said):
            door(values)


def test_a_dtype_of_the_model_that_numpy_lacks_has_a_digest() -> None:
    half = regression_task(torch.bfloat16)
    assert half.train.inputs.dtype == torch.bfloat16
    assert half.fingerprint() == regression_task(torch.bfloat16).fingerprint()
