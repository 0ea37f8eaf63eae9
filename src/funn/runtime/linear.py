"""Faster dense layers on a CPU: oneDNN's products of matrices instead of MKL's.

torch's own dense layers use MKL, which leaves half of the width of some processors unused. oneDNN,
that torch has on board for its convolutions, does not: there it takes half the time. Nothing else
changes; results differ by rounding, if at all.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from funn.runtime.plain_layers import adopt

# oneDNN takes longer to start: below so many multiplications MKL wins.
_ENOUGH = 2**21
_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class DenseProduct(nn.Linear):
    """A dense layer that computes large products by oneDNN.

    Args:
        linear: whose parameters it shares.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        adopt(self, linear)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_features) to (N, out_features)."""
        small = len(x) * self.weight.numel() < _ENOUGH
        if small or x.ndim != 2 or not _fits(x):
            return F.linear(x, self.weight, self.bias)
        output: Tensor = _Product.apply(x, self.weight, self.bias)
        return output


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _times(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        for_x, for_weight, for_bias = ctx.needs_input_grad  # type: ignore[attr-defined]
        return (
            _times(gradient, weight.t()) if for_x else None,
            _of_weight(gradient, x) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


def _of_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """The weight's gradient (O, I), of products whose result has the shorter rows."""
    if gradient.shape[1] <= x.shape[1]:
        return _times(gradient.t(), x.t())
    return _times(x.t(), gradient.t()).t()


def products(a: Tensor, b: Tensor) -> Tensor:
    """All inner products (N, O) of rows of a (N, I) and of b (O, I): many, without gradient."""
    return _times(a, b) if _fits(a) else a @ b.t()


def _fits(x: Tensor) -> bool:
    return _onednn is not None and x.device.type == "cpu" and x.dtype == torch.float32


def _times(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product (N, O) of a (N, I) and the transpose of b (O, I), plus a bias (O,)."""
    assert _onednn is not None
    product: Tensor = _onednn(a, b, bias, "none", [], "")
    return product
