"""Gradient attack: one step along the gradient itself (section 4.3 of the paper names it)."""

from torch import Tensor, nn

from funn.attacks.core.interface import Model, Protocol
from funn.attacks.core.norms import unit
from funn.attacks.core.result import AttackResult
from funn.attacks.fixed_budget.line_search import LineAttack, step_along_gradient

# Foolbox 1.x adds this to the gradient's size.
_TINY = 1e-8


class Gradient(LineAttack):
    """The gradient attack behind the torchattacks interface.

    Args:
        model: images in [0, 1] to logits.
        eps: size of the step, in another unit under each protocol: the L2 norm under "strict", the
            root mean square over the pixels under "foolbox1", which for 784 pixels is 28 times as
            large.
        protocol: "strict", a step of exactly `eps`, or "foolbox1", the paper's tool, which takes
            the least of many epsilons up to `eps` that succeeds (GradientAttack with
            max_epsilon=eps).

    Raises:
        ValueError: for a value that is out of range.
    """

    def __init__(self, model: nn.Module, eps: float, protocol: Protocol = "strict") -> None:
        super().__init__("Gradient", model, eps, protocol)

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Run `gradient` with this attack's settings."""
        return gradient(
            model,
            images,
            labels,
            eps=self.eps,
            protocol=self.protocol,
            batch_size=self.batch_size,
        )


def gradient(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    protocol: Protocol,
    batch_size: int,
) -> AttackResult:
    """Move each image along the cross-entropy's gradient.

    An image stays if its gradient is zero or not finite.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        eps: see `Gradient`.
        protocol: see `Gradient`.
        batch_size: most images in one forward pass.

    Returns:
        See `step_along_gradient`.
    """
    return step_along_gradient(
        model,
        images,
        labels,
        direction=unit if protocol == "strict" else _unit_mean_square,
        eps=eps,
        protocol=protocol,
        batch_size=batch_size,
    )


def _unit_mean_square(gradients: Tensor) -> Tensor:
    """Scale each gradient (N, C, H, W) to a root mean square of 1, as Foolbox 1.x does."""
    unit: Tensor = gradients / (gradients.square().mean((1, 2, 3), keepdim=True).sqrt() + _TINY)
    return unit
