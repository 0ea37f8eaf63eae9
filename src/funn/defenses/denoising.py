"""The controls that the paper lacks: the second phase without its attacker.

The same parent, frozen generator, learning rate and epochs as FUNN's second phase, with Gaussian
noise of the same mean squared size in the attacker's place, or with none.
"""

from pathlib import Path

import torch
from torch import Tensor

from funn.config.schema import TrainConfig
from funn.data.dataset import ImageData
from funn.data.images import add_noise
from funn.method.networks import AutoEncoder
from funn.method.objectives import mse
from funn.runtime.seeding import generator
from funn.training.checkpoint import Saved, load
from funn.training.module import StageModule, adam
from funn.training.stage import Fit, Stage

_PROBE_IMAGES = 1000
_HALVINGS = 40


class Denoising(Stage):
    """`defense=denoising` and, with a perturbation of 0, `defense=classic_tuned`.

    Args:
        perturbation: mse between noisy and clean images, the attacker's figure.

    Raises:
        ValueError: if it is negative, or more than noise can do to images in [0, 1].
    """

    keys = ("adversarial",)

    def __init__(self, perturbation: float) -> None:
        if not 0 <= perturbation <= 0.2:
            raise ValueError(f"perturbation={perturbation} must be from 0 to 0.2")
        self.perturbation = perturbation

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """The defender of the init stage."""
        del folder
        assert parent is not None
        settings = config.adversarial
        module = DenoisingTraining(
            load(parent)["defender"].of(AutoEncoder),
            sigma=noise_for(self.perturbation, data.train.floats(_PROBE_IMAGES)),
            lr=settings.defender_lr,
            seed=config.seed,
        )
        return Fit.on_images(module, data.train, settings, config.seed)


class DenoisingTraining(StageModule):
    """Train a defender's encoder to restore noisy images; its generator is frozen.

    Args:
        defender: D.
        sigma: standard deviation of the noise, before clipping to [0, 1].
        lr: Adam's learning rate.
        seed: of the noise, drawn from (seed, epoch, batch).
    """

    def __init__(
        self,
        defender: Saved[AutoEncoder],
        *,
        sigma: float,
        lr: float,
        seed: int,
    ) -> None:
        super().__init__({"defender": defender})
        self.defender = defender.module
        self.defender.generator.requires_grad_(False)
        self.sigma = sigma
        self.lr = lr
        self.seed = seed

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the encoder alone."""
        return adam(self.defender.encoder.parameters(), self.lr)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Eq. 3 on images (N, C, H, W) in [0, 1] with noise for A(x)."""
        x, _ = batch
        draw = generator(self.seed, "denoising", self.current_epoch, batch_idx)
        noisy = add_noise(x, self.sigma, draw)
        loss = mse(x, self.defender(noisy))
        self.record({"defender_loss": loss, "perturbation": mse(noisy, x)}, batch_idx)
        return loss


def noise_for(perturbation: float, x: Tensor) -> float:
    """Find the sigma at which mse(`add_noise`(x), x) is `perturbation`, by bisection."""
    low, high = 0.0, 4.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reached = float(mse(add_noise(x, middle, generator("sigma")), x))
        low, high = (middle, high) if reached < perturbation else (low, middle)
    return high if perturbation else 0.0
