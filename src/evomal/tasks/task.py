"""A task: the data, model and metric for which a loss is learned."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from evomal.errors import InputError, TaskWarning, named, require_name
from evomal.losses.base import Loss
from evomal.losses.form import IGNORE_INDEX, Form, Link, require_input_name
from evomal.seeding import isolated_rng
from evomal.tasks import arguments
from evomal.tasks.calls import Output, called, read_output
from evomal.tasks.checks import (
    OWN_CODE_ERRORS,
    available_device,
    channels_last,
    images_channels_last,
    is_lazy,
    materialise,
    model_factory,
    require_separate,
    require_usable,
    runs_channels_last,
)
from evomal.tasks.data import Data, read_class_weights, read_extras
from evomal.tasks.description import described, fingerprint
from evomal.tasks.fit import require_loss_fits, require_parts_fit, require_transforms_fit
from evomal.tasks.inputs import Inputs, mapped
from evomal.tasks.labels import Label, Labels
from evomal.tasks.metrics import Metric, PerformanceMetric, TensorLoss, default_task_loss
from evomal.tasks.named_metrics import resolve_metric, resolve_report
from evomal.tasks.optimizers import (
    OptimizerFactory,
    OptimizerSettings,
    base_learning_rate,
    settings_or_factory,
)
from evomal.tasks.parts import Part, PartReader, Source
from evomal.tasks.precision import InBfloat16, Precision
from evomal.tasks.sanity.suspicions import suspicions
from evomal.tasks.schedules import Schedule, usable_schedule

_DATA = {"data_dir", "split", "split_seed", "label_noise"}
ORIGIN = _DATA | {"metric", "report", "optimizer", "learning_rate", "batch_size"}
"""The arguments of `evomal.load_task` that recreate a built-in task."""


@arguments.with_known_arguments
class Task:
    """Data, a base learner, the task loss, the metric and the base optimiser.

    Parameters
    ----------
    model
        A function without arguments that returns a new, randomly initialised module; its output
        must be raw: with ``link="softmax"`` logits (B, C) or, for dense prediction, (B, C, d₁, …),
        otherwise the shape of the target. It may draw from the global generators of torch, NumPy
        and Python, which are seeded and restored around every call; so may the functions below.
    train, validation, test
        Each a pair (inputs, targets) of tensors or arrays with one row per sample, or any
        map-style ``torch.utils.data.Dataset`` of such pairs. Inputs may be a tuple or a dict of
        arrays; the model is then called as ``model(*inputs)`` or ``model(**inputs)``. Arrays can
        be from torch, numpy, pandas (read by position, not by index) or polars, or lists; all are
        copied to `device`. A Dataset is read only once, so random transforms in it have no effect:
        pass them as `augment`, or ``in_memory=False``. Only `test` may be omitted; it is never used
        for learning a loss.
    link
        How a learned loss interprets raw outputs: ``"softmax"`` for class indices (B,) or
        (B, d₁, …), ``"sigmoid"`` for binary targets of the output's shape, one or more labels per
        row, ``"identity"`` for regression with one or more values per row.
    task_loss
        L_T, a differentiable function of (pred, target), where `pred` are raw outputs. Default by
        link: cross-entropy, binary cross-entropy with logits, or squared error.
    metric
        L_P, any function of (pred, target) that returns a number. It receives all rows of a data
        split at once, as tensors on the device; `pred` are raw outputs: logits, not probabilities
        or classes. Or a name, which knows its direction: of a scorer of scikit-learn, such as
        ``"balanced_accuracy"``, or one of docs/tasks.md. Default by link: error rate, error rate,
        or mean squared error.
    maximize
        Whether `metric` is higher for better predictions. Fitness is then its negative.
    report
        Further metrics, as names or functions, whose test values are reported beside `metric`.
    optimizer
        The base optimiser: `evomal.SGD`, `evomal.Adam`, `evomal.AdamW`, or a function of the list
        of parameters that returns any torch optimiser, for methods that tune no weights. Default:
        the paper's SGD.
    schedule
        A function of the progress of a training in [0, 1) that returns a factor of the learning
        rate, such as `evomal.Cosine` or `evomal.Milestones`. Default: constant.
    clip_norm
        Maximum norm of the gradient of all parameters, as in ``torch.nn.utils.clip_grad_norm_``.
    batch_size
        Rows in a training batch.
    preprocess
        Applied to the inputs of every batch on the device, such as scaling of uint8 images.
    augment
        Applied to the inputs of every training batch on the device, before `preprocess`, such as
        random crops. It must draw from a global generator, because others cannot be seeded.
    output
        Picks the raw outputs from what a model returns, if that is not one tensor: an index, a key,
        the name of an attribute, or a function. ``logits`` is found without it.
    loss_inputs
        Extra inputs of the learned loss by name, each a terminal of the search space: a tensor or
        array with one value per training row (or per target), such as a weight, or ``"progress"``
        for the fraction of training steps completed, from 0 to 1.
    weight
        With ``"softmax"`` only: one weight per class, as in ``torch.nn.CrossEntropyLoss``, for
        learned losses and the default task loss.
    ignore_index
        With ``"softmax"`` only: targets of this class, such as padding, are ignored by learned
        losses, the default task loss and the default metric.
    classes
        Labels in the order of their class indices, if targets are labels, such as text or
        categories. Default: the sorted labels of the training rows.
    validation_rows
        Maximum number of validation rows: a fixed sample with every class, which bounds what a
        fitness costs. Default: all.
    in_memory
        False to read the rows of Datasets and memory maps batch by batch. A batch's row numbers
        seed the global generators while it is read, so random transforms can be reproduced.
    loader_workers
        Processes that read batches ahead with ``in_memory=False``, for each worker of a search.
    rejection_steps
        Steps of the rejection protocol (paper, section 3.5.2).
    testing_steps
        Training steps at meta-testing time.
    name
        Name of the task in runs and messages; random streams also depend on it.
    split
        Name of the data split, recorded in runs.
    origin
        The arguments of `evomal.load_task` that recreate this task, if it is a built-in one.
    device
        Device of data and base learners; ``"auto"`` means a GPU if available.

    Raises
    ------
    InputError
        If the data contains NaN or infinity, is empty, or does not match the model's output, or
        the metric is undefined on the validation data even for perfect predictions.

    Warns
    -----
    TaskWarning
        For data far from unit scale, rows in two splits, a metric with the wrong direction,
        a model whose outputs are not raw, or that is the same for every seed.
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
        metric: str | Metric | PerformanceMetric | None = None,
        maximize: bool = False,
        report: Sequence[str | Metric | PerformanceMetric] = (),
        optimizer: OptimizerSettings | OptimizerFactory | None = None,
        schedule: Schedule | None = None,
        clip_norm: float | None = None,
        batch_size: int = 128,
        preprocess: Callable[[Any], Any] | None = None,
        augment: Callable[[Any], Any] | None = None,
        output: Output | None = None,
        loss_inputs: Mapping[str, Any] | None = None,
        weight: Sequence[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
        classes: Sequence[Label] | None = None,
        validation_rows: int | None = None,
        in_memory: bool = True,
        loader_workers: int = 0,
        rejection_steps: int = 1000,
        testing_steps: int = 10_000,
        name: str = "custom",
        split: str = "custom",
        origin: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        require_name("link", link, get_args(Link))
        loss_inputs = {} if loss_inputs is None else loss_inputs
        given = arguments.mapping(loss_inputs, "argument loss_inputs")
        for input_name in given:
            require_input_name(input_name)
        self.model = model_factory(model)
        ignore_index = arguments.whole_number(ignore_index, "ignore_index")
        self.form = Form(link, tuple(given), read_class_weights(weight, link), ignore_index)
        task_loss = arguments.function(task_loss, "task loss", "(pred, target)")
        self.task_loss = default_task_loss(self.form) if task_loss is None else task_loss
        self.performance_metric = resolve_metric(metric, self.form, maximize=maximize)
        self.metric = self.performance_metric.minimized
        self.report = resolve_report(report, self.form, self.performance_metric)
        self.optimizer: Any = settings_or_factory(optimizer)
        self.schedule = usable_schedule(schedule)
        self.clip_norm = None if clip_norm is None else arguments.positive(clip_norm, "clip_norm")
        self.batch_size = arguments.whole_number(batch_size, "batch size", 1)
        self.preprocess = arguments.function(preprocess, "argument preprocess", "(inputs)")
        self.augment = arguments.function(augment, "argument augment", "(inputs)")
        self.output = read_output(output)
        labels = Labels(self.form, classes)
        self.rejection_steps = arguments.whole_number(
            rejection_steps, "number of rejection steps", 1
        )
        self.testing_steps = arguments.whole_number(testing_steps, "number of testing steps", 1)
        self.name = arguments.text(name, "name")
        self.split = arguments.text(split, "split")
        if origin is not None and set(arguments.mapping(origin, "argument origin")) != ORIGIN:
            raise InputError(
                "The argument origin is reserved for built-in tasks made by evomal.load_task; "
                "omit it."
            )
        self.origin = origin
        self.device = available_device(device)
        self.precision: Precision = "full"
        self._channels_last = False
        self._example: Inputs | None = None  # of two rows on a CPU, if there are lazy layers
        self.findings: dict[Any, Any] = {}
        """Results of tests of the base learner, shared by copies of the task."""
        try:
            learner, other = self.new_model(seed=0), self.new_model(seed=1)
        except InputError:
            raise
        except OWN_CODE_ERRORS as error:
            raise InputError(f"The model factory fails: {named(error)}") from error
        dtype = next((p.dtype for p in learner.parameters() if p.requires_grad), None)
        if dtype is None:
            raise InputError("The model has no trainable parameters.")
        reader = PartReader(self, dtype, labels, in_memory, loader_workers)
        self.train = reader.read(train, "training")
        self.validation = reader.read(validation, "validation", validation_rows)
        self.test = None if test is None else reader.read(test, "test")
        self.classes = labels.classes
        self.progress_inputs = tuple(k for k, v in given.items() if isinstance(v, str))
        shape = (len(self.train), *self.train.targets.shape[1:])
        extras = read_extras(given, shape, dtype)
        self.train = dataclasses.replace(self.train, extras=extras).to(self.device)
        require_transforms_fit(self)
        if is_lazy(learner):
            self._example = mapped(Tensor.cpu, self.batch(self.train, slice(0, 2)).inputs)
            learner, other = self.new_model(seed=0), self.new_model(seed=1)
        require_separate(learner, other)
        with isolated_rng(self.device, 0):
            self.learning_rate = base_learning_rate(self.optimizer, other)
        require_parts_fit(self, learner)
        # Channels last is faster on CPUs, but some networks `view` their features.
        with isolated_rng(self.device, 0):
            images = self.batch(self.train, slice(0, 2)).inputs
            self._channels_last = runs_channels_last(learner, images)
        self.suspicions = suspicions(self, learner, other)
        for suspicion in self.suspicions:
            warnings.warn(suspicion.message, TaskWarning, stacklevel=3)

    def new_model(self, seed: int) -> nn.Module:
        """A fresh base learner in train mode on the device, initialised with `seed`.

        Raises
        ------
        InputError
            If the factory does not return a module.
        """
        with isolated_rng(self.device, seed):
            learner = self.model()
        require_usable(learner)
        if self._example is not None:
            materialise(learner, self._example, seed)
        if self._channels_last and self.device.type == "cpu":
            learner = channels_last(learner)
        if self.precision == "bfloat16":
            learner = InBfloat16(learner)
        return learner.to(self.device).train()

    def batch(self, data: Part, rows: Tensor | slice) -> Data:
        """Some rows, preprocessed and, for `train`, augmented; draws from the global generators.

        Never a view of the data, because a model may work in place.
        """
        return self._transformed(data, data.rows(rows))

    def batches(self, data: Part, batches: Iterable[Tensor | slice]) -> Iterator[Data]:
        """The `batch` of rows after rows; what is read lazily is read ahead."""
        return (self._transformed(data, batch) for batch in data.each(batches))

    def _transformed(self, data: Part, batch: Data) -> Data:
        """A batch as the model gets it."""
        inputs = batch.inputs
        if self.augment and data is self.train:
            inputs = self.augment(inputs)
        inputs = self.preprocess(inputs) if self.preprocess else inputs
        if self._channels_last and self.device.type == "cpu":
            inputs = mapped(images_channels_last, inputs)
        return dataclasses.replace(batch, inputs=inputs)

    def call(
        self, learner: nn.Module, inputs: Inputs, state: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Raw outputs of a base learner; `state` replaces parameters and buffers by name."""
        pred = called(learner, inputs, self.output, state)
        return (
            pred.float() if self.precision == "bfloat16" and pred.dtype == torch.bfloat16 else pred
        )

    def loss_inputs(self, batch: Data, progress: float) -> dict[str, Tensor | float]:
        """The extra inputs of a learned loss by name.

        `progress` is the fraction of the training completed, from 0 to 1.
        """
        return {**batch.extras, **dict.fromkeys(self.progress_inputs, progress)}

    def require_fit(self, loss: Loss) -> None:
        """Raise an `InputError` if a loss has another link or needs inputs that are missing."""
        require_loss_fits(self, loss)

    @property
    def link(self) -> Link:
        """How a learned loss interprets raw outputs."""
        return self.form.link

    def to(self, device: str | torch.device) -> Task:
        """The same task with its data and base learners on another device."""
        twin = copy.copy(self)
        twin.device = available_device(device)
        for part in ("train", "validation", "test"):
            data: Part | None = getattr(self, part)
            if data is not None:
                setattr(twin, part, data.to(twin.device))
        return twin

    def in_precision(self, precision: Precision) -> Task:
        """The same task with forward passes of its base learners in this precision."""
        twin = copy.copy(self)
        twin.precision = precision
        return twin

    def description(self) -> dict[str, Any]:
        """Fields that identify the task on resume, as JSON values."""
        return described(self)

    def fingerprint(self) -> str:
        """A digest of all data, of a fixed sample of lazily read rows; equal if all values are."""
        return fingerprint([data for data in (self.train, self.validation, self.test) if data])
