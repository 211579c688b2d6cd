"""Spans and tags of tokens: there and back, calibration, faults, and a training on real news."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.core.task import Answers, role_columns, task_to_json
from lmwright.data.corpus import schema_of
from lmwright.data.formats.choose import read_table
from lmwright.data.formats.record import Table
from lmwright.metrics.calibration import Calibration
from lmwright.models.core.ragged import pack
from lmwright.models.files.export import export_predictor
from lmwright.models.files.folder import read_folder
from lmwright.models.files.published import FOLDER
from lmwright.models.load import load_predictor
from lmwright.models.text_model import TextModel, TextPredictor, from_published
from lmwright.serve.traffic import masked_for
from lmwright.tasks.token_classification import UNLEARNT, TokenClassification
from lmwright.tasks.token_classification_model import CASES, TokenClassifier, case_of
from lmwright.train.batches import EpochBatches
from lmwright.train.beginning import begin
from lmwright.train.finetune import Train
from lmwright.train.new import New
from lmwright.train.task_model import trained_task_model
from tests.train.conftest import FakeWork
from tests.train.conftest import small as small  # the fixture

LABELS = ("LOC", "MISC", "ORG", "PER")
TASK = TokenClassification(labels=LABELS)
BY_MODEL = TokenClassifier(TASK)
NEWS = "asset:conll2003-en/neuroner/data/conll2003/en/train.txt"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(small: Path) -> TextModel:
    """The small encoder with an untrained head."""
    return from_published(read_folder(small), BY_MODEL.head(0.0), 64, 1)


@pytest.fixture(scope="module")
def news() -> list[dict[str, Any]]:
    """The first 280 sentences of the shared task."""
    path = asset_file(NEWS)
    found = read_table(Table("source 's'", path.name, path), ["text", "spans"])
    return [record for _, (_, record) in zip(range(280), found, strict=False)]


def as_rows(records: list[dict[str, Any]]) -> pa.Table:
    """Sentences as rows of the task, sorted by id."""
    frame = {"source": "news", "licence": "research", "origin": "news:1"}
    rows = [
        {**each, **frame, "id": hashlib.sha256(f"{place} {each['text']}".encode()).hexdigest()[:32]}
        for place, each in enumerate(records)
    ]
    schema = schema_of(role_columns(TASK, "input", "target"))
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["id"]))
    return table.select(schema.names).cast(schema)


@pytest.fixture(scope="module")
def rows(news, tmp_path_factory) -> Path:
    """A rows artifact: 200 sentences to train on, 80 to stop by."""
    folder = tmp_path_factory.mktemp("rows")
    pq.write_table(as_rows(news[:200]), folder / "train.parquet")
    pq.write_table(as_rows(news[200:]), folder / "validation.parquet")
    (folder / "task.json").write_text(json.dumps(task_to_json(TASK)))
    return folder


def bare(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spans without their scores."""
    return [{name: span[name] for name in ("start", "end", "label")} for span in spans]


def one_hot(tags: np.ndarray) -> np.ndarray:
    """Probabilities of tags that are certain; special tokens have what they like."""
    sure = np.zeros((len(tags), 1 + 2 * len(LABELS)))
    sure[np.arange(len(tags)), np.where(tags == UNLEARNT, 3, tags)] = 1.0
    return sure


WORDS = st.lists(
    st.text("abcdefgABCDEFG0123456789.,-'()éß中", min_size=1, max_size=9), min_size=1, max_size=12
)


@st.composite
def labelled(draw: Any) -> dict[str, Any]:
    """A text of words with random spans from one word's beginning to another's end."""
    words = draw(WORDS)
    edges = np.cumsum([0, *(len(word) + 1 for word in words)])
    spans, word = [], 0
    while word < len(words):
        last = word + draw(st.integers(0, min(3, len(words) - 1 - word)))
        if draw(st.booleans()):
            label = draw(st.sampled_from(LABELS))
            spans.append(
                {"start": int(edges[word]), "end": int(edges[last + 1] - 1), "label": label}
            )
        word = last + 1
    return {"text": " ".join(words), "spans": spans}


