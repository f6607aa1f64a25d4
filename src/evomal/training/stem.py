"""A convolution of the batch and the max pooling after it, for all losses of a group at once.

The outputs of the first convolution are the largest tensors of a small network. Its inputs are the
same for all candidates, so that P convolutions are one with P times as many channels; and where
only a pooling reads what it gives, nothing larger than the pooled outputs is taken apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evomal.training.affine import AffineLayer, intercepted, product


@dataclass(frozen=True)
class Pooled:
    """Outputs (B, O, h, w) of a max pooling, and their places in the flat planes of its inputs."""

    inputs: Tensor
    outputs: Tensor
    indices: Tensor


def pooled(layer: nn.Module, inputs: Tensor) -> Pooled:
    """The outputs of a max pooling."""
    assert isinstance(layer, nn.MaxPool2d)
    options: Any = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
    return Pooled(inputs, *functional.max_pool2d_with_indices(inputs, *options))


@contextmanager
def pool_recorded(learner: nn.Module, stem: AffineLayer | None) -> Iterator[list[Pooled]]:
    """Collects what the pooling of the stem, if there is one, gives in a forward pass."""
    found: list[Pooled] = []

    def forward(_: str, layer: nn.Module, inputs: Tensor) -> Tensor:
        found.append(pooled(layer, inputs))
        return found[-1].outputs

    with intercepted(learner, [stem.pool] if stem and stem.pool else [], forward):
        yield found


@contextmanager
def stem_replaced(
    learner: nn.Module, stem: AffineLayer, batch: Tensor, shape: torch.Size, outputs: Tensor
) -> Iterator[None]:
    """Let the stem's pooling give these outputs; its convolution, with `shape`, gives zeros.

    Raises
    ------
    RuntimeError
        If they do not go together, and with the `batch`, as they did when they were tried.
    """
    assert stem.pool is not None
    zeros: list[Tensor] = []
    read: list[Tensor] = []

    def forward(name: str, _: nn.Module, inputs: Tensor) -> Tensor:
        if name == stem.pool:
            read.append(inputs)
            return outputs
        if inputs is not batch:
            raise RuntimeError(_changed(stem))
        zeros.append(inputs.new_zeros(()).expand(len(inputs), *shape[1:]))
        return zeros[0]

    with intercepted(learner, [stem.name, stem.pool], forward):
        yield
    if len(zeros) != 1 or len(read) != 1 or read[0] is not zeros[0]:
        raise RuntimeError(_changed(stem))


def _changed(stem: AffineLayer) -> str:
    return (
        f"The layer {stem.name} read the batch itself when it was tried, and {stem.pool} what it "
        "gave, but not now; use the engine loop."
    )


class Stems:
    """The stems of P learners on the same inputs.

    Attributes
    ----------
    outputs
        What their poolings give, a leaf (B, O, h, w) for every learner.
    """

    def __init__(
        self,
        layer: nn.Module,
        pool: nn.Module,
        inputs: Tensor,
        parameters: Sequence[Sequence[Tensor]],
    ) -> None:
        self._parameters = [torch.cat(list(one)).detach().requires_grad_() for one in parameters]
        self._all = pooled(pool, product(layer, inputs, *self._parameters)).outputs
        order = torch.channels_last if _is_channels_last(self._all) else torch.contiguous_format
        self.outputs = [
            one.detach().clone(memory_format=order).requires_grad_()
            for one in self._all.chunk(len(parameters[0]), dim=1)
        ]

    def gradients(self, slopes: Sequence[Tensor]) -> list[Tensor]:
        """Of W and, if there is one, b: with rows (P, …), from those of the outputs."""
        found = torch.autograd.grad(self._all, self._parameters, torch.cat(list(slopes), dim=1))
        return [one.reshape(len(slopes), -1, *one.shape[1:]) for one in found]


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def stem_tangents(
    layer: nn.Module, inputs: Tensor, indices: Tensor, parameters: Sequence[Tensor]
) -> Tensor:
    """What changes (P, …) of W and b do to the outputs of the pooling: (P, B, O, h, w)."""
    changes = product(layer, inputs, *(one.flatten(0, 1) for one in parameters))
    return at_places(changes, indices, len(parameters[0]))


def at_places(values: Tensor, indices: Tensor, count: int) -> Tensor:
    """What a pooling takes at its indices (B, O, h, w), of P times as many channels.

    From (B, P·O, H, W) to (P, B, O, h, w).
    """
    B, O, h, w = indices.shape  # noqa: E741
    planes = values.permute(0, 2, 3, 1).reshape(B, -1, count, O)
    places = indices.permute(0, 2, 3, 1).reshape(B, h * w, 1, O).expand(-1, -1, count, -1)
    return planes.gather(1, places).reshape(B, h, w, count, O).permute(3, 0, 4, 1, 2)
