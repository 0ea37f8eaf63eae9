"""The three stages of the paper's training, as `defense=` files name them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from funn.build import build_module
from funn.checkpoint import Saved, load
from funn.classifier import HeadTraining, encode, spread
from funn.data import ImageData, TensorBatches
from funn.image_grid import ImageGrid
from funn.networks import AutoEncoder, Classifier
from funn.objectives import attacker_objective
from funn.players import PlayerPhase, Players
from funn.schema import TrainConfig, require
from funn.seeding import seeded
from funn.stages import Fit, Stage

_PROBE_IMAGES = 1000
_NETWORK_SOURCES = (
    "funn.build",
    "funn.networks",
    "funn.seeding",
    "funn.data",
    "funn.stage_module",
    "funn.thin_convolution",
)
_PLAYER_SOURCES = (*_NETWORK_SOURCES, "funn.objectives", "funn.players", "funn.phases")


class Init(Stage):
    """Phase 1: both auto-encoders learn to reconstruct (section 3.2, Eq. 3 and 4)."""

    # Of the objective only what this phase reads, so that a sweep of betas, gammas or of the
    # attacker's objective shares one init stage.
    keys = ("init", "model", "attacker.noise", "objective.defender_input")
    sources = _PLAYER_SOURCES

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
    sources = _PLAYER_SOURCES

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """The two networks of the init stage."""
        assert parent is not None
        return _players_fit(config, data, load(parent), "adversarial", folder)


class ClassifierStage(Stage):
    """The head on the defender's frozen encoder (section 3.3 and 4.1)."""

    keys = ("classifier", "head")
    sources = (*_NETWORK_SOURCES, "funn.classifier", "funn.phases")

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """A fresh head; the encoder's features of the training images, computed once."""
        del folder
        assert parent is not None
        defender = load(parent)["defender"]
        assert isinstance(defender.module, AutoEncoder)
        spec = classifier_spec(defender.spec, config.head, data.classes)
        with seeded(config.seed, "head"):
            classifier = build_module(spec)
        assert isinstance(classifier, Classifier)
        classifier.encoder.load_state_dict(defender.module.encoder.state_dict())
        features = encode(classifier.encoder, data.train.images)
        settings = config.classifier
        return Fit(
            module=HeadTraining(
                classifier.head,
                (spec, classifier),
                lr=settings.lr,
                margin=settings.margin * spread(features),
                log_every=config.log_every,
            ),
            batches=TensorBatches(features, data.train.labels, settings.batch_size, config.seed),
            epochs=settings.epochs,
        )


def classifier_spec(
    autoencoder: Mapping[str, Any], head: Mapping[str, Any], classes: int
) -> dict[str, Any]:
    """The plain numbers that build a classifier on an auto-encoder's encoder."""
    features = build_module(autoencoder).features
    return {
        "_target_": "funn.networks.Classifier",
        "autoencoder": dict(autoencoder),
        "head": dict(head) | {"features": features, "classes": classes},
    }


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
        probe=data.train.floats(_PROBE_IMAGES),
        log_every=config.log_every,
    )
    pictures = ImageGrid(folder / "images", config.image_every)
    return Fit.on_images(module, data.train, settings, config.seed, [pictures])
