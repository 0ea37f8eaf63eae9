"""APE-GAN (Shen et al. 2017): a generator that removes perturbations in front of a classifier.

Trained as a GAN on pairs of an FGSM image and its clean one. Layers, losses and Adam as in the
authors' code (shenqixiaojiang/APE-GAN), but for what is taken from its PyTorch version
(owruby/APE-GAN): kernels of 4x4 and 3x3 for the authors' 5x5, the squared error for its root.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from funn.attacks.core.losses import cross_entropy_gradient
from funn.config.build import build_module
from funn.config.schema import TrainConfig
from funn.data.batches import TensorBatches
from funn.data.dataset import ImageData
from funn.data.images import ImageShape
from funn.errors import require
from funn.method.objectives import mse
from funn.runtime.seeding import seeded
from funn.training.checkpoint import Saved, load
from funn.training.module import StageModule, adam
from funn.training.stage import Fit, Stage

_SLOPE = 0.2


class APEGAN(nn.Module):
    """A classifier behind a generator that restores its images.

    Args:
        classifier: spec of the classifier that is defended.
        channels: of the images.
        filters: of the generator's first convolution.

    Attributes:
        classifier: the bare classifier: what an attacker who does not know of APE-GAN attacks.
        generator: images (N, C, H, W), H and W multiples of 4, to the same shape in [-1, 1].
    """

    def __init__(self, classifier: Mapping[str, Any], channels: int, filters: int) -> None:
        super().__init__()
        self.classifier = build_module(classifier)
        self.generator = nn.Sequential(
            *_normalised(nn.Conv2d(channels, filters, 4, stride=2, padding=1)),
            *_normalised(nn.Conv2d(filters, 2 * filters, 4, stride=2, padding=1)),
            *_normalised(nn.ConvTranspose2d(2 * filters, filters, 4, stride=2, padding=1)),
            nn.ConvTranspose2d(filters, channels, 4, stride=2, padding=1),
            # Not half of it, as in FUNN: black is 0, where tanh hides no gradient.
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of restored images, from images (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.classifier(self.generator(x))
        return logits


class Discriminator(nn.Sequential):
    """Images (N, C, H, W) to logits (N, 1), above 0 for what it takes for clean.

    Args:
        image_shape: (C, H, W).
        filters: of the first convolution.
    """

    def __init__(self, image_shape: ImageShape, filters: int) -> None:
        channels, height, width = image_shape
        positions = -(-height // 8) * -(-width // 8)
        super().__init__(
            nn.Conv2d(channels, filters, 3, stride=2, padding=1),
            nn.LeakyReLU(_SLOPE),
            *_normalised(nn.Conv2d(filters, 2 * filters, 3, stride=2, padding=1)),
            *_normalised(nn.Conv2d(2 * filters, 4 * filters, 3, stride=2, padding=1)),
            nn.Flatten(),
            nn.Linear(4 * filters * positions, 1),
        )


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.LeakyReLU(_SLOPE)]


class APEGANStage(Stage):
    """Trains the generator of an APE-GAN in front of the classifier of the stage before.

    Args:
        filters: of the first convolution of generator and discriminator.
        epochs: of training.
        batch_size: of training.
        lr: Adam's learning rate, for both.
        eps: of FGSM, the largest change of a pixel.
        mse_weight: of mse(clean, restored) in the generator's loss.
        adversarial_weight: of the discriminator's verdict there.

    Raises:
        ValueError: for a value that is out of range.
    """

    keys = ()

    def __init__(
        self,
        filters: int,
        epochs: int,
        batch_size: int,
        lr: float,
        eps: float,
        mse_weight: float,
        adversarial_weight: float,
    ) -> None:
        if min(filters, epochs, batch_size) < 1 or not lr > 0:
            raise ValueError("sizes and lr must be above 0")
        if not min(eps, mse_weight, adversarial_weight) >= 0:
            raise ValueError("eps and weights must be 0 or more")
        self.filters = filters
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.eps = eps
        self.weights = (mse_weight, adversarial_weight)

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """A fresh generator and discriminator.

        Raises:
            UserError: for images whose sides two halvings do not divide.
        """
        del folder
        assert parent is not None
        channels, height, width = data.image_shape
        require(
            height % 4 == 0 and width % 4 == 0,
            f"APE-GAN needs images with sides that are multiples of 4, not {height}x{width}",
        )
        bare = load(parent)["classifier"]
        spec = {
            "_target_": "funn.defenses.apegan.APEGAN",
            "classifier": dict(bare.spec),
            "channels": channels,
            "filters": self.filters,
        }
        with seeded(config.seed, "apegan"):
            saved = Saved(spec, build_module(spec)).of(APEGAN)
            discriminator = Discriminator(data.image_shape, self.filters)
        apegan = saved.module
        apegan.classifier.load_state_dict(bare.module.state_dict())
        module = APEGANTraining(
            saved,
            discriminator,
            eps=self.eps,
            weights=self.weights,
            lr=self.lr,
        )
        return Fit(
            module=module,
            batches=TensorBatches(*data.train, self.batch_size, config.seed),
            epochs=self.epochs,
        )


class APEGANTraining(StageModule):
    """Train the generator against a discriminator, with manual optimisation.

    Nothing in it is random but the order of the images and the first weights.

    Args:
        apegan: its classifier stays as it is, in eval mode.
        discriminator: images to logits (N, 1). It is not saved with the stage.
        eps: of FGSM.
        weights: of the squared error and of the discriminator's verdict in the generator's loss.
        lr: Adam's learning rate, for both.
    """

    def __init__(
        self,
        apegan: Saved[APEGAN],
        discriminator: nn.Module,
        *,
        eps: float,
        weights: tuple[float, float],
        lr: float,
    ) -> None:
        super().__init__({"classifier": apegan})
        self.automatic_optimization = False
        self.apegan = apegan.module
        self.apegan.classifier.requires_grad_(False).eval()
        self.discriminator = discriminator
        self.eps = eps
        self.weights = weights
        self.lr = lr

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for each network, with the momentum of 0.5 that is usual for GANs."""
        return [
            adam(network.parameters(), self.lr, betas=(0.5, 0.999))
            for network in (self.apegan.generator, self.discriminator)
        ]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """A discriminator step, then two generator steps.

        Args:
            batch: images (N, C, H, W) in [0, 1] and labels (N,), which FGSM alone looks at.
            batch_idx: number of the batch in its epoch.
        """
        x, labels = batch
        generator_optimizer, discriminator_optimizer = self.optimizers()  # type: ignore[attr-defined]
        attacked = self.attack(x, labels)
        restored = self.apegan.generator(attacked)
        with self.toggled_optimizer(discriminator_optimizer):
            loss = self.discriminator_loss(x, restored.detach())
            self._step(discriminator_optimizer, loss)
        with self.toggled_optimizer(generator_optimizer):
            # Two, as in both codes, so that the discriminator's loss does not go to zero.
            self._step(generator_optimizer, self.generator_terms(x, restored)["generator_loss"])
            terms = self.generator_terms(x, self.apegan.generator(attacked))
            self._step(generator_optimizer, terms["generator_loss"])
        self.record(
            terms | {"discriminator_loss": loss, "perturbation": mse(x, attacked)}, batch_idx
        )

    def attack(self, x: Tensor, labels: Tensor) -> Tensor:
        """FGSM on images (N, C, H, W) with labels (N,), through the bare classifier."""
        x = x.detach().clone().requires_grad_()
        gradient = cross_entropy_gradient(self.apegan.classifier(x), labels, x)
        return (x.detach() + self.eps * gradient.sign()).clamp(0, 1)

    def discriminator_loss(self, x: Tensor, restored: Tensor) -> Tensor:
        """Cross-entropy of telling clean images (N, C, H, W) from restored ones."""
        clean, fake = self.discriminator(x), self.discriminator(restored)
        return F.softplus(-clean).mean() + F.softplus(fake).mean()

    def generator_terms(self, x: Tensor, restored: Tensor) -> dict[str, Tensor]:
        """The generator's loss on clean and restored images (N, C, H, W), and its squared error."""
        error = mse(x, restored)
        taken_for_clean = F.softplus(-self.discriminator(restored)).mean()
        loss = self.weights[0] * error + self.weights[1] * taken_for_clean
        return {"generator_loss": loss, "restoration_error": error}

    def _step(self, optimizer: LightningOptimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
