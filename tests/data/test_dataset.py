import gzip
import hashlib
import struct

import pytest
import torch
from conftest import run_command

from funn.config.compose import ROOT
from funn.data.batches import TensorBatches
from funn.data.dataset import ImageData
from funn.data.images import Images
from funn.data.mnist import MNIST, FashionMNIST
from funn.data.synthetic import SyntheticDigits
from funn.errors import UserError


def epoch_of(batches, epoch):
    batches.set_epoch(epoch)
    return [labels.tolist() for _, labels in batches]


def test_an_epoch_holds_every_image_once_but_for_the_last_partial_batch():
    batches = TensorBatches(torch.zeros(103, 1), torch.arange(103), batch_size=10, seed=0)
    drawn = epoch_of(batches, 0)
    assert len(batches) == len(drawn) == 10
    assert all(len(batch) == 10 for batch in drawn)
    assert len({label for batch in drawn for label in batch}) == 100


def test_the_order_depends_on_seed_and_epoch_alone():
    def make(seed):
        return TensorBatches(torch.zeros(50, 1), torch.arange(50), 10, seed)

    assert epoch_of(make(0), 3) == epoch_of(make(0), 3)
    assert epoch_of(make(0), 3) != epoch_of(make(0), 4)
    assert epoch_of(make(0), 3) != epoch_of(make(1), 3)


def test_batches_are_floats_in_the_unit_range():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    batches = TensorBatches(pixels, torch.arange(3), 3, 0)
    ((images, labels),) = list(batches)
    assert images.dtype == torch.float32
    assert dict(zip(labels.tolist(), images.flatten().tolist(), strict=True)) == pytest.approx(
        {0: 0.0, 1: 0.2, 2: 1.0}
    )


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="at most 5"):
        TensorBatches(torch.zeros(5, 1), torch.arange(5), 6, 0)


def test_held_out_images_leave_the_training_set(tmp_path):
    full = SyntheticDigits(tmp_path, 100, 20)
    held = SyntheticDigits(tmp_path, 100, 20, val_size=30)
    assert torch.equal(torch.cat([held.train.images, held.val.images]), full.train.images)
    assert len(held.val.labels) == 30
    assert held.train.checksum() != full.train.checksum()
    with pytest.raises(UserError, match="val_size=100"):
        _ = SyntheticDigits(tmp_path, 100, 20, val_size=100).train


def test_synthetic_digits_repeat_and_differ_between_splits(tmp_path):
    a, b = (SyntheticDigits(tmp_path, 50, 50) for _ in range(2))
    assert torch.equal(a.train.images, b.train.images)
    assert not torch.equal(a.train.images, a.test.images)
    assert a.image_shape == (1, 28, 28)
    assert a.classes == 10
    assert a.train.images.dtype == torch.uint8


def test_the_checksum_covers_pixels_and_labels():
    images, labels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.arange(2)
    base = Images(images, labels).checksum()
    assert Images(images + 1, labels).checksum() != base
    assert Images(images, labels + 1).checksum() != base


def test_the_checksum_covers_types_and_shapes():
    images, labels = torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.arange(2)
    base = Images(images, labels).checksum()
    assert Images(images.view(2, 28, 28, 1), labels).checksum() != base
    assert Images(images.view(torch.int8), labels).checksum() != base
    assert Images(images, labels.view(torch.float64)).checksum() != base
    apart = images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert not apart.is_contiguous()
    assert Images(apart, labels).checksum() == base


class Given(ImageData):
    """A user's dataset: its `load` returns what it was given, and counts its calls."""

    def __init__(self, loaded, val_size=0):
        super().__init__(ROOT, val_size)
        self.given, self.calls = loaded, 0

    def load(self):
        self.calls += 1
        return self.given


PIXELS = torch.arange(24, dtype=torch.float32).view(6, 1, 2, 2) / 24
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
GOOD = Images(PIXELS, LABELS)


def with_pixel(value):
    images = PIXELS.clone()
    images[4, 0, 1, 0] = value
    return images


@pytest.mark.parametrize("which", ["training", "test"])
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (PIXELS.numpy(), LABELS, "images are of type ndarray: give a torch.Tensor"),
        (PIXELS[:, 0], LABELS, r"images have shape \(6, 2, 2\): give \(N, C, H, W\)"),
        (PIXELS[:0], LABELS[:0], r"images have shape \(0, 1, 2, 2\): .* at least one image"),
        (PIXELS.long(), LABELS, r"images are int64: give uint8 \(0 to 255\), or floats in"),
        (PIXELS > 0, LABELS, "images are bool: give uint8"),
        (with_pixel(float("nan")), LABELS, "images hold NaN: give finite"),
        (with_pixel(float("inf")), LABELS, "images hold infinite numbers"),
        (with_pixel(float("-inf")), LABELS, "images hold infinite numbers"),
        (with_pixel(255.0), LABELS, "range from 0 to 255, .*: divide by 255, or give uint8"),
        (with_pixel(65535.0), LABELS, "range from 0 to 65535, .*: divide by the value of full"),
        (with_pixel(1.001), LABELS, "range from 0 to 1.001, .*: clip them"),
        (with_pixel(-0.42), LABELS, "from -0.42 to .*: keep any normalisation inside the network"),
        (PIXELS, LABELS.tolist(), "labels are of type list: give a torch.Tensor"),
        (PIXELS, LABELS.float(), r"labels are float32: give class numbers, as labels\.long\(\)"),
        (PIXELS, LABELS > 0, r"labels are bool: give class numbers"),
        (PIXELS, torch.eye(3)[LABELS], r"labels have shape \(6, 3\): give \(N,\).*argmax\(1\)"),
        (PIXELS, LABELS[:, None], r"labels have shape \(6, 1\): give \(N,\), a class number for"),
        (PIXELS, LABELS - 1, "labels go down to -1: number the classes from 0"),
        (PIXELS, LABELS[:5], "labels are 5, and .* images 6: give a label for each image"),
    ],
)
def test_images_and_labels_that_are_refused(which, images, labels, message):
    bad = (images, labels)
    data = Given((bad, GOOD) if which == "training" else (GOOD, bad))
    with pytest.raises(UserError, match=f"^{which} .*{message}") as caught:
        _ = data.train
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (None, "must return two sets"),
        ((PIXELS, LABELS), "must return two sets"),
        ((PIXELS, LABELS, PIXELS, LABELS), "must return two sets"),
        (
            (GOOD, Images(PIXELS.view(6, 1, 1, 4), LABELS)),
            r"test images have .* \(1, 1, 4\), .*2\)",
        ),
        ((GOOD, Images(PIXELS, LABELS + 1)), "test labels go up to 3, and .* 3 classes, 0 to 2"),
    ],
)
def test_sets_that_do_not_fit_together(loaded, message):
    with pytest.raises(UserError, match=message):
        _ = Given(loaded).test


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_in_the_unit_range_become_float32(kind):
    images = PIXELS.to(kind).requires_grad_().permute(0, 1, 3, 2)
    data = Given([(images, LABELS), (PIXELS, LABELS)])
    assert data.train.images.dtype == torch.float32
    assert data.train.images.is_contiguous()
    assert not data.train.images.requires_grad
    assert torch.equal(data.train.images, images.float())
    assert data.train.checksum() == Images(images.detach().float(), LABELS).checksum()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int32, torch.uint16, torch.int64])
def test_bytes_stay_bytes_and_whole_labels_become_int64(kind):
    images = (PIXELS * 255).to(torch.uint8)
    data = Given(((images, LABELS.to(kind)), GOOD), val_size=2)
    assert data.train.images.dtype == torch.uint8
    assert torch.equal(data.train.images, images[:4])
    assert data.val.labels.dtype == torch.int64
    assert data.val.labels.tolist() == [1, 2]
    assert data.classes == 3


def test_data_is_loaded_once():
    data = Given((GOOD, GOOD))
    assert data.calls == 0
    assert torch.equal(data.train.images, data.test.images)
    assert data.image_shape == (1, 2, 2)
    assert data.calls == 1


BRIGHT = """
import torch
from funn.data.dataset import ImageData
from funn.data.images import Images

class Bright(ImageData):
    def load(self):
        images = torch.arange(256.0).repeat(49).view(16, 1, 28, 28)
        return Images(images, torch.arange(16) % 10), Images(images, torch.arange(16) % 10)
"""


def test_a_users_images_of_0_to_255_are_not_trained_on(tmp_path):
    (tmp_path / "users_digits.py").write_text(BRIGHT)
    output = tmp_path / "outputs"
    done = run_command("train.py", "data._target_=users_digits.Bright", "logger=csv",
                       f"output_dir={output}", PYTHONPATH=str(tmp_path))  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: training images range from 0 to 255, and floats must be in [0, 1]: "
        "divide by 255, or give uint8\n"
    )
    assert not done.stdout
    assert [path.name for path in output.iterdir()] == ["log"]  # Hydra's, of every command


def idx_content(count):
    """Raw IDX images and labels of `count` images, in MNIST's format."""
    images = struct.pack(">4i", 2051, count, 28, 28) + bytes(count * 784)
    labels = struct.pack(">2i", 2049, count) + bytes(range(count))
    return {"images-idx3-ubyte": images, "labels-idx1-ubyte": labels}


@pytest.fixture
def tiny_mnist(monkeypatch):
    """MNIST with three training and two test images, and no source to fetch them from."""
    files = {
        f"{split}-{name}": content
        for split, count in (("train", 3), ("t10k", 2))
        for name, content in idx_content(count).items()
    }
    monkeypatch.setattr(
        MNIST, "md5", {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    )
    return files


def offline(folder):
    raise OSError("no network")


def test_files_that_are_there_are_used(tmp_path, tiny_mnist, monkeypatch):
    monkeypatch.setattr(MNIST, "sources", lambda self: [("a network", offline)])
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in tiny_mnist.items():
        (raw / name).write_bytes(content)
    data = MNIST(tmp_path)
    assert data.train.images.shape == (3, 1, 28, 28)
    assert data.test.labels.tolist() == [0, 1]


def test_missing_files_come_from_the_first_source_that_works(tmp_path, tiny_mnist, monkeypatch):
    def packed(folder):
        for name, content in tiny_mnist.items():
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))

    monkeypatch.setattr(MNIST, "sources", lambda self: [("a", offline), ("b", packed)])
    assert MNIST(tmp_path).train.images.shape == (3, 1, 28, 28)
    monkeypatch.setattr(MNIST, "sources", lambda self: [("a", offline)])
    assert MNIST(tmp_path).test.images.shape == (2, 1, 28, 28)


def test_without_network_and_data_the_error_says_which_files_to_put_where(
    tmp_path, tiny_mnist, monkeypatch
):
    monkeypatch.setattr(MNIST, "sources", lambda self: [("a network", offline)])
    with pytest.raises(UserError) as caught:
        _ = MNIST(tmp_path).train
    assert "train-images-idx3-ubyte" in str(caught.value)
    assert str(tmp_path / "MNIST" / "raw") in str(caught.value)
    assert "no network" in str(caught.value)


def test_a_source_with_wrong_content_is_not_trusted(tmp_path, tiny_mnist, monkeypatch):
    def wrong(folder):
        for name, content in tiny_mnist.items():
            (folder / name).write_bytes(content[:-1] + b"x")

    monkeypatch.setattr(MNIST, "sources", lambda self: [("a", wrong)])
    with pytest.raises(UserError, match="wrong MD5"):
        _ = MNIST(tmp_path).train
    assert not list(tmp_path.rglob("*ubyte*"))


def test_a_truncated_file_is_one_clear_line(tmp_path, tiny_mnist):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in tiny_mnist.items():
        (raw / name).write_bytes(content)
    (raw / "train-images-idx3-ubyte").write_bytes(tiny_mnist["train-images-idx3-ubyte"][:100])
    with pytest.raises(UserError, match=r"damaged \(100 bytes.*delete it"):
        _ = MNIST(tmp_path).train


@pytest.mark.parametrize("name", MNIST.md5)
def test_a_file_of_the_right_size_with_other_content_is_one_clear_line(tmp_path, tiny_mnist, name):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for other, content in tiny_mnist.items():
        (raw / other).write_bytes(content)
    (raw / name).write_bytes(tiny_mnist[name][:-1] + b"x")
    with pytest.raises(UserError, match=rf"{name} is damaged .*delete it"):
        MNIST(tmp_path).load()


def test_fashion_mnist_comes_from_debians_package_where_it_is_installed(tmp_path, monkeypatch):
    debian = tmp_path / "usr"
    debian.mkdir()
    files = {
        f"{split}-{name}": content
        for split in ("train", "t10k")
        for name, content in idx_content(2).items()
    }
    for name, content in files.items():
        (debian / f"{name}.gz").write_bytes(gzip.compress(content))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(FashionMNIST, "md5", md5)
    monkeypatch.setattr(FashionMNIST, "debian", debian)
    assert FashionMNIST(tmp_path / "data").train.images.shape == (2, 1, 28, 28)


@pytest.mark.mnist
def test_the_real_mnist():
    folder = ROOT / "data"
    if not (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"no MNIST under {folder}: `make demo` fetches it")
    data = MNIST(folder)
    assert data.train.images.shape == (60_000, 1, 28, 28)
    assert data.test.images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(data.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    assert data.train.floats().mean().item() == pytest.approx(0.13066, abs=1e-4)
