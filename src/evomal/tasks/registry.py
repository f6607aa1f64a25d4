"""The built-in tasks: pairs of a data set and a model, such as ``"mnist/lenet5"``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from evomal.errors import InputError, quoted, require_name
from evomal.tasks import arguments
from evomal.tasks.datasets import DATASETS, data_directory, load_arrays
from evomal.tasks.label_noise import with_label_noise
from evomal.tasks.models.alexnet import AlexNet
from evomal.tasks.models.allcnnc import AllCNNC
from evomal.tasks.models.lenet5 import LeNet5
from evomal.tasks.models.logistic import LogisticRegression
from evomal.tasks.models.mlp import MLP
from evomal.tasks.models.preresnet101 import PreResNet101
from evomal.tasks.models.pyramidnet import PyramidNet
from evomal.tasks.models.resnet18 import ResNet18
from evomal.tasks.models.squeezenet import SqueezeNet
from evomal.tasks.models.vgg16 import VGG16
from evomal.tasks.models.wideresnet import WideResNet
from evomal.tasks.optimizers import OPTIMIZERS, SGD, OptimizerSettings
from evomal.tasks.pixels import crop_and_flip, standardise_pixels
from evomal.tasks.schedules import Milestones
from evomal.tasks.sources import is_source, load_own_task
from evomal.tasks.splits import image_parts, table_parts
from evomal.tasks.task import Task

Split = Literal["honest", "published"]


@dataclass(frozen=True)
class Origin:
    """The arguments of `load_task` that recreate a built-in task; None stands for a default."""

    data_dir: str | None = None
    split: Split = "honest"
    split_seed: int = 0
    metric: str | None = None
    report: tuple[str, ...] = ()
    label_noise: float = 0.0
    optimizer: str | None = None
    learning_rate: float | None = None
    batch_size: int = 128


@dataclass(frozen=True)
class TaskInfo:
    """A built-in task: data set, model and settings."""

    dataset: str
    model: Callable[[], nn.Module]
    optimizer: SGD
    rejection_steps: int
    testing_steps: int = 10_000
    schedule: Milestones | None = None

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, counted without allocating them."""
        with torch.device("meta"):
            return sum(p.numel() for p in self.model().parameters() if p.requires_grad)


_NESTEROV = SGD(learning_rate=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
_PLAIN = SGD(learning_rate=0.01, momentum=0.0, nesterov=False, weight_decay=0.0)
_FEW_POSITIVES = SGD(learning_rate=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)

_OF_32_PIXELS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": AlexNet,
    "vgg16": VGG16,
    "allcnnc": AllCNNC,
    "resnet18": ResNet18,
    "preresnet101": PreResNet101,
    "wideresnet28-10": WideResNet,
    "squeezenet": SqueezeNet,
    "pyramidnet": PyramidNet,
}


def _small(dataset: str) -> dict[str, TaskInfo]:
    """Tasks on greyscale images of 28 × 28 pixels."""
    models: dict[str, Callable[[], nn.Module]] = {
        "logistic": partial(LogisticRegression, 784, 10),
        "mlp": partial(MLP, 784, 10),
        "lenet5": partial(LeNet5, 10),
    }
    return {f"{dataset}/{name}": TaskInfo(dataset, m, _PLAIN, 100) for name, m in models.items()}


def _colour(dataset: str, classes: int) -> dict[str, TaskInfo]:
    """Tasks on colour images of 32 × 32 pixels: 150 000 steps, a tenth at 100 000 and 135 000."""
    models: dict[str, Callable[[], nn.Module]] = {
        "logistic": partial(LogisticRegression, 3072, classes),
        "mlp": partial(MLP, 3072, classes),
        **{name: partial(model, classes) for name, model in _OF_32_PIXELS.items()},
    }
    schedule = Milestones((100 / 150, 135 / 150))
    return {
        f"{dataset}/{name}": TaskInfo(dataset, model, _NESTEROV, 1000, 150_000, schedule)
        for name, model in models.items()
    }


def _classes(dataset: str, inputs: int, outputs: int, optimizer: SGD) -> TaskInfo:
    """A task on a small table with classes; it is not in the paper."""
    model = partial(MLP, inputs, outputs, hidden=(64, 64))
    return TaskInfo(dataset, model, optimizer, rejection_steps=100, testing_steps=2_000)


TASKS: dict[str, TaskInfo] = {
    "diabetes/mlp": TaskInfo("diabetes", partial(MLP, 10, 1), _NESTEROV, 1000),
    "boston/mlp": TaskInfo("boston", partial(MLP, 13, 1), _NESTEROV, 1000),
    "california/mlp": TaskInfo("california", partial(MLP, 8, 1), _NESTEROV, 1000),
    **_small("mnist"),
    **_small("fashion-mnist"),
    **_colour("cifar10", 10),
    **_colour("cifar100", 100),
    **_colour("svhn", 10),
    "digits/mlp": _classes("digits", 64, 10, _NESTEROV),
    "breast-cancer/mlp": _classes("breast-cancer", 30, 1, _NESTEROV),
    "eights/mlp": _classes("eights", 64, 1, _FEW_POSITIVES),
}
"""All built-in tasks by name: those of the paper (section 4.2), and small tables with classes."""


