"""The grid of ways to tune: every cell is a recipe, and its page says what its lines say."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import tunes
from lmwright.core.recipe import make_recipe
from lmwright.tables import TUNES, resolve


def test_every_cell_is_a_recipe_of_its_own() -> None:
    cells = list(tunes.cells(list(tunes.DATA)))
    assert len({cell.key() for cell in cells}) == len(cells)
    for cell in cells:
        recipe = make_recipe(cell.settings(), cell.method, resolve, ())
        assert recipe.step("train") is not None
    kinds = {each if isinstance(each, str) else each["kind"] for each, _ in tunes.METHODS.values()}
    assert kinds <= TUNES.keys()


def test_the_best_rate_is_that_of_the_mean_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(method: str, lr: float, seed: int, loss: float) -> dict[str, Any]:
        cell = tunes.Cell("snips", method, lr, seed)
        scores = {"log_loss": {"estimate": loss}, "accuracy": {"estimate": 1 - loss}}
        own = {"learnt": 5, "parameters": 50, "rows": 7, "scores": scores}
        return {**vars(cell), "key": cell.key(), **own}

    low, middle, _ = tunes.FEW
    lines = [
        line("IA3", low, 0, 0.2),
        line("IA3", low, 1, 0.6),
        line("IA3", middle, 0, 0.3),
        line("IA3", middle, 1, 0.3),
        line("BitFit", low, 0, 0.5),
    ]
    monkeypatch.setattr(tunes, "read_lines", lambda path: lines)
    page = tunes.page()
    row = f"| IA3 | 10.00% | 0.400 (0.200–0.600) at {low:g} | **0.300** (0.300–0.300) at {middle:g}"
    assert row in page
    assert "differ by 0.200 nats" in page
    assert "No cell is finished." in page
