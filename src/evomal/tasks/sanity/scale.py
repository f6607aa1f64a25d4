"""Check that inputs and targets are on a scale suitable for networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evomal.seeding import isolated_rng
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.inputs import Inputs, labelled, rows_of

if TYPE_CHECKING:
    from evomal.tasks.task import Task

FAR = 100
"""Factor by which a root mean square must differ from 1 for a warning."""

_ROWS = 500
"""Number of training rows to check."""

_NORMALISING = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)


def check_scale(task: Task, learner: nn.Module) -> Iterator[str]:
    """Check that inputs, after `preprocess`, and regression targets are near unit scale.

    Scaling inside the model is fine. `learner` is a base learner; it is modified.
    """
    rows = torch.arange(0, len(task.train), -(-len(task.train) // _ROWS), device=task.device)
    sample = task.train.rows(rows)  # a copy, so that it is not augmented
    with isolated_rng(task.device, 0):
        inputs = task.batch(sample, slice(None)).inputs
    seen = [(_far_from_unit(values), label) for label, values in labelled(inputs)]
    far_inputs, label = next((pair for pair in seen if pair[0] is not None), (None, ""))
    far_targets = _far_from_unit(sample.targets) if task.link == "identity" else None
    if far_inputs is None and far_targets is None:
        return
    outputs, first_sees = _forward(task, learner, rows_of(inputs, slice(64)))
    if far_inputs is not None and (first_sees is None or _far_from_unit(first_sees) is not None):
        yield (
            f"The training inputs{label} are far from unit scale: {far_inputs}. Training is likely "
            "to diverge or stall; standardise them with the mean and the standard deviation of "
            "the training rows."
        )
    if far_targets is not None and not _alike(outputs, sample.targets):
        yield (
            f"The training targets are far from unit scale: {far_targets}, whereas the untrained "
            f"model's outputs have a root mean square of {_root_mean_square(outputs):.2g}. "
            "Training is likely to diverge or stall; standardise the targets with the mean and "
            "the standard deviation of the training rows."
        )


def _far_from_unit(values: Tensor) -> str | None:
    """A phrase if values are far from unit scale, about the worst column of a table (n, F)."""
    if not values.is_floating_point() or not values.numel():
        return None
    values = values.detach().double()
    table = values if values.ndim == 2 else values.reshape(-1, 1)
    mean, deviation = table.mean(dim=0), table.std(dim=0, correction=0)
    scale = (mean**2 + deviation**2).sqrt()
    largest = int(scale.argmax())
    if 1 / FAR <= scale[largest] <= FAR or scale[largest] == 0:
        return None
    place = f"column {largest} has" if table.shape[1] > 1 else "they have"
    rounding = scale[largest] / 1000
    centre, spread = (
        float(v[largest] if v[largest].abs() > rounding else 0) for v in (mean, deviation)
    )
    return f"{place} mean {centre:.3g} and standard deviation {spread:.3g}"


def _root_mean_square(values: Tensor) -> float:
    return float(values.detach().double().square().mean().sqrt())


def _alike(outputs: Tensor, targets: Tensor) -> bool:
    """Whether a model's outputs are on the scale of the targets."""
    one, two = _root_mean_square(outputs), _root_mean_square(targets)
    return one > 0 and two > 0 and 1 / FAR < one / two < FAR


def _forward(task: Task, learner: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
    """Outputs in train mode, and the inputs of the first layer with parameters, None if unknown.

    Ones for a normalisation layer, which brings its inputs to unit scale.
    """
    seen: list[Tensor] = []

    def see(layer: nn.Module, given: tuple[Any, ...]) -> None:
        if not seen and given and isinstance(given[0], Tensor):
            own = torch.ones(1) if isinstance(layer, _NORMALISING) else given[0].detach()
            seen.append(own)

    handles = [
        layer.register_forward_pre_hook(see)
        for layer in learner.modules()
        if not list(layer.children()) and any(p.requires_grad for p in layer.parameters())
    ]
    try:
        with torch.no_grad(), isolated_rng(task.device, 0):
            outputs = task.call(learner.train(), inputs)
    except OWN_CODE_ERRORS:
        return torch.zeros(1), None
    finally:
        for handle in handles:
            handle.remove()
    return outputs, seen[0] if seen else None
