"""Base learners of several inputs, in tuples or dicts, and outputs that are not one tensor."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from evomal.tasks.task import Task
from tasks_for_tests import PLAIN, Perceptron, regression_task


class Named(Perceptron):
    """A perceptron of two named inputs."""

    def forward(self, first: Tensor, rest: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([first[:, None], rest], dim=1))


class Output(NamedTuple):
    hidden: Tensor
    logits: Tensor


class Labelled(Named):
    """The same, with the outputs of Hugging Face's models."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        pred = super().forward(*args, **kwargs)
        return Output(pred + 1, pred)


def split(x: Tensor) -> dict[str, Tensor]:
    return {"first": x[:, 0], "rest": x[:, 1:]}


def in_dicts(task: Task, **settings: Any) -> Task:
    parts = [(split(part.inputs), part.targets) for part in (task.train, task.validation)]
    given: dict[str, Any] = {"model": Named, "batch_size": 8, "optimizer": PLAIN} | settings
    return Task(
        given.pop("model"), *parts, link="identity", name=task.name, rejection_steps=20, **given
    )


def in_tuples(task: Task, **settings: Any) -> Task:
    parts = [
        (tuple(split(part.inputs).values()), part.targets) for part in (task.train, task.validation)
    ]
    given: dict[str, Any] = {"model": Named, "batch_size": 8, "optimizer": PLAIN} | settings
    return Task(
        given.pop("model"), *parts, link="identity", name=task.name, rejection_steps=20, **given
    )


def test_inputs_are_read_in_rows() -> None:
    plain = regression_task()
    rows = torch.tensor([3, 0, 5])
    for task in (in_dicts(plain), in_tuples(plain)):
        assert len(task.train) == len(plain.train)
        inputs = task.batch(task.train, rows).inputs
        values = inputs.values() if isinstance(inputs, dict) else inputs
        found = torch.cat([values[0][:, None], values[1]], 1) if isinstance(values, tuple) else None
        if found is None:
            found = torch.cat([inputs["first"][:, None], inputs["rest"]], dim=1)
        assert torch.equal(found, plain.train.inputs[rows])
        pred = task.call(task.new_model(3), inputs)
        assert torch.equal(pred, plain.new_model(3)(plain.train.inputs[rows]))
