"""Two computations at once, each on half of this process's processors.

A small network's operators are too short to keep two processors busy: what two threads share of
each is less than what two networks, side by side, have to do.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")
_other: ThreadPoolExecutor | None = None


@contextmanager
def halves() -> Iterator[None]:
    """In this block, `at_once` has two threads, each with half of torch's.

    For a whole training: OpenMP takes milliseconds to change its number of threads. With a single
    thread there is nothing to halve.
    """
    global _other
    assert _other is None
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(threads // 2)
    # OpenMP counts for each thread that asks, MKL for the process.
    pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads // 2,))
    try:
        with pool as _other:
            yield
    finally:
        _other = None
        torch.set_num_threads(threads)


def at_once(first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """Run two functions that share no state: at the same time within `halves`, else in turn.

    torch lets go of Python's lock in every operator, so threads of Python will do.

    Returns:
        What each returned. An error of either is raised when both have ended.
    """
    if _other is None:
        return first(), second()
    theirs = _other.submit(second)
    try:
        mine = first()
    finally:
        theirs.exception()  # waits
    return mine, theirs.result()
