"""Sentence similarity: losses by their formulas, ranks by brute force, and real pairs of texts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer

from lmwright.assets import asset_file
from lmwright.baselines.matching import BM25, Matching, TfidfCosine
from lmwright.core.errors import BadInput, Corrupt, MissingPart
from lmwright.core.predictor import answer_all
from lmwright.core.settings import read_settings
from lmwright.core.task import Answers, feedback_loss, read_task, role_columns, task_to_json
from lmwright.data.corpus import schema_of
from lmwright.index import lexical
from lmwright.loop.retrain import loss_of
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.files.folder import read_folder
from lmwright.models.files.published import read_published
from lmwright.models.load import load_predictor
from lmwright.models.network.network import build, fill
from lmwright.models.text_model import TextModel, TextPredictor, from_published
from lmwright.tables import resolve
from lmwright.tasks.sentence_similarity import SentenceSimilarity, shortened, vectors_of
from lmwright.tasks.sentence_similarity_model import LOSSES, BiEncoder, Encoded, texts_of
from lmwright.text.bm25 import words_of
from lmwright.train.batches import Example
from lmwright.train.finetune import Train
from lmwright.train.start import START
from tests.train.conftest import FakeWork, write_task
from tests.train.conftest import small as small  # the fixture

DEBIAN = "asset:debian-summaries/debian-summaries.parquet"
TASK = SentenceSimilarity()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(small: Path) -> TextModel:
    return from_published(read_folder(small), BiEncoder(TASK).head(0.0), 48, 1)


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    """Synopsis and description of the first 300 packages of Debian."""
    table = pq.read_table(asset_file(DEBIAN)).slice(0, 300).to_pylist()
    return [{"sentence1": row["synopsis"], "sentence2": row["description"]} for row in table]


def as_rows(pairs: list[dict[str, Any]]) -> pa.Table:
    """Pairs as rows of the task, in their order."""
    frame = {"source": "debian", "licence": "free", "origin": "debian:1"}
    rows = [
        {"score": 1.0, "negatives": [], **frame, "id": f"{n << 8:032x}", **each}
        for n, each in enumerate(pairs)
    ]
    schema = schema_of(role_columns(TASK, "input", "target"))
    return pa.Table.from_pylist(rows).select(schema.names).cast(schema)


# Losses


def unit(rng: np.random.Generator, n: int, width: int = 5) -> np.ndarray:
    found = rng.normal(size=(n, width))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def batch(scores: list[float], seed: int = 0) -> tuple[list[Example], np.ndarray]:
    """Made-up ids with random vectors: rows 1 and 3 have one passage, rows 0 and 4 one first text,
    row 2 two negatives, row 5 one that is the passage of row 1."""
    first = [[1], [2], [3], [4], [1], [5]]
    second = [[11], [12], [13], [12], [14], [15]]
    negatives: dict[int, list[list[int]]] = {2: [[21], [22]], 5: [[12]]}
    examples = []
    for row, score in enumerate(scores):
        others = [second[row], *negatives.get(row, [])]
        beside = tuple(Example(np.array(ids), 10 * row + n) for n, ids in enumerate(others, 1))
        examples.append(Example(np.array(first[row]), 10 * row, np.array([score]), beside))
    texts = texts_of(examples)
    by_ids = {each.tokens.tobytes(): n for n, each in enumerate(texts)}
    table = unit(np.random.default_rng(seed), len(texts))
    return examples, table[[by_ids[each.tokens.tobytes()] for each in texts]]


def mean_loss(task: SentenceSimilarity, examples: list[Example], vectors: np.ndarray) -> float:
    mean, _ = BiEncoder(task).summed(torch.from_numpy(vectors), examples)
    return float(mean)


def test_multiple_negatives_by_its_formula_without_false_negatives() -> None:
    """Row 5 is no positive, so it is not asked, but its texts are negatives of the others."""
    examples, v = batch([1, 1, 1, 1, 1, 0])
    scale = 20.0
    passages = {0: [6, 10], 1: [7, 9], 2: [8], 3: [7, 9], 4: [6, 10]}
    extra = {1: [14], 3: [14]}  # row 5's negative is the passage of rows 1 and 3
    wanted = []
    for row, known in passages.items():
        left_out = {*known, *extra.get(row, [])} - {6 + row}
        others = [c for c in range(6, 15) if c not in left_out]
        logits = scale * (v[others] @ v[row])
        wanted.append(math.log(np.exp(logits).sum()) - scale * v[row] @ v[6 + row])
    assert mean_loss(replace(TASK, scale=scale), examples, v) == pytest.approx(np.mean(wanted))
    assert mean_loss(TASK, examples, v) == pytest.approx(np.mean(wanted))
    _, count = BiEncoder(TASK).summed(torch.from_numpy(v), examples)
    assert count == 5


def test_multiple_negatives_by_hand() -> None:
    """Two rows whose passages are their own vectors, at right angles: ln(1 + e^-scale)."""
    examples = [
        Example(np.array([n]), n, np.array([1.0]), (Example(np.array([10 + n]), n),))
        for n in range(2)
    ]
    v = np.eye(2)[[0, 1, 0, 1]]
    found = mean_loss(replace(TASK, scale=3.0), examples, v)
    assert found == pytest.approx(math.log(1 + math.exp(-3)))
    alone = mean_loss(TASK, examples[:1], v[[0, 2]])
    assert alone == pytest.approx(0, abs=1e-12)
    none = [replace(each, target=np.array([0.0])) for each in examples]
    assert BiEncoder(TASK).summed(torch.from_numpy(v), none) == (0, 0)


def test_cosine_loss_is_the_mean_squared_error_against_the_score() -> None:
    """As torch has it; of negatives the score is 0."""
    scores = [1, 0.2, 0.6, 0, 0.5, 1]
    examples, v = batch(scores)
    first = torch.from_numpy(v[[0, 1, 2, 3, 4, 5, 2, 2, 5]])
    second = torch.from_numpy(v[[6, 7, 8, 9, 10, 11, 12, 13, 14]])
    wanted = torch.tensor([*scores, 0, 0, 0], dtype=torch.float64)
    own = F.mse_loss(F.cosine_similarity(first, second), wanted).item()
    assert mean_loss(replace(TASK, loss="cosine"), examples, v) == pytest.approx(own)


def test_contrastive_loss_by_hand() -> None:
    """Angles of cosines 0.8, 0.7 and 0.2: halves of 0.2², (0.5 - 0.3)² and 0."""
    cosines = np.array([0.8, 0.7, 0.2])
    sides = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    examples = [
        Example(np.array([n]), n, np.array([target]), (Example(np.array([10 + n]), n),))
        for n, target in enumerate([1.0, 0.0, 0.0])
    ]
    v = np.concatenate([np.tile([[1.0, 0.0]], (3, 1)), sides])
    task = replace(TASK, loss="contrastive")
    assert mean_loss(task, examples, v) == pytest.approx((0.02 + 0.02 + 0) / 3)
    wider = replace(task, margin=1.0)
    assert mean_loss(wider, examples, v) == pytest.approx((0.2**2 + 0.7**2 + 0.2**2) / 6)


def test_triplet_loss_is_torchs_with_the_hardest_negative() -> None:
    examples, v = batch([1, 1, 1, 1, 1, 0])
    table = v[:6] @ v[6:].T
    # Candidates that a row may be pushed away from; row 2 has negatives of its own.
    asked = {0: [7, 8, 9, 11, 12, 13, 14], 1: [6, 8, 10, 11, 12, 13], 2: [12, 13]}
    asked |= {3: asked[1], 4: asked[0]}
    nearest = [max(own, key=lambda c: table[row, c - 6]) for row, own in asked.items()]
    own = F.triplet_margin_with_distance_loss(
        torch.from_numpy(v[list(asked)]),
        torch.from_numpy(v[[6 + row for row in asked]]),
        torch.from_numpy(v[nearest]),
        distance_function=lambda x, y: 1 - F.cosine_similarity(x, y),
        margin=0.3,
    ).item()
    task = replace(TASK, loss="triplet", margin=0.3)
    assert mean_loss(task, examples, v) == pytest.approx(own)


@pytest.mark.parametrize("loss", LOSSES)
def test_matryoshka_adds_the_losses_of_shortened_vectors(loss: Any) -> None:
    examples, v = batch([1, 1, 1, 0, 1, 0])
    plain = replace(TASK, loss=loss)
    parts = [v, *(v[:, :w] / np.linalg.norm(v[:, :w], axis=1, keepdims=True) for w in (2, 4))]
    wanted = sum(mean_loss(plain, examples, part) for part in parts)
    assert mean_loss(replace(plain, widths=(2, 4)), examples, v) == pytest.approx(wanted)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_finite_differences(loss: Any) -> None:
    examples, v = batch([1, 1, 1, 0, 1, 0], seed=3)
    by_model = BiEncoder(replace(TASK, loss=loss, widths=(3,)))
    vectors = torch.from_numpy(v).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: by_model.summed(F.normalize(x, dim=-1), examples)[0], (vectors,)
    )


def test_only_losses_over_pairs_can_be_divided(model: TextModel, pairs: list) -> None:
    rows = as_rows(pairs[:4])
    for loss in LOSSES:
        by_model = BiEncoder(replace(TASK, loss=loss))
        found = by_model.loss(model.network, by_model.examples(model, rows), None)
        assert found.divisible == (loss in ("cosine", "contrastive"))
        assert found.count == 4


def test_the_loss_of_a_model_is_that_of_its_vectors(model: TextModel, pairs: list) -> None:
    """Packed as alone; and the validation loss is that of all rows as one batch."""
    told = [{**each, "negatives": [pairs[9]["sentence2"]]} for each in pairs[:6]]
    task = replace(TASK, widths=(8,))
    by_model = BiEncoder(task)
    examples = by_model.examples(model, as_rows(told))
    texts = [model.tokens([each[name] for each in told]) for name in ("sentence1", "sentence2")]
    negative = model.tokens([pairs[9]["sentence2"]] * 6)
    alone = [model.embed([text])[0] for own in (*texts, negative) for text in own]
    with torch.no_grad():
        loss = by_model.loss(model.network, examples, None).mean.item()
    assert loss == pytest.approx(mean_loss(task, examples, np.stack(alone)), rel=1e-4)
    assert by_model.score(model.network, examples)["loss"] == pytest.approx(loss, rel=1e-4)
    keys = [each.document for each in texts_of(examples)]
    assert len(set(keys)) == 18
    dropped = BiEncoder(task)
    rng = DropoutRNG(0, 1)
    network = from_published_with_dropout(model)
    one = dropped.loss(network, examples, rng).mean.item()
    assert one == dropped.loss(network, examples, DropoutRNG(0, 1)).mean.item() != loss


def from_published_with_dropout(model: TextModel) -> Any:
    """The network with dropout of what is pooled."""
    network = build(model.network.spec, BiEncoder(TASK).head(0.3))
    fill(network, {name: each.detach() for name, each in model.network.named_parameters()})
    return network


# Measures


def ranked_by_hand(rows: pa.Table, one: np.ndarray, two: np.ndarray) -> list[int]:
    """Ranks row by row, from texts alone."""
    table = rows.to_pylist()
    found = []
    for row, each in enumerate(table):
        mine = {r["sentence2"] for r in table if r["sentence1"] == each["sentence1"]}
        others = {}
        for place, other in enumerate(table):
            if other["sentence2"] not in mine | {each["sentence1"]}:
                others[other["sentence2"]] = float(one[row] @ two[place])
        found.append(1 + sum(value >= one[row] @ two[row] for value in others.values()))
    return found


def repeated(pairs: list[dict[str, Any]]) -> pa.Table:
    """Real pairs, of which some share a passage or a first text, or answer with the text itself."""
    table = [dict(each) for each in pairs[:40]]
    for one, two in ((3, 9), (4, 9), (12, 13)):
        table[one]["sentence2"] = table[two]["sentence2"]
    table[20]["sentence1"] = table[21]["sentence1"]
    table[30]["sentence2"] = table[31]["sentence1"]
    return as_rows(table)


def test_ranks_are_those_by_hand(pairs: list) -> None:
    rows, rng = repeated(pairs), np.random.default_rng(0)
    texts = rows.column("sentence2").to_pylist()
    by_text = {text: unit(rng, 1)[0] for text in texts}
    two = np.stack([by_text[text] for text in texts])
    one = two + 0.7 * unit(rng, 40)
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    answers = Answers({"score": TASK.scored((one * two).sum(1)), "vector1": one, "vector2": two})
    task = replace(TASK, widths=(3,))
    measures = task.measures(rows, answers)
    ranks = np.array(ranked_by_hand(rows, one, two))
    assert ranks.max() > 1 and (ranks == 1).any()
    assert measures.losses["rank_error"].values == pytest.approx(1 - 1 / ranks)
    weights = np.random.default_rng(1).integers(0, 4, (5, 40)).astype(float)
    scores = measures.scores(weights)
    for draw, own in enumerate(weights):
        again = np.repeat(ranks, own.astype(int))
        assert scores["mrr"][draw] == pytest.approx((1 / again).mean())
        gains = np.where(again <= 10, 1 / np.log2(1 + again), 0)
        assert scores["ndcg@10"][draw] == pytest.approx(gains.mean())
    assert measures.shares["recall@1"].hits.tolist() == (ranks == 1).tolist()
    short = ranked_by_hand(rows, *shortened((one, two), 3))
    gains = np.where(np.array(short) <= 10, 1 / np.log2(1 + np.array(short)), 0)
    assert scores["ndcg@10.3"] == pytest.approx(weights @ gains / weights.sum(1))
    assert "spearman" not in scores, "no score varies"
    assert measures.details == {"positives": 40, "passages": 37}


def test_scores_that_vary_have_correlations_and_a_squared_error(pairs: list) -> None:
    rng = np.random.default_rng(4)
    wanted = rng.choice([0, 1, 2.5, 5], 40)
    told = np.clip(wanted + rng.normal(0, 2, 40), -1, 5)
    rows = as_rows([{**each, "score": s} for each, s in zip(pairs, wanted, strict=False)])
    task = SentenceSimilarity(loss="cosine", score_range=(0, 5), positive=2.5)
    measures = task.measures(rows, Answers({"score": told}))
    assert set(measures.losses) == {"squared_error"} and not measures.shares
    error = (np.clip(told, 0, 5) - wanted) / 5
    assert measures.losses["squared_error"].values == pytest.approx(error**2)
    weights = rng.integers(0, 3, (3, 40)).astype(float)
    scores = measures.scores(weights)
    for draw, own in enumerate(weights):
        x, y = (np.repeat(each, own.astype(int)) for each in (told, wanted))
        assert scores["spearman"][draw] == pytest.approx(stats.spearmanr(x, y).statistic)
        assert scores["pearson"][draw] == pytest.approx(stats.pearsonr(x, y).statistic)


def test_rows_that_do_not_belong_together_are_not_ranked(pairs: list) -> None:
    rows = as_rows([{**each, "score": n % 2} for n, each in enumerate(pairs[:10])])
    rng = np.random.default_rng(0)
    answers = Answers({"score": rng.random(10), "vector1": unit(rng, 10), "vector2": unit(rng, 10)})
    measures = TASK.measures(rows, answers)
    assert (measures.losses["rank_error"].values[::2] == 0).all()
    assert measures.shares["recall@1"].among.sum() == 5
    error = measures.losses["rank_error"].values[1::2]
    assert measures.scores(np.ones((1, 10)))["mrr"][0] == pytest.approx(1 - error.mean())
    none = as_rows([{**each, "score": 0.0} for each in pairs[:10]])
    assert "rank_error" not in TASK.measures(none, answers).losses


# The task


def test_what_models_are_compared_by_follows_from_the_loss() -> None:
    for loss in ("multiple-negatives", "triplet"):
        task = replace(TASK, loss=loss)
        assert task.primary == task.gate_loss == "rank_error"
    for loss in ("cosine", "contrastive"):
        task = replace(TASK, loss=loss)
        assert task.primary == task.gate_loss == "squared_error"
    assert feedback_loss(TASK) == "squared_error", "what was told has no vectors"
    assert read_task(task_to_json(TASK), "here", resolve) == TASK


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"score_range": [1, 1]}, "lowest score"),
        ({"score_range": [0, float("inf")]}, "lowest score"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"score_range": [0, 5], "positive": 6}, "positive is 6"),
        ({"positive": 0}, "positive is 0"),
        ({"loss": "cosine", "scale": 5}, "scale is 5.0 with the loss cosine"),
        ({"scale": -1}, "scale is -1"),
        ({"margin": 0.1}, "margin is 0.1 with the loss multiple-negatives"),
        ({"loss": "triplet", "margin": 3}, "margin is 3"),
        ({"widths": [64, 32]}, "ascending"),
        ({"loss": "angle"}, "loss is 'angle'"),
        ({"clean": ["repair", "mail"]}, "clean is"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        read_settings(SentenceSimilarity, settings, "task")


ROW = {"sentence1": "a b", "sentence2": "c d", "score": 1.0, "negatives": ["e"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"sentence1": " "}, "empty sentence1"),
        ({"sentence2": ""}, "empty sentence2"),
        ({"score": 1.5}, "score out of range"),
        ({"negatives": ["e", "c d"]}, "negative equals sentence2"),
        ({"negatives": [""]}, "empty negative"),
    ],
)
def test_rows_that_cannot_be_learnt_from(change: dict[str, Any], reason: str) -> None:
    assert TASK.fault({**ROW, **change}) == reason


def test_rows_are_cleaned_merged_and_kept_together() -> None:
    row = {**ROW, "sentence1": "<p>a&amp;b</p>", "negatives": ["e&amp;f"]}
    assert TASK.cleaned(row) == {**ROW, "sentence1": "a&b", "negatives": ["e&f"]}
    assert TASK.cleaned(TASK.cleaned(row)) == TASK.cleaned(row)
    assert TASK.text(row) == "a&b\nc d" and TASK.cluster(row) == "c d"
    merged = TASK.merged([{**ROW, "group": "x"}, {**ROW, "score": 0.5, "negatives": ["f", "e"]}])
    assert merged == {**ROW, "group": "x", "score": 0.75, "negatives": ["e", "f"]}
    with pytest.raises(BadInput, match="no training row has a score from 1"):
        TASK.fitted(as_rows([{**ROW, "score": 0.4}]).to_batches())
    assert replace(TASK, loss="cosine").fitted(as_rows([{**ROW, "score": 0.4}]).to_batches())
    assert not TASK.comparable(replace(TASK, score_range=(0, 5)))
    assert TASK.comparable(replace(TASK, loss="cosine", widths=(8,)))
    defaults = {each.name: each.read(None) for each in role_columns(TASK, "target")}
    assert defaults == {"score": 1.0, "negatives": ()}


def test_what_is_told_is_heard_and_corrected() -> None:
    answers = Answers({"score": np.array([0.25, 1.0]), "vector1": np.eye(2), "vector2": np.eye(2)})
    told = json.loads(json.dumps([TASK.told(answers, place) for place in range(2)]))
    assert TASK.heard(told)["score"].tolist() == [0.25, 1.0]
    assert [TASK.category(each) for each in told] == ["different", "similar"]
    rows = as_rows([{**ROW, "score": 0.5}, ROW])
    losses = TASK.measures(rows, TASK.heard(told)).losses
    assert losses[feedback_loss(TASK)].values.tolist() == [0.0625, 0.0]
    assert TASK.corrected({"score": 0.5}) == {"score": 0.5, "negatives": []}
    for wrong in ({}, {"score": 2}):
        with pytest.raises(BadInput, match="from 0 to 1"):
            TASK.corrected(wrong)


def test_the_loop_judges_feedback_by_scores_alone() -> None:
    """As retraining counts it, whatever the task's primary loss; texts that were not kept do not
    matter."""
    labelled = [
        {"answer": {"score": 0.25}, "inputs": ROW, "target": {"score": 1.0, "negatives": []}},
        {"answer": {"score": 0.5}, "inputs": None, "target": {"score": 0.0, "negatives": ["a"]}},
    ]
    assert loss_of(TASK, labelled).values.tolist() == [0.5625, 0.25]


# Models and baselines


def test_answers_do_not_depend_on_their_neighbours(model: TextModel, pairs: list) -> None:
    predictor = TextPredictor(TASK, model)
    asked = [*pairs[:12], pairs[3]]
    together = answer_all(predictor, asked)
    assert together["score"][12] == together["score"][3]
    for place in (0, 5, 11):
        alone = answer_all(predictor, [asked[place]])
        assert alone["score"][0] == pytest.approx(together["score"][place], abs=1e-5)
        assert np.abs(alone["vector2"][0] - together["vector2"][place]).max() < 1e-5
    assert np.linalg.norm(together.vectors, axis=1) == pytest.approx(1)


def test_widths_beyond_the_vectors_are_refused(model: TextModel, pairs: list) -> None:
    with pytest.raises(BadInput, match="have 16 numbers"):
        BiEncoder(replace(TASK, widths=(16,))).examples(model, as_rows(pairs[:2]))


@pytest.fixture(scope="module")
def rows(pairs: list, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rows artifact of real pairs: 220 to train on, 80 to stop by."""
    folder = tmp_path_factory.mktemp("pairs")
    pq.write_table(as_rows(pairs[:220]), folder / "train.parquet")
    pq.write_table(as_rows(pairs[220:]), folder / "validation.parquet")
    write_task(folder, TASK)
    return folder


