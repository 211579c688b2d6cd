"""Indexes of vectors and of words: what is found is what brute force finds, whatever was added and
forgotten before; and both on real package descriptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput, Corrupt
from lmwright.index.lexical import BM25
from lmwright.index.vector import VectorIndex
from lmwright.index.words import WordIndex

DEBIAN = "asset:debian-summaries/debian-summaries.parquet"
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 9)),
        st.tuples(st.just("forget"), st.sets(st.integers(0, 40), max_size=6)),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(CALLS, st.integers(0, 99), st.integers(1, 6))
def test_vectors_are_found_as_by_brute_force(
    calls: list[tuple[str, Any]], seed: int, most: int
) -> None:
    """Random vectors of whole numbers, so that many are equally near."""
    rng, index = np.random.default_rng(seed), VectorIndex(3)
    known: dict[str, tuple[np.ndarray, int]] = {}
    added = 0
    for call, value in calls:
        if call == "add":
            vectors = rng.integers(-2, 3, (value, 3)) + np.array([0.0, 0.0, 0.5])
            ids = [f"e{added + n}" for n in range(value)]
            added += value
            groups = rng.integers(0, 2, value).tolist()
            index.add(ids, vectors, [{"group": group} for group in groups])
            known |= {i: (v, g) for i, v, g in zip(ids, vectors, groups, strict=True)}
        else:
            gone = {f"e{n}" for n in value}
            assert index.forget(gone) == len(gone & known.keys())
            known = {i: each for i, each in known.items() if i not in gone}
    assert len(index) == len(known) and index.entries.ids == list(known)
    query = np.array([[1.0, -2.0, 0.5]])
    for where in ({}, {"group": 1}, {"group": [0, 1]}, {"other": 1}):
        wanted = {
            i: float(v @ query[0] / np.linalg.norm(v) / np.linalg.norm(query))
            for i, (v, group) in known.items()
            if "other" not in where and group in np.atleast_1d(where.get("group", [0, 1]))
        }
        (found,) = index.search(query, most, where)
        assert len(found) == min(most, len(wanted))
        assert [hit.score for hit in found] == pytest.approx(
            sorted(wanted.values(), reverse=True)[:most], abs=1e-6
        )
        for hit in found:
            assert hit.score == pytest.approx(wanted[hit.id], abs=1e-6)
            assert hit.columns == {"group": known[hit.id][1]}


@pytest.fixture(scope="module")
def packages() -> list[dict[str, str]]:
    """The first 400 packages of Debian: description, synopsis, name."""
    found: list[dict[str, str]] = pq.read_table(asset_file(DEBIAN)).slice(0, 400).to_pylist()
    return found


def word_index(packages: list[dict[str, str]]) -> WordIndex:
    index = WordIndex()
    index.add(
        [each["package"] for each in packages],
        [each["description"] for each in packages],
        [{"library": each["package"].startswith("lib")} for each in packages],
    )
    return index


def test_words_are_weighed_by_what_is_there_now(packages: list[dict[str, str]]) -> None:
    """After comings and goings an index answers as one that never had the others."""
    packages = list({each["package"]: each for each in packages}.values())
    index = word_index(packages)
    gone = {each["package"] for each in packages[::3]}
    asked = [each["synopsis"] for each in packages[1:40]]
    before = index.search(asked, 5)
    assert index.forget(gone) == len(gone) and index.forget(gone) == 0
    fresh = word_index([each for each in packages if each["package"] not in gone])
    assert index.search(asked, 5) == fresh.search(asked, 5) != before
    scores = BM25(fresh.texts).scores(asked[0])
    best = int(np.argmax(scores))
    (hits,) = index.search(asked[:1], 1)
    assert (hits[0].id, hits[0].score) == (fresh.entries.ids[best], scores[best])
    for hits in index.search(asked, 5, {"library": True}):
        assert hits and all(hit.columns["library"] for hit in hits)
    assert index.search(["qqqq"], 5) == [[]]


def test_right_packages_are_found_by_their_summaries(packages: list[dict[str, str]]) -> None:
    packages = list({each["description"]: each for each in packages}.values())
    index = WordIndex()
    index.add(
        [str(n) for n in range(len(packages))],
        [each["description"] for each in packages],
        [{}] * len(packages),
    )
    hits = index.search([each["synopsis"] for each in packages], 1)
    right = [bool(own) and own[0].id == str(n) for n, own in enumerate(hits)]
    assert np.mean(right) > 0.7


def test_what_is_saved_is_read_back(packages: list[dict[str, str]], tmp_path: Path) -> None:
    vectors, words = VectorIndex(4), word_index(packages[:9])
    rows = np.random.default_rng(0).normal(size=(9, 4))
    vectors.add([str(n) for n in range(9)], rows, [{"n": n} for n in range(9)])
    vectors.forget({"4"})
    for index, kind, asked in ((vectors, VectorIndex, rows), (words, WordIndex, ["library"])):
        folder = tmp_path / kind.kind
        index.save(folder)
        read = kind.load(folder)
        assert read.search(asked, 3) == index.search(asked, 3)  # type: ignore[arg-type]
        first = {path.name: path.read_bytes() for path in folder.iterdir()}
        read.save(folder)
        assert first == {path.name: path.read_bytes() for path in folder.iterdir()}
        if isinstance(read, VectorIndex):
            read.add(["new"], np.ones((1, 4)), [{}])
            assert read.search(np.ones((1, 4)), 1)[0][0].id == "new" and len(read) == 9


def test_what_is_not_whole_is_named(tmp_path: Path) -> None:
    index = VectorIndex(2)
    index.add(["a", "b"], np.eye(2), [{}, {}])
    index.save(tmp_path)
    save_file({"vectors": np.eye(3, dtype=np.float32)}, tmp_path / "vectors.safetensors")
    with pytest.raises(Corrupt, match=r"\(2, 2\)"):
        VectorIndex.load(tmp_path)
    (tmp_path / "vectors.safetensors").write_bytes(b"not one")
    with pytest.raises(Corrupt, match="cannot be read"):
        VectorIndex.load(tmp_path)
    said = json.loads((tmp_path / "index.json").read_text())
    said["entries"][1]["id"] = "a"
    (tmp_path / "index.json").write_text(json.dumps(said))
    with pytest.raises(Corrupt, match="not whole"):
        VectorIndex.load(tmp_path)
    with pytest.raises(Corrupt, match="an index of texts"):
        WordIndex.load(tmp_path)


@pytest.mark.parametrize(
    ("ids", "vectors", "told"),
    [
        (["a"], np.eye(2)[:1], "is in the index already"),
        (["c", "c"], np.eye(2), "is in the index already"),
        (["c"], np.zeros((1, 2)), "finite length"),
        (["c"], np.full((1, 2), np.nan), "finite length"),
        (["c"], np.eye(3)[:1], "of 2 numbers"),
        (["c", "d"], np.eye(2)[:1], "as many"),
    ],
)
def test_what_cannot_be_added_leaves_the_index_as_it_is(
    ids: list[str], vectors: np.ndarray, told: str
) -> None:
    index = VectorIndex(2)
    index.add(["a"], np.eye(2)[1:], [{}])
    with pytest.raises(BadInput, match=told):
        index.add(ids, vectors, [{}] * len(ids))
    assert index.entries.ids == ["a"] and len(index.vectors) == 1
    with pytest.raises(BadInput, match="at least 1"):
        index.search(np.eye(2), 0)
