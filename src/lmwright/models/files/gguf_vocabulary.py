"""A tokenizer as GGUF's metadata, or refused by the part that the format does not have.

What is told is read back before it is given out: the reader must make the same steps of it, and
the same ids of texts that are drawn from the vocabulary.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lmwright.core.errors import BadInput
from lmwright.models.core.memory import uncollected
from lmwright.models.files.gguf_tokenizer import (
    BYTE,
    CONTROL,
    CUTS,
    LONGEST_PIECE,
    NORMAL,
    ROLES,
    SPACE,
    TYPED,
    UNKNOWN,
    UNUSED,
    WORDS,
    steps_on_bytes,
    steps_on_pieces,
    tokenizer_json,
)
from lmwright.models.generation import END_OF_TURN_TOKENS
from lmwright.text.formats.byte_level import spelled, unspelled
from lmwright.text.formats.layout import twice
from lmwright.text.tokenizer import Tokenizer

AS_FOLDER = "export the model as a folder"
MORE_ENDS = ("eot_token_id", "eom_token_id")
"""GGUF's keys of stop tokens beside eos; those of turns are known by their names."""
BYTES = {f"<0x{number:02X}>" for number in range(256)}
PROBES = 1500
ODD = [
    "",
    " ",
    "  two  spaces   and    more" + " " * 40,
    " \n\n \t\r\n\n\n\n",
    "it's I'LL WE'VE '' 1234567 3.14 x² ½ ٣٤٥",
    "e\u0301 \u212b \ufb01 \uac00 \u1100\u1161 \U0001f9ff\u200d\ufe0f",
]
"""Texts that tell apart what is easily taken for the same.

None spells U+2581 itself, which stands for a space in pieces: readers of the format differ there.
"""


@dataclass(frozen=True)
class Source:
    """A tokenizer.json as it is told: its tokens by id with their types, and its parts."""

    described: Mapping[str, Any]
    where: str
    tokens: Mapping[int, str]
    types: Mapping[int, int]

    @property
    def model(self) -> Mapping[str, Any]:
        """The part with the vocabulary and the merges."""
        return self.described["model"]

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        """The merges in order; a file has each as a text with a space or as a pair."""
        listed = self.model.get("merges") or []
        pairs = (each.split(" ") if isinstance(each, str) else each for each in listed)
        return [(left, right) for left, right in pairs]

    @property
    def kind(self) -> str:
        """GGUF's word for its kind."""
        return "llama" if self.model.get("byte_fallback") else "gpt2"

    def refused(self, found: str, wanted: str) -> BadInput:
        """The error that names the tokenizer."""
        return BadInput(f"{self.where}: {found}, which GGUF cannot tell", wanted, AS_FOLDER)


def vocabulary_of(
    tokenizer: Tokenizer, rows: int, ends: Sequence[int], where: str
) -> dict[str, Any]:
    """The metadata of a tokenizer, from which :func:`tokenizer_json` makes one with the same ids.

    ``rows`` of the embedding are named, those without a token as unused. ``ends`` are the ids that
    end an answer. BadInput names the part that GGUF has no words for.
    """
    with uncollected():
        source = source_of(tokenizer, where)
        words = {
            **steps_told(source),
            **tokens_told(source, rows),
            **roles_told(source, tokenizer, ends),
        }
        told = {f"tokenizer.ggml.{word}": value for word, value in words.items()}
        made = tokenizer_json(told, where)
        if source.kind == "llama":
            compare_merges(source, json.loads(made)["model"]["merges"])
        compare_ids(source, tokenizer, Tokenizer(made, where))
    return told


