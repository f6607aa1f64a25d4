"""A task: what a loss is learned for, and how good it is."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from evomal.errors import InputError
from evomal.losses.base import Link
from evomal.seeding import isolated_torch_rng
from evomal.tasks.checks import available_device, first_line, require_separate
from evomal.tasks.functions import identity
from evomal.tasks.metrics import error_rate, mean_squared_error

TensorLoss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], "Tensor | float"]


@dataclass(frozen=True)
class Data:
    """Rows held as two tensors: `inputs` (n, …) and `targets` (n,) or (n, …)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.inputs)


Source = Data | Dataset[Any] | Sequence[Any]


@dataclass(frozen=True)
class SGD:
    """Settings of the base optimiser, ``torch.optim.SGD``; the defaults are the paper's."""

    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    dampening: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"The learning rate must be above 0, but is {self.learning_rate}.")
        if not (self.momentum >= 0 and self.weight_decay >= 0):
            raise InputError("Momentum and weight decay must not be negative.")
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise InputError("Nesterov momentum needs a momentum above 0 and no dampening.")


_DEFAULTS: dict[Link, tuple[TensorLoss, Metric]] = {
    "softmax": (nn.functional.cross_entropy, error_rate),
    "sigmoid": (nn.functional.binary_cross_entropy_with_logits, error_rate),
    "identity": (nn.functional.mse_loss, mean_squared_error),
}


