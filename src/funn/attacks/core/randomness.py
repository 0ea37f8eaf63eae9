"""Randomness of an attack that depends on the image, not on its batch or place."""

import hashlib

import torch
from torch import Tensor

from funn.runtime.seeding import generator


def image_generator(name: str, seed: int, image: Tensor) -> torch.Generator:
    """Return a CPU generator seeded by an attack's name, a seed and the bytes of an image."""
    digest = hashlib.sha256(image.detach().cpu().numpy().tobytes()).hexdigest()
    return generator(name, seed, digest)
