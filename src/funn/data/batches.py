"""Batches by indexing whole tensors, in an order that (seed, epoch) decide."""

from collections.abc import Iterator

import torch
from torch import Tensor

from funn.data.images import to_unit
from funn.errors import UserError
from funn.runtime.distributed import own_rows
from funn.runtime.seeding import generator


class TensorBatches:
    """Batches cut from tensors in memory, in an order drawn from (seed, epoch).

    A loader that Lightning accepts as it is. Within an epoch every batch is full: the last
    partial one is dropped (468 steps of 128 on 60,000 images, as in the paper's rows). Of several
    processes each gets its own rows of every batch.

    Args:
        inputs: (N, ...), uint8 images or float features.
        labels: (N,).
        batch_size: images in a batch, at most N.
        seed: of the order.

    Raises:
        UserError: if there are fewer inputs than one batch holds.
    """

    # Lightning calls `set_epoch` only on a loader's sampler, and looks at `batch_sampler` as soon
    # as there is a sampler.
    batch_sampler = None

    def __init__(self, inputs: Tensor, labels: Tensor, batch_size: int, seed: int) -> None:
        if batch_size > len(inputs):
            raise UserError(
                f"batch_size={batch_size} is more than the {len(inputs)} training images: "
                f"give a batch size of at most {len(inputs)}"
            )
        self.inputs, self.labels = inputs, labels
        self.batch_size, self.seed = batch_size, seed
        self.epoch = 0

    @property
    def sampler(self) -> "TensorBatches":
        """The loader itself, for Lightning's call of `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration draws."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return len(self.inputs) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator: the order is drawn at the first `next`, after Lightning's `set_epoch`.
        draw = generator(self.seed, "order", self.epoch)
        order = torch.randperm(len(self.inputs), generator=draw)
        mine = own_rows(self.batch_size)
        for whole in order.split(self.batch_size)[: len(self)]:
            batch = whole[mine]
            yield to_unit(self.inputs[batch]), self.labels[batch]