def test_a_training_on_real_pairs(rows: Path, small: Path, tmp_path: Path) -> None:
    """The untrained start is taken as it is with 0 epochs; training on it finds more."""
    table = pq.read_table(rows / "validation.parquet")
    errors = []
    for epochs in (0, 8):
        stage = Train(
            start=str(small),
            epochs=epochs,
            batch=22,
            max_tokens=40,
            lr=5e-3,
            dropout=0.0,
            evaluate_every=20,
            seed=3,
        )
        work = FakeWork({"rows": rows}, tmp_path / str(epochs))
        stage.run(work)
        learnt = load_predictor(work.folder / "model")
        found = TASK.measures(table, answer_all(learnt, table.to_pylist()))
        errors.append(found.losses["rank_error"].values.mean())
    assert errors[1] < errors[0] - 0.1
    curves = json.loads((tmp_path / "8" / "model" / "curves.json").read_text())
    assert curves[-1]["loss"] < 0.8 * curves[0]["loss"]
    assert curves[0]["loss"] == pytest.approx(math.log(22), rel=0.4), "untrained: a blind guess"


def test_bm25_is_that_of_the_index_over_the_most_a_text_could_have(pairs: list) -> None:
    rows = as_rows(pairs)
    fitted = BM25.fit(TASK, rows, 0)
    texts = sorted({TASK.cleaned(each)["sentence2"] for each in rows.to_pylist()})
    index = lexical.BM25(texts)
    asked = [{"sentence1": pairs[0]["sentence1"], "sentence2": text} for text in texts]
    answers = answer_all(fitted, asked)
    query = TASK.cleaned(asked[0])["sentence1"]
    scores = index.scores(query)
    counts = {word: sum(word in words_of(text) for text in texts) for word in words_of(query)}
    most = 2.2 * sum(
        math.log(1 + (len(texts) - counts[word] + 0.5) / (counts[word] + 0.5))
        for word in words_of(query)
    )
    assert answers["score"] == pytest.approx(scores / most)
    right = TASK.cleaned(pairs[0])["sentence2"]
    assert texts[int(answers["score"].argmax())] == right


