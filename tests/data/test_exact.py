"""Repeats against a plain reading of the rule."""

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lmwright.data.exact import CONFLICTING, KEPT, REPEATED, judge_repeats


def plainly(keys, ids, labels, is_test):
    """The rule, one key at a time."""
    found, by_key = [None] * len(keys), defaultdict(list)
    for row, key in enumerate(keys):
        by_key[key].append(row)
    for rows in by_key.values():
        first = [row for row in rows if not is_test[row]] or rows
        agree = len({labels[row] for row in first}) == 1
        for row in rows:
            found[row] = REPEATED
        for row in first if not agree else []:
            found[row] = CONFLICTING
        if agree:
            found[min(first, key=lambda row: ids[row])] = KEPT
    return found


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.booleans()), min_size=1))
def test_equals_the_plain_rule(rows):
    keys, labels, test_sets = (np.array(column) for column in zip(*rows, strict=True))
    ids = np.stack([np.arange(len(rows))[::-1] % 3, np.arange(len(rows))], 1).astype(np.uint64)
    found = judge_repeats(keys.astype(np.uint64), ids, labels, test_sets)
    assert found.tolist() == plainly(keys.tolist(), ids.tolist(), labels, test_sets)


def test_key_of_zero_and_of_all_ones():
    keys = np.array([0, 2**64 - 1, 0], np.uint64)
    ids = np.arange(6, dtype=np.uint64).reshape(3, 2)
    found = judge_repeats(keys, ids, np.zeros(3, int), np.zeros(3, bool))
    assert found.tolist() == [KEPT, KEPT, REPEATED]
