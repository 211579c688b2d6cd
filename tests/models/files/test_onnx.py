"""ONNX of a model of the store: the runtime's logits are the model's, for every kind of head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from lmwright.core.errors import BadInput, Corrupt
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Head
from lmwright.models.files import onnx_file
from lmwright.models.files.export import export_predictor
from lmwright.models.text_model import TextPredictor
from lmwright.tasks.text_generation import TextGeneration
from lmwright.train.new import New
from tests.models.files.test_leaving import BART, LABELS, SPANS, SURE, of_encoder
from tests.tasks.test_text_generation import LLAMA
from tests.train.conftest import sentences as sentences  # the fixtures
from tests.train.conftest import small as small

WRITING = TextGeneration()


def language_model(family: str, config: dict) -> TextPredictor:
    model = New(family=family, config=config, vocabulary=300).model(["a b c"] * 5, "lm", 32, 1)
    return TextPredictor(WRITING, model)


def predictor(kind: str, small: Path) -> TextPredictor:
    if kind == "llama":
        return language_model("llama", LLAMA)
    if kind == "first":
        first = Head(pool="first", outputs=3, bias=True)
        return of_encoder(small, LABELS, first)
    return of_encoder(small, SPANS if kind == "tokens" else LABELS)


@pytest.mark.parametrize("kind", ["mean", "tokens", "llama"])
def test_logits_of_real_sentences_are_the_models(
    kind: str, small: Path, sentences: list, tmp_path: Path
) -> None:
    made, out = predictor(kind, small), tmp_path / "out"
    export_predictor(made, SURE, "it@production", out, "onnx")
    there = {"model.onnx", "tokenizer.json", "tokenizer_config.json", "task.json"}
    assert {path.name for path in out.iterdir()} == there | {"calibration.json", "README.md"}
    assert json.loads((out / "task.json").read_text())["kind"] == made.task.kind
    assert "onnxruntime" in (out / "README.md").read_text()
    documents = [item.ids[:30] for item in made.model.tokens([r["text"] for r in sentences[:7]])]
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    ids, mask = onnx_file.padded(documents)
    (found,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    batch = pack(documents)
    with torch.no_grad():
        whole = made.model.network(batch)
    for row, document in enumerate(documents):
        ours = batch.by_document(whole)[row] if found.ndim == 3 else whole[row]
        theirs = found[row, : len(document)] if found.ndim == 3 else found[row]
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-4, atol=1e-4)


def test_a_graph_that_gives_other_logits_does_not_leave(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = onnx_file.loaded

    def off(*given):
        graph = plain(*given)
        with torch.no_grad():
            graph.dense.bias.add_(0.01)
        return graph

    monkeypatch.setattr(onnx_file, "loaded", off)
    with pytest.raises(Corrupt, match="that differ by"):
        export_predictor(predictor("mean", small), SURE, "it", tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_graph_is_refused(small: Path, tmp_path: Path) -> None:
    pair = language_model("bart", BART)
    with pytest.raises(BadInput, match="ONNX of a head for 'lm' with an encoder"):
        export_predictor(pair, SURE, "it", tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []
