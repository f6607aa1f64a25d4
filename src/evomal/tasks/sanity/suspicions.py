"""All sanity checks of a task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from evomal.seeding import isolated_rng, kept_rng
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.inputs import mapped
from evomal.tasks.sanity.metric import check_metric
from evomal.tasks.sanity.missing_classes import check_classes
from evomal.tasks.sanity.outputs import check_outputs
from evomal.tasks.sanity.scale import check_scale
from evomal.tasks.sanity.shared_rows import check_shared_rows
from evomal.tasks.sanity.yardsticks import Yardsticks, yardsticks

if TYPE_CHECKING:
    from evomal.tasks.task import Task

Topic = Literal["metric", "classes", "model", "scale", "shared rows"]


class Suspicion(NamedTuple):
    """A warning about a likely mistake in a task."""

    topic: Topic
    message: str


def suspicions(task: Task, learner: nn.Module, other: nn.Module) -> list[Suspicion]:
    """Warnings about likely mistakes in a task.

    Parameters
    ----------
    task
        The task, complete except for the memory format of its images.
    learner, other
        Base learners with seeds 0 and 1; they may be modified.

    Raises
    ------
    InputError
        If the metric is undefined on the validation data even for perfect predictions.
    """
    with kept_rng():
        pred = few_outputs(task, learner)
        found: list[tuple[Topic, Iterator[str]]] = [
            ("metric", check_metric(task, pred)),
            ("classes", check_classes(task)),
            ("model", _check_seeds(task, learner, other)),
            ("model", check_outputs(task, pred)),
            ("scale", check_scale(task, other)),
        ]
        if task.split != "published":  # it says so itself
            found.append(("shared rows", check_shared_rows(task)))
        return [Suspicion(topic, message) for topic, messages in found for message in messages]


def few_outputs(task: Task, learner: nn.Module) -> Tensor:
    """Outputs for two training rows, in eval mode, with their graph if possible."""
    with isolated_rng(task.device, 0):
        inputs = task.batch(task.train, slice(0, 2)).inputs
        try:
            outputs = task.call(learner.eval(), mapped(torch.clone, inputs))
        except OWN_CODE_ERRORS:
            with torch.no_grad():
                outputs = task.call(learner, inputs)
    return outputs


def task_yardsticks(task: Task) -> Yardsticks:
    """What to measure the values of a task's metric with."""
    with kept_rng():
        return yardsticks(task, few_outputs(task, task.new_model(seed=0)).detach())


def _check_seeds(task: Task, learner: nn.Module, other: nn.Module) -> Iterator[str]:
    """Check that two seeds give different networks, unless all parameters are constants."""
    pairs = zip(learner.parameters(), other.parameters(), strict=False)
    if not all(torch.equal(one, two) for one, two in pairs):
        return
    if all(bool((p == p.flatten()[:1]).all()) for p in learner.parameters() if p.requires_grad):
        return
    states = []
    for seed in (0, 1):
        with isolated_rng(task.device, seed):
            task.model()
            states.append(torch.get_rng_state())
    if torch.equal(*states):
        yield (
            "The model factory seeds torch, so every seed gives the same network and runs with "
            "different seeds train the same model; remove the seeding."
        )
    else:
        yield (
            "The model factory returns the same parameters for two seeds, so all trainings start "
            "from one network. This is fine for pretrained weights; otherwise remove the fixed "
            "seed or generator from the factory."
        )