def source_of(tokenizer: Tokenizer, where: str) -> Source:
    """The parts of a tokenizer, its tokens looked at one by one."""
    described = json.loads(tokenizer.data)
    bare = Source(described, where, {}, {})
    check_model(bare)
    tokens = {number: token for token, number in bare.model["vocab"].items()}
    if len(tokens) < len(bare.model["vocab"]):
        found = twice(bare.model["vocab"].values())
        raise bare.refused(f"several tokens with the id {found}", "one token an id")
    pieces = bare.kind == "llama"
    types = {
        number: BYTE if pieces and token in BYTES else NORMAL for number, token in tokens.items()
    }
    for each in described.get("added_tokens") or []:
        check_added(bare, each)
        number, token = each["id"], each["content"]
        if tokens.get(number, token) != token:
            raise bare.refused(f"the id {number} of {token!r} and {tokens[number]!r}", "one token")
        tokens[number] = token
        types[number] = CONTROL if each["special"] else TYPED
        if types[number] == TYPED and tokenizer.inner.token_to_id(token) not in (number, None):
            raise bare.refused(f"{token!r} is no token {number}", "ids that hold")
    unknown = bare.model.get("unk_token")
    if pieces:
        types |= {number: UNKNOWN for number, token in tokens.items() if token == unknown}
    return Source(described, where, tokens, types)


def check_model(source: Source) -> None:
    """Raise BadInput for a model of another kind, or with settings that GGUF has no words for."""
    model = source.model
    if model.get("type") != "BPE":
        raise source.refused(f"a model of the type {model.get('type')!r}", "byte-pair encoding")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise source.refused(f"a model with {name} {model[name]!r}", "one without")
    bytes_there = BYTES if source.kind == "llama" else {spelled(bytes([n])) for n in range(256)}
    if lacking := sorted(bytes_there - set(model["vocab"])):
        raise source.refused(f"a vocabulary without {lacking[0]!r}", "a token for each byte")
    if source.kind == "llama" and model.get("unk_token") not in model["vocab"]:
        raise source.refused("a vocabulary without an unknown token", "one that names it")


def check_added(source: Source, token: Mapping[str, Any]) -> None:
    """Raise BadInput for a token that is looked for in another way than GGUF has."""
    for flag in ("single_word", "lstrip", "rstrip"):
        if token.get(flag):
            raise source.refused(f"the token {token['content']!r} with {flag}", "one without")
    kinds = {step["type"] for step in flat(source.described.get("normalizer"))}
    if token.get("normalized") and kinds - {"Replace"}:
        raise source.refused(
            f"the token {token['content']!r}, looked for in the normalized text", "one without"
        )
    if SPACE in token["content"] and not token["special"] and "Prepend" in kinds:
        raise source.refused(f"the typed token {token['content']!r}", "one without spaces")


def steps_told(source: Source) -> dict[str, Any]:
    """The kind and the words for the steps before and after the merges.

    BadInput with the first part that no form of GGUF has where the parts before it are alike.
    """
    forms: list[tuple[dict[str, Any], Mapping[str, Any], bool]] = [
        ({"model": "gpt2", "pre": name}, steps_on_bytes(name), cuts.whole)
        for name, cuts in CUTS.items()
    ] + [
        ({"model": "llama", "pre": "default", "add_space_prefix": before},
         steps_on_pieces(before), False)
        for before in (True, False)
    ]  # fmt: skip
    left = [form for form in forms if form[0]["model"] == source.kind]
    for part in ("pre_tokenizer", "normalizer", "decoder"):
        wanted = plain(part, source.described)
        kept = [form for form in left if plain(part, form[1]) == wanted]
        if not kept:
            known = " or ".join(dict.fromkeys(short(form[1].get(part)) for form in left))
            raise source.refused(f"the {part} {short(source.described.get(part))}", known)
        left = kept
    whole = bool(source.model.get("ignore_merges"))
    for words, _, form_whole in left:
        if form_whole == whole:
            return words
    raise source.refused(f"ignore_merges {whole} with these cuts", f"{not whole}")


