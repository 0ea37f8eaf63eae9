"""FUNN's second phase with an attacker that searches for each image on its own.

The frame is the paper's: no labels, the defender of the same init stage, its generator frozen, one
attack and one defender step a batch. What differs is the attacker: A1 is one network for all
images, and gives no robustness here; a search for each image (Madry et al. 2017) does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from funn.config.schema import TrainConfig
from funn.data.dataset import ImageData
from funn.defenses.funn_pgd.attacker import Ball, read_balls, search
from funn.defenses.funn_pgd.info_nce import Contrast, read_contrast
from funn.defenses.funn_pgd.objectives import Aim, Contest, Features, Reconstruction, squared
from funn.errors import at_least, require
from funn.method.networks import AutoEncoder
from funn.method.objectives import AttackerLoss
from funn.method.phases import attacker_loss
from funn.runtime.seeding import generator
from funn.training.checkpoint import Saved, load
from funn.training.module import StageModule, adam
from funn.training.stage import Fit, Stage

_PROBE_IMAGES = 1000
_WARM = 0.3  # of the steps, while the learning rate grows


class RobustFeatures(Stage):
    """The second phase of `defense=funn_pgd`."""

    keys = ("adversarial", "attacker", "beta", "gamma", "objective")

    def check(self, config: TrainConfig) -> None:
        """Require an attacker that searches.

        Raises:
            UserError: for another, or for a value that is out of range.
        """
        require(
            "distance" in config.attacker,
            "defense=funn_pgd needs an attacker that searches: attacker=pgd_contrast, pgd_feature, "
            "pgd_reconstruction or mixed (attacker=network is the paper's: defense=funn)",
        )
        distance = config.attacker["distance"]
        require(
            distance in ("contrast", "feature", "reconstruction"),
            f"attacker.distance={distance} must be contrast, feature or reconstruction",
        )
        if distance == "contrast":
            require(
                "contrast" in config.attacker,
                "attacker.distance=contrast has options of its own: type attacker=pgd_contrast",
            )
            read_contrast(config.attacker["contrast"])
            at_least("adversarial.batch_size", config.adversarial.batch_size, 2)
        at_least("attacker.clean_weight", config.attacker["clean_weight"], 0)
        read_balls(config.attacker["balls"])

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """The defender of the init stage, its encoder once more as the frozen target, and A1."""
        del folder
        assert parent is not None
        networks = load(parent)
        attacker = networks["attacker"].of(AutoEncoder)
        defender = networks["defender"].of(AutoEncoder)
        held_out = data.val if data.val_size else data.train
        module = EncoderTraining(
            defender,
            aim=self.aim(config, defender.module, data),
            learned=LearnedAttacker(
                attacker,
                attacker_loss(config),
                config.adversarial.attacker_lr,
            )
            if config.attacker["network"]
            else None,
            balls=read_balls(config.attacker["balls"]),
            clean_weight=config.attacker["clean_weight"],
            lr=config.adversarial.defender_lr,
            seed=config.seed,
            probe=held_out.floats(_PROBE_IMAGES),
        )
        return Fit.on_images(module, data.train.unlabelled(), config.adversarial, config.seed)

    def aim(self, config: TrainConfig, defender: AutoEncoder, data: ImageData) -> Aim:
        """What `attacker.distance` names."""
        if config.attacker["distance"] == "contrast":
            return Contrast(data.train.images, **read_contrast(config.attacker["contrast"]))
        if config.attacker["distance"] == "reconstruction":
            return Reconstruction()
        return Features(defender.encoder)


@dataclass(frozen=True)
class LearnedAttacker:
    """A1, the paper's attacker network, as one attacker of several.

    Attributes:
        saved: A1; its encoder is frozen, its generator learns (Eq. 8).
        criterion: what it minimises.
        lr: Adam's learning rate.
    """

    saved: Saved[AutoEncoder]
    criterion: AttackerLoss
    lr: float

    @property
    def network(self) -> AutoEncoder:
        """A1."""
        return self.saved.module

    def attack(self, x: Tensor, draw: torch.Generator) -> Tensor:
        """A1(x) of images (N, C, H, W), with a fresh uniform vector for each."""
        noise = torch.rand((len(x), self.network.noise), generator=draw).to(x)
        attacked: Tensor = self.network(x, noise)
        return attacked

    def loss(self, x: Tensor, defender: nn.Module, draw: torch.Generator) -> Tensor:
        """Eq. 8 on images (N, C, H, W), for a defender that stays as it is."""
        attacked = self.attack(x, draw)
        error = self.criterion.error
        return self.criterion.objective(error(attacked, x), error(x, defender(attacked)))


class EncoderTraining(StageModule):
    """Train a defender's encoder on the images that an attacker finds; its generator is frozen.

    Args:
        defender: D.
        aim: what they contend over.
        learned: A1, if it takes a share of each batch too.
        balls: where the attacker searches.
        clean_weight: weight of the clean images' distance.
        lr: Adam's learning rate at its highest: it grows, and falls to 0 along a cosine.
        seed: of the starts, drawn from (seed, epoch, batch).
        probe: a few clean training images (N, C, H, W), attacked after each epoch.
    """

    probe: Tensor

    def __init__(
        self,
        defender: Saved[AutoEncoder],
        *,
        aim: Aim,
        learned: LearnedAttacker | None = None,
        balls: Sequence[Ball],
        clean_weight: float,
        lr: float,
        seed: int,
        probe: Tensor,
    ) -> None:
        saved = {"defender": defender}
        if learned is not None:
            saved["attacker"] = learned.saved
            learned.network.encoder.requires_grad_(False)
        super().__init__(saved)
        self.learned = learned
        # Lightning trains, moves and saves what is an attribute.
        self.attacker = None if learned is None else learned.network
        self.objective = None if learned is None else learned.criterion.objective
        self.automatic_optimization = False
        self.defender = defender.module
        self.aim = aim
        self.defender.generator.requires_grad_(False)
        self.balls = balls
        self.clean_weight = clean_weight
        self.lr = lr
        self.seed = seed
        self.register_buffer("probe", probe, persistent=False)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam over the encoder; if A1 plays on, another over its generator."""
        optimizers: list[torch.optim.Optimizer] = [
            adam(self.defender.encoder.parameters(), self.lr)
        ]
        if self.learned is not None:
            free = self.learned.network.generator.parameters()
            optimizers.append(adam(free, self.learned.lr))
        return optimizers

    def on_train_epoch_start(self) -> None:
        """Let the aim prepare, with the encoder as it is now."""
        super().on_train_epoch_start()
        self.aim.begin_epoch(self.defender.encoder)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Attack images (N, C, H, W) in [0, 1] at their places (N,); one step of the encoder."""
        x, places = batch
        found = self.optimizers()
        optimizer, *others = found if isinstance(found, list) else [found]
        draw = generator(self.seed, "sample", self.current_epoch, batch_idx)
        terms = {}
        if self.learned is not None:
            with self.toggled_optimizer(others[0]):
                terms["attacker_loss"] = self.learned.loss(x, self.defender, draw)
                others[0].zero_grad()
                self.manual_backward(terms["attacker_loss"])
                others[0].step()
        contest = self.aim.contest(self.defender, x, places, draw)
        attacked = self.attack(contest, draw)
        worst = contest.distance(attacked, contest.goals).mean()
        with torch.set_grad_enabled(self.clean_weight > 0):
            clean = contest.distance(contest.x, contest.goals).mean()
        every = int(self.trainer.num_training_batches)
        progress = (self.current_epoch + batch_idx / every) / max(self.trainer.max_epochs or 1, 1)
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(progress, self.lr)
        optimizer.zero_grad()
        self.manual_backward(worst + self.clean_weight * clean)
        optimizer.step()
        terms |= {"attacked_distance": worst, "clean_distance": clean}
        self.record(terms, batch_idx)

    def attack(self, contest: Contest, draw: torch.Generator) -> Tensor:
        """The attacked images (N, C, H, W) of a contest, by the defender as it is now."""
        x, shares = contest.x, len(self.balls) + (self.learned is not None)
        self.defender.encoder.requires_grad_(False)
        attacked = search(contest.distance, x, contest.goals, self.balls, draw, shares)
        self.defender.encoder.requires_grad_(True)
        if self.learned is not None:
            mine = slice(len(self.balls), None, shares)
            with torch.no_grad():
                attacked[mine] = self.learned.attack(x[mine], draw)
        return attacked

    def epoch_extras(self) -> dict[str, float]:
        """How far an attacker moves a few images' features, in units of the features' spread.

        A score to choose by that looks at no label: 1 is as far as another image's features.
        """
        encoder = self.defender.encoder
        with torch.no_grad():
            clean = encoder(self.probe)
        own = Contest(self.probe, clean, lambda given, goal: squared(encoder(given), goal))
        attacked = self.attack(own, generator(self.seed, "probe"))
        with torch.no_grad():
            worst = squared(encoder(attacked), clean)
        return {"worst_distance": float(worst.mean() / (2 * clean.var(0).sum()))}


def one_cycle(progress: float, highest: float) -> float:
    """The learning rate after a share of all steps: a linear rise, then half a cosine to 0.

    A function of the place alone, so that a resumed training takes the same steps.
    """
    if progress < _WARM:
        return highest * (0.04 + 0.96 * progress / _WARM)
    return highest * (1 + math.cos(math.pi * (progress - _WARM) / (1 - _WARM))) / 2
