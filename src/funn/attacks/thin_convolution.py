"""A faster gradient through the first convolution of a small network, on a CPU.

oneDNN takes a third of a forward and backward pass of the paper's classifier for the gradient of
its first convolution with respect to the image: it pads the one channel to a block of channels.
As a product of matrices it takes a tenth. Nothing else changes: the forward pass is the same, the
gradient differs by rounding.
"""

import copy

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

# With more input channels oneDNN's own kernel wins.
_FEW_CHANNELS = 4
# A stride of 2 splits an image into even and odd rows. Each row of the kernel reaches the rows of
# one parity, from the output row of the same number plus a shift: (kernel row, parity, shift).
_REACH = ((1, 0, 0), (0, 1, 1), (2, 1, 0))


def with_thin_convolutions(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose 3x3 stride-2 convolutions of few channels are `ThinConv2d`."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if name and _fits(module):
            model.set_submodule(name, ThinConv2d(module))
    return model


class ThinConv2d(nn.Module):
    """A 3x3 convolution with stride 2 and padding 1, whose input gradient is a matrix product.

    Args:
        convolution: whose weights it shares.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, O, ceil(H / 2), ceil(W / 2))."""
        if self.weight.requires_grad:
            return F.conv2d(x, self.weight, self.bias, stride=2, padding=1)
        output: Tensor = _ThinConvolution.apply(x, self.weight, self.bias)
        return output


class _ThinConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size = x.shape[2:]  # type: ignore[attr-defined]
        return F.conv2d(x, weight, bias, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors  # type: ignore[attr-defined]
        outputs, channels = weight.shape[:2]
        count, _, height, width = gradient.shape
        flat = gradient.reshape(count, outputs, height * width)
        parts = torch.matmul(weight.reshape(outputs, -1).t(), flat)
        parts = parts.view(count, channels, 3, 3, height, width)
        image = gradient.new_zeros(count, channels, height, 2, width, 2)
        for row, odd_row, down in _REACH:
            for column, odd_column, right in _REACH:
                reached = image[:, :, : height - down, odd_row, : width - right, odd_column]
                reached += parts[:, :, row, column, down:, right:]
        whole = image.view(count, channels, 2 * height, 2 * width)
        size = ctx.size  # type: ignore[attr-defined]
        return whole[:, :, : size[0], : size[1]], None, None


def _fits(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.in_channels <= _FEW_CHANNELS
        and module.kernel_size == (3, 3)
        and module.stride == (2, 2)
        and module.padding == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )
