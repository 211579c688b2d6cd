"""Which rows a limit keeps: the same for everything that is trained to be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lmwright.core.task import RankingTask, Task


def subset(task: Task, rows: pa.Table, limit: int, seed: int) -> pa.Table:
    """At most ``limit`` of ``rows`` (0: all), the same whatever their order, sorted by id.

    Each stratum of the task keeps its share; of a task that ranks whole rankings are kept, one
    at least.
    """
    if isinstance(task, RankingTask):
        return whole_groups(rows, limit, seed, rows.column(task.ranked_by).to_pylist())
    return same_rows(rows, limit, seed, [task.stratum(row) for row in rows.to_pylist()])


def whole_groups(rows: pa.Table, limit: int, seed: int, groups: Sequence[str]) -> pa.Table:
    """The rows of the first groups by the hash of name and seed, at most ``limit`` rows.

    The first group is kept, however large; 0 keeps all rows.
    """
    names, places = np.unique(np.array(groups, dtype=str), return_inverse=True)
    order = np.argsort([_ticket(name, seed) for name in names], kind="stable")
    sizes = np.bincount(places)[order].cumsum()
    count = max(1, int(np.searchsorted(sizes, limit, "right"))) if limit else len(names)
    kept = np.flatnonzero(np.isin(places, order[:count]))
    return rows.take(pa.array(kept, type=pa.int64())).sort_by("id")


def same_rows(rows: pa.Table, limit: int | None, seed: int, strata: Sequence[str]) -> pa.Table:
    """At most ``limit`` of ``rows``, each of their ``strata`` keeping its share, sorted by id.

    A row's place in the draw depends on its ``id`` and ``seed`` only, so the answer is the same
    set whatever the order of the rows. For one stratum, the draw under a smaller limit lies inside
    the draw under a larger one. Shares are rounded by the largest remainder, and a stratum that
    has rows keeps at least one while ``limit`` allows it. ``limit`` None or 0 keeps all rows.

    ``rows`` needs the column ``id``; all its columns are kept.
    """
    ids = rows.column("id").to_pylist()
    order = np.argsort(np.array(ids, dtype=str), kind="stable")
    if limit and limit < len(ids):
        order = order[np.isin(order, _drawn(ids, np.array(strata, dtype=str), limit, seed))]
    return rows.take(pa.array(order, type=pa.int64()))


def _drawn(ids: list[str], strata: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Positions of the drawn rows: the first of every stratum by the hash of id and seed."""
    tickets = np.array([_ticket(row, seed) for row in ids], dtype=np.uint64)
    names, counts = np.unique(strata, return_counts=True)
    kept = []
    for name, quota in zip(names, quotas(counts, limit), strict=True):
        places = np.flatnonzero(strata == name)
        kept.append(places[np.lexsort((np.array(ids)[places], tickets[places]))[:quota]])
    return np.concatenate(kept)


def quotas(counts: np.ndarray, limit: int) -> np.ndarray:
    """``limit`` places shared out in proportion to ``counts`` (k,), by the largest remainder.

    Every stratum gets at least one place when there are enough; no quota exceeds its count.
    """
    exact = counts * (limit / counts.sum())
    whole = np.floor(exact).astype(np.int64)
    if limit >= len(counts):
        whole = np.maximum(whole, 1)
    while whole.sum() > limit:
        over = np.where(whole > 1, whole - exact, -np.inf)
        whole[np.argmax(over)] -= 1
    while whole.sum() < limit:
        room = np.where(whole < counts, exact - whole, -np.inf)
        whole[np.argmax(room)] += 1
    return whole


def _ticket(row: str, seed: int) -> int:
    words = f"{seed}\x1f{row}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")
