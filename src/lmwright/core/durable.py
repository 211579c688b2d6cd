"""Writes that survive a kill: a file or folder is there whole, or it is not there.

The order is always the same: write beside the target, fsync what was written, rename,
fsync the parent. A reader never sees half of anything, and what was reported done stays.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmwright.core.hashing import encoded

TEMPORARY = ".tmp-"


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the bytes of ``path`` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step."""
    write_pieces(path, [data])


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Replace ``path`` by the ``pieces`` in order, in one step; not at all if one of them fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        with beside.open("wb") as stream:
            for piece in pieces:
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by the JSON of ``value``: sorted keys, so equal values are equal bytes."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, encoded(text) + b"\n")


def sync_tree(folder: Path) -> None:
    """Make a folder and everything below it durable."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync_folder(path) if path.is_dir() else sync_file(path)
    sync_folder(folder)


def commit_folder(folder: Path, target: Path) -> None:
    """Move a finished folder to ``target``; if the target is there already, keep that one."""
    sync_tree(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(folder)
        return
    folder.rename(target)
    sync_folder(target.parent)


def sweep(folder: Path) -> None:
    """Remove what an interrupted write left beside its target."""
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
