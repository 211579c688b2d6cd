"""The tokenizer inside a GGUF file, made into a ``tokenizer.json`` that gives the same ids.

Two kinds of byte-pair encoding are found there: "gpt2", with its merges, on bytes spelt as
characters, and "llama", SentencePiece's, where a piece's score says when it is merged and what has
no piece falls apart into bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.reading import FETCH_AGAIN
from lmwright.models.core.memory import uncollected
from lmwright.models.files.gguf import Gguf
from lmwright.text.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, TYPED, UNUSED, BYTE = range(1, 7)
"""Types of tokens. A person's text becomes no control token, but where it has one that is TYPED
(called user-defined) this comes before all merging. UNUSED ones only fill the embedding's rows."""

LONGEST_PIECE = 256
SPACE = "▁"
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
WORDS = rf"{CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"


def words(digits: str) -> str:
    """Words with at most one other character before them, numbers, the rest with its line ends."""
    return (
        rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


@dataclass(frozen=True)
class Cuts:
    """Pre-tokenization: cuts at the matches of one pattern after another.

    A ``composed`` text is brought into Unicode's form NFC first. A ``whole`` piece that is a token
    is not merged from its parts. ``begin`` says that a text begins with bos where the file does
    not say.
    """

    patterns: tuple[str, ...]
    composed: bool = False
    whole: bool = False
    begin: bool = False


CUTS = {
    "gpt-2": Cuts((WORDS,)),
    "qwen2": Cuts((words(r"\p{N}"),), composed=True),
    "llama-bpe": Cuts((words(r"\p{N}{1,3}"),), whole=True, begin=True),
    "smollm": Cuts((r"\p{N}", WORDS)),
}
"""The cuts by the name that ``tokenizer.ggml.pre`` has for them."""

ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Roles of tokens by GGUF's keys."""


def tokenizer_of(file: Gguf) -> Tokenizer:
    """The file's tokenizer. BadInput for a kind that we do not have, Corrupt for a broken one."""
    where = f"{file.path.name}: tokenizer.ggml"
    with uncollected():
        return Tokenizer(tokenizer_json(file.metadata, where), where, roles_of(file.metadata))


def roles_of(metadata: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The ids of the roles that the metadata give to a token that is there."""
    types = metadata["tokenizer.ggml.token_type"]
    found = {role: metadata.get(f"tokenizer.ggml.{word}_token_id") for role, word in ROLES.items()}
    return {
        role: (number,)
        for role, number in found.items()
        if isinstance(number, int) and number < len(types) and types[number] != UNUSED
    }


def tokenizer_json(metadata: Mapping[str, Any], where: str) -> bytes:
    """The bytes of the ``tokenizer.json`` that the metadata describe; errors begin by ``where``."""
    fields = Fields(metadata, where)
    kinds = {"gpt2": on_bytes, "llama": on_pieces}
    kind = fields.get("model", str)
    if kind not in kinds:
        raise BadInput(f"{where}.model is {kind!r}", "a known kind", nearest(kind, kinds))
    made = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        **kinds[kind](fields),
        "post_processor": ends(fields, begins(kind, fields)),
    }
    return json.dumps(made, ensure_ascii=False).encode()


def begins(kind: str, fields: Fields) -> bool:
    """Default of ``add_bos_token``: True if a text begins with bos."""
    return kind == "llama" or CUTS[fields.get("pre", str)].begin


class Fields:
    """The metadata that a tokenizer needs, each looked at before use."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        self.metadata, self.where = metadata, where
        self.tokens: list[str] = self.get("tokens", list)
        self.types: list[int] = self.array("token_type")
        if self.get("model", str) == "llama":
            # A file may spell the spaces of typed tokens either way, a text only as spaces.
            self.tokens = [
                token.replace(SPACE, " ") if kind == TYPED else token
                for token, kind in zip(self.tokens, self.types, strict=True)
            ]
        self.ids = {
            token: number
            for number, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind != UNUSED
        }
        if len(self.ids) != len(self.tokens) - self.types.count(UNUSED):
            raise self.broken("tokens", "has a token twice", "each token once")

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of ``tokenizer.ggml.KEY``; Corrupt if it is absent or of another type."""
        found = self.metadata.get(f"tokenizer.ggml.{key}", default)
        if not isinstance(found, kind):
            raise self.broken(key, f"is of type {type(found).__name__}", kind.__name__)
        return found

    def array(self, key: str) -> list[Any]:
        """One number for each token."""
        found = self.get(key, np.ndarray)
        if len(found) != len(self.tokens):
            raise self.broken(key, f"has {len(found)} numbers", f"{len(self.tokens)}, one a token")
        return found.tolist()

    def token(self, key: str) -> str:
        """The token whose id ``tokenizer.ggml.KEY`` gives."""
        number = self.get(key, int)
        if number >= len(self.tokens) or self.types[number] == UNUSED:
            raise self.broken(key, f"is {number}", "the id of a token")
        return self.tokens[number]

    def broken(self, key: str, found: str, wanted: str) -> Corrupt:
        """The error that names the file and the key."""
        return Corrupt(f"{self.where}.{key} {found}", wanted, FETCH_AGAIN)


def added(fields: Fields, respelt: bool) -> list[dict[str, Any]]:
    """The tokens that are not found by merging; typed ones are looked for in the text as it is,
    or in the ``respelt`` one."""
    return [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": respelt and kind == TYPED,
            "special": kind != TYPED,
        }
        for number, (token, kind) in enumerate(zip(fields.tokens, fields.types, strict=True))
        if kind in (UNKNOWN, CONTROL, TYPED)
    ]


def ends(fields: Fields, begin: bool) -> dict[str, Any] | None:
    """The tokens set before and after a text; ``begin`` is what holds where the file is silent."""
    first = [fields.token("bos_token_id")] if fields.get("add_bos_token", bool, begin) else []
    last = [fields.token("eos_token_id")] if fields.get("add_eos_token", bool, False) else []
    if not first and not last:
        return None

    def around(text: str, kind: int) -> list[dict[str, Any]]:
        return [
            *({"SpecialToken": {"id": each, "type_id": kind}} for each in first),
            {"Sequence": {"id": text, "type_id": kind}},
            *({"SpecialToken": {"id": each, "type_id": kind}} for each in last),
        ]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {
            each: {"id": each, "ids": [fields.ids[each]], "tokens": [each]} for each in first + last
        },
    }


def on_bytes(fields: Fields) -> dict[str, Any]:
    """Tokens, steps and model of the kind "gpt2"."""
    name = fields.get("pre", str)
    if name not in CUTS:
        raise BadInput(f"{fields.where}.pre is {name!r}", "cuts that we have", nearest(name, CUTS))
    merges = [merge.split(" ") for merge in fields.get("merges", list)]
    if any(len(merge) != 2 for merge in merges):
        raise fields.broken("merges", "has a merge that is not of two", "two pieces each")
    return {
        "added_tokens": added(fields, respelt=False),
        **steps_on_bytes(name),
        "model": model(fields.ids, merges, None, whole=CUTS[name].whole),
    }


def steps_on_bytes(name: str) -> dict[str, Any]:
    """Normaliser, cuts and decoder of the kind "gpt2" with the cuts of this name."""
    spelt = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    cuts = [
        {"type": "Split", "pattern": {"Regex": each}, "behavior": "Isolated", "invert": False}
        for each in CUTS[name].patterns
    ]
    return {
        "normalizer": {"type": "NFC"} if CUTS[name].composed else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [*cuts, {**spelt, "use_regex": False}],
        },
        "decoder": {**spelt, "use_regex": False},
    }


def on_pieces(fields: Fields) -> dict[str, Any]:
    """Tokens, steps and model of the kind "llama"; there are no cuts."""
    before = fields.get("add_space_prefix", bool, True)
    return {
        # The space before a text would come before each typed token, too.
        "added_tokens": added(fields, respelt=not before),
        **steps_on_pieces(before),
        "model": model(fields.ids, merges_of(fields), fields.token("unknown_token_id")),
    }


def steps_on_pieces(before: bool) -> dict[str, Any]:
    """Normaliser and decoder of the kind "llama", with a space ``before`` a text or without."""
    to_piece = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    to_text: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if before:
        to_piece = [{"type": "Prepend", "prepend": SPACE}, *to_piece]
        to_text += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return {
        "normalizer": {"type": "Sequence", "normalizers": to_piece},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": to_text},
    }


def model(
    ids: dict[str, int], merges: list[list[str]], unknown: str | None, whole: bool = False
) -> dict[str, Any]:
    """The byte-pair encoding; with a token for the ``unknown`` it falls back to bytes first."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": unknown is not None,
        "byte_fallback": unknown is not None,
        "ignore_merges": whole,
        "vocab": ids,
        "merges": merges,
    }


def merges_of(fields: Fields) -> list[list[str]]:
    """All merges of two normal pieces into a third, the highest score first.

    SentencePiece takes the leftmost of equal scores, whatever its two parts; a list of merges
    cannot say this. Where a piece has several pairs of parts, the longer left part comes first.
    """
    scores = fields.array("scores")
    if not np.isfinite(scores).all():
        raise fields.broken("scores", "holds NaN or infinity", "finite scores")
    pieces = {
        token: score
        for token, kind, score in zip(fields.tokens, fields.types, scores, strict=True)
        if kind == NORMAL
    }
    longest = max(map(len, pieces), default=0)
    if longest > LONGEST_PIECE:
        raise fields.broken("tokens", f"has a piece of {longest}", f"{LONGEST_PIECE} characters")
    found = [
        (-score, -cut, [token[:cut], token[cut:]])
        for token, score in pieces.items()
        for cut in range(1, len(token))
        if token[:cut] in pieces and token[cut:] in pieces
    ]
    return [merge for _, _, merge in sorted(found)]
