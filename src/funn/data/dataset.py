"""Images in memory as one tensor, and batches by indexing whole tensors."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from funn.data.image_checks import checked_sets
from funn.errors import UserError
from funn.method.networks import ImageShape
from funn.runtime.distributed import own_rows
from funn.runtime.seeding import generator


class Images(NamedTuple):
    """A set of labelled images.

    Attributes:
        images: (N, C, H, W), uint8 from 0 to 255, or float32 in [0, 1].
        labels: int64 (N,), from 0.
    """

    images: Tensor
    labels: Tensor

    def floats(self, first: int | None = None) -> Tensor:
        """The first images (all by default) as float32 in [0, 1]."""
        return to_unit(self.images[:first])

    def unlabelled(self) -> "Images":
        """The images with their places, 0 to N - 1, instead of labels: so that no label is used."""
        return Images(self.images, torch.arange(len(self.images)))

    def checksum(self) -> str:
        """Return the SHA-256 of the pixels and labels, their types and shapes, in order."""
        digest = hashlib.sha256()
        for tensor in self:
            # The same bytes are other images in another type or shape.
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def to_unit(images: Tensor) -> Tensor:
    """Turn uint8 pixels (0 to 255) into float32 in [0, 1]; leave floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


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


class ImageData(LightningDataModule):
    """Training, validation and test images of one dataset, loaded on first use.

    A dataset is a subclass with `load`; a YAML file under conf/data names it.

    Args:
        data_dir: folder that holds, or gets, the dataset's files.
        val_size: training images held out at the end of the training set, for selection and
            thresholds only; 0 for the paper's rows.

    Raises:
        ValueError: if `val_size` is negative.
    """

    def __init__(self, data_dir: Path, val_size: int = 0) -> None:
        super().__init__()
        if val_size < 0:
            raise ValueError(f"val_size={val_size} must be 0 or more")
        self.data_dir = data_dir
        self.val_size = val_size
        self.batch_size = 128
        self.seed = 0
        self._sets: tuple[Images, Images] | None = None

    @abstractmethod
    def load(self) -> tuple[Images, Images]:
        """Return the official training and test sets.

        What they hold is checked here once, and converted (see `funn.data.image_checks`): images
        (N, C, H, W) in uint8, or any floating-point type in [0, 1]; labels (N,) of any integer
        type, numbered from 0.

        Raises:
            UserError: if the data cannot be had.
        """

    @property
    def _loaded(self) -> tuple[Images, Images]:
        if self._sets is None:
            train, test = checked_sets(self.load())
            if self.val_size >= len(train[1]):
                raise UserError(f"data.val_size={self.val_size} leaves no image to train on")
            self._sets = Images(*train), Images(*test)
        return self._sets

    @property
    def train(self) -> Images:
        """The training images without those held out."""
        full = self._loaded[0]
        kept = len(full.labels) - self.val_size
        return Images(full.images[:kept], full.labels[:kept])

    @property
    def val(self) -> Images:
        """The training images held out for selection and thresholds."""
        full = self._loaded[0]
        kept = len(full.labels) - self.val_size
        return Images(full.images[kept:], full.labels[kept:])

    @property
    def test(self) -> Images:
        """The official test images. Only evaluation touches them."""
        return self._loaded[1]

    def described(self) -> dict[str, Any]:
        """What results say of the data: name, shape, classes, size and digest of the test set."""
        return {
            "name": type(self).__name__,
            "shape": list(self.image_shape),
            "classes": self.classes,
            "test_images": len(self.test.labels),
            "sha256": self.test.checksum(),
        }

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W)."""
        channels, height, width = self._loaded[0].images.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self._loaded[0].labels.max()) + 1

    def train_dataloader(self) -> TensorBatches:
        """Return the training batches of (images in [0, 1], labels)."""
        return TensorBatches(*self.train, self.batch_size, self.seed)
