"""Incremental detokenization: from ids to text while the ids are still coming.

In a vocabulary of bytes a token may hold part of a character. The detokenizer gives out what is
certain and keeps the rest, so that its outputs joined are the text of all the ids.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from lmwright.text.formats.byte_level import unspelled
from lmwright.text.formats.layout import OFF, SPACE

BYTE = re.compile("<0x([0-9A-F]{2})>")


class Vocabulary(Protocol):
    """The part of a tokenizer that a detokenizer needs."""

    inner: Any
    names: dict[int, str]
    hidden: set[int]
    bytes_of: Callable[[str], bytes] | None
    described: dict[str, Any]

    def token(self, number: int) -> str:
        """The token of an id."""


class Detokenizer:
    """The text of ids that come a few at a time; never half a character.

    Over bytes a piece is given as soon as its characters are whole. Other decoders look at all
    tokens at once; for these the text is decoded anew and given as far as it no longer changes.
    """

    def __init__(self, tokenizer: Vocabulary, special: bool = False) -> None:
        self.tokenizer, self.special = tokenizer, special
        self.shown: frozenset[int] = frozenset()  # ids that are text although they are special
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        kinds = steps_of(tokenizer.described.get("decoder"))
        self.strip = max(map(spaces_taken, kinds), default=0)
        self.waiting = ""
        self.ids: list[int] = []
        self.given = ""

    def follow(self, ids: Sequence[int]) -> None:
        """Go on from these ids, whose text is known; after a control token a text begins anew."""
        known = [int(each) for each in ids]
        names = self.tokenizer.names
        ends = max((place for place, each in enumerate(known) if each in names), default=-1)
        run = known[ends + 1 :]
        if self.tokenizer.bytes_of is None:
            self.ids, self.given = run, self.text_of(run)
        else:
            self.push(run)  # takes off the space before the text, and keeps half a character

    def push(self, ids: Sequence[int]) -> str:
        """The text that these ids make certain."""
        shown = [int(each) for each in ids]
        if not self.special:
            hidden = self.tokenizer.hidden - self.shown if self.shown else self.tokenizer.hidden
            shown = [each for each in shown if each not in hidden]
        if self.tokenizer.bytes_of is None:
            return self.again(shown)
        pieces = [self.waiting]
        for number in shown:
            token = self.tokenizer.token(number)
            if number in self.tokenizer.names:
                data = token.encode()
            else:
                data = self.tokenizer.bytes_of(token)
                data = self.stripped(data) if self.strip else data
            pieces.append(self.decoder.decode(data))
        return self.held("".join(pieces))

    def stripped(self, data: bytes) -> bytes:
        """The bytes without those of the spaces before the text that no one typed."""
        kept = data.lstrip(b" ")
        kept = data[min(self.strip, len(data) - len(kept)) :]
        self.strip = 0 if kept else self.strip - len(data)
        return kept

    def finish(self) -> str:
        """The text held back; an unfinished character is U+FFFD."""
        if self.tokenizer.bytes_of is None:
            rest = self.text_of(self.ids)[len(self.given) :]
            self.ids, self.given = [], ""
            return rest
        text = self.waiting + self.decoder.decode(b"", final=True)
        self.waiting = ""
        return text.rstrip(" ") if self.ends_words() else text

    def held(self, text: str) -> str:
        """The text without the spaces at its end where these may turn out to be the last."""
        if not self.ends_words():
            self.waiting = ""
            return text
        kept = text.rstrip(" ")
        self.waiting = text[len(kept) :]
        return kept

    def ends_words(self) -> bool:
        """Whether each word of the vocabulary ends in a mark, which the last one's is not shown."""
        return getattr(self.tokenizer.bytes_of, "__name__", "") == clip_bytes.__name__

    def again(self, ids: list[int]) -> str:
        """The text of all ids so far, beyond what was given, but for a tail that may change."""
        self.ids += ids
        text = self.text_of(self.ids)
        sure = text.rstrip("\ufffd ")
        if not sure.startswith(self.given):
            return ""
        piece = sure[len(self.given) :]
        self.given += piece
        return piece

    def text_of(self, ids: list[int]) -> str:
        """The text by the library's own decoder; control tokens by their names."""
        texts: list[str] = []
        run: list[int] = []
        for number in ids:
            if number in self.tokenizer.names:
                texts += [self.decoded(run), self.tokenizer.names[number]]
                run = []
            else:
                self.tokenizer.token(number)
                run.append(number)
        return "".join([*texts, self.decoded(run)])

    def decoded(self, ids: list[int]) -> str:
        """A run of ids that are no control tokens."""
        return self.tokenizer.inner.decode(ids) if ids else ""


def bytes_of(described: Mapping[str, Any]) -> Callable[[str], bytes] | None:
    """The function from a token to its bytes, where each has bytes of its own; else None."""
    kinds = {step.get("type"): step for step in steps_of(described.get("decoder"))}
    if "ByteLevel" in kinds:
        return clip_bytes if described["model"].get("end_of_word_suffix") else unspelled
    replaced = kinds.get("Replace", {}).get("pattern") == {"String": SPACE}
    if "ByteFallback" in kinds and replaced:
        return piece_bytes
    if kinds.get("Metaspace", {}).get("replacement") == SPACE:
        return lambda token: token.replace(SPACE, " ").encode()
    return None


def piece_bytes(token: str) -> bytes:
    """The bytes of a SentencePiece piece."""
    byte = BYTE.fullmatch(token)
    text = token.removeprefix(OFF).replace(SPACE, " ")
    return bytes([int(byte[1], 16)]) if byte else text.encode()


def clip_bytes(token: str) -> bytes:
    """The bytes of a token of CLIP, whose words end in a mark that stands for a space."""
    return unspelled(token.removesuffix("</w>")) + (b" " if token.endswith("</w>") else b"")


def steps_of(decoder: Any) -> list[Mapping[str, Any]]:
    """The steps of a decoder, one or a sequence."""
    if not isinstance(decoder, dict):
        return []
    if decoder.get("type") == "Sequence":
        return [step for step in decoder.get("decoders") or [] if isinstance(step, dict)]
    return [decoder]


def spaces_taken(step: Mapping[str, Any]) -> int:
    """The number of leading spaces that a decoder's step strips."""
    if step.get("type") == "Strip" and step.get("content") == " ":
        return int(step.get("start", 0))
    return int(step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never")
