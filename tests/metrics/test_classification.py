import numpy as np
import pytest
from sklearn import metrics as sk

from lmwright.metrics import classification as c


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, 500)
    logits = rng.normal(size=(500, 4)) + 1.2 * np.eye(4)[truth]
    p = np.exp(np.round(logits, 1))  # rounded, so that scores tie
    return truth, p / p.sum(1, keepdims=True)


def test_every_score_equals_scikit_learn(case):
    truth, p = case
    predicted = p.argmax(1)
    table = c.confusion(truth, predicted, 4)
    np.testing.assert_array_equal(table, sk.confusion_matrix(truth, predicted))
    assert c.accuracy(table) == sk.accuracy_score(truth, predicted)
    for ours, theirs in (
        (c.precision, sk.precision_score),
        (c.recall, sk.recall_score),
        (c.f1, sk.f1_score),
    ):
        np.testing.assert_allclose(ours(table), theirs(truth, predicted, average=None))
        np.testing.assert_allclose(c.macro(ours(table)), theirs(truth, predicted, average="macro"))
    np.testing.assert_allclose(c.micro_f1(table), sk.f1_score(truth, predicted, average="micro"))
    np.testing.assert_allclose(c.log_losses(truth, p).mean(), sk.log_loss(truth, p))
    np.testing.assert_allclose(
        c.brier_scores(truth, p).mean(), sk.brier_score_loss(truth, p, scale_by_half=False)
    )
    for k in range(4):
        np.testing.assert_allclose(
            c.roc_auc(truth == k, p[:, k]), sk.roc_auc_score(truth == k, p[:, k])
        )
    np.testing.assert_allclose(
        c.macro(c.roc_aucs(truth, p)), sk.roc_auc_score(truth, p, multi_class="ovr")
    )


def test_weights_equal_repeating_rows(case):
    truth, p = case
    weights = np.random.default_rng(5).integers(0, 4, (3, len(truth)))
    weighted = c.confusion(truth, p.argmax(1), 4, weights)
    areas = c.roc_aucs(truth, p, weights)
    for draw in range(3):
        rows = np.repeat(np.arange(len(truth)), weights[draw])
        np.testing.assert_allclose(weighted[draw], c.confusion(truth[rows], p[rows].argmax(1), 4))
        np.testing.assert_allclose(areas[draw], c.roc_aucs(truth[rows], p[rows]))
        np.testing.assert_allclose(
            c.mean(c.log_losses(truth, p), weights)[draw], c.log_losses(truth[rows], p[rows]).mean()
        )


def test_worked_values():
    truth, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0])
    table = c.confusion(truth, predicted, 2)
    assert table.tolist() == [[2, 1], [1, 1]]
    np.testing.assert_allclose(c.precision(table), [2 / 3, 1 / 2])
    np.testing.assert_allclose(c.recall(table), [2 / 3, 1 / 2])
    np.testing.assert_allclose(c.f1(table), [2 / 3, 1 / 2])
    p = np.array([[0.5, 0.5], [0.25, 0.75]])
    np.testing.assert_allclose(c.log_losses(np.array([0, 1]), p), [np.log(2), np.log(4 / 3)])
    np.testing.assert_allclose(c.brier_scores(np.array([0, 1]), p), [0.5, 0.125])
    assert c.roc_auc(np.array([True, True, False]), np.array([0.9, 0.4, 0.4])) == 0.75


def test_what_has_no_value_is_not_a_number():
    table = c.confusion(np.array([0, 0]), np.array([0, 1]), 3)
    assert np.isnan(c.recall(table)[1:]).all()
    assert c.macro(c.recall(table)) == 0.5
    assert np.isnan(c.roc_auc(np.array([True, True]), np.array([0.1, 0.2])))
    assert np.isfinite(c.log_losses(np.array([0]), np.array([[0.0, 1.0]]))).all()
