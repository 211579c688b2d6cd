"""Content hashes: of bytes, of JSON values, of files and of folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


def hash_bytes(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """The one JSON spelling of a value: sorted keys, no spaces, UTF-8, no NaN."""
    return encoded(
        json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    )


def encoded(text: str) -> bytes:
    """The UTF-8 of a text, as JSON or a page.

    A lone surrogate, which stands for a byte of a path that is not UTF-8, becomes the escape that
    JSON has for it, and is read back from that.
    """
    return text.encode("utf-8", "backslashreplace")


def hash_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``."""
    return hash_bytes(canonical(value))


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def tree(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file below ``folder``: relative path -> its ``sha256`` and ``bytes``."""
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": hash_file(path),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def hash_tree(files: dict[str, dict[str, Any]]) -> str:
    """The content hash of a folder, from what :func:`tree` says of it."""
    return hash_json({name: entry["sha256"] for name, entry in files.items()})
