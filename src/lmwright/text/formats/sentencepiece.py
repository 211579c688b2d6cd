"""SentencePiece's .model: a protocol buffer with the pieces, their scores and the normalizer.

Read by field number (google/sentencepiece ``sentencepiece_model.proto``), without the package.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.reading import FETCH_AGAIN
from lmwright.text.formats.layout import (
    LONGEST,
    OFF,
    SPACE,
    Converted,
    added_token,
    around,
    bpe,
    check_ids,
    read_bytes,
    read_object,
    sequence,
    tokenizer_json,
    twice,
)
from lmwright.text.formats.sidecars import (
    added_beside,
    checked_id,
    class_beside,
    roles_beside,
    settings_beside,
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
LANGUAGE = 7
"""Not in the file: a token that a person may type, to say which language a text is to become."""
UNIGRAM, BPE = 1, 2
BONUS = -0.1
"""The score of a user's symbol: better than a normal piece's, as those are logarithms."""
MOST_SENTINELS = 10_000
ALL = 1 << 20
"""More spaces than stand before a text."""
LANGUAGES = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN",
    "hi_IN", "it_IT", "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP",
    "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN", "zh_CN",
)  # fmt: skip
"""The languages of mBART (Liu et al. 2020, table 1), in the order of their tokens."""
MANY_LANGUAGES = {
    "m2m100": (
        "af", "am", "ar", "ast", "az", "ba", "be", "bg", "bn", "br", "bs", "ca", "ceb", "cs",
        "cy", "da", "de", "el", "en", "es", "et", "fa", "ff", "fi", "fr", "fy", "ga", "gd", "gl",
        "gu", "ha", "he", "hi", "hr", "ht", "hu", "hy", "id", "ig", "ilo", "is", "it", "ja", "jv",
        "ka", "kk", "km", "kn", "ko", "lb", "lg", "ln", "lo", "lt", "lv", "mg", "mk", "ml", "mn",
        "mr", "ms", "my", "ne", "nl", "no", "ns", "oc", "or", "pa", "pl", "ps", "pt", "ro", "ru",
        "sd", "si", "sk", "sl", "so", "sq", "sr", "ss", "su", "sv", "sw", "ta", "th", "tl", "tn",
        "tr", "uk", "ur", "uz", "vi", "wo", "xh", "yi", "yo", "zh", "zu",
    ),
    "wmt21": ("en", "ha", "is", "ja", "cs", "ru", "zh", "de"),
}  # fmt: skip
"""The languages of M2M-100 (Fan et al. 2021, table 1) and of its kin for WMT 2021, by the setting
``language_codes``, in the order of their tokens."""
VOCABULARY = "vocab.json"
SPECIAL = ("<s>", "</s>", "<unk>", "<pad>", "<mask>")
CODE = re.compile(">>[^<>]+<<")
"""How Marian's translators into several languages are told which one, before the text."""
NOWHERE = "\ufffe"
"""No character, so that no piece has it: what a text has in place of :data:`OFF`."""
LEAST_KNOWN = 0.95
"""The share of a model's pieces that its vocabulary must have; some are so rare that none does."""
OTHER_RECIPE = "take the model's tokenizer.json"


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class PieceModel:
    """What the file says, with the defaults of its schema where it says nothing."""

    pieces: tuple[Piece, ...]
    kind: int
    byte_fallback: bool
    charsmap: bytes
    dummy_prefix: bool
    squeeze: bool


@dataclass(frozen=True)
class Kind:
    """What a class of tokenizers adds to a model, given the settings beside it: pieces round its
    own, special tokens round a text, steps before its normalizer. ``sides`` name roles; None: as
    the settings say. ``listed``: the ids stand in a vocab.json beside the model.
    """

    pieces: Callable[[tuple[Piece, ...], Mapping[str, Any]], tuple[Piece, ...]] = (
        lambda pieces, settings: pieces
    )
    sides: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    roles: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda settings: {}
    steps: Callable[[Mapping[str, Any]], list[dict[str, Any]]] = lambda settings: []
    listed: bool = False


def with_sentinels(pieces: tuple[Piece, ...], settings: Mapping[str, Any]) -> tuple[Piece, ...]:
    """T5: behind the model's pieces stand those that mark what was left out, the last one first."""
    count = settings.get("extra_ids", 100)
    if type(count) is not int or not 0 <= count <= MOST_SENTINELS:
        raise ValueError(f"extra_ids is {count!r}")
    names = [f"<extra_id_{number}>" for number in reversed(range(count))]
    return (*pieces, *(Piece(name, 0.0, CONTROL) for name in names))


