"""Edits of corrections: worked values, and those of ERRANT's published formula."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from lmwright.assets import asset_file
from lmwright.metrics.edits import counts, edits, f_half, precision, recall, tokens

TEXT = "He go to school in the Monday ."
RIGHT = "He goes to school on Monday ."


def test_an_edit_is_a_run_of_tokens_and_what_stands_instead() -> None:
    assert edits(TEXT, RIGHT) == {(1, 2, ("goes",)), (4, 6, ("on",))}
    assert edits("a b", "a x b") == {(1, 1, ("x",))}
    assert edits("a x b", "a b") == {(1, 2, ())}
    assert edits(TEXT, TEXT) == set()
    assert tokens("The nation's laws, it’s said.") == [
        *("The", "nation's", "laws", ",", "it’s", "said", "."),
    ]


@pytest.mark.parametrize(
    ("made", "wanted", "p", "r", "f"),
    [
        (RIGHT, RIGHT, 1.0, 1.0, 1.0),
        (TEXT, RIGHT, 1.0, 0.0, 0.0),  # nothing made: none of it is wrong
        ("He goes to school in the Monday .", RIGHT, 1.0, 0.5, 5 / 6),
        ("He goes to school in Monday .", RIGHT, 0.5, 0.5, 0.5),
        ("He went to school in the Monday .", RIGHT, 0.0, 0.0, 0.0),
        (TEXT, TEXT, 1.0, 1.0, 1.0),  # nothing to be done, nothing done
        (RIGHT, TEXT, 0.0, 1.0, 0.0),
    ],
)
def test_worked_values(made: str, wanted: str, p: float, r: float, f: float) -> None:
    sums = counts([TEXT], [made], [wanted])
    found = precision(sums), recall(sums), f_half(sums)
    assert [each[0] for each in found] == pytest.approx([p, r, f])


def test_many_rows_are_judged_by_the_sums_of_their_edits() -> None:
    """tp 3, fp 1, fn 2, as ERRANT's own formula has it: 1.25 p r / (0.25 p + r)."""
    sums = np.array([[1.0, 2, 2], [2, 2, 3]]).sum(0, keepdims=True)
    p, r = 3 / 4, 3 / 5
    assert f_half(sums)[0] == pytest.approx(1.25 * p * r / (0.25 * p + r))


def test_edits_of_real_verses_rebuild_the_other_text() -> None:
    table = pq.read_table(asset_file("asset:verses/verses.parquet")).slice(0, 200)
    for one, other in zip(
        *(table.column(name).to_pylist() for name in ("kjv", "web")), strict=True
    ):
        made, rest = [], 0
        for start, end, instead in sorted(edits(one, other)):
            made += [*tokens(one)[rest:start], *instead]
            rest = end
        assert made + tokens(one)[rest:] == tokens(other)
