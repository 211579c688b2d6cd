"""Raw traffic is answered as evaluation answered the same raw rows: one path for cleaning."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lmwright.cli.main import main
from lmwright.serve.load import answer_rows, load_version
from lmwright.store.store import Store
from tests.small_recipe import write_recipe

MARKED = "<div class='review'><p>{}</p>&nbsp;<!-- 1 --></div>"


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """A store in which a model of HTML pages is behind ``made@production``; its raw rows."""
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path)
    path = tmp_path / "rows.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["text"] = MARKED.format(row["text"].replace("&", "&amp;"))
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["text", "label"])
        table.writeheader()
        table.writerows(rows)
    words = ["run", str(recipe), "--store", "store", "--set", "promote.gate.min_coverage=0"]
    assert main(words) == 0
    return rows


def test_served_answers_are_those_that_were_evaluated(raw: list[dict[str, str]]) -> None:
    store = Store(Path("store"))
    loaded = load_version(store, "made@production")
    scores = store.artifact(
        next(r.outputs["scores"] for r in store.all_results() if "scores" in r.outputs)
    )
    kept = store.artifact(
        next(r.outputs["rows"] for r in store.all_results() if "rows" in r.outputs)
    )
    told = pq.read_table(scores / "tfidf" / "test.parquet")
    origin = {
        row["id"]: int(row["origin"].rpartition(":")[2])
        for row in pq.read_table(kept / "test.parquet").to_pylist()
    }
    places = [origin[row] - 1 for row in told.column("id").to_pylist()]
    assert len(places) > 50
    answers = answer_rows(loaded, [{"text": raw[place]["text"]} for place in places])
    for answer, p in zip(answers, told.column("probabilities").to_pylist(), strict=True):
        np.testing.assert_array_equal(list(answer["probabilities"].values()), p)


def test_predict_reads_raw_tables_as_evaluation_did(
    raw: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["predict", "rows.csv", "--model", "made@production", "--store", "store"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]
    loaded = load_version(Store(Path("store")), "made@production")
    plain = answer_rows(loaded, [{"text": row["text"]} for row in raw[:100]])
    cleaned = [loaded.task.cleaned({"text": row["text"]}) for row in raw[:100]]
    assert all("<" not in row["text"] for row in cleaned)
    again = answer_rows(loaded, cleaned)
    for line, one, two in zip(lines, plain, again, strict=False):
        assert line["probabilities"] == one["probabilities"] == two["probabilities"]


def test_cleaning_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path)
    recipe.write_text(
        recipe.read_text().replace(
            "task: text-classification", "task: {kind: text-classification, clean: []}"
        )
    )
    with (tmp_path / "rows.csv").open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(["List<String> of <user> & co", "positive"])
    assert main(["run", str(recipe), "--store", "store"]) in (0, 1)
    found = [
        text
        for path in (tmp_path / "store" / "artifacts").glob("*/*.parquet")
        if "text" in (table := pq.read_table(path)).column_names
        for text in table.column("text").to_pylist()
    ]
    assert "List<String> of <user> & co" in found
