"""Windows, decoding by its slow reference, calibration, the loss of transformers, faults."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.core.task import Answers, role_columns, task_to_json
from lmwright.data.corpus import schema_of
from lmwright.metrics.calibration import Calibration
from lmwright.metrics.squad import best, normalize_answer
from lmwright.models.files.folder import read_folder
from lmwright.models.load import load_predictor
from lmwright.models.text_model import TextModel, TextPredictor, from_published
from lmwright.serve.traffic import masked_for
from lmwright.tables import resolve
from lmwright.tasks.question_answering import (
    QuestionAnswering,
    best_threshold,
    misplaced,
    split,
)
from lmwright.tasks.question_answering_model import CANDIDATES, QuestionAnswerer, usual
from lmwright.text.windows import central
from lmwright.train.finetune import Train
from tests.squad import squad
from tests.train.conftest import SMALL, TOKENIZER, FakeWork
from tests.train.conftest import small as small  # the fixture

TASK = QuestionAnswering(max_question=12, stride=8, max_answer=6, best=4)
READER = QuestionAnswerer(TASK)
NONE: dict[str, list[Any]] = {"text": [], "answer_start": []}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(small: Path) -> TextModel:
    """The small encoder with an untrained head that reads 40 tokens."""
    return from_published(read_folder(small), READER.head(0.0), 40, 1)


def as_rows(values: list[dict[str, Any]], task: QuestionAnswering = TASK) -> pa.Table:
    """Rows of the task, sorted by id."""
    frame = {"source": "squad", "licence": "CC BY-SA 4.0", "origin": "squad:1"}
    rows = [
        {**each, **frame, "id": hashlib.sha256(f"{n} {each['question']}".encode()).hexdigest()[:32]}
        for n, each in enumerate(values)
    ]
    schema = schema_of(role_columns(task, "input", "target"))
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["id"]))
    return table.select(schema.names).cast(schema)


@pytest.fixture(scope="module")
def asked() -> list[dict[str, Any]]:
    """Questions of SQuAD with short contexts, some without an answer."""
    rows = squad(2500, derive="unanswerable")
    return [row.values for row in rows if len(row.values["context"]) < 500][:300]


def row_of(context: str, *texts: str, question: str = "What?") -> dict[str, Any]:
    """A row whose answers stand at their first places."""
    starts = [context.index(text) for text in texts]
    return {
        "question": question,
        "context": context,
        "answers": {"text": list(texts), "answer_start": starts},
    }


# Windows and what is learnt of them

WORDS = [f"{word}{n}" for n in range(30) for word in ("alpha", "beta", "Gamma")]


@settings(deadline=None)
@given(st.integers(0, 88), st.integers(1, 2), st.integers(1, 90))
def test_an_answer_is_found_in_the_windows_that_hold_it_and_in_no_other(model, first, count, size):
    words = WORDS[:size]
    first = min(first, size - 1)
    words_of_answer = words[first : first + count]
    context, text = " ".join(words), " ".join(words_of_answer)
    row = row_of(context, text)
    start = row["answers"]["answer_start"][0]
    (item,) = READER.prepare(model, [row])
    examples = READER.examples(model, as_rows([row]))
    assert len(examples) == len(item.windows)
    held = 0
    for window, example in zip(item.windows, examples, strict=True):
        edges = window.offsets[window.offsets[:, 0] >= 0]
        inside = edges[0, 0] <= start and start + len(text) <= edges[-1, 1]
        held += inside
        low, high = (int(edge) for edge in example.target)
        if not inside:
            assert (low, high) == (0, 0), "[CLS]"
            continue
        assert context[window.offsets[low, 0] : window.offsets[high, 1]] == text
        assert example.segments[low] == 1 and example.tokens[0] == 101
    assert held or len(item.windows) > 1
    assert len({example.document for example in examples}) == len(examples)


def test_every_token_of_a_long_context_may_begin_an_answer_in_one_window(model):
    (item,) = READER.prepare(model, [row_of(" ".join(WORDS))])
    assert len(item.windows) > 4
    lie = [(each.first, int((each.offsets[:, 0] >= 0).sum())) for each in item.windows]
    starts = [
        (window.first + place, number)
        for number, (window, own) in enumerate(zip(item.windows, central(lie), strict=True))
        for place in np.flatnonzero(own).tolist()
    ]
    tokens = [place for place, _ in sorted(starts)]
    assert tokens == list(range(len(tokens)))
    for own in central(lie)[1:-1]:
        size = len(own)
        assert not own[: TASK.stride // 2 - 1].any() and not own[-TASK.stride // 2 + 1 :].any()
        assert own[size // 2]


def test_the_commonest_answer_is_learnt_and_of_equals_the_first():
    answers = {"text": ["a", "ab", "ab", "c"], "answer_start": [0, 0, 0, 5]}
    assert usual(answers) == (0, 2)
    assert usual({"text": ["b", "a"], "answer_start": [4, 0]}) == (4, 5)
    assert usual(NONE) is None


def test_a_question_that_is_too_long_is_cut_and_its_context_is_not(model):
    context = " ".join(WORDS)
    (item,) = READER.prepare(model, [{"question": "why " * 90, "context": context}])
    last = item.windows[-1].offsets[:, 1].max()
    assert last == len(context)
    assert all(part.cost <= 40 for part in item.parts)


def test_windows_without_room_are_refused_before_anything_is_trained(model):
    tight = QuestionAnswerer(replace(TASK, stride=30))
    with pytest.raises(BadInput, match="neighbouring windows share"):
        tight.prepare(model, [row_of(" ".join(WORDS), question="why " * 20)])


@pytest.mark.parametrize(
    ("family", "reads"),
    [("bert", True), ("roberta", False), ("distilbert", False), ("xlm", False), ("xlnet", True)],
)
def test_segments_are_given_to_models_that_tell_pairs_apart_by_them(family, reads):
    """RoBERTa's table has one row, DistilBERT has none, and XLM's are its languages."""
    given = {"vocab_size": 99, "type_vocab_size": 1 if family == "roberta" else 2}
    spec = resolve("families", family).spec({**given, "n_langs": 3, "use_lang_emb": True})
    network = SimpleNamespace(spec=spec)
    assert TextModel.reads_segments.fget(SimpleNamespace(network=network)) is reads


# Decoding


def by_hand(item: Any, logits: list[np.ndarray], task: QuestionAnswering) -> tuple[Any, ...]:
    """No answer's score, normalised text -> sum of exp(score), and the sum of all; by loops."""
    tokens: dict[int, tuple[float, int]] = {}
    for number, window in enumerate(item.windows):
        places = [n for n, (start, _) in enumerate(window.offsets) if start >= 0]
        for at in range(len(places)):
            context = min(at, len(places) - 1 - at) + 0.01 * len(places)
            if context > tokens.get(window.first + at, (-1.0, 0))[0]:
                tokens[window.first + at] = (context, number)
    every: list[tuple[float, str]] = []
    for number, (window, own) in enumerate(zip(item.windows, logits, strict=True)):
        places = [n for n, (start, _) in enumerate(window.offsets) if start >= 0]
        for at, first in enumerate(places):
            if tokens[window.first + at][1] != number:
                continue
            for last in places[at : at + task.max_answer]:
                text = item.context[window.offsets[first, 0] : window.offsets[last, 1]]
                every.append((own[first, 0] + own[last, 1], normalize_answer(text)))
    every.sort(reverse=True)
    sums: dict[str, float] = {}
    for score, text in every[:CANDIDATES]:
        if text:
            sums[text] = sums.get(text, 0.0) + math.exp(score)
    whole = math.fsum(math.exp(score) for score, _ in every)
    return min(own[0, 0] + own[0, 1] for own in logits), sums, whole


