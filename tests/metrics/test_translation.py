"""BLEU, chrF and TER as formulas of sums: equal to sacrebleu's own scores of a corpus."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from sacrebleu import metrics

from lmwright.assets import asset_file
from lmwright.metrics.translation import bleu, chrf, kept, kept_counts, literals, statistics, ter

DEBIAN = "asset:debian-translations/debian-translations.parquet"
FORMULAS = {"BLEU": bleu, "CHRF": chrf, "TER": ter}


@pytest.fixture(scope="module")
def pairs() -> tuple[list[str], list[str]]:
    """Real translations with words left out, doubled or moved, against what they were."""
    draw = np.random.default_rng(2)
    references = pq.read_table(asset_file(DEBIAN)).column("other").to_pylist()[::200]
    found = []
    for text in references:
        words = text.split()
        kept = [word for word in words if draw.random() > 0.3] or words
        at = int(draw.integers(0, len(kept)))
        found.append(" ".join([*kept[at:], *kept[:at]]))
    return found, references


@pytest.mark.parametrize("name", FORMULAS)
def test_of_a_corpus(name: str, pairs: tuple[list[str], list[str]]) -> None:
    draw, (ours, theirs) = np.random.default_rng(1), pairs
    table = statistics(name, ours, theirs)
    weights = draw.multinomial(len(ours), [1 / len(ours)] * len(ours), 8)
    found = FORMULAS[name](weights @ table)
    for row, value in zip(weights, found, strict=True):
        places = np.repeat(np.arange(len(ours)), row)
        wanted = getattr(metrics, name)().corpus_score(
            [ours[at] for at in places], [[theirs[at] for at in places]]
        )
        assert value == pytest.approx(wanted.score, rel=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("the cat", "the cat sat on the mat"),
        ("a b c d e f", "a b x d e f"),
        ("nothing alike", "quite other words here"),
        ("", "some words"),
        ("a b c d", "a b c d"),
        ("one two three four five", "one two"),
    ],
)
def test_of_odd_rows(name: str, ours: str, theirs: str) -> None:
    wanted = getattr(metrics, name)().corpus_score([ours], [[theirs]]).score
    assert FORMULAS[name](statistics(name, [ours], [theirs]))[0] == pytest.approx(wanted, abs=1e-9)


def test_what_a_translation_leaves_as_it_is() -> None:
    text = "Run apt-get -f --yes install %s (see https://debian.org/x), 1,000 times; well-known -."
    found = literals(text)
    assert sorted(found) == ["%s", "--yes", "-f", "1000", "https://debian.org/x"]
    assert literals("{name} has $HOME and %(count)d, 100% free") == literals(
        "100 % gratuit: %(count)d, $HOME, {name}"
    )


def test_the_share_that_is_kept() -> None:
    texts = ["Version 2.5 of 1,000 files", "Nothing to keep", "twice 7 and 7"]
    written = ["Fichiers 1\u202f000, version 2,5", "Rien", "7 fois"]
    sums = kept_counts(texts, written)
    assert sums.tolist() == [[2, 2], [0, 0], [1, 2]]
    assert kept(np.ones((1, 3)) @ sums)[0] == 0.75
    assert kept(sums[1:2])[0] == 1.0


def test_people_keep_nearly_all_numbers(pairs: tuple[list[str], list[str]]) -> None:
    table = pq.read_table(asset_file(DEBIAN))
    columns = [table.column(name).to_pylist() for name in ("english", "other")]
    sums = kept_counts(*columns)
    assert (sums[:, 1] > 0).sum() > 1000
    assert 0.93 < kept(sums.sum(0, keepdims=True))[0] < 1
    shuffled = kept_counts(columns[0], columns[1][1:] + columns[1][:1])
    assert kept(shuffled.sum(0, keepdims=True))[0] < 0.15
