"""Randomness that depends on nothing but its place: a resumed run repeats it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(*parts: object) -> int:
    """Return a 63-bit seed from any printable parts, e.g. (seed, "adversarial", epoch, batch)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """Return a CPU generator seeded by `derive(*parts)`."""
    return torch.Generator().manual_seed(derive(*parts))


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Seed torch's global CPU generator inside, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(*parts))
        yield
