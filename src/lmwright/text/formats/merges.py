"""vocab.json with merges.txt (GPT, GPT-2, RoBERTa, BlenderBot, Qwen 2, CLIP), and CLIP's list of
merges alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.reading import FETCH_AGAIN
from lmwright.text.formats.byte_level import CHARACTERS, OTHERS, PRINTABLE
from lmwright.text.formats.layout import (
    BYTE_LEVEL,
    Converted,
    added_token,
    around,
    bpe,
    check_ids,
    read_bytes,
    read_object,
    read_text,
    sequence,
    split,
    tokenizer_json,
    twice,
    utf8,
)
from lmwright.text.formats.sidecars import (
    added_beside,
    class_beside,
    roles_beside,
    settings_beside,
)

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WORD_END = "</w>"
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
CLIP_MERGES = 48_894
"""CLIP takes this many merges of its file, so that its vocabulary has 49,408 tokens."""
LARGEST_UNPACKED = 64 * 1024 * 1024
KINDS = {
    "GPT2Tokenizer": "gpt2",
    "RobertaTokenizer": "roberta",
    "BartTokenizer": "roberta",
    "Qwen2Tokenizer": "qwen2",
    "BlenderbotTokenizer": "blenderbot",
    "CLIPTokenizer": "clip",
    "OpenAIGPTTokenizer": "gpt",
}
"""The class of a tokenizer -> which way a text is cut and closed in."""
ROBERTA = {
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "sep": "</s>",
    "pad": "<pad>",
    "cls": "<s>",
    "mask": "<mask>",
}
ROLES = {
    "gpt": {"unk": "<unk>"},
    "gpt2": {"bos": "<|endoftext|>", "eos": "<|endoftext|>"},
    "roberta": ROBERTA,
    "blenderbot": ROBERTA,
    "qwen2": {"eos": "<|endoftext|>", "pad": "<|endoftext|>"},
    "clip": {"bos": CLIP_START, "eos": CLIP_END, "pad": CLIP_END},
}
"""The special tokens that these tokenizers have where no file beside them says otherwise."""

NORMALIZERS: dict[str, dict] = {
    "qwen2": {"type": "NFC"},
    "clip": sequence(
        "normalizers",
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ),
    "gpt": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
}
"""The normalizer of the whole text, if any."""


def read_merges(vocabulary: Path, merges: Path) -> Converted:
    """The tokenizer of vocab.json and merges.txt, of the class that the files beside them name.

    Without one it is CLIP's if its words end in ``</w>``, else GPT-2's. BadInput for another
    class; Corrupt for ids with holes, a token or merge twice, a merge of or to an unknown token.
    """
    known = vocabulary_of(read_object(vocabulary), vocabulary)
    pairs = pairs_of(read_text(merges), merges)
    check_merges(pairs, known, merges)
    added = added_beside(vocabulary.parent)
    check_ids(
        {**known, **{name: token["id"] for name, token in added.items()}}.values(), vocabulary
    )
    settings = settings_beside(vocabulary.parent)
    kind = kind_of(class_beside(vocabulary.parent), known, vocabulary)
    return converted(kind, known, pairs, added, settings, vocabulary.parent)


def read_clip(path: Path) -> Converted:
    """The tokenizer of CLIP's ``bpe_simple_vocab_16e6.txt.gz``: its merges are its vocabulary."""
    data = read_bytes(path)
    if data[:2] == b"\x1f\x8b":
        data = unpacked(data, path)
    pairs = pairs_of(utf8(data, path), path)[:CLIP_MERGES]
    letters = [CHARACTERS[byte] for byte in PRINTABLE + OTHERS]
    words = letters + [letter + WORD_END for letter in letters]
    words += ["".join(pair) for pair in pairs]
    words += [CLIP_START, CLIP_END]
    if len(set(words)) < len(words):
        raise Corrupt(f"{path}: {twice(words)!r} is made twice", "each token once", FETCH_AGAIN)
    known = {word: place for place, word in enumerate(words)}
    check_merges(pairs, known, path)
    return converted("clip", known, pairs, {}, {}, None)


def converted(
    kind: str,
    known: dict[str, int],
    pairs: list[list[str]],
    added: Mapping[str, dict],
    settings: Mapping[str, Any],
    folder: Path | None,
) -> Converted:
    """The tokenizer.json of one of the kinds."""
    ids = known | {name: token["id"] for name, token in added.items()}
    roles: dict[str, tuple[int, ...]] = {
        role: (ids[name],) for role, name in ROLES[kind].items() if name in ids
    }
    if folder:
        roles |= roles_beside(folder, ids)
    names = {number: name for name, number in ids.items()}
    special = {number for numbers in roles.values() for number in numbers}
    tokens = {number: added_token(number, names[number]) for number in sorted(special)}
    tokens |= {token["id"]: token for token in added.values()}
    parts: dict[str, Any] = {"pre_tokenizer": cut(kind, settings), "decoder": BYTE_LEVEL}
    suffix = WORD_END if kind in ("clip", "gpt") else None
    unknown = {"clip": CLIP_END, "gpt": "<unk>"}.get(kind)
    if kind in NORMALIZERS:
        parts["normalizer"] = NORMALIZERS[kind]
    if kind == "gpt":
        parts["decoder"] = {"type": "BPEDecoder", "suffix": WORD_END}
    closed = closing(kind, settings, roles, names)
    data = tokenizer_json(
        bpe(ids, pairs, end_of_word_suffix=suffix, unk_token=unknown),
        post_processor=closed,
        added=tokens.values(),
        **parts,
    )
    return Converted(data, roles)


