"""The names that tasks say their measures have are those of the measures."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lmwright.core.errors import BadInput
from lmwright.core.task import Answers, Measures, Task, refuse_measure
from lmwright.evals.scores import weighted_scores
from lmwright.tasks.chat import Chat
from lmwright.tasks.question_answering import QuestionAnswering
from lmwright.tasks.sentence_similarity import SentenceSimilarity
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.text_generation import TextGeneration
from lmwright.tasks.text_ranking import TextRanking
from lmwright.tasks.token_classification import TokenClassification

CLASSES = TextClassification(labels=("no", "yes"))
ENTITIES = TokenClassification(labels=("PER",))
SPAN = {"start": 0, "end": 3, "label": "PER"}


def classified() -> Measures:
    """Measures of a right and a wrong answer."""
    answers = Answers({"logits": np.array([[2.0, -2.0], [1.0, 0.0]])})
    rows = pa.table({"label": ["no", "yes"]})
    return CLASSES.measures(rows, CLASSES.calibrated(answers, 1.0, 0.01))


def entities() -> Measures:
    """Measures of the tags of one row."""
    logits = [np.array([[0.0, 2.0, 0.0]])]
    answers = Answers({"logits": logits, "offsets": [np.array([[0, 3]])]})
    rows = pa.table({"text": ["Ann"], "spans": [[SPAN]]})
    return ENTITIES.measures(rows, ENTITIES.calibrated(answers, 1.0, 0.01))


QUESTIONS = QuestionAnswering()


def answered() -> Measures:
    """Measures of a row with an answer and of one without."""
    choices = [[{"answer": "Rome", "start": 3, "end": 7}]] * 2
    answers = Answers({"logits": [np.array([0.0, 2.0, -1.0])] * 2, "choices": choices})
    quotes = [{"text": ["Rome"], "answer_start": [3]}, {"text": [], "answer_start": []}]
    rows = pa.table({"question": ["Where?"] * 2, "context": ["In Rome"] * 2, "answers": quotes})
    return QUESTIONS.measures(rows, QUESTIONS.calibrated(answers, 1.0, 0.01))


SIMILAR = SentenceSimilarity(widths=(2, 3))
RANKED = TextRanking()


def similar() -> Measures:
    """Measures of a pair that belongs together and of another one."""
    vectors = {"vector1": np.eye(4)[:2], "vector2": np.eye(4)[1:3]}
    answers = Answers({"score": np.array([0.5, 0.2]), **vectors})
    texts = {"sentence1": ["a", "b"], "sentence2": ["c", "d"]}
    return SIMILAR.measures(pa.table({**texts, "score": [1.0, 0.0]}), answers)


def ranked() -> Measures:
    """Measures of a ranking of two documents."""
    rows = pa.table({"query": ["a", "a"], "document": ["b", "c"], "relevance": [0.0, 1.0]})
    answers = RANKED.calibrated(Answers({"logits": np.array([[1.0], [0.0]])}), 1.0, 0.01)
    return RANKED.measures(rows, answers)


CHAT = Chat()


def talked() -> Measures:
    """Measures of an answer in a conversation."""
    numbers = {name: np.array([3.0]) for name in ("nats", "tokens", "bytes", "ranked_first")}
    texts = {"generated_text": ["Hello"], "cut": ["false"], "ended": ["true"]}
    return CHAT.measures(pa.table({"response": ["Hi"]}), Answers({**texts, **numbers}))


def written() -> Measures:
    """Measures of one document that was continued."""
    numbers = {"nats": np.array([9.0]), "tokens": np.array([3.0]), "bytes": np.array([12.0])}
    answers = Answers({**numbers, "completion": ["and so on and so on"]})
    return TextGeneration().measures(pa.table({"text": ["a document"]}), answers)


@pytest.mark.parametrize(
    ("task", "measures"),
    [
        (CLASSES, classified()),
        (ENTITIES, entities()),
        (TextGeneration(), written()),
        (QUESTIONS, answered()),
        (SIMILAR, similar()),
        (RANKED, ranked()),
        (CHAT, talked()),
    ],
    ids=lambda each: getattr(each, "kind", ""),
)
def test_every_measure_that_is_named_is_there_and_no_other_is(
    task: Task, measures: Measures
) -> None:
    ones = np.ones((1, len(next(iter(measures.losses.values())).values)))
    scores = set(measures.shares) | set(weighted_scores(measures, ones))
    labels = task.classes  # type: ignore[attr-defined]
    named = {
        each.replace("LABEL", label)
        for each in task.score_names  # type: ignore[attr-defined]
        for label in (labels if "LABEL" in each else ("",))
    }
    assert set(measures.losses) == set(task.loss_names)  # type: ignore[attr-defined]
    assert named == scores - set(measures.losses)
    for name in named | set(measures.losses):
        refuse_measure(task, name, "primary")


def test_a_label_that_the_task_has_not_is_refused_once_there_are_labels() -> None:
    refuse_measure(TextClassification(), "recall.maybe", "primary")
    with pytest.raises(BadInput, match=r"primary is 'recall.yess'.*'recall.yes'"):
        refuse_measure(CLASSES, "recall.yess", "primary")
    with pytest.raises(BadInput, match=r"'recal.maybe'.*'recall.maybe'"):
        refuse_measure(TextClassification(), "recal.maybe", "primary")
    with pytest.raises(BadInput, match="a loss of the task"):
        refuse_measure(CLASSES, "macro_f1", "metric", losses_only=True)
