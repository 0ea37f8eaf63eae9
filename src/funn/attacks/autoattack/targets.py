"""The classes that a targeted attack goes for."""

import torch
from torch import Tensor

from funn.attacks.core.interface import Model
from funn.attacks.core.tally import Tally


@torch.no_grad()
def nearest_rivals(
    model: Model,
    images: Tensor,
    labels: Tensor,
    active: Tensor,
    count: int,
    tally: Tally,
    batch_size: int,
) -> Tensor:
    """Rank the other classes by their logits on the clean images, with one more prediction.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: clean (N, C, H, W).
        labels: (N,).
        active: indices (M,) of the images that are left to attack.
        count: how many classes, K - 1 at most.
        tally: where the predictions are counted.
        batch_size: most images in one forward pass.

    Returns:
        int64 (N, count or K - 1), highest first; zeros for the other images, and no class at all
        if no image is left.
    """
    rivals = labels.new_zeros(len(labels), 0)
    for batch in active.split(batch_size) if len(active) else ():
        logits = model(images[batch])
        tally.look(batch, logits, labels[batch])
        others = logits.scatter(1, labels[batch, None], -torch.inf)
        best = others.topk(min(count, logits.shape[1] - 1), dim=1).indices
        if rivals.shape[1] != best.shape[1]:
            rivals = best.new_zeros(len(labels), best.shape[1])
        rivals[batch] = best
    return rivals