@pytest.mark.parametrize("seed", range(6))
def test_decoding_is_that_of_the_slow_reference(model, seed):
    """Of a short context with repeated words in one or several windows, by its own loops."""
    rng = np.random.default_rng(seed)
    words = ["Rome", "the", "was", "U.S.", "taken", "(twice)", "in"]
    context = " ".join(rng.choice(words, int(rng.integers(1, 22))))
    reader = QuestionAnswerer(replace(TASK, best=4 if seed else 1, max_answer=3, stride=3))
    short = model.with_network(model.network, 16)
    (item,) = reader.prepare(short, [{"question": "Where?", "context": context}])
    logits = [rng.normal(size=(part.cost, 2)) * 2 for part in item.parts]
    choices, found = reader.decoded(item, logits)
    none, sums, whole = by_hand(item, logits, reader.task)
    assert found[0] == pytest.approx(none)
    kept = {
        normalize_answer(each["answer"]): score
        for each, score in zip(choices, found[1:-1], strict=True)
    }
    every = sorted((math.log(each), text) for text, each in sums.items())[::-1]
    assert [text for _, text in every[: len(kept)]] == list(kept)
    for score, text in every[: len(kept)]:
        assert kept[text] == pytest.approx(score)
    rest = whole - math.fsum(sums[text] for text in kept)
    assert math.exp(found[-1]) == pytest.approx(rest, rel=1e-6, abs=1e-9 * whole)
    assert len(kept) == min(reader.task.best, len(every))
    for each in choices:
        assert context[each["start"] : each["end"]] == each["answer"]