def plain(part: str, described: Mapping[str, Any]) -> list[Any]:
    """The steps of one part, of several spellings of the same always the same one."""
    normalizer = flat(described.get("normalizer"))
    spaceless = any(
        step["type"] == "Replace" and step.get("pattern") == {"String": " "} for step in normalizer
    )
    found: list[Any] = []
    for step in flat(described.get(part)):
        kind, pattern = step["type"], step.get("pattern")
        if kind == "ByteLevel" and part == "decoder":
            found.append(kind)
        elif kind == "ByteLevel" and part == "pre_tokenizer":
            if step.get("use_regex", True):
                found.append(cut_at(WORDS))
            found.append((kind, step.get("add_prefix_space", True)))
        elif kind == "Digits" and step.get("individual_digits"):
            found.append(cut_at(r"\p{N}"))
        elif kind == "Split" and pattern == {"String": " "} and spaceless:
            continue  # no text has one any more
        elif kind == "Split":
            found.append(cut_at((pattern or {}).get("Regex"), step))
        else:
            found.append(step)
    return found


def cut_at(pattern: Any, step: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
    """A cut before and after each match of a pattern, or what another step does at it."""
    step = step or {"behavior": "Isolated", "invert": False}
    return "Split", pattern, step.get("behavior"), step.get("invert")


def flat(part: Any) -> list[Mapping[str, Any]]:
    """The steps of a part: none, one, or those of a sequence."""
    if not part:
        return []
    if part.get("type") != "Sequence":
        return [part]
    names = ("normalizers", "pretokenizers", "processors", "decoders")
    return [step for name in names for each in part.get(name) or [] for step in flat(each)]


def short(part: Any) -> str:
    """A part as an error shows it."""
    if part is None:
        return "none"
    text = json.dumps(part, ensure_ascii=False)
    return text if len(text) < 200 else f"{text[:200]} ..."


def tokens_told(source: Source, rows: int) -> dict[str, Any]:
    """Tokens, types, and merges or scores."""
    tokens, types = [], []
    taken = set(source.tokens.values())
    for number in range(rows):
        token = source.tokens.get(number) or free_name(number, taken)
        kind = source.types.get(number, UNUSED)
        if source.kind == "llama" and kind == TYPED:
            token = token.replace(SPACE, " ")
        tokens.append(token)
        types.append(kind)
    if len(set(tokens)) < len(tokens):
        raise source.refused(f"the token {twice(tokens)!r} with two ids", "each token once")
    told = {"tokens": tokens, "token_type": np.array(types, np.int32)}
    if source.kind == "llama":
        return {**told, "scores": scores_of(source, tokens, types)}
    if spaced := next((pair for pair in source.merges if " " in "".join(pair)), None):
        raise source.refused(f"the merge {spaced} with a space", "merges without")
    return {**told, "merges": [" ".join(pair) for pair in source.merges]}


def free_name(number: int, taken: set[str]) -> str:
    """A name that no token has."""
    name = f"[PAD{number}]"
    return name if name not in taken else free_name(-number - 1, taken)


def scores_of(source: Source, tokens: Sequence[str], types: Sequence[int]) -> np.ndarray:
    """A score for each token: the piece that is made first has the highest."""
    longest = max(tokens, key=len)
    if len(longest) > LONGEST_PIECE:
        raise source.refused(f"a token of {len(longest)}", f"at most {LONGEST_PIECE} characters")
    made: dict[str, int] = {}
    for left, right in source.merges:
        made.setdefault(left + right, len(made))
    last = len(made) + len(tokens)
    found = [
        -made.get(token, len(made) + number) if kind == NORMAL else -last
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
    ]
    return np.array(found, np.float32)


def compare_merges(source: Source, again: Iterable[Sequence[str]]) -> None:
    """Raise BadInput unless the scores give the merges of normal pieces again, in order.

    Among the merges that make one piece the order is the reader's, in SentencePiece by place.
    """
    pieces = {token for number, token in source.tokens.items() if source.types[number] == NORMAL}
    wanted = [(left + right, left, right) for left, right in source.merges]
    wanted = [merge for merge in wanted if pieces.issuperset(merge)]
    found = [(left + right, left, right) for left, right in again]
    if different := set(found) ^ set(wanted):
        piece, left, right = min(different)
        there = "a" if (piece, left, right) in wanted else "no"
        raise source.refused(
            f"{there} merge of {left!r} and {right!r}",
            "the merges of SentencePiece: of every two pieces that together are one",
        )
    if [piece for piece, *_ in found] != [piece for piece, *_ in wanted]:
        raise source.refused("merges of one piece before and after another's", "piece by piece")


def roles_told(source: Source, tokenizer: Tokenizer, ends: Sequence[int]) -> dict[str, Any]:
    """Ids of bos, eos, unknown and padding, what stands round a text, what else ends an answer."""
    first, last = around(source)
    roles = {role: ids[0] for role, ids in tokenizer.roles.items() if role in ROLES}
    if source.kind == "llama":
        roles["unk"] = source.model["vocab"][source.model["unk_token"]]
    if first is not None and roles.setdefault("bos", first) != first:
        raise source.refused(
            f"a text begins with {source.tokens[first]!r}, which is not bos", "bos there"
        )
    if last is not None and last not in ends:
        raise source.refused(
            f"a text ends with {source.tokens[last]!r}, which ends no answer", "an end of answers"
        )
    if not ends:
        raise source.refused("a model with no token that ends an answer", "eos_token_id")
    roles["eos"] = last if last is not None else roles.get("eos", ends[0])
    told: dict[str, Any] = {f"{ROLES[role]}_token_id": number for role, number in roles.items()}
    told |= {"add_bos_token": first is not None, "add_eos_token": last is not None}
    known = {roles["eos"], *(tokenizer.control.get(name) for name in END_OF_TURN_TOKENS)}
    more = [number for number in ends if number not in known]
    if len(more) > len(MORE_ENDS):
        names = ", ".join(source.tokens[number] for number in more)
        raise source.refused(f"the ends of an answer {names}", f"{len(MORE_ENDS)} beside eos")
    return told | dict(zip(MORE_ENDS, more, strict=False))


def around(source: Source) -> tuple[int | None, int | None]:
    """The tokens that are put before and after a text; BadInput for more than one."""
    sides: tuple[list[int], list[int]] = [], []
    for step in flat(source.described.get("post_processor")):
        if step["type"] == "ByteLevel":  # which moves offsets and no ids
            continue
        if step["type"] != "TemplateProcessing":
            raise source.refused(f"the post_processor {step['type']}", "a template")
        side = sides[0]
        for part in step["single"]:
            if "Sequence" in part:
                side = sides[1]
            else:
                side += step["special_tokens"][part["SpecialToken"]["id"]]["ids"]
    if any(len(side) > 1 for side in sides):
        names = [source.tokens[number] for side in sides for number in side]
        raise source.refused(f"{', '.join(names)} round a text", "one before it, one after it")
    first, last = ([*side, None][0] for side in sides)
    return first, last


def compare_ids(source: Source, tokenizer: Tokenizer, again: Tokenizer) -> None:
    """Raise BadInput with the first text of the vocabulary that does not keep its ids."""
    for text in [*ODD, *drawn(source)]:
        if not np.array_equal(tokenizer.ids(text), again.ids(text)):
            raise source.refused(f"the ids of {text!r}", "ids that come back")
    controls = [name for name in tokenizer.control if name in again.control]
    for text, name in zip(drawn(source), controls, strict=False):
        parts = [(name, True), (text, False), (name, True), (text, False)]
        if not np.array_equal(tokenizer.ids_of_parts(parts)[0], again.ids_of_parts(parts)[0]):
            raise source.refused(f"the ids of {text!r} after {name}", "ids that come back")


def drawn(source: Source) -> Iterable[str]:
    """Texts of some tokens each, the same ones every time."""
    chance = random.Random(0)
    pieces = [
        token.replace(SPACE, " ")
        if source.kind == "llama"
        else unspelled(token).decode(errors="replace")
        for number, token in sorted(source.tokens.items())
        if source.types[number] in (NORMAL, TYPED)
    ]
    for _ in range(PROBES):
        yield "".join(chance.choices(pieces, k=chance.randint(1, 12)))
