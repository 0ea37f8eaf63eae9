"""What else the features are good for, being learned without labels: with and without an attack.

Nearest neighbours, retrieval and a linear probe on an encoder's features. The attacker of the first
two moves an image's features as far as it can, which needs no label; the probe's attacker is PGD on
its cross-entropy.
"""

import sys
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from tqdm import tqdm

from funn.attacks import PGD
from funn.attacks.core.ball import projected_gradient_ascent
from funn.attacks.core.norms import Norm
from funn.data.images import Images
from funn.evaluation.studies import Once
from funn.method.features import encode
from funn.runtime.seeding import generator

_BATCH = 500
_RIDGE = 1e-2  # of the mean squared feature


def feature_uses(
    encoder: nn.Module,
    train: Images,
    test: Images,
    once: Once,
    *,
    norm: Norm,
    eps: float,
    steps: int,
    neighbours: int,
) -> dict[str, Any]:
    """Measure the features of an encoder.

    Args:
        encoder: images (N, C, H, W) in [0, 1] to features (N, F), in eval mode, frozen.
        train: the gallery, and what the probe learns from.
        test: the queries.
        once: see `funn.evaluation.studies.Once`.
        norm: of the attacker's ball, "l2" or "linf".
        eps: its radius.
        steps: of the attacker.
        neighbours: how many of the gallery are looked at.

    Returns:
        `clean` and `attacked` for `neighbours`, the accuracy of their majority; `retrieval`, the
        share of them that have the query's label; and `probe`, the accuracy of a linear one.
    """
    gallery = encode(encoder, train.images)

    def by_neighbours() -> dict[str, dict[str, float]]:
        attacked = moved(encoder, test.floats(), norm, eps, steps)
        found: dict[str, dict[str, float]] = {"neighbours": {}, "retrieval": {}}
        for name, images in (("clean", test.floats()), ("attacked", attacked)):
            near = train.labels[nearest(encode(encoder, images), gallery, neighbours)]
            majority = F.one_hot(near).sum(1).argmax(1)
            found["neighbours"][name] = _share(majority == test.labels)
            found["retrieval"][name] = _share(near == test.labels[:, None])
        return found

    def by_probe() -> dict[str, float]:
        whole = nn.Sequential(encoder, linear_probe(gallery, train.labels)).eval()
        fooled = PGD(whole, norm, eps, steps).run(test.floats(), test.labels).adversarials
        sets = {"clean": test.floats(), "attacked": fooled}
        with torch.no_grad():
            return {
                name: _share(whole(images).argmax(1) == test.labels)
                for name, images in sets.items()
            }

    return {**once("neighbours", by_neighbours), "probe": once("probe", by_probe)}


def moved(encoder: nn.Module, x: Tensor, norm: Norm, eps: float, steps: int) -> Tensor:
    """The images (N, C, H, W) in the balls around x whose features are farthest from those of x."""
    found = []
    draw = generator("feature attack")
    for batch in tqdm(x.split(_BATCH), desc="feature attack", disable=not sys.stderr.isatty()):
        with torch.no_grad():
            clean = encoder(batch)

        def distance(images: Tensor, clean: Tensor = clean) -> Tensor:
            features: Tensor = encoder(images)
            return (features - clean).square().sum(1)

        found.append(projected_gradient_ascent(distance, batch, norm, eps, steps, draw))
    return torch.cat(found)


def nearest(queries: Tensor, gallery: Tensor, count: int) -> Tensor:
    """Indices (N, count) of the gallery's (M, F) nearest to each query (N, F), by L2 distance."""
    return torch.cat(
        [
            torch.cdist(batch, gallery).topk(count, dim=1, largest=False).indices
            for batch in queries.split(_BATCH)
        ]
    )


def linear_probe(features: Tensor, labels: Tensor) -> nn.Linear:
    """The least-squares classifier of features (N, F): one solution, whatever the seed."""
    ones = torch.ones(len(features), 1, dtype=torch.float64)
    x = torch.cat((features.double(), ones), dim=1)
    wanted = F.one_hot(labels).double()
    square = x.T @ x / len(x)
    ridge = _RIDGE * square.diagonal()[:-1].mean() * torch.eye(len(square), dtype=torch.float64)
    ridge[-1, -1] = 0
    weights = torch.linalg.solve(square + ridge, x.T @ wanted / len(x))
    probe = nn.Linear(features.shape[1], wanted.shape[1])
    with torch.no_grad():
        probe.weight.copy_(weights[:-1].T)
        probe.bias.copy_(weights[-1])
    return probe.requires_grad_(False)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
