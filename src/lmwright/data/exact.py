"""Rows that say the same: one is kept, and none where their labels contradict each other."""

from __future__ import annotations

import numpy as np

KEPT, REPEATED, CONFLICTING = 0, 1, 2


def judge_repeats(
    keys: np.ndarray, ids: np.ndarray, labels: np.ndarray, is_test: np.ndarray
) -> np.ndarray:
    """What becomes of each row: KEPT, REPEATED or CONFLICTING, int8 (rows,).

    ``keys`` uint64 (rows,) hashes of the normalised text; ``ids`` uint64 (rows, 2); ``labels``
    and ``is_test`` (rows,). Of rows with one key, training rows count first: when their labels
    agree the one with the smallest id is kept and all others are repeats, those of test sets too
    (a model must not be tested on what it learnt); when they differ, all of them conflict.
    """
    order = np.lexsort((ids[:, 1], ids[:, 0], is_test, keys))
    firsts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]) != 0)
    run = np.repeat(np.arange(len(firsts)), np.diff(np.append(firsts, len(order))))
    leader = order[firsts][run]
    counts = is_test[order] == is_test[leader]
    contradicts = counts & (labels[order] != labels[leader])
    conflict = np.zeros(len(firsts), bool)
    conflict[run[contradicts]] = True
    found = np.full(len(keys), REPEATED, np.int8)
    found[order[firsts]] = KEPT
    found[order[conflict[run] & counts]] = CONFLICTING
    return found
