"""A convolution with few channels and a wide kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional


class NarrowConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` whose gradient for its inputs is computed with the channels first.

    The same but for rounding. On CPUs with the channels last, which suit all else of such a layer,
    this takes almost twice as long for 5 × 5 kernels and 6 or 16 channels. For 3 × 3 kernels it
    does not.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Outputs (B, O, H, W)."""
        return self.convolved(input, self.weight, self.bias)

    def convolved(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with another weight and bias."""
        options: Any = self.stride, self.padding, self.dilation, self.groups
        if not (torch.is_grad_enabled() and inputs.requires_grad and _is_plain(inputs)):
            return functional.conv2d(inputs, weight, bias, *options)
        outputs: Tensor = _Convolved.apply(inputs, weight, bias, options)  # type: ignore[no-untyped-call]
        return outputs


def _is_plain(inputs: Tensor) -> bool:
    """Whether the inputs are of the kind that this is for, and nothing unusual is asked for."""
    return (
        not torch.compiler.is_compiling()
        and inputs.is_cpu
        and inputs.ndim == 4
        and inputs.is_contiguous(memory_format=torch.channels_last)
        and not torch._C._are_functorch_transforms_active()
        and forward_ad.unpack_dual(inputs).tangent is None  # type: ignore[no-untyped-call]
    )


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = options
        return functional.conv2d(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        rest = [len(weight)], stride, padding, dilation, False, (0, 0), groups
        of_x, *others = ctx.needs_input_grad[:3]
        backward = torch.ops.aten.convolution_backward
        many = torch._C._functorch.is_legacy_batchedtensor(slope)
        if many or torch.is_grad_enabled():  # of many outputs at once, or to be differentiated
            return *backward(slope, x, weight, *rest, [of_x, *others]), None
        found = None
        if of_x:
            first = slope.contiguous(), x.new_empty(x.shape), weight.contiguous()
            found = backward(*first, *rest, [True, False, False])[0]
            found = found.contiguous(memory_format=torch.channels_last)
        return found, *backward(slope, x, weight, *rest, [False, *others])[1:], None
