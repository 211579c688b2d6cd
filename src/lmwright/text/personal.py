"""Personal data by pattern: found, counted, masked.

Patterns catch what has a form (addresses, numbers with check digits), not names or stories: an
empty answer is no proof that a text holds nothing personal. Every pattern is linear in the
length of the text. The check digits of cards (Luhn, ISO/IEC 7812-1 annex B) and of bank
accounts (MOD 97-10, ISO 13616) are verified, so that order numbers seldom pass for them.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """One piece of personal data: its kind and where it stands, ``text[start:end]``."""

    kind: str
    start: int
    end: int


def find_personal(text: str) -> list[Found]:
    """Every piece of personal data in ``text``, in order, never overlapping.

    Where two kinds claim the same characters, the one earlier in ``KINDS`` wins.
    """
    if not POSSIBLE.search(text):
        return []
    found: list[Found] = []
    taken = bytearray(len(text))
    for kind, (pattern, is_real) in KINDS.items():
        for match in pattern.finditer(text):
            start, end = match.span()
            if not any(taken[start:end]) and is_real(match.group()):
                taken[start:end] = b"x" * (end - start)
                found.append(Found(kind, start, end))
    return sorted(found, key=lambda piece: piece.start)


def mask_personal(text: str) -> str:
    """The text with each piece replaced by its kind in square brackets: ``[email]``.

    Masking again changes nothing, and nothing is found in what is returned.
    """
    while found := find_personal(text):
        text = "".join(masked(text, found))
    return text


def mask_in_place(text: str) -> str:
    """The text with each piece masked by as many characters, so that places in it stay true."""
    while found := find_personal(text):
        for piece in found:
            size = piece.end - piece.start
            filler = f"[{piece.kind}]"[:size].ljust(size, "_")
            text = text[: piece.start] + filler + text[piece.end :]
    return text


def count_personal(text: str) -> Counter[str]:
    """The number of pieces of each kind in a text."""
    return Counter(found.kind for found in find_personal(text))


def masked(text: str, found: list[Found]) -> Iterator[str]:
    """The pieces of ``text`` with the finds replaced."""
    position = 0
    for piece in found:
        yield text[position : piece.start]
        yield f"[{piece.kind}]"
        position = piece.end
    yield text[position:]


def always(_: str) -> bool:
    """A pattern that needs no further proof."""
    return True


def is_iban(text: str) -> bool:
    """Whether the check digits hold: the rearranged number modulo 97 is 1 (ISO 13616)."""
    plain = re.sub(r"[ -]", "", text).upper()
    if not 15 <= len(plain) <= 34:
        return False
    turned = plain[4:] + plain[:4]
    return int("".join(str(int(sign, 36)) for sign in turned)) % 97 == 1


def is_card(text: str) -> bool:
    """Whether the digits are a payment card's: 13 to 19 of them, and the Luhn sum is right."""
    digits = [int(sign) for sign in text if sign.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_address(text: str) -> bool:
    """Whether the text is an IP address that could be a person's (not all zeros)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not address.is_unspecified


def is_phone(text: str) -> bool:
    """Whether the digits number 8 to 15 (E.164), and are not a year or a date."""
    digits = re.sub(r"\D", "", text)
    return 8 <= len(digits) <= 15 and len(set(digits)) > 1


POSSIBLE = re.compile(r"[@0-9]|://|::")
"""A text without these holds none of the kinds, and most texts hold none of these."""

KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "credentials": (
        re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s/@:]{1,128}:[^\s/@]{1,128}@[^\s/]{1,253}"),
        always,
    ),
    "email": (
        re.compile(
            r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
        ),
        always,
    ),
    "iban": (
        re.compile(
            r"\b[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?\b"
        ),
        is_iban,
    ),
    "card": (re.compile(r"(?<![\w.-])[0-9](?:[ -]?[0-9]){12,18}(?![\w-])"), is_card),
    "ssn": (
        re.compile(r"(?<![\w-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![\w-])"),
        always,
    ),
    "ip": (
        re.compile(
            r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w]|\.[0-9])"
            r"|(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])"
        ),
        is_address,
    ),
    "phone": (
        re.compile(
            r"(?<![\w+.-])(?:"
            r"\+[0-9]{1,3}[ .-]?(?:\([0-9]{1,4}\)[ .-]?)?[0-9]{2,4}(?:[ .-]?[0-9]{2,4}){1,4}"
            r"|(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[ .-][0-9]{4}"
            r"|0[0-9]{2,4}[ /-][0-9]{3,4}[ -]?[0-9]{3,5}"
            r")(?![\w-])"
        ),
        is_phone,
    ),
}