def test_tfidf_is_scikit_learns(pairs: list) -> None:
    rows = as_rows(pairs[:100])
    clean = [TASK.cleaned(each) for each in rows.to_pylist()]
    first, second = ([each[name] for each in clean] for name in ("sentence1", "sentence2"))
    theirs = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit({*first, *second})
    table = theirs.transform(first) @ theirs.transform(second).T
    answers = answer_all(TfidfCosine.fit(TASK, rows, 0), rows.to_pylist())
    assert answers["score"] == pytest.approx(table.diagonal())
    one, two = vectors_of(answers) or (None, None)
    assert np.abs((one @ two.T).toarray() - table.toarray()).max() < 1e-12


@pytest.mark.parametrize("kind", [BM25, TfidfCosine])
def test_word_matching_is_kept_and_finds_real_descriptions(
    kind: type[Matching], pairs: list, tmp_path: Path
) -> None:
    train, test = as_rows(pairs[:200]), as_rows(pairs[200:])
    fitted = kind.fit(TASK, train, 0)
    fitted.save(tmp_path)
    read = resolve("models", kind.kind).load(tmp_path, TASK)
    before, after = (answer_all(each, test.to_pylist()) for each in (fitted, read))
    assert (before["score"] == after["score"]).all()
    assert before["score"].min() >= 0 and before["score"].max() <= 1
    measures = TASK.measures(test, before)
    assert measures.scores(np.ones((1, 100)))["mrr"][0] > 0.8
    blank = answer_all(fitted, [{"sentence1": "…", "sentence2": "a"}])
    assert blank["score"].tolist() == [0.0]
    (tmp_path / "words.json").write_text('{"texts": 3, "mean": 2.0, "words": {"a": 4}}')
    with pytest.raises(Corrupt, match="not whole"):
        kind.load(tmp_path, TASK)
    with pytest.raises(BadInput, match="without a word"):
        kind.fit(TASK, as_rows([{"sentence1": "…", "sentence2": "!"}]), 0)


