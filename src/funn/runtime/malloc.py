"""Keep memory that was freed, on Linux: a training step asks for the same buffers again and again.

glibc gives every large buffer back to the system at once, so that each step pays for fresh, zeroed
pages: a third of the time of an adversarial step on one processor. Results do not change.
"""

import ctypes

# From glibc's malloc.h: how much free memory at the top of the heap to keep, how much more to ask
# for at a time, and from which size on a buffer gets a mapping of its own (32 MiB is the most).
_SETTINGS = ((-1, 2**31 - 1), (-2, 64 * 2**20), (-3, 32 * 2**20))


def keep_freed_memory() -> None:
    """Tell the allocator of this process, where it is glibc's; elsewhere do nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in _SETTINGS:
            mallopt(name, value)
