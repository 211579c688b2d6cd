"""Shards: every document in its order, the same for any number of workers and after a kill."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.task import role_columns, task_to_json
from lmwright.data import pack
from lmwright.data.corpus import schema_of
from lmwright.data.pack import Corpus
from lmwright.data.shards import (
    ABOUT,
    DOCUMENTS,
    TOKENIZER,
    Part,
    Shards,
    document_table,
    write_shards,
)
from lmwright.data.tokenizer import TrainTokenizer
from lmwright.tasks.text_generation import TextGeneration
from lmwright.text.tokenizer import read_tokenizer
from tests.data.conftest import FakeWork

TASK = TextGeneration()
SUMMARIES = "asset:debian-summaries/debian-summaries.parquet"
KILLED = """
import os, signal, sys
from pathlib import Path
from lmwright.data import pack
from lmwright.data.pack import Corpus
from tests.data.conftest import FakeWork

pack.PART_BYTES = 1
read, done = pack.read_part, []
def killed(path):
    done.append(path)
    if len(done) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path)
pack.read_part = killed
class Work(FakeWork):
    def __init__(self, folder):
        self.inputs, self.folder, self.scratch = {}, folder, folder / "scratch"
        self.seconds, self.shown = {}, []
work = Work(Path(sys.argv[1]))
work.inputs = {"rows": Path(sys.argv[2]), "tokenizer": Path(sys.argv[3])}
Corpus(workers=1).run(work)
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """A rows artifact of 300 real descriptions of two sources, in six row groups."""
    folder = tmp_path_factory.mktemp("rows")
    texts = parquet.read_table(asset_file(SUMMARIES)).slice(0, 330)["description"].to_pylist()
    found = [
        {
            "id": hashlib.sha256(text.encode()).hexdigest()[:32],
            "text": text,
            "continuation": "",
            "source": ("one", "other")[place % 2],
            "licence": "free",
            "origin": f"debian:{place}",
        }
        for place, text in enumerate(texts)
    ]
    schema = schema_of(role_columns(TASK, "input", "target"))
    for name, part in (("train", found[:300]), ("validation", found[300:])):
        table = pa.Table.from_pylist(sorted(part, key=lambda row: row["id"]))
        parquet.write_table(
            table.select(schema.names).cast(schema), folder / f"{name}.parquet", row_group_size=50
        )
    (folder / "task.json").write_text(json.dumps(task_to_json(TASK)))
    return folder


@pytest.fixture(scope="module")
def tokenizer(rows, tmp_path_factory) -> Path:
    """What the stage tokenizer made of the rows."""
    work = FakeWork(tmp_path_factory.mktemp("tokenizer"))
    work.inputs = {"rows": rows}
    facts = TrainTokenizer(vocabulary=600).run(work)
    assert facts["vocabulary"] == 600 and facts["held_out"]["round_trip"] == 1
    return work.folder / "tokenizer"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Every row group is a part."""
    monkeypatch.setattr(pack, "PART_BYTES", 1)


def packed(folder: Path, rows: Path, tokenizer: Path, **settings: int) -> Path:
    """The shards that the stage writes."""
    work = FakeWork(folder)
    work.inputs = {"rows": rows, "tokenizer": tokenizer}
    Corpus(**settings).run(work)
    assert not list(work.scratch.iterdir())
    return folder / "shards"


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def shards(rows, tokenizer, tmp_path_factory) -> Path:
    """The shards of one worker, of at least 5,000 tokens each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "PART_BYTES", 1)
        return packed(tmp_path_factory.mktemp("one"), rows, tokenizer, workers=1, shard_tokens=5000)


def test_documents_stand_in_the_order_of_the_rows_with_their_sources(rows, tokenizer, shards):
    table = parquet.read_table(rows / "train.parquet")
    found, listed = Shards(shards), parquet.read_table(shards / DOCUMENTS)
    texts = [TASK.text(row) for row in table.to_pylist()]
    wanted = read_tokenizer(tokenizer).documents(texts)
    assert listed["id"].to_pylist() == table["id"].to_pylist()
    assert listed["source"].to_pylist() == table["source"].to_pylist()
    assert listed["tokens"].to_pylist() == [len(each) for each in wanted]
    assert listed["bytes"].to_pylist() == [len(text.encode()) for text in texts]
    assert found.ids(0, len(found)).tolist() == np.concatenate(wanted).tolist()
    for start, end, own in zip(found.starts[:-1], found.starts[1:], wanted, strict=True):
        assert found.ids(start, end).tolist() == own.tolist()
        assert (own[0], own[-1]) == (0, 1)