def test_an_empty_context_has_no_answer(model):
    predictor = TextPredictor(TASK, model)
    raw = predictor.answers(predictor.prepare([{"question": "Who?", "context": ""}]))
    found = TASK.calibrated(raw, 1.0, 0.01)
    assert found["answer"] == [""] and found["start"][0] == found["end"][0] == 0
    assert found["probabilities"][0].sum() == pytest.approx(1.0)


def test_answers_do_not_depend_on_their_neighbours(model, asked):
    predictor, rows = TextPredictor(TASK, model), [dict(row) for row in asked[:6]]
    together = answer_all(predictor, rows)
    for place, row in enumerate(rows):
        (alone,) = answer_all(predictor, [row])["logits"]
        np.testing.assert_allclose(together["logits"][place], alone, rtol=1e-4, atol=1e-5)


# Calibration and the threshold


def simulated(asked: list[dict[str, Any]], seed: int = 0) -> tuple[pa.Table, Answers]:
    """Rows, and made-up logits that are right of most of them."""
    table, rng = as_rows(asked), np.random.default_rng(seed)
    choices, logits = [], []
    for row in table.to_pylist():
        answers = row["answers"]
        taken = {"", *(normalize_answer(text) for text in answers["text"])}
        word = next(w for w in row["context"].split() if normalize_answer(w) not in taken)
        start = row["context"].index(word)
        wrong = {"answer": word, "start": start, "end": start + len(word)}
        right = [
            {"answer": t, "start": s, "end": s + len(t)}
            for t, s in list(zip(answers["text"], answers["answer_start"], strict=True))[:1]
        ]
        choices.append([*right, wrong])
        own = rng.normal(0, 2, 2 + len(choices[-1]))
        own[1 if right else 0] += 2.5
        own[0] += 1.0
        logits.append(own)
    return table, Answers({"logits": logits, "choices": choices})


def test_calibration_gives_probabilities_the_least_log_loss_and_the_best_f1(asked):
    table, raw = simulated(asked)
    fitted = Calibration.fit(TASK, table, raw, 0.4)
    found = fitted.apply(TASK, raw)
    for p, told in zip(found["probabilities"], found["answers"], strict=True):
        assert p.sum() == pytest.approx(1.0)
        assert sum(each["score"] for each in told) == pytest.approx(1 - p[-1])
        assert [each["score"] for each in told] == sorted((e["score"] for e in told), reverse=True)

    def loss(temperature: float) -> float:
        answers = TASK.calibrated(raw, temperature, 0.0)
        return float(TASK.measures(table, answers).losses["log_loss"].values.mean())

    assert (
        loss(fitted.temperature)
        <= min(loss(fitted.temperature * by) for by in (0.8, 0.95, 1.05, 1.25)) + 1e-6
    )
    scaled = TASK.calibrated(raw, fitted.temperature, fitted.smoothing)

    def error(threshold: float) -> float:
        answers = TASK.decided(scaled, (threshold,))
        return float(TASK.measures(table, answers).losses["answer_error"].values.mean())

    grid = np.linspace(-8, 8, 33).tolist()
    assert error(fitted.thresholds[0]) <= min(map(error, grid)) + 1e-12
    assert error(fitted.thresholds[0]) < error(0.0), "no answer was made too likely"
    assert fitted.thresholds[0] > 0