def test_a_batch_knows_what_belongs_together() -> None:
    examples, v = batch([1, 1, 1, 1, 1, 0])
    found: Encoded = BiEncoder(TASK).encoded(torch.from_numpy(v), examples)
    assert found.owners.tolist() == [2, 2, 5]
    assert found.known.nonzero().tolist() == [
        *([0, 0], [0, 4], [1, 1], [1, 3], [1, 8], [2, 2]),
        *([3, 1], [3, 3], [3, 8], [4, 0], [4, 4]),
    ]


# Human judgements

JUDGED = "asset:gensim-test-data/gensim/test/test_data"


def judged(name: str) -> Path:
    """A file of gensim's test data; skipped where its package cannot be had."""
    try:
        return asset_file(f"{JUDGED}/{name}")
    except MissingPart as error:
        pytest.skip(f"this machine cannot have gensim's test data: {error.found}")


def correlation(pairs: list[tuple[str, str, float]], highest: float) -> dict[str, float]:
    """Spearman's correlation of MiniLM as it is with human judgements, and of TF-IDF."""
    task = SentenceSimilarity(loss="cosine", score_range=(0.0, highest))
    told = [
        {"sentence1": one, "sentence2": two, "score": min(score, highest)}
        for one, two, score in pairs
    ]
    rows, by_model = as_rows(told), BiEncoder(task)
    start = from_published(read_published(START), by_model.head(0.0), 128, 0)
    found = {}
    models = {"start": TextPredictor(task, start), "tfidf": TfidfCosine.fit(task, rows, 0)}
    for name, model in models.items():
        measures = task.measures(rows, answer_all(model, told))
        found[name] = float(measures.scores(np.ones((1, len(pairs))))["spearman"][0])
    return found


def test_vectors_of_words_agree_with_people() -> None:
    """SimLex-999 (Hill et al. 2015): similarity of words; those that are alike share no letters."""
    lines = judged("simlex999.txt").read_text("utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if not line.startswith("#")]
    found = correlation([(one, two, float(score)) for one, two, score in pairs], 10.0)
    assert len(pairs) == 999
    assert found["start"] > 0.4 and found["start"] > found["tfidf"] + 0.2


def test_vectors_of_documents_agree_with_people() -> None:
    """Of the 50 documents of Lee et al. 2005 the first 20: every pair, as people judged it."""
    texts = judged("lee.cor").read_text("latin-1").splitlines()
    table = np.loadtxt(judged("similarities0-1.txt"))
    pairs = [(texts[i], texts[j], table[i, j]) for i in range(20) for j in range(i + 1, 20)]
    found = correlation(pairs, 1.0)
    assert len(pairs) == 190
    assert found["start"] > 0.4 and found["start"] > found["tfidf"]
