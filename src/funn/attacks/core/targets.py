"""The classes nearest the label, which DeepFool weighs and targeted attacks go for."""

import torch
from torch import Tensor

from funn.attacks.core.interface import Model
from funn.attacks.core.state import AttackState


def nearest_classes(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The classes with the highest logits beside the label.

    Args:
        logits: (B, K).
        labels: (B,).
        count: how many classes, K - 1 at most.

    Returns:
        int64 (B, count or K - 1), highest first.
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


@torch.no_grad()
def predict_targets(
    model: Model,
    images: Tensor,
    labels: Tensor,
    active: Tensor,
    count: int,
    state: AttackState,
    batch_size: int,
) -> Tensor:
    """Find the nearest classes of the clean images, with one more prediction.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: clean (N, C, H, W).
        labels: (N,).
        active: indices (M,) of the images that are left to attack.
        count: how many classes, K - 1 at most.
        state: where the predictions are counted.
        batch_size: most images in one forward pass.

    Returns:
        int64 (N, count or K - 1), highest first; zeros for the other images, and no class at all
        if no image is left.
    """
    targets = labels.new_zeros(len(labels), 0)
    for batch in active.split(batch_size) if len(active) else ():
        logits = model(images[batch])
        state.count_forward(batch, logits, labels[batch])
        nearest = nearest_classes(logits, labels[batch], count)
        if targets.shape[1] != nearest.shape[1]:
            targets = nearest.new_zeros(len(labels), nearest.shape[1])
        targets[batch] = nearest
    return targets
