"""Source files in pieces: what is kept of them between processes, and what a bad cache does."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmwright.core import code
from lmwright.core.code import Kept, cut

TEXT = '''
"""Words."""
import os.path
import numpy as np
from a.b import c as d, e
from . import near

LIMIT: int = 3
"""A note."""

def used(number: "Kind"):
    """More words."""
    from f import g
    return number + LIMIT
'''


def test_a_piece_is_what_a_statement_defines_mentions_and_imports() -> None:
    found = cut(TEXT)
    assert [piece.defines for piece in found] == [[], [], [], [], ["LIMIT"], ["used"]]
    assert [bool(piece.digest) for piece in found] == [False] * 4 + [True] * 2
    assert [piece.imports for piece in found] == [
        [("os.path", "", "")],
        [("numpy", "", "np")],
        [("a.b", "c", "d"), ("a.b", "e", "e")],
        [],
        [],
        [("f", "g", "g")],
    ]
    assert found[4].mentions == ["LIMIT", "int"]
    assert found[5].mentions == ["Kind", "LIMIT", "number"]
    (taken,) = cut("x = np.a.b(np.c, d().e)")
    assert taken.mentions == ["d", "np.a", "np.c", "x"]


def test_what_one_process_cut_another_reads(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "cache" / "code.json"
    first = Kept(path)
    cut_once = first.pieces(TEXT)
    first.write()
    monkeypatch.setattr(code, "cut", None)  # would fail if it were called
    second = Kept(path)
    assert second.pieces(TEXT) == cut_once
    before = path.stat().st_mtime_ns
    second.write()
    assert path.stat().st_mtime_ns == before
    with pytest.raises(TypeError):
        second.pieces(TEXT + "\n1")


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", None])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "code.json"
    first = Kept(path)
    first.pieces(TEXT)
    first.write()
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + b"x" + whole[-8:] if damage is None else damage)
    second = Kept(path)
    assert second.found == {}
    assert second.pieces(TEXT) == cut(TEXT)
    second.write()
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    kept = Kept(tmp_path / "file" / "code.json")
    assert kept.pieces(TEXT) == cut(TEXT)
    kept.write()


@pytest.mark.parametrize("home", [None, "gone", "no name that a disk takes" * 20])
def test_a_process_without_a_home_keeps_nothing(tmp_path: Path, monkeypatch, home) -> None:
    def home_of(_: type[Path]) -> Path:
        if home is None:
            raise RuntimeError("Could not determine home directory.")
        return tmp_path / home

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(home_of))
    kept = Kept(code.cache_file())
    assert kept.pieces(TEXT) == cut(TEXT)
    kept.write()
    assert not kept.path.exists()
    assert not (tmp_path / "gone").exists()


def test_texts_that_nobody_asks_for_any_more_go(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(code, "MOST", 2)
    path = tmp_path / "code.json"
    for number in range(3):
        kept = Kept(path)
        kept.pieces(f"a = {number}")
        kept.write()
    assert len(Kept(path).found) == 1
