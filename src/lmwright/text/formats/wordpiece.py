"""vocab.txt of BERT: one token a line, its id the number of the line from 0."""

from __future__ import annotations

from pathlib import Path

from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.reading import FETCH_AGAIN
from lmwright.text.formats.layout import (
    Converted,
    added_token,
    around,
    read_text,
    tokenizer_json,
    twice,
)
from lmwright.text.formats.sidecars import (
    added_beside,
    class_beside,
    roles_beside,
    settings_beside,
)

ROLES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
KINDS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")
"""Classes of tokenizers that cut a text as BERT's does."""
LONGEST_WORD = 100
"""BERT takes a longer word for unknown."""


def read_wordpiece(path: Path) -> Converted:
    """The tokenizer of a vocab.txt; lower case and accents as tokenizer_config.json says.

    Corrupt if a token stands there twice or [UNK], [CLS] or [SEP] is missing; BadInput if a file
    beside it names another class of tokenizers.
    """
    kind = class_beside(path.parent)
    if kind and kind not in KINDS:
        raise BadInput(
            f"{path.parent}: no tokenizer class {kind!r} is known for {path.name}",
            "a class whose way of cutting words is BERT's, or a tokenizer.json",
            nearest(kind, KINDS),
        )
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    words = lines[:-1] if not lines[-1] else lines
    if len(set(words)) < len(words):
        raise Corrupt(f"{path}: the token {twice(words)!r} twice", "each once", FETCH_AGAIN)
    ids = {word: place for place, word in enumerate(words)}
    settings = settings_beside(path.parent)
    added = added_beside(path.parent)
    ids |= {name: token["id"] for name, token in added.items()}
    roles: dict[str, tuple[int, ...]] = {
        role: (ids[name],) for role, name in ROLES.items() if name in ids
    }
    roles |= roles_beside(path.parent, ids)
    for role in ("unk", "cls", "sep"):
        if role not in roles:
            raise Corrupt(f"{path} has no {ROLES[role]}", "a vocabulary of BERT", FETCH_AGAIN)
    names = {number: name for name, number in ids.items()}
    first, last = ((names[roles[role][0]], roles[role][0]) for role in ("cls", "sep"))
    special = sorted({number for numbers in roles.values() for number in numbers})
    tokens = {number: added_token(number, names[number]) for number in special}
    tokens |= {token["id"]: token for token in added.values()}
    data = tokenizer_json(
        {
            "type": "WordPiece",
            "unk_token": names[roles["unk"][0]],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": LONGEST_WORD,
            "vocab": ids,
        },
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": bool(settings.get("tokenize_chinese_chars", True)),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": bool(settings.get("do_lower_case", True)),
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=around([first], [last]),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        added=tokens.values(),
    )
    return Converted(data, roles)
