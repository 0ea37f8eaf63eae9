"""What an attack knows of each image so far, and the first predictions of the clean images."""

import torch
from torch import Tensor

from funn.attacks.core.interface import Model
from funn.attacks.core.losses import cross_entropy_gradient, margin
from funn.attacks.core.result import AttackResult


class AttackState:
    """An `AttackResult` in the making.

    Args:
        images: clean images (N, C, H, W).

    Attributes:
        adversarials: the images as they are now, (N, C, H, W).
        success: see `AttackResult`, as the rest.
        step: see `AttackResult`.
        closest: see `AttackResult`.
        forwards: see `AttackResult`.
        backwards: see `AttackResult`.
        blind: see `AttackResult`.
    """

    def __init__(self, images: Tensor) -> None:
        count, device = len(images), images.device
        self.adversarials = images.clone()
        self.success = torch.zeros(count, dtype=torch.bool, device=device)
        self.step = torch.full((count,), -1, device=device)
        self.closest = torch.full((count,), torch.inf, device=device)
        self.forwards = torch.zeros_like(self.step)
        self.backwards = torch.zeros_like(self.step)
        self.blind = torch.zeros_like(self.success)

    @torch.no_grad()
    def predict(
        self, model: Model, active: Tensor, labels: Tensor, step: int, batch_size: int
    ) -> Tensor:
        """Predict some images as they are now, and record it.

        Args:
            model: images (N, C, H, W) to logits (N, K).
            active: indices (M,) of the images.
            labels: of all images (N,).
            step: what to record as the step of those that are wrong.
            batch_size: most images in one forward pass.

        Returns:
            Indices of the images that are still predicted right, by finite logits.
        """
        kept = [active[:0]]
        for batch in active.split(batch_size) if len(active) else ():
            logits = model(self.adversarials[batch])
            kept.append(batch[self.update(batch, logits, labels[batch], step)])
        return torch.cat(kept)

    def update(self, batch: Tensor, logits: Tensor, labels: Tensor, step: int | Tensor) -> Tensor:
        """Record the predictions of one forward pass.

        Args:
            batch: indices (B,) of the images that passed.
            logits: (B, K).
            labels: of these images (B,).
            step: what to record as the step of those that are wrong.

        Returns:
            bool (B,), which images are still predicted right, by finite logits.
        """
        wrong = fooled(logits, labels)
        self.count_forward(batch, logits, labels)
        self.success[batch] = wrong
        self.step[batch] = torch.where(wrong, step, -1)
        return finite_rows(logits) & ~wrong

    def count_forward(self, owners: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Count one forward pass of each row, and keep how close it was.

        Args:
            owners: indices (B,) of the images that the rows belong to; some may occur repeatedly.
            logits: (B, K).
            labels: of the rows (B,).

        Returns:
            z_label - highest other logit of each row (B,).
        """
        self.forwards.index_add_(0, owners, torch.ones_like(owners))
        margins = margin(logits, labels)
        close = margins.abs().nan_to_num(nan=0.0).to(self.closest)
        self.closest.scatter_reduce_(0, owners, close, "amin")
        return margins

    def count_backward(self, owners: Tensor, gradients: Tensor) -> None:
        """Count one backward pass of each row, and note where it gave no direction.

        Args:
            owners: indices (B,) of the images that the rows belong to; some may occur repeatedly.
            gradients: (B, C, H, W).
        """
        self.backwards.index_add_(0, owners, torch.ones_like(owners))
        self.blind[owners[without_direction(gradients)]] = True

    def include(self, result: AttackResult, active: Tensor) -> None:
        """Take over the result of an attack on some of the images.

        Args:
            result: of M images.
            active: their indices (M,).
        """
        self.adversarials[active] = result.adversarials
        self.success[active] = result.success
        self.step[active] = result.step
        self.closest[active] = torch.minimum(self.closest[active], result.closest)
        self.forwards[active] += result.forwards
        self.backwards[active] += result.backwards
        self.blind[active] |= result.blind

    def result(self) -> AttackResult:
        """Return what is known now."""
        return AttackResult(
            self.adversarials,
            self.success,
            self.step,
            self.closest,
            self.forwards,
            self.backwards,
            self.blind,
        )


def without_direction(gradients: Tensor) -> Tensor:
    """Whether no entry of each row of gradients (B, ...) is finite and not zero, bool (B,)."""
    flat = gradients.flatten(1)
    # Most rows are settled by their sum, for a tenth of the time, and most batches by two numbers.
    total = flat.sum(1).abs()
    empty = torch.zeros_like(total, dtype=torch.bool)
    if not len(total) or (total.amin() > 0 and total.amax() < torch.inf):  # false for NaN too
        return empty
    empty = (total == 0) | ~total.isfinite()
    empty[empty.clone()] = ~flat[empty].nan_to_num(posinf=0, neginf=0).any(1)
    return empty


def fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether finite logits (N, K) have their first maximum elsewhere than at the label, (N,)."""
    return finite_rows(logits) & (logits.argmax(1) != labels)


def finite_rows(logits: Tensor) -> Tensor:
    """Whether each row of logits (N, K) is finite, bool (N,)."""
    # Any other number times zero is NaN: a sixth of the time of `isfinite().all(1)`.
    return (logits * 0).sum(1) == 0


def predict_clean(
    model: Model, images: Tensor, labels: Tensor, batch_size: int
) -> tuple[AttackState, Tensor]:
    """Predict the clean images.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        batch_size: most images in one forward pass.

    Returns:
        The state, and the indices of the images that are left to attack.
    """
    state = AttackState(images)
    everyone = torch.arange(len(images), device=images.device)
    return state, state.predict(model, everyone, labels, 0, batch_size)


def clean_gradients(
    model: Model, images: Tensor, labels: Tensor, batch_size: int
) -> tuple[AttackState, Tensor, Tensor]:
    """Predict the clean images, and differentiate where the prediction is right.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        batch_size: most images in one forward pass.

    Returns:
        The state; the indices (M,) of the images that are left to attack; their gradients
        (M, C, H, W).
    """
    state = AttackState(images)
    active, gradients = [torch.arange(0, device=images.device)], [images[:0]]
    for batch in torch.arange(len(images), device=images.device).split(batch_size):
        x = images[batch].requires_grad_()
        if not len(batch):
            continue
        logits = model(x)
        kept = state.update(batch, logits.detach(), labels[batch], 0)
        if not kept.any():
            continue
        active.append(batch[kept])
        gradients.append(cross_entropy_gradient(logits[kept], labels[batch][kept], x)[kept])
        state.count_backward(batch[kept], gradients[-1])
    return state, torch.cat(active), torch.cat(gradients)
