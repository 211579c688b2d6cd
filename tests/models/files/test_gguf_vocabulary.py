"""A tokenizer told in GGUF's words gives the same ids, or is refused by what they cannot tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers.convert_slow_tokenizer import generate_merges
from transformers.models.gemma import GemmaTokenizer

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.models.files.gguf import read_gguf, write_gguf
from lmwright.models.files.gguf_tokenizer import CONTROL, NORMAL, TYPED, tokenizer_of
from lmwright.models.files.gguf_vocabulary import vocabulary_of
from lmwright.text.tokenizer import Tokenizer, read_tokenizer
from tests.models.files.test_gguf import GEMMA
from tests.models.speaking import added, json_of, real_lines, tokenizer_folder
from tests.text.lines import ODD
from tests.text.test_formats import LLAMA3, MISTRAL

KINDS = ["gpt-2", "qwen2", "llama-bpe", "smollm", "pieces", "pieces after a space"]
MOST = 10**6
LINES = [line for line in ODD if "\ud800" not in line]


def told_and_read(tokenizer: Tokenizer, rows: int, ends: tuple[int, ...], tmp_path) -> Tokenizer:
    """The tokenizer as it comes back from a file."""
    told = vocabulary_of(tokenizer, rows, ends, "x")
    write_gguf(tmp_path / "x.gguf", told, {}, {})
    return tokenizer_of(read_gguf(tmp_path / "x.gguf"))


def same_ids(left: Tokenizer, right: Tokenizer, texts: list[str]) -> None:
    """Both give each text the same ids."""
    pairs = zip(texts, left.encode(texts, MOST), right.encode(texts, MOST), strict=True)
    assert [text for text, a, b in pairs if a.tolist() != b.tolist()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_told_tokenizer_gives_the_same_ids_and_text(kind, tmp_path):
    before = tokenizer_folder(kind, tmp_path / "in")
    after = told_and_read(before, 704, before.roles["eos"], tmp_path)
    texts = [*LINES, *real_lines()[1], "a<extra>b <extra> c<|im_end|>", "1" + " " * 12 + "2"]
    same_ids(before, after, texts)
    assert before.control == after.control
    assert before.roles.items() <= after.roles.items()
    assert after.inner.token_to_id("<extra>") == before.inner.token_to_id("<extra>")
    for text in texts[-300:]:
        ids = before.ids(text).tolist()
        assert before.decode(ids) == after.decode(ids)
    parts = [("<|im_start|>", True), ("user\n Hi", False), ("<|im_end|>", True), ("\n", False)]
    for left, right in zip(before.ids_of_parts(parts), after.ids_of_parts(parts), strict=True):
        assert left.tolist() == right.tolist()


def test_rows_without_a_token_are_unused_and_no_two_names_are_alike(tmp_path):
    changed = json.loads(json_of("gpt-2"))
    changed["added_tokens"].append(added(700, "[PAD640]", special=False))
    with pytest.raises(BadInput, match=r"PAD640.*is no token 700"):
        vocabulary_of(Tokenizer(json.dumps(changed).encode()), 704, (600,), "x")
    changed["added_tokens"][-1]["id"] = 606
    told = vocabulary_of(Tokenizer(json.dumps(changed).encode()), 704, (600,), "x")
    tokens = told["tokenizer.ggml.tokens"]
    assert len(tokens) == len(set(tokens)) == 704
    assert (told["tokenizer.ggml.token_type"] == 5).sum() == 704 - 607


def test_types_and_ends(tmp_path):
    tokenizer = tokenizer_folder("gpt-2", tmp_path)
    ids = tokenizer.control
    ends = (ids["<|end|>"], ids["<|im_end|>"], ids["<|pad|>"], ids["<|begin|>"])
    told = vocabulary_of(tokenizer, 704, ends, "x")
    found = {word: told[f"tokenizer.ggml.{word}_token_id"] for word in ("eos", "eot", "eom")}
    assert found == {"eos": ids["<|end|>"], "eot": ids["<|pad|>"], "eom": ids["<|begin|>"]}
    types = told["tokenizer.ggml.token_type"]
    assert {types[number] for number in ids.values()} == {CONTROL}
    assert types[tokenizer.inner.token_to_id("<extra>")] == TYPED
    assert (types[:600] == NORMAL).all()


@pytest.mark.parametrize(
    "address",
    [
        pytest.param(LLAMA3, marks=[pytest.mark.long, pytest.mark.timeout(900)]),
        pytest.param(f"{MISTRAL}/tokenizer.model.v1", marks=pytest.mark.timeout(900)),
    ],
)
def test_published_tokenizers_give_the_same_ids(address, tmp_path):
    before = read_tokenizer(asset_file(address))
    after = told_and_read(before, before.size() + 5, before.roles.get("eos", (128001,)), tmp_path)
    same_ids(before, after, [*LINES, *real_lines()[1]])


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_gemma_as_transformers_writes_it_gives_the_ids_of_its_gguf_file(tmp_path):
    """There runs of spaces are merged like words, and typed tokens are looked for in raw text."""
    file = read_gguf(asset_file(GEMMA))
    tokens = [each.replace(" ", "▁") for each in file.metadata["tokenizer.ggml.tokens"]]
    types = file.metadata["tokenizer.ggml.token_type"].tolist()
    scores = file.metadata["tokenizer.ggml.scores"].tolist()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    scored = {
        token: 1.0 if kind == TYPED else score
        for token, kind, score in zip(tokens, types, scores, strict=True)
    }
    apart = {t for t, kind in zip(tokens, types, strict=True) if kind not in (NORMAL, TYPED)}
    published = GemmaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary, scored, apart))
    described = json.loads(published.backend_tokenizer.to_str())
    described["added_tokens"] = [
        added(number, token, special=kind == CONTROL)
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, TYPED)
    ]
    before = Tokenizer(json.dumps(described, ensure_ascii=False).encode())
    after = told_and_read(before, len(tokens), (1,), tmp_path)
    texts = [line for line in [*LINES, *real_lines()[1]] if "▁" not in line]
    same_ids(before, after, texts)
    original = tokenizer_of(file)
    for text in texts:
        assert original.ids(text).tolist() == after.ids(text).tolist()


def changed(kind: str, change: Callable[[dict[str, Any]], Any]) -> Tokenizer:
    """The tokenizer of a kind with something changed in its tokenizer.json."""
    described = json.loads(json_of(kind))
    change(described)
    roles = {"bos": (600,), "eos": (601,)} if kind == "qwen2" else {"bos": (1,), "eos": (2,)}
    return Tokenizer(json.dumps(described, ensure_ascii=False).encode(), "x", roles)


def added_like(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the last added token."""
    return lambda d: d["added_tokens"][-1].update(fields)


