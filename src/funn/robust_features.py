"""FUNN's second phase with an attacker that searches for each image on its own.

The frame is the paper's: no labels, the defender of the same init stage, its generator frozen, one
attack and one defender step a batch. What differs is the attacker: A1 is one network for all
images, and gives no robustness here; a search for each image (Madry et al. 2017) does.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from funn.build import function
from funn.checkpoint import load
from funn.data import ImageData
from funn.networks import AutoEncoder
from funn.objectives import mse, mse_each
from funn.players import AttackerObjective
from funn.sample_attacker import Ball, Objective, read_balls, search
from funn.schema import TrainConfig, at_least, require
from funn.seeding import generator
from funn.stage_module import Spec, StageModule
from funn.stages import Fit, Stage

_PROBE_IMAGES = 1000
_WARM = 0.3  # of the steps, while the learning rate grows


class RobustFeatures(Stage):
    """The second phase of `defense=funn_pgd`."""

    keys = ("adversarial", "attacker", "beta", "gamma", "objective")
    sources = (
        "funn.build", "funn.thin_convolution",
        "funn.networks", "funn.seeding", "funn.data", "funn.stage_module",
        "funn.attacks.pgd", "funn.sample_attacker", "funn.robust_features", "funn.objectives",
    )  # fmt: skip

    def check(self, config: TrainConfig) -> None:
        """Require an attacker that searches.

        Raises:
            UserError: for another, or for a value that is out of range.
        """
        require(
            "distance" in config.attacker,
            "defense=funn_pgd needs an attacker that searches: attacker=pgd_feature, "
            "pgd_reconstruction or mixed (attacker=network is the paper's: defense=funn)",
        )
        distance = config.attacker["distance"]
        require(
            distance in ("feature", "reconstruction"),
            f"attacker.distance={distance} must be feature or reconstruction",
        )
        at_least("attacker.clean_weight", config.attacker["clean_weight"], 0)
        read_balls(config.attacker["balls"])

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """The defender of the init stage, its encoder once more as the frozen target, and A1."""
        del folder
        assert parent is not None
        players = load(parent)
        attacker, defender = players["attacker"], players["defender"]
        assert isinstance(attacker.module, AutoEncoder)
        assert isinstance(defender.module, AutoEncoder)
        distance = config.attacker["distance"]
        held_out = data.val if data.val_size else data.train
        module = RobustTraining(
            (defender.spec, defender.module),
            learned=LearnedAttacker(
                attacker.spec,
                attacker.module,
                partial(
                    function(config.objective["attacker"]), beta=config.beta, gamma=config.gamma
                ),
                config.objective["each_image"],
                config.adversarial.attacker_lr,
            )
            if config.attacker["network"]
            else None,
            balls=read_balls(config.attacker["balls"]),
            reconstructs=distance == "reconstruction",
            clean_weight=config.attacker["clean_weight"],
            lr=config.adversarial.defender_lr,
            seed=config.seed,
            probe=held_out.floats(_PROBE_IMAGES),
            log_every=config.log_every,
        )
        return Fit.on_images(module, data.train, config.adversarial, config.seed)


@dataclass(frozen=True)
class LearnedAttacker:
    """A1, the paper's attacker network, as one attacker of several.

    Attributes:
        spec: the plain numbers that rebuild it.
        network: A1; its encoder is frozen, its generator learns (Eq. 8).
        objective: see `funn.players.Players`.
        each_image: see `funn.players.Players`.
        lr: Adam's learning rate.
    """

    spec: Spec
    network: AutoEncoder
    objective: AttackerObjective
    each_image: bool
    lr: float

    def attack(self, x: Tensor, draw: torch.Generator) -> Tensor:
        """A1(x) of images (N, C, H, W), with a fresh uniform vector for each."""
        noise = torch.rand((len(x), self.network.noise), generator=draw).to(x)
        attacked: Tensor = self.network(x, noise)
        return attacked

    def loss(self, x: Tensor, defender: nn.Module, draw: torch.Generator) -> Tensor:
        """Eq. 8 on images (N, C, H, W), for a defender that stays as it is."""
        attacked = self.attack(x, draw)
        error = mse_each if self.each_image else mse
        return self.objective(error(attacked, x), error(x, defender(attacked)))


class RobustTraining(StageModule):
    """Train a defender's encoder on the images that an attacker finds; its generator is frozen.

    The encoder E starts as a copy of the frozen target E0. With distance "feature" the attacker
    climbs |E(x + d) - E0(x)|^2, and E minimises the same and, weighted, |E(x) - E0(x)|^2; with
    "reconstruction" it is the paper's error, |x - D(x + d)|^2 and |x - D(x)|^2 (Eq. 3).

    Args:
        defender: D, with its spec.
        learned: A1, if it takes a share of each batch too.
        balls: where the attacker searches.
        reconstructs: whether the distance is that of images, not of features.
        clean_weight: weight of the clean images' distance.
        lr: Adam's learning rate at its highest: it grows, and falls to 0 along a cosine.
        seed: of the starts, drawn from (seed, epoch, batch).
        probe: a few clean training images (N, C, H, W), attacked after each epoch.
        log_every: batches between two logged points.
    """

    probe: Tensor

    def __init__(
        self,
        defender: tuple[Spec, AutoEncoder],
        *,
        learned: LearnedAttacker | None = None,
        balls: Sequence[Ball],
        reconstructs: bool,
        clean_weight: float,
        lr: float,
        seed: int,
        probe: Tensor,
        log_every: int,
    ) -> None:
        saved: dict[str, tuple[Spec, nn.Module]] = {"defender": defender}
        if learned is not None:
            saved["attacker"] = (learned.spec, learned.network)
            learned.network.encoder.requires_grad_(False)
        super().__init__(saved, log_every)
        self.learned = learned
        # Lightning trains, moves and saves what is an attribute.
        self.attacker = None if learned is None else learned.network
        self.automatic_optimization = False
        self.defender = defender[1]
        self.target: nn.Module = copy.deepcopy(self.defender.encoder).requires_grad_(False)
        self.defender.generator.requires_grad_(False)
        self.balls = balls
        self.reconstructs = reconstructs
        self.clean_weight = clean_weight
        self.lr = lr
        self.seed = seed
        self.register_buffer("probe", probe, persistent=False)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam over the encoder; if A1 plays on, another over its generator."""
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(self.defender.encoder.parameters(), lr=self.lr)
        ]
        if self.learned is not None:
            free = self.learned.network.generator.parameters()
            optimizers.append(torch.optim.Adam(free, lr=self.learned.lr))
        return optimizers

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Attack images (N, C, H, W) in [0, 1], then take one step of the encoder."""
        x, _ = batch
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
        attacked = self.attack(self.distance, x, draw)
        worst = self.distance(attacked, x).mean()
        clean = self.distance(x, x).mean()
        every = int(self.trainer.num_training_batches)
        progress = (self.current_epoch + batch_idx / every) / max(self.trainer.max_epochs or 1, 1)
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(progress, self.lr)
        optimizer.zero_grad()
        self.manual_backward(worst + self.clean_weight * clean)
        optimizer.step()
        terms |= {"attacked_distance": worst, "clean_distance": clean}
        self.record(terms, batch_idx)

    def distance(self, given: Tensor, x: Tensor) -> Tensor:
        """How far what the defender makes of given images is from what it should be, (N,).

        Args:
            given: images (N, C, H, W).
            x: the clean images of the same shape.
        """
        if self.reconstructs:
            restored: Tensor = self.defender(given)
            return (restored - x).square().flatten(1).sum(1)
        return self.feature_distance(given, x)

    def feature_distance(self, given: Tensor, x: Tensor) -> Tensor:
        """|E(given) - E0(x)|^2 of images (N, C, H, W), (N,)."""
        with torch.no_grad():
            target = self.target(x)
        difference: Tensor = self.defender.encoder(given) - target
        return difference.square().sum(1)

    def attack(self, objective: Objective, x: Tensor, draw: torch.Generator) -> Tensor:
        """The attacked images (N, C, H, W) of clean ones, by the defender as it is now."""
        shares = len(self.balls) + (self.learned is not None)
        self.defender.encoder.requires_grad_(False)
        attacked = search(objective, x, self.balls, draw, shares)
        self.defender.encoder.requires_grad_(True)
        if self.learned is not None:
            mine = slice(len(self.balls), None, shares)
            with torch.no_grad():
                attacked[mine] = self.learned.attack(x[mine], draw)
        return attacked

    def epoch_extras(self) -> dict[str, float]:
        """The worst distance found on held-out images, in units of the target's own spread.

        A score to choose by that looks at no label: 1 is as far as another image's features.
        """
        draw = generator(self.seed, "probe")
        attacked = self.attack(self.feature_distance, self.probe, draw)
        with torch.no_grad():
            worst = self.feature_distance(attacked, self.probe)
            spread = 2 * self.target(self.probe).var(0).sum()
        return {"worst_distance": float(worst.mean() / spread)}


def one_cycle(progress: float, highest: float) -> float:
    """The learning rate after a share of all steps: a linear rise, then half a cosine to 0.

    A function of the place alone, so that a resumed training takes the same steps.
    """
    if progress < _WARM:
        return highest * (0.04 + 0.96 * progress / _WARM)
    return highest * (1 + math.cos(math.pi * (progress - _WARM) / (1 - _WARM))) / 2
