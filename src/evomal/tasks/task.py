"""A task: what a loss is learned for, and how good it is."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from evomal.errors import InputError
from evomal.losses.base import Loss
from evomal.losses.form import IGNORE_INDEX, Form, Link, class_weights, require_input_name
from evomal.seeding import isolated_torch_rng
from evomal.tasks.checks import (
    available_device,
    channels_last,
    first_line,
    images_channels_last,
    require_separate,
    runs_channels_last,
)
from evomal.tasks.data import Data, Source, read_extras, read_rows
from evomal.tasks.functions import identity
from evomal.tasks.metrics import Metric, TensorLoss, default_metric, default_task_loss
from evomal.tasks.precision import InBfloat16, Precision


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


class Task:
    """Data, a base learner, the task loss, the metric and the base optimiser.

    Parameters
    ----------
    model
        A function without arguments that returns a new, randomly initialised module; its output
        must be raw: with ``link="softmax"`` logits (B, C) or, for dense prediction, (B, C, d₁, …),
        else the shape of the target. It may use torch's global generator, which is seeded and
        restored around every call.
    train, validation, test
        Each a pair (inputs, targets) of tensors or arrays with one row per sample, or any
        map-style ``torch.utils.data.Dataset`` of such pairs. Only `test` may be absent; it is
        never used while a loss is learned.
    link
        How a learned loss reads raw outputs: ``"softmax"`` for class indices (B,) or (B, d₁, …),
        ``"sigmoid"`` for binary targets of the output's shape, one or many labels a row,
        ``"identity"`` for regression on one or many values a row.
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
    loss_inputs
        Further inputs of the learned loss by name, each a terminal of the search space: a tensor
        or array with one value per training row (or per target), such as a weight, or
        ``"progress"`` for the share of the training steps that are done, from 0 to 1.
    weight
        With ``"softmax"`` only: one weight per class, as in ``torch.nn.CrossEntropyLoss``, for
        learned losses and the default task loss.
    ignore_index
        With ``"softmax"`` only: targets of this class, such as padding, count for nothing in
        learned losses, the default task loss and the default metric.
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
        loss_inputs: Mapping[str, Any] | None = None,
        weight: Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
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
        given = dict(loss_inputs or {})
        for input_name in given:
            require_input_name(input_name)
        self.model = model
        by_class = None if weight is None else tuple(class_weights(weight, link).tolist())
        self.form = Form(link, tuple(given), by_class, ignore_index)
        self.task_loss = task_loss or default_task_loss(self.form)
        self.metric = metric or default_metric(self.form)
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
        self.precision: Precision = "full"
        self._channels_last = False
        self.findings: dict[Any, Any] = {}
        """What was found out about the base learner; copies of the task share it."""
        learner = self.new_model(seed=0)
        require_separate(learner, self.new_model(seed=0))
        dtype = next((p.dtype for p in learner.parameters() if p.requires_grad), None)
        if dtype is None:
            raise InputError("The model has no trainable parameters, so no loss can train it.")
        self.train = self._read(train, "training", dtype)
        self.validation = self._read(validation, "validation", dtype)
        self.test = None if test is None else self._read(test, "test", dtype)
        self.progress_inputs = tuple(k for k, v in given.items() if isinstance(v, str))
        extras = read_extras(given, self.train, dtype)
        self.train = dataclasses.replace(self.train, extras=extras).to(self.device)
        parts = {"training": self.train, "validation": self.validation, "test": self.test}
        for part, data in parts.items():
            if data is not None:
                self._check_fit(learner, data, part)
        # Convolutions are faster so on CPUs. Not every network can: one may `view` its features.
        with isolated_torch_rng(self.device, 0):
            images = self.batch(self.train, slice(0, 2)).inputs
            self._channels_last = runs_channels_last(learner, images)

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
        if self._channels_last and self.device.type == "cpu":
            learner = channels_last(learner)
        if self.precision == "bfloat16":
            learner = InBfloat16(learner)
        return learner.to(self.device).train()

    def batch(self, data: Data, rows: Tensor | slice) -> Data:
        """Some rows, preprocessed and, if of `train`, augmented; with torch's global generator.

        Never a view of the data, as a model may work in place.
        """
        inputs = data.inputs[rows].clone() if isinstance(rows, slice) else data.inputs[rows]
        if self.augment and data is self.train:
            inputs = self.augment(inputs)
        inputs = self.preprocess(inputs) if self.preprocess else inputs
        if self._channels_last and self.device.type == "cpu":
            inputs = images_channels_last(inputs)
        extras = {name: values[rows] for name, values in data.extras.items()}
        return Data(inputs, data.targets[rows], extras)

    def loss_inputs(self, batch: Data, progress: float | Tensor) -> dict[str, Tensor | float]:
        """What a learned loss takes beside prediction and target, by name.

        `progress` is the share of the training that is done, from 0 to 1.
        """
        return {**batch.extras, **dict.fromkeys(self.progress_inputs, progress)}

    def require_fit(self, loss: Loss) -> None:
        """Raise an `InputError` if a loss reads raw outputs or takes inputs that are not here."""
        if loss.link != self.link:
            raise InputError(
                f"The loss has link {loss.link!r}, but the task {self.name!r} needs {self.link!r}."
            )
        missing = [name for name in loss.required_inputs if name not in self.form.inputs]
        if missing:
            raise InputError(
                f"The loss depends on {', '.join(missing)}, which the task {self.name!r} does not "
                "give."
            )

    @property
    def link(self) -> Link:
        """How a learned loss reads raw outputs."""
        return self.form.link

    def to(self, device: str | torch.device) -> Task:
        """The same task with its data, and every new base learner, on another device."""
        twin = copy.copy(self)
        twin.device = available_device(device)
        for part in ("train", "validation", "test"):
            data: Data | None = getattr(self, part)
            if data is not None:
                setattr(twin, part, data.to(twin.device))
        return twin

    def in_precision(self, precision: Precision) -> Task:
        """The same task, the forward passes of its base learners in this precision."""
        twin = copy.copy(self)
        twin.precision = precision
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
            "form": self.form.to_dict(),
            "progress inputs": list(self.progress_inputs),
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
        for tensor in [t for data in parts for t in data.tensors()]:
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _read(self, source: Any, part: str, dtype: torch.dtype) -> Data:
        return read_rows(source, part, self.form, dtype).to(self.device)

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
            if pred.ndim < 2 or (len(pred), *pred.shape[2:]) != tuple(target.shape):
                raise InputError(
                    "With link 'softmax' the model must return logits (B, C) or (B, C, d1, ...), "
                    f"but for targets of shape {tuple(target.shape)} it returns shape "
                    f"{tuple(pred.shape)}."
                )
            if self.form.weight is not None and len(self.form.weight) != pred.shape[1]:
                raise InputError(
                    f"There are {len(self.form.weight)} class weights, but the model returns "
                    f"{pred.shape[1]} logits."
                )
            classes = data.targets[data.targets != self.form.ignore_index]
            if not len(classes):
                raise InputError(f"All {part} targets are the class to ignore.")
            low, high = int(classes.min()), int(classes.max())
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
