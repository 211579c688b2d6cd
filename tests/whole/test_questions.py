"""The recipe of questions at smoke size: run, a request with feedback, predict, report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

import lmwright as lw
from lmwright.cli.replay import Server
from lmwright.core.columns import TYPES
from lmwright.core.yaml12 import parse_yaml
from lmwright.store.run import REFUSED
from lmwright.store.store import Store
from tests.squad import squad_file
from tests.whole.commands import lmwright

RECIPE = Path(__file__).parents[2] / "recipes" / "questions.yaml"
ALIAS = "questions@production"

pytestmark = pytest.mark.timeout(600)

# So few rows that a gate at its usual bounds could pass nothing.
SMALL = """
extends: {recipe}
name: questions
task: {{kind: question-answering, max_question: 24, stride: 16, max_answer: 12}}
stages:
  data: {{sources: {sources}}}
  train: {{rows: 24, epochs: 1, batch: 8, validation_rows: 10, max_tokens: 96}}
  evaluate: {{rows: 30}}
  audit: {{rows: 30}}
  detect: {{window: 20, windows: 2000, reference: [rows/test]}}
  promote:
    gate:
      {{margin: 0.9, kept_margin: 0.9, baselines: ignored, min_coverage: 0, slices: null}}
"""
CONTEXT = "The tower was built by Mario Rossi in 1950. Its garden was planted by Anna Bianchi."
ASKED = {"question": "Who built the tower?", "context": CONTEXT}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the run has ended well."""
    squad_file()
    folder = tmp_path_factory.mktemp("questions")
    path, store = folder / "small.yaml", str(folder / "store")
    sources = parse_yaml(RECIPE.read_text("utf-8"), "recipe")["stages"]["data"]["sources"]
    limits = {"squad": 620, "reddit": 40}
    fewer = [{**source, "limit": limits[source["name"]]} for source in sources]
    path.write_text(SMALL.format(recipe=RECIPE, sources=json.dumps(fewer)))
    done = lmwright("run", str(path), "--store", store)
    assert done.returncode in (0, REFUSED), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode == REFUSED:  # so little was learnt that it need not beat the baseline
        (version,) = re.findall(r"promote +version (\w+)", done.stdout)
        by_hand = ("promote", ALIAS, version, "--reason", "smoke", "--store", store)
        done = lmwright(*by_hand)
        assert done.returncode == 0, done.stderr
    return folder


def scores(ran: Path) -> dict[str, Any]:
    """What the stage evaluate found."""
    (path,) = (ran / "store").rglob("scores.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_every_score_has_an_interval_beside_the_baseline(ran: Path) -> None:
    found = scores(ran)
    for split in ("test", "test-reddit"):
        models = found["splits"][split]["models"]
        assert set(models) == {"model", "overlap", "overlap_all"}
        for each in models.values():
            for name in ("f1", "exact_match", "has_answer_f1", "no_answer_accuracy"):
                value = each["metrics"][name]
                assert value["low"] <= value["estimate"] <= value["high"]
    assert found["calibration"]["model"]["thresholds"]


def test_the_kinds_of_unanswerable_questions_are_slices_apart(ran: Path) -> None:
    names = {each["slice"] for each in scores(ran)["splits"]["test"]["slices"]}
    assert {f"group: {kind}" for kind in ("answered", "same article", "other article")} <= names


def test_no_context_stands_in_two_splits(ran: Path) -> None:
    (rows,) = (path.parent for path in (ran / "store").rglob("quality.json"))
    splits = [set(parquet.read_table(p)["context"].to_pylist()) for p in rows.glob("*.parquet")]
    assert len(splits) == 6
    assert sum(map(len, splits)) == len(set().union(*splits))


def test_a_request_its_feedback_and_the_log(ran: Path) -> None:
    server = Server(ALIAS, ran / "small.yaml", Store(ran / "store"))
    try:
        status, told = server.ask("POST", "/v1/predict", {"inputs": [ASKED]})
        assert status == 200, told
        (answer,) = told["answers"]
        assert CONTEXT[answer["start"] : answer["end"]] == answer["answer"]
        assert answer["score"] in [each["score"] for each in answer["answers"]]
        best = TYPES["choices"].read("answers", answer["answers"])
        assert "" in [each["answer"] for each in best]
        assert 0 < sum(each["score"] for each in best) <= 1
        about = {"id": told["id"], "index": 0}
        right = {"text": ["Mario Rossi"], "answer_start": [CONTEXT.index("Mario")]}
        assert server.ask("POST", "/v1/feedback", {**about, "answers": right})[0] == 201
        wrong = {"text": ["Mario Rossi"], "answer_start": [3]}
        status, refused = server.ask("POST", "/v1/feedback", {**about, "answers": wrong})
        assert status in (400, 409, 422)
        assert "stands elsewhere" in json.dumps(refused)
        status, refused = server.ask("POST", "/v1/predict", {"inputs": [{"question": "Who?"}]})
        assert status == 400 and "context" in json.dumps(refused)
    finally:
        server.stop()


def test_predict_and_python_answer_alike(ran: Path, tmp_path: Path) -> None:
    table = tmp_path / "asked.jsonl"
    rows = [ASKED, {**ASKED, "question": "Who planted it?", "id": "7"}, {"question": "Who?"}]
    table.write_text("\n".join(map(json.dumps, rows)))
    done = lmwright("predict", str(table), "--model", ALIAS, "--store", str(ran / "store"))
    one, two, bad = (json.loads(line) for line in done.stdout.splitlines())
    assert "context" in bad["error"]
    model = lw.load(ALIAS, ran / "store")
    for row, line in zip(rows, (one, two), strict=False):
        (found,) = model([{name: row[name] for name in ("question", "context")}])
        assert (found["answer"], found["score"]) == (line["answer"], pytest.approx(line["score"]))


def test_the_report_shows_both_kinds_of_questions(ran: Path) -> None:
    page = ran / "report.html"
    done = lmwright("report", ALIAS, "--store", str(ran / "store"), "--out", str(page))
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    for words in ("Questions with and without an answer", "exact match", "other article", "<svg"):
        assert words in text
