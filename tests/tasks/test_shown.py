"""Rows that a prompt shows: which they are, and that a few-shot classifier reads them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput, Corrupt
from lmwright.evals.zero_shot import ZeroShotClassification
from lmwright.models.load import load_predictor
from lmwright.tasks.regression import Regression
from lmwright.tasks.shown import Examples, Shown, check_shown, choose, pairs, read_examples
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.zero_shot import ZeroShot, open_zero_shot
from lmwright.text.label_prompt import LabelPrompt
from tests.serve.talking import write_model
from tests.train.conftest import REVIEWS

TASK = TextClassification(labels=("0", "1"))
PROMPT = LabelPrompt("{text} =", ("bad", "good"), 50)
SHOWN = (Shown("a", "w1 w2", "1"), Shown("b", "w3 w4", "0"), Shown("c", "w1 w5", "0"))


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Real sentences, 240 of one label and 80 of the other."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as stream:
        read = [row for row in csv.DictReader(stream) if row["source"] == "rotten_tomatoes"]
    some = [row for row in read if row["label"] == "0"][:240]
    some += [row for row in read if row["label"] == "1"][:80]
    found = [
        {"id": f"{place:032x}", "text": row["text"], "label": row["label"]}
        for place, row in enumerate(some)
    ]
    return pa.Table.from_pylist(found)


def test_random_rows_keep_the_shares_and_balanced_ones_even_them(rows: pa.Table) -> None:
    drawn, table = choose(TASK, rows, 8, "random", 0, 3)
    assert [each.target for each in drawn.pool].count("0") == 6
    even, _ = choose(TASK, rows, 8, "balanced", 0, 3)
    assert [each.target for each in even.pool].count("0") == 4
    assert table.column("id").to_pylist() == [each.id for each in drawn.pool]
    assert (
        drawn
        == choose(TASK, rows, 8, "random", 0, 3)[0]
        != choose(TASK, rows, 8, "random", 0, 4)[0]
    )
    odd, _ = choose(TASK, rows, 5, "balanced", 0, 3)
    assert [each.target for each in odd.pool].count("0") == 3
    assert choose(TASK, rows, 0, "balanced", 0, 3)[0] == Examples()


def test_nearest_rows_share_words_with_the_text_and_are_never_the_text(rows: pa.Table) -> None:
    found, table = choose(TASK, rows, 3, "nearest", 200, 3)
    assert table.num_rows == len(found.pool) == 200
    text = "the film has a story that is funny"
    shown = found.of(text)
    scores = {
        each.id: score for each, score in zip(found.pool, found.index.scores(text), strict=True)
    }
    own = [scores[each.id] for each in shown]
    assert own == sorted(scores.values())[-3:]
    first = found.pool[7]
    assert first.id not in {each.id for each in found.of(first.text)}
    assert found.index.scores(first.text).argmax() == 7


def test_what_cannot_be_chosen_is_refused(rows: pa.Table) -> None:
    with pytest.raises(BadInput, match="no strata"):
        choose(
            Regression(),
            rows.set_column(2, "label", pa.array([1.0] * len(rows))),
            4,
            "balanced",
            0,
            1,
        )
    with pytest.raises(BadInput, match="at least 1 row"):
        check_shown(0, "nearest", 10)
    with pytest.raises(BadInput, match="of a pool"):
        check_shown(20, "nearest", 10)
    with pytest.raises(BadInput, match="0 or more"):
        check_shown(-1, "random", 10)
    with pytest.raises(BadInput, match="stage prompt shows rows"):
        ZeroShotClassification(model="hosted:m@https://127.0.0.1/v1", shown=2).check()
    for broken in ({"shown": [{"id": "a"}]}, {"shown": [], "nearest": 1}, {"nearest": "x"}):
        with pytest.raises(Corrupt, match="not whole"):
            read_examples(broken, "model.json")


@pytest.fixture(scope="module", params=[True, False], ids=["chat", "completion"])
def bare(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small language model with a chat template and without."""
    folder = write_model(tmp_path_factory.mktemp("models") / "tiny")
    if not request.param:
        (folder / "chat_template.jinja").unlink()
    made = open_zero_shot(TASK, PROMPT, str(folder))
    yield made
    if made.model.template is not None:
        made.model.template.close()


def with_rows(bare: ZeroShot, examples: Examples) -> ZeroShot:
    return ZeroShot(TASK, PROMPT, bare.model, bare.source, examples=examples)


def logits(model: ZeroShot, *texts: str) -> np.ndarray:
    found: np.ndarray = model.answers(model.prepare([{"text": each} for each in texts]))["logits"]
    return found


def test_rows_stand_before_the_text_as_the_instruction_has_them(bare: ZeroShot) -> None:
    """Against a prompt that holds them by hand, with the same content-free texts."""
    few = with_rows(bare, Examples(SHOWN[:2]))
    item = few.prepare([{"text": "w6"}])[0]
    if bare.model.template is None:
        by_hand = LabelPrompt("w1 w2 = good\n\nw3 w4 = bad\n\n{text} =", ("bad", "good"), 50)
        other = ZeroShot(TASK, by_hand, bare.model, bare.source)
        np.testing.assert_array_equal(logits(few, "w6", "w2 w7"), logits(other, "w6", "w2 w7"))
        assert other.prepare([{"text": "w6"}])[0].prefix.tolist() == item.prefix.tolist()
    else:
        said = ("w1 w2 =", "good", "w3 w4 =", "bad", "w6 =")
        turns = [
            {"role": ("user", "assistant")[place % 2], "content": each}
            for place, each in enumerate(said)
        ]
        assert item.prefix.tolist() == bare.model.chat_ids(turns).tolist()
    assert np.abs(logits(few, "w6") - logits(bare, "w6")).max() > 1e-6


def test_a_text_with_rows_of_its_own_is_calibrated_by_them(bare: ZeroShot, tmp_path: Path) -> None:
    nearest = with_rows(bare, Examples(SHOWN, 1))
    own = with_rows(bare, Examples((SHOWN[1],)))
    assert [each.id for each in nearest.examples.of("w3 w9")] == ["b"]
    np.testing.assert_array_equal(logits(nearest, "w3 w9"), logits(own, "w3 w9"))
    nearest.save(tmp_path)
    again = load_predictor(tmp_path)
    assert again.examples == nearest.examples  # type: ignore[attr-defined]
    np.testing.assert_array_equal(logits(again, "w3 w9", "w5"), logits(nearest, "w3 w9", "w5"))  # type: ignore[arg-type]


def test_rows_go_where_the_context_is_too_short(bare: ZeroShot) -> None:
    many = tuple(replace(SHOWN[place % 3], id=str(place)) for place in range(60))
    item = with_rows(bare, Examples(many)).prepare([{"text": "w6"}])[0]
    longest = bare.model.longest
    assert longest is not None and 0 < len(item.shown) < 60
    assert item.shown == many[-len(item.shown) :]
    assert len(item.prefix) + max(map(len, item.answers)) <= longest
    assert pairs(item.shown)[-1] == (many[-1].text, many[-1].target)