def test_confidence_means_what_it_says(asked):
    """Answers drawn from the very distribution that the logits say: expected and seen agree."""
    rng, rows, choices, logits = np.random.default_rng(3), [], [], []
    for row in asked * 6:
        words = list(dict.fromkeys(w for w in row["context"].split() if normalize_answer(w)))[:3]
        own = rng.normal(0, 1.5, len(words) + 2)
        own[-1] = -9
        drawn = rng.choice(len(own), p=np.exp(own) / np.exp(own).sum())
        texts = [words[drawn - 1]] if 0 < drawn <= len(words) else []
        rows.append(row_of(row["context"], *texts))
        choices.append([{"answer": w, "start": row["context"].index(w), "end": 0} for w in words])
        logits.append(own * 2)  # too sure by a temperature of 2
    table = pa.Table.from_pylist(rows)
    raw = Answers({"logits": logits, "choices": choices})
    fitted = Calibration.fit(TASK, table, raw, 1.0)
    assert fitted.temperature == pytest.approx(2.0, rel=0.1)
    found = fitted.apply(TASK, raw)
    right = 1 - TASK.measures(table, found).losses["error"].values
    assert float(right.mean()) == pytest.approx(float(TASK.confidence(found).mean()), abs=0.03)


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 1), st.booleans()), min_size=1, max_size=9)
)
def test_the_threshold_is_the_best_of_all_that_differ(rows):
    odds, text = (np.array([row[n] for row in rows]) for n in (0, 1))
    none = np.array([float(row[2]) for row in rows])

    def total(cut: float) -> float:
        return float(np.where(odds > cut, none, text).sum())

    cuts = [*odds.tolist(), odds.min() - 1, odds.max() + 1, 0.0]
    found = best_threshold(odds, text, none)
    assert total(found) == pytest.approx(max(map(total, cuts)), abs=2e-9)  # as ties are
    if total(0.0) == pytest.approx(max(map(total, cuts)), abs=1e-12):
        assert found == 0.0


def test_the_mean_of_two_readers(asked):
    table, one = simulated(asked[:60])
    _, two = simulated(asked[:60], 1)
    parts = [TASK.calibrated(each, 1.0, 0.01) for each in (one, two)]
    mean = TASK.calibrated(TASK.pooled(parts), 1.0, 0.0)
    for place in range(len(mean)):
        told = {each["answer"]: each["score"] for each in mean["answers"][place]}
        for text, score in told.items():
            own = [
                sum(
                    each["score"]
                    for each in part["answers"][place]
                    if normalize_answer(each["answer"]) == normalize_answer(text)
                )
                for part in parts
            ]
            assert score == pytest.approx(np.mean(own), abs=1e-9)
        assert mean["probabilities"][place].sum() == pytest.approx(1.0)
    errors = [TASK.measures(table, each).losses["error"].values.mean() for each in (*parts, mean)]
    assert errors[2] <= min(errors[:2]) + 0.1
    with pytest.raises(BadInput, match="without probabilities"):
        TASK.pooled([one, two])


# Measures and what is told


def test_measures_are_the_official_means_over_all_rows_and_by_kind(asked):
    table, raw = simulated(asked)
    answers = TASK.calibrated(raw, 1.0, 0.01)
    measures = TASK.measures(table, answers)
    truth = [each["text"] for each in table.column("answers").to_pylist()]
    pairs = np.array([best(t, a) for t, a in zip(truth, answers["answer"], strict=True)])
    has = np.array([bool(t) for t in truth])
    scores = measures.scores(np.ones((1, len(truth))))
    shares = {name: each.hits.sum() / each.among.sum() for name, each in measures.shares.items()}
    assert 0 < has.mean() < 1
    assert scores["f1"][0] == pytest.approx(pairs[:, 1].mean())
    assert scores["has_answer_f1"][0] == pytest.approx(pairs[has, 1].mean())
    assert shares["exact_match"] == pytest.approx(pairs[:, 0].mean())
    assert shares["has_answer_exact_match"] == pytest.approx(pairs[has, 0].mean())
    assert shares["no_answer_accuracy"] == pytest.approx(pairs[~has, 0].mean())
    assert measures.losses["answer_error"].values == pytest.approx(1 - pairs[:, 1])
    # A row that counts twice counts as one that stands there twice.
    weights = np.zeros((1, len(truth)))
    weights[0, [3, 7]] = [2, 1]
    twice = TASK.measures(table.take([3, 3, 7]), answers.take([3, 3, 7]))
    assert measures.scores(weights)["f1"] == pytest.approx(twice.scores(np.ones((1, 3)))["f1"])


