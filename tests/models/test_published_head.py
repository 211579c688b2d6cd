"""Classifiers that transformers wrote, taken in by the names of their labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.metrics.calibration import softmax
from lmwright.models.files.folder import read_folder
from lmwright.models.load import load_predictor
from lmwright.models.published_head import (
    places_of,
    published_labels,
    published_use,
    with_published_head,
)
from lmwright.models.text_model import TextModel, TextPredictor
from lmwright.tables import FAMILIES, resolve
from lmwright.tasks.question_answering import QuestionAnswering
from lmwright.tasks.token_classification import TokenClassification
from lmwright.train.finetune import Train
from tests.train.conftest import SMALL, TOKENIZER, FakeWork
from tests.train.conftest import rows as rows  # the fixtures
from tests.train.conftest import sentences as sentences

transformers = pytest.importorskip("transformers")

TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")


def published(kind: str, labels: tuple[str, ...], folder: Path, **said: Any) -> Any:
    """A tiny model of the reference's class, drawn wide and saved as it saves it."""
    named = {"id2label": dict(enumerate(labels)), "label2id": {n: k for k, n in enumerate(labels)}}
    config = transformers.BertConfig(**SMALL, **named, **said, initializer_range=0.4)
    torch.manual_seed(4)
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(asset_file(TOKENIZER).read_bytes())
    return model


@torch.no_grad()
def theirs(model: Any, ours: TextModel, text: str) -> np.ndarray:
    """The reference's logits of a text."""
    ids = torch.from_numpy(ours.tokens([text])[0].ids).long()[None]
    return model(ids).logits[0].double().numpy()


@pytest.fixture
def stage(tmp_path) -> Train:
    return Train(start=str(tmp_path / "start"), epochs=0, max_tokens=48, dropout=-1.0, seed=3)


def test_a_published_classifier_answers_as_it_did(stage, rows, sentences, tmp_path):
    """Its labels stand in another order than the rows', and one of them no row has."""
    reference = published("BertForSequenceClassification", ("1", "?", "0"), tmp_path / "start")
    work = FakeWork({"rows": rows}, tmp_path / "work")
    assert stage.run(work)["steps"] == 0
    assert work.named("published head") == [{"labels": ["0", "1"], "outputs": [2, 0]}]
    made = load_predictor(work.folder / "model")
    texts = [each["text"] for each in sentences[:5]]
    found = answer_all(made, [{"text": text} for text in texts])["logits"]
    for text, own in zip(texts, found, strict=True):
        wanted = theirs(reference, made.model, text)[[2, 0]]
        np.testing.assert_allclose(own, wanted, atol=1e-5)
    assert np.ptp(softmax(found)[:, 0]) > 0.01


def test_training_goes_on_from_the_published_head(stage, rows, tmp_path):
    published("BertForSequenceClassification", ("0", "1"), tmp_path / "start")
    before = read_folder(tmp_path / "start").heads["classify"][1]
    work = FakeWork({"rows": rows}, tmp_path / "work")
    facts = replace(stage, epochs=1, rows=40, batch=10, lr=1e-6).run(work)
    assert facts["steps"] == 4 and len(work.named("published head")) == 1
    after = dict(load_predictor(work.folder / "model").model.network.named_parameters())
    for name, weight in before.items():
        assert 0 < float((after[name].detach() - weight).abs().max()) < 1e-4, name


def test_other_labels_are_refused_without_training_and_learnt_with_it(stage, rows, tmp_path):
    published("BertForSequenceClassification", ("bad", "good"), tmp_path / "start")
    work = FakeWork({"rows": rows}, tmp_path / "work")
    with pytest.raises(BadInput, match="labels bad, good, not 0; wanted: those of the rows: 0, 1"):
        stage.run(work)
    replace(stage, epochs=1, rows=20, batch=10).run(work)
    assert not work.named("published head")
    assert load_predictor(work.folder / "model").model.network.head_spec.pool == "mean"