@settings(deadline=None)
@given(labelled())
def test_spans_to_tags_and_back(model, row):
    (item,) = BY_MODEL.prepare(model, [row])
    if len(item.ids) == model.max_tokens:
        return  # the text is cut, and some spans with it
    tags = TASK.targets(row["spans"], item.offsets)
    assert ((tags == UNLEARNT) == (item.offsets[:, 0] < 0)).all()
    assert bare(TASK.decoded(one_hot(tags), item.offsets)) == row["spans"]
    firsts = [tag for tag in tags if tag > 0 and tag % 2]
    assert [LABELS[(tag - 1) // 2] for tag in firsts] == [span["label"] for span in row["spans"]]
    assert TASK.fault(row) == ""


def test_the_tags_of_a_real_sentence(model):
    text = "Peter Blackburn left BRUSSELS"
    spans = [
        {"start": 0, "end": 15, "label": "PER"},
        {"start": 21, "end": 29, "label": "LOC"},
    ]
    (item,) = BY_MODEL.prepare(model, [{"text": text, "spans": spans}])
    named = [
        "special" if tag == UNLEARNT else TASK.tags[tag]
        for tag in TASK.targets(spans, item.offsets)
    ]
    assert [text[start:end] if start >= 0 else "" for start, end in item.offsets] == [
        "", "Peter", "Blackburn", "left", "BRUSSELS", "",
    ]  # fmt: skip
    assert named == ["special", "B-PER", "I-PER", "O", "B-LOC", "special"]


def tagged(*names: str) -> list[tuple[str, int, int]]:
    """The labels and places of the spans of tags of words of one letter."""
    tags = np.array([TASK.tags.index(name) for name in names])
    offsets = np.array([(2 * place, 2 * place + 1) for place in range(len(names))])
    return [(s["label"], s["start"], s["end"]) for s in TASK.decoded(one_hot(tags), offsets)]


def test_tags_that_do_not_follow_each_other_are_read_as_conlleval_reads_them():
    assert tagged("I-PER", "I-PER", "O", "I-LOC") == [("PER", 0, 3), ("LOC", 6, 7)]
    assert tagged("B-PER", "I-LOC", "I-LOC") == [("PER", 0, 1), ("LOC", 2, 5)]
    assert tagged("B-PER", "B-PER", "I-PER") == [("PER", 0, 1), ("PER", 2, 5)]
    assert tagged("O", "O") == []


def test_a_span_is_as_sure_as_its_least_sure_token():
    p = np.full((3, 9), 0.01)
    p[0, 1], p[1, 2], p[2, 0] = 0.9, 0.6, 0.8
    (span,) = TASK.decoded(p, np.array([(0, 1), (2, 3), (4, 5)]))
    assert span == {"start": 0, "end": 3, "label": "LOC", "score": 0.6}


def logits_of(news: list[dict[str, Any]], model: TextModel) -> tuple[pa.Table, Answers]:
    """Rows, and logits that are right of most tokens but not of all."""
    table = as_rows(news[:120])
    rng, logits = np.random.default_rng(0), []
    items = BY_MODEL.prepare(model, table.to_pylist())
    for item, spans in zip(items, table.column("spans").to_pylist(), strict=True):
        right = one_hot(TASK.targets(spans, item.offsets))
        logits.append(6 * right + rng.normal(0, 1.6, right.shape))
    return table, Answers({"logits": logits, "offsets": [item.offsets for item in items]})


def test_calibration_gives_probabilities_spans_and_the_least_log_loss(news, model):
    table, raw = logits_of(news, model)
    fitted = Calibration.fit(TASK, table, raw, 0.5)
    found = fitted.apply(TASK, raw)
    for p in found["probabilities"]:
        assert p.sum(-1) == pytest.approx(1.0)
        assert p.min() >= found["floor"][0] > 0

    def loss(temperature: float) -> float:
        answers = TASK.calibrated(raw, temperature, 0.0)
        return float(TASK.measures(table, answers).losses["log_loss"].values.mean())

    best = loss(fitted.temperature)
    assert best <= min(loss(fitted.temperature * by) for by in (0.8, 0.95, 1.05, 1.25)) + 1e-6
    # The log-loss is that of torch over each sentence's own tokens.
    items = BY_MODEL.prepare(model, table.to_pylist())
    for place in range(5):
        tags = TASK.targets(table.column("spans")[place].as_py(), items[place].offsets)
        wanted = torch.nn.functional.nll_loss(
            torch.from_numpy(found["probabilities"][place]).log(),
            torch.from_numpy(tags),
            ignore_index=UNLEARNT,
        )
        measured = TASK.measures(table, found).losses["log_loss"].values[place]
        assert measured == pytest.approx(wanted.item(), rel=1e-9)


def test_confidence_is_that_of_the_text_alone(news, model):
    """Nothing is learnt of special tokens, so what a model says of them must not make it unsure."""
    _, raw = logits_of(news, model)
    for logits, offsets in zip(raw["logits"], raw["offsets"], strict=True):
        logits[offsets[:, 0] < 0] = 0.0
    found = TASK.calibrated(raw, 1.0, 0.0)
    confidence = TASK.confidence(found)
    for row, p in enumerate(found["probabilities"]):
        assert confidence[row] == pytest.approx(p[1:-1].max(-1).min())
    assert confidence.max() > 0.5
    empty = TASK.calibrated(
        Answers({"logits": [np.zeros((2, 9))], "offsets": [np.full((2, 2), -1)]}), 1.0, 0.0
    )
    assert TASK.confidence(empty).tolist() == [1.0]


def test_measures_count_entities_over_all_rows(news, model):
    table, raw = logits_of(news, model)
    answers = TASK.calibrated(raw, 1.0, 0.0)
    measures = TASK.measures(table, answers)
    truth = table.column("spans").to_pylist()
    right = wanted = found = 0
    for own, given_out in zip(truth, answers["spans"], strict=True):
        one, two = ({(s["start"], s["end"], s["label"]) for s in each} for each in (own, given_out))
        right, wanted, found = right + len(one & two), wanted + len(one), found + len(two)
    scores = measures.scores(np.ones((1, len(truth))))
    assert 0.2 < scores["f1"][0] < 1.0
    assert scores["f1"][0] == pytest.approx(2 * right / (wanted + found))
    assert scores["precision"][0] == pytest.approx(right / found)
    assert scores["recall"][0] == pytest.approx(right / wanted)
    assert scores["macro_f1"][0] == pytest.approx(np.mean([scores[f"f1.{k}"][0] for k in LABELS]))
    assert scores["error"][0] == pytest.approx(1 - measures.shares["accuracy"].hits.mean())
    # A row that counts twice counts as one that stands there twice.
    weights = np.zeros((1, len(truth)))
    weights[0, [3, 3, 7]] = [2, 2, 1]
    twice = table.take([3, 3, 7])
    assert measures.scores(weights)["f1"] == pytest.approx(
        TASK.measures(twice, answers.take([3, 3, 7])).scores(np.ones((1, 3)))["f1"]
    )
    perfect = TASK.measures(table, Answers({"spans": truth}))
    assert perfect.losses["span_error"].values.max() == perfect.losses["error"].values.max() == 0
    assert "log_loss" not in perfect.losses


def test_what_is_told_is_heard(news, model):
    table, raw = logits_of(news, model)
    answers = Calibration.fit(TASK, table, raw, 0.9).apply(TASK, raw)
    told = json.loads(json.dumps([TASK.told(answers, place) for place in range(len(answers))]))
    heard = TASK.heard(told)
    assert heard["spans"] == answers["spans"]
    assert (heard["unsure"] == answers["unsure"]).all()
    before, after = (TASK.measures(table, each) for each in (answers, heard))
    for name in ("span_error", "error"):
        assert (before.losses[name].values == after.losses[name].values).all()
    assert {TASK.category(each) for each in told} <= {"unsure", "spans", "none"}
    assert TASK.category({"spans": [], "unsure": False}) == "none"
    assert TASK.calibrated(heard, 2.0, 0.1) is heard


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([(0, 5, "PER"), (4, 9, "LOC")], "overlapping spans"),
        ([(0, 12, "PER")], "a span beyond the text"),
        ([(0, 5, "DATE")], "unknown label"),
        ([(0, 5, "PER"), (5, 11, "PER")], "white space at the edge of a span"),
        ([(0, 6, "PER")], "white space at the edge of a span"),
        ([(0, 5, "PER"), (6, 11, "PER")], ""),
        ([], ""),
    ],
)
def test_rows_that_cannot_be_learnt_from(spans, reason):
    named = [dict(zip(("start", "end", "label"), each, strict=True)) for each in spans]
    assert TASK.fault({"text": "Peter spoke", "spans": named}) == reason


