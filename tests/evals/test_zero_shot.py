"""The stage ask in whole recipes: models of this machine and hosted ones, scored and gated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmwright.cli.main import main
from lmwright.core.errors import BadInput
from lmwright.evals.predictions import read_predictions
from lmwright.evals.zero_shot import Hosting
from lmwright.store.store import Store
from tests.hosted.odd_endpoint import odd, response
from tests.models.test_foreign import folder_of as foreign
from tests.serve.talking import write_model
from tests.small_recipe import write_reviews

RECIPE = """
name: asked
stages:
  data:
    sources: [{name: rotten, path: ROWS, licence: for research}]
    label_error_rows: 0
    fractions: {train: 0.5, validation: 0.1, calibration: 0.1, gate: 0.2, test: 0.1}
  baselines: {like: ""}
  ask: ASK
  evaluate: {models: [asked, majority], draws: 100, fewest: 5}
  detect: {model: asked, window: 10, windows: 2000}
  promote: {model: asked, gate: {slices: null, max_slowdown: 1000000}}
"""


def recipe(folder: Path, **ask: Any) -> tuple[str, ...]:
    """The words that run a recipe over 200 reviews with these settings of the stage."""
    rows = write_reviews(folder / "rows.csv", 200)
    path = folder / "asked.yaml"
    asked = json.dumps({"gives_as": "asked", **ask})
    path.write_text(RECIPE.replace("ROWS", str(rows)).replace("ASK", asked))
    return ("run", str(path), "--store", str(folder / "store"))


def test_a_model_of_this_machine_is_asked_scored_and_gated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = recipe(tmp_path, model=str(write_model(tmp_path / "tiny")), max_characters=9)
    assert main(words) == 0, capsys.readouterr()
    assert "asked@production" in capsys.readouterr().out
    assert main(words) == 0
    decisions = Store(tmp_path / "store").decisions()
    assert len(decisions) == 1


def test_a_hosted_model_is_asked_once_although_the_run_breaks_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers by what the text says; the 31st question is refused, and the rerun goes on."""
    monkeypatch.setenv("ODD_KEY", "sk-hush-123")

    def says(text: str) -> bytes:
        message = {"content": "positive" if len(text) % 2 else "negative"}
        return response(200, {"choices": [{"message": message, "finish_reason": "stop"}]})

    refused = response(400, {"error": {"message": "the purse is empty"}})
    with odd(refused) as one:
        texts: list[str] = []

        def answer(client: Any) -> None:
            texts.append(one.asked[-1][2]["messages"][0]["content"])
            client.sendall(refused if len(texts) == 31 else says(texts[-1]))

        one.answers = [answer]
        hosted = {"by": "samples", "samples": 1, "key_from": "ODD_KEY", "at_once": 1}
        words = recipe(tmp_path, model=f"hosted:m@{one.url}", hosted=hosted)
        assert main(words) == 1
        told = capsys.readouterr()
        assert "the purse is empty" in told.err and "Traceback" not in told.err
        assert len(texts) == 31
        assert main(words) == 0, capsys.readouterr()
        assert texts[30] == texts[31]
        assert len(set(texts)) == len(texts) - 1 > 60
        asked = len(texts)
        assert main(words) == 0 and len(texts) == asked
    store = Store(tmp_path / "store")
    assert len(store.decisions()) == 1
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            assert b"sk-hush" not in path.read_bytes()
    scores = next((tmp_path / "store" / "artifacts").glob("*/asked/test.parquet")).parent.parent
    found = read_predictions(scores, "asked", "test")
    assert {*found.logits[:, 0].round(6)} == {round(each, 6) for each in (-1.386294, -0.287682)}


def test_a_family_that_is_not_ours_is_asked_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"negative": "w3", "positive": "w4 w5"}
    address = str(foreign("opt", tmp_path / "opt"))
    words = recipe(tmp_path, model=address, names=names, instruction="w1 {text}", max_characters=20)
    assert main(words) == 0, capsys.readouterr()
    assert "runs through transformers" in "".join(
        path.read_text() for path in (tmp_path / "store" / "runs").rglob("journal.jsonl")
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "none"}, "there is no none"),
        ({"model": "hosted:x"}, "address of a hosted model"),
        ({"model": "hosted:x@http://far.example/v1"}, "not protected by TLS"),
        ({"model": ".", "hosted": Hosting()}, "settings of a hosted model"),
        ({"model": ".", "instruction": "say"}, "without {text}"),
        ({"model": ".", "gives_as": "a/b"}, "gives_as"),
        ({"model": ".", "max_characters": 0}, "max_characters"),
        (
            {"model": "hosted:x@https://x.example/v1", "hosted": Hosting(samples=0)},
            "hosted.samples is 0",
        ),
        (
            {"model": "hosted:x@https://x.example/v1", "hosted": Hosting(at_once=65)},
            "hosted.at_once is 65",
        ),
        (
            {"model": "hosted:x@https://x.example/v1", "hosted": Hosting(key_from="sk-hush")},
            "not the key",
        ),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        Ask(**settings).check()
    assert said in str(caught.value) and "hush" not in str(caught.value)
