"""The tokenizer inside a GGUF file gives the ids of the library that the model was made with."""

from __future__ import annotations

import csv
import io
import json
import random
import struct
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import generate_merges
from transformers.models.gemma import GemmaTokenizer

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput, Corrupt, LmwrightError
from lmwright.models.files.gguf import Gguf, read_gguf, write_gguf
from lmwright.models.files.gguf_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    TYPED,
    UNKNOWN,
    UNUSED,
    tokenizer_json,
    tokenizer_of,
)
from lmwright.text.tokenizer import Tokenizer
from tests.models.files.test_gguf import GEMMA, QWEN
from tests.text.lines import REVIEWS, reviews

MOST = 10**6
ODD = [
    "",
    " ",
    "  a   b    c " + " " * 40 + "end",
    "\n\n\n a\n \n\tb\t\t\tc\r\nd\r\r",
    "Ünïcödé naïve café e\u0301 Å \u212b ﬁ ½ ①",
    "日本語のテキスト、中文文本。한국어 텍스트",
    "Привет, мир! Γειά σου Κόσμε שלום مرحبا नमस्ते สวัสดี",
    "🤷🏽‍♀️🇩🇪👩‍👩‍👧‍👦 \U0001f9ff \u200b\ufeff\u202e\x00\x01\x7f",
    "def f(x):\n    return x**2  # 1234567 0x1F 3.14e-10\n\n\n",
    "I'll you're HE'S WE'VE d'accord 'tis '''",
    "<b>bold</b><br /><table><tr> <start_of_image> [multimodal]",
    "▁ ▁▁ ▁a <0x0A> <unk> <bos> <eos>",
    "=" * 70 + "-" * 70 + "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa hahahahahahaha",
]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """500 whole reviews, 10,000 lines of others, and what is odd."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as stream:
        rows = [row["text"] for row in islice(csv.DictReader(stream), 500)]
    return [*rows, *random.Random(1).sample(reviews(), 10_000), *ODD]


def differing(found: list[list[int]], wanted: list[list[int]], lines: list[str]) -> list[str]:
    """The lines whose ids differ."""
    return [line for line, a, b in zip(lines, found, wanted, strict=True) if a != b]


def ids_of(tokenizer: Tokenizer, lines: list[str]) -> list[list[int]]:
    return [each.tolist() for each in tokenizer.encode(lines, MOST)]


def metadata_of(kind: str, tokens: list[str], types: list[int], **more: object) -> dict:
    return {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }


def field(number: int, value: bytes | str | int | float) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def sentencepiece_of(metadata: dict) -> sentencepiece.SentencePieceProcessor:
    """The model of the sentencepiece library with the metadata's pieces, scores and types.

    Its fields: pieces (text, score, type), trainer (3 kind: 2 is BPE, 35 byte fallback, 40 to 43
    ids) and normaliser (3 space before, 4 remove spaces, 5 spell them).
    """

    def of(key: str, default: object = None) -> object:
        return metadata.get(f"tokenizer.ggml.{key}", default)

    unknown = of("unknown_token_id")
    made = []
    scores, types = (of(key).tolist() for key in ("scores", "token_type"))
    for number, (token, score, kind) in enumerate(zip(of("tokens"), scores, types, strict=True)):
        spelt = token.replace(" ", "▁") if kind == TYPED else token
        kind = UNKNOWN if number == unknown else kind
        made.append(field(1, field(1, spelt) + field(2, score) + field(3, kind)))
    special = [of(f"{key}_token_id") for key in ("unknown", "bos", "eos")]
    tokens = [of("tokens")[number] for number in special]
    trainer = b"".join(field(40 + place, number) for place, number in enumerate(special))
    trainer += b"".join(field(45 + place, token) for place, token in enumerate(tokens))
    made.append(field(2, field(3, 2) + field(35, 1) + trainer + field(43, 2**64 - 1)))
    prefix = int(of("add_space_prefix", True))
    made.append(field(3, field(1, "identity") + field(3, prefix) + field(4, 0) + field(5, 1)))
    return sentencepiece.SentencePieceProcessor(model_proto=b"".join(made))


@pytest.fixture(scope="module")
def gemma() -> Gguf:
    return read_gguf(asset_file(GEMMA))


@pytest.fixture(scope="module")
def ours(gemma) -> Tokenizer:
    return tokenizer_of(gemma)


@pytest.fixture(scope="module")
def theirs(gemma) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece_of(gemma.metadata)


def test_gemma_gives_the_ids_of_sentencepiece(ours, theirs, lines):
    wanted = [[2, *each] for each in theirs.encode(lines)]
    assert differing(ids_of(ours, lines), wanted, lines) == []
    assert ours.highest() == 262143


def test_gemma_gives_the_ids_of_sentencepiece_on_any_pieces(gemma, ours, theirs):
    """3,000 rows of pieces of all languages, drawn blindly, some with spaces between."""
    chance = random.Random(5)
    kinds = gemma.metadata["tokenizer.ggml.token_type"]
    tokens = gemma.metadata["tokenizer.ggml.tokens"]
    pieces = [token.replace("▁", " ") for token, kind in zip(tokens, kinds, strict=True)
              if kind in (NORMAL, TYPED)]  # fmt: skip
    rows = ["".join(chance.choices(pieces, k=chance.randint(1, 12))) for _ in range(3000)]
    wanted = [[2, *each] for each in theirs.encode(rows)]
    assert differing(ids_of(ours, rows), wanted, rows) == []


def test_gemma_turns_ids_into_text_again(ours, lines):
    for line in [line for line in lines[:200] + ODD if "▁" not in line]:
        assert ours.decode(ours.encode([line], MOST)[0].tolist()) == line


def test_a_control_token_that_is_typed_is_text_in_gemma(ours):
    ids = ours.encode(["<bos><eos><unused7><start_of_turn><mask>"], MOST)[0].tolist()
    assert not set(ids[1:]) & {0, 1, 2, 3, 4, 13, 105}


@pytest.mark.long
def test_gemma_gives_the_ids_of_transformers(gemma, ours, lines):
    tokens = gemma.metadata["tokenizer.ggml.tokens"]
    kinds = gemma.metadata["tokenizer.ggml.token_type"].tolist()
    scores = gemma.metadata["tokenizer.ggml.scores"].tolist()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    apart = {token for token, kind in zip(tokens, kinds, strict=True) if kind != NORMAL}
    merges = generate_merges(vocabulary, dict(zip(tokens, scores, strict=True)), apart)
    reference = GemmaTokenizer(vocab=vocabulary, merges=merges)
    typed = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TYPED]
    reference.add_tokens([tokenizers.AddedToken(each, normalized=False) for each in typed])
    known = [line for line in lines if "<unk>" not in line]
    wanted = reference(known, add_special_tokens=False)["input_ids"]
    found = [ids[1:] for ids in ids_of(ours, known)]
    assert differing(found, wanted, known) == []


@pytest.mark.parametrize("prefix", [True, False])
def test_a_small_sentencepiece_model_gives_its_own_ids(lines, prefix):
    """Trained here by the library; too few pieces, so that many texts fall apart into bytes."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines[:400]),
        model_writer=written,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        max_sentence_length=100_000,
        minloglevel=2,
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    every = range(trained.get_piece_size())
    types = [
        UNKNOWN if trained.is_unknown(each) else CONTROL if trained.is_control(each)
        else BYTE if trained.is_byte(each) else NORMAL for each in every
    ]  # fmt: skip
    metadata = metadata_of(
        "llama",
        [trained.id_to_piece(each) for each in every],
        types,
        scores=np.array([trained.get_score(each) for each in every], np.float32),
        unknown_token_id=trained.unk_id(),
        bos_token_id=trained.bos_id(),
        eos_token_id=trained.eos_id(),
        add_space_prefix=prefix,
        add_eos_token=True,
    )
    ours = Tokenizer(tokenizer_json(metadata, "x"))
    wanted = [[trained.bos_id(), *each, trained.eos_id()] for each in trained.encode(lines)]
    assert differing(ids_of(ours, lines), wanted, lines) == []
    for line in lines[:50] + ODD[2:10]:
        ids = ours.encode([line], MOST)[0].tolist()
        assert ours.decode(ids) == line == trained.decode(ids)