def test_a_shard_ends_with_a_document_once_it_is_full(shards):
    found = Shards(shards)
    assert len(found.parts) > 3
    assert all(end in found.starts for end in found.ends)
    assert all(5000 <= len(part) < 5600 for part in found.parts[:-1])


def test_two_workers_write_the_same_bytes(rows, tokenizer, shards, tmp_path):
    other = packed(tmp_path / "two", rows, tokenizer, workers=2, shard_tokens=5000)
    assert files_of(other) == files_of(shards)


def test_after_a_kill_the_rest_is_done_and_the_bytes_are_the_same(
    rows, tokenizer, tmp_path, monkeypatch
):
    (tmp_path / "scratch").mkdir()
    words = [sys.executable, "-c", KILLED, str(tmp_path), str(rows), str(tokenizer)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(list((tmp_path / "scratch" / "parts").glob("*.part"))) == 4
    done = []
    encoded = pack.encoded
    monkeypatch.setattr(pack, "encoded", lambda *given: done.append(given) or encoded(*given))
    work = FakeWork.__new__(FakeWork)
    work.inputs = {"rows": rows, "tokenizer": tokenizer}
    work.folder, work.scratch, work.shown = tmp_path / "again", tmp_path / "scratch", []
    work.folder.mkdir()
    Corpus(workers=1).run(work)
    assert len(done) == 2  # of six row groups
    whole = packed(tmp_path / "whole", rows, tokenizer, workers=1)
    assert files_of(work.folder / "shards") == files_of(whole)


def test_a_damaged_shard_is_told(shards, tmp_path):
    copy = tmp_path / "shards"
    for name, data in files_of(shards).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    Shards(copy).check()
    first = copy / "shard-00000.bin"
    data = bytearray(first.read_bytes())
    data[100] ^= 1
    first.write_bytes(data)
    with pytest.raises(Corrupt, match=r"shard-00000\.bin has other bytes"):
        Shards(copy).check()
    first.write_bytes(data[:-2])
    with pytest.raises(Corrupt, match=r"shard-00000\.bin is not there as it was written"):
        Shards(copy)
    (copy / ABOUT).write_text("{}")
    with pytest.raises(Corrupt, match="does not tell"):
        Shards(copy)


def test_the_tokenizer_lies_with_the_shards(tokenizer, shards):
    assert files_of(shards / TOKENIZER) == files_of(tokenizer)


@given(
    lengths=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=5),
    most=st.integers(1, 20),
    vocabulary=st.sampled_from([300, 70_000]),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_shards_are_read_as_one_stream(tmp_path_factory, lengths, most, vocabulary, data):
    folder = tmp_path_factory.mktemp("stream")
    total = sum(map(sum, lengths))
    stream = np.arange(total) * 7 % vocabulary
    parts, at = [], 0
    for part in lengths:
        rows = [{"id": "i", "source": "s", "key": "k", "tokens": n, "bytes": n} for n in part]
        parts.append(Part(stream[at : at + sum(part)], document_table(rows)))
        at += sum(part)
    write_shards(folder, parts, vocabulary, most)
    found = Shards(folder)
    start = data.draw(st.integers(0, total))
    end = data.draw(st.integers(start, total))
    assert found.ids(start, end).tolist() == stream[start:end].tolist()
    assert found.parts[0].itemsize == (2 if vocabulary == 300 else 4)


def test_numbers_out_of_range_and_rows_that_are_none_are_refused(rows, tokenizer, tmp_path):
    with pytest.raises(BadInput, match="shard_tokens is 0"):
        Corpus(shard_tokens=0).check()
    empty = tmp_path / "rows"
    empty.mkdir()
    table = parquet.read_table(rows / "train.parquet").slice(0, 0)
    parquet.write_table(table, empty / "train.parquet")
    (empty / "task.json").write_bytes((rows / "task.json").read_bytes())
    with pytest.raises(BadInput, match="no rows"):
        packed(tmp_path / "none", empty, tokenizer, workers=1)