def load_task(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: Split = "honest",
    split_seed: int = 0,
    metric: str | None = None,
    report: Sequence[str] = (),
    label_noise: float = 0.0,
    download: bool = False,
    optimizer: str | None = None,
    learning_rate: float | None = None,
    batch_size: int = 128,
    device: str | torch.device | None = None,
) -> Task:
    """A task with its data, by name.

    Parameters
    ----------
    name
        A built-in task, such as ``"diabetes/mlp"``; or your own, as ``"my_task.py:make_task"`` or
        ``"package.module:task"``: a file or module, and a `Task` in it or a function without
        arguments that returns one. Workers and `evomal.resume` import your own again, so that its
        functions may be lambdas. It has no other options than `device` and `split_seed`.
    data_dir
        Folder of the data sets; default ``EVOMAL_DATA``, otherwise the user's cache folder.
    split
        ``"honest"``: tables 60:20:20 without overlap, stratified if they have classes; images with
        the official test set and a stratified 10 % of the training set for validation.
        ``"published"`` (tables of the paper only): the split of its Table 3. Its test set contains
        training rows, so its results say nothing about new data; use it only to compare with that
        table.
    split_seed
        Seed of the split. It is independent of the seed of a run, so that a loss is always tested
        on rows that its search has not seen. Your own function has another split than that of seed
        0 if it takes an argument ``split_seed=0``.
    metric
        Name of a metric, as in `evomal.Task`; default mean squared error, or the error rate for
        classes.
    report
        Names of metrics to report beside it.
    label_noise
        Fraction of the labels of training and validation rows, in [0, 1), that are replaced by
        another class, drawn uniformly with `split_seed`. The test labels are never changed.
    download
        Whether missing data may be downloaded.
    optimizer
        The base optimiser: ``"sgd"``, ``"adam"`` or ``"adamw"``; default that of the task.
        Adam and AdamW have torch's settings.
    learning_rate
        Its learning rate.
    batch_size
        Rows in a training batch.
    device
        Device of the data and the models; default the CPU, or what your own task says.

    Raises
    ------
    InputError
        If there is no such task, split or metric, or the data is missing or damaged; for label
        noise on a regression task; for your own task, if its code fails or makes no task.
    """
    if is_source(name):
        _require_defaults(
            name,
            data_dir=data_dir,
            split=split,
            metric=metric,
            report=tuple(arguments.listed(report, "report")),
            label_noise=label_noise,
            download=download,
            optimizer=optimizer,
            learning_rate=learning_rate,
            batch_size=batch_size,
        )
        split_seed = arguments.whole_number(split_seed, "split seed", 0)
        return load_own_task(name, device=device, split_seed=split_seed)
    listing = "`evomal tasks` lists them, and your own has a name such as my_task.py:make_task"
    require_name("task", name, TASKS, listing)
    require_name("split", split, get_args(Split))
    split_seed = arguments.whole_number(split_seed, "split seed", 0)
    if split_seed >= 2**32:
        raise InputError(f"The split seed must be below 2^32, got {split_seed}.")
    info = TASKS[name]
    for one in (*([] if metric is None else [metric]), *arguments.listed(report, "report")):
        if not isinstance(one, str):
            raise InputError(
                f"The metrics of a built-in task are given by name, such as 'mae', got "
                f"{quoted(one)}; functions are for evomal.Task."
            )
    label_noise = arguments.number(label_noise, "label noise")
    if not 0 <= label_noise < 1:
        raise InputError(f"The label noise must be in [0, 1), got {label_noise:g}.")
    chosen = _optimizer(info.optimizer, optimizer, learning_rate)
    batch_size = arguments.whole_number(batch_size, "batch size", 1)
    arrays = load_arrays(info.dataset, data_directory(data_dir), download=download)
    link, facts = DATASETS[info.dataset].link, DATASETS[info.dataset].images
    preprocess = augment = None
    if split != "honest" and link != "identity":
        raise InputError(
            f"The split {split!r} exists only for tables of the paper, not for {name!r}."
        )
    if label_noise and link == "identity":
        raise InputError(f"Label noise needs classes, but {name!r} is a regression task.")
    if facts is None:
        parts = table_parts(arrays, link, split, split_seed)
    else:
        parts = image_parts(arrays, split_seed)
        preprocess = partial(standardise_pixels, mean=facts.mean, deviation=facts.deviation)
        augment = crop_and_flip if facts.augmented else None
    if label_noise:
        parts[:2] = with_label_noise(parts[:2], label_noise, split_seed)
    return Task(
        info.model,
        *parts,
        link=link,
        metric=metric,
        report=report,
        optimizer=chosen,
        batch_size=batch_size,
        preprocess=preprocess,
        augment=augment,
        rejection_steps=info.rejection_steps,
        testing_steps=info.testing_steps,
        schedule=info.schedule,
        name=name,
        split=split,
        origin={
            "split": split,
            "split_seed": split_seed,
            "data_dir": None if data_dir is None else str(Path(data_dir).resolve()),
            "metric": metric,
            "report": list(report),
            "label_noise": label_noise,
            "optimizer": optimizer,
            "learning_rate": None if learning_rate is None else chosen.learning_rate,
            "batch_size": batch_size,
        },
        device="cpu" if device is None else device,
    )


def _require_defaults(name: str, **options: Any) -> None:
    """Raise an `InputError` if an option of `load_task` is given for an own task."""
    defaults = inspect.signature(load_task).parameters
    for option, value in options.items():
        if value != defaults[option].default:
            raise InputError(
                f"The option {option} is for built-in tasks only; omit it, and set what it means "
                f"in the code of {quoted(name)}."
            )


def _optimizer(
    usual: OptimizerSettings, name: str | None, learning_rate: float | None
) -> OptimizerSettings:
    """The settings of the optimiser with this name, those of the task by default."""
    chosen = usual
    if name is not None:
        require_name("optimizer", name, OPTIMIZERS)
        kind = OPTIMIZERS[name]
        chosen = usual if isinstance(usual, kind) else kind()  # type: ignore[call-arg]
    return chosen if learning_rate is None else chosen.with_learning_rate(learning_rate)
