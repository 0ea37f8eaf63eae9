"""The two stages of the game, as `defense=` files name them."""

from collections.abc import Mapping
from pathlib import Path

from funn.config.build import build_module
from funn.config.schema import TrainConfig
from funn.data.dataset import ImageData
from funn.errors import require
from funn.method.game import PlayerPhase, Players
from funn.method.image_grid import ImageGrid
from funn.method.networks import AutoEncoder
from funn.method.objectives import ONE_GAMMA, DualAscent, attacker_objective
from funn.runtime.seeding import seeded
from funn.training.checkpoint import Saved, load
from funn.training.stage import Fit, Stage

_PROBE_IMAGES = 1000


class Init(Stage):
    """Phase 1: both auto-encoders learn to reconstruct (section 3.2, Eq. 3 and 4)."""

    # Of the objective only what this phase reads, so that a sweep of betas, gammas or of the
    # attacker's objective shares one init stage.
    keys = ("init", "model", "attacker.noise", "objective.defender_input")

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """Two fresh networks."""
        del parent
        players = {
            "attacker": _fresh(config, data, "attacker", int(config.attacker["noise"])),
            "defender": _fresh(config, data, "defender", 0),
        }
        return _players_fit(config, data, players, "init", folder)


class Adversarial(Stage):
    """Phase 2: the game (section 3.2, Eq. 3 and 8)."""

    keys = ("adversarial", "beta", "gamma", "objective")

    def check(self, config: TrainConfig) -> None:
        """Require an objective that goes with its errors.

        Raises:
            UserError: for the errors of single images, and one multiplier for all.
        """
        objective = attacker_objective(config.objective["attacker"], config.beta, config.gamma)
        dual = isinstance(objective, DualAscent)
        require(not (dual and config.objective["each_image"]), ONE_GAMMA)

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """The two networks of the init stage."""
        assert parent is not None
        return _players_fit(config, data, load(parent), "adversarial", folder)


def _fresh(config: TrainConfig, data: ImageData, player: str, noise: int) -> Saved:
    """An untrained player, its weights drawn from (seed, player)."""
    spec = dict(config.model) | {"image_shape": list(data.image_shape), "noise": noise}
    with seeded(config.seed, player):
        return Saved(spec, build_module(spec))


def _players_fit(
    config: TrainConfig,
    data: ImageData,
    players: Mapping[str, Saved],
    phase: PlayerPhase,
    folder: Path,
) -> Fit:
    settings = config.init if phase == "init" else config.adversarial
    attacker, defender = players["attacker"], players["defender"]
    defender_input = config.objective["defender_input"]
    require(
        defender_input in ("clean", "attacked"),
        f"objective.defender_input={defender_input} must be clean or attacked",
    )
    assert isinstance(attacker.module, AutoEncoder)
    assert isinstance(defender.module, AutoEncoder)
    module = Players(
        (attacker.spec, attacker.module),
        (defender.spec, defender.module),
        phase=phase,
        objective=attacker_objective(config.objective["attacker"], config.beta, config.gamma),
        each_image=config.objective["each_image"],
        defender_input=defender_input,
        attacker_lr=settings.attacker_lr,
        defender_lr=settings.defender_lr,
        beta=config.beta,
        seed=config.seed,
        images=data.train.images,
        probe=data.train.floats(_PROBE_IMAGES),
    )
    pictures = ImageGrid(folder / "images", config.image_every)
    return Fit.on_images(module, data.train.unlabelled(), settings, config.seed, [pictures])
