"""Text ranking: measures by brute force, a loss as torch has it, negatives and a training on real
package descriptions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, ndcg_score

from lmwright.assets import asset_file
from lmwright.baselines.matching import BM25
from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.core.settings import read_settings
from lmwright.core.task import Answers, feedback_loss, role_columns, text_of_its_own
from lmwright.data.corpus import schema_of
from lmwright.data.sources import RawRow, Source, read_source
from lmwright.index import lexical
from lmwright.metrics.calibration import Calibration
from lmwright.models.core.ragged import pack
from lmwright.models.files.folder import read_folder
from lmwright.models.load import load_predictor
from lmwright.models.text_model import TextModel, TextPredictor, from_published
from lmwright.tasks.hard_negatives import HardNegatives
from lmwright.tasks.sentence_similarity import SentenceSimilarity
from lmwright.tasks.text_ranking import TextRanking
from lmwright.tasks.text_ranking_model import CrossEncoder
from lmwright.train.beginning import begin
from lmwright.train.finetune import Train
from tests.train.conftest import FakeWork, write_task
from tests.train.conftest import small as small  # the fixture

DEBIAN = "asset:debian-summaries/debian-summaries.parquet"
TASK = TextRanking()
BY_MODEL = CrossEncoder(TASK)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(small: Path) -> TextModel:
    return from_published(read_folder(small), BY_MODEL.head(0.0), 48, 1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """80 summaries of Debian's packages: each with its description and three hard negatives."""
    path = tmp_path_factory.mktemp("debian") / "some.parquet"
    pq.write_table(pq.read_table(asset_file(DEBIAN)).slice(0, 80), path)
    source = Source(
        name="debian",
        path=str(path),
        columns={"query": "synopsis", "document": "description"},
        constants={"relevance": "1"},
        derive={"kind": "hard-negatives", "nearest": 2, "random": 1},
    )
    rows = read_source(source, role_columns(TASK, "input", "target"))
    return [row.values for row in rows if isinstance(row, RawRow)]


def as_rows(table: list[dict[str, Any]]) -> pa.Table:
    """Rows of the task in their order."""
    frame = {"source": "debian", "licence": "free", "origin": "debian:1"}
    rows = [{**frame, "id": f"{n:032x}", **each} for n, each in enumerate(table)]
    schema = schema_of(role_columns(TASK, "input", "target"))
    return pa.Table.from_pylist(rows).select(schema.names).cast(schema)


# Hard negatives


def test_hard_negatives_are_the_nearest_by_bm25(table: list) -> None:
    """Each query has its own description, then the two nearest others, then one more."""
    assert len(table) == 320
    documents = list(dict.fromkeys(row["document"] for row in table if row["relevance"] == 1))
    index = lexical.BM25(documents)
    for at in range(0, 320, 4):
        own, *others = table[at : at + 4]
        assert own["relevance"] == 1 and all(row["relevance"] == 0 for row in others)
        assert len({row["query"] for row in table[at : at + 4]}) == 1
        scores = index.scores(own["query"])
        scores[documents.index(own["document"])] = -1
        best = np.sort(scores)[::-1][:2]
        found = [scores[documents.index(row["document"])] for row in others]
        assert found[:2] == pytest.approx(best)
        assert len({row["document"] for row in table[at : at + 4]}) == 4


def row(query: str, document: str, name: str = "") -> RawRow:
    values = {"query": query, "document": document, "relevance": 1.0}
    return RawRow(values, name, "made-up:1", {})


def test_what_belongs_to_a_query_is_never_its_negative() -> None:
    given = [row("a", "a b", "1"), row("a", "a c", "2"), row("b", "a a"), row("c", "d")]
    found = list(HardNegatives(nearest=1).rows(iter(given), np.random.default_rng(0)))
    made = [(each.values["query"], each.values["document"]) for each in found if each not in given]
    assert made == [("a", "a a"), ("b", "a b"), ("c", "a c")]
    assert [each.id for each in found] == ["1", "1-1", "2", "", "", "", ""]
    again = HardNegatives(nearest=0, random=2)
    one, two = (list(again.rows(iter(given), np.random.default_rng(5))) for _ in range(2))
    assert one == two and len(one) == 4 + 2 * 3
    with pytest.raises(BadInput, match="4 documents"):
        list(HardNegatives(nearest=3).rows(iter(given), np.random.default_rng(0)))
    with pytest.raises(BadInput, match="nearest 0, random 0"):
        read_settings(HardNegatives, {"nearest": 0}, "derive")


# Measures


def test_rankings_are_scored_query_by_query() -> None:
    """Grades 0 to 3, of queries with different numbers of documents, some with equal scores."""
    rng, task = np.random.default_rng(3), TextRanking(highest=3)
    sizes = [2, 5, 12, 4, 3]
    queries = [f"q{n}" for n, size in enumerate(sizes) for _ in range(size)]
    relevance = rng.integers(0, 4, len(queries)).astype(float)
    relevance[-3:] = 2  # nothing to be ranked
    scores = rng.integers(0, 5, len(queries)) / 4
    order = rng.permutation(len(queries))
    rows = as_rows(
        [{"query": queries[n], "document": f"d{n}", "relevance": relevance[n]} for n in order]
    )
    measures = task.measures(rows, Answers({"score": scores[order]}))
    ends = np.cumsum(sizes)
    gains, ranks = [], []
    for end, size in zip(ends[:4], sizes[:4], strict=True):
        own = slice(end - size, end)
        gains.append(ndcg_score([2 ** relevance[own] - 1], [scores[own]], k=10))
        best = relevance[own] == relevance[own].max()
        ranks.append(1 + (scores[own][~best] >= scores[own][best].max()).sum())
    found = measures.scores(np.ones((1, len(queries))))
    assert found["ndcg@10"][0] == pytest.approx(np.mean(gains))
    assert found["mrr"][0] == pytest.approx(np.mean(1 / np.array(ranks)))
    assert measures.details == {"queries": 4}
    by_row = dict(zip(order.tolist(), measures.losses["ndcg_error"].values, strict=True))
    for number, (end, gain) in enumerate(zip(ends, gains, strict=False)):
        for place in range(end - sizes[number], end):
            assert by_row[place] == pytest.approx(1 - gain)
    assert [by_row[place] for place in range(ends[3], ends[4])] == [0, 0, 0]
    error = (scores - relevance / 3) ** 2
    assert measures.losses["squared_error"].values == pytest.approx(error[order])
    # A query that is drawn twice counts twice.
    weights = np.array([[2.0 if queries[n] == "q1" else 1.0 for n in order]])
    twice = (sum(gains) + gains[1]) / 5
    assert measures.scores(weights)["ndcg@10"][0] == pytest.approx(twice)


def test_scores_are_probabilities_that_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    relevance = rng.integers(0, 2, 200).astype(float)
    logits = 4 * (2 * relevance - 1) + rng.normal(0, 6, 200)
    rows = as_rows(
        [
            {"query": f"q{n // 4}", "document": f"d{n}", "relevance": own}
            for n, own in enumerate(relevance)
        ]
    )
    raw = Answers({"logits": logits[:, None]})
    fitted = Calibration.fit(TASK, rows, raw)
    assert fitted.temperature > 1.5, "made too sure"
    found = fitted.apply(TASK, raw)
    p = 1 / (1 + np.exp(-logits / fitted.temperature))
    smoothing = 1 / 201
    assert found["score"] == pytest.approx((1 - smoothing) * p + smoothing / 2)
    losses = TASK.measures(rows, found).losses
    wanted = log_loss(relevance, found["score"])
    assert losses["log_loss"].values.mean() == pytest.approx(wanted)
    assert losses["log_loss"].values.max() <= losses["log_loss"].largest
    before = TASK.measures(rows, TASK.calibrated(raw, 1.0, 0.0)).losses
    assert losses["log_loss"].values.mean() < before["log_loss"].values.mean()
    assert losses["ndcg_error"].values == pytest.approx(before["ndcg_error"].values)


# The task


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"query": " "}, "empty query"),
        ({"document": ""}, "empty document"),
        ({"relevance": 2.0}, "relevance out of range"),
    ],
)
def test_rows_that_cannot_be_learnt_from(change: dict[str, Any], reason: str) -> None:
    assert TASK.fault({"query": "a", "document": "b", "relevance": 1.0, **change}) == reason


def test_rows_are_cleaned_merged_and_kept_together() -> None:
    one = {"query": "a&amp;b", "document": "<p>c</p>", "relevance": 1.0}
    assert TASK.cleaned(one) == {**one, "query": "a&b", "document": "c"}
    assert TASK.cluster(one) == "a&b" and TASK.text(one) == "a&b\nc" and TASK.target(one) == "1"
    assert TASK.merged([one, {**one, "relevance": 0.0}]) == {**one, "relevance": 0.5}
    with pytest.raises(BadInput, match=r"the relevance \[1.0\].*hard-negatives"):
        TASK.fitted(as_rows([one]).to_batches())
    assert not TASK.comparable(replace(TASK, highest=3))
    for number in (0, float("inf")):
        with pytest.raises(BadInput, match=f"highest is {number}"):
            read_settings(TextRanking, {"highest": number}, "task")


def test_near_duplicates_are_those_of_queries() -> None:
    """Documents stand under queries of every split, so they are not looked at."""
    one = {"query": "a&amp;b", "document": "<p>c</p>", "relevance": 1.0}
    assert text_of_its_own(TASK, one) == "a&b"
    other: Any = SentenceSimilarity()
    pair = {"sentence1": "a", "sentence2": "b"}
    assert text_of_its_own(other, pair) == other.text(pair) == "a\nb"


def test_what_is_told_is_heard_and_corrected() -> None:
    answers = TASK.calibrated(Answers({"logits": np.array([[0.0], [-30.0]])}), 1.0, 0.0)
    told = json.loads(json.dumps([TASK.told(answers, place) for place in range(2)]))
    heard = TASK.heard(told)
    assert (heard["score"] == answers["score"]).all()
    assert [TASK.category(each) for each in told] == ["relevant", "irrelevant"]
    rows = as_rows([{"query": "a", "document": d, "relevance": 0.0} for d in "bc"])
    losses = TASK.measures(rows, heard).losses
    assert losses[feedback_loss(TASK)].values == pytest.approx([0.25, 0])
    assert TASK.corrected({"relevance": 1}) == {"relevance": 1.0}
    with pytest.raises(BadInput, match="from 0 to 1"):
        TASK.corrected({"relevance": 3})


# The model


def test_a_pair_is_read_as_the_tokenizers_template_has_it(model: TextModel, table: list) -> None:
    (item,) = BY_MODEL.prepare(model, table[:1])
    query, document = (TASK.cleaned(table[0])[name] for name in ("query", "document"))
    whole = model.tokenizer.inner.encode(query, document)
    assert item.ids.tolist() == [*whole.ids[:47], whole.ids[-1]]
    assert item.segments is not None
    first = len(model.tokenizer.ids(query)) + 2
    assert item.segments.tolist() == [0] * first + [1] * (48 - first)
    short = CrossEncoder(replace(TASK, max_query=2)).prepare(model, table[:1])[0]
    assert (short.segments == 0).sum() == 4
    with pytest.raises(BadInput, match="raise max_tokens"):
        BY_MODEL.prepare(
            model.with_network(model.network, 5), [{"query": "a b c d", "document": "e"}]
        )


def test_the_loss_is_torchs_and_packing_changes_nothing(model: TextModel, table: list) -> None:
    rows = as_rows([{**each, "relevance": n / 12} for n, each in enumerate(table[:12])])
    examples = BY_MODEL.examples(model, rows)
    with torch.no_grad():
        found = BY_MODEL.loss(model.network, examples, None)
        alone = torch.cat(
            [model.network(pack([e.tokens], segments=[e.segments])) for e in examples]
        )
        blind = torch.cat([model.network(pack([e.tokens])) for e in examples])
    wanted = torch.arange(12)[:, None] / 12
    own = torch.nn.functional.binary_cross_entropy_with_logits(alone, wanted)
    assert found.mean.item() == pytest.approx(own.item(), rel=1e-5)
    assert found.divisible and found.count == 12
    scores = BY_MODEL.score(model.network, examples)
    assert scores["log_loss"] == pytest.approx(own.item(), rel=1e-5)
    error = (alone.sigmoid() - wanted).square().mean().item()
    assert scores["squared_error"] == pytest.approx(error, rel=1e-4)
    answers = answer_all(TextPredictor(TASK, model), table[:12])
    assert answers["logits"] == pytest.approx(alone.double().numpy(), abs=1e-5)
    assert (alone - blind).abs().max() > 1e-4, "segments are read"


def test_a_training_on_real_descriptions(table: list, small: Path, tmp_path: Path) -> None:
    """On the rows that it learns from, the loss falls and rankings get better; the baseline of
    shared words, which the negatives were made by, stands beside it."""
    folder = tmp_path / "rows"
    folder.mkdir()
    pq.write_table(as_rows(table[:240]), folder / "train.parquet")
    pq.write_table(as_rows(table[240:]), folder / "validation.parquet")
    write_task(folder, TASK)
    stage = Train(
        start=str(small),
        epochs=14,
        batch=16,
        max_tokens=48,
        lr=1e-2,
        dropout=0.0,
        evaluate_every=300,
        patience=0,
        seed=1,
    )
    work = FakeWork({"rows": folder}, tmp_path / "work")
    stage.run(work)
    curves = json.loads((work.folder / "model" / "curves.json").read_text())
    assert curves[-1]["loss"] < 0.6 * curves[0]["loss"]
    rows, ones = as_rows(table[:240]), np.ones((1, 240))
    found = {}
    begun = TextPredictor(TASK, begin(stage, work, BY_MODEL)[0].model)
    bm25 = BM25.fit(TASK, rows, 0)
    learnt = load_predictor(work.folder / "model")
    for name, each in (("begun", begun), ("learnt", learnt), ("bm25", bm25)):
        answers = TASK.calibrated(answer_all(each, rows.to_pylist()), 1.0, 0.0)
        found[name] = TASK.measures(rows, answers).scores(ones)["ndcg@10"][0]
    assert found["learnt"] > found["begun"] + 0.1
    assert found["bm25"] > 0.85