class Task:
    """Data, a base learner, the task loss, the metric and the base optimiser.

    Parameters
    ----------
    model
        A function without arguments that returns a new, randomly initialised module; its output
        must be raw: logits (B, C) with ``link="softmax"``, else the shape of the target. It may
        use torch's global generator, which is seeded and restored around every call.
    train, validation, test
        Each a pair (inputs, targets) of tensors or arrays with one row per sample, or any
        map-style ``torch.utils.data.Dataset`` of such pairs. Only `test` may be absent; it is
        never used while a loss is learned.
    link
        How a learned loss reads raw outputs: ``"softmax"`` for classes, ``"sigmoid"`` for binary
        targets of the output's shape, ``"identity"`` for regression.
    task_loss
        L_T, a differentiable function of (pred, target). Default by link: cross-entropy, binary
        cross-entropy with logits, or squared error.
    metric
        L_P, any function of (pred, target) on a whole data split; lower is better. Default by
        link: error rate, error rate, or mean squared error.
    optimizer
        Settings of the base optimiser.
    batch_size
        Rows in a training batch.
    preprocess
        Applied to the inputs of every batch on the device, such as scaling of uint8 images.
    augment
        Applied to the inputs of every training batch on the device, before `preprocess`, such as
        random crops. It may use torch's global generator, which is seeded and restored around it.
    rejection_steps
        Steps of the rejection protocol (paper, section 3.5.2).
    testing_steps
        Training steps at meta-testing time.
    milestones
        Shares of the meta-testing steps at which the learning rate falls to a tenth.
    name
        What the task is called in runs and messages; random streams derive from it too.
    split
        Name of the way the data was split, for the record.
    origin
        The arguments of `evomal.load_task` that make this task again, if it is a built-in one.
    device
        Where data and base learners live; ``"auto"`` means a GPU if there is one.

    Raises
    ------
    InputError
        If the data holds NaN or infinity, is empty, or does not fit the model's output.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        train: Source,
        validation: Source,
        test: Source | None = None,
        *,
        link: Link,
        task_loss: TensorLoss | None = None,
        metric: Metric | None = None,
        optimizer: SGD | None = None,
        batch_size: int = 128,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        rejection_steps: int = 1000,
        testing_steps: int = 10_000,
        milestones: Sequence[float] = (),
        name: str = "custom",
        split: str = "custom",
        origin: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if link not in get_args(Link):
            raise InputError(f"Unknown link {link!r}; choose from {', '.join(get_args(Link))}.")
        if batch_size < 1:
            raise InputError(f"The batch size must be at least 1, but is {batch_size}.")
        if rejection_steps < 1 or testing_steps < 1:
            raise InputError("The rejection steps and the testing steps must be at least 1.")
        if not all(0 < share < 1 for share in milestones):
            raise InputError("Milestones are shares of the testing steps, between 0 and 1.")
        self.model = model
        self.link: Link = link
        self.task_loss = task_loss or _DEFAULTS[link][0]
        self.metric = metric or _DEFAULTS[link][1]
        self.optimizer = optimizer or SGD()
        self.batch_size = batch_size
        self.preprocess = preprocess
        self.augment = augment
        self.rejection_steps = rejection_steps
        self.testing_steps = testing_steps
        self.milestones = tuple(milestones)
        self.name = name
        self.split = split
        self.origin = origin
        self.device = available_device(device)
        learner = self.new_model(seed=0)
        require_separate(learner, self.new_model(seed=0))
        dtype = next((p.dtype for p in learner.parameters() if p.requires_grad), None)
        if dtype is None:
            raise InputError("The model has no trainable parameters, so no loss can train it.")
        self.train = self._read(train, "training", dtype)
        self.validation = self._read(validation, "validation", dtype)
        self.test = None if test is None else self._read(test, "test", dtype)
        parts = {"training": self.train, "validation": self.validation, "test": self.test}
        for part, data in parts.items():
            if data is not None:
                self._check_fit(learner, data, part)

    def new_model(self, seed: int) -> nn.Module:
        """A fresh base learner in train mode on the device, its initialisation fixed by `seed`.

        Raises
        ------
        InputError
            If the factory returns something else than a module.
        """
        with isolated_torch_rng(self.device, seed):
            learner = self.model()
        if not isinstance(learner, nn.Module):
            raise InputError(
                "The model factory must return a new torch.nn.Module, "
                f"but returned a {type(learner).__name__}."
            )
        return learner.to(self.device).train()

    def batch(self, data: Data, rows: Tensor | slice) -> Data:
        """Some rows, preprocessed and, if of `train`, augmented; with torch's global generator.

        Never a view of the data, as a model may work in place.
        """
        inputs = data.inputs[rows].clone() if isinstance(rows, slice) else data.inputs[rows]
        if self.augment and data is self.train:
            inputs = self.augment(inputs)
        inputs = self.preprocess(inputs) if self.preprocess else inputs
        return Data(inputs, data.targets[rows])

    def to(self, device: str | torch.device) -> Task:
        """The same task with its data, and every new base learner, on another device."""
        twin = copy.copy(self)
        twin.device = available_device(device)
        for part in ("train", "validation", "test"):
            data: Data | None = getattr(self, part)
            if data is not None:
                moved = Data(data.inputs.to(twin.device), data.targets.to(twin.device))
                setattr(twin, part, moved)
        return twin

    def description(self) -> dict[str, Any]:
        """What makes a search on this task the search that it is, as JSON values.

        The model is known by the names, shapes and types of its parameters and buffers, functions
        by their names, the data by a digest of all values.
        """
        state = self.new_model(seed=0).state_dict()
        layout = repr([(name, tuple(t.shape), str(t.dtype)) for name, t in state.items()])
        return {
            "name": self.name,
            "split": self.split,
            "link": self.link,
            "metric": identity(self.metric),
            "task loss": identity(self.task_loss),
            "preprocess": self.preprocess and identity(self.preprocess),
            "augment": self.augment and identity(self.augment),
            "optimizer": dataclasses.asdict(self.optimizer),
            "batch size": self.batch_size,
            "rejection steps": self.rejection_steps,
            "model": hashlib.blake2b(layout.encode(), digest_size=16).hexdigest(),
            "data": self.fingerprint(),
        }

    def fingerprint(self) -> str:
        """A digest of all data, equal if and only if every value is."""
        digest = hashlib.blake2b(digest_size=16)
        parts = [data for data in (self.train, self.validation, self.test) if data]
        for tensor in [t for data in parts for t in (data.inputs, data.targets)]:
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _read(self, source: Any, part: str, dtype: torch.dtype) -> Data:
        """A data split as tensors on the device; floating values in the model's type."""
        try:
            if isinstance(source, Dataset):
                source = default_collate([source[i] for i in range(len(source))])  # type: ignore[arg-type]
            elif isinstance(source, Data):
                source = (source.inputs, source.targets)
            inputs, targets = map(_as_tensor, source)
            rows = len(inputs), len(targets)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(
                f"The {part} data must be a pair (inputs, targets) of tensors or a map-style "
                f"Dataset of such pairs ({first_line(error)})."
            ) from error
        if rows[0] != rows[1] or rows[0] == 0:
            raise InputError(
                f"The {part} data has {rows[0]} inputs and {rows[1]} targets; "
                "it needs equally many, at least one."
            )
        if inputs.is_floating_point():
            inputs = inputs.to(dtype)
        targets = self._read_targets(targets, part, dtype)
        for kind, values in [("inputs", inputs), ("targets", targets)]:
            if values.is_floating_point() and not values.isfinite().all():
                raise InputError(
                    f"The {part} {kind} hold NaN, infinity or numbers too large for {dtype}; "
                    "remove or impute those rows first."
                )
        return Data(inputs.to(self.device), targets.to(self.device))

    def _read_targets(self, targets: Tensor, part: str, dtype: torch.dtype) -> Tensor:
        if self.link == "softmax":
            if targets.is_floating_point() or targets.ndim != 1:
                raise InputError(
                    f"With link 'softmax' the {part} targets must be class indices of shape (n,), "
                    f"but have shape {tuple(targets.shape)} and type {targets.dtype}."
                )
            return targets.long()
        targets = targets.to(dtype)
        if self.link == "sigmoid" and bool(((targets < 0) | (targets > 1)).any()):
            raise InputError(f"With link 'sigmoid' the {part} targets must lie in [0, 1].")
        return targets

    def _check_fit(self, learner: nn.Module, data: Data, part: str) -> None:
        """Compare the model's output on two rows with the targets."""
        two = slice(0, 2)
        try:
            with torch.no_grad(), isolated_torch_rng(self.device, 0):
                pred = learner.eval()(self.batch(data, two).inputs)
        except (
            RuntimeError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            AssertionError,
        ) as error:
            raise InputError(
                f"The model fails on the {part} inputs, two rows of shape "
                f"{tuple(data.inputs[two].shape)}: {first_line(error)}"
            ) from error
        target = data.targets[two]
        if not isinstance(pred, Tensor):
            raise InputError(f"The model must return one tensor, not a {type(pred).__name__}.")
        if self.link == "softmax":
            if pred.ndim != 2 or len(pred) != len(target):
                raise InputError(
                    "With link 'softmax' the model must return logits (B, C), but for "
                    f"{len(target)} rows it returns shape {tuple(pred.shape)}."
                )
            low, high = int(data.targets.min()), int(data.targets.max())
            if low < 0 or high >= pred.shape[1]:
                raise InputError(
                    f"The model returns {pred.shape[1]} logits, but the {part} targets hold "
                    f"classes {low} to {high}; they must lie between 0 and {pred.shape[1] - 1}."
                )
        elif pred.shape != target.shape:
            raise InputError(
                f"The model returns shape {tuple(pred.shape)} for {part} targets of shape "
                f"{tuple(target.shape)}; reshape one to fit the other, nothing is broadcast."
            )


def _as_tensor(values: Any) -> Tensor:
    """A tensor of an array; a read-only array, such as a memory map, is copied."""
    if isinstance(values, np.ndarray) and not values.flags.writeable:
        values = values.copy()
    return torch.as_tensor(values).detach()
