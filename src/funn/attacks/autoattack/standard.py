"""AutoAttack's standard version (Croce and Hein 2020, arXiv:2003.01690): a cascade of four."""

import torch
from torch import Tensor, nn

from funn.attacks.autoattack.apgd import APGD
from funn.attacks.autoattack.fab import FAB
from funn.attacks.autoattack.square import Square
from funn.attacks.core.interface import BatchedAttack, Model
from funn.attacks.core.norms import Norm
from funn.attacks.core.result import AttackResult
from funn.attacks.core.state import AttackState


class AutoAttack(BatchedAttack):
    """AutoAttack behind the torchattacks interface: APGD-CE, APGD-T, FAB-T and Square.

    Each part meets only the images that have withstood those before it, so that the share of images
    left is the robust accuracy at `eps`. With the defaults of `steps`, `targets` and `queries` it
    is the standard version; fewer make it faster and weaker.

    Args:
        model: images in [0, 1] to logits.
        norm: "l2" or "linf".
        eps: radius of the ball, in that norm.
        steps: of both APGDs from each start, and of FAB towards each target.
        targets: how many classes APGD-T and FAB-T go for, those of the highest logits on the clean
            image.
        queries: candidates that Square tries.
        seed: of the starts and the squares, drawn from (seed, the image's bytes).

    Raises:
        ValueError: for a value that is out of range.
    """

    images_per_part = 256

    def __init__(
        self,
        model: nn.Module,
        norm: Norm = "l2",
        eps: float = 0.5,
        steps: int = 100,
        targets: int = 9,
        queries: int = 5000,
        seed: int = 0,
    ) -> None:
        super().__init__("AutoAttack", model)
        self.norm: Norm = norm
        self.eps = eps
        self.steps = steps
        self.targets = targets
        self.queries = queries
        self.seed = seed
        self.parts()  # which refuse what is out of range

    def parts(self) -> tuple[BatchedAttack, ...]:
        """The four attacks, in their order."""
        model, norm, eps, steps, targets = self.model, self.norm, self.eps, self.steps, self.targets
        found: tuple[BatchedAttack, ...] = (
            APGD(model, norm, eps, steps, "ce", seed=self.seed),
            APGD(model, norm, eps, steps, "dlr_targeted", targets, seed=self.seed),
            FAB(model, norm, eps, steps, targets),
            Square(model, norm, eps, self.queries, seed=self.seed),
        )
        for part in found:
            part.batch_size = self.batch_size
        return found

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Attack with one part after the other what is left.

        Returns:
            The result; `step` is that of the part which fooled the image, passes are counted over
            all parts. A failure is returned as the clean image.
        """
        state = AttackState(images)
        left = torch.arange(len(images), device=images.device)
        for part in self.parts():
            if not len(left):
                break
            state.include(part.attack_images(model, images[left], labels[left]), left)
            left = left[~state.success[left]]
        return state.result()
