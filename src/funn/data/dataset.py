"""The images of one dataset, loaded on first use and checked once."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from funn.data.image_checks import checked_sets
from funn.data.images import Images, ImageShape
from funn.errors import UserError


class ImageData(ABC):
    """Training, validation and test images of one dataset, loaded on first use.

    A dataset is a subclass with `load`; a YAML file under conf/data names it. It is no
    LightningDataModule, for what a stage trains on is its own: images without labels, with those of
    their neighbours, or the features of a frozen encoder (see `funn.data.batches`).

    Args:
        data_dir: folder that holds, or gets, the dataset's files.
        val_size: training images held out at the end of the training set, for selection and
            thresholds only; 0 for the paper's rows.

    Raises:
        ValueError: if `val_size` is negative.
    """

    def __init__(self, data_dir: Path, val_size: int = 0) -> None:
        if val_size < 0:
            raise ValueError(f"val_size={val_size} must be 0 or more")
        self.data_dir = data_dir
        self.val_size = val_size
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
