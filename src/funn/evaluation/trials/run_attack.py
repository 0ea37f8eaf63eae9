"""Run any attack with torchattacks' interface on images, and count what it took."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from funn.attacks.core.interface import BatchedAttack, check_logits, untouched
from funn.attacks.core.result import AttackResult
from funn.evaluation.records.verification import margins
from funn.runtime.seeding import derive


def run_attack(
    attack: Any, images: Tensor, labels: Tensor, predictions: Tensor, batch_size: int
) -> AttackResult:
    """Attack what the classifier gets right; what it gets wrong stays as it is, a success at 0.

    Args:
        attack: any attack with torchattacks' interface.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        predictions: of the clean images (N,).
        batch_size: most images in one forward pass.
    """
    right = predictions == labels
    adversarials, success, step = images.clone(), ~right, torch.where(right, -1, 0)
    forwards, backwards = torch.zeros_like(step), torch.zeros_like(step)
    closest = torch.full((len(images),), torch.inf)
    blind = torch.zeros_like(right)
    targets = torch.arange(len(images))[right]
    if isinstance(attack, BatchedAttack):
        # It cuts its own batches, and fills them up again as images finish.
        attack.batch_size = batch_size
        batch_size = len(images)
    for batch in targets.split(batch_size) if len(targets) else ():
        part = attack_batch(attack, images[batch], labels[batch])
        adversarials[batch] = part.adversarials
        success[batch], step[batch] = part.success, part.step
        forwards[batch], backwards[batch] = part.forwards, part.backwards
        closest[batch], blind[batch] = part.closest, part.blind
    return AttackResult(adversarials, success, step, closest, forwards, backwards, blind)


def attack_batch(attack: Any, images: Tensor, labels: Tensor) -> AttackResult:
    """Attack one batch by any attack with torchattacks' interface.

    One that returns images only is judged by the classifier's prediction of them; its passes are
    counted as means over the batch, and the step of a success is not known. Its random numbers are
    global: they are seeded by its name and the batch, so that the same command gives the same
    images, though another batch size gives others.
    """
    if isinstance(attack, BatchedAttack):
        return attack.run(images, labels)
    model = attack.model
    with untouched(model):
        with counted(model) as passes, _seeded(type(attack).__name__, images):
            adversarials = attack(images.clone(), labels.clone()).detach()
        with torch.no_grad():
            logits = model(adversarials.clone())
        check_logits(logits, len(images))
    unknown = torch.full((len(images),), -1)
    forwards, backwards = (
        torch.full_like(unknown, round(n / len(images))) for n in (passes.forward, passes.backward)
    )
    # Rows are images where a whole batch was differentiated; of single ones it is not known whose.
    blind = passes.blind.get(len(images), torch.zeros(len(images), dtype=torch.bool))
    finite = adversarials.flatten(1).isfinite().all(1)  # the argmax of NaN is no success
    success = finite & (logits.argmax(1) != labels)
    closest = margins(logits, labels).abs()
    return AttackResult(adversarials, success, unknown, closest, forwards, backwards, blind)


@contextmanager
def _seeded(name: str, images: Tensor) -> Iterator[None]:
    """Seed the global generators that a foreign attack may draw from, and leave them as found."""
    seed = derive(name, sha256(images.detach().cpu().contiguous().numpy().data).hexdigest())
    with isolate_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # torchattacks' OnePixel and Pixle draw from numpy's
        random.seed(seed)
        yield


@dataclass
class Passes:
    """What passed through a model.

    Attributes:
        forward: images that passed forward.
        backward: images that passed backward.
        blind: by the number of images in a backward pass, bool (N,), whose input gradient was zero.
    """

    forward: int = 0
    backward: int = 0
    blind: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count the images that pass through a model, which gets a copy of each batch.

    A model that changes its input in place would otherwise change what an attack returns.
    """
    passes = Passes()

    def forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        del module
        x = inputs[0].clone()
        passes.forward += len(x)
        if x.requires_grad:
            x.register_hook(backward)
        return x, *inputs[1:]

    def backward(gradient: Tensor) -> None:
        passes.backward += len(gradient)
        zero = ~gradient.flatten(1).any(1)
        before = passes.blind.get(len(gradient), torch.zeros_like(zero))
        passes.blind[len(gradient)] = before | zero

    handle = model.register_forward_pre_hook(forward)
    try:
        yield passes
    finally:
        handle.remove()


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Return the predicted classes (N,) of images (N, C, H, W); -1 where the logits are not finite.

    torch's argmax takes NaN for the largest.
    """
    batches = [torch.zeros(0, dtype=torch.int64, device=images.device)]
    for batch in images.split(batch_size):
        logits = model(batch.clone())
        batches.append(logits.argmax(1).where(logits.isfinite().all(1), -1))
    return torch.cat(batches)
