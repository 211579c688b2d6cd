"""The baseline of language models: an interpolated Kneser-Ney n-gram over bytes.

Kneser and Ney 1995; the interpolated form and the discount n1 / (n1 + 2·n2) of each order are those
of Chen and Goodman 1998 (section 4.1.6). An n-gram of the highest order, or one that begins with
the start symbol, has its count; a shorter one has the number of different symbols before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lmwright.core.columns import Row
from lmwright.core.durable import sync_file, write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Task, task_to_json

START, END = 256, 257
SYMBOLS = 258
NO_SINGLES = 0.5
"""The discount of an order none of whose n-grams occurs once; without any, what is new would be
impossible."""
LARGEST_ORDER = 7
"""Symbols of an n-gram that fit into 64 bits."""


@dataclass(frozen=True)
class Order:
    """The n-grams of one length: sorted codes, counts, and by context their total and number.

    ``contexts`` are sorted codes of all but the last symbol, ``totals`` the sums of the counts,
    ``kinds`` how many different symbols follow. ``discount`` is taken off every count.
    """

    codes: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray
    discount: float


@dataclass(frozen=True)
class Symbols:
    """A text as symbols between start and end; what is scored begins at ``first``."""

    symbols: np.ndarray
    first: int

    @property
    def ids(self) -> np.ndarray:
        """The bytes."""
        return self.symbols[1:-1]

    @property
    def cost(self) -> int:
        """How many symbols it is."""
        return len(self.symbols)


class Ngram:
    """Probabilities of the next byte from the bytes before it."""

    kind = "ngram"
    order = 6

    def __init__(self, task: Task, orders: Sequence[Order]) -> None:
        self.task, self.orders = task, tuple(orders)

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Ngram:
        """Count the n-grams of the training rows' documents."""
        documents = [symbols_of(task.text(row)) for row in rows.to_pylist()]
        return cls(task, count_orders(documents, cls.order))

    def facts(self) -> dict[str, Any]:
        """The order, and how many n-grams of each length there are."""
        return {"order": len(self.orders), "ngrams": [len(each.codes) for each in self.orders]}

    def prepare(self, rows: Sequence[Row]) -> list[Symbols]:
        """Each row's document, and where its part to be scored begins."""
        found = []
        for row in rows:
            symbols = symbols_of(self.task.text(row))
            rest = len(str(row.get("continuation", "")).encode())
            found.append(Symbols(symbols, len(symbols) - 1 - rest if rest else 1))
        return found

    def answers(self, batch: Sequence[Symbols]) -> Answers:
        """The negative log-likelihood of each row; it writes nothing."""
        nats = [-self.log_probabilities(each.symbols)[each.first - 1 :].sum() for each in batch]
        scored = [len(each.symbols) - each.first for each in batch]
        return Answers(
            {
                "nats": np.array(nats),
                "tokens": np.array(scored, dtype=np.float64),
                "bytes": np.array([max(1, count - 1) for count in scored], dtype=np.float64),
                "completion": [None] * len(batch),
            }
        )

    def log_probabilities(self, symbols: np.ndarray) -> np.ndarray:
        """Natural logarithms of the probability of each symbol after the first, given all before.

        ``symbols`` (n,) begin with the start symbol; float64 (n - 1,).
        """
        places = np.arange(1, len(symbols))
        p = np.full(len(places), 1.0 / (SYMBOLS - 1))
        for length, order in enumerate(self.orders, 1):
            known = places >= length - 1
            at = places[known]
            context = codes_at(symbols, at - (length - 1), length - 1)
            code = context * SYMBOLS + symbols[at].astype(np.uint64)
            total = looked_up(order.contexts, order.totals, context)
            kinds = looked_up(order.contexts, order.kinds, context)
            count = looked_up(order.codes, order.counts, code)
            met = total > 0
            own = np.maximum(count[met] - order.discount, 0.0)
            lower = p[known]
            lower[met] = (own + order.discount * kinds[met] * lower[met]) / total[met]
            p[known] = lower
        return np.log(p)

    def save(self, folder: Path) -> None:
        """Write ``model.json`` and the counts."""
        folder.mkdir(parents=True, exist_ok=True)
        described = {"kind": self.kind, "task": task_to_json(self.task)}
        discounts = [order.discount for order in self.orders]
        write_json(folder / DESCRIPTION, {**described, "discounts": discounts})
        arrays = {
            f"{length}.{name}": getattr(order, name)
            for length, order in enumerate(self.orders, 1)
            for name in ("codes", "counts", "contexts", "totals", "kinds")
        }
        path = folder / "model.safetensors"
        save_file({name: np.ascontiguousarray(a) for name, a in sorted(arrays.items())}, path)
        sync_file(path)

    @classmethod
    def load(cls, folder: Path, task: Task) -> Ngram:
        """The baseline that :meth:`save` wrote; Corrupt if it is not whole."""
        try:
            discounts = read_json_object(folder / DESCRIPTION)["discounts"]
            arrays = load_file(folder / "model.safetensors")
            names = ("codes", "counts", "contexts", "totals", "kinds")
            orders = [
                Order(
                    **{name: arrays[f"{length}.{name}"] for name in names},
                    discount=float(discount),
                )
                for length, discount in enumerate(discounts, 1)
            ]
            return cls(task, orders)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as fault:
            raise Corrupt(f"the model in {folder.name} cannot be read ({fault})") from fault