def test_a_published_tagger_tags_as_it_did(sentences, tmp_path):
    reference = published("BertForTokenClassification", TAGS, tmp_path)
    task = TokenClassification(labels=("LOC", "PER"))
    start = read_folder(tmp_path)
    places = places_of(start.described.config, "tokens", task.tags)
    assert places == [0, 5, 6, 1, 2]
    model = with_published_head(start, "tokens", places, 48)
    text = sentences[0]["text"]
    predictor = TextPredictor(task, model)
    (found,) = predictor.answers(predictor.prepare([{"text": text}]))["logits"]
    np.testing.assert_allclose(found, theirs(reference, model, text)[:, places], atol=1e-5)


def test_a_published_reader_points_where_it_did(tmp_path):
    """Its config names no outputs: every published head has the start, then the end."""
    reference = published("BertForQuestionAnswering", ("LABEL_0", "LABEL_1"), tmp_path)
    start = read_folder(tmp_path)
    places = places_of(start.described.config, "spans", ("start", "end"))
    assert places == [0, 1]
    model = with_published_head(start, "spans", places, 48)
    task = QuestionAnswering(max_question=12, stride=4, best=3)
    predictor = TextPredictor(task, model)
    row = {"question": "Who left Rome?", "context": "Ann left Rome before Bob came to Milan."}
    (asked,) = predictor.prepare([row])
    (part,) = asked.parts
    ids, segments = (torch.from_numpy(each).long()[None] for each in (part.ids, part.segments))
    with torch.no_grad():
        found = reference(ids, token_type_ids=segments)
    wanted = torch.stack([found.start_logits[0], found.end_logits[0]], -1).double().numpy()
    ((logits,), _) = model.token_logits(asked.parts)
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    answers = predictor.answers([asked])
    assert answers["logits"][0][0] == pytest.approx(wanted[0].sum(), abs=1e-4)
    assert all(each["answer"] in row["context"] for each in answers["choices"][0])


HEADS = {
    "another class": ("BertForTokenClassification", {}, "BertForTokenClassification"),
    "several labels at a time": (
        "BertForSequenceClassification",
        {"problem_type": "multi_label_classification"},
        "is for multi_label_classification",
    ),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_head_for_another_job_is_refused(case, stage, rows, tmp_path):
    kind, said, told = HEADS[case]
    published(kind, ("0", "1"), tmp_path / "start", **said)
    with pytest.raises(BadInput, match=told):
        stage.run(FakeWork({"rows": rows}, tmp_path / "work"))


def test_labels_are_the_same_in_any_case_where_that_is_clear():
    config = {"architectures": ["XForSequenceClassification"], "id2label": {"0": "NEG", "1": "Pos"}}
    assert places_of(config, "classify", ("pos", "neg")) == [1, 0]
    config["id2label"] = {"0": "POS", "1": "Pos", "2": "neg"}
    with pytest.raises(BadInput, match="not pos"):
        places_of(config, "classify", ("pos", "neg"))
    assert published_labels({"id2label": {"1": "b", "0": "a"}}) == ("a", "b")
    assert published_labels({"id2label": "ab"}) == ()


def test_classes_are_named_as_the_reference_names_them():
    from transformers.models.auto import modeling_auto as auto

    tables = {
        "": auto.MODEL_MAPPING_NAMES,
        "classify": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "tokens": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "spans": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        "choice": auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    }
    written = (
        auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    count = 0
    for family in (resolve("families", name) for name in FAMILIES):
        kind = family.config(family.spec({}))["model_type"] if family.classes else ""
        for use in ("", *family.heads) if family.classes else ():
            known = {tables[use].get(kind)} if use != "lm" else {each.get(kind) for each in written}
            assert family.classes[use] in known, (family.name, use)
            assert published_use({"architectures": [family.classes[use]]}) == use
            count += 1
    assert count > 60
    assert published_use({"architectures": ["Other"]}) is None and published_use({}) is None


def test_a_folder_without_its_head_is_refused(tmp_path):
    published("BertModel", ("0", "1"), tmp_path)
    path = tmp_path / "config.json"
    said = json.loads(path.read_text()) | {"architectures": ["BertForSequenceClassification"]}
    path.write_text(json.dumps(said))
    with pytest.raises(BadInput, match=r"no head\.out"):
        with_published_head(read_folder(tmp_path), "classify", [0, 1], 48)
