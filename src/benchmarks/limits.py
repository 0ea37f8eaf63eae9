"""The least that a step of training could take: its products of matrices, at the best rate."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from funn.runtime.linear import DenseProduct

# Batches that are counted.
_COUNTED = 12


def product_rate() -> float:
    """Floating point operations a second of one large product of matrices, by MKL or oneDNN."""
    x, best = torch.randn(1024, 1024), math.inf
    products = (linear := nn.Linear(1024, 1024).requires_grad_(False)), DenseProduct(linear)
    for product in products * 10:
        start = time.perf_counter()
        product(x)
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


class _NoModules(AbstractContextManager):  # type: ignore[type-arg]
    """For a count over all modules."""

    parents = ("Global",)

    def __exit__(self, *error: object) -> None:
        pass


def operations(by_hand: Callable[[int], float]) -> float:
    """Floating point operations of the products of matrices of one batch, as plain code does it."""
    batches = _COUNTED
    counter = FlopCounterMode(display=False)
    # torch's own cannot follow autograd.grad.
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter:
        by_hand(batches)
    return float(counter.get_total_flops()) / batches