def test_labels_are_those_of_the_training_rows(news):
    assert TokenClassification().fitted(as_rows(news).to_batches()) == TASK
    with pytest.raises(BadInput, match="no span"):
        TokenClassification().fitted(as_rows([{"text": "a", "spans": []}]).to_batches())
    assert (
        TokenClassification().fault({"text": "ab", "spans": [{"start": 0, "end": 1, "label": "X"}]})
        == ""
    )
    assert not TASK.comparable(replace(TASK, labels=LABELS[:3]))


def test_corrections_keep_known_labels_only():
    given_out = {"spans": [{"start": 0, "end": 2, "label": "PER", "score": 0.5}]}
    assert TASK.corrected(given_out) == {"spans": [{"start": 0, "end": 2, "label": "PER"}]}
    with pytest.raises(BadInput, match=r"DATE.*LOC"):
        TASK.corrected({"spans": [{"start": 0, "end": 2, "label": "DATE"}]})


def test_answers_do_not_depend_on_their_neighbours(news, model):
    asked = [{"text": each["text"]} for each in news[:30]]
    predictor = TextPredictor(TASK, model)
    together = answer_all(predictor, asked)
    for place, row in enumerate(asked):
        alone = answer_all(predictor, [row])
        assert np.abs(alone["logits"][0] - together["logits"][place]).max() < 1e-5
        assert (alone["offsets"][0] == together["offsets"][place]).all()
        assert np.abs(alone.vectors[0] - together.vectors[place]).max() < 1e-5


