"""What a model has read before: pages of its KV cache by the tokens up to their ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import sha256

import numpy as np

from lmwright.models.blocks.pages import PAGE, Pool


class Prefixes:
    """A tree of full pages, each known by all tokens from the beginning to its end, and by whose
    they are.

    Texts of one owner that begin alike hold the same pages, so that the beginning is read once;
    another one cannot tell by the time of an answer what was read before. A page that
    nobody else holds is given up when its memory is wanted, the one unused for longest first; what
    is used is used with all before it, so leaves go before what they follow.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.pages: OrderedDict[bytes, int] = OrderedDict()  # the one unused for longest first

    def find(self, ids: np.ndarray, owner: str) -> list[int]:
        """The pages of the longest known beginning, which leaves a token to be read at least."""
        known = []
        for key in keys(ids[:-1], owner):
            if key not in self.pages:
                break
            known.append(key)
        self.used(known)
        return [self.pages[key] for key in known]

    def keep(self, ids: np.ndarray, pages: Sequence[int], owner: str) -> None:
        """Hold the full pages of a text that was read."""
        new = list(keys(ids, owner))
        for key, page in zip(new, pages, strict=False):
            if key not in self.pages:
                self.pool.hold([page])
                self.pages[key] = page
        self.used(new)

    def used(self, known: Sequence[bytes]) -> None:
        """Take note that a text's pages were used, its first one last."""
        for key in reversed(known):
            self.pages.move_to_end(key)

    def give_up(self) -> bool:
        """Hold no more the page unused for longest among those that nobody else holds."""
        for key, page in self.pages.items():
            if self.pool.holders[page] == 1:
                del self.pages[key]
                self.pool.drop([page])
                return True
        return False


def keys(ids: np.ndarray, owner: str) -> Iterator[bytes]:
    """What each full page of an owner's text is known by."""
    digest = sha256(sha256(owner.encode("utf-8", "surrogatepass")).digest())
    for end in range(PAGE, len(ids) + 1, PAGE):
        digest.update(np.ascontiguousarray(ids[end - PAGE : end], dtype=np.int64).tobytes())
        yield digest.copy().digest()