def cut(kind: str, settings: Mapping[str, Any]) -> dict:
    """The pre-tokenizer: words, whose bytes are then spelled as characters."""
    space = bool(settings.get("add_prefix_space", kind == "blenderbot"))
    letters = {**BYTE_LEVEL, "add_prefix_space": space}
    if kind == "gpt":
        return {"type": "BertPreTokenizer"}
    if kind == "clip":
        wanted = {**split(CLIP), "behavior": "Removed", "invert": True}
        return sequence("pretokenizers", wanted, BYTE_LEVEL)
    if kind == "qwen2":
        return sequence("pretokenizers", split(QWEN2), letters)
    # The built-in pattern is GPT-2's; unlike Split it sees the space that is put in front.
    return {**letters, "use_regex": True}


def closing(
    kind: str,
    settings: Mapping[str, Any],
    roles: Mapping[str, tuple[int, ...]],
    names: Mapping[int, str],
) -> dict | None:
    """The special tokens round a text."""
    inside = {"roberta": ("cls", "sep"), "clip": ("bos", "eos")}.get(kind)
    if inside:
        first, last = ((names[roles[role][0]], roles[role][0]) for role in inside)
        if kind == "clip":
            return around([first], [last])
        return {
            "type": "RobertaProcessing",
            "sep": list(last),
            "cls": list(first),
            "trim_offsets": True,
            "add_prefix_space": bool(settings.get("add_prefix_space", False)),
        }
    if kind == "blenderbot":
        return around([], [(names[roles["eos"][0]], roles["eos"][0])])
    sides = []
    for role in ("bos", "eos"):
        wanted = settings.get(f"add_{role}_token") and role in roles
        sides.append([(names[roles[role][0]], roles[role][0])] if wanted else [])
    return around(*sides)


def vocabulary_of(value: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Token -> id, as vocab.json has it; Corrupt if an id is not a number."""
    for name, number in value.items():
        if type(number) is not int or number < 0:
            raise Corrupt(f"{path}: {name!r} has id {number!r}", "a number from 0", FETCH_AGAIN)
    return dict(value)


def pairs_of(text: str, path: Path) -> list[list[str]]:
    """The merges in their order; a first line that begins with #version is a heading."""
    lines = text.split("\n")
    # CLIP's own heading has the name of its file before the word.
    start = 1 if "#version" in lines[0] else 0
    pairs = []
    for number, line in enumerate(lines[start:], start=start + 1):
        if not line.strip():
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2 or not all(pair):
            raise Corrupt(f"{path}: line {number} is {line[:40]!r}", "two words", FETCH_AGAIN)
        pairs.append(pair)
    if len({tuple(pair) for pair in pairs}) < len(pairs):
        found = twice(tuple(pair) for pair in pairs)
        raise Corrupt(f"{path}: the merge {' '.join(found)!r} twice", "each once", FETCH_AGAIN)
    return pairs


def check_merges(pairs: list[list[str]], known: Mapping[str, int], path: Path) -> None:
    """Corrupt unless the vocabulary has both sides of every merge, and what it makes."""
    for left, right in pairs:
        for token in (left, right, left + right):
            if token not in known:
                raise Corrupt(
                    f"{path}: the merge of {left!r} and {right!r} needs {token!r}",
                    "a token of the vocabulary",
                    "take both files from the same model",
                )


def kind_of(name: str, known: Mapping[str, int], path: Path) -> str:
    """Which of the kinds a tokenizer of this class (nothing: none is named) is."""
    if not name:
        return "clip" if any(word.endswith(WORD_END) for word in known) else "gpt2"
    if name not in KINDS:
        raise BadInput(
            f"{path.parent}: no tokenizer class {name!r} is known for {path.name}",
            "a class whose way of cutting words is known, or a tokenizer.json",
            nearest(name, KINDS),
        )
    return KINDS[name]


def unpacked(data: bytes, path: Path) -> bytes:
    """The content of a gzip file, bounded by the size of any list of merges."""
    stream = zlib.decompressobj(wbits=31)
    try:
        found = stream.decompress(data, LARGEST_UNPACKED)
    except zlib.error as error:
        raise Corrupt(f"{path}: {error}", "a gzip file", FETCH_AGAIN) from None
    if stream.unconsumed_tail:
        raise BadInput(f"{path} unpacks to more than {LARGEST_UNPACKED} bytes", "fewer")
    if not stream.eof:
        raise Corrupt(f"{path} ends too early", "a whole gzip file", FETCH_AGAIN)
    return found
