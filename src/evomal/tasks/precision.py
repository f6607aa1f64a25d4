"""In which precision base learners compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["full", "tf32", "bfloat16"]


class InBfloat16(nn.Module):
    """A network whose forward pass runs under bfloat16 autocast; its outputs are float32."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs of the network."""
        # no cache of cast parameters: it would outlive functional calls with other ones
        with torch.autocast(inputs.device.type, torch.bfloat16, cache_enabled=False):
            outputs: Tensor = self.learner(inputs)
        return outputs.float() if outputs.dtype == torch.bfloat16 else outputs


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Let float32 products use TensorFloat-32 inside the block, where a GPU has it."""
    before = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions
