"""Drafts: what stood before is found, kept as far as it is written, and left where it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lmwright.models.blocks.pages import PAGE
from lmwright.models.text_model import TextModel
from lmwright.serve import drafts
from lmwright.serve.drafts import AGAIN, Pays, look_up
from tests.serve.test_paging import asked, drawn, eight, make, pytestmark  # noqa: F401 - fixtures
from tests.serve.test_texts import Listener, alone, submit


def slow_look_up(ids: list[int], most: int) -> list[int]:
    """The same by its definition."""
    for size in (4, 3, 2):
        for begin in range(len(ids) - size - 1, -1, -1):
            if ids[begin : begin + size] == ids[-size:]:
                return ids[begin + size : begin + size + most]
    return []


def test_what_followed_before_is_found() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(0, 5, int(rng.integers(0, 40)))
        most = int(rng.integers(0, 8))
        assert look_up(ids, most).tolist() == slow_look_up(ids.tolist(), most)


def test_drafts_are_read_where_they_pay() -> None:
    pays = Pays()
    assert not pays.drafts(1, [7]), "what a step takes without drafts is not known"
    pays.took(1, 0.010)
    assert not pays.drafts(1, [0]) and pays.drafts(1, [7])
    pays.took(8, 0.011)
    assert pays.drafts(1, [7])
    for _ in range(60):
        pays.kept(7, 0)
    assert not pays.drafts(1, [7]), "nothing of them is kept"
    assert sum(pays.drafts(1, [7]) for _ in range(AGAIN + 1)) == 1, "but tried again"
    for _ in range(60):
        pays.kept(7, 6)
    assert pays.drafts(1, [7])
    for _ in range(60):
        pays.took(8, 0.1)
    assert not pays.drafts(1, [7]), "a step takes ten times as long"


@pytest.mark.parametrize("temperature", [0.0, 0.4])
@pytest.mark.parametrize("company", [1, 3])
def test_a_text_with_drafts_is_the_same(
    make: Any,  # noqa: F811
    eight: TextModel,  # noqa: F811
    temperature: float,
    company: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drafts.Pays, "drafts", lambda self, texts, found: sum(found) > 0)
    those = []
    for n in range(company):
        prompt = drawn(eight, 9, n) * 5 + drawn(eight, 2, n)
        each = asked(eight, prompt, n, 2 * PAGE)
        params = each.params.__class__(2 * PAGE, temperature=temperature)
        those.append(each.__class__(each.prompt, params, n))
    scheduler = make()
    heard: list[Listener] = [submit(scheduler, eight, [each])[0] for each in those]
    assert all(each.ended.wait(60) and each.fault is None for each in heard)
    assert [each.texts[0] for each in heard] == [alone(eight, each) for each in those]
    pays = scheduler.memory(eight).pays
    assert pays.drafted > 0
    assert pays.accepted > 0 or temperature, "greedy texts of a small model repeat themselves"
    assert scheduler.engine.steps < company * 2 * PAGE + 3 * company


def test_no_drafts_where_bits_depend_on_company(make: Any, model: TextModel) -> None:  # noqa: F811
    scheduler = make()
    each = asked(model, drawn(model, 9, 0) * 5, 0, 40)
    heard, _ = submit(scheduler, model, [each])
    assert heard.ended.wait(60) and heard.fault is None
    assert scheduler.memory(model).pays.drafted == 0