def test_the_loss_is_cross_entropy_and_packing_changes_nothing(news, model):
    examples = BY_MODEL.examples(model, as_rows(news[:12]))
    with torch.no_grad():
        loss = BY_MODEL.loss(model.network, examples, None).mean.item()
        logits = torch.cat([model.network(pack([each.tokens])) for each in examples])
    wanted = torch.from_numpy(np.concatenate([each.target for each in examples]))
    plain = torch.log_softmax(logits, -1)[wanted >= 0].gather(1, wanted[wanted >= 0, None])
    assert loss == pytest.approx(-plain.mean().item(), rel=1e-5)
    scores = BY_MODEL.score(model.network, examples)
    assert scores["log_loss"] == pytest.approx(loss, rel=1e-5)
    right = (logits.argmax(-1) == wanted)[wanted >= 0].float().mean().item()
    assert scores["tag_accuracy"] == pytest.approx(right)


def test_a_training_on_real_news(rows, small, tmp_path):
    """The first loss is that of plain torch on the same rows; then it falls, and entities are
    found: a sentence in capitals names places and teams."""
    stage = Train(
        start=str(small),
        epochs=12,
        batch=10,
        max_tokens=64,
        lr=1e-2,
        dropout=0.0,
        evaluate_every=60,
        patience=0,
        seed=3,
    )
    work = FakeWork({"rows": rows}, tmp_path / "work")
    facts = stage.run(work)
    assert facts["rows"] == 200
    curves = json.loads((work.folder / "model" / "curves.json").read_text())
    started = begin(stage, work, BY_MODEL)[0].model
    table = pq.read_table(rows / "train.parquet")
    first = EpochBatches(BY_MODEL.examples(started, table), 10, 12, 3).at(0)
    with torch.no_grad():
        parts = [
            torch.nn.functional.cross_entropy(
                started.network(pack([each.tokens])),
                torch.from_numpy(each.target),
                ignore_index=UNLEARNT,
                reduction="sum",
            )
            for each in first
        ]
    count = sum(int((each.target != UNLEARNT).sum()) for each in first)
    assert curves[0]["loss"] == pytest.approx(sum(parts).item() / count, rel=1e-4)
    assert curves[-1]["loss"] < 0.35 * curves[0]["loss"]
    learnt = load_predictor(work.folder / "model")
    answers = TASK.calibrated(answer_all(learnt, table.to_pylist()), 1.0, 0.0)
    measures = TASK.measures(table, answers)
    assert measures.scores(np.ones((1, 200)))["f1"][0] > 0.3


