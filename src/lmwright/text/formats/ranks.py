"""Rank files of tiktoken: each line a token's bytes in base64 and its rank, which is its id.

The file says neither how a text is cut into words nor which tokens are special. Both belong to
an encoding with a name; the encoding of a file is known by the number of its ranks.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.reading import FETCH_AGAIN
from lmwright.text.formats.byte_level import spelled
from lmwright.text.formats.layout import (
    BYTE_LEVEL,
    LONGEST,
    Converted,
    added_token,
    bpe,
    check_ids,
    read_bytes,
    sequence,
    split,
    tokenizer_json,
)

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Encoding:
    """The pattern that cuts a text into words, and the special tokens with ids and roles."""

    ranks: int
    pattern: str
    special: Mapping[str, int]
    roles: Mapping[str, str] = field(default_factory=dict)


def reserved(first: int, count: int) -> dict[str, int]:
    """The special tokens that Llama 3 keeps for later use."""
    return {f"<|reserved_special_token_{first + each}|>": each for each in range(count)}


def llama3_special() -> dict[str, int]:
    """The 256 special tokens of Llama 3, after its ranks (``tokenizer.py`` of its release)."""
    names = ["<|begin_of_text|>", "<|end_of_text|>", *reserved(0, 4)]
    names += ["<|start_header_id|>", "<|end_header_id|>", *reserved(4, 1), "<|eot_id|>"]
    names += reserved(5, 246)
    return {name: 128_000 + place for place, name in enumerate(names)}


END = "<|endoftext|>"
ENCODINGS = {
    "gpt2": Encoding(50_256, GPT2, {END: 50_256}, {"bos": END, "eos": END}),
    "cl100k_base": Encoding(
        100_256,
        CL100K,
        {
            END: 100_257,
            "<|fim_prefix|>": 100_258,
            "<|fim_middle|>": 100_259,
            "<|fim_suffix|>": 100_260,
            "<|endofprompt|>": 100_276,
        },
        {"eos": END},
    ),
    "llama3": Encoding(
        128_000,
        CL100K,
        llama3_special(),
        {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"},
    ),
}
"""Sources: openai/tiktoken ``openai_public.py``; the release of Llama 3."""


def read_ranks(path: Path, encoding: str = "") -> Converted:
    """The tokenizer of a rank file, under the named encoding or the one with as many ranks.

    BadInput if no encoding fits, Corrupt for a file that is not one of ranks 0, 1, 2, ...
    """
    ranks = ranks_of(read_bytes(path), path)
    known = encoding_of(ranks, path, encoding)
    vocabulary = {spelled(token): rank for token, rank in ranks.items()} | dict(known.special)
    # The added tokens' ids may leave a hole after the ranks; the vocabulary keeps them in place.
    model = bpe(vocabulary, merges_of(ranks), ignore_merges=True)
    data = tokenizer_json(
        model,
        pre_tokenizer=sequence("pretokenizers", split(known.pattern), BYTE_LEVEL),
        decoder=BYTE_LEVEL,
        added=[added_token(number, name) for name, number in known.special.items()],
    )
    roles: dict[str, tuple[int, ...]] = {
        role: (known.special[name],) for role, name in known.roles.items()
    }
    return Converted(data, roles)


def ranks_of(data: bytes, path: Path) -> dict[bytes, int]:
    """Bytes of each token -> its rank."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            word, rank = line.split()
            token = base64.b64decode(word, validate=True)
            value = int(rank)
        except (ValueError, binascii.Error):
            raise Corrupt(
                f"{path}: line {number} is not a token in base64 and its rank",
                "two words a line",
                FETCH_AGAIN,
            ) from None
        if token in ranks or not 0 < len(token) <= LONGEST:
            what = "stands there twice" if token in ranks else f"has {len(token)} bytes"
            raise Corrupt(f"{path}: line {number}: the token {what}", "each once", FETCH_AGAIN)
        ranks[token] = value
    check_ids(ranks.values(), path)
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise Corrupt(f"{path} has no token for byte {byte}", "all 256 bytes", FETCH_AGAIN)
    return ranks


def encoding_of(ranks: Mapping[bytes, int], path: Path, name: str) -> Encoding:
    """The encoding that was asked for, or the known one with as many ranks."""
    if name:
        if name not in ENCODINGS:
            raise BadInput(
                f"no encoding is called {name!r}", "a known one", nearest(name, ENCODINGS)
            )
        if ENCODINGS[name].ranks != len(ranks):
            raise BadInput(
                f"{path} has {len(ranks)} ranks", f"{ENCODINGS[name].ranks}, as {name} has"
            )
        return ENCODINGS[name]
    for encoding in ENCODINGS.values():
        if encoding.ranks == len(ranks):
            return encoding
    sizes = ", ".join(f"{each.ranks} ({key})" for key, each in ENCODINGS.items())
    raise BadInput(
        f"{path} has {len(ranks)} ranks, and it does not say how a text is cut into words",
        f"the ranks of a known encoding: {sizes}",
        "take the model's tokenizer.json",
    )


def merges_of(ranks: Mapping[bytes, int]) -> list[list[str]]:
    """Every pair of tokens that makes a token, in the order in which tiktoken would join them.

    tiktoken joins whichever neighbours make the token of lowest rank, however they are cut; a
    list of merges says the same if it names each way to cut each token.
    """
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [
            (ranks[token[:cut]], ranks[token[cut:]], cut)
            for cut in range(1, len(token))
            if token[:cut] in ranks and token[cut:] in ranks
        ]
        merges += [[spelled(token[:cut]), spelled(token[cut:])] for _, _, cut in sorted(cuts)]
    return merges
