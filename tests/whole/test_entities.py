"""The recipe of entities at smoke size: the same commands and data, fewer rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmwright.assets import asset_file
from lmwright.core.columns import TYPES
from lmwright.core.yaml12 import parse_yaml
from lmwright.store.store import Store
from lmwright.store.versions import history
from tests.whole.commands import ends, fewer, lmwright, replayed, run_and_replay

RECIPE = Path(__file__).parents[2] / "recipes" / "entities.yaml"
ALIAS = "entities@production"

pytestmark = pytest.mark.timeout(600)

# So few rows that a gate at its usual bounds could pass nothing.
SMALL = """
extends: {recipe}
name: entities
stages:
  data: {{sources: {sources}}}
  train: {{rows: 300, batch: 8, validation_rows: 40, max_tokens: 48, lr: 5.0e-4}}
  evaluate: {{rows: 60}}
  audit: {{rows: 30}}
  detect: {{window: 40, windows: 2000, reference: [rows/test]}}
  promote:
    gate:
      {{margin: 0.4, kept_margin: 0.4, baselines: ignored, min_coverage: 0, slices: null}}
retrain:
  windows: 1
  fewest: 150
  new_labels: 150
  stages:
    train: {{rows: 60, batch: 8}}
"""


def write_long_sentences(path: Path) -> None:
    """The sentences of December with 20 words and more: traffic that is not like the training."""
    (source,) = (
        source
        for source in parse_yaml(RECIPE.read_text("utf-8"), "recipe")["stages"]["data"]["sources"]
        if source["name"] == "december"
    )
    sentences = asset_file(source["path"]).read_text("utf-8").split("\n\n")
    kept = [each for each in sentences if each.startswith("-DOCSTART-") or each.count("\n") > 18]
    path.write_text("\n\n".join(kept) + "\n", "utf-8")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which run, replay and report have ended well."""
    folder = tmp_path_factory.mktemp("entities")
    august, december = json.loads(fewer(RECIPE, 1500))
    december["path"] = str(folder / "long.conll")
    write_long_sentences(folder / "long.conll")
    recipe = SMALL.format(recipe=RECIPE, sources=json.dumps([august, december]))
    _, replay, _ = run_and_replay(folder, recipe, ALIAS, "december", 420, 20)
    (folder / "replay.txt").write_text(replay.stderr + replay.stdout)
    return folder


def test_nothing_is_lost_and_the_loop_decides(played: Path) -> None:
    found = replayed(played, ALIAS)
    assert found["lost"] == 0
    assert found["refused"] == []
    assert found["fed_back"] > 100
    assert "training" in [state["at"] for state in found["states"]]
    assert ends(played, ALIAS)
    versions = [version.id for version in history(Store(played / "store"), ALIAS)]
    assert set(found["by_version"]) <= set(versions)
    assert len(versions) == 1 + ends(played, ALIAS).count("swapped")


def test_sentences_with_every_span_right_are_counted(played: Path) -> None:
    found = replayed(played, ALIAS)
    assert found["loss"] == "error"
    for version, losses in found["by_version"].items():
        assert set(losses) <= {0.0, 1.0}
        share = found["scored"][version]["accuracy"]["estimate"]
        assert share == pytest.approx(1 - sum(losses) / len(losses))
    assert "% right [" in (played / "replay.txt").read_text()


def test_predict_gives_spans_of_the_text(played: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    text = "Germany beat England in Rome , said Peter Blackburn of Reuters ."
    texts.write_text(f'text\n"{text}"\n')
    done = lmwright("predict", str(texts), "--model", ALIAS, "--store", str(played / "store"))
    assert done.returncode == 0, done.stderr
    (line,) = (json.loads(each) for each in done.stdout.splitlines())
    spans = TYPES["spans"].read("spans", line["spans"])
    assert spans, "a sentence with five names"
    for span in spans:
        assert 0 <= span["start"] < span["end"] <= len(text)
        assert span["label"] in {"LOC", "MISC", "ORG", "PER"}


def test_the_report_shows_the_entities(played: Path) -> None:
    page = (played / "report.html").read_text()
    assert ALIAS in page
    assert "Replay of december" in page
    assert "span error" in page
    assert "<svg" in page