def byte_pairs(lines: list[str]) -> tuple[list[str], list[str]]:
    """Tokens and merges of a small byte-level encoding, trained here."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(lines, trainer)
    ids = made.get_vocab()
    merges = json.loads(made.to_str())["model"]["merges"]
    return sorted(ids, key=ids.__getitem__), [" ".join(each) for each in merges]


@pytest.fixture(scope="module")
def small(lines) -> dict:
    """A file's metadata of the kind "gpt2" with control, typed and unused tokens."""
    tokens, merges = byte_pairs(lines[:500])
    types = [NORMAL] * len(tokens) + [CONTROL, CONTROL, TYPED, UNUSED]
    more = ["<|endoftext|>", "<|im_end|>", "<extra>", "[PAD]"]
    end = len(tokens)
    return metadata_of(
        "gpt2", tokens + more, types, merges=merges, pre="qwen2",
        bos_token_id=end, eos_token_id=end + 1, add_bos_token=False,
    )  # fmt: skip


@pytest.mark.parametrize(("pre", "kind"), [("qwen2", Qwen2Tokenizer), ("gpt-2", GPT2Tokenizer)])
def test_a_small_byte_level_model_gives_the_ids_of_transformers(small, lines, pre, kind):
    tokens, merges = small["tokenizer.ggml.tokens"], small["tokenizer.ggml.merges"]
    vocabulary = {token: number for number, token in enumerate(tokens[:-1])}
    reference = kind(vocab=vocabulary, merges=[tuple(each.split(" ")) for each in merges])
    reference.add_tokens([tokenizers.AddedToken("<extra>", normalized=False)])
    rows = [*lines, "a<extra>b", "ends in spaces   ", "12345 ٣٤٥ x²"]
    ours = Tokenizer(tokenizer_json({**small, "tokenizer.ggml.pre": pre}, "x"))
    wanted = reference(rows, add_special_tokens=False)["input_ids"]
    assert differing(ids_of(ours, rows), wanted, rows) == []
    assert ours.highest() == len(tokens) - 2


def test_control_tokens_are_text_when_typed_and_ends_are_set_when_asked(small):
    end = small["tokenizer.ggml.bos_token_id"]
    asked = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    ours = Tokenizer(tokenizer_json({**small, **asked}, "x"))
    ids = ours.encode(["<|endoftext|><|im_end|><extra>[PAD]"], MOST)[0].tolist()
    assert (ids[0], ids[-1]) == (end, end + 1)
    assert not {end, end + 1, end + 3} & set(ids[1:-1])
    assert end + 2 in ids


def test_roles_are_read_where_there_is_such_a_token(small, tmp_path):
    end = small["tokenizer.ggml.bos_token_id"]
    more = {"unknown_token_id": 2**32 - 1, "padding_token_id": end + 3}  # absent, and unused
    metadata = small | {f"tokenizer.ggml.{key}": value for key, value in more.items()}
    write_gguf(tmp_path / "x.gguf", metadata, {}, {})
    ours = tokenizer_of(read_gguf(tmp_path / "x.gguf"))
    assert ours.roles == {"bos": (end,), "eos": (end + 1,)}


def test_a_file_of_llama_3_begins_a_text_with_bos_unless_it_says_no(small):
    silent = {key: value for key, value in small.items() if not key.endswith("add_bos_token")}
    for pre, first in (("llama-bpe", [small["tokenizer.ggml.bos_token_id"]]), ("gpt-2", [])):
        ours = Tokenizer(tokenizer_json({**silent, "tokenizer.ggml.pre": pre}, "x"))
        assert ours.encode([""], 8)[0].tolist() == first


def test_the_tokenizer_comes_back_from_a_written_file(small, tmp_path):
    write_gguf(tmp_path / "x.gguf", small, {}, {})
    again = tokenizer_of(read_gguf(tmp_path / "x.gguf"))
    assert again.data == tokenizer_json(small, "x")


@pytest.mark.long
def test_qwen_gives_the_ids_of_transformers(lines):
    file = read_gguf(asset_file(QWEN))
    ours = tokenizer_of(file)
    tokens = file.metadata["tokenizer.ggml.tokens"]
    kinds = file.metadata["tokenizer.ggml.token_type"].tolist()
    vocabulary = {
        token: number
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == NORMAL
    }
    merges = [tuple(each.split(" ")) for each in file.metadata["tokenizer.ggml.merges"]]
    reference = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (CONTROL, TYPED):
            reference.add_tokens([tokenizers.AddedToken(token, special=kind == CONTROL)])
    wanted = reference(lines)["input_ids"]
    assert differing(ids_of(ours, lines), wanted, lines) == []
    assert ours.highest() == 151664
    published = ours.encode(["Hello world"], 8)[0].tolist()
    assert published == [9707, 1879]


TINY = ["<unk>", "<s>", "</s>", "a", "b", "ab"]
TINY_TYPES = [UNKNOWN, CONTROL, CONTROL, NORMAL, NORMAL, NORMAL]
PIECES = metadata_of(
    "llama", TINY, TINY_TYPES, scores=np.arange(6, dtype=np.float32),
    unknown_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
PAIRS = metadata_of("gpt2", TINY, TINY_TYPES, merges=["a b"], pre="gpt-2")
FAULTS = {
    "no kind": ({}, "model", None, "is of type NoneType"),
    "another kind": (PIECES, "model", "bert", "'bert'"),
    "a kind that is a number": (PIECES, "model", 7, "is of type int"),
    "no tokens": (PIECES, "tokens", None, "tokens is of type"),
    "tokens that are numbers": (PIECES, "tokens", np.ones(6), "is of type ndarray"),
    "a token twice": (PIECES, "tokens", [*TINY[:5], "a"], "a token twice"),
    "too few types": (PIECES, "token_type", np.ones(5, np.int32), "has 5 numbers"),
    "no types": (PIECES, "token_type", None, "token_type is of type"),
    "no scores": (PIECES, "scores", None, "scores is of type"),
    "too many scores": (PIECES, "scores", np.ones(7, np.float32), "has 7 numbers"),
    "scores of NaN": (PIECES, "scores", np.full(6, np.nan, np.float32), "NaN"),
    "no unknown token": (PIECES, "unknown_token_id", None, "unknown_token_id"),
    "an id beyond the tokens": (PIECES, "bos_token_id", 6, "bos_token_id is 6"),
    "an id of 2^32 - 1": (PIECES, "bos_token_id", 2**32 - 1, "bos_token_id is 4294967295"),
    "a flag that is a number": (PIECES, "add_bos_token", 1, "add_bos_token is of type int"),
    "a long piece": (PIECES, "tokens", [*TINY[:5], "ab" * 10**6], "a piece of 2000000"),
    "other cuts": (PAIRS, "pre", "gpt-3", "did you mean 'gpt-2'"),
    "no merges": (PAIRS, "merges", None, "merges is of type"),
    "a merge of three": (PAIRS, "merges", ["a b ab"], "not of two"),
    "a merge of one": (PAIRS, "merges", ["ab"], "not of two"),
    "a merge of no tokens": (PAIRS, "merges", ["a c"], "tokenizer"),
    "a merge into no token": (PAIRS, "merges", ["b a"], "tokenizer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_tokenizer_is_refused_by_name(tmp_path, fault):
    good, key, value, words = FAULTS[fault]
    metadata = {name: each for name, each in good.items() if name != f"tokenizer.ggml.{key}"}
    if value is not None:
        metadata[f"tokenizer.ggml.{key}"] = value
    write_gguf(tmp_path / "x.gguf", metadata, {}, {})
    start = time.process_time()
    with pytest.raises((BadInput, Corrupt), match=r"x\.gguf: tokenizer") as caught:
        tokenizer_of(read_gguf(tmp_path / "x.gguf"))
    assert words in str(caught.value)
    assert time.process_time() - start < 2


def test_the_good_ones_are_read(tmp_path: Path):
    for number, metadata in enumerate((PIECES, PAIRS)):
        path = tmp_path / f"{number}.gguf"
        write_gguf(path, metadata, {}, {})
        try:
            assert 5 in tokenizer_of(read_gguf(path)).encode(["ab"], 8)[0]
        except LmwrightError as error:
            pytest.fail(str(error))
