"""Flips planted in real labels are found far better than by chance."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lmwright.core.random import stream
from lmwright.data.label_errors import find_label_errors
from lmwright.text.repair import repair


def planted(rows, count, share, seed):
    """Texts, labels of which a share is flipped (planted), which are flipped, folds."""
    rng = stream(seed, "planted flips")
    chosen = rng.permutation(len(rows))[:count]
    texts = [repair(rows[row]["text"]) for row in chosen]
    labels = np.array([int(rows[row]["label"]) for row in chosen])
    flipped = np.zeros(count, bool)
    flipped[rng.permutation(count)[: int(share * count)]] = True
    return texts, np.where(flipped, 1 - labels, labels), flipped, rng.integers(0, 4, count)


def test_planted_flips_in_reviews_are_found(imdb):
    texts, labels, flipped, folds = planted(imdb, 3000, 0.05, 0)
    found = find_label_errors(texts, labels, folds, 2)
    precision = flipped[found.rows].mean()
    recall = flipped[found.rows].sum() / flipped.sum()
    assert recall > 0.45 and precision > 0.35
    first = found.rows[: flipped.sum()]
    assert flipped[first].mean() > 0.4
    assert roc_auc_score(flipped, -found.margin) > 0.88


def test_planted_flips_in_sentences_are_found_better_than_by_chance(sentences):
    texts, labels, flipped, folds = planted(sentences, 4000, 0.05, 1)
    found = find_label_errors(texts, labels, folds, 2)
    assert roc_auc_score(flipped, -found.margin) > 0.75
    assert flipped[found.rows].mean() > 2.5 * 0.05


def test_same_bits_and_worst_first(sentences):
    texts, labels, _, folds = planted(sentences, 400, 0.1, 2)
    one, two = (find_label_errors(texts, labels, folds, 2) for _ in range(2))
    assert one.probability.tobytes() == two.probability.tobytes()
    assert (np.diff(one.margin[one.rows]) >= 0).all() and (one.margin[one.rows] < 0).all()
    assert np.allclose(one.probability.sum(1), 1)


def test_class_that_one_fold_holds_alone(sentences):
    texts = [row["text"] for row in sentences[:60]]
    labels = np.array([0, 1] * 28 + [2] * 4)
    found = find_label_errors(texts, labels, np.array([0, 1] * 28 + [3] * 4), 3)
    assert (found.probability[labels == 2, 2] == 0).all()


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_no_suspects(sentences, label):
    texts = [row["text"] for row in sentences[:40]]
    found = find_label_errors(texts, np.full(40, label), np.arange(40) % 4, 2)
    assert len(found.rows) == 0
