"""What an attack returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttackResult:
    """Adversarial images and how each came about. N images, in the order they were given.

    Attributes:
        adversarials: float32 (N, C, H, W) in [0, 1]; for a failure the attack's last image, or
            the clean one where it starts again from that each time.
        success: bool (N,), whether the attack itself saw a wrong prediction ("tracked"). True, at
            step 0, for an image that was misclassified from the start: it is returned unchanged.
        step: int64 (N,), the step at which that happened; -1 for a failure, or where the attack
            does not say.
        closest: float (N,), the least |z_label - highest other logit| among the predictions that
            decided what the attack did. Where it is tiny, rounding decided, and another batch
            size may give another result. Infinite where nothing was predicted.
        forwards: int64 (N,), forward passes of each image.
        backwards: int64 (N,), backward passes (vector-Jacobian products) of each image; those of
            its batch that it did not need are not counted.
        blind: bool (N,), whether a gradient that the attack went by was exactly zero in every
            entry, or not finite, somewhere on its trajectory. A failure that was blind is a
            failure of the attack: it says nothing for the classifier.
    """

    adversarials: Tensor
    success: Tensor
    step: Tensor
    closest: Tensor
    forwards: Tensor
    backwards: Tensor
    blind: Tensor
