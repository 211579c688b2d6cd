"""What a tuned model forgot of its start."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lmwright.models.text_model import TextModel
from lmwright.report.sections.learning import forgotten
from lmwright.train.documents import Document, byte_count, likelihoods
from lmwright.train.finetune import Train
from lmwright.train.forgetting import PASSAGES, forgetting, general_passages
from lmwright.train.new import New
from tests.models.test_text_model import BART
from tests.tasks.test_text_generation import LLAMA
from tests.train.conftest import FakeWork


@pytest.fixture(scope="module")
def start() -> TextModel:
    """A small decoder that nobody has trained."""
    drawn = New(family="llama", config=LLAMA, vocabulary=400)
    return drawn.model(general_passages(), "lm", 64, seed=3)


def moved(model: TextModel, size: float) -> TextModel:
    """The same model with noise on its weights."""
    network = copy.deepcopy(model.network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in network.parameters():
            each.add_(size * torch.randn(each.shape, generator=generator))
    return model.with_network(network, model.max_tokens)


def test_a_model_that_did_not_move_forgot_nothing(start: TextModel) -> None:
    found = forgetting(start, moved(start, 0.0))
    assert found["kl"] == 0.0
    assert found["bits_per_byte_before"] == found["bits_per_byte_after"]
    assert len(set(general_passages())) == PASSAGES


def test_it_grows_with_the_way_that_a_model_went(start: TextModel) -> None:
    near, far = (forgetting(start, moved(start, size))["kl"] for size in (0.01, 0.1))
    assert 0 < near < far


def test_bits_per_byte_are_those_of_the_documents(start: TextModel) -> None:
    texts = [start.document(text, closed=False)[:64] for text in general_passages()]
    items = [Document(ids, 1, 1, None) for ids in texts]
    nats = likelihoods(start.network, items)[0].sum()
    size = sum(byte_count(start.tokenizer.decode(ids[1:].tolist())) for ids in texts)
    found = forgetting(start, start)
    assert found["bits_per_byte_before"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert found["tokens"] == sum(map(len, texts))


def test_two_streams_have_no_gauge() -> None:
    drawn = New(family="bart", config=BART, vocabulary=400)
    model = drawn.model(general_passages(), "lm", 64, seed=3)
    assert forgetting(model, model) == {}


def test_a_training_says_what_it_forgot(rows: Path, small: Path, tmp_path: Path) -> None:
    stage = Train(start=str(small), rows=32, epochs=1, batch=8, max_tokens=48, lr=3e-3)
    found = stage.run(FakeWork({"rows": rows}, tmp_path / "a"))["forgetting"]
    slow = replace(stage, lr=1e-6).run(FakeWork({"rows": rows}, tmp_path / "b"))["forgetting"]
    assert found["cosine"] < slow["cosine"] <= 1 + 1e-9
    assert np.isclose(slow["cosine"], 1, atol=1e-4)
    assert "16 general texts" in forgotten(found)


def test_the_report_says_it(start: TextModel) -> None:
    assert "nats a token (KL) from its start" in forgotten(forgetting(start, moved(start, 0.1)))
    assert forgotten({}) == ""
