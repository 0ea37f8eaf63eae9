"""Projected gradient descent (Madry et al. 2017), which adversarial training trains on."""

import torch
from torch import Tensor, nn

from funn.attacks.core.ball import projected_step, random_start
from funn.attacks.core.interface import BatchedAttack, Model
from funn.attacks.core.losses import cross_entropy, finite_gradient
from funn.attacks.core.norms import Norm, check_norm
from funn.attacks.core.randomness import image_generator
from funn.attacks.core.result import AttackResult
from funn.attacks.core.state import AttackState, predict_clean


class PGD(BatchedAttack):
    """PGD on the cross-entropy behind the torchattacks interface, from random starts.

    Args:
        model: images in [0, 1] to logits.
        norm: "l2" or "linf".
        eps: radius of the ball, in that norm.
        steps: steps from each start.
        step_size: length of a step; 2.5 * eps / steps unless given, as in Madry's code.
        restarts: how many random starts an image that resists gets.
        seed: of the starts, drawn from (seed, the image's bytes).
        stops: whether an image is left alone once it is fooled. False climbs all steps and returns
            the last image: a surer one for another classifier to be shown.

    Raises:
        ValueError: for a value that is out of range, or restarts of what does not stop.
    """

    def __init__(
        self,
        model: nn.Module,
        norm: Norm = "l2",
        eps: float = 0.5,
        steps: int = 40,
        step_size: float | None = None,
        restarts: int = 1,
        seed: int = 0,
        stops: bool = True,
    ) -> None:
        if restarts > 1 and not stops:
            raise ValueError("stops=False climbs from one start: restarts must be 1")
        check_norm(norm)
        if not eps >= 0 or steps < 1 or restarts < 1:
            raise ValueError("eps must be 0 or more, steps and restarts 1 or more")
        super().__init__("PGD", model)
        self.norm: Norm = norm
        self.eps = eps
        self.steps = steps
        self.step_size = 2.5 * eps / steps if step_size is None else step_size
        self.restarts = restarts
        self.seed = seed
        self.stops = stops

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Climb from each start until an image is fooled.

        Returns:
            The result; `step` counts the steps over all starts. A failure ends where its last
            start led.
        """
        state, active = predict_clean(model, images, labels, self.batch_size)
        for restart in range(self.restarts):
            state.adversarials[active] = self._starts(images[active], restart)
            for number in range(self.steps + 1):
                step, climbs = restart * self.steps + number, number < self.steps
                going = [active[:0]]
                for batch in active.split(self.batch_size) if len(active) else ():
                    going.append(self._step(model, images, labels, batch, state, step, climbs))
                active = torch.cat(going)
        return state.result()

    def _step(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        batch: Tensor,
        state: AttackState,
        step: int,
        climbs: bool,
    ) -> Tensor:
        """Predict images (B,) after so many steps, and move those that go on if it climbs.

        Returns:
            Indices of the images that go on.
        """
        x = state.adversarials[batch].requires_grad_()
        logits = model(x)
        kept = state.update(batch, logits.detach(), labels[batch], step)
        caught = state.success[batch] & ~self.evades(x.detach())
        state.success[batch[caught]] = False
        state.step[batch[caught]] = -1
        kept |= caught if self.stops else state.success[batch] | caught
        going = batch[kept]
        if climbs and len(going):
            values = self.objective(logits, labels[batch], x, batch)
            gradient = finite_gradient(values[kept], x)[kept]
            state.count_backward(going, gradient)
            state.adversarials[going] = projected_step(
                x.detach()[kept], gradient, images[going], self.norm, self.step_size, self.eps
            )
        return going

    def objective(self, logits: Tensor, labels: Tensor, x: Tensor, batch: Tensor) -> Tensor:
        """What is climbed, (B,): the cross-entropy.

        Args:
            logits: (B, K) of x.
            labels: (B,).
            x: the images as they are now (B, C, H, W).
            batch: which of the attacked images they are (B,).
        """
        del x, batch
        return cross_entropy(logits, labels)

    def evades(self, x: Tensor) -> Tensor:
        """Whether images (B, C, H, W) that are misclassified count as successes, bool (B,)."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def _starts(self, images: Tensor, restart: int) -> Tensor:
        """Uniform in each image's ball and the box (N, C, H, W)."""
        if not len(images):
            return images
        return torch.stack(
            [
                random_start(
                    image[None],
                    self.norm,
                    self.eps,
                    image_generator(f"PGD{restart}", self.seed, image),
                )[0]
                for image in images
            ]
        )
