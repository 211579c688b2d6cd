"""Sentence similarity: how alike two texts are, or which passage belongs to a question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row, blank
from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.core.task import Answers, Loss, Measures, Prepared, Share, Signal, Task, text_signals
from lmwright.metrics.ranking import rank_among, reciprocal, single_ndcg
from lmwright.metrics.regression import pearson, spearman
from lmwright.text.cleaning import Step, cleaner, refuse_order

LossName = Literal["multiple-negatives", "triplet", "cosine", "contrastive"]
RANKING = ("multiple-negatives", "triplet")
"""Losses that learn which passage is nearest; the others learn how near it is."""
SCALES = {"multiple-negatives": 20.0}
"""Loss -> what cosines are multiplied by, where nothing else is set."""
MARGINS = {"contrastive": 0.5, "triplet": 0.2}
"""Loss -> its margin in cosine, where nothing else is set."""
SIDES = ("1", "2")
AT_ONCE = 256
"""Queries that are ranked at a time."""


@dataclass(frozen=True, kw_only=True)
class SentenceSimilarity(Settings):
    """Pairs of texts with a score of their similarity; pairs without one belong together.

    ``loss``      what is learnt. ``multiple-negatives``: the own passage among all of the batch
                  (cross-entropy of cosines, other positives of a text left out). ``triplet``: the
                  own passage nearer than its ``negatives``, or than the batch's nearest other
                  one, by a margin. ``cosine``: the score, by squared error. ``contrastive``:
                  positives together, others a margin apart. By the first two, models are
                  compared by rank (``rank_error``), by the others by score (``squared_error``).
    ``score_range``  the lowest and the highest score: of texts that have nothing in common, and of
                  equal ones.
    ``positive``  scores from here on are of pairs that belong together; by default the highest.
    ``scale``     of ``multiple-negatives`` (20): what cosines are multiplied by, an inverse
                  temperature.
    ``margin``    of ``triplet`` (0.2) and ``contrastive`` (0.5), in cosine.
    ``widths``    Matryoshka: the first so many numbers of a vector are to do by themselves too.
    ``clean``     steps of text/cleaning.py that both texts pass before they are read.

    The answer is the cosine of the texts' vectors, below 0 taken for 0, on the range of scores.
    """

    kind: ClassVar[str] = "sentence-similarity"
    one_answer: ClassVar[bool] = True
    teacher_forced: ClassVar[bool] = False
    strata: ClassVar[str] = ""
    calibrates: ClassVar[str] = "squared_error"
    abstains_by: ClassVar[str] = ""
    feedback_loss: ClassVar[str] = "squared_error"
    loss_names: ClassVar[Mapping[str, float]] = {"squared_error": 1.0, "rank_error": 1.0}
    score_names: ClassVar[tuple[str, ...]] = (
        *("spearman", "pearson", "ndcg@10", "mrr", "recall@1", "recall@10"),
        *("ndcg@10.LABEL",),
    )
    contracts: ClassVar[tuple[str, ...]] = ("embeddings", "rerank")
    text_model: ClassVar[str] = "lmwright.tasks.sentence_similarity_model:BiEncoder"
    panel: ClassVar[str] = "lmwright.tasks.sentence_similarity_panel:panel"
    baselines: ClassVar[Mapping[str, str]] = {
        "tfidf-cosine": "lmwright.baselines.matching:TfidfCosine",
        "bm25": "lmwright.baselines.matching:BM25",
    }

    loss: LossName = "multiple-negatives"
    score_range: tuple[float, float] = (0.0, 1.0)
    positive: float | None = None
    scale: float | None = None
    margin: float | None = None
    widths: tuple[int, ...] = ()
    clean: tuple[Step, ...] = ("repair",)

    def check(self) -> None:
        """BadInput for settings out of range, or that the loss does not have."""
        refuse_order(self.clean)
        low, high = self.score_range
        if not -np.inf < low < high < np.inf:
            raise BadInput(f"score_range is [{low}, {high}]", "the lowest score, then the highest")
        if not low < self.least_positive <= high:
            raise BadInput(f"positive is {self.positive}", f"above {low}, at most {high}")
        if self.scale is not None and (self.scale <= 0 or self.loss not in SCALES):
            raise BadInput(
                f"scale is {self.scale} with the loss {self.loss}",
                f"above 0, with the loss {', '.join(SCALES)} alone",
            )
        if self.margin is not None and (self.loss not in MARGINS or not 0 < self.margin <= 2):
            raise BadInput(
                f"margin is {self.margin} with the loss {self.loss}",
                f"above 0, at most 2, with one of the losses {', '.join(MARGINS)}",
            )
        if list(self.widths) != sorted({*self.widths}) or min(self.widths, default=1) < 1:
            raise BadInput(f"widths are {[*self.widths]}", "numbers from 1, each once, ascending")

    @property
    def primary(self) -> str:
        """By rank or by score, as the loss has it."""
        return "rank_error" if self.loss in RANKING else "squared_error"

    @property
    def gate_loss(self) -> str:
        """The primary loss."""
        return self.primary

    @property
    def least_positive(self) -> float:
        """The lowest score of pairs that belong together."""
        return self.score_range[1] if self.positive is None else self.positive

    @property
    def cleaner(self) -> Callable[[str], str]:
        """How a text is cleaned."""
        return cleaner(self.clean)

    @property
    def classes(self) -> tuple[str, ...]:
        """The Matryoshka widths, which have a score each."""
        return tuple(str(width) for width in self.widths)

    # Rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """Two texts, their score, texts that do not belong to the first, and a model's score."""
        return (
            Column("sentence1", "text", "input"),
            Column("sentence2", "text", "input"),
            Column("score", "number", "target", self.score_range[1]),
            Column("negatives", "texts", "target", ()),
            Column("score", "number", "answer"),
        )

    def fitted(self, rows: Iterable[pa.RecordBatch]) -> SentenceSimilarity:
        """The same task; BadInput where a loss that ranks has no pair that belongs together."""
        least = self.least_positive
        if self.loss in RANKING and not any(
            score >= least for batch in rows for score in batch.column("score").to_pylist()
        ):
            raise BadInput(
                f"no training row has a score from {least} on",
                f"pairs that belong together, for the loss {self.loss}",
                "lower positive of the task, or take the loss cosine",
            )
        return self

    def comparable(self, other: Task) -> bool:
        """The same scores."""
        return (
            isinstance(other, SentenceSimilarity)
            and self.score_range == other.score_range
            and self.least_positive == other.least_positive
        )

    def fault(self, row: Row) -> str:
        """A text without characters that show, a score out of range, a negative that is
        none."""
        for name in ("sentence1", "sentence2"):
            if blank(row[name]):
                return f"empty {name}"
        low, high = self.score_range
        if not low <= row["score"] <= high:
            return "score out of range"
        if any(blank(each) for each in row["negatives"]):
            return "empty negative"
        return "negative equals sentence2" if row["sentence2"] in row["negatives"] else ""

    def cleaned(self, row: Row) -> Row:
        """The row with its texts as a model reads them."""
        found = {**row, **{name: self.cleaner(row[name]) for name in ("sentence1", "sentence2")}}
        if "negatives" in row:
            found["negatives"] = [self.cleaner(each) for each in row["negatives"]]
        return found

    def merged(self, rows: Sequence[Row]) -> Row:
        """One pair with the mean of all its scores, and all of its negatives."""
        scores = [float(row["score"]) for row in rows]
        negatives = dict.fromkeys(each for row in rows for each in row["negatives"])
        return {**rows[0], "score": sum(scores) / len(scores), "negatives": list(negatives)}

    def stratum(self, row: Row) -> str:
        """No shares are kept."""
        return ""

    def cluster(self, row: Row) -> str:
        """The second text: rows on one passage are never parted."""
        return self.cleaner(row["sentence2"])

    def text(self, row: Row) -> str:
        """Both cleaned texts, one under the other."""
        return "\n".join(self.cleaner(row[name]) for name in ("sentence1", "sentence2"))

    def target(self, row: Row) -> str:
        """The score, as short as it can be written."""
        return f"{row['score']:g}"

    # Answers

    def scored(self, cosines: np.ndarray) -> np.ndarray:
        """Scores (n,) of cosines: below 0 taken for 0, on the range of scores."""
        low, high = self.score_range
        return low + (high - low) * np.clip(cosines, 0.0, 1.0)

    def fraction(self, scores: np.ndarray) -> np.ndarray:
        """Scores as places in their range, from 0 to 1: the cosines that are to be learnt."""
        low, high = self.score_range
        return (np.asarray(scores, dtype=np.float64) - low) / (high - low)

    def calibrated(self, answers: Answers, temperature: float, smoothing: float) -> Answers:
        """The same answers."""
        return answers

    def confidence(self, answers: Answers) -> np.ndarray | None:
        """A score has none."""
        return None

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """The squared error of each score, as a share of the range; correlations where scores vary.

        Where the answers have vectors: the rank of each positive row's second text among all of
        the rows' second texts (those that belong to an equal first text too, and that text itself,
        left out). ``rank_error`` is 1 less its reciprocal, 0 for rows that are not positive.
        """
        wanted = np.array(rows.column("score").to_pylist(), dtype=np.float64)
        given = np.asarray(answers["score"], dtype=np.float64)
        error = np.clip(self.fraction(given), 0, 1) - self.fraction(wanted)
        losses = {"squared_error": Loss(np.square(error), 1.0)}
        shares: dict[str, Share] = {}
        means: dict[str, np.ndarray] = {}
        positive = wanted >= self.least_positive
        details: dict[str, Any] = {"positives": int(positive.sum())}
        if positive.any() and (vectors := vectors_of(answers)):
            pool = Pool.of(rows, positive)
            ranks = pool.ranks(*vectors)
            details["passages"] = len(pool.passages)
            losses["rank_error"] = Loss(np.where(positive, 1.0 - reciprocal(ranks), 0.0), 1.0)
            means["mrr"], means["ndcg@10"] = reciprocal(ranks), single_ndcg(ranks)
            for width in self.widths if isinstance(vectors[0], np.ndarray) else ():
                means[f"ndcg@10.{width}"] = single_ndcg(pool.ranks(*shortened(vectors, width)))
            shares = {f"recall@{k}": Share(positive & (ranks <= k), positive) for k in (1, 10)}
        varies = len({*wanted.tolist()}) > 1

        def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
            found = {
                name: (weights @ loss.values) / weights.sum(-1) for name, loss in losses.items()
            }
            if varies:
                found["spearman"] = spearman(given, wanted, weights)
                found["pearson"] = pearson(given, wanted, weights)
            among = weights @ positive
            for name, values in means.items():
                with np.errstate(invalid="ignore"):
                    found[name] = (weights @ np.where(positive, values, 0.0)) / among
            return found

        return Measures(losses, scores, shares, details=details)

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        """Lengths, words and vectors of the texts; the scores."""
        found = text_signals(prepared, answers)
        found["score"] = Signal("number", np.asarray(answers["score"], dtype=np.float64))
        return found

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        """The score."""
        return {"score": float(answers["score"][place])}

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        """The scores that were told, without vectors."""
        return Answers({"score": np.array([float(each["score"]) for each in told])})

    def category(self, told: Mapping[str, Any]) -> str:
        """Whether the texts belong together."""
        return "similar" if told["score"] >= self.least_positive else "different"

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The right score, and texts that do not belong to the first, if there are such."""
        low, high = self.score_range
        score = given.get("score")
        if score is None or not low <= score <= high:
            raise BadInput(f"the score {score!r}", f"a number from {low:g} to {high:g}")
        return {"score": float(score), "negatives": list(given.get("negatives") or ())}


Vectors = tuple[Any, Any]
"""Vectors of the first and of the second texts: float64 (n, d) or sparse rows, whose products are
their likeness."""


def vectors_of(answers: Answers) -> Vectors | None:
    """The vectors that answers have: of a model dense, of word matching sparse."""
    columns = answers.columns
    if "vector1" in columns:
        one, two = (np.asarray(columns[f"vector{side}"], dtype=np.float64) for side in SIDES)
        return one, two
    if "terms1" in columns:
        return sparse_vectors(columns)
    return None


def sparse_vectors(columns: Mapping[str, Any]) -> Vectors:
    """Rows of term weights as two sparse matrices over the same terms."""
    # Large: what answers with dense vectors, as a server does, starts without it.
    from scipy.sparse import csr_matrix

    flat = {
        name: np.concatenate([np.asarray(each, dtype=np.float64) for each in columns[name]])
        for name in ("terms1", "weights1", "terms2", "weights2")
    }
    terms, places = np.unique(np.concatenate([flat["terms1"], flat["terms2"]]), return_inverse=True)
    found = []
    for side, own in zip(SIDES, np.split(places, [len(flat["terms1"])]), strict=True):
        sizes = [len(each) for each in columns[f"terms{side}"]]
        rows = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        found.append(csr_matrix((flat[f"weights{side}"], own, rows), (len(sizes), len(terms))))
    return found[0], found[1]


def shortened(vectors: Vectors, width: int) -> Vectors:
    """The first numbers of dense vectors, at length 1 again."""
    one, two = (each[:, :width] for each in vectors)
    return tuple(  # type: ignore[return-value]
        each / np.maximum(np.sqrt(np.square(each).sum(-1, keepdims=True)), 1e-12)
        for each in (one, two)
    )


@dataclass(frozen=True)
class Pool:
    """The different second texts of n rows, among which each positive row's own is looked for.

    ``passages`` are the rows (m,) at which each first stands, ``own`` (n,) the place of a row's
    among them, ``queries`` the positive rows, ``left_out`` for each of these the places that are
    not counted: passages that belong to an equal first text, and that text itself.
    """

    passages: np.ndarray
    own: np.ndarray
    queries: np.ndarray
    left_out: Sequence[Sequence[int]]

    @classmethod
    def of(cls, rows: pa.Table, positive: np.ndarray) -> Pool:
        """The pool of rows (n,), of which some are positive."""
        first, second = (rows.column(f"sentence{side}").to_pylist() for side in SIDES)
        places: dict[str, int] = {}
        passages: list[int] = []
        for row, text in enumerate(second):
            if text not in places:
                places[text] = len(passages)
                passages.append(row)
        own = np.array([places[text] for text in second], dtype=np.int64)
        queries = np.flatnonzero(positive)
        belong: dict[str, set[int]] = defaultdict(set)
        for row in queries.tolist():
            belong[first[row]].add(int(own[row]))
        for text, known in belong.items():
            known.update([places[text]] if text in places else [])
        left_out = [sorted(belong[first[row]]) for row in queries.tolist()]
        return cls(np.array(passages), own, queries, left_out)

    def ranks(self, one: Any, two: Any) -> np.ndarray:
        """The rank (n,) from 1 of each positive row's passage; 1 for the other rows.

        Passages as near count as nearer.
        """
        found = np.ones(len(self.own), dtype=np.int64)
        known = two[self.passages]
        for at in range(0, len(self.queries), AT_ONCE):
            asked = self.queries[at : at + AT_ONCE]
            likeness = one[asked] @ known.T
            table = likeness if isinstance(likeness, np.ndarray) else likeness.toarray()
            own = table[np.arange(len(asked)), self.own[asked]].copy()
            for number, places in enumerate(self.left_out[at : at + AT_ONCE]):
                table[number, places] = -np.inf
            found[asked] = rank_among(own, table)
        return found
