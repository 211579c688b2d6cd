"""SQuAD's documents: articles, their paragraphs, and the questions on each, as one row a question.

Rajpurkar et al. 2016 and 2018: ``{"data": [{"title", "paragraphs": [{"context", "qas": [{"id",
"question", "answers": [{"text", "answer_start"}]}]}]}]}``. The rows have the columns that the
data set has on the Hugging Face hub.
"""

from __future__ import annotations

from typing import Any


def is_squad(value: dict[str, Any]) -> bool:
    """Whether a JSON object is such a document, by its first article."""
    articles = value.get("data")
    first = articles[0] if isinstance(articles, list) and articles else None
    return isinstance(first, dict) and isinstance(first.get("paragraphs"), list)


def squad_rows(value: dict[str, Any]) -> list[Any]:
    """Every question as a row: ``title``, ``context``, ``id``, ``question`` and ``answers``.

    What else a question has (``is_impossible``) stays; what is no article, paragraph or question
    stands among the rows as it is, so that it is found to be a faulty row.
    """
    rows: list[Any] = []
    for article in value["data"]:
        paragraphs = listed(article, "paragraphs")
        rows += [article] if paragraphs is None else []
        for paragraph in paragraphs or []:
            questions = listed(paragraph, "qas")
            rows += [paragraph] if questions is None else []
            for question in questions or []:
                rows.append(row_of(article, paragraph, question))
    return rows


def listed(value: Any, key: str) -> list[Any] | None:
    """The list under a key of an object, if there is one."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else None


def row_of(article: dict[str, Any], paragraph: dict[str, Any], question: Any) -> Any:
    """One question with its paragraph and title; answers as two lists, as the hub has them."""
    if not isinstance(question, dict):
        return question
    row = {"title": article.get("title", ""), "context": paragraph.get("context"), **question}
    answers = question.get("answers")
    keys = ("text", "answer_start")
    if isinstance(answers, list) and all(
        isinstance(e, dict) and e.keys() >= {*keys} for e in answers
    ):
        row["answers"] = {key: [each[key] for each in answers] for key in keys}
    return row
