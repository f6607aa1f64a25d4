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
        if not self._is_usual(inputs) or _has_tangent(weight) or _has_tangent(bias):
            plain: Tensor = self._conv_forward(inputs, weight, bias)
            return plain
        options = self.stride, self.padding, self.dilation, self.groups
        outputs: Tensor = _Convolved.apply(inputs, weight, bias, options)  # type: ignore[no-untyped-call]
        return outputs

    def _is_usual(self, inputs: Tensor) -> bool:
        """Whether a gradient in reverse mode is asked for, of inputs that this is for."""
        return (
            isinstance(inputs, Tensor)
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            and not torch._C._are_functorch_transforms_active()
            and torch.is_grad_enabled()
            and inputs.requires_grad
            and inputs.is_cpu
            and not torch.is_autocast_enabled("cpu")
            and inputs.ndim == 4
            and inputs.is_contiguous(memory_format=torch.channels_last)
            and not isinstance(self.padding, str)
            and self.padding_mode == "zeros"
            and not _has_tangent(inputs)
        )


def _has_tangent(tensor: Tensor | None) -> bool:
    if tensor is None:
        return False
    dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return dual.tangent is not None


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
        many = many or torch._C._are_functorch_transforms_active()
        if many or torch.is_grad_enabled():  # of many outputs at once, or to be differentiated
            return *backward(slope, x, weight, *rest, [of_x, *others]), None
        found = None
        if of_x:
            first = slope.contiguous(), x.new_empty(x.shape), weight.contiguous()
            found = backward(*first, *rest, [True, False, False])[0]
            found = found.contiguous(memory_format=torch.channels_last)
        return found, *backward(slope, x, weight, *rest, [False, *others])[1:], None
