"""Files as text: unpacked, in the encoding that their bytes show, and no bomb.

A file is read in the encoding that its source names. The default, UTF-8, gives way to what the
bytes show: a byte-order mark, the zeros of UTF-16, or the bytes of Windows in western Europe.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.data.formats.record import Table

LINE_LIMIT = 8 << 20
"""Characters of one line, and of one CSV field, at most; what is longer is no row of text."""

BOMB_BYTES, BOMB_RATIO = 64 << 20, 200
"""Past so many bytes, a file that unpacks to more than so many times its size is refused."""

WESTERN = "cp1252"
"""The encoding of Windows in western Europe."""
SEEN_BYTES = 64 << 20
"""Bytes of a file, unpacked, from which its encoding is guessed."""
WESTERN_SHARE = 0.4
"""Letters beyond ASCII among all, at most, in lines of a western language."""

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte-order mark -> codec, the longer mark before the one that it begins with."""

GZIP = b"\x1f\x8b"
ANOTHER = "save the file as UTF-8, or name its encoding (encoding: in a source, --encoding)"


def open_text(table: Table, newline: str | None = None) -> io.TextIOWrapper:
    """A file as text, without byte-order mark; bytes that are not of the encoding stay visible.

    They come as lone surrogates, so that the row that holds them can be rejected.
    """
    codec = encoding_of(table)
    return io.TextIOWrapper(open_bytes(table), codec, errors="surrogateescape", newline=newline)


def open_bytes(table: Table) -> io.BufferedReader[Any]:
    """A file's bytes, unpacked if they are packed or called so."""
    packed = begins(table.path, len(GZIP)) == GZIP or table.path.suffix.lower() == ".gz"
    inner = Unpacking(table) if packed else io.FileIO(table.path)
    return io.BufferedReader(inner, 1 << 18)


def first_bytes(table: Table, count: int) -> bytes:
    """The first bytes of a file, unpacked."""
    with open_bytes(table) as raw:
        return raw.read(count)


def begins(path: Path, count: int) -> bytes:
    """The first bytes of a file as they stand on disk."""
    with path.open("rb") as raw:
        return raw.read(count)


def encoding_of(table: Table) -> str:
    """The codec that a file is read with: the one declared, or for UTF-8 what its bytes show."""
    if table.settled:
        return table.encoding
    try:
        declared = codecs.lookup(table.encoding).name
    except LookupError:
        raise BadInput(
            f"{table.about}: no encoding {table.encoding!r}", "a codec", "write utf-8, cp1252 …"
        ) from None
    return seen_encoding(table) if declared == "utf-8" else declared


def seen_encoding(table: Table) -> str:
    """The codec that a file's bytes show: UTF-8 unless they show another.

    Windows' is taken where more lines are no UTF-8 than are UTF-8 with letters beyond ASCII, and
    these letters are few among the others, as in western languages.
    """
    with open_bytes(table) as raw:
        start = raw.peek(4)[:4096]
        if codec := codec_of(start):
            return codec
        beyond = broken = letters = high = 0
        for line in some_lines(raw):
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                beyond += 1
            except UnicodeDecodeError:
                broken += 1
                found = sum(byte >= 0x80 for byte in line)
                high += found
                letters += found + sum(chr(byte).isalpha() for byte in line if byte < 0x80)
    western = 2 * broken > beyond and high <= WESTERN_SHARE * letters
    return WESTERN if western else "utf-8"


def some_lines(raw: io.BufferedReader[Any]) -> Iterator[bytes]:
    """Lines of a file's first bytes, none so long that it fills the memory."""
    seen = 0
    while seen < SEEN_BYTES and (line := raw.readline(1 << 20)):
        seen += len(line)
        yield line


def codec_of(start: bytes) -> str:
    """The codec that the first bytes name: by a mark, or by zeros as every other byte; or none."""
    for mark, codec in MARKS.items():
        if start.startswith(mark):
            return codec
    half = len(start) // 2
    if half >= 8:
        for codec, place in (("utf-16-le", 1), ("utf-16-be", 0)):
            zeros = start[place::2].count(0)
            others = start[1 - place :: 2].count(0)
            if zeros > 0.8 * half and not others:
                return codec
    return ""


class Unpacking(io.RawIOBase):
    """A gzip stream that refuses to become a bomb."""

    def __init__(self, table: Table) -> None:
        self.about, self.packed = table.about, table.path.stat().st_size
        self.inner, self.count = gzip.GzipFile(table.path, "rb"), 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; BadInput when the stream is broken, cut short or a bomb."""
        try:
            piece = self.inner.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(
                f"{self.about} is not a whole gzip file: {error}", "gzip", "pack it again"
            ) from None
        self.count += len(piece)
        refuse_bomb(self.about, self.count, self.packed)
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Close the file beneath too."""
        self.inner.close()
        super().close()


def refuse_bomb(about: str, unpacked: int, packed: int) -> None:
    """Raise BadInput when a file unpacks to far more than its size."""
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * packed:
        raise BadInput(
            f"{about} unpacks to more than {BOMB_RATIO} times its {packed:,} bytes",
            "text, which packs to a tenth",
            "unpack it by hand and look at it",
        )


def bounded_lines(lines: io.TextIOWrapper, table: Table) -> Iterator[str]:
    """Lines, none longer than the limit: a file of one endless line must not fill the memory."""
    number = 0
    while line := read_line(lines, table):
        number += 1
        if len(line) == LINE_LIMIT:
            raise BadInput(
                f"{table.about}, line {number} has over {LINE_LIMIT:,} characters",
                "lines of text",
                "check that the file is a table",
            )
        yield line


def read_line(lines: io.TextIOWrapper, table: Table) -> str:
    """The next line, or as much of it as the limit allows."""
    try:
        return lines.readline(LINE_LIMIT)
    except UnicodeError as error:
        raise undecoded(lines, table, error) from None


def read_all(lines: io.TextIOWrapper, table: Table, limit: int) -> str:
    """The whole text, or one character more than ``limit`` where it is longer."""
    try:
        return lines.read(limit + 1)
    except UnicodeError as error:
        raise undecoded(lines, table, error) from None


def undecoded(lines: io.TextIOWrapper, table: Table, error: UnicodeError) -> BadInput:
    """What is said of bytes that are not even rejected as those of one row."""
    codec = lines.encoding
    return BadInput(f"{table.about} is not {codec}: {error}", f"text in {codec}", ANOTHER)
