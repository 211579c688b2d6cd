"""The stage zero-shot in whole recipes: models here and hosted ones, scored and gated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmwright.cli.main import main
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput
from lmwright.core.task import task_to_json
from lmwright.evals.predictions import read_predictions
from lmwright.evals.zero_shot import Hosting, ZeroShotClassification, label_task
from lmwright.plan.recipe import open_recipe
from lmwright.store.run import REFUSED
from lmwright.store.store import Store
from lmwright.tasks.text_classification import TextClassification
from tests.cli.folders import folder_of as ours
from tests.hosted.odd_endpoint import odd, response
from tests.models.test_foreign import folder_of as foreign
from tests.serve.talking import write_model
from tests.small_recipe import write_reviews

RECIPE = """
name: prompted
task: text-classification
stages:
  data:
    sources: [{name: rotten, path: ROWS, licence: for research}]
    label_error_rows: 0
    fractions: {train: 0.5, validation: 0.1, calibration: 0.1, gate: 0.2, test: 0.1}
  baselines: {like: ""}
  zero-shot: ASK
  evaluate: {models: [prompted, majority], draws: 100, fewest: 5}
  detect: {model: prompted, window: 10, windows: 2000}
  promote: {model: prompted, gate: {slices: null, max_slowdown: 1000000}}
"""


def recipe(folder: Path, **ask: Any) -> tuple[str, ...]:
    """The words that run a recipe over 200 reviews with these settings of the stage."""
    rows = write_reviews(folder / "rows.csv", 200)
    path = folder / "prompted.yaml"
    asked = json.dumps({"gives_as": "prompted", **ask})
    path.write_text(RECIPE.replace("ROWS", str(rows)).replace("ASK", asked))
    return ("run", str(path), "--store", str(folder / "store"))


def test_a_model_of_this_machine_is_asked_scored_and_gated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = recipe(tmp_path, model=str(write_model(tmp_path / "tiny")), max_characters=9)
    assert main(words) == REFUSED, capsys.readouterr()  # drawn weights are no better than a guess
    assert "prompted@production" in capsys.readouterr().out
    assert main(words) == REFUSED
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
        assert main(words) == REFUSED, capsys.readouterr()
        assert texts[30] == texts[31]
        assert len(set(texts)) == len(texts) - 1 > 60
        asked = len(texts)
        assert main(words) == REFUSED and len(texts) == asked
    store = Store(tmp_path / "store")
    assert len(store.decisions()) == 1
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            assert b"sk-hush" not in path.read_bytes()
    scores = next((tmp_path / "store" / "artifacts").glob("*/prompted/test.parquet")).parent.parent
    found = read_predictions(scores, "prompted", "test")
    logits = np.array(found.column("logits").to_pylist())
    assert {*logits[:, 0].round(6)} == {round(each, 6) for each in (-1.386294, -0.287682)}


def test_a_family_that_is_not_ours_is_asked_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"negative": "w3", "positive": "w4 w5"}
    address = str(foreign("opt", tmp_path / "opt"))
    words = recipe(tmp_path, model=address, names=names, instruction="w1 {text}", max_characters=20)
    assert main(words) == REFUSED, capsys.readouterr()
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
        ZeroShotClassification(**settings).check()
    assert said in str(caught.value) and "hush" not in str(caught.value)


def test_a_recipe_with_the_former_name_of_the_stage_is_read(tmp_path: Path) -> None:
    model = str(write_model(tmp_path / "tiny"))
    recipe(tmp_path, model=model)
    path = tmp_path / "prompted.yaml"
    path.write_text(path.read_text().replace("  zero-shot: ", "  ask: "))
    step = next(step for step in open_recipe(path, []).steps if step.name == "ask")
    assert step.kind == "zero-shot" and isinstance(step.stage, ZeroShotClassification)
    assert step.stage.model == model
    named = path.read_text().replace("  ask: {", "  second: {stage: ask, ")
    path.write_text(named)
    kinds = {step.name: step.kind for step in open_recipe(path, ["second.max_characters=5"]).steps}
    assert kinds["second"] == "zero-shot"


def test_a_stamp_reaches_the_family_of_the_model_and_no_other(tmp_path: Path) -> None:
    write_json(tmp_path / "task.json", task_to_json(TextClassification(labels=("a", "b"))))
    task = "lmwright.tasks.text_classification"

    def reached(model: str) -> tuple[str, ...]:
        return ZeroShotClassification(model=model).reaches({"rows": tmp_path})

    assert reached(str(ours("gpt2", tmp_path / "gpt2"))) == (task, "lmwright.models.zoo.gpt2")
    assert reached(str(foreign("opt", tmp_path / "opt"))) == (task,)
    assert reached("hosted:x@https://x.example/v1") == (task,)


def test_rows_of_a_task_without_labels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmwright.evals.zero_shot.read_task_of", lambda folder: Unlabelled())
    with pytest.raises(BadInput, match="one label a row"):
        label_task(tmp_path)


class Unlabelled:
    """A task that has no labels to choose from."""

    kind = "text-regression"
