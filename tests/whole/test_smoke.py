"""Shipped recipes at smoke size through their whole line: run, a request, feedback, the report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lmwright as lw
from lmwright.cli.replay import Server
from lmwright.loop.controller import CANARY, canary
from lmwright.plan.recipe import open_recipe
from lmwright.serve.load import load_version
from lmwright.serve.rows import answer
from lmwright.serve.settings import Serve
from lmwright.store.store import Store
from tests.whole.commands import fewer, lmwright, run_and_promote

RECIPES = Path(__file__).parents[2] / "recipes"

pytestmark = pytest.mark.timeout(600)

BART = (
    "{d_model: 32, encoder_layers: 1, decoder_layers: 1, encoder_attention_heads: 2, "
    "decoder_attention_heads: 2, encoder_ffn_dim: 64, decoder_ffn_dim: 64, "
    "max_position_embeddings: 128}"
)
LLAMA = (
    "{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, "
    "num_key_value_heads: 2, max_position_embeddings: 128}"
)
CUT = "max_tokens: 96, check_first: report"
"""Answers of eight tokens, which take no time: their ends are cut, and that is meant so."""
NEW = f"new: {{family: bart, config: {BART}, vocabulary: 600}}, {CUT}"


@dataclass(frozen=True)
class Smoke:
    """How a recipe is made small, what is asked, the right answer, and what the report shows."""

    rows: int
    task: str
    train: str
    asked: dict[str, Any]
    answers: tuple[str, ...]
    right: dict[str, Any]
    wrong: dict[str, Any]
    words: str
    long: bool = False


SMOKES = {
    "topics": Smoke(
        400,
        "text-classification",
        "rows: 60, max_tokens: 32",
        {"text": "The striker scored twice in the second half."},
        ("label", "probabilities"),
        {"label": "sports"},
        {"label": "no such topic"},
        "Confusion",
    ),
    "pos": Smoke(
        400,
        "{kind: token-classification, case: true}",
        "rows: 60, max_tokens: 48",
        {"text": "Peter Blackburn left Brussels ."},
        ("spans", "unsure"),
        {"spans": [{"start": 0, "end": 5, "label": "NNP"}]},
        {"spans": [{"start": 0, "end": 5, "label": "no such tag"}]},
        "token accuracy",
    ),
    "entities": Smoke(
        400,
        "{kind: token-classification, scheme: bilou, context: 16, case: true, stride: 8}",
        "rows: 60, max_tokens: 40",
        {"text": "Peter Blackburn left Brussels ."},
        ("spans", "unsure"),
        {"spans": [{"start": 0, "end": 15, "label": "PER"}]},
        {"spans": [{"start": 0, "end": 5, "label": "no such label"}]},
        "token accuracy",
    ),
    "entities-pos": Smoke(
        400,
        "{kind: token-classification, case: true}",
        "rows: 60, max_tokens: 48, also: {pos: {rows: pos-rows, limit: 60}}",
        {"text": "Peter Blackburn left Brussels ."},
        ("spans", "unsure"),
        {"spans": [{"start": 0, "end": 15, "label": "PER"}]},
        {"spans": [{"start": 0, "end": 5, "label": "no such label"}]},
        "token accuracy",
    ),
    "headlines": Smoke(
        400,
        "{kind: summarization, decoding: {max_new_tokens: 8}}",
        NEW,
        {"text": "Shares of the airline fell after it said that fuel had become dearer."},
        ("summary_text", "cut"),
        {"summary": "Fuel prices hit airline's shares"},
        {"summary": " "},
        "Likeness of what was written",
    ),
    "summaries": Smoke(
        400,
        "{kind: summarization, decoding: {max_new_tokens: 8}}",
        NEW,
        {"text": "This package provides a small library. It reads and writes files of sound."},
        ("summary_text", "cut"),
        {"summary": "library for files of sound"},
        {"summary": " "},
        "Likeness of what was written",
    ),
    "translation": Smoke(
        200,
        "{kind: translation, decoding: {max_new_tokens: 8}}",
        NEW,
        {"text": "A small library.", "source_language": "en", "target_language": "fr"},
        ("translation_text", "cut"),
        {"translation": "Une petite bibliothèque."},
        {"translation": ""},
        "Likeness of what was written",
    ),
    "text2text": Smoke(
        100,
        "{kind: text2text-generation, decoding: {max_new_tokens: 8}}",
        NEW,
        {"text": "The the laws is good.", "prefix": "correct grammar"},
        ("generated_text", "cut"),
        {"target": "The laws are good."},
        {"target": " "},
        "Likeness of what was written",
    ),
    "gemma-summaries": Smoke(
        180,
        "{kind: summarization, decoding: {max_new_tokens: 8}}",
        f"rows: 20, {CUT}",
        {"text": "This package provides a small library. It reads and writes files of sound."},
        ("summary_text", "cut"),
        {"summary": "library for files of sound"},
        {"summary": " "},
        "Likeness of what was written",
        long=True,
    ),
    "gemma-translation": Smoke(
        180,
        "{kind: translation, decoding: {max_new_tokens: 8}}",
        f"rows: 20, {CUT}",
        {"text": "A small library.", "source_language": "en", "target_language": "fr"},
        ("translation_text", "cut"),
        {"translation": "Une petite bibliothèque."},
        {"translation": ""},
        "Likeness of what was written",
        long=True,
    ),
    "tags": Smoke(
        400,
        "{kind: multi-label-classification, fewest: 5}",
        "rows: 60, max_tokens: 32",
        {"text": "A game in which blocks fall, for the X Window System."},
        ("labels", "probabilities"),
        {"labels": ["interface::x11"]},
        {"labels": ["no such tag"]},
        "F1 of the most frequent labels",
    ),
    "years": Smoke(
        400,
        "regression",
        "rows: 60, max_tokens: 32",
        {"text": "Our forces in Europe and the Pacific have won the war."},
        ("value", "interval"),
        {"label": 1946},
        {"label": "long ago"},
        "How large the errors are",
    ),
    "similarity": Smoke(
        400,
        "{kind: sentence-similarity, widths: [64]}",
        "rows: 60, max_tokens: 32",
        {"sentence1": "games with blocks", "sentence2": "A game in which blocks fall."},
        ("score",),
        {"score": 1},
        {"score": 3},
        "Where the right passage stands",
    ),
    "intents": Smoke(
        693,
        "text-classification",
        "rows: 60, max_tokens: 32",
        {"text": "Utterance: Play some jazz."},
        ("label", "probabilities"),
        {"label": "play_music"},
        {"label": " "},
        "Truth and answers",
    ),
    "chat": Smoke(
        300,
        "{kind: chat, decoding: {max_new_tokens: 8}}",
        f"new: {{family: llama, config: {LLAMA}, vocabulary: 600}}, {CUT}",
        {"messages": [{"role": "user", "content": "Hello, how are you?"}]},
        ("generated_text", "ended"),
        {"response": "Fine, and you?"},
        {"response": " "},
        "Likeness of what was written",
    ),
    "gemma-chat": Smoke(
        120,
        "{kind: chat, decoding: {max_new_tokens: 8}}",
        f"rows: 20, {CUT}",
        {"messages": [{"role": "user", "content": "Hello, how are you?"}]},
        ("generated_text", "ended"),
        {"response": "Fine, and you?"},
        {"response": " "},
        "Likeness of what was written",
        long=True,
    ),
    "ranking": Smoke(
        150,
        "text-ranking",
        "rows: 60, max_tokens: 32",
        {"query": "games with blocks", "document": "A game in which blocks fall."},
        ("score",),
        {"relevance": 1},
        {"relevance": 3},
        "How good the rankings are",
    ),
}

SMALL = """
extends: {recipe}
name: {name}
task: {task}
stages:
  data:
    sources: {sources}
    fractions: {{train: 0.6, validation: 0.1, calibration: 0.1, gate: 0.1, test: 0.1}}
  train: {{{train}, epochs: 1, batch: 20, validation_rows: 10}}
  evaluate: {{rows: 30, draws: 200}}
  audit: {{rows: 30}}
  detect: {{window: 10, windows: 2000, reference: [rows/gate, rows/test]}}
  promote: {{gate: {{baselines: ignored, slices: null}}}}
