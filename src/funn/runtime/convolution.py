"""Faster convolutions between images of few channels and many maps, on a CPU.

oneDNN pads the one channel of an image to a block of channels. On the paper's networks that makes
two computations six times slower than their arithmetic: the gradient of the first convolution with
respect to the image, and the last transposed convolution, which is the same map. As a product of
matrices it takes a sixth. Nothing else changes; results differ by rounding.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from funn.runtime.plain_layers import adopt, is_plain

# With more channels oneDNN's own kernel wins.
_FEW_CHANNELS = 4
# A stride of 2 splits an image into even and odd rows. Each row of the kernel reaches the rows of
# one parity, from the output row of the same number plus a shift: (kernel row, parity, shift).
# Those without a shift come first: they reach all rows of their parity.
_REACH = ((1, 0, 0), (2, 1, 0), (0, 1, 1))
_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def thin(module: nn.Module) -> nn.Module | None:
    """The faster form of a 3x3 stride-2 convolution from or to few channels, else None."""
    if not is_plain(module, nn.Conv2d, nn.ConvTranspose2d):
        return None
    if isinstance(module, nn.Conv2d) and _fits(module, module.in_channels):
        return ThinConv2d(module)
    if isinstance(module, nn.ConvTranspose2d) and _fits(module, module.out_channels):
        return ThinConvTranspose2d(module)
    return None


class ThinConv2d(nn.Conv2d):
    """A 3x3 convolution with stride 2 and padding 1, whose input gradient is a matrix product.

    Args:
        convolution: whose parameters it shares.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        adopt(self, convolution)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, O, ceil(H / 2), ceil(W / 2))."""
        if x.device.type != "cpu":
            return super().forward(x)
        output: Tensor = _Convolution.apply(x, self.weight, self.bias)
        return output


class ThinConvTranspose2d(nn.ConvTranspose2d):
    """A 3x3 transposed convolution with stride 2 and padding 1, as a matrix product.

    Args:
        convolution: whose parameters it shares.
    """

    def __init__(self, convolution: nn.ConvTranspose2d) -> None:
        nn.Module.__init__(self)
        adopt(self, convolution)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (N, O, H, W) to (N, C, 2 H - 1 + padding, 2 W - 1 + padding).

        The size of the output may be asked for, as of torch's own layer.
        """
        if x.device.type != "cpu" or output_size is not None:
            return super().forward(x, output_size)
        output: Tensor = _Transposed.apply(x, self.weight, self.bias, self.output_padding)
        return output


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> _Gradients:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad  # type: ignore[attr-defined]
        for_x = _transposed(gradient, weight, x.shape[2:]) if wanted[0] else None
        if not any(wanted[1:]):
            return for_x, None, None
        return for_x, *_backward(gradient, x, weight, None, (False, *wanted[1:]))[1:]


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding  # type: ignore[attr-defined]
        size = [2 * side - 1 + more for side, more in zip(x.shape[2:], padding, strict=True)]
        output = _transposed(x, weight, size)
        return output if bias is None else output + bias[:, None, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        padding = ctx.padding  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
        return *_backward(gradient, x, weight, padding, wanted), None


def _transposed(x: Tensor, weight: Tensor, size: torch.Size | list[int]) -> Tensor:
    """Apply the transpose of a convolution with `weight` (O, C, 3, 3) to maps (N, O, H, W).

    Returns:
        (N, C, *size), of a size that the convolution maps to (H, W).
    """
    outputs, channels = weight.shape[:2]
    count, _, height, width = x.shape
    flat = x.reshape(count, outputs, height * width)
    # Detached, for torch.matmul chooses its kernel, and so its rounding, by requires_grad.
    parts = torch.matmul(weight.detach().reshape(outputs, -1).t(), flat.detach())
    parts = parts.view(count, channels, 3, 3, height, width)
    image = x.new_empty(count, channels, height, 2, width, 2)
    for row, odd_row, down in _REACH:
        for column, odd_column, right in _REACH:
            reached = image[:, :, : height - down, odd_row, : width - right, odd_column]
            part = parts[:, :, row, column, down:, right:]
            if down or right:
                reached += part
            else:
                reached.copy_(part)
    whole = image.view(count, channels, 2 * height, 2 * width)
    return whole[:, :, : size[0], : size[1]]


def _backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    transposed: tuple[int, int] | None,
    wanted: tuple[bool, bool, bool],
) -> _Gradients:
    """Torch's own gradients for x, weight and bias.

    `transposed` is the output padding of a transposed convolution, None for an ordinary one.
    """
    outputs = weight.shape[0 if transposed is None else 1]
    gradients: _Gradients = torch.ops.aten.convolution_backward(
        gradient.contiguous(), x, weight, [outputs], [2, 2], [1, 1], [1, 1],
        transposed is not None, transposed or [0, 0], 1, wanted,
    )  # fmt: skip
    return gradients


def _fits(module: nn.Conv2d | nn.ConvTranspose2d, channels: int) -> bool:
    return (
        channels <= _FEW_CHANNELS
        and module.kernel_size == (3, 3)
        and module.stride == (2, 2)
        and module.padding == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )
