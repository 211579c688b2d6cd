"""Tokenizer files that are not what they should be are refused by name, and run nothing."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import struct
from pathlib import Path

import pytest

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput, Corrupt, LmwrightError
from lmwright.text.charsmap import read_charsmap
from lmwright.text.formats.byte_level import CHARACTERS
from lmwright.text.formats.layout import LARGEST
from lmwright.text.tokenizer import Tokenizer, read_tokenizer
from tests.text.test_formats import MISTRAL

LETTERS = [*CHARACTERS.values()]


def refused(path: Path, kind: type[LmwrightError], *words: str) -> None:
    """Reading fails with that kind of error, which names these words."""
    with pytest.raises(kind) as caught:
        read_tokenizer(path)
    for word in words:
        assert word in str(caught.value)


def write_merges(folder: Path, merges: str, vocabulary: object = None) -> Path:
    """A folder with vocab.json (all bytes, ab and abc) and these merges."""
    words = {word: place for place, word in enumerate([*LETTERS, "ab", "abc"])}
    text = json.dumps(words if vocabulary is None else vocabulary)
    (folder / "vocab.json").write_text(vocabulary if isinstance(vocabulary, str) else text)
    (folder / "merges.txt").write_text(merges)
    return folder


def write_ranks(path: Path, tokens: list[bytes]) -> Path:
    """A rank file."""
    rows = [base64.b64encode(token).decode() + f" {rank}" for rank, token in enumerate(tokens)]
    path.write_text("\n".join(rows))
    return path


def test_a_small_folder_is_read(tmp_path):
    folder = write_merges(tmp_path, "#version: 0.2\na b\nab c\n")
    assert read_tokenizer(folder).ids("abcab").tolist() == [257, 256]


@pytest.mark.parametrize(
    ("merges", "vocabulary", "words"),
    [
        ("a b\na b\n", None, ["merges.txt", "'a b'", "twice"]),
        ("a b c\n", None, ["line 1"]),
        ("a\n", None, ["line 1"]),
        ("x y\n", None, ["'xy'"]),
        ("\u00e9\u0301 y\n", None, ["a token of the vocabulary"]),
        ("", {"a": 0, "b": 2}, ["vocab.json", "id 1"]),
        ("", {"a": 0, "b": 0}, ["id 0", "twice"]),
        ("", {"a": 0, "b": "1"}, ["'b'"]),
        ("", {"a": 0, "b": -1}, ["'b'"]),
        ("", {"a": 0, "b": 1.0}, ["'b'"]),
        ("", '{"a": 0, "a": 1}', ["'a'", "twice"]),
        ("", '["a"]', ["object"]),
        ("", '{"a": 0', ["vocab.json"]),
        ("", "[" * 100_000, ["vocab.json"]),
    ],
)
def test_merges_that_contradict_themselves(tmp_path, merges, vocabulary, words):
    refused(write_merges(tmp_path, merges, vocabulary), Corrupt, *words)


def test_a_giant_file_is_refused_unread(tmp_path):
    folder = write_merges(tmp_path, "")
    with (folder / "merges.txt").open("wb") as stream:
        stream.truncate(LARGEST + 1)
    refused(folder, BadInput, "merges.txt", str(LARGEST))


def test_a_file_that_is_not_utf_8(tmp_path):
    (write_merges(tmp_path, "") / "merges.txt").write_bytes(b"a b\n\xff\xfe")
    refused(tmp_path, Corrupt, "merges.txt", "byte 4")
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\n\xe2\x82")
    refused(tmp_path / "vocab.txt", Corrupt, "vocab.txt", "byte 6")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[UNK]\n[CLS]\n[SEP]\na\na\n", ["'a'", "twice"]),
        ("[UNK]\n[CLS]\na\n", ["[SEP]"]),
        ("", ["[UNK]"]),
    ],
)
def test_a_vocabulary_of_words_that_is_none(tmp_path, text, words):
    (tmp_path / "vocab.txt").write_text(text)
    refused(tmp_path, Corrupt, *words)


ALL_BYTES = [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("IQ== 0\nIQ== 1\n", ["line 2", "twice"]),
        ("IQ== 0\nIg== 2\n", ["id 1"]),
        ("IQ== 0\nIg== 1\n", ["byte 0"]),
        ("IQ== 0\n#### 1\n", ["line 2"]),
        ("IQ== 0\nIg==\n", ["line 2"]),
        ("IQ== 0\nIg== x\n", ["line 2"]),
        (f"IQ== 0\n{base64.b64encode(bytes(600)).decode()} 1\n", ["line 2", "600"]),
    ],
)
def test_ranks_that_are_none(tmp_path, text, words):
    path = tmp_path / "x.tiktoken"
    path.write_text(text)
    refused(path, Corrupt, *words)


def test_ranks_of_no_known_encoding(tmp_path):
    path = write_ranks(tmp_path / "x.tiktoken", [*ALL_BYTES, b"ab"])
    refused(path, BadInput, "257 ranks", "gpt2")
    with pytest.raises(BadInput, match="did you mean 'cl100k_base'"):
        read_tokenizer(path, encoding="cl100k")
    with pytest.raises(BadInput, match="50256"):
        read_tokenizer(path, encoding="gpt2")


MODEL = f"{MISTRAL}/tokenizer.model.v1"


@pytest.mark.parametrize("keep", [0, 1, 2, 3, 100, 10_000, 493_000, -1, -20, -30])
def test_a_truncated_sentencepiece_model(tmp_path, keep):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(asset_file(MODEL).read_bytes()[:keep])
    refused(path, Corrupt, "tokenizer.model")


def piece(text: bytes, score: float = 0.0, kind: int = 1) -> bytes:
    """One piece of a SentencePiece model."""
    inner = b"\n" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score)
    inner += b"\x18" + bytes([kind])
    return b"\n" + bytes([len(inner)]) + inner


PLAIN = b"\x1a\x00"
TRAINER = b"\x12\x02\x18\x01" + PLAIN
UNKNOWN = piece(b"<unk>", kind=2)


@pytest.mark.parametrize(
    ("kind", "data", "word"),
    [
        (Corrupt, UNKNOWN + piece(b"a") * 2 + TRAINER, "'a'"),
        (Corrupt, piece(b"a") + TRAINER, "unknown"),
        (Corrupt, UNKNOWN + piece(b"\xff") + TRAINER, "utf-8"),
        (Corrupt, UNKNOWN + piece(b"a", float("nan")) + TRAINER, "finite"),
        (Corrupt, UNKNOWN + piece(b"a", kind=9) + TRAINER, "kind 9"),
        (Corrupt, UNKNOWN + b"\n\xff\xff\xff\xff\x7f" + TRAINER, "ends within"),
        (Corrupt, UNKNOWN + b"\xff" * 12, "does not end"),
        (Corrupt, UNKNOWN + piece(b"a") + b"\x12\x05\x18\x01\x98\x02\x01" + PLAIN, "256"),
        (BadInput, UNKNOWN + piece(b"a", kind=5) + b"\x12\x02\x18\x02" + PLAIN, "switched off"),
        (BadInput, UNKNOWN + piece(b"a") + b"\x12\x02\x18\x03" + PLAIN, "characters"),
        (Corrupt, UNKNOWN + piece(b"a") + TRAINER + b"\x1a\x06\x12\x04\xff\xff\xff\xff", "map"),
    ],
)
def test_a_sentencepiece_model_that_contradicts_itself(tmp_path, kind, data, word):
    path = tmp_path / "x.model"
    path.write_bytes(data)
    refused(path, kind, "x.model", word)


def test_a_map_of_characters_that_goes_in_circles():
    """After each letter come all letters again."""
    units = b"".join(struct.pack("<I", label | label << 10) for label in range(256))
    with pytest.raises(ValueError, match="no end"):
        read_charsmap(struct.pack("<I", len(units)) + units)


@pytest.mark.parametrize("name", ["tokenizer.pkl", "tokenizer.bin", "tokenizer.pt"])
def test_a_pickle_is_refused_unopened(tmp_path, name):
    """The file is a named pipe: whoever opened it would wait for ever."""
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, BadInput, name, "pickle")
    refused(tmp_path, BadInput, name, "pickle")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.txt"])
def test_a_pickle_under_another_name_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"a": 0}))
    refused(tmp_path / name, BadInput, "pickle")


def test_a_bomb_of_gzip_is_refused(tmp_path):
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(gzip.compress(b"#version\n" + b"a b\n" * (1 << 24) + b"c d\n"))
    refused(path, BadInput, "unpacks")
    path.write_bytes(gzip.compress(b"#version\na b\n")[:-9])
    refused(path, Corrupt, path.name)


def test_a_folder_with_nothing_or_with_two(tmp_path):
    refused(tmp_path, BadInput, "no tokenizer", "tokenizer.json")
    refused(tmp_path / "nowhere", BadInput, "nowhere")
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(b"")
    refused(tmp_path, BadInput, "a.model, b.model")
    (tmp_path / "x.doc").write_text("words")
    refused(tmp_path / "x.doc", BadInput, "x.doc", "no known format")


def whole(**parts: object) -> bytes:
    """A tokenizer.json of two words and one special token, with some parts replaced."""
    model = {"type": "WordLevel", "vocab": {"a": 0, "<u>": 1}, "unk_token": "<u>"}
    token = {"id": 2, "content": "<s>", "special": True}
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    value = {"model": model, "added_tokens": [{**token, **flags}], "version": "1.0"}
    return json.dumps({**value, **parts}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        whole()[:-3],
        whole(model={}),
        whole(model={"type": "WordLevel", "vocab": 5, "unk_token": "a"}),
        whole(model={"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}),
        whole(model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}),
        whole(model={"type": "BPE", "vocab": {"a": 0}, "merges": "ab"}),
        whole(added_tokens=[{"id": 2}]),
        whole(added_tokens=[{"id": 7, "content": "<s>", "special": True}]),
        whole(added_tokens="<s>"),
        whole(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        whole(normalizer={"type": "Lua"}),
    ],
    ids=lambda data: repr(data[:30]),
)
def test_a_tokenizer_json_that_is_none(tmp_path, data):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    refused(path, Corrupt, "tokenizer.json")


def test_the_sound_one_is_read():
    assert Tokenizer(whole()).control == {"<s>": 2}


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("tokenizer_config.json", {"eos_token": "<none>"}, "<none>"),
        ("generation_config.json", {"eos_token_id": 3}, "3"),
        ("generation_config.json", {"eos_token_id": [2, True]}, "True"),
        ("special_tokens_map.json", [], "object"),
    ],
)
def test_files_beside_it_that_lie(tmp_path, name, value, word):
    (tmp_path / "tokenizer.json").write_bytes(whole())
    (tmp_path / name).write_text(json.dumps(value))
    refused(tmp_path, Corrupt, name, word)


@pytest.mark.parametrize("number", [-1, 3, 32000, [-1], True, "2"])
def test_a_role_that_no_token_plays_is_left_out(tmp_path, number):
    (tmp_path / "tokenizer.json").write_bytes(whole())
    said = {"pad_token_id": number, "eos_token_id": 2, "bos_token_id": -1}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    assert read_tokenizer(tmp_path).roles == {"eos": (2,)}


def test_roles_come_from_the_files_beside_it(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(whole())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<s>"}, "pad_token": None, "bos_token": "a"})
    )
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [0, 2], "pad_token_id": 1, "bos_token_id": 2})
    )
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.roles == {"eos": (2, 0), "bos": (0,), "pad": (1,)}
    assert tokenizer.special_text() == {"eos_token": "<s>", "bos_token": "a", "pad_token": "<u>"}