def test_the_log_loss_is_of_the_probability_of_an_exact_match():
    choices = [
        [{"answer": "Rome", "start": 3, "end": 7}, {"answer": "In Rome", "start": 0, "end": 7}]
    ]
    raw = Answers({"logits": [np.log([0.1, 0.5, 0.3, 0.1])], "choices": choices})
    answers = TASK.calibrated(raw, 1.0, 0.0)
    for texts, wanted in [
        (["Rome"], 0.5),
        (["the Rome", "in Rome"], 0.8),
        ([], 0.1),
        (["Paris"], 0.1),
    ]:
        quotes = {"text": texts, "answer_start": [0] * len(texts)}
        rows = pa.Table.from_pylist([{"question": "?", "context": "In Rome", "answers": quotes}])
        (found,) = TASK.measures(rows, answers).losses["log_loss"].values
        assert found == pytest.approx(-math.log(wanted))


def test_what_is_told_is_heard(asked):
    table, raw = simulated(asked)
    answers = Calibration.fit(TASK, table, raw, 0.28).apply(TASK, raw)
    told = json.loads(json.dumps([TASK.told(answers, place) for place in range(len(answers))]))
    heard = TASK.heard(told)
    for name in ("answer", "answers"):
        assert heard[name] == answers[name]
    before, after = (TASK.measures(table, each) for each in (answers, heard))
    for name in ("answer_error", "error"):
        assert (before.losses[name].values == after.losses[name].values).all()
    assert "log_loss" not in after.losses
    assert {TASK.category(each) for each in told} == {"unsure", "answer", "no answer"}
    assert TASK.calibrated(heard, 2.0, 0.1) is heard
    for row, each in zip(table.to_pylist(), told, strict=True):
        assert row["context"][each["start"] : each["end"]] == each["answer"]
        blank, _ = split(each["answers"])
        assert blank["start"] == blank["end"] == 0


# Rows


@pytest.mark.parametrize(
    ("context", "text", "start", "reason"),
    [
        ("In Rome", "Rome", 3, ""),
        ("In Rome", "Milan", 3, "an answer that is not in its context"),
        ("In Rome", "Rome", 2, "an answer_start that is off by one"),
        ("In Rome", "Rome", 4, "an answer_start that is off by one"),
        ("In Rome", "In", 1, "an answer_start that is off by one"),
        ("In Rome, in Milan", "Milan", 2, "an answer that stands elsewhere"),
        ("Für Ärzte in Rome", "Rome", 15, "an answer_start in bytes, not characters"),
        ("In Rome", "", 3, "an empty answer"),
        ("In Rome", " ", 2, "an empty answer"),
    ],
)
def test_answers_that_do_not_stand_where_they_are_said_to(context, text, start, reason):
    assert misplaced(context, text, start) == reason
    quotes = {"text": ["In", text], "answer_start": [0, start]}
    row = {"question": "Where?", "context": context, "answers": quotes}
    first = "" if context.startswith("In") else "an answer that is not in its context"
    assert TASK.fault(row) == (first or reason)


def test_rows_without_question_or_context_and_those_without_an_answer():
    row = row_of("In Rome", "Rome")
    assert TASK.fault(row) == ""
    assert TASK.fault({**row, "question": " \n"}) == "no question"
    assert TASK.fault({**row, "context": ""}) == "no context"
    assert TASK.fault({**row, "answers": NONE}) == ""
    assert TASK.text({**row, "question": " ", "context": " "}) == ""
    assert TASK.target(row) == "Rome" and TASK.target({**row, "answers": NONE}) == "(no answer)"
    assert TASK.cluster(row) == "In Rome"
    table = as_rows([{**row, "answers": NONE}])
    with pytest.raises(BadInput, match="no training row has an answer"):
        TASK.fitted(table.to_batches())
    assert TASK.fitted(as_rows([row]).to_batches()) is TASK


def test_judgements_of_several_annotators_are_one_row():
    one, two = row_of("In Rome", "Rome"), row_of("In Rome", "In Rome")
    assert TASK.merged([one, two])["answers"] == {
        "text": ["Rome", "In Rome"], "answer_start": [3, 0],
    }  # fmt: skip


