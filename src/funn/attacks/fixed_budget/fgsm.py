"""Fast gradient sign method (Goodfellow et al. 2014; section 2.1 of the paper)."""

import torch
from torch import Tensor, nn

from funn.attacks.core.interface import Model, Protocol
from funn.attacks.core.result import AttackResult
from funn.attacks.fixed_budget.line_search import LineAttack, step_along_gradient


class FGSM(LineAttack):
    """FGSM behind the torchattacks interface.

    Args:
        model: images in [0, 1] to logits.
        eps: size of the step, the largest change of a pixel.
        protocol: "strict", a step of exactly `eps` (torchattacks' FGSM), or "foolbox1", the paper's
            tool, which takes the least of many epsilons up to `eps` that succeeds
            (GradientSignAttack with max_epsilon=eps).

    Raises:
        ValueError: for a value that is out of range.
    """

    def __init__(self, model: nn.Module, eps: float = 0.005, protocol: Protocol = "strict") -> None:
        super().__init__("FGSM", model, eps, protocol)

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Run `fgsm` with this attack's settings."""
        return fgsm(
            model,
            images,
            labels,
            eps=self.eps,
            protocol=self.protocol,
            batch_size=self.batch_size,
        )


def fgsm(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    protocol: Protocol,
    batch_size: int,
) -> AttackResult:
    """Move every pixel by the sign of the cross-entropy's gradient.

    A pixel whose gradient is zero stays; so does an image whose gradient is not finite. The
    cross-entropy of a saturated network has a gradient of exactly zero: such an image is a
    failure, though not a robust one.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        eps: see `FGSM`.
        protocol: see `FGSM`.
        batch_size: most images in one forward pass.

    Returns:
        See `step_along_gradient`.
    """
    return step_along_gradient(
        model,
        images,
        labels,
        direction=torch.sign,
        eps=eps,
        protocol=protocol,
        batch_size=batch_size,
    )
