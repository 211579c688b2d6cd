"""The baseline that looks at the overlap of words alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lmwright.baselines.overlap import Overlap
from lmwright.core.errors import Corrupt
from lmwright.core.predictor import answer_all
from lmwright.metrics.calibration import Calibration
from lmwright.models.load import load_predictor
from tests.squad import TASK, squad


def table(limit: int, **settings: object) -> pa.Table:
    """Rows of SQuAD."""
    return pa.Table.from_pylist([row.values for row in squad(limit, **settings)])


@pytest.fixture(scope="module")
def mixed() -> pa.Table:
    """Rows of which some have no answer."""
    return table(900, derive="unanswerable")


@pytest.fixture(scope="module")
def model(mixed) -> Overlap:
    """Fitted to 500 of them."""
    return Overlap.fit(TASK, mixed.slice(0, 500), 0)


def test_the_phrase_beside_the_question_s_words_is_the_answer(model):
    context = (
        "The tower was built by Mario Rossi. It was painted in crimson. "
        "Its garden was planted by Anna Bianchi in 1950."
    )
    asked = ["Who planted the garden?", "Who built the tower?", "How was it painted?"]
    found = answer_all(model, [{"question": each, "context": context} for each in asked])
    said = [choices[0]["answer"] for choices in found["choices"]]
    assert said == ["Anna Bianchi", "Mario Rossi", "crimson"]
    for choices in found["choices"]:
        assert all(context[e["start"] : e["end"]] == e["answer"] for e in choices)
        assert len({e["answer"] for e in choices}) == len(choices) <= TASK.best


def test_less_overlap_makes_no_answer_likelier(model):
    context = "The tower was built by Mario Rossi in Milan."
    questions = ("Who built the tower in Milan?", "Who built the tower?", "Why do whales sing?")
    rows = [{"question": each, "context": context} for each in questions]
    found = TASK.calibrated(answer_all(model, rows), 1.0, 0.0)
    none = [p[0] for p in found["probabilities"]]
    assert none == sorted(none) and none[-1] > 2 * none[0]
    assert [p.sum() for p in found["probabilities"]] == pytest.approx([1.0] * 3)


def test_answers_of_squad_are_found_more_often_than_by_chance(model, mixed):
    fitted = Calibration.fit(
        TASK, mixed.slice(500, 200), answer_all(model, rows_of(mixed, 500, 200))
    )
    held = mixed.slice(700)
    answers = fitted.apply(TASK, answer_all(model, rows_of(mixed, 700, 200)))
    measures = TASK.measures(held, answers)
    f1 = measures.scores(np.ones((1, held.num_rows)))["f1"][0]
    answered = [bool(each["text"]) for each in held.column("answers").to_pylist()]
    assert f1 > 1 - np.mean(answered) - 0.05, "never to answer is the floor"
    first = TASK.calibrated(answer_all(model, rows_of(mixed, 700, 200)), 1.0, 0.0)
    top = TASK.decided(first, (1e9,))
    own = TASK.measures(held, top).scores(np.array(answered, float)[None])
    assert own["has_answer_f1"][0] > 0.12, "Rajpurkar et al. 2016 have 0.2 for a sliding window"


def rows_of(rows: pa.Table, start: int, count: int) -> list[dict]:
    """Inputs of some rows."""
    found: list[dict] = rows.slice(start, count).select(["question", "context"]).to_pylist()
    return found


def test_rows_that_all_have_an_answer_are_learnt_from_too():
    model = Overlap.fit(TASK, table(120), 0)
    found = TASK.calibrated(answer_all(model, rows_of(table(120), 0, 20)), 1.0, 0.0)
    assert max(p[0] for p in found["probabilities"]) < 0.2


def test_what_is_saved_answers_alike_and_the_same_rows_give_the_same_bytes(model, mixed, tmp_path):
    model.save(tmp_path / "one")
    Overlap.fit(TASK, mixed.slice(0, 500), 7).save(tmp_path / "two")
    for name in ("model.json", "overlap.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    loaded = load_predictor(tmp_path / "one")
    rows = rows_of(mixed, 600, 10)
    assert answer_all(loaded, rows)["choices"] == answer_all(model, rows)["choices"]
    assert model.facts()["words"] > 1000 and 0.3 < model.facts()["missed"] < 0.8
    (tmp_path / "one" / "overlap.json").write_text("{}")
    with pytest.raises(Corrupt, match="lacks bias"):
        Overlap.load(tmp_path / "one", TASK)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Who?", "context": "and the"},
        {"question": "?", "context": "Rome"},
        {"question": "Who?", "context": ""},
    ],
)
def test_a_row_without_candidates_or_words_is_answered(model, row):
    found = TASK.calibrated(answer_all(model, [row]), 1.0, 0.01)
    assert found["probabilities"][0].sum() == pytest.approx(1.0)
    assert found["answer"][0] in row["context"]
