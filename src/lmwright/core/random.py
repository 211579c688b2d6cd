"""Randomness that is passed in: one seed, and a stream of its own for every purpose."""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, *purpose: str | int) -> int:
    """A 128-bit key for ``purpose``; different purposes give unrelated keys."""
    words = "\x1f".join([str(seed), *map(str, purpose)]).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=16).digest(), "little")


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator (Philox, counter-based) for ``purpose`` under ``seed``."""
    return np.random.Generator(np.random.Philox(key=key(seed, *purpose)))