"""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if smoke.long else [])
        for name, smoke in SMOKES.items()
    ],
)
def test_a_recipe_goes_its_whole_line(name: str, tmp_path: Path) -> None:
    """In one test, so that no second worker runs the recipe again."""
    smoke, alias, store = SMOKES[name], f"{name}@production", tmp_path / "store"
    run_small(name, smoke, tmp_path)
    scored(store)
    loaded = load_version(Store(store), alias)
    assert len(answer(loaded, loaded.predictor.prepare(canary(loaded.task)))) == len(CANARY)
    asked_and_told(smoke, alias, tmp_path / "small.yaml", store)
    page = tmp_path / "report.html"
    done = lmwright("report", alias, "--store", str(store), "--out", str(page))
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert smoke.words in text and "<svg" in text


def run_small(name: str, smoke: Smoke, folder: Path) -> None:
    """Run the recipe; a model that the gate refuses is promoted by hand."""
    path, recipe, store = folder / "small.yaml", RECIPES / f"{name}.yaml", str(folder / "store")
    path.write_text(
        SMALL.format(
            recipe=recipe,
            name=name,
            task=smoke.task,
            sources=fewer(recipe, smoke.rows),
            train=smoke.train,
        )
    )
    run_and_promote(path, f"{name}@production", store)


def scored(store: Path) -> None:
    """Every model has scores with intervals."""
    counts = []
    for path in store.rglob("scores.json"):
        found = json.loads(path.read_text())
        models = found["splits"]["test"]["models"]
        counts.append(len(models))
        for each in models.values():
            value = each["metrics"][found["primary"]]
            assert value["low"] <= value["estimate"] <= value["high"]
    assert max(counts) >= 3, "the model and its baselines"


def asked_and_told(smoke: Smoke, alias: str, recipe: Path, store: Path) -> None:
    """A request over HTTP, the same from Python, feedback right and wrong, a column missing."""
    # Before the server: a connection on which a large model is loaded meanwhile grows idle.
    served = open_recipe(recipe, []).sections.get("serve") or Serve()
    (found,) = lw.load(alias, store, precision=served.precision)([smoke.asked])
    server = Server(alias, recipe, Store(store))
    try:
        status, told = server.ask("POST", "/v1/predict", {"inputs": [smoke.asked]})
        assert status == 200, told
        (answer,) = told["answers"]
        assert set(smoke.answers) <= set(answer)
        first = smoke.answers[0]
        number = isinstance(answer[first], float)
        assert found[first] == (pytest.approx(answer[first]) if number else answer[first])
        about = {"id": told["id"], "index": 0}
        assert server.ask("POST", "/v1/feedback", {**about, **smoke.right})[0] == 201
        status, refused = server.ask("POST", "/v1/feedback", {**about, **smoke.wrong})
        assert status in (400, 409, 422), refused
        missing = dict(list(smoke.asked.items())[1:])
        status, refused = server.ask("POST", "/v1/predict", {"inputs": [missing]})
        assert status == 400 and next(iter(smoke.asked)) in json.dumps(refused)
    finally:
        server.stop()
