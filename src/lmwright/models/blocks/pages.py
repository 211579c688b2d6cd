"""Memory of KV caches: pages of tokens, which all documents that begin alike hold together."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from lmwright.core.errors import LmwrightError
from lmwright.kernels.int8 import quantise_rows
from lmwright.models.core.device import KvPrecision

PAGE = 64
"""Tokens of a page: ``LMW_PAGE`` of the kernel library."""


class OutOfPages(LmwrightError):
    """All pages of a pool are held."""


class Pages:
    """Keys and values of one attention, a page after another.

    ``k`` is (pages, kv heads, h, PAGE), so that a query is multiplied with many keys at once, ``v``
    (pages, kv heads, PAGE, h). In int8 the ``scales`` of both are (pages, kv heads, PAGE), fp32,
    and the quants those of :func:`~lmwright.kernels.int8.quantise_rows`.
    """

    def __init__(self, k: Tensor, v: Tensor, precision: KvPrecision) -> None:
        """No pages yet; keys and values are like these (n, kv heads, h)."""
        heads, width = k.shape[1:]
        dtypes = (torch.int8, torch.int8) if precision == "int8" else (k.dtype, v.dtype)
        self.k = k.new_empty(0, heads, width, PAGE, dtype=dtypes[0])
        self.v = v.new_empty(0, heads, PAGE, width, dtype=dtypes[1])
        self.scales: tuple[Tensor, ...] = ()
        if precision == "int8":
            self.scales = tuple(k.new_empty(0, heads, PAGE, dtype=torch.float32) for _ in range(2))

    def grow(self, pages: int) -> None:
        """Have at least so many pages, with the old contents."""
        if len(self.k) < pages:
            room = max(pages, 2 * len(self.k))
            self.k, self.v = grown(self.k, room), grown(self.v, room)
            self.scales = tuple(grown(each, room) for each in self.scales)

    def write(self, pages_n: Tensor, slots_n: Tensor, k_nmh: Tensor, v_nmh: Tensor) -> None:
        """Put keys and values into slots of pages."""
        if self.scales:
            (k_nmh, k_scales), (v_nmh, v_scales) = quantised(k_nmh), quantised(v_nmh)
            for kept, new in zip(self.scales, (k_scales, v_scales), strict=True):
                kept[pages_n, :, slots_n] = new
        self.k[pages_n, :, :, slots_n] = k_nmh
        self.v[pages_n, :, slots_n] = v_nmh

    def read(self, pages: Sequence[Sequence[int]], length: int) -> tuple[Tensor, Tensor]:
        """The first keys and values (b, kv heads, length, h) of documents with so many pages."""
        index_bp = torch.tensor(pages, device=self.k.device)
        k, v = self.k[index_bp].transpose(-1, -2), self.v[index_bp]
        if self.scales:
            k, v = (
                part.float() * scales[index_bp][..., None]
                for part, scales in zip((k, v), self.scales, strict=True)
            )
        return first_tokens(k, length), first_tokens(v, length)

    def copy(self, page: int, other: int) -> None:
        """Copy a page into another."""
        for each in (self.k, self.v, *self.scales):
            each[other] = each[page]


def first_tokens(pages: Tensor, length: int) -> Tensor:
    """Rows (b, kv heads, length, h) of pages (b, pages, kv heads, PAGE, h)."""
    # In the order of rows for one page as for many: products round by the layout.
    return pages.transpose(1, 2).contiguous().flatten(2, 3)[:, :, :length]


def grown(old: Tensor, pages: int) -> Tensor:
    """A buffer of more pages with the contents of one of fewer."""
    made = old.new_empty(pages, *old.shape[1:])
    made[: len(old)] = old
    return made


def quantised(rows_nmh: Tensor) -> tuple[Tensor, Tensor]:
    """Quants (n, kv heads, h) and scales (n, kv heads) of keys or values."""
    quants, scales = quantise_rows(rows_nmh.float().reshape(-1, rows_nmh.shape[-1]))
    return quants.view(rows_nmh.shape), scales.view(rows_nmh.shape[:-1])


class Pool:
    """The pages of a network: one number stands for a page of each of its attentions.

    At most ``most`` pages are held at once, if there is a bound. A page may have several holders;
    what is held by none is free. May be used by any thread.
    """

    def __init__(self, precision: KvPrecision = "fp32", most: int | None = None) -> None:
        self.precision, self.most = precision, most
        self.attentions: dict[str, Pages] = {}
        self.holders: list[int] = []
        self.free: list[int] = []
        self.lock = threading.RLock()  # as a holder may end while another one takes a page

    @property
    def held(self) -> int:
        """How many pages are held."""
        return len(self.holders) - len(self.free)

    def take(self) -> int:
        """A free page, now held once; OutOfPages where there is none."""
        with self.lock:
            if self.most is not None and self.held >= self.most:
                raise OutOfPages(
                    f"all {self.most} pages of the KV cache are held", "a free page", "wait"
                )
            if not self.free:
                self.free.append(len(self.holders))
                self.holders.append(0)
            page = self.free.pop()
            self.holders[page] = 1
            return page

    def hold(self, pages: Sequence[int]) -> None:
        """Have one holder more of each page."""
        with self.lock:
            for page in pages:
                self.holders[page] += 1

    def drop(self, pages: Sequence[int]) -> None:
        """Have one holder less of each page."""
        with self.lock:
            for page in pages:
                self.holders[page] -= 1
                if not self.holders[page]:
                    self.free.append(page)

    def alone(self, page: int, copy: bool) -> int:
        """The page itself if it has one holder; else another in its place, with its contents if
        ``copy``."""
        with self.lock:
            if self.holders[page] == 1:
                return page
            other = self.take()
            if copy:
                for each in self.attentions.values():
                    if page < len(each.k):
                        each.grow(len(self.holders))
                        each.copy(page, other)
            self.drop([page])
            return other

    def of(self, name: str, k: Tensor, v: Tensor) -> Pages:
        """The pages of the attention ``name``, all that are taken; its rows are like these."""
        if (found := self.attentions.get(name)) is None:
            found = self.attentions[name] = Pages(k, v, self.precision)
        found.grow(len(self.holders))
        return found


class Held:
    """The pages that one document holds, in the order of its tokens, until it is collected."""

    def __init__(self, pool: Pool, pages: Sequence[int] = ()) -> None:
        """Hold pages that somebody holds."""
        self.pool, self.pages = pool, list(pages)
        pool.hold(self.pages)

    def __del__(self) -> None:
        """Hold them no more."""
        self.pool.drop(self.pages)

    def make_room(self, past: int, new: int) -> None:
        """Have pages for ``new`` tokens after ``past`` ones that no other document holds."""
        first, need = past // PAGE, pages_for(past + new)
        while len(self.pages) < need:
            self.pages.append(self.pool.take())
        for place in range(first, need):
            page = self.pages[place]
            self.pages[place] = self.pool.alone(page, copy=place * PAGE < past)


def pages_for(tokens: int) -> int:
    """How many pages so many tokens take."""
    return -(-tokens // PAGE)
