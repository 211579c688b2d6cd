"""Mails: other data and other labels through the same line, and a shift that does harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmwright.store.store import Store
from lmwright.store.versions import current
from tests.conftest import MAILS
from tests.whole.commands import fewer, lmwright

RECIPE = Path(__file__).parents[2] / "recipes" / "spam.yaml"

pytestmark = pytest.mark.timeout(900)

SMALL = """
extends: {recipe}
name: spam
stages:
  data: {{sources: {sources}}}
  train: {{rows: 160, validation_rows: 40, max_tokens: 96}}
  evaluate: {{splits: [test], rows: 80}}
  audit: {{rows: 40}}
  detect: {{window: 50, windows: 2000, reference: [rows/test, rows/calibration]}}
  promote: {{gate: {{min_coverage: 0, baselines: ignored}}}}
"""


@MAILS
def test_the_whole_line_on_mails(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(SMALL.format(recipe=RECIPE, sources=fewer(RECIPE, 500)))
    done = lmwright("run", str(recipe), "--store", str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path / "store")
    version = current(store, "spam@production")
    assert version is not None, done.stderr
    mails = tmp_path / "mails.jsonl"
    mails.write_text(json.dumps({"text": "Click here for free money, guaranteed! Act now."}) + "\n")
    words = ("--model", "spam@production", "--store", str(tmp_path / "store"))
    answer = json.loads(lmwright("predict", str(mails), *words).stdout)
    assert set(answer["probabilities"]) == {"ham", "spam"}


@MAILS
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_loop_notices_mends_and_proves_a_harmful_shift(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    test_sets = ("--test-set", "hard-ham-1", "--test-set", "spam-2")
    for words in (
        ("run", str(RECIPE), "--store", store),
        # Every answer is labelled, so that texts are left when the new version is in service.
        (
            "replay",
            str(RECIPE),
            *test_sets,
            "--labelled",
            "1",
            "--store",
            store,
            "--seconds",
            "2400",
        ),
    ):
        done = lmwright(*words, seconds=2700)
        assert done.returncode == 0, done.stderr
    played = json.loads(
        (tmp_path / "store" / "traffic" / "spam@production" / "replay.json").read_bytes()
    )
    assert played["lost"] == 0
    assert [state["at"] for state in played["states"]][-1] == "swapped"
    decisions = Store(tmp_path / "store").decisions()
    proof = decisions[-1]["facts"]["evidence"]["conditions"][0]["evidence"]
    assert decisions[-1]["action"] == "promote"
    assert proof["verdict"] == "superior"
