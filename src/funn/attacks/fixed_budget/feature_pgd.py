"""An adaptive attack on an encoder: away from the features of the clean image."""

from typing import Any

import torch
from torch import Tensor, nn

from funn.attacks.core.interface import Model
from funn.attacks.core.norms import Norm
from funn.attacks.core.result import AttackResult
from funn.attacks.fixed_budget.pgd import PGD


class FeaturePGD(PGD):
    """PGD on the squared distance of the features from those of the clean image.

    What a robust encoder is trained to withstand. It looks past the head, so a head whose
    gradients mislead is no obstacle; a success is a misclassification all the same.

    Args:
        model: images in [0, 1] to logits, with an attribute `encoder` on the way.
        norm: see `PGD`, as the rest.
        eps: see `PGD`.
        steps: see `PGD`.
        step_size: see `PGD`.
        restarts: see `PGD`.
        seed: see `PGD`.

    Raises:
        ValueError: for a model without an encoder, or a value that is out of range.
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
    ) -> None:
        if not has_encoder(model):
            raise ValueError(f"a {type(model).__name__} has no encoder: use pgd_{norm}")
        super().__init__(model, norm, eps, steps, step_size, restarts, seed)
        self._seen = self._clean = torch.empty(0)

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """See `PGD`; features are what passes out of the encoder on the way to the logits.

        All of them, where a forward pass of the model asks the encoder more than once.
        """
        passing: list[Tensor] = []
        clean: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs
            passing.append(output.clone().flatten(1))  # what follows may change it in place

        def passed(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs, output
            self._seen = torch.cat(passing, dim=1)
            passing.clear()
            if sum(map(len, clean)) < len(images):  # PGD predicts all clean images first
                clean.append(self._seen.detach())
                self._clean = torch.cat(clean)

        handles = [
            self.model.encoder.register_forward_hook(keep),
            self.model.register_forward_hook(passed),
        ]
        try:
            return super().attack_images(model, images, labels)
        finally:
            for handle in handles:
                handle.remove()

    def objective(self, logits: Tensor, labels: Tensor, x: Tensor, batch: Tensor) -> Tensor:
        """The squared L2 distance of the features (B,)."""
        del logits, labels, x
        return (self._seen - self._clean[batch]).square().sum(1)


def has_encoder(model: nn.Module) -> bool:
    """Whether a classifier shows the encoder whose features it classifies."""
    return isinstance(getattr(model, "encoder", None), nn.Module)