class Unigram(Ngram):
    """The same without any context: how often each byte occurs."""

    order = 1


def symbols_of(text: str) -> np.ndarray:
    """The bytes of a text between start and end, uint64."""
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    return np.concatenate([[START], data, [END]]).astype(np.uint64)


def count_orders(documents: Sequence[np.ndarray], order: int) -> list[Order]:
    """The n-grams of all lengths up to ``order``, with counts as Kneser and Ney adjust them."""
    if not 1 <= order <= LARGEST_ORDER:
        raise BadInput(f"n-grams of order {order}", f"an order from 1 to {LARGEST_ORDER}")
    found: list[Order] = []
    longer: np.ndarray | None = None
    for length in range(order, 0, -1):
        parts = [
            codes_at(symbols, np.arange(len(symbols) - length + 1), length)
            for symbols in documents
            if len(symbols) >= length
        ]
        every = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
        codes, counts = np.unique(every, return_counts=True)
        power = SYMBOLS ** (length - 1)
        if longer is not None:
            # A longer n-gram without its first symbol: one more symbol that stands before it.
            tails, before = np.unique(longer % np.uint64(SYMBOLS**length), return_counts=True)
            counts = np.where(
                codes // np.uint64(power) == START, counts, looked_up(tails, before, codes)
            )
        kept = counts > 0
        if length == 1:
            kept &= codes != START  # it begins texts and follows nothing
        longer = codes
        found.append(made(codes[kept], counts[kept].astype(np.float64)))
    return found[::-1]


def made(codes: np.ndarray, counts: np.ndarray) -> Order:
    """An order with its discount and the sums over each context."""
    ones, twos = int((counts == 1).sum()), int((counts == 2).sum())
    discount = ones / (ones + 2 * twos) if ones else NO_SINGLES
    contexts, place = np.unique(codes // np.uint64(SYMBOLS), return_inverse=True)
    totals = np.bincount(place, weights=counts)
    kinds = np.bincount(place).astype(np.float64)
    return Order(codes, counts, contexts, totals, kinds, discount)


def codes_at(symbols: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """The codes of the n-grams of ``length`` that begin at ``starts``: uint64."""
    found = np.zeros(len(starts), np.uint64)
    for step in range(length):
        found = found * np.uint64(SYMBOLS) + symbols[starts + step].astype(np.uint64)
    return found


def looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values at ``wanted`` of sorted ``keys``; 0 where there is no such key."""
    if not len(keys):
        return np.zeros(len(wanted))
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0).astype(np.float64)
