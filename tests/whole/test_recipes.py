"""Every shipped recipe is read and checked; nothing it says is ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmwright.core.recipe import read_recipe
from lmwright.tables import SECTIONS, resolve

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_whole(path: Path) -> None:
    recipe = read_recipe(path, resolve, SECTIONS)
    assert recipe.steps[-1].kind == "promote"
    # What is learnt from shards is not learnt anew from the feedback of a few people.
    of_shards = any(step.kind == "pretrain" for step in recipe.steps)
    wanted = {"watch"} if of_shards else {"watch", "retrain"}
    assert set(recipe.sections) - {"serve"} == wanted
