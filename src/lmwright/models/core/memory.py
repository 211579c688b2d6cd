"""Process settings for memory: freed blocks, cached kernels, the garbage collector."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the names' numbers in glibc's malloc.h
LARGEST_KEPT = 32 << 20  # the most that glibc accepts
KEPT_IN_ALL = 1 << 30
KERNELS = "32"  # where all products are oneDNN's a step has about two dozen shapes


def keep_freed_memory() -> bool:
    """Let the C library reuse freed blocks instead of giving them back to the system.

    By default every tensor above 128 KB is a fresh mapping whose pages fault in anew; on a
    CPU that took a sixth to a third of a training step. Returns False where it cannot be set: other
    C libraries than glibc keep their own ways.
    """
    linux = sys.platform.startswith("linux")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if linux else None
    if mallopt is None:
        return False
    kept = mallopt(MMAP_THRESHOLD, LARGEST_KEPT) == 1
    return mallopt(TRIM_THRESHOLD, KEPT_IN_ALL) == 1 and kept


def keep_few_kernels() -> None:
    """Let oneDNN keep the kernels of a few training steps, not those of hundreds.

    It makes kernels for each new shape and keeps 1,024 of them. Batches of ever other sizes never
    ask for an old one again, but what it kept lay all over the heap between the holes of freed
    tensors, which therefore grew with every step (docs/log.md). Only before its first kernel does
    oneDNN ask; a setting of the user's own stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)


@contextmanager
def uncollected() -> Iterator[None]:
    """Suspend the garbage collector while many small objects are made that all stay.

    It would go through them again and again; reading a large tokenizer took a third longer.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
