"""Search through lists of candidate images, with those of many images packed into full batches."""

from collections.abc import Callable

import torch
from torch import Tensor

from funn.attacks.core.state import AttackState, fooled

# Candidates of one image that are tried between two looks at what is left to do. It does not
# depend on the batch size, so the number of forward passes does not either.
_ROUND = 50


def in_batches(function: Callable[..., Tensor], batch_size: int, *columns: Tensor) -> Tensor:
    """Join `function(*slices)` over slices of at most `batch_size` rows of the columns (M, ...).

    M must be above 0.
    """
    parts = zip(*(column.split(batch_size) for column in columns), strict=True)
    return torch.cat([function(*slices) for slices in parts])


@torch.no_grad()
def first_fooling(
    predict: Callable[[Tensor, Tensor], Tensor],
    labels: Tensor,
    counts: Tensor,
    state: AttackState,
    confirm: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Find each image's first candidate that is predicted wrong.

    Args:
        predict: the logits (B, K) of candidates, for image indices (B,) and positions (B,) in these
            images' lists.
        labels: of the images (N,).
        counts: candidates of each image (N,).
        state: where the passes are counted: some more than up to the first wrong candidate,
            because they are tried in rounds.
        confirm: as `predict`, whose word counts where `predict` finds a candidate wrong.

    Returns:
        int64 (N,), the position of the first wrong one, -1 for none.
    """

    def wrong(owners: Tensor, positions: Tensor) -> Tensor:
        logits = predict(owners, positions)
        found = fooled(logits, labels[owners])
        if confirm is not None and found.any():
            sure = found.nonzero()[:, 0]
            logits[sure] = confirm(owners[sure], positions[sure])
            found[sure] = fooled(logits[sure], labels[owners[sure]])
        state.count_forward(owners, logits, labels[owners])
        return found

    first, tried = torch.full_like(counts, -1), torch.zeros_like(counts)
    ranks = torch.arange(_ROUND, device=counts.device)
    while len(active := ((first < 0) & (tried < counts)).nonzero()[:, 0]):
        positions = tried[active, None] + ranks
        exists = positions < counts[active, None]
        owners = active[:, None].expand_as(positions)
        hits = torch.zeros_like(exists)
        hits[exists] = wrong(owners[exists], positions[exists])
        tried[active] += exists.sum(1)
        hit = hits.any(1)
        # int: argmax takes no bool, and its first maximum is the first True.
        first[active[hit]] = positions[hit, hits[hit].int().argmax(1)]
    return first