def test_feedback_and_the_traffic_log():
    assert TASK.corrected({"answers": NONE}) == {"answers": NONE}
    with pytest.raises(BadInput, match="no answers"):
        TASK.corrected({})
    with pytest.raises(BadInput, match="an empty answer"):
        TASK.corrected({"answers": {"text": [" "], "answer_start": [2]}})
    context = "Mail anna@example.org or ask Peter"
    quotes = {"text": ["anna@example.org"], "answer_start": [5]}
    row = masked_for(TASK, {"question": "Whom?", "context": context, "answers": quotes})
    assert "anna@" not in json.dumps(row)
    assert row["context"][29:] == "Peter"
    assert TASK.fault(row) == "", "an answer is masked as its context is"


@pytest.mark.parametrize("settings", [{"best": 0}, {"stride": -1}, {"max_answer": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(BadInput, match="at least"):
        QuestionAnswering(**settings).check()


# Training


@pytest.fixture(scope="module")
def rows(asked, tmp_path_factory) -> Path:
    """A rows artifact of SQuAD: 160 to train on, 60 to stop by."""
    folder = tmp_path_factory.mktemp("rows")
    pq.write_table(as_rows(asked[:160]), folder / "train.parquet")
    pq.write_table(as_rows(asked[160:220]), folder / "validation.parquet")
    (folder / "task.json").write_text(json.dumps(task_to_json(TASK)))
    return folder


def test_the_first_losses_are_those_of_transformers(asked, tmp_path):
    """The same weights, windows and order, no dropout: three steps of plain SGD on both sides."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(4)
    config = transformers.BertConfig(
        **SMALL, initializer_range=0.3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    theirs = transformers.BertForQuestionAnswering(config).train()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(asset_file(TOKENIZER).read_bytes())
    ours = from_published(read_folder(tmp_path), READER.head(0.0), 48, 1)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(ours.network.head.out, name).copy_(getattr(theirs.qa_outputs, name))
    examples = READER.examples(ours, as_rows(asked[:40]))
    same = [each for each in examples if len(each.tokens) == 48][:24]  # the reference pads
    assert len(same) == 24 and len({tuple(each.target) for each in same}) > 4
    steps = [same[:8], same[8:16], same[16:]]
    one = torch.optim.SGD(ours.network.parameters(), lr=0.05)
    two = torch.optim.SGD(theirs.parameters(), lr=0.05)
    for batch in steps:
        mine = READER.loss(ours.network, batch, None)
        ids, segments = (
            torch.from_numpy(np.stack([getattr(each, name) for each in batch])).long()
            for name in ("tokens", "segments")
        )
        edges = torch.from_numpy(np.stack([each.target for each in batch]))
        reference = theirs(
            input_ids=ids,
            token_type_ids=segments,
            start_positions=edges[:, 0],
            end_positions=edges[:, 1],
        ).loss
        assert mine.mean.item() == pytest.approx(reference.item(), rel=1e-4)
        assert mine.count == 8 and mine.divisible
        for optimizer, loss in ((one, mine.mean), (two, reference)):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_training_learns_and_the_same_seed_gives_the_same_bits(rows, small, tmp_path):
    stage = Train(
        start=str(small), rows=64, epochs=6, batch=16, max_tokens=64, lr=1e-2, dropout=0.0,
        evaluate_every=1000, patience=0, validation_rows=60,
    )  # fmt: skip
    works = [FakeWork({"rows": rows}, tmp_path / name) for name in ("one", "two")]
    facts = [stage.run(work) for work in works]
    assert facts[0] == facts[1]
    assert facts[0]["rows"] == 64
    weights = [(work.folder / "model" / "model.safetensors").read_bytes() for work in works]
    assert weights[0] == weights[1]
    curves = json.loads((works[0].folder / "model" / "curves.json").read_text())
    assert curves[0]["loss"] > 2.5 and curves[-1]["loss"] < 0.75 * curves[0]["loss"]
    learnt = load_predictor(works[0].folder / "model")
    table = pq.read_table(rows / "train.parquet")
    answers = TASK.calibrated(answer_all(learnt, table.to_pylist()), 1.0, 0.01)
    assert "log_loss" in TASK.measures(table, answers).losses
    assert answers.vectors is not None
    assert np.linalg.norm(answers.vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
