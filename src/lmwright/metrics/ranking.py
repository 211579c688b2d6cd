"""Scores of rankings: reciprocal rank, recall and discounted gain from ranks and relevances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def reciprocal(ranks: np.ndarray) -> np.ndarray:
    """1 / rank for ranks (n,) from 1 (Voorhees 1999)."""
    return 1.0 / np.maximum(ranks, 1)


def single_ndcg(ranks: np.ndarray, cut: int = 10) -> np.ndarray:
    """nDCG at ``cut`` (n,) of rankings with one relevant item each, which has ``ranks`` (n,)."""
    return np.where(ranks <= cut, 1.0 / np.log2(1.0 + np.maximum(ranks, 1)), 0.0)


def dcg(relevances: Sequence[float] | np.ndarray, cut: int = 10) -> float:
    """The discounted cumulative gain of the first ``cut`` relevances, in the order of the ranking.

    Gains are 2^relevance - 1, as Burges et al. 2005 have them; of binary relevances they are the
    relevances themselves, as Järvelin and Kekäläinen 2002 have them.
    """
    first = np.asarray(relevances, dtype=np.float64)[:cut]
    return float(((2.0**first - 1) / np.log2(np.arange(len(first)) + 2.0)).sum())


def ndcg(scores: np.ndarray, relevances: np.ndarray, cut: int = 10) -> float:
    """nDCG at ``cut`` of the items (n,) ranked by scores, over that of the best ranking.

    Items of equal score share the mean of their gains (McSherry and Najork 2008), so that no order
    of the rows is rewarded. NaN where nothing is relevant.
    """
    relevances = np.asarray(relevances, dtype=np.float64)
    best = dcg(np.sort(relevances)[::-1], cut)
    if not best:
        return float("nan")
    _, group = np.unique(-np.asarray(scores), return_inverse=True)
    gains = 2.0**relevances - 1
    means = np.bincount(group, gains) / np.bincount(group)
    order = np.argsort(group, kind="stable")[:cut]
    return float((means[group[order]] / np.log2(np.arange(len(order)) + 2.0)).sum() / best)


def rank_among(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Ranks (n,) of items of likeness ``own`` (n,) among ``others`` (n, m); -inf is no item.

    One as good stands before it: a model that tells nothing apart is last, not first.
    """
    found: np.ndarray = 1 + (others >= own[:, None]).sum(-1)
    return found
