"""A training that takes the body of an earlier model, which was trained for another task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.core.task import role_columns
from lmwright.data.corpus import schema_of
from lmwright.models.load import load_predictor
from lmwright.tasks.text_generation import TextGeneration
from lmwright.train.finetune import Train
from lmwright.train.new import New
from tests.train.conftest import FakeWork, write_rows, write_task

TEXTS = TextGeneration(max_new_tokens=4)
CONFIG: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def domain(sentences, tmp_path_factory) -> Path:
    """A small language model of review sentences: an artifact under its hash."""
    folder = tmp_path_factory.mktemp("domain")
    texts = folder / "texts"
    texts.mkdir()
    schema = schema_of(role_columns(TEXTS, "input", "target"))
    found = [{**each, "continuation": ""} for each in sentences]
    write_rows(texts / "train.parquet", found[:80], schema)
    write_rows(texts / "validation.parquet", found[80:100], schema)
    write_task(texts, TEXTS)
    work = FakeWork({"rows": texts}, folder)
    new = New(family="llama", config=CONFIG, vocabulary=300)
    Train(new=new, epochs=1, max_tokens=48, lr=3e-3, check_first="off").run(work)
    (folder / "artifacts").mkdir()
    (folder / "model").rename(folder / "artifacts" / ("d" * 64))
    return folder / "artifacts" / ("d" * 64)


@pytest.fixture
def stage() -> Train:
    return Train(
        start_from="domain", take="body", rows=60, epochs=1, max_tokens=48, lr=3e-3, dropout=0.0
    )


def test_continued_pretraining_then_tuning(stage, domain, rows, tmp_path):
    """The body is that of the language model; the head is drawn, and learns the labels."""
    work = FakeWork({"rows": rows, "domain": domain}, tmp_path / "work")
    frozen = replace(stage, tune="head")
    start, _ = frozen.begun(work)
    before = load_predictor(domain).model.network
    for name, weight in start.model.network.named_parameters():
        if not name.startswith("head."):
            assert torch.equal(weight, before.get_parameter(name))
    assert start.model.outputs == 2 and not start.known_head
    facts = stage.run(work)
    made = load_predictor(work.folder / "model")
    assert facts["task"] == "text-classification" and made.task.labels == ("0", "1")
    assert facts["forgetting"]["cosine"] < 1


@pytest.mark.parametrize("tune", ["lora", "head"])
def test_what_learns_stands_on_the_body_alone(stage, domain, rows, tmp_path, tune):
    folder = domain.parent
    work = FakeWork({"rows": rows, "domain": domain}, folder / tune)
    own = replace(stage, tune=tune)
    own.run(work)
    made = work.folder / "model"
    target = folder / (tune[0].encode().hex() * 32)
    made.rename(target)
    found = load_predictor(target)
    assert found.adaptation.base == "d" * 64
    heads = {name for name in found.adaptation.own if name.startswith("head.")}
    assert "head.out.weight" in heads and (tune == "lora") == (heads < found.adaptation.own)
    answers = answer_all(found, [{"text": "a fine film"}, {"text": "dull"}])
    assert np.asarray(answers["logits"]).shape == (2, 2)
    score = found.task_model.score(found.model.network, own.begun(work)[0].examples)
    assert np.isfinite(score["log_loss"])


def test_another_task_without_take_is_refused(stage, domain, rows, tmp_path):
    work = FakeWork({"rows": rows, "domain": domain}, tmp_path / "work")
    with pytest.raises(BadInput, match="or set take to body"):
        replace(stage, take="model").run(work)
    with pytest.raises(BadInput, match="an earlier model, and epochs"):
        replace(stage, start_from=None).check()
    with pytest.raises(BadInput, match="an earlier model, and epochs"):
        replace(stage, epochs=0).check()
