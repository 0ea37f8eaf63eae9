"""LocSearchAdv (Narodytska and Kasiviswanathan 2016), as in Foolbox 1.x and corrected, batched."""

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from funn.attacks.core.interface import Model, Protocol, check_protocol
from funn.attacks.core.randomness import image_generator
from funn.attacks.core.result import AttackResult
from funn.attacks.core.state import predict_clean
from funn.attacks.pixel.incremental import Layers, PixelAttack, Probe, pixel_probe

Order = Literal["fixed", "foolbox1"]

_ORDERS: dict[Protocol, Order] = {"strict": "fixed", "foolbox1": "foolbox1"}
# Foolbox starts from this share of the pixels, and probes this many at most in a round.
_START = 0.1
_MOST = 128


class LocalSearch(PixelAttack):
    """The local search behind the torchattacks interface. Symbols are those of its authors.

    Args:
        model: images in [0, 1] to logits. It is probed with values outside that range too.
        r: factor of a perturbed pixel's distance from grey, in [0, 2].
        p: a probed pixel's distance from grey, in units of the range.
        d: half side of the square around a perturbed pixel that is searched in the next round.
        t: pixels perturbed in a round.
        R: most rounds.
        order: "fixed" perturbs the pixels whose probes leave the true class most probable, as
            Foolbox 2.1 and later; "foolbox1" those that leave it least probable, as Foolbox up to
            2.0 and the paper's tool did by mistake: the probe and the perturbation of a pixel
            go opposite ways. Follows the protocol unless given.
        seed: decides, with the image's bytes, which pixels are probed.
        protocol: "strict", the fixed order, or "foolbox1".

    Raises:
        ValueError: for a value that is out of range.
    """

    images_per_part = 100

    def __init__(
        self,
        model: nn.Module,
        r: float = 1.5,
        p: float = 10.0,
        d: int = 5,
        t: int = 5,
        R: int = 150,  # noqa: N803
        order: Order | None = None,
        seed: int = 0,
        protocol: Protocol = "strict",
    ) -> None:
        check_protocol(protocol)
        if order not in (None, "fixed", "foolbox1"):
            raise ValueError(f"order={order} must be fixed or foolbox1")
        if not 0 <= r <= 2 or not p >= 0:
            raise ValueError("r must lie in [0, 2], p be 0 or more")
        if d < 0 or t < 1 or R < 0:
            raise ValueError("d and R must be 0 or more, t 1 or more")
        super().__init__("LocalSearch", model)
        self.r, self.p, self.d, self.t, self.R = r, p, d, t, R
        self.order: Order = order or _ORDERS[protocol]
        self.seed = seed

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Run `local_search` with this attack's settings."""
        return local_search(
            model,
            images,
            labels,
            r=self.r,
            p=self.p,
            d=self.d,
            t=self.t,
            R=self.R,
            order=self.order,
            seed=self.seed,
            batch_size=self.batch_size,
            layers=self.known_layers(images),
        )


@torch.no_grad()
def local_search(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    r: float,
    p: float,
    d: int,
    t: int,
    R: int,  # noqa: N803
    order: Order,
    seed: int,
    batch_size: int,
    layers: Layers | None = None,
) -> AttackResult:
    """Perturb the pixels that matter, and look for the next ones around them.

    Each round takes at most 128 random pixels of the neighbourhood (at first a tenth of the image,
    at least one), sets each in turn far out of range, and ranks them by the true class's
    probability. The `t` best are perturbed: their distance from grey is multiplied by `r`, and
    wraps around where it leaves the range. An image stops when it is misclassified, or when no
    probe gives finite logits (a failure). The probes themselves are never returned.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        r: see `LocalSearch`, as the rest.
        p: see `LocalSearch`.
        d: see `LocalSearch`.
        t: see `LocalSearch`.
        R: see `LocalSearch`.
        order: see `LocalSearch`.
        seed: see `LocalSearch`.
        batch_size: most images in one forward pass.
        layers: of the model, where they are known: what it makes of a probe is then computed from
            what it makes of the image. Each still counts as a forward pass.

    Returns:
        The result; `step` counts the rounds up to the first wrong prediction.
    """
    state, active = predict_clean(model, images, labels, batch_size)
    height, width = images.shape[2:]
    draws = {row: image_generator("local search", seed, images[row]) for row in active.tolist()}
    near = torch.ones(len(images), height * width, dtype=torch.bool, device=images.device)
    most = max(1, min(int(_START * height * width), _MOST))
    for number in range(1, R + 1):
        if not len(active):
            break
        keys = _keys([draws[row] for row in active.tolist()], height * width).to(images.device)
        probed = _subset(near[active], keys, most)
        most = _MOST
        x = state.adversarials[active]
        probe = pixel_probe(model, layers, x, batch_size)
        scores = _scores(probe, x, labels[active], probed, p)
        state.forwards[active] += probed.sum(1)
        chosen = _best(scores, keys, t, order)
        active, chosen = active[chosen.any(1)], chosen[chosen.any(1)]
        state.adversarials[active] = _perturbed(state.adversarials[active], chosen, r)
        near[active] = _neighbourhood(chosen, d, height, width)
        active = state.predict(model, active, labels, number, batch_size)
    return state.result()


def _keys(draws: list[torch.Generator], pixels: int) -> Tensor:
    """Random numbers in [0, 1), (A, HW): a row of each generator."""
    return torch.stack([torch.rand(pixels, generator=draw) for draw in draws])


def _subset(near: Tensor, keys: Tensor, most: int) -> Tensor:
    """A random part of each neighbourhood, bool (A, HW), by random keys (A, HW)."""
    ranks = keys.masked_fill(~near, 2).argsort(dim=1).argsort(dim=1)
    return near & (ranks < most)


def _scores(probe: Probe, images: Tensor, labels: Tensor, probed: Tensor, p: float) -> Tensor:
    """The label's probability for each probe of images (A, C, H, W): (A, HW), NaN for none."""
    owners, pixels = probed.nonzero(as_tuple=True)
    values = 0.5 + p * (images.flatten(2)[owners, :, pixels] - 0.5).sign()
    logits = probe(owners, pixels, values)
    logits = logits.masked_fill(~logits.isfinite().all(1, keepdim=True), torch.nan)
    scores = torch.full(probed.shape, torch.nan, device=images.device)
    scores[owners, pixels] = F.softmax(logits, dim=1).gather(1, labels[owners, None])[:, 0]
    return scores


def _best(scores: Tensor, keys: Tensor, count: int, order: Order) -> Tensor:
    """The `count` pixels to perturb, bool (A, HW), of those with a score.

    A saturated network ties many of them, so that the random keys (A, HW) decide.
    """
    values = (scores if order == "foolbox1" else -scores).nan_to_num(nan=torch.inf)
    shuffled = keys.argsort(dim=1)
    best = shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, stable=True)[:, :count])
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True) & ~scores.isnan()


def _perturbed(images: Tensor, chosen: Tensor, r: float) -> Tensor:
    """Perturb the chosen pixels, bool (A, HW), of images (A, C, H, W) cyclically."""
    grey = r * (images - 0.5)
    grey = torch.where(grey < -0.5, grey + 1, torch.where(grey > 0.5, grey - 1, grey))
    return torch.where(chosen.view(-1, 1, *images.shape[2:]), grey + 0.5, images)


def _neighbourhood(chosen: Tensor, d: int, height: int, width: int) -> Tensor:
    """The squares of half side `d` around the chosen pixels, bool (A, HW)."""
    spread = F.max_pool2d(chosen.float().view(-1, 1, height, width), 2 * d + 1, 1, d)
    return spread.flatten(1) > 0
