"""Square Attack (Andriushchenko et al. 2019), as AutoAttack's standard version runs it.

Follows the authors' code (github.com/fra31/auto-attack, square.py): margin loss, and the schedule
of sizes as it is for 10,000 queries. There all images of a batch draw the same squares; here each
draws its own, from (seed, the image's bytes), each stops when it is fooled, and the images that go
on are packed together.
"""

import functools
import math

import torch
from torch import Tensor, nn

from funn.attacks.core.interface import BatchedAttack, Model
from funn.attacks.core.norms import Norm, check_norm, length_by_sum, per_image
from funn.attacks.core.randomness import image_generator
from funn.attacks.core.result import AttackResult
from funn.attacks.core.state import AttackState, finite_rows, fooled, predict_clean

# After how many queries the share of the pixels that a square covers is halved once more.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-12
# Queries whose randomness is drawn at once.
_BLOCK = 250


class Square(BatchedAttack):
    """The Square Attack behind the torchattacks interface: a random search with no gradients.

    Whether a candidate is kept depends on whether it lowers the margin, and `closest` does not
    know how nearly it did not: another batch size can lead elsewhere by rounding.

    Args:
        model: images in [0, 1] to logits.
        norm: "l2" or "linf".
        eps: radius of the ball, in that norm.
        queries: candidates that are tried, after the first.
        p_init: share of the pixels that the first squares cover.
        seed: of the squares, drawn from (seed, the image's bytes).

    Raises:
        ValueError: for a value that is out of range.
    """

    images_per_part = 256

    def __init__(
        self,
        model: nn.Module,
        norm: Norm = "l2",
        eps: float = 0.5,
        queries: int = 5000,
        p_init: float = 0.8,
        seed: int = 0,
    ) -> None:
        check_norm(norm)
        if not eps >= 0 or queries < 1 or not 0 < p_init <= 1:
            raise ValueError("eps must be 0 or more, queries 1 or more, p_init in (0, 1]")
        super().__init__("Square", model)
        self.norm: Norm = norm
        self.eps = eps
        self.queries = queries
        self.p_init = p_init
        self.seed = seed

    @torch.no_grad()
    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Keep each candidate that lowers the margin, until an image is fooled.

        Returns:
            The result; `step` counts the candidates. A failure is returned as the clean image.
        """
        state, active = predict_clean(model, images, labels, self.batch_size)
        best, margin = images.clone(), images.new_full((len(images),), torch.inf)
        draws = images.new_zeros(0)
        for number in range(self.queries + 1):
            if not len(active):
                break
            if number == 0:
                draws = self._draw(images, active, "start", 1)[:, 0]
            elif number % _BLOCK == 1:
                draws = self._draw(images, active, number // _BLOCK, _BLOCK)
            going = []
            for rows in torch.arange(len(active), device=active.device).split(self.batch_size):
                batch = active[rows]
                if number == 0:
                    x = self._start(images[batch], draws[rows])
                else:
                    chance = draws[rows, (number - 1) % _BLOCK]
                    x = self._change(best[batch], images[batch], chance, number - 1)
                going.append(self._try(model, x, batch, labels, best, margin, state, number))
            kept = torch.cat(going)
            active, draws = active[kept], draws[kept]
        return state.result()

    def _draw(self, images: Tensor, active: Tensor, block: int | str, count: int) -> Tensor:
        """Uniform numbers for so many candidates of each active image (M, count, numbers)."""
        channels, height, width = images.shape[1:]
        if block == "start" and self.norm == "linf":
            numbers = channels * width
        elif block == "start":
            numbers = len(_tiles(height, width)[0]) * (1 + channels)
        else:
            numbers = (2 if self.norm == "linf" else 5) + channels
        drawn = [
            torch.rand(
                (count, numbers), generator=image_generator(f"Square {block}", self.seed, images[i])
            )
            for i in active.tolist()
        ]
        return torch.stack(drawn).to(images)

    def _start(self, images: Tensor, draws: Tensor) -> Tensor:
        """The first candidates: stripes under linf, a tiling with pyramids under l2.

        Args:
            images: clean (B, C, H, W).
            draws: (B, numbers).

        Returns:
            (B, C, H, W) in [0, 1].
        """
        count, channels, height, width = images.shape
        if self.norm == "linf":
            noise = _signs(draws).view(count, channels, 1, width)
            return (images + self.eps * noise).clamp(0, 1)
        tops, lefts, side = _tiles(height, width)
        shapes, noise = _pyramids(side).to(images), torch.zeros_like(images)
        for chance, top, left in zip(draws.chunk(len(tops), 1), tops, lefts, strict=True):
            shape = shapes[(chance[:, 0] > 0.5).long()][:, None]
            noise[:, :, top : top + side, left : left + side] = (
                shape * _signs(chance[:, 1:])[:, :, None, None]
            )
        return (images + self.eps * noise / (per_image(length_by_sum(noise, "l2")) + _TINY)).clamp(
            0, 1
        )

    def _change(self, best: Tensor, images: Tensor, draws: Tensor, number: int) -> Tensor:
        """Change the best candidates so far (B, C, H, W), inside the ball and the box.

        Args:
            best: (B, C, H, W).
            images: clean (B, C, H, W).
            draws: (B, numbers).
            number: how many changes were tried before.

        Returns:
            (B, C, H, W) in [0, 1].
        """
        height, width = images.shape[2:]
        share = self.p_init / 2 ** sum(number > bound for bound in _HALVINGS)
        side = round(math.sqrt(share * height * width))
        if self.norm == "linf":
            side = min(max(side, 1), height, width)
            square = _Window(draws[:, :2], height, width, side)
            clean, noise = square.of(images), 2 * self.eps * _signs(draws[:, 2:])[:, :, None]
            moved = (square.of(best) + noise).clamp(clean - self.eps, clean + self.eps)
            return square.put(best.clone(), moved.clamp(0, 1))
        side = max(side, 3)
        side = min(side + 1 - side % 2, height, width)
        noise = self._move_energy(best - images, draws, side)
        return (
            noise.mul_(self.eps / (per_image(length_by_sum(noise, "l2")) + _TINY))
            .add_(images)
            .clamp_(0, 1)
        )

    def _move_energy(self, noise: Tensor, draws: Tensor, side: int) -> Tensor:
        """Empty one window of the noise (B, C, H, W), in place, into another one.

        The other window's noise keeps its direction, to which a pyramid of either sign is added;
        what is left of the ball's radius is put there too.
        """
        channels, height, width = noise.shape[1:]
        here = _Window(draws[:, :2], height, width, side)
        there = _Window(draws[:, 2:4], height, width, side)
        spare = (self.eps**2 - _energy(noise.flatten(1))).clamp(min=0) / channels
        old, emptied = here.of(noise), there.of(noise) * ~here.holds(there)[:, None]
        pyramid = _pyramids(side).to(noise).flatten(1)[(draws[:, 4] > 0.5).long()]
        new = pyramid[:, None] * _signs(draws[:, 5:])[:, :, None]
        new = new + old / (_energy(old).sqrt() + _TINY)
        held = _energy(old) + _energy(emptied)
        new = new / (_energy(new).sqrt() + _TINY) * (spare[:, None] + held).sqrt()
        return here.put(there.put(noise, torch.zeros_like(emptied)), new)

    def _try(
        self,
        model: Model,
        x: Tensor,
        batch: Tensor,
        labels: Tensor,
        best: Tensor,
        margin: Tensor,
        state: AttackState,
        number: int,
    ) -> Tensor:
        """Predict candidates x (B, C, H, W) of images (B,), and keep those that are better.

        Returns:
            bool (B,), which images resist.
        """
        logits = model(x)
        gap = state.count_forward(batch, logits, labels[batch])
        wrong = fooled(logits, labels[batch])
        better = wrong | (finite_rows(logits) & (gap < margin[batch]))
        rows = batch[better]
        best[rows], margin[rows] = x[better], gap[better]
        rows = batch[wrong]
        state.success[rows], state.step[rows] = True, number + 1
        state.adversarials[rows] = x[wrong]
        resists: Tensor = ~wrong
        return resists


class _Window:
    """A square window in each image.

    Args:
        draws: uniform numbers (B, 2), which place its upper left corner.
        height: of the images.
        width: of the images.
        side: of the window.
    """

    def __init__(self, draws: Tensor, height: int, width: int, side: int) -> None:
        # As the authors do, never in the last row or column: the draw is below 1.
        room = draws.new_tensor([height - side, width - side])
        self._corner = (draws * room).long()
        self._side = side
        steps = torch.arange(side, device=draws.device)
        offsets = (steps[:, None] * width + steps).flatten()
        first = self._corner[:, 0] * width + self._corner[:, 1]
        self._pixels = (first[:, None] + offsets)[:, None]

    def of(self, images: Tensor) -> Tensor:
        """The pixels of images (B, C, H, W) inside, (B, C, side * side)."""
        pixels = self._pixels.expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, pixels)

    def put(self, images: Tensor, pixels: Tensor) -> Tensor:
        """Write pixels (B, C, side * side) into images (B, C, H, W), in place."""
        images.view(*images.shape[:2], -1).scatter_(2, self._pixels.expand_as(pixels), pixels)
        return images

    def holds(self, other: "_Window") -> Tensor:
        """Which pixels of another window of the same side lie inside too, bool (B, side * side)."""
        steps = torch.arange(self._side, device=self._corner.device)
        at = (other._corner - self._corner)[:, :, None] + steps
        rows, columns = ((at >= 0) & (at < self._side)).unbind(1)
        return (rows[:, :, None] & columns[:, None, :]).flatten(1)


@functools.cache
def _pyramids(side: int) -> Tensor:
    """Two halves of opposite sign, one above the other and side by side (2, side, side)."""
    upper = side // 2
    halves = torch.cat((_pyramid(upper, side), -_pyramid(side - upper, side)))
    halves = halves / halves.norm()
    return torch.stack((halves, halves.T))


def _pyramid(height: int, width: int) -> Tensor:
    """Falls from the middle outwards, with an L2 norm of 1 (height, width).

    It is a pile of squares around the middle, the k-th of a side of 2k - 1 and a height of 1/k².
    """
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(down[:, None], across)
    slabs = 1 / torch.arange(1, max(height, width) // 2 + 2).square()
    pile = slabs.flip(0).cumsum(0).flip(0)[ring]
    unit: Tensor = pile / pile.norm()
    return unit


def _tiles(height: int, width: int) -> tuple[list[int], list[int], int]:
    """Tops and lefts of the tiles of the first candidate, and their side, a fifth of the height."""
    side = max(height // 5, 1)
    first = max(height - 5 * side, 0) // 2
    tops = range(first, height - side + 1, side)
    lefts = range(first, width - side + 1, side)
    return [top for top in tops for _ in lefts], [left for _ in tops for left in lefts], side


def _signs(draws: Tensor) -> Tensor:
    """-1 or 1 of uniform numbers."""
    return (2 * draws - 1).sign()


def _energy(noise: Tensor) -> Tensor:
    """Sums of squares (..., 1) of (..., D)."""
    return noise.square().sum(-1, keepdim=True)
