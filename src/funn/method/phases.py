"""The two stages of the game, as `defense=` files name them."""

from pathlib import Path

from torch import nn

from funn.artifacts.layout import IMAGES
from funn.config.schema import TrainConfig
from funn.data.dataset import ImageData
from funn.errors import require
from funn.method.game import AdversarialGame, Phase
from funn.method.image_grid import ImageGrid
from funn.method.networks import AutoEncoder
from funn.method.objectives import ONE_GAMMA, AttackerLoss, DualAscent, attacker_objective
from funn.training.checkpoint import Networks, Saved, load
from funn.training.stage import Fit, Stage


class Init(Stage):
    """Phase 1: both auto-encoders learn to reconstruct (section 3.2, Eq. 3 and 4)."""

    # Of the objective only what this phase reads, so that a sweep of betas, gammas or of the
    # attacker's objective shares one init stage.
    keys = ("init", "model", "attacker.noise", "objective.defender_input")

    def check(self, config: TrainConfig) -> None:
        """Require a known input of the defender.

        Raises:
            UserError: for another.
        """
        _check_defender_input(config)

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """Two fresh networks."""
        del parent
        networks = {
            "attacker": _fresh(config, data, "attacker", int(config.attacker["noise"])),
            "defender": _fresh(config, data, "defender", 0),
        }
        return _game_fit(config, data, networks, "init", folder)


class Adversarial(Stage):
    """Phase 2: the game (section 3.2, Eq. 3 and 8)."""

    keys = ("adversarial", "beta", "gamma", "objective")

    def check(self, config: TrainConfig) -> None:
        """Require an objective that goes with its errors, and a known input of the defender.

        Raises:
            UserError: for the errors of single images, and one multiplier for all.
        """
        loss = attacker_loss(config)
        require(not (isinstance(loss.objective, DualAscent) and loss.each_image), ONE_GAMMA)
        _check_defender_input(config)

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """The two networks of the init stage."""
        assert parent is not None
        return _game_fit(config, data, load(parent), "adversarial", folder)


def attacker_loss(config: TrainConfig) -> AttackerLoss:
    """What the configuration has the attacker minimise."""
    objective = attacker_objective(config.objective["attacker"], config.beta, config.gamma)
    return AttackerLoss(objective, config.objective["each_image"])


def _check_defender_input(config: TrainConfig) -> None:
    given = config.objective["defender_input"]
    known = given in ("clean", "attacked")
    require(known, f"objective.defender_input={given} must be clean or attacked")


def _fresh(config: TrainConfig, data: ImageData, player: str, noise: int) -> Saved[nn.Module]:
    """An untrained network, its weights drawn from (seed, player)."""
    spec = dict(config.model) | {"image_shape": list(data.image_shape), "noise": noise}
    return Saved.fresh(spec, config.seed, player)


def _game_fit(
    config: TrainConfig, data: ImageData, networks: Networks, phase: Phase, folder: Path
) -> Fit:
    settings = config.init if phase == "init" else config.adversarial
    game = AdversarialGame(
        networks["attacker"].of(AutoEncoder),
        networks["defender"].of(AutoEncoder),
        phase=phase,
        loss=attacker_loss(config),
        defender_input=config.objective["defender_input"],
        learning_rates=(settings.attacker_lr, settings.defender_lr),
        beta=config.beta,
        seed=config.seed,
        images=data.train.images,
    )
    pictures = ImageGrid(folder / IMAGES, config.image_every)
    return Fit.on_images(game, data.train.unlabelled(), settings, config.seed, [pictures])
