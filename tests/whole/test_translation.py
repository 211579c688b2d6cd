"""The recipe of translation at smoke size, through a turn of the loop: Spanish is its traffic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmwright.store.store import Store
from lmwright.store.versions import history
from tests.whole.commands import ends, fewer, lmwright, replayed, run_and_replay

RECIPE = Path(__file__).parents[2] / "recipes" / "translation.yaml"
ALIAS = "translation@production"

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

# So few rows that a gate at its usual bounds could pass nothing.
SMALL = """
extends: {recipe}
name: translation
task: {{kind: translation, decoding: {{max_new_tokens: 12}}}}
stages:
  data:
    sources: {sources}
    fractions: {{train: 0.6, validation: 0.05, calibration: 0.05, gate: 0.15, test: 0.15}}
  train:
    new:
      family: bart
      config: {{d_model: 48, encoder_layers: 1, decoder_layers: 1, encoder_attention_heads: 2,
        decoder_attention_heads: 2, encoder_ffn_dim: 96, decoder_ffn_dim: 96}}
      vocabulary: 800
    epochs: 3
    batch: 16
    validation_rows: 20
    max_tokens: 64
    lr: 3.0e-3
    check_first: report  # answers of twelve tokens are cut
  evaluate: {{rows: 40}}
  audit: {{rows: 20}}
  detect: {{window: 30, windows: 2000, reference: [rows/test]}}
  promote:
    gate: {{margin: 0.4, kept_margin: 0.4, baselines: ignored, slices: null, max_slowdown: 1.0e+6}}
retrain:
  windows: 1
  fewest: 150
  new_labels: 150
  stages:
    train: {{epochs: 1, batch: 16}}
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which run, replay and report have ended well."""
    folder = tmp_path_factory.mktemp("translation")
    sources = json.loads(fewer(RECIPE, 400))
    recipe = SMALL.format(recipe=RECIPE, sources=json.dumps(sources))
    run_and_replay(folder, recipe, ALIAS, "en-es", 300, 20, by_hand=True)
    return folder


def test_nothing_is_lost_and_the_loop_decides(played: Path) -> None:
    found = replayed(played, ALIAS)
    assert found["lost"] == 0
    assert found["refused"] == []
    assert found["fed_back"] > 80
    assert "training" in [state["at"] for state in found["states"]]
    assert ends(played, ALIAS)
    versions = [version.id for version in history(Store(played / "store"), ALIAS)]
    assert set(found["by_version"]) <= set(versions)
    assert len(versions) == 1 + ends(played, ALIAS).count("swapped")


def test_served_translations_are_judged_by_their_chrf(played: Path) -> None:
    found = replayed(played, ALIAS)
    assert found["loss"] == "dissimilarity"
    for losses in found["by_version"].values():
        assert losses and all(0 <= loss <= 1 for loss in losses)


def test_the_version_in_service_translates_a_file(played: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("text,source_language,target_language\nA small library.,en,es\n")
    done = lmwright("predict", str(texts), "--model", ALIAS, "--store", str(played / "store"))
    assert done.returncode == 0, done.stderr
    (line,) = (json.loads(each) for each in done.stdout.splitlines())
    assert isinstance(line["translation_text"], str) and line["cut"] is False


def test_the_report_shows_the_replay(played: Path) -> None:
    page = (played / "report.html").read_text()
    assert ALIAS in page and "Replay of en-es" in page and "<svg" in page
