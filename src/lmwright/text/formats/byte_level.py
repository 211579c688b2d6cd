"""Bytes as characters: how vocabularies over bytes are spelled in JSON and text files.

Printable Latin-1 stands for itself; the 68 other bytes are the characters from U+0100 on, in
order (GPT-2's ``encoder.py``).
"""

from __future__ import annotations

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
CHARACTERS = {byte: chr(byte) for byte in PRINTABLE} | {
    byte: chr(0x100 + place) for place, byte in enumerate(OTHERS)
}
BYTES = {character: byte for byte, character in CHARACTERS.items()}
"""The alphabet as GPT-2 orders it is PRINTABLE, then OTHERS."""


def spelled(data: bytes) -> str:
    """The characters that stand for some bytes."""
    return "".join(map(CHARACTERS.__getitem__, data))


def unspelled(text: str) -> bytes:
    """The bytes that characters stand for; a text with any other character is its own UTF-8."""
    try:
        return bytes(map(BYTES.__getitem__, text))
    except KeyError:
        return text.encode()