def as_fairseq(pieces: tuple[Piece, ...], settings: Mapping[str, Any]) -> tuple[Piece, ...]:
    """XLM-R: fairseq's own four tokens in place of the model's first three, a mask at the end."""
    if [piece.text for piece in pieces[:3]] != ["<unk>", "<s>", "</s>"]:
        raise ValueError("the model does not begin with <unk>, <s> and </s>")
    first = [("<s>", CONTROL), ("<pad>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN)]
    found = (*(Piece(name, 0.0, kind) for name, kind in first), *pieces[3:])
    return (*found, Piece("<mask>", 0.0, CONTROL))


def with_languages(pieces: tuple[Piece, ...], settings: Mapping[str, Any]) -> tuple[Piece, ...]:
    """mBART: as XLM-R, with the languages' tokens before the mask."""
    *found, mask = as_fairseq(pieces, settings)
    return (*found, *(Piece(name, 0.0, CONTROL) for name in LANGUAGES), mask)


def with_many_languages(
    pieces: tuple[Piece, ...], settings: Mapping[str, Any]
) -> tuple[Piece, ...]:
    """M2M-100: the languages' tokens behind the vocabulary."""
    name = str(settings.get("language_codes", "m2m100"))
    if name not in MANY_LANGUAGES:
        raise ValueError(f"language_codes is {name!r}")
    return (*pieces, *(Piece(f"__{code}__", 0.0, CONTROL) for code in MANY_LANGUAGES[name]))


def of_one_vocabulary(pieces: tuple[Piece, ...], settings: Mapping[str, Any]) -> tuple[Piece, ...]:
    """Marian: nothing more, but source and target must share their ids."""
    if settings.get("separate_vocabs"):
        raise ValueError("separate_vocabs: each side has ids of its own")
    return pieces


def without_accents(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """XLNet: quotes of one kind, no accents, and lower case if that is set."""
    quotes = [
        {"type": "Replace", "pattern": {"String": pair}, "content": '"'} for pair in ("``", "''")
    ]
    lower = [{"type": "Lowercase"}] if settings.get("do_lower_case") else []
    return [*quotes, {"type": "NFKD"}, {"type": "StripAccents"}, *lower]


def roles_of_languages(settings: Mapping[str, Any]) -> Mapping[str, str]:
    """mBART: who plays which role, and the language that a text is said to be in."""
    return {"mask": "<mask>", "language": settings.get("src_lang") or "en_XX"}


def roles_of_many(settings: Mapping[str, Any]) -> Mapping[str, str]:
    """M2M-100: the language that a text is said to be in."""
    return {"language": f"__{settings.get('src_lang') or 'en'}__"}


KINDS = {
    "": Kind(),
    "LlamaTokenizer": Kind(),
    "GemmaTokenizer": Kind(),
    "T5Tokenizer": Kind(with_sentinels, ((), ("eos",))),
    "XLMRobertaTokenizer": Kind(
        as_fairseq,
        (("cls",), ("sep",)),
        lambda settings: {"cls": "<s>", "sep": "</s>", "mask": "<mask>"},
    ),
    "MBartTokenizer": Kind(with_languages, ((), ("eos", "language")), roles_of_languages),
    "M2M100Tokenizer": Kind(
        with_many_languages, (("language",), ("eos",)), roles_of_many, listed=True
    ),
    "MarianTokenizer": Kind(of_one_vocabulary, ((), ("eos",)), listed=True),
    "XLNetTokenizer": Kind(
        sides=((), ("sep", "cls")),
        roles=lambda settings: {"sep": "<sep>", "cls": "<cls>", "mask": "<mask>"},
        steps=without_accents,
    ),
}
"""The class of a tokenizer -> what it adds to a SentencePiece model."""


def read_sentencepiece(path: Path) -> Converted:
    """The tokenizer of a unigram or BPE model; the ids are the places of the pieces.

    As in SentencePiece nothing is put round a text, unless a tokenizer_config.json beside the
    file asks for it (``add_bos_token``, ``add_eos_token``), or the files beside it name a class
    that adds more. Corrupt if the file is not a whole model; BadInput for a class of which that is
    not known, and for what no tokenizer.json can say.
    """
    kind = kind_of(class_beside(path.parent), path)
    settings = settings_beside(path.parent)
    model = parsed(read_bytes(path), path)
    if kind.listed:
        model = in_order(model, path)
    try:
        model = replace(model, pieces=kind.pieces(model.pieces, settings))
    except ValueError as error:
        raise Corrupt(f"{path}: {error}", f"what {class_beside(path.parent)} has") from None
    beside = added_beside(path.parent)
    model = with_added(model, beside.values(), path)
    check(model, path)
    names = [name_of(piece) for piece in model.pieces]
    ids = {name: place for place, name in enumerate(names)}
    roles = roles_of(model, kind.roles(settings)) | roles_beside(path.parent, ids)
    sides = [
        [(names[roles[role][0]], roles[role][0]) for role in side]
        for side in sides_of(kind, settings, roles, path)
    ]
    added = {token["id"]: token for token in [*added_of(model), *beside.values()]}
    data = tokenizer_json(
        unigram_of(model) if model.kind == UNIGRAM else bpe_of(model, ids),
        normalizer=normalizer_of(model, kind.steps(settings)),
        pre_tokenizer=first_space() if model.dummy_prefix and in_pieces(model) else None,
        post_processor=around(*sides),
        decoder=decoder_of(model),
        added=added.values(),
    )
    return Converted(data, roles)


def in_order(model: PieceModel, path: Path) -> PieceModel:
    """The model with its pieces in the order of a vocab.json beside it.

    A word that the model has no piece for (of the other language, say) is one that no text
    becomes, unless it is special or a language's. A piece that has no id is left out, so that
    its text is cut into others; the reference reads it as unknown. Corrupt if the ids have holes,
    or if the vocabulary is another model's.
    """
    beside = path.with_name(VOCABULARY)
    ids = read_object(beside)
    check_ids([checked_id(number, beside) for number in ids.values()], beside)
    pieces = {piece.text: piece for piece in model.pieces}
    known = sum(name in ids for name in pieces)
    if known < LEAST_KNOWN * len(pieces):
        raise Corrupt(
            f"{beside} has {known} of the {len(pieces)} pieces of {path.name}",
            "nearly all of them",
            "take all files from the same model",
        )

    def other(name: str) -> Piece:
        kind = CONTROL if name in SPECIAL else LANGUAGE if CODE.fullmatch(name) else UNUSED
        return Piece(name, 0.0, kind)

    listed = sorted(ids, key=lambda name: ids[name])
    return replace(model, pieces=tuple(pieces.get(name) or other(name) for name in listed))


def name_of(piece: Piece) -> str:
    """What a piece is called in the vocabulary: what is switched off by a name no text has."""
    return OFF + piece.text if piece.kind == UNUSED else piece.text


def sides_of(
    kind: Kind, settings: Mapping[str, Any], roles: Mapping[str, Any], path: Path
) -> tuple[tuple[str, ...], ...]:
    """The roles of what stands before and after a text; Corrupt for one that nothing plays."""
    if kind.sides is None:
        asked = (role if settings.get(f"add_{role}_token") else "" for role in ("bos", "eos"))
        return tuple((role,) if role in roles else () for role in asked)
    for role in (*kind.sides[0], *kind.sides[1]):
        if role not in roles:
            raise Corrupt(f"{path} has no {role} token", "one, by its class", FETCH_AGAIN)
    return kind.sides


def with_added(model: PieceModel, added: Iterable[Mapping[str, Any]], path: Path) -> PieceModel:
    """The model with the tokens that were added later behind its pieces; Corrupt for a hole, or
    for another piece that has one's id."""
    pieces = list(model.pieces)
    for number, name in sorted((token["id"], token["content"]) for token in added):
        if number == len(pieces):
            pieces.append(Piece(name, 0.0, CONTROL))
        elif number > len(pieces) or pieces[number].text != name:
            raise Corrupt(
                f"{path.parent}: the added token {name!r} has id {number}",
                f"ids from {len(pieces)} on, without a hole",
                "take all files from the same model",
            )
    return replace(model, pieces=tuple(pieces))


def kind_of(name: str, path: Path) -> Kind:
    """What a class of tokenizers (nothing: none is named) adds."""
    if name not in KINDS:
        raise BadInput(
            f"{path.parent}: no tokenizer class {name!r} is known for {path.name}",
            "a class of which it is known what it adds, or a tokenizer.json",
            nearest(name, [each for each in KINDS if each]),
        )
    return KINDS[name]


def roles_of(model: PieceModel, more: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """The special tokens that have their roles by the model's own word, or by their class's."""
    names = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", **more}
    special = {piece.text: n for n, piece in enumerate(model.pieces) if piece.kind == CONTROL}
    found = {role: (special[name],) for role, name in names.items() if name in special}
    return {"unk": ([piece.kind for piece in model.pieces].index(UNKNOWN),), **found}


def check(model: PieceModel, path: Path) -> None:
    """BadInput for what cannot be converted, Corrupt for pieces that contradict each other."""
    names = [piece.text for piece in model.pieces]
    kinds = [piece.kind for piece in model.pieces]
    if len(set(names)) < len(names):
        raise Corrupt(f"{path}: the piece {twice(names)!r} twice", "each once", FETCH_AGAIN)
    if kinds.count(UNKNOWN) != 1 or not all(names):
        raise Corrupt(f"{path}: not exactly one unknown piece, or an empty one", "one", FETCH_AGAIN)
    if not all(np.isfinite(piece.score) for piece in model.pieces):
        raise Corrupt(f"{path}: a score is not a finite number", "finite scores", FETCH_AGAIN)
    if model.byte_fallback and kinds.count(BYTE) != 256:
        raise Corrupt(f"{path} has {kinds.count(BYTE)} bytes", "256", FETCH_AGAIN)
    if UNUSED in kinds and model.kind == BPE:
        raise BadInput(f"{path} has pieces that are switched off", "a full model", OTHER_RECIPE)
    if in_pieces(model) and model.squeeze:
        raise BadInput(
            f"{path} is BPE with symbols of the user's, and squeezes spaces",
            "one of the two",
            OTHER_RECIPE,
        )


def in_pieces(model: PieceModel) -> bool:
    """Whether symbols of the user's cut a text into pieces before it is normalized."""
    return model.kind == BPE and any(piece.kind == USER_DEFINED for piece in model.pieces)


def unigram_of(model: PieceModel) -> dict:
    """Pieces and scores, with which the likeliest cut of a text is found.

    Symbols of the user's get the score that SentencePiece gives them, whatever the file says. A
    byte's piece must never match a text that spells its name; as a score is all that holds it
    off, it gets one which is worse than that of any pieces that spell it. What is switched off
    has the lowest score of the others, from which that of the unknown is reckoned.
    """
    lowest = min(piece.score for piece in model.pieces if piece.kind not in (BYTE, UNUSED))
    special = {USER_DEFINED: BONUS, BYTE: lowest - 1000.0, UNUSED: lowest}

    def score(piece: Piece) -> float:
        return special.get(piece.kind, piece.score)

    kinds = [piece.kind for piece in model.pieces]
    return {
        "type": "Unigram",
        "unk_id": kinds.index(UNKNOWN),
        "vocab": [[name_of(piece), score(piece)] for piece in model.pieces],
        "byte_fallback": model.byte_fallback,
    }


def bpe_of(model: PieceModel, ids: dict[str, int]) -> dict:
    """The pieces, and each pair of them that makes a piece, best score first."""
    plain = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
    merges = []
    for text, score in plain.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in plain and right in plain:
                merges.append((-score, ids[text], ids[left], ids[right], left, right))
    kinds = [piece.kind for piece in model.pieces]
    return bpe(
        ids,
        [[left, right] for *_, left, right in sorted(merges)],
        unk_token=model.pieces[kinds.index(UNKNOWN)].text,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def normalizer_of(model: PieceModel, first: Sequence[dict[str, Any]] = ()) -> dict:
    """Characters mapped, spaces squeezed, one put in front, and all spelled U+2581."""
    steps = list(first)
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if any(piece.kind == UNUSED for piece in model.pieces):
        steps.append({"type": "Replace", "pattern": {"String": OFF}, "content": NOWHERE})
    if model.squeeze:
        steps += [replaced(" {2,}", " "), replaced(r"\A ", ""), replaced(rf"[ {SPACE}]+\z", "")]
    if model.dummy_prefix and not in_pieces(model):
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return sequence("normalizers", *steps)


def first_space() -> dict:
    """U+2581 before the text, but not before each of its pieces.

    The step that can tell them apart adds nothing where its mark is there already; so it adds a
    space, of which none is left, and a second step spells that. A text that begins with a
    symbol of the user's gets none, where SentencePiece gives it one.
    """
    step = {"type": "Metaspace", "split": False}
    return sequence(
        "pretokenizers",
        {**step, "replacement": " ", "prepend_scheme": "first"},
        {**step, "replacement": SPACE, "prepend_scheme": "never"},
    )


def replaced(pattern: str, content: str) -> dict:
    """Replace each match of a regular expression."""
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def decoder_of(model: PieceModel) -> dict:
    """Pieces to text: bytes joined, spaces back, the one in front taken away."""
    off = [piece for piece in model.pieces if piece.kind == UNUSED][:1]
    steps: list[dict[str, Any]] = [
        *({"type": "Replace", "pattern": {"String": OFF}, "content": ""} for _ in off),
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    most = ALL if model.squeeze else int(model.dummy_prefix)
    if most:
        steps.append({"type": "Strip", "content": " ", "start": most, "validation": 0})
    return sequence("decoders", *steps)


def added_of(model: PieceModel) -> list[dict]:
    """Control pieces, which no text contains, and for BPE the user's symbols, which texts may."""
    found = []
    for place, piece in enumerate(model.pieces):
        if piece.kind in (UNKNOWN, CONTROL):
            found.append(added_token(place, piece.text))
        elif piece.kind == LANGUAGE or (piece.kind == USER_DEFINED and model.kind == BPE):
            found.append(added_token(place, piece.text, special=False))
    return found


def parsed(data: bytes, path: Path) -> PieceModel:
    """The model of a file's bytes; Corrupt if they are not one."""
    try:
        return model_of(data, path)
    except (ValueError, struct.error, UnicodeDecodeError, IndexError) as error:
        raise Corrupt(f"{path}: {error}", "a SentencePiece model", FETCH_AGAIN) from None


def model_of(data: bytes, path: Path) -> PieceModel:
    """The model of a file's bytes; ValueError and the like where they are not one."""
    pieces: list[Piece] = []
    trainer: dict[int, Any] | None = None
    normalizer: dict[int, Any] | None = None
    for number, value in fields(data):
        if number == 1:
            pieces.append(piece_of(value))
        elif number == 2:
            trainer = dict(fields(value))
        elif number == 3:
            normalizer = dict(fields(value))
    if not pieces:
        raise ValueError("it has no pieces")
    if trainer is None or normalizer is None:
        raise ValueError("it ends before it says how it was trained and texts are normalized")
    kind = trainer.get(3, UNIGRAM)
    if kind not in (UNIGRAM, BPE):
        raise BadInput(f"{path} is of words or characters", "unigram or BPE", OTHER_RECIPE)
    if trainer.get(24, 0) or not normalizer.get(5, 1):
        raise BadInput(f"{path} has spaces after its words, or bare ones", "U+2581", OTHER_RECIPE)
    return PieceModel(
        tuple(pieces),
        kind,
        bool(trainer.get(35, 0)),
        normalizer.get(2, b""),
        bool(normalizer.get(3, 1)),
        bool(normalizer.get(4, 1)),
    )


def piece_of(data: bytes) -> Piece:
    """One piece: its text, score and kind."""
    found = dict(fields(data))
    text = found[1].decode("utf-8") if isinstance(found.get(1), bytes) else ""
    if len(text) > LONGEST:
        raise ValueError(f"a piece has {len(text)} characters")
    (score,) = struct.unpack("<f", found[2]) if 2 in found else (0.0,)
    kind = found.get(3, NORMAL)
    if kind not in (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE):
        raise ValueError(f"the piece {text!r} is of kind {kind!r}")
    return Piece(text, score, kind)


def fields(data: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """The numbers and values of a message's fields: ints, or bytes where they are not ints."""
    if not isinstance(data, bytes):
        raise ValueError("a message was wanted where a number stands")
    place = 0
    while place < len(data):
        key, place = varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = varint(data, place)
            yield number, value
            continue
        if wire == 2:
            size, place = varint(data, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"byte {place} begins no field")
        if place + size > len(data):
            raise ValueError(f"it ends within the field at byte {place}")
        yield number, data[place : place + size]
        place += size


def varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"the number at byte {place} does not end")
