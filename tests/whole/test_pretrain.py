"""The recipe of pretraining at smoke size: from raw text to a version that writes, in one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow import parquet

from lmwright.core.recipe import read_recipe
from lmwright.store.run import plan_recipe
from lmwright.store.store import Store
from lmwright.tables import SECTIONS, resolve
from tests.whole.commands import lmwright, run_and_promote

RECIPE = Path(__file__).parents[2] / "recipes" / "pretrain.yaml"
ALIAS = "pretrain@production"

pytestmark = pytest.mark.timeout(600)

SMALL = f"""
extends: {RECIPE}
name: pretrain
stages:
  data:
    sources:
      - name: packages
        path: asset:debian-summaries/debian-summaries.parquet
        columns: {{text: description}}
        licence: free
        limit: 1500
    fractions: {{train: 0.5, validation: 0.05, calibration: 0.1, gate: 0.25, test: 0.1}}
  tokenizer: {{vocabulary: 800}}
  corpus: {{workers: 1}}
  pretrain: {{family: llama, depth: 2, aspect: 32, context: 64, tokens: 60000, evaluate_every: 100}}
  evaluate: {{rows: 100}}
  audit: {{rows: 30}}
  detect: {{window: 30, windows: 2000}}
  promote: {{gate: {{margin: 0.6, kept_margin: 0.9}}}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the recipe ran to its end, with its report."""
    folder = tmp_path_factory.mktemp("pretrain")
    (folder / "small.yaml").write_text(SMALL)
    store = str(folder / "store")
    run_and_promote(folder / "small.yaml", ALIAS, store)
    done = lmwright("report", ALIAS, "--store", store, "--out", str(folder / "report.html"))
    assert done.returncode == 0, done.stderr
    return folder


def test_it_has_learnt_more_than_the_frequencies_of_bytes(ran: Path) -> None:
    (scores,) = (ran / "store").rglob("scores.json")
    models = json.loads(scores.read_text())["splits"]["test"]["models"]
    bits = {name: each["metrics"]["corpus_bits_per_byte"] for name, each in models.items()}
    model = bits["model"]
    assert model["low"] < model["estimate"] < model["high"] < bits["unigram"]["low"] - 0.5
    assert bits["ngram"]["high"] < bits["unigram"]["low"]


def test_generate_goes_on_from_a_prompt(ran: Path) -> None:
    words = ("generate", ALIAS, "This package provides", "--max-tokens", "12")
    done = lmwright(*words, "--store", str(ran / "store"))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) >= 3


def test_the_report_shows_the_tokenizer_and_the_corpus(ran: Path) -> None:
    page = (ran / "report.html").read_text()
    assert 'id="tokens"' in page
    assert "tokens a word" in page and "Tokens of the corpus by source" in page
    assert "In the end" in page


def test_a_second_run_does_nothing_again(ran: Path) -> None:
    recipe = read_recipe(ran / "small.yaml", resolve, SECTIONS)
    planned = plan_recipe(recipe, Store(ran / "store"))
    assert {row.state for row in planned} == {"done"}


def test_from_a_document_to_the_model_and_back(ran: Path) -> None:
    store = str(ran / "store")
    of_source = lmwright("lineage", "packages", "--store", store)
    assert of_source.returncode == 0, of_source.stderr
    assert ALIAS in json.dumps(json.loads(of_source.stdout))
    (documents,) = (ran / "store").glob("artifacts/*/documents.parquet")
    row = parquet.read_table(documents)["id"][7].as_py()
    of_row = lmwright("lineage", row, "--store", store)
    assert of_row.returncode == 0, of_row.stderr
    assert f"{ALIAS} from decision 1" in json.loads(of_row.stdout)["served_as"]


def test_check_finds_nothing_that_stops(ran: Path) -> None:
    done = lmwright("check", str(ran / "small.yaml"), "--store", str(ran / "store"))
    assert done.returncode == 0, done.stderr
    assert "pretrain:" in done.stdout and "0 stop" in done.stdout
    assert "longer than max_tokens" not in done.stdout


def test_plan_tells_the_time_of_every_stage(ran: Path, tmp_path: Path) -> None:
    words = ("plan", str(ran / "small.yaml"), "--store", str(tmp_path / "other"), "--json")
    done = lmwright(*words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "pretrain" in json.dumps(told)
