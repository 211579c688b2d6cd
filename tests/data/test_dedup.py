"""Near duplicates against brute force on real sentences, and in bounded memory."""

import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lmwright.core.random import stream
from lmwright.data.dedup import NearDuplicates, plan_bands, shingle_sets, word_hashes

THRESHOLD = 0.7


def pairs_of_words(text):
    """The shingles of a text, by the letter of their definition."""
    words = re.findall(r"[a-z0-9\u0080-\uffff]+", text.lower())
    return set(itertools.pairwise(words)) or {(word,) for word in words}


def similarity(one, two):
    """Jaccard similarity of two sets."""
    return len(one & two) / len(one | two) if one | two else 0.0


def edited(sentences, count, seed):
    """Real sentences and, planted among them, copies with some words dropped or doubled."""
    rng = stream(seed, "planted edits")
    texts = [row["text"] for row in sentences[:count]]
    for text in texts[: count // 3]:
        words = text.split()
        for place in rng.permutation(len(words))[: int(rng.integers(1, 5))]:
            words[place] = words[place] + " indeed" if rng.random() < 0.5 else ""
        texts.append(" ".join(words))
    return texts


def group(folder, texts, threshold=THRESHOLD, order=None, batch=500):
    """Groups of the texts."""
    near = NearDuplicates(folder, threshold)
    for start in range(0, len(texts), batch):
        near.add(texts[start : start + batch])
    return near.groups(order)


def test_recall_and_precision_against_brute_force(tmp_path, sentences):
    texts = edited(sentences, 1200, 1)
    sets = [pairs_of_words(text) for text in texts]
    true = [
        (one, two)
        for one, two in itertools.combinations(range(len(texts)), 2)
        if sets[one] & sets[two] and similarity(sets[one], sets[two]) >= THRESHOLD
    ]
    assert len(true) > 150
    found = group(tmp_path, texts)
    met = sum(found[one] == found[two] for one, two in true)
    assert met >= 0.99 * len(true)
    linked = {row for pair in true for row in pair}
    grouped = np.flatnonzero(np.bincount(found, minlength=len(texts))[found] > 1)
    assert set(grouped.tolist()) <= linked


def test_pairs_at_the_threshold_are_found_as_often_as_planned():
    for threshold in (0.5, 0.7, 0.9):
        missed = (1 - threshold**4) ** plan_bands(threshold)
        assert missed <= 0.002 < (1 - threshold**4) ** (plan_bands(threshold) - 1)


def test_shingles_are_those_of_the_definition(sentences):
    texts = [row["text"] for row in sentences[:500]] + ["", "one", "...", "one one one", "A b a B"]
    texts += ["naïve café naïve café", "tab\tand\nline"]
    _, sizes = shingle_sets(texts)
    assert sizes.tolist() == [len(pairs_of_words(text)) for text in texts]


def test_a_word_has_one_hash_wherever_it_stands(sentences):
    texts = [row["text"] for row in sentences[:300]]
    hashes, owners = word_hashes(texts)
    words = [w for text in texts for w in re.findall(r"[a-z0-9\u0080-\uffff]+", text.lower())]
    assert len(hashes) == len(words) == len(owners)
    meaning = {}
    for word, value in zip(words, hashes.tolist(), strict=True):
        assert meaning.setdefault(word, value) == value
    assert len(set(meaning.values())) == len(meaning)


def test_characters_of_scripts_without_spaces_are_words(tmp_path):
    texts = [
        "私は昨日とても面白い映画を友達と見ました",
        "私は昨日とても面白い映画を家族と見ました",
        "今日は雨が降っています",
    ]
    assert group(tmp_path, texts, 0.6).tolist() == [0, 0, 2]


def test_transitive_empty_and_batches(tmp_path, sentences):
    base = sentences[0]["text"]
    texts = ["", base, "!!!", base.upper(), "", base + "."]
    assert group(tmp_path / "a", texts).tolist() == [0, 1, 2, 1, 4, 1]
    assert group(tmp_path / "b", texts, batch=1).tolist() == [0, 1, 2, 1, 4, 1]
    assert group(tmp_path / "c", []).tolist() == []
    assert not list((tmp_path / "a").iterdir())


def test_order_of_arrival_does_not_matter(tmp_path, sentences):
    texts = edited(sentences, 900, 2) + [sentences[0]["text"]] * 60
    turn = stream(0, "turn").permutation(len(texts))
    straight = group(tmp_path / "a", texts, order=np.arange(len(texts)))
    turned = group(tmp_path / "b", [texts[row] for row in turn], order=turn)
    as_sets = lambda groups, names: {  # noqa: E731
        frozenset(names[groups == one].tolist()) for one in np.unique(groups)
    }
    assert as_sets(straight, np.arange(len(texts))) == as_sets(turned, turn)


def test_bucket_of_thousands_stays_linear(tmp_path, sentences):
    texts = [sentences[0]["text"] + f" {'ha ' * (n % 3)}" for n in range(20_000)]
    begun = time.perf_counter()
    assert len(np.unique(group(tmp_path, texts))) == 1
    assert time.perf_counter() - begun < 20


def test_sentences_take_less_than_three_seconds(tmp_path, sentences):
    begun = time.perf_counter()
    group(tmp_path, [row["text"] for row in sentences])
    assert time.perf_counter() - begun < 3


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_million_rows_in_512_megabytes(tmp_path):
    """Rows derived from real reviews (see million.py); peak resident memory of the process."""
    script = Path(__file__).with_name("million.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "1000000"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    facts = json.loads(done.stdout)
    assert facts["rows"]["read"] > 990_000
    assert facts["near"]["groups"] > 100_000
    assert facts["peak"] < 512 << 20
