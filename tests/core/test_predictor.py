"""Answers to many rows: in batches of like cost, told in the order of the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from lmwright.core.errors import BadInput
from lmwright.core.predictor import MOST_TOKENS, answer_all, batches
from lmwright.core.task import Answers


def test_batches_hold_like_lengths_and_every_row_once():
    costs = np.array([5, 900, 3, 7, 8000, 20000, 1])
    found = batches(costs, 1000)
    assert sorted(np.concatenate(found).tolist()) == list(range(7))
    assert all(len(places) == 1 or costs[places].sum() <= 1000 for places in found)
    assert batches(np.array([], dtype=int)) == []


@dataclass(frozen=True)
class Counted:
    """A text that costs its length."""

    text: str

    @property
    def cost(self) -> int:
        return len(self.text)


class Echo:
    """Answers with what it was given, and remembers its batches."""

    def __init__(self) -> None:
        self.costs: list[int] = []

    def prepare(self, rows):
        return [Counted(row["text"]) for row in rows]

    def answers(self, batch):
        self.costs.append(sum(item.cost for item in batch))
        sizes = np.array([float(item.cost) for item in batch])
        return Answers({"text": [item.text for item in batch], "size": sizes}, sizes[:, None])


def test_answers_come_in_the_order_of_the_rows_and_progress_ends_at_the_whole():
    lengths = np.random.default_rng(0).integers(1, 3000, 40)
    rows = [{"text": f"{place:04d}" + "x" * length} for place, length in enumerate(lengths)]
    model, told = Echo(), []
    found = answer_all(model, rows, lambda done, total: told.append((done, total)))
    assert found["text"] == [row["text"] for row in rows]
    np.testing.assert_array_equal(found["size"], lengths + 4)
    np.testing.assert_array_equal(found.vectors, (lengths + 4)[:, None])
    assert len(model.costs) > 1 and max(model.costs) <= MOST_TOKENS
    assert told == sorted(told) and told[-1] == (lengths.sum() + 160,) * 2
    with pytest.raises(BadInput, match="no rows"):
        answer_all(model, [])
