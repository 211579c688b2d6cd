"""Pages of a KV cache: held, shared, written by one document alone, and free again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lmwright.models.blocks.context import Cache
from lmwright.models.blocks.pages import PAGE, Held, OutOfPages, Pool, pages_for
from lmwright.models.core.ragged import pack

HEADS, WIDTH = 2, 3


def added(cache: Cache, lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random keys and values of so many new tokens of each document, put into the cache."""
    generator = torch.Generator().manual_seed(seed)
    batch = pack(
        [torch.zeros(n, dtype=torch.int64).numpy() for n in lengths], order=range(len(lengths))
    )
    k, v = torch.randn(2, sum(lengths), HEADS, WIDTH, generator=generator)
    cache.extend("layer", k, v, batch)
    cache.advance(batch)
    return k, v


def kept(cache: Cache, place: int) -> tuple[torch.Tensor, ...]:
    """Keys and values (tokens, heads, h) of a document."""
    found = cache.read("layer", slice(place, place + 1), cache.lengths[place])
    return tuple(part[0].transpose(0, 1) for part in found)


@pytest.mark.parametrize("length", [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 5])
def test_what_is_written_is_read(length):
    cache = Cache(2)
    k, v = added(cache, [length, 7], 0)
    more_k, more_v = added(cache, [2, 1], 1)
    torch.testing.assert_close(kept(cache, 0)[0], torch.cat([k[:length], more_k[:2]]))
    torch.testing.assert_close(kept(cache, 1)[1], torch.cat([v[length:], more_v[2:]]))
    assert cache.pool.held == pages_for(length + 2) + pages_for(8)


@pytest.mark.parametrize("length", [PAGE, PAGE + 9])
def test_a_shared_page_is_copied_before_it_is_written(length):
    cache = Cache(1)
    k, _ = added(cache, [length], 0)
    cache.choose([0, 0, 0])
    assert cache.pool.held == pages_for(length), "three documents, the same pages"
    new, _ = added(cache, [1, 1, 2], 1)
    whole = pages_for(length) if length % PAGE == 0 else pages_for(length) - 1
    assert cache.pool.held == whole + 3, "full pages are shared for good"
    for place, own in enumerate(([0], [1], [2, 3])):
        torch.testing.assert_close(kept(cache, place)[0], torch.cat([k, new[own]]))


def test_pages_are_free_when_their_documents_are_gone():
    pool = Pool(most=3)
    cache = Cache(1, pool)
    added(cache, [PAGE + 1], 0)
    with pytest.raises(OutOfPages, match="all 3 pages"):
        cache.make_room([2 * PAGE])
    assert cache.lengths == [PAGE + 1]
    other = Cache(1, pool)
    cache.leave([0])
    assert pool.held == 0
    added(other, [3 * PAGE], 1)
    del other
    assert pool.held == 0 and sorted(pool.free) == [0, 1, 2]


def test_what_failed_is_written_over():
    cache = Cache(1)
    k, _ = added(cache, [5], 0)
    before = cache.snapshot()
    added(cache, [PAGE], 1)
    cache.restore(before)
    more, _ = added(cache, [2], 2)
    torch.testing.assert_close(kept(cache, 0)[0], torch.cat([k, more]))


def test_any_thread_may_take_and_drop():
    pool = Pool()

    def work(number: int) -> None:
        for _ in range(200):
            one = Held(pool)
            one.make_room(0, number * PAGE)
            assert len({*one.pages}) == number
            two = Held(pool, one.pages)
            two.make_room(number * PAGE - 1, 1)
            assert number == 1 or one.pages[0] == two.pages[0]

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, [1, 2, 3, 4]))
    assert pool.held == 0 and len(pool.holders) <= 2 * 10 + 4