def test_feedback_with_spans_that_overlap_is_refused():
    task = TokenClassification(labels=("PER",))
    one, two = ({"start": a, "end": b, "label": "PER"} for a, b in ((0, 5), (4, 8)))
    with pytest.raises(BadInput, match="overlap"):
        task.corrected({"spans": [one, two]})
    assert task.corrected({"spans": [two]})["spans"] == [two]


def test_places_stay_true_in_the_traffic_log():
    task = TokenClassification(labels=("PER",))
    text = "Mail anna@example.org or ask Peter Blackburn"
    kept = masked_for(task, {"text": text})["text"]
    assert "anna@" not in kept
    assert kept[29:44] == text[29:44] == "Peter Blackburn"


# Schemes of tags

BILOU = TokenClassification(labels=LABELS, scheme="bilou")


@settings(deadline=None)
@given(labelled())
def test_both_schemes_stand_for_the_same_spans(model, row):
    (item,) = BY_MODEL.prepare(model, [row])
    for task in (TASK, BILOU):
        tags = task.targets(row["spans"], item.offsets)
        sure = np.zeros((len(tags), len(task.tags)))
        sure[np.arange(len(tags)), np.maximum(tags, 0)] = 1.0
        assert bare(task.decoded(sure, item.offsets)) == row["spans"]


def test_the_tags_of_bilou():
    """As in Ratinov and Roth 2009: first, inside, last, and the only token."""
    offsets = np.array([(2 * place, 2 * place + 1) for place in range(6)])
    spans = [{"start": 0, "end": 5, "label": "PER"}, {"start": 8, "end": 9, "label": "LOC"}]
    tags = [BILOU.tags[tag] for tag in BILOU.targets(spans, offsets)]
    assert tags == ["B-PER", "I-PER", "L-PER", "O", "U-LOC", "O"]

    def read(*names: str) -> list[tuple[str, int, int]]:
        sure = np.eye(len(BILOU.tags))[[BILOU.tags.index(name) for name in names]]
        found = BILOU.decoded(sure, offsets[: len(names)])
        return [(span["label"], span["start"], span["end"]) for span in found]

    assert read("U-PER", "U-PER", "B-PER", "L-PER") == [("PER", 0, 1), ("PER", 2, 3), ("PER", 4, 7)]
    assert read("L-PER", "I-PER", "L-LOC") == [("PER", 0, 1), ("PER", 2, 3), ("LOC", 4, 5)]


# Windows


def long_rows(news: list[dict[str, Any]], count: int = 14) -> list[dict[str, Any]]:
    """One text of several sentences with their spans."""
    text, spans = "", []
    for each in news[:count]:
        spans += [
            {**s, "start": s["start"] + len(text), "end": s["end"] + len(text)}
            for s in each["spans"]
        ]
        text += each["text"] + " "
    return [{"text": text.rstrip(), "spans": spans}]


@pytest.fixture
def blind(small: Path) -> TextModel:
    """A model whose logits depend on a token alone: neither attention nor positions."""
    model = from_published(read_folder(small), BY_MODEL.head(0.0), 64, 1)
    weights = dict(model.network.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            if "positions" in name or (".out." in name and "layers" in name):
                weight.zero_()
        weights["head.out.weight"].mul_(200.0)
    return model


def test_a_long_text_is_answered_in_windows_as_in_one(news, blind):
    """Where a model sees no context, windows change nothing; no token is cut off."""
    rows = long_rows(news[:3] * 3)
    short = blind.with_network(blind.network, 24)
    (whole,), (split,) = (BY_MODEL.prepare(each, rows) for each in (blind, short))
    assert len(split.parts) > 3 and len(whole.parts) == 1
    assert max(part.cost for part in split.parts) == 24
    assert (whole.offsets == split.offsets).all() and whole.offsets.max() == len(rows[0]["text"])
    one, many = (BY_MODEL.answers(short, [item]) for item in (whole, split))
    assert np.abs(one["logits"][0] - many["logits"][0]).max() < 1e-4
    spans = [TASK.calibrated(each, 1.0, 0.0)["spans"][0] for each in (one, many)]
    assert bare(spans[0]) == bare(spans[1]) and len(spans[0]) > 3


def test_a_token_is_answered_from_the_window_in_which_it_has_most_context(news, model):
    rows = long_rows(news)
    short = model.with_network(model.network, 40)
    (item,) = BY_MODEL.prepare(short, rows)
    logits = BY_MODEL.answers(short, [item])["logits"][0]
    second, first = item.parts[1], item.stretches[1][0]
    alone, _ = short.token_logits([second])
    middle = second.start + 19
    assert np.abs(logits[1 + first + 19] - alone[0][middle]).max() < 1e-5
    edge, _ = short.token_logits([item.parts[0]])
    assert np.abs(logits[1 + 36] - edge[0][1 + 36]).max() > 1e-4, "the first window's last tokens"


def test_every_window_is_learnt_from_and_every_tag_in_it(news, model):
    rows = as_rows(long_rows(news))
    short = model.with_network(model.network, 40)
    (item,) = BY_MODEL.prepare(short, rows.to_pylist())
    examples = BY_MODEL.examples(short, rows)
    assert len(examples) == len(item.parts) and len({each.document for each in examples}) == len(
        examples
    )
    whole = TASK.targets(rows.column("spans")[0].as_py(), item.offsets)[1:-1]
    assert (whole > 0).sum() > 10
    for example, (first, size) in zip(examples, item.stretches, strict=True):
        assert np.asarray(example.target).tolist() == [-100, *whole[first : first + size], -100]


def test_windows_need_room_for_more_than_their_stride(model):
    task = TokenClassifier(replace(TASK, stride=70))
    with pytest.raises(BadInput, match="lower the task's stride"):
        task.prepare(model, [{"text": "a"}])
    with pytest.raises(BadInput, match="stride is -1"):
        replace(TASK, stride=-1).check()


# Context

READING = TokenClassifier(replace(TASK, context=6))
AROUND = {
    "before": "Rain fell in Paris .",
    "text": "Peter spoke",
    "after": "He left for Rome on Friday .",
}


def test_context_is_read_and_neither_answered_nor_learnt(model):
    (item,) = READING.prepare(model, [AROUND])
    (plain,) = BY_MODEL.prepare(model, [AROUND])
    words = [model.tokenizer.decode([token]).strip() for token in item.parts[0].ids[1:-1]]
    assert " ".join(words) == "rain fell in paris . peter spoke he left for rome on friday"
    assert (item.offsets == plain.offsets).all() and (item.ids == plain.ids).all()
    answers, alone = (READING.answers(model, [each]) for each in (item, plain))
    assert answers["logits"][0].shape == (4, 9)
    assert np.abs(answers["logits"][0] - alone["logits"][0]).max() > 1e-4, "context matters"
    nothing = READING.prepare(model, [{**AROUND, "before": "", "after": ""}])
    assert (READING.answers(model, nothing)["logits"][0] == alone["logits"][0]).all()


def test_context_takes_only_the_room_that_is_left(news, model):
    text = long_rows(news)[0]["text"]
    short = model.with_network(model.network, 40)
    (item,) = READING.prepare(short, [{"before": "Rain fell", "text": text, "after": "He left"}])
    assert max(part.cost for part in item.parts) == 40
    own = (item.offsets[:, 0] >= 0).sum()
    assert sum(item.stretches[-1]) == own, "no token of the text is lost to context"


def test_columns_of_context_are_there_where_it_is_read():
    names = [column.name for column in READING.task.columns if column.role == "input"]
    assert names == ["text", "before", "after"]
    assert [each.default for each in READING.task.columns if each.name in ("before", "after")] == [
        "",
        "",
    ]
    assert [column.name for column in TASK.columns if column.role == "input"] == ["text"]


# Capitalisation

CASED = TokenClassifier(replace(TASK, case=True))


@pytest.mark.parametrize(
    ("word", "case"),
    [
        ("spoke", "lower"),
        ("Peter", "title"),
        ("A", "title"),
        ("U.S.", "upper"),
        ("McDonald", "mixed"),
        ("iPhone", "mixed"),
        ("1996-08-22", "none"),
        ("中文", "none"),
        ("Été", "title"),
        ("x-Ray", "mixed"),
    ],
)
def test_how_a_word_is_capitalised(word, case):
    assert case_of(word) == case


def test_a_table_of_capitalisation_changes_nothing_at_first(news, model):
    rows = [{"text": each["text"]} for each in news[:20]]
    cased, _ = CASED.prepared_start(model)
    before, after = (
        answer_all(TextPredictor(task.task, each), rows)
        for task, each in ((BY_MODEL, model), (CASED, cased))
    )
    for one, two in zip(before["logits"], after["logits"], strict=True):
        assert np.abs(one - two).max() < 1e-6


def test_capitalisation_is_read_learnt_saved_and_answered_alike(news, model, tmp_path):
    cased, _ = CASED.prepared_start(model)
    rows = as_rows(news[:40])
    examples = CASED.examples(cased, rows)
    table = cased.network.stacks["encoder"].embedding.segments.weight
    CASED.loss(cased.network, examples, None).mean.backward()
    assert table.shape[0] == 2 + len(CASES)
    assert (table.grad[2:].abs().sum(1) > 0).all() and (table.grad[:2] == 0).all()
    with torch.no_grad():
        table[2:] -= 50 * table.grad[2:]
    asked = [{"text": "peter blackburn spoke in paris"}, {"text": "Peter Blackburn spoke in PARIS"}]
    predictor = TextPredictor(CASED.task, cased)
    lower, title = answer_all(predictor, asked)["logits"]
    assert np.abs(lower - title).max() > 1e-3, "an uncased tokenizer, and yet it sees the case"
    predictor.save(tmp_path / "model")
    again = answer_all(load_predictor(tmp_path / "model"), asked)["logits"]
    assert all((one == two).all() for one, two in zip((lower, title), again, strict=True))
    with pytest.raises(BadInput, match="capitalisation"):
        export_predictor(predictor, Calibration(1.0, 0.0, 0.0), "m", tmp_path / "out", "folder")


def test_an_earlier_model_goes_on_for_the_same_tags_and_inputs_only(model):
    assert CASED.prepared_start(model, CASED.task)[0] is model
    for earlier in (TASK, replace(CASED.task, scheme="bilou")):
        with pytest.raises(BadInput, match="published start"):
            CASED.prepared_start(model, earlier)
    assert BY_MODEL.prepared_start(model)[0] is model


def test_a_start_that_stays_as_it_is_takes_no_table(rows, small, tmp_path):
    cased = tmp_path / "rows"
    cased.mkdir()
    for name in ("train", "validation"):
        pq.write_table(pq.read_table(rows / f"{name}.parquet"), cased / f"{name}.parquet")
    (cased / "task.json").write_text(json.dumps(task_to_json(CASED.task)))
    shutil.copytree(small, tmp_path / "base" / FOLDER)
    stage = Train(start=str(small), epochs=1, max_tokens=64, tune="lora")
    with pytest.raises(BadInput, match="tune: full"):
        inputs = {"rows": cased, "base": tmp_path / "base"}
        begin(stage, FakeWork(inputs, tmp_path / "work"), CASED)
    started, _ = begin(
        replace(stage, tune="full"), FakeWork({"rows": cased}, tmp_path / "w"), CASED
    )
    assert started.model.network.spec.stacks[0].embedding.segments == 2 + len(CASES)


def test_tokens_over_bytes_give_spans_back():
    """A tokenizer drawn anew has tokens that begin with the space before a word."""
    text = "Peter Blackburn left New York today"
    spans = [{"start": 0, "end": 15, "label": "PER"}, {"start": 21, "end": 29, "label": "LOC"}]
    writer = trained_task_model(TokenClassification(labels=("LOC", "PER")))
    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    new = New(family="bert", config={**config, "intermediate_size": 32}, vocabulary=400)
    model = new.model([text, text.lower()], writer.head(0.0), 64, 0)
    (item,) = writer.prepare(model, [{"text": text}])
    offsets = np.asarray(item.offsets)
    tags = writer.task.targets(spans, offsets)
    certain = np.eye(len(writer.task.tags))[np.maximum(tags, 0)]
    found = writer.task.decoded(certain, offsets)
    assert [{name: each[name] for name in ("start", "end", "label")} for each in found] == spans


# Words


def test_accuracy_of_words_is_that_of_their_bio_tags():
    """As seqeval counts tokens, O among them."""
    text = "Peter Blackburn left New York today"
    truth = [{"start": 0, "end": 15, "label": "PER"}, {"start": 21, "end": 29, "label": "LOC"}]
    found = [{"start": 0, "end": 5, "label": "PER"}, {"start": 21, "end": 29, "label": "ORG"}]
    table = pa.table({"text": [text, "a b"], "spans": [truth, []]})
    scores = TASK.measures(table, Answers({"spans": [found, []]})).scores(np.ones((1, 2)))
    assert scores["token_accuracy"][0] == pytest.approx(5 / 8)
    perfect = TASK.measures(table, Answers({"spans": [truth, []]})).scores(np.ones((1, 2)))
    assert perfect["token_accuracy"][0] == 1.0


def test_accuracy_of_words_is_scikit_learns_over_tags(news, model):
    table, raw = logits_of(news, model)
    answers = TASK.calibrated(raw, 1.0, 0.0)
    tags: list[list[str]] = [[], []]
    for text, *both in zip(
        table.column("text").to_pylist(),
        table.column("spans").to_pylist(),
        answers["spans"],
        strict=True,
    ):
        for own, spans in zip(tags, both, strict=True):
            place, seen = 0, []
            for word in text.split(" "):
                of = [s for s in spans if s["start"] <= place < s["end"]]
                first = of and not any(of[0]["start"] <= start < place for start in seen)
                seen.append(place)
                own.append(("B-" if first else "I-") + of[0]["label"] if of else "O")
                place += len(word) + 1
    measured = TASK.measures(table, answers).scores(np.ones((1, len(table))))["token_accuracy"]
    assert measured[0] == pytest.approx(accuracy_score(*tags))
