"""Text cleaning: Unicode repaired, markup stripped, white space normalised."""

from __future__ import annotations

import html
import re

import ftfy

BROKEN = re.compile(r"[^\t\n\x20-\x7e]")
"""Plain ASCII without control characters needs no repair; most sentences are that."""

BETWEEN = re.compile(r"(?<=[A-Za-z0-9][.!?]) |\n")
"""Boundaries at which a text may be cut for repair: no broken character spans a sentence end."""

TAG = re.compile(r"</?([A-Za-z][A-Za-z0-9]{0,15})(?:[\s/][^<>]{0,2000})?>|<[!?][^<>]{0,2000}>")
BREAKING = re.compile(
    r"(?i)address|article|blockquote|br|d[dlt]|div|footer|form|h[1-6]|header|hr|li|[ou]l|p|pre"
    r"|section|table|t[dhr]|title"
)
"""Elements that end a line; every other tag vanishes without a trace."""

ROUNDS = 16
"""Passes at most: markup that was escaped again and again comes off a layer a pass. What is
nested deeper was never meant to be read, and its signs are taken out."""

MARKS = re.compile(r"[<&]")

CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
SPACES = re.compile(r"[^\S\n]+")
LINES = re.compile(r" ?\n[\s]*")


def repair(text: str) -> str:
    """The text with Unicode repaired, markup removed and white space evened out.

    Idempotent: what comes out is not changed by another pass. The result holds no control
    characters, no lone surrogates, no tabs; a line break stands where the source had one or a
    block ended.
    """
    for without in (False, True):
        for _ in range(ROUNDS):
            before, text = text, MARKS.sub("", text) if without else text
            text = even_spaces(strip_markup(repair_unicode(text)))
            if text == before:
                return text
    return text


def repair_unicode(text: str) -> str:
    """Mojibake undone, normal form C, no control characters, no lone surrogates (ftfy).

    Each sentence is judged by itself: ftfy costs a microsecond a character, and one accent
    must not send a whole book through it.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not BROKEN.search(text):
        return text
    pieces, position = [], 0
    for cut in [*(match.end() for match in BETWEEN.finditer(text)), len(text)]:
        piece, position = text[position:cut], cut
        pieces.append(mend(piece) if BROKEN.search(piece) else piece)
    return "".join(pieces)


def mend(piece: str) -> str:
    """One sentence repaired; entities are left to :func:`strip_markup`, quotes as they are."""
    return ftfy.fix_text(piece, unescape_html=False, uncurl_quotes=False, fix_latin_ligatures=False)


def strip_markup(text: str) -> str:
    """Tags, comments, scripts and styles removed, entities decoded; ``a < b`` stays.

    Linear in the length of the text, whatever stands in it.
    """
    if "<" in text:
        for opening, closing in (("<!--", "-->"), ("<script", "</script>"), ("<style", "</style>")):
            text = cut_between(text, opening, closing)
        text = TAG.sub(in_place_of, text)
    if "&" in text:
        text = html.unescape(text)
    return text


def cut_between(text: str, opening: str, closing: str) -> str:
    """Every stretch from ``opening`` to the next ``closing`` replaced by a space, in one pass."""
    lower = text.lower()
    if len(lower) != len(text) or opening not in lower:
        return text
    kept, position = [], 0
    while (start := lower.find(opening, position)) >= 0:
        end = lower.find(closing, start)
        if end < 0:
            break
        kept.append(text[position:start])
        position = end + len(closing)
    return " ".join([*kept, text[position:]])


def in_place_of(tag: re.Match[str]) -> str:
    """The replacement of a tag: a new line after a block, nothing otherwise."""
    return "\n" if BREAKING.fullmatch(tag.group(1) or "") else ""


def even_spaces(text: str) -> str:
    """Runs of spaces become one, runs of line breaks one break, none at the ends; no controls."""
    return LINES.sub("\n", SPACES.sub(" ", CONTROLS.sub("", text))).strip()
