"""The adversarial game: attacker A and defender D, alternating on each batch (paper section 3)."""

from collections.abc import Callable
from typing import Literal

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from funn.data.images import to_unit
from funn.method.features import encode
from funn.method.networks import AutoEncoder
from funn.method.objectives import AttackerLoss, AttackerObjective, mse
from funn.runtime.distributed import mean_of_all, own_rows, processes
from funn.runtime.seeding import generator
from funn.runtime.threads import at_once
from funn.training.checkpoint import Saved
from funn.training.module import StageModule, adam

Phase = Literal["init", "adversarial"]
_PROBE_IMAGES = 1000


class AdversarialGame(StageModule):
    """Both training phases of section 3.2, with manual optimisation.

    `init`: each auto-encoder learns to reconstruct, on its own (Eq. 3 and 4, no constraint).
    `adversarial`: the attacker's encoder and the defender's generator are frozen; the attacker
    minimises its objective (Eq. 8), the defender restores what it attacked (Eq. 3).

    Per batch: attacker step; then A(x) again with the updated attacker and fresh noise, without
    gradient; then defender step. The paper gives no ratio of steps and no order.

    Args:
        attacker: A.
        defender: D.
        phase: which of the two phases to train.
        loss: the attacker's, of the adversarial phase.
        defender_input: what the defender restores in the init phase, "clean" images or
            "attacked" ones (the other reading of the paper's reference to Eq. 3).
        learning_rates: Adam's, for A and for D.
        beta: for the logged slack of the constraint, error - beta.
        seed: of the noise, drawn from (seed, phase, epoch, batch).
        images: all training images (N, C, H, W), uint8 or in [0, 1]. In the adversarial phase the
            attacker's encoder is frozen, so its features of them are computed once; the batches
            then hold, in the place of labels, which of them each image is.
    """

    shares_batches = True
    objective: AttackerObjective
    probe: Tensor  # the first training images (M, C, H, W), measured after each epoch

    def __init__(
        self,
        attacker: Saved[AutoEncoder],
        defender: Saved[AutoEncoder],
        *,
        phase: Phase,
        loss: AttackerLoss,
        defender_input: Literal["clean", "attacked"],
        learning_rates: tuple[float, float],
        beta: float,
        seed: int,
        images: Tensor,
    ) -> None:
        super().__init__({"attacker": attacker, "defender": defender})
        self.automatic_optimization = False
        self.attacker = attacker.module
        self.defender = defender.module
        self.phase = phase
        if phase == "adversarial":  # with what state it keeps, and the init phase has none
            self.objective = loss.objective
        self.loss = loss
        self.restores_attacked = phase == "adversarial" or defender_input == "attacked"
        self.has_halves = not self.restores_attacked  # neither player sees the other
        self.learning_rates = learning_rates
        self.beta = beta
        self.seed = seed
        self.images = images
        self.codes: Tensor | None = None
        self.register_buffer("probe", to_unit(images[:_PROBE_IMAGES]), persistent=False)
        if phase == "adversarial":
            self.attacker.encoder.requires_grad_(False)
            self.defender.generator.requires_grad_(False)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One Adam for each player, over what its phase leaves free."""
        return [
            adam([p for p in player.parameters() if p.requires_grad], lr)
            for player, lr in zip((self.attacker, self.defender), self.learning_rates, strict=True)
        ]

    def on_fit_start(self) -> None:
        """Encode all images by the attacker's frozen encoder."""
        if self.phase == "adversarial":
            self.codes = encode(self.attacker.encoder, self.images.to(self.device))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One attacker step, then one defender step, on images (N, C, H, W) of places (N,)."""
        x, places = batch
        attacker_optimizer, defender_optimizer = self.optimizers()  # type: ignore[attr-defined]
        noise = self.noise(len(x), 2, batch_idx)
        if self.has_halves and processes() == 1:
            self.record(self._steps_at_once(x, noise[0]), batch_idx)
            return

        # Toggling freezes the other player, so that the attacker's backward through the defender
        # computes no gradients that nobody uses.
        with self.toggled_optimizer(attacker_optimizer):
            terms = self.attacker_terms(x, self._attacked(x, places, noise[0]))
            self._step(attacker_optimizer, terms["attacker_loss"])
        with self.toggled_optimizer(defender_optimizer):
            given = x
            if self.restores_attacked:
                with torch.no_grad():
                    given = self._attacked(x, places, noise[1])
            terms["defender_loss"] = mse(x, self.defender(given))  # Eq. 3
            self._step(defender_optimizer, terms["defender_loss"])
        self.record(terms, batch_idx)

    def attacker_terms(self, x: Tensor, attacked: Tensor) -> dict[str, Tensor]:
        """The attacker's loss and, in the adversarial phase, the terms it is made of."""
        if self.phase == "init":
            return {"attacker_loss": mse(attacked, x)}
        perturbation = self.loss.error(attacked, x)
        error = self.loss.error(x, self.defender(attacked))
        if not self.loss.each_image:  # the hinge acts on the mean over the whole batch
            perturbation, error = mean_of_all(perturbation), mean_of_all(error)
        return {
            "attacker_loss": self.objective(perturbation, error),
            "perturbation": perturbation.mean(),
            "error": error.mean(),
            "slack": error.mean() - self.beta,
        }

    @torch.no_grad()
    def attack(self, x: Tensor, noise: Tensor) -> Tensor:
        """A(x): images (N, C, H, W) in [0, 1], without gradient."""
        attacked: Tensor = self.attacker(x, noise)
        return attacked

    def noise(self, images: int, draws: int, batch: int) -> Tensor:
        """Uniform [0, 1) vectors (draws, images, noise) that depend on nothing but their place."""
        draw = generator(self.seed, self.phase, self.current_epoch, batch)
        rows = images * processes()
        whole = torch.rand((draws, rows, self.attacker.noise), generator=draw)
        return whole[:, own_rows(rows)].to(self.device)

    @torch.no_grad()
    def epoch_extras(self) -> dict[str, float]:
        """The defender's error on clean training images, which no objective looks at."""
        return {"defender_clean": float(mse(self.probe, self.defender(self.probe)))}

    def _attacked(self, x: Tensor, places: Tensor, noise: Tensor) -> Tensor:
        """A(x) of images (N, C, H, W) at their places (N,)."""
        code = self.attacker.encoder(x) if self.codes is None else self.codes[places]
        return self.attacker.generate(code, noise)

    def _steps_at_once(self, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """One step of each player of the init phase."""
        losses = at_once(
            lambda: _backward(self.attacker, lambda: mse(self.attacker(x, noise), x)),
            lambda: _backward(self.defender, lambda: mse(x, self.defender(x))),  # Eq. 3
        )
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.step()
        return dict(zip(("attacker_loss", "defender_loss"), losses, strict=True))

    def _step(self, optimizer: LightningOptimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def _backward(player: nn.Module, loss_of: Callable[[], Tensor]) -> Tensor:
    player.zero_grad()
    loss = loss_of()
    loss.backward()
    return loss
