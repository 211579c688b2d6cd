"""The recipe of writing at smoke size: a model drawn from nothing, and one turn of the loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lmwright as lw
from lmwright.serve.load import load_version
from lmwright.serve.version_model import VersionModel
from lmwright.store.store import Store
from lmwright.store.versions import history
from lmwright.text.generation import SamplingParams
from tests.whole.commands import ends, fewer, lmwright, replayed, run_and_replay

RECIPE = Path(__file__).parents[2] / "recipes" / "writing.yaml"
ALIAS = "writing@production"

pytestmark = pytest.mark.timeout(600)

SMALL = """
extends: {recipe}
name: writing
task: {{kind: text-generation, max_new_tokens: 8}}
stages:
  data: {{sources: {sources}}}
  train:
    new:
      family: llama
      config: {{hidden_size: 48, intermediate_size: 96, num_hidden_layers: 2}}
      vocabulary: 400
    rows: 500
    epochs: 2
    batch: 10
    validation_rows: 40
    max_tokens: 64
    lr: 5.0e-3
  evaluate: {{rows: 60}}
  audit: {{rows: 30}}
  detect: {{window: 40, windows: 2000, reference: [rows/test]}}
  promote: {{gate: {{margin: 0.4, kept_margin: 0.8, slices: null}}}}
retrain:
  windows: 1
  fewest: 150
  new_labels: 150
  stages:
    train: {{rows: 100, epochs: 1, lr: 1.0e-3}}
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which run, replay and report have ended well."""
    folder = tmp_path_factory.mktemp("writing")
    recipe = SMALL.format(recipe=RECIPE, sources=fewer(RECIPE, 1500))
    _, replay, _ = run_and_replay(folder, recipe, ALIAS, "imdb", 420, 20)
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


def test_the_replay_tells_bits_a_byte_and_nothing_right(played: Path) -> None:
    found = replayed(played, ALIAS)
    assert found["loss"] == "bits_per_byte"
    assert found["largest"] == 8.0
    for version, losses in found["by_version"].items():
        told = found["scored"][version]["bits_per_byte"]["estimate"]
        assert told == pytest.approx(sum(losses) / len(losses))
        assert 1.5 < told < 4.5
    text = (played / "replay.txt").read_text()
    assert "mean bits per byte" in text
    assert "right" not in text


def test_it_has_learnt_more_than_the_frequencies_of_bytes(played: Path) -> None:
    found = list((played / "store").rglob("scores.json"))
    assert found, "of the first training, and of the loop's"
    for scores in found:
        models = json.loads(scores.read_text())["splits"]["test"]["models"]
        bits = {name: each["metrics"]["bits_per_byte"]["estimate"] for name, each in models.items()}
        assert bits["model"] < bits["unigram"] - 0.3


def test_predict_writes_on(played: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("text\nThis movie is\nThe best part\n")
    words = ("predict", str(texts), "--model", ALIAS, "--store", str(played / "store"))
    first, again = lmwright(*words), lmwright(*words)
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout
    written = [json.loads(line)["completion"] for line in first.stdout.splitlines()]
    assert all(written)
    assert len(set(written)) == 2


def test_a_version_goes_on_from_a_text_in_python(played: Path) -> None:
    model = lw.load(ALIAS, played / "store")
    assert model("The film is")["completion"]
    drawn = {"max_new_tokens": 8, "temperature": 0.8, "seed": 5}
    found = model.generate(["The film is", "The film is"], **drawn)
    network = VersionModel(load_version(Store(played / "store"), ALIAS))
    reference = network.complete("The film is", SamplingParams(8, 0.8), 5)
    assert found == ["".join(reference)] * 2
    assert "".join(model.generate("The film is", stream=True, **drawn)) == found[0]


def test_generate_reads_a_prompt_as_the_version_in_service_does(played: Path) -> None:
    """What cleaning takes from the texts that it learnt from is taken from a prompt too."""
    untidy, options = "The cafe\u0301 is", ("--max-tokens", "8", "--temperature", "0")
    served = VersionModel(load_version(Store(played / "store"), ALIAS))
    assert served.prompt_ids(untidy).tolist() == served.prompt_ids("The caf\u00e9 is").tolist()
    found = lmwright("generate", ALIAS, untidy, *options, "--store", str(played / "store"))
    assert found.returncode == 0, found.stderr
    wanted = "".join(served.complete("The caf\u00e9 is", SamplingParams(8, 0.0), 0))
    assert found.stdout.rstrip("\n").endswith(wanted.rstrip("\n"))
    assert found.stdout.rstrip("\n").removesuffix(wanted.rstrip("\n")).strip() in ("", untidy)


def test_the_report_shows_bits_a_byte(played: Path) -> None:
    page = (played / "report.html").read_text()
    assert ALIAS in page
    assert "bits per byte on what it answered" in page
    assert "<svg" in page
