"""A picture of the game: clean, attacked and restored images, every few epochs."""

import io
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torchvision.utils import make_grid, save_image

from funn.artifacts.files import replace_file
from funn.artifacts.tracking import IMAGES
from funn.method.game import AdversarialGame
from funn.runtime.seeding import generator

_SHOWN = 16


class ImageGrid(Callback):
    """Write `epoch-NNN.png`: rows of clean x, attacked A(x), restored D(A(x)), and D(x).

    Args:
        folder: where the pictures go; loggers that take images get them too.
        every: epochs between two pictures; the last epoch always has one.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder = folder
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the picture of this epoch, if it is due."""
        epoch = trainer.current_epoch + 1
        if not trainer.is_global_zero or (epoch % self.every and epoch != trainer.max_epochs):
            return
        assert isinstance(pl_module, AdversarialGame)
        path = self.folder / f"epoch-{epoch:03d}.png"
        stream = io.BytesIO()
        save_image(game_images(pl_module), stream, format="png")
        replace_file(path, stream.getvalue())
        for logger in trainer.loggers:
            log_image = getattr(logger, "log_image", None)
            if log_image is not None:
                log_image(IMAGES, [str(path)])


@torch.no_grad()
def game_images(game: AdversarialGame) -> torch.Tensor:
    """One picture (3, H, W): a row each of x, A(x), D(A(x)) and D(x)."""
    x = game.probe[:_SHOWN]
    # The same noise in every picture, so that what changes is the attacker.
    noise = torch.rand(len(x), game.attacker.noise, generator=generator("image grid"))
    attacked = game.attack(x, noise.to(x.device))
    rows = [x, attacked, game.defender(attacked), game.defender(x)]
    picture: torch.Tensor = make_grid(torch.cat(rows).cpu(), nrow=len(x), pad_value=0.5)
    return picture
