"""The parts of a tokenizer.json, and what every reader of tokenizer files checks first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.reading import FETCH_AGAIN

LARGEST = 256 * 1024 * 1024
"""No tokenizer file that is in use comes near this many bytes."""
LONGEST = 512
"""The longest token of a vocabulary of merges, in bytes; what is tried grows with its square."""
PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}
SPACE = "\u2581"
"""The stand-in for a space in the pieces of SentencePiece."""
OFF = "\0"
"""The prefix of a piece that no text becomes, as this character is removed from texts."""


@dataclass(frozen=True)
class Converted:
    """A tokenizer.json's bytes, and the ids of the special roles (bos, eos, pad, ...)."""

    data: bytes
    roles: dict[str, tuple[int, ...]] = field(default_factory=dict)


def tokenizer_json(
    model: Mapping[str, Any],
    *,
    normalizer: Mapping[str, Any] | None = None,
    pre_tokenizer: Mapping[str, Any] | None = None,
    post_processor: Mapping[str, Any] | None = None,
    decoder: Mapping[str, Any] | None = None,
    added: Iterable[Mapping[str, Any]] = (),
) -> bytes:
    """The bytes of a tokenizer.json; equal parts give equal bytes."""
    parts = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    }
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode()


def added_token(number: int, content: str, *, special: bool = True, **flags: bool) -> dict:
    """One entry of ``added_tokens``: matched as it is written, before the text is normalized."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, **plain, **flags, "special": special}


def bpe(vocabulary: Mapping[str, int], merges: list[list[str]], **settings: Any) -> dict:
    """A model of byte pair encoding; the merges in the order in which they are done."""
    plain = {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return {"type": "BPE", **plain, **settings, "vocab": vocabulary, "merges": merges}


def split(pattern: str) -> dict:
    """Cut the text where the regular expression says; every piece is kept."""
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def sequence(kind: str, *steps: Mapping[str, Any]) -> dict:
    """Steps one after another; ``kind`` is the name of their list, ``pretokenizers`` say."""
    return {"type": "Sequence", kind: list(steps)}


def around(before: Iterable[tuple[str, int]], after: Iterable[tuple[str, int]]) -> dict | None:
    """Put special tokens before and after each text; None if there are none."""
    first, last = list(before), list(after)
    if not first and not last:
        return None

    def token(name: str, kind: int) -> dict:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    def text(name: str, kind: int) -> list[dict]:
        return [
            *(token(each, kind) for each, _ in first if kind == 0),
            {"Sequence": {"id": name, "type_id": kind}},
            *(token(each, kind) for each, _ in last),
        ]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": text("A", 0) + text("B", 1),
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [name]} for name, number in first + last
        },
    }


def read_bytes(path: Path) -> bytes:
    """The file's bytes; BadInput if it is absent, a pickle, or larger than any tokenizer."""
    if path.suffix.lower() in PICKLED:
        raise refused_pickle(path)
    if not path.is_file():
        raise BadInput(f"{path} is not there", "a tokenizer's file", FETCH_AGAIN)
    size = path.stat().st_size
    if size > LARGEST:
        raise BadInput(f"{path} has {size} bytes", f"a tokenizer of at most {LARGEST}", FETCH_AGAIN)
    data = path.read_bytes()
    # A pickle of protocol 2 or later, or the archive that holds one, whatever its name is.
    if (data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05") or data[:4] == b"PK\x03\x04":
        raise refused_pickle(path)
    return data


def refused_pickle(path: Path) -> BadInput:
    """The error for a file whose format can run code."""
    return BadInput(
        f"{path.name} is a pickle, which can run code when it is opened",
        "a tokenizer.json, .model, .tiktoken, vocab.json with merges.txt, or vocab.txt",
        "ask the model's author for one of these",
    )


def read_text(path: Path) -> str:
    """The file's text; Corrupt if it is not UTF-8."""
    return utf8(read_bytes(path), path)


def utf8(data: bytes, path: Path) -> str:
    """``data`` as text; Corrupt if it is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Corrupt(f"{path}: byte {error.start} is not UTF-8", "UTF-8", FETCH_AGAIN) from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file, in which no name may stand twice."""
    try:
        value = json.loads(read_text(path), object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise Corrupt(
            f"{path}: {error}", "a JSON object with each name once", FETCH_AGAIN
        ) from None
    if not isinstance(value, dict):
        raise Corrupt(f"{path} holds no JSON object", "a JSON object", FETCH_AGAIN)
    return value


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError if a name stands in it twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{twice(name for name, _ in pairs)!r} stands there twice")
    return found


def twice(names: Iterable[Any]) -> Any:
    """The first of the names that is there more than once."""
    return next(name for name, count in Counter(names).items() if count > 1)


def check_ids(numbers: Iterable[int], path: Path) -> None:
    """Corrupt unless the ids are 0, 1, 2, ... without a hole and without one given twice."""
    found = list(numbers)
    if sorted(found) == list(range(len(found))):
        return
    if len(set(found)) < len(found):
        raise Corrupt(f"{path}: id {twice(found)} is given twice", "one token an id", FETCH_AGAIN)
    hole = next(number for number in range(len(found)) if number not in set(found))
    raise Corrupt(f"{path}: no token has id {hole}", f"ids 0 to {len(found) - 1}", FETCH_AGAIN)
