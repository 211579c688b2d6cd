"""Text generation by a decoder with an encoder: the reference's loss, answers, and one run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from lmwright.core.predictor import answer_all
from lmwright.core.task import role_columns
from lmwright.data.corpus import schema_of
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.files.folder import write_folder
from lmwright.models.load import load_predictor
from lmwright.models.text_model import TextModel, TextPredictor
from lmwright.models.zoo.bart import FAMILY
from lmwright.tasks.text_generation import TextGeneration
from lmwright.tasks.text_generation_model import TextGenerator
from lmwright.train.finetune import Train
from lmwright.train.new import New
from tests.models.test_text_model import BART
from tests.train.conftest import FakeWork, write_rows, write_task

TASK = TextGeneration(max_new_tokens=6, temperature=0.0)


@pytest.fixture(scope="module")
def pairs(sentences: list[dict[str, str]]) -> list[dict[str, str]]:
    """The first words of real sentences, and the rest."""
    found = []
    for row in sentences:
        words = row["text"].split()
        half = len(words) // 2
        parts = " ".join(words[:half]), " ".join(words[half:])
        found.append({**row, "text": parts[0], "continuation": parts[1]})
    return [row for row in found if row["text"] and row["continuation"]]


@pytest.fixture(scope="module")
def model(pairs: list[dict[str, str]]) -> TextModel:
    return New(family="bart", config=BART, vocabulary=400).model(
        [row["text"] + " " + row["continuation"] for row in pairs], "lm", 64, seed=3
    )


def table(pairs: list[dict[str, str]]) -> pa.Table:
    rows = [{**row, "id": f"{number:032x}"} for number, row in enumerate(pairs)]
    return pa.Table.from_pylist(rows)


def test_the_loss_is_the_references(model: TextModel, pairs: list, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    said = {"decoder_start_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
    write_folder(tmp_path, FAMILY, model.network, "lm", model.tokenizer, said)
    theirs = transformers.BartForConditionalGeneration.from_pretrained(tmp_path).eval()
    generator = TextGenerator(TASK)
    examples = generator.examples(model, table(pairs[:6]))
    with torch.no_grad():
        ours = generator.loss(model.network, examples, None)
        total, count = 0.0, 0
        for each in examples:
            wanted = torch.from_numpy(each.tokens[1:])[None]
            found = theirs(
                input_ids=torch.from_numpy(each.beside[0].tokens)[None],
                decoder_input_ids=torch.from_numpy(each.tokens[:-1])[None],
                labels=wanted,
            )
            total, count = total + float(found.loss) * wanted.numel(), count + wanted.numel()
    assert float(ours.mean) == pytest.approx(total / count, rel=1e-5)
    score = generator.score(model.network, examples)["log_loss"]
    assert score == pytest.approx(total / count, rel=1e-5)


def test_dropout_of_the_two_streams_differs_and_packing_changes_nothing(
    model: TextModel, pairs: list
) -> None:
    generator = TextGenerator(TASK)
    network = (
        New(
            family="bart", config={**BART, "dropout": 0.3, "attention_dropout": 0.3}, vocabulary=400
        )
        .model([row["text"] for row in pairs], "lm", 64, seed=3)
        .network
    )
    examples = generator.examples(model, table(pairs[:4]))
    counts = [int((np.asarray(each.target) >= 0).sum()) for each in examples]
    with torch.no_grad():
        whole = generator.loss(network, examples, DropoutRNG(7, 0)).mean
        each = [float(generator.loss(network, [one], DropoutRNG(7, 0)).mean) for one in examples]
        none = generator.loss(network, examples, None).mean
    assert float(whole) == pytest.approx(np.average(each, weights=counts), rel=1e-5)
    assert abs(float(whole) - float(none)) > 1e-4


def test_a_request_is_answered_and_its_completion_scored(model: TextModel, pairs: list) -> None:
    predictor = TextPredictor(TASK, model)
    asked = answer_all(predictor, [{"text": pairs[0]["text"]}])
    completion = asked["completion"][0]
    again = answer_all(predictor, [{"text": pairs[0]["text"], "continuation": completion}])
    assert asked["nats"][0] == pytest.approx(again["nats"][0], rel=1e-6)
    assert again["completion"] == [None]


def test_it_is_trained_saved_and_answers(pairs: list, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    schema = schema_of(role_columns(TASK, "input", "target"))
    write_rows(folder / "train.parquet", pairs[:80], schema)
    write_rows(folder / "validation.parquet", pairs[80:120], schema)
    write_task(folder, TASK)
    new = New(family="bart", config=BART, vocabulary=400)
    stage = Train(new=new, epochs=4, batch=10, max_tokens=48, lr=5e-3, evaluate_every=8, seed=1)
    work = FakeWork({"rows": folder}, tmp_path / "work")
    facts = stage.run(work)
    curve = [each["log_loss"] for each in work.named("evaluated")]
    assert min(curve) == facts["validation_log_loss"] < curve[0] - 0.3
    made = load_predictor(work.folder / "model")
    answers = answer_all(made, [{"text": row["text"]} for row in pairs[:3]])
    assert all(isinstance(text, str) for text in answers["completion"])
    told = made.task.told(answers, 0)
    assert json.loads(json.dumps(told)) == told
