"""Which turn tokens a published model has learnt, of real weights and of changed ones."""

from __future__ import annotations

import pytest
import torch

from lmwright.models.loading import load_text_model
from lmwright.models.text_model import TextModel
from lmwright.models.turn_markers import likenesses, token_rows, turn_tokens, untrained_direction
from lmwright.tasks.chat_model import fitting_template
from lmwright.text.templates import TEMPLATES
from lmwright.train.new import New
from tests.tasks.test_text_generation import GEMMA, LLAMA

TURNS = ["<start_of_turn>", "<end_of_turn>"]


@pytest.fixture(scope="module")
def gemma() -> TextModel:
    """The base model: it has the turn tokens of its instruct sister, and no chat template."""
    return load_text_model(GEMMA, print)


def test_a_base_model_has_not_learnt_its_turn_tokens(gemma: TextModel) -> None:
    direction = untrained_direction(gemma)
    assert direction is not None and 0.4 < direction.limit < 0.8
    found = likenesses(gemma, [*TURNS, "<bos>", "<eos>", "<pad>"], direction)
    assert all(found[token] > direction.limit for token in (*TURNS, "<pad>"))
    assert all(found[token] < direction.limit for token in ("<bos>", "<eos>"))
    ordinary = token_rows(gemma)[gemma.tokenizer.ids("The weather is nice today").tolist()]
    assert all(direction.likeness(row.float()) < direction.limit for row in ordinary)


def test_the_template_is_one_whose_tokens_are_learnt(gemma: TextModel) -> None:
    name, found = fitting_template(gemma)
    assert name == "plain"
    assert set(found["turn_tokens"]["gemma"]) == {*TURNS}
    rows, control = token_rows(gemma), gemma.tokenizer.control
    places = [control[token] for token in TURNS]
    before = rows[places].clone()
    with torch.no_grad():  # as if they had been trained: rows of ordinary words
        rows[places] = rows[gemma.tokenizer.ids("user model").tolist()[:2]]
    try:
        assert fitting_template(gemma)[0] == "gemma"
    finally:
        rows[places] = before


def test_turn_tokens_are_the_template_s_own() -> None:
    model = New(family="llama", config=LLAMA, vocabulary=300).model(["a b"], "lm", 64, seed=0)
    assert untrained_direction(model) is None, "no token is known to be unused"
    assert all(turn_tokens(model, source) == [] for source in TEMPLATES.values())
    assert fitting_template(model) == ("plain", {"turn_tokens": {}, "untrained_from": None})