def around(*names: str, after: str = "") -> Callable[[dict[str, Any]], None]:
    """A change of what is put round a text."""

    def change(described: dict[str, Any]) -> None:
        ids = {each["content"]: each["id"] for each in described["added_tokens"]}
        token = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (*names, after) if name]
        place = len(names)
        text = {"Sequence": {"id": "A", "type_id": 0}}
        described["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [*token[:place], text, *token[place:]],
            "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [ids[n]], "tokens": [n]} for n in ids},
        }

    return change


def second_of_a_piece(merges: list[list[str]]) -> int:
    """The place of the first merge that makes the same piece as the one before it."""
    made = ["".join(pair) for pair in merges]
    return next(place for place in range(1, len(made)) if made[place] == made[place - 1])


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "words": ("qwen2", lambda d: d.update(model={
        "type": "WordLevel", "vocab": d["model"]["vocab"], "unk_token": "a"}), "'WordLevel'"),
    "dropout": ("qwen2", lambda d: d["model"].update(dropout=0.5), "dropout 0.5"),
    "a word's end": ("qwen2", lambda d: d["model"].update(end_of_word_suffix="</w>", merges=[]),
                     "end_of_word_suffix '</w>'"),
    "bytes that lack": ("qwen2", lambda d: d["model"].update(merges=[], vocab={
        token + "~" * (token == "~"): number for token, number in d["model"]["vocab"].items()}),
        "without '~'"),
    "pieces' bytes that lack": ("pieces", lambda d: d["model"].update(vocab={
        token.replace("<0x00>", "<0x0>"): n for token, n in d["model"]["vocab"].items()}),
        "without '<0x00>'"),
    "no unknown token": ("pieces", lambda d: d["model"].update(unk_token=None), "unknown token"),
    "two tokens of one id": ("qwen2", lambda d: d["model"]["vocab"].update({"~": 7}), "the id 7"),
    "other cuts": ("qwen2", lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(
        pattern={"Regex": r"\s+"}), r'the pre_tokenizer {"type": "Sequence"'),
    "cuts removed": ("qwen2", lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(
        behavior="Removed"), "the pre_tokenizer"),
    "a space before bytes": ("gpt-2", lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(
        add_prefix_space=True), "the pre_tokenizer"),
    "no cuts": ("gpt-2", lambda d: d.update(pre_tokenizer=None), "the pre_tokenizer none"),
    "a space unless there is one": ("pieces after a space", lambda d: d.update(
        normalizer=None, pre_tokenizer=METASPACE), 'the pre_tokenizer {"type": "Metaspace"'),
    "cuts of pieces at spaces": ("pieces after a space", lambda d: d.update(
        normalizer={"type": "Prepend", "prepend": "▁"},
        pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "Removed",
                       "invert": False}), "the pre_tokenizer"),
    "not composed": ("qwen2", lambda d: d.update(normalizer=None), "the normalizer none"),
    "small letters": ("gpt-2", lambda d: d.update(normalizer={"type": "Lowercase"}),
                      'the normalizer {"type": "Lowercase"}'),
    "small pieces": ("pieces after a space", lambda d: d["normalizer"]["normalizers"].insert(
        0, {"type": "Lowercase"}), "the normalizer"),
    "spaces kept": ("pieces", lambda d: d["decoder"]["decoders"].append(
        {"type": "Strip", "content": " ", "start": 2, "stop": 0}), "the decoder"),
    "whole words": ("qwen2", lambda d: d["model"].update(ignore_merges=True), "ignore_merges True"),
    "space taken up": ("qwen2", added_like(lstrip=True), "'<extra>' with lstrip"),
    "a word alone": ("qwen2", added_like(single_word=True), "'<extra>' with single_word"),
    "looked for in composed text": ("qwen2", added_like(normalized=True), "'<extra>', looked for"),
    "typed spaces": ("pieces after a space", added_like(content="▁▁▁"), "'▁▁▁'"),
    "two before a text": ("qwen2", around("<|begin|>", "<|im_start|>"), "round a text"),
    "another one before": ("qwen2", around("<|im_start|>"), "begins with '<|im_start|>'"),
    "what ends no answer": ("qwen2", around(after="<|pad|>"), "ends with '<|pad|>'"),
    "another post-processor": ("qwen2", lambda d: d.update(post_processor={
        "type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}), "BertProcessing"),
    "a merge less": ("pieces", lambda d: d["model"]["merges"].pop(), "no merge of"),
    "merges mixed up": ("pieces", lambda d: d["model"]["merges"].insert(
        0, d["model"]["merges"].pop(second_of_a_piece(d["model"]["merges"]))),
        "before and after another's"),
    "a long piece": ("pieces", added_like(content="x" * 300), "a token of 300"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_gguf_cannot_tell_is_refused_by_name(fault):
    kind, change, words = FAULTS[fault]
    tokenizer = changed(kind, change)
    with pytest.raises(BadInput, match=r"^name: .*which GGUF cannot tell") as caught:
        vocabulary_of(tokenizer, 704, tokenizer.roles["eos"], "name")
    assert words in str(caught.value)


def test_ids_that_would_not_come_back_are_refused():
    """Typed spaces that no raw text has: GGUF looks for them where pieces are spelled."""
    tokenizer = changed("pieces", added_like(content="▁▁▁", normalized=False))
    with pytest.raises(BadInput, match="the ids of"):
        vocabulary_of(tokenizer, 704, (2,), "x")


@pytest.mark.parametrize("ends", [(), (601, 602, 604, 605)])
def test_ends_that_do_not_fit_are_refused(ends):
    described = json_of("qwen2").encode()
    with pytest.raises(BadInput, match="an answer"):
        vocabulary_of(Tokenizer(described), 704, ends, "x")


def test_equal_tokenizers_are_told_in_equal_bytes(tmp_path):
    for name in "ab":
        told = vocabulary_of(Tokenizer(json_of("pieces").encode()), 704, (2,), "x")
        write_gguf(tmp_path / name, told, {}, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert np.isfinite(told["tokenizer.ggml.scores"]).all()
