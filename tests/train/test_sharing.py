"""Weights that two models have in common are in memory once, and answers stay the same bits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from lmwright.baselines.majority import Majority
from lmwright.models.files.folder import read_folder
from lmwright.models.sharing import share_equal_weights
from lmwright.models.text_model import TextPredictor, from_published
from lmwright.models.tunes.lora import LoRA
from lmwright.tasks.text_classification_model import TextClassifier
from tests.train.conftest import TASK

ROWS = [{"text": "A joy from start to end."}, {"text": "Dull."}]


@pytest.fixture
def two(small: Any) -> list[TextPredictor]:
    """Two models with adapters of their own, each on a copy of one base."""
    found = []
    for seed in (1, 2):
        head = TextClassifier(TASK).head(0.0)
        model = from_published(read_folder(small), head, 24, seed)
        LoRA(rank=2).apply(model.network, seed)
        with torch.no_grad():
            for name, each in model.network.named_parameters():
                if name.endswith("lora_b"):
                    each.normal_(generator=torch.Generator().manual_seed(seed))
        found.append(TextPredictor(TASK, model))
    return found


def logits(predictor: TextPredictor) -> torch.Tensor:
    return torch.tensor(predictor.answers(predictor.prepare(ROWS)).columns["logits"])


def test_the_base_is_in_memory_once(two: list[TextPredictor]) -> None:
    one, other = two
    before = [logits(each) for each in two]
    assert not torch.equal(*before)
    count = share_equal_weights(other, one)
    mine, theirs = (dict(each.model.network.named_parameters()) for each in two)
    own = {name for name in mine if "lora_a" in name or "lora_b" in name or "head" in name}
    shared = {name for name in mine if mine[name].data_ptr() == theirs[name].data_ptr()}
    assert shared and not shared & {name for name in own if "bias" not in name}
    assert count == sum(mine[name].numel() for name in shared)
    assert all(torch.equal(mine[name], theirs[name]) for name in shared)
    assert [torch.equal(logits(a), b) for a, b in zip(two, before, strict=True)] == [True, True]
    assert share_equal_weights(other, one) == 0, "what is shared is not shared again"


def test_what_differs_stays_apart(two: list[TextPredictor]) -> None:
    one, other = two
    with torch.no_grad():
        for each in one.model.network.parameters():
            each.add_(1)
    before = copy.deepcopy(dict(other.model.network.named_parameters()))
    assert share_equal_weights(other, one) == 0
    after = dict(other.model.network.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert share_equal_weights(other, Majority(TASK, [0.5, 0.5])) == 0
