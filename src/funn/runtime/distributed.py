"""One training in several processes: each takes its share of every batch, and all see the mean.

Nothing here does anything in a single process. A batch is cut into as many equal runs of rows as
there are processes, in the order of their ranks.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rows(rows: int) -> slice:
    """This process's share of so many rows, a multiple of the number of processes."""
    count = processes()
    assert rows % count == 0
    share = rows // count
    first = share * (dist.get_rank() if count > 1 else 0)
    return slice(first, first + share)


def mean_of_all(value: Tensor) -> Tensor:
    """The mean over all processes of a scalar that each has, with the gradient of this one's.

    For what is no mean of terms of its own, such as the hinge of Eq. 8, which acts on the mean over
    the whole batch: its slope is then taken there, and the mean of all processes' gradients is the
    gradient of the whole batch.
    """
    count = processes()
    if count == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return value + (total / count - value.detach())


def means_of_all(values: dict[str, float]) -> dict[str, float]:
    """The means over all processes of numbers that each has; in one message."""
    count = processes()
    if count == 1:
        return values
    total = torch.tensor(list(values.values()), dtype=torch.float64)
    if dist.get_backend() == "nccl":
        total = total.cuda()
    dist.all_reduce(total)
    return dict(zip(values, (total / count).tolist(), strict=True))
