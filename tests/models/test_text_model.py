"""A text model of each kind comes back from its folder with what it writes, reads and begins by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, from_published, language_model
from lmwright.text.generation import GenerationConfig, SamplingParams
from lmwright.train.new import New
from tests.serve.talking import with_generation, write_model

README = Path(__file__).parents[2] / "README.md"
GREEDY = SamplingParams(max_new_tokens=8)
TALK = [{"role": "user", "content": "Who art thou?"}]
BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "activation_function": "gelu",
    "scale_embedding": False,
    "tie_word_embeddings": True,
}


def saved(model: TextModel, folder: Path) -> TextModel:
    """The model that is read from what the model writes."""
    write_json(folder / DESCRIPTION, model.save(folder))
    return TextModel.load(folder, read_json_object(folder / DESCRIPTION))


@pytest.fixture
def published(tmp_path: Path) -> TextModel:
    return language_model(read_published(str(write_model(tmp_path / "published"))))


def test_a_chat_model_answers_as_before(published: TextModel, tmp_path: Path) -> None:
    again = saved(published, tmp_path / "saved")
    assert again.generation == published.generation and again.generation.template
    assert (again.family, again.stop_ids) == ("llama", published.stop_ids)
    for model in (published, again):
        model.answer = "".join(model.reply(TALK, GREEDY))  # type: ignore[attr-defined]
        model.close()
    assert again.answer == published.answer != ""  # type: ignore[attr-defined]


def test_a_model_of_the_line_keeps_the_settings_of_its_start(tmp_path: Path) -> None:
    start = read_published(str(write_model(tmp_path / "published")))
    model = saved(from_published(start, "lm", 64, seed=0), tmp_path / "saved")
    assert model.generation == language_model(start).generation
    assert model.max_tokens == 64


def test_a_decoder_with_an_encoder_writes_as_before(tmp_path: Path) -> None:
    lines = README.read_text("utf-8").split("\n")
    model = New(family="bart", config=BART, vocabulary=400).model(lines, "lm", 64, seed=2)
    assert model.generation.decoder_start_id == 0
    again = saved(model, tmp_path / "saved")
    for text in ("A recipe", "An alias names a version."):
        drawn = SamplingParams(8, temperature=1.0)
        wanted = "".join(model.complete(text, drawn, seed=4))
        assert "".join(again.complete(text, drawn, seed=4)) == wanted != ""
    hidden = again.embed(again.tokens(["A recipe"]))
    assert np.allclose(np.linalg.norm(hidden, axis=-1), 1, atol=1e-5)


def test_what_constrains_answers_is_kept(published: TextModel, tmp_path: Path) -> None:
    first = next(
        iter(published.generate(published.prompt_ids("ab"), GREEDY, np.random.default_rng(0)))
    )
    config = GenerationConfig(no_repeat_ngram_size=1, begin_suppress_tokens=(5,))
    bound = with_generation(published, banned_ids=(first.sampled.id,), config=config, template="")
    again = saved(bound, tmp_path / "saved")
    tokens = list(again.generate(again.prompt_ids("ab"), GREEDY, np.random.default_rng(0)))
    ids = [token.sampled.id for token in tokens]
    assert first.sampled.id not in ids
    assert len(set(ids)) == len(ids)


def test_a_setting_that_is_none_is_named(published: TextModel, tmp_path: Path) -> None:
    described = published.save(tmp_path)
    for wrong in ({"stop_ids": "x"}, {"stop": [1]}, 5):
        write_json(tmp_path / DESCRIPTION, {**described, "generation": wrong})
        with pytest.raises(BadInput, match="generation"):
            TextModel.load(tmp_path, json.loads((tmp_path / DESCRIPTION).read_text()))
