"""What an attacker that searches and the encoder contend over. No aim looks at labels."""

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from funn.method.networks import AutoEncoder


class Contest(NamedTuple):
    """One batch of an aim.

    Attributes:
        x: the clean images that are attacked (N, C, H, W) in [0, 1].
        goals: what each is compared with (N, ...).
        distance: attacked images and their goals to how far off the encoder is (N,): the attacker
            raises it, the encoder lowers it.
    """

    x: Tensor
    goals: Tensor
    distance: Callable[[Tensor, Tensor], Tensor]


class Aim(nn.Module):
    """What is the matter of the contest. An `attacker.distance` of the configuration names one."""

    def begin_epoch(self, encoder: nn.Module) -> None:
        """Prepare for an epoch, with the encoder as it is now."""

    @abstractmethod
    def contest(
        self, defender: AutoEncoder, x: Tensor, places: Tensor, draw: torch.Generator
    ) -> Contest:
        """Return the contest over a batch.

        Args:
            defender: D, its encoder as it is now.
            x: images (N, C, H, W) in [0, 1].
            places: where they are among the training images (N,).
            draw: for what is random.
        """


class Features(Aim):
    """The features of the clean image by the encoder of the init phase: |E(x + d) - E0(x)|^2.

    Args:
        encoder: E0. A copy of it is kept.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.target = copy.deepcopy(encoder).requires_grad_(False)

    def contest(
        self, defender: AutoEncoder, x: Tensor, places: Tensor, draw: torch.Generator
    ) -> Contest:
        """See `Aim`."""
        del places, draw
        with torch.no_grad():
            goals = self.target(x)
        return Contest(x, goals, lambda given, goal: squared(defender.encoder(given), goal))


class Reconstruction(Aim):
    """The clean image itself, as in Eq. 3: |x - D(x + d)|^2."""

    def contest(
        self, defender: AutoEncoder, x: Tensor, places: Tensor, draw: torch.Generator
    ) -> Contest:
        """See `Aim`."""
        del places, draw
        return Contest(x, x, lambda given, goal: squared(defender(given), goal))


def squared(a: Tensor, b: Tensor) -> Tensor:
    """The squared L2 distance of each pair, (N,), of tensors (N, ...)."""
    return (a - b).square().flatten(1).sum(1)
