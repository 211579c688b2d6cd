"""Answers read off texts that a language model wrote, of every task that a prompt can ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmwright.assets import asset_file
from lmwright.core.task import Answers, Task
from lmwright.models.load import load_predictor
from lmwright.tasks.multi_label_classification import MultiLabelClassification
from lmwright.tasks.prompted import Prompted, Sampling, opened
from lmwright.tasks.question_answering import QuestionAnswering, stretch
from lmwright.tasks.regression import Regression
from lmwright.tasks.shown import choose
from lmwright.tasks.summarization import Summarization
from lmwright.tasks.text2text_generation import Text2TextGeneration
from lmwright.tasks.translation import Translation
from lmwright.text.few_shot import TEMPLATE, FewShotPrompt
from lmwright.text.generation import SamplingParams
from tests.serve.talking import write_model
from tests.squad import squad

SUMMARIES = "asset:debian-summaries/debian-summaries.parquet"


class Scripted:
    """A generator that says what it is told to, and remembers what it was asked."""

    def __init__(self, said: list[str]) -> None:
        self.said, self.asked = said, list[str]()

    def reply(
        self, messages: list[dict[str, str]], params: SamplingParams, seed: int
    ) -> Iterator[str]:
        self.asked.append(messages[-1]["content"])
        yield from (self.said[(len(self.asked) - 1) % len(self.said)], "\nmore")


def prompted(task: Task, said: list[str], samples: int = 1, **examples: Any) -> Prompted:
    prompt = FewShotPrompt("", TEMPLATE, 400)
    sampling = Sampling("hosted:m@https://127.0.0.1/v1", "", samples, 16, 0)
    shown = examples.get("examples") or choose(task, pa.table({"id": []}), 0, "random", 0, 0)[0]
    return Prompted(task, prompt, shown, sampling, Scripted(said))  # type: ignore[arg-type]


def answers(model: Prompted, rows: list[dict[str, Any]]) -> Answers:
    found = model.answers(model.prepare(rows))
    return model.task.calibrated(found, 1.0, 0.0)


def test_a_text_that_the_prompt_cuts_is_said_to_be_cut() -> None:
    model = prompted(Summarization(), ["short"])
    long = "word " * 100
    assert answers(model, [{"text": "a text"}, {"text": long}])["cut"] == ["false", "true"]
    assert long[:400] in model.generator.asked[1]  # type: ignore[attr-defined]
    assert long[:401] not in model.generator.asked[1]  # type: ignore[attr-defined]


def test_numbers_are_the_median_of_those_that_were_written() -> None:
    task = Regression(mean=1900.0, scale=50.0, low=1790.0, high=2020.0)
    said = ["About 1931.", "in the year 1935, or 1800", "no idea", "None.", "who knows", "?"]
    found = answers(prompted(task, said, samples=3), [{"text": "a"}, {"text": "b"}])
    np.testing.assert_allclose(found["value"], [1933.0, 1900.0])
    far = answers(prompted(task, ["-4.5"]), [{"text": "a"}])
    assert far["value"].tolist() == [1790.0]


def test_labels_are_those_that_are_named_as_words() -> None:
    task = MultiLabelClassification(known=("game", "game::board", "sound"))
    said = ["Game::Board, sound", "game", "none", "gameplay"]
    found = answers(prompted(task, said), [{"text": each} for each in said])
    assert found["labels"] == [["game::board", "sound"], ["game"], [], []]


def test_answers_are_found_in_their_context() -> None:
    rows = [row.values for row in squad(limit=60)]
    right = [str(row["answers"]["text"][0]) for row in rows]
    table = pa.Table.from_pylist([{**row, "id": str(n)} for n, row in enumerate(rows)])
    task = QuestionAnswering()
    found = answers(prompted(task, right), rows)
    for row, told, text in zip(rows, found["answer"], right, strict=True):
        assert row["context"].lower().find(told.lower()) >= 0
        assert told.lower() == text.strip().lower()
    scores = task.measures(table, found).scores(np.ones((1, len(rows))))
    assert scores["f1"][0] > 0.99
    wrong = answers(prompted(task, ["a thing that stands nowhere in it"]), rows)
    assert set(wrong["answer"]) == {""}
    context = "Lee Smith met “Ann” in Paris."
    assert stretch(context, ' "lee smith". ') == (0, 9)
    assert stretch(context, "(no answer)") is None and stretch(context, ' "" ') is None


def test_samples_vote_for_equal_answers() -> None:
    row = {"question": "Who?", "context": "The cat saw a dog and the dog saw a cat."}
    found = answers(prompted(QuestionAnswering(), ["a dog", "the dog", "cat", "no"], 4), [row])
    assert found["answer"] == ["a dog"]
    best = found["answers"][0]
    assert [each["answer"] for each in best] == ["a dog", "cat", ""] or best[0]["answer"] == "a dog"
    assert best[0]["score"] == pytest.approx((2 + 1 / 4) / 5)


@pytest.mark.parametrize(
    ("task", "row", "asked"),
    [
        (Summarization(), {"text": "Long text.", "summary": "s"}, "Text: Long text.\nAnswer:"),
        (
            Translation(),
            {"text": "Hi.", "source_language": "en", "target_language": "fr", "translation": "s"},
            "Text: English to French: Hi.\nAnswer:",
        ),
        (
            Text2TextGeneration(),
            {"text": "He go.", "prefix": "grammar", "target": "s"},
            "Text: grammar: He go.\nAnswer:",
        ),
    ],
)
def test_texts_are_taken_as_they_were_written(task: Any, row: dict[str, Any], asked: str) -> None:
    model = prompted(task, ["A small text."])
    found = answers(model, [row])
    assert found[task.answer_column] == ["A small text."]
    assert model.generator.asked == [asked]  # type: ignore[attr-defined]
    table = pa.Table.from_pylist([{**row, "id": "1"}])
    assert "dissimilarity" in task.measures(table, found).losses


def test_summaries_of_a_model_that_is_shown_real_ones(tmp_path: Path) -> None:
    """Saved and read again it shows the same rows and writes the same texts."""
    read = pq.read_table(asset_file(SUMMARIES)).slice(0, 60).to_pylist()
    rows = [
        {"id": f"{n:032x}", "text": each["description"][:30], "summary": each["synopsis"][:12]}
        for n, each in enumerate(read)
    ]
    task = Summarization()
    examples, _ = choose(task, pa.Table.from_pylist(rows), 2, "nearest", 40, 1)
    folder = write_model(tmp_path / "tiny")
    sampling = Sampling(str(folder), "", 1, 6, 0)
    made = Prompted(
        task,
        FewShotPrompt("", "{text}: {target}\n\n", 12),
        examples,
        sampling,
        opened(sampling),
        folder,
    )
    made.save(tmp_path / "saved")
    again = load_predictor(tmp_path / "saved")
    asked = [{"text": each["text"]} for each in rows[40:44]]
    one, other = (answers(each, asked)["summary_text"] for each in (made, again))  # type: ignore[arg-type]
    assert one == other and len(one) == 4
    prompt = made.prepare(asked)[0].prompt
    shown = [each.target for each in examples.of(task.text(asked[0]))]
    assert all(f": {each}\n" in prompt for each in shown)
