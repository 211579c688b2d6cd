"""Trained tokenizers: round trips over all of Unicode, the same bits, what is unknown."""

from __future__ import annotations

import json
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.core.settings import read_choice
from lmwright.data.tokenizer import judge, write_tokenizer
from lmwright.metrics.tokenization import renyi_efficiency
from lmwright.tables import TOKENIZERS, resolve
from lmwright.text.formats.layout import SPACE
from lmwright.text.tokenizer import Tokenizer, read_tokenizer
from lmwright.text.trainers.training import Wanted

SPECIAL = ("<s>", "</s>")
VERSES = "asset:verses/verses.parquet"
EXACT = (
    "bpe",
    {"kind": "bpe", "pretokens": "cl100k"},
    {"kind": "bpe", "pretokens": "qwen2"},
    {"kind": "bpe", "pretokens": "none"},
    "character",
)
MARKED = ({"kind": "bpe", "units": "characters"}, "unigram")
"""Kinds that write a space as a character of its own, which therefore comes back as a space."""
KEEPING = [*EXACT, *MARKED]


@lru_cache(maxsize=1)
def verses() -> tuple[str, ...]:
    """A thousand verses in English and Spanish."""
    table = parquet.read_table(asset_file(VERSES)).slice(0, 500)
    return (*table["kjv"].to_pylist(), *table["es"].to_pylist())


def trained(kind: object, size: int = 800, **wanted: object) -> bytes:
    """A tokenizer.json of the verses."""
    found = read_choice("tokenizers", kind, "model", resolve)
    return found.train(lambda: iter(verses()), Wanted(size, SPECIAL, **wanted))


@cache
def kept(place: int) -> Tokenizer:
    """The tokenizer of one of the kinds that keep texts."""
    return Tokenizer(trained(KEEPING[place]))


@pytest.mark.parametrize("place", range(len(EXACT)))
@given(text=st.text())
@settings(deadline=None)
def test_a_text_comes_back_whatever_it_is(place, text):
    tokenizer = kept(place)
    assert tokenizer.decode(tokenizer.ids(text).tolist()) == text


@pytest.mark.parametrize("place", range(len(EXACT), len(KEEPING)))
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=[SPACE, "\0"])))
@settings(deadline=None)
def test_with_marked_spaces_a_text_comes_back_but_for_the_mark(place, text):
    tokenizer = kept(place)
    assert tokenizer.decode(tokenizer.ids(text).tolist()) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_same_texts_give_the_same_bytes(kind):
    assert trained(kind) == trained(kind)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_no_text_becomes_a_special_token(kind, tmp_path):
    write_tokenizer(tmp_path, trained(kind))
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.roles["bos"], tokenizer.roles["eos"]) == ((0,), (1,))
    assert not {0, 1} & set(tokenizer.ids("<s>God</s> <s> </s>").tolist())


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_library_reads_the_file_and_gives_the_same_ids(kind, tmp_path):
    write_tokenizer(tmp_path, trained(kind))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ours = read_tokenizer(tmp_path)
    for text in verses()[::100]:
        assert ours.ids(text).tolist() == theirs.encode(text, add_special_tokens=False).ids


def test_merges_are_those_of_the_paper():
    """The words and the first merges of Sennrich et al. 2016, section 3.2."""
    words = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    found = read_choice("tokenizers", "bpe", "model", resolve).train(
        lambda: iter(words), Wanted(260, SPECIAL)
    )
    merges = [tuple(each) for each in tokenizers_merges(found)]
    assert merges == [("e", "s"), ("es", "t")]


def tokenizers_merges(data: bytes) -> list[list[str]]:
    """The merges of a tokenizer.json."""
    return json.loads(data)["model"]["merges"]


@pytest.mark.parametrize("kind", ["wordpiece", "word", {"kind": "character", "fallback": False}])
def test_what_was_never_seen_is_unknown_without_bytes(kind, tmp_path):
    write_tokenizer(tmp_path, trained(kind))
    tokenizer = read_tokenizer(tmp_path)
    judged = judge(tokenizer, ["God 神"])
    assert tokenizer.roles["unk"] == (2,)
    assert judged["unknown"] == pytest.approx(1 / judged["tokens"])
    assert judged["round_trip"] == 0


def test_wordpiece_takes_the_longest_piece_first():
    tokenizer = Tokenizer(trained("wordpiece", 2000))
    pieces = [tokenizer.token(each) for each in tokenizer.ids("the heavens")]
    assert pieces[0] == "the"
    assert "".join(each.removeprefix("##") for each in pieces[1:]) == "heavens"
    assert all(each.startswith("##") for each in pieces[2:])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_steps_of_normalisation_are_kept_in_the_file(kind):
    tokenizer = Tokenizer(trained(kind, normal=("strip-accents", "lowercase")))
    assert tokenizer.ids("ÉL crió").tolist() == tokenizer.ids("el crio").tolist()


def test_texts_fill_less_than_was_asked_for_and_too_little_is_refused():
    assert Tokenizer(trained("word", 100_000)).size() < 5000
    for kind, least in (("bpe", 258), ("unigram", 275), ("character", 260), ("word", 4)):
        with pytest.raises(BadInput, match=f"at least {least}"):
            trained(kind, least - 1)


def test_bytes_a_token_and_fertility_are_counted_on_the_texts():
    judged = judge(Tokenizer(trained({"kind": "character"})), ["ab cd", "é"])
    assert judged["tokens"] == 6
    assert judged["bytes_per_token"] == pytest.approx(7 / 6)
    assert judged["fertility"] == pytest.approx(6 / 3)
    assert judged["round_trip"] == 1


def test_renyi_efficiency_of_worked_values():
    assert renyi_efficiency(np.array([3, 3, 3, 3])) == pytest.approx(1)
    assert renyi_efficiency(np.array([5, 0, 0])) == 0
    # Shares 1/2, 1/4, 1/4: of order 2 the entropy is log(8/3), of order 1 1.5 log 2.
    counts = np.array([2, 1, 1])
    assert renyi_efficiency(counts, 2) == pytest.approx(np.log(8 / 3) / np.log(3))
    assert renyi_efficiency(counts, 1) == pytest.approx(1.5 * np.log(2) / np.log(3))


def test_published_files_lie_beside_the_tokenizer(tmp_path: Path):
    write_tokenizer(tmp_path, trained("bpe"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
