"""Distillation through whole recipes: a teacher in service, a withdrawn one, and real intents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmwright.core.errors import BadInput, Refused
from lmwright.core.recipe import read_yaml
from lmwright.core.yaml12 import write_yaml
from lmwright.loop.promote import promote_version
from lmwright.plan.recipe import open_recipe
from lmwright.store.run import plan_recipe, run_recipe
from lmwright.store.store import Store
from lmwright.store.versions import withdraw
from lmwright.tables import resolve
from tests.small_recipe import write_reviews
from tests.whole.test_adapters import ALIAS, recipe_of, write_start

INTENTS = Path(__file__).parents[2] / "recipes" / "intents.yaml"


def test_a_teacher_in_service_is_an_input_of_its_student(tmp_path):
    write_reviews(tmp_path / "rows.csv", 300)
    start = write_start(tmp_path / "start")
    store = Store(tmp_path / "store")
    taught = run_recipe(open_recipe(recipe_of(tmp_path, start, tune="full"), []), store)
    version = taught.artifacts["version"]
    promote_version(store, ALIAS, version, "for the test")
    for named in (ALIAS, version, version[:16]):
        distil = {"kind": "logits", "teacher": named}
        path = recipe_of(tmp_path, start, tune="full", start_layers=[1], distil=distil)
        raw = read_yaml(path, resolve)
        raw["stages"] = {name: raw["stages"][name] for name in ("data", "train")}
        path.write_text(write_yaml({**raw, "name": "student"}))
        recipe = open_recipe(path, [])
        run = run_recipe(recipe, store)
        result = run.results["train"]
        assert result.inputs[named] == taught.artifacts["model"]
        assert [row.state for row in plan_recipe(recipe, store)] == ["done", "done"]
    _, touched = withdraw(store, "some", "for the test")
    assert run.artifacts["model"] in touched
    unknown = recipe_of(tmp_path, start, distil={"kind": "logits", "teacher": "no@alias"})
    with pytest.raises(BadInput, match="nothing is behind"):
        run_recipe(open_recipe(unknown, []), store)
    nobody = recipe_of(tmp_path, start, distil={"kind": "logits", "teacher": "nobody"})
    with pytest.raises(BadInput, match="which no stage gives"):
        open_recipe(nobody, [])
    store.database.close()


def test_a_published_teacher_can_be_withdrawn(tmp_path):
    write_reviews(tmp_path / "rows.csv", 200)
    start, teacher = write_start(tmp_path / "start"), write_start(tmp_path / "teacher", 2)
    store = Store(tmp_path / "store")
    distil = {"kind": "hidden", "teacher": str(teacher)}
    path = recipe_of(tmp_path, start, tune="full", distil=distil)
    run = run_recipe(open_recipe(path, []), store)
    (source,) = run.results["train"].facts["learns_from"]
    _, touched = withdraw(store, source, "for the test")
    assert run.artifacts["model"] in touched
    with pytest.raises(Refused, match="which was withdrawn"):
        run_recipe(open_recipe(path, []), store)
    store.database.close()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_three_layers_of_six_learn_intents_of_their_teacher(tmp_path, capsys):
    """MiniLM on SNIPS: the same three layers with a teacher and without, and the teacher."""
    raw = read_yaml(INTENTS, resolve)
    train = {**raw["stages"]["train"], "max_tokens": 32}
    small = {**train, "stage": "train", "start_layers": [0, 2, 4]}
    students: dict[str, dict[str, Any]] = {
        "alone": {},
        "logits": {"distil": {"kind": "logits", "teacher": "teacher", "alpha": 0.7}},
        "states": {
            "distil": {"kind": "hidden", "teacher": "teacher", "distance": "cosine", "alpha": 0.7}
        },
    }
    stages: dict[str, Any] = {
        "data": raw["stages"]["data"],
        "teach": {**train, "stage": "train", "writes": {"model": "teacher"}},
    }
    for name, own in students.items():
        stages[name] = {**small, **own, "writes": {"model": name}}
    stages["evaluate"] = {"models": ["teacher", *students], "splits": ["test"]}
    path = tmp_path / "distil.yaml"
    path.write_text(write_yaml({"name": "distil", "task": raw["task"], "stages": stages}))
    store = Store(tmp_path / "store")
    run = run_recipe(open_recipe(path, []), store)
    found = run.results["evaluate"].facts["splits"]["test"]
    store.database.close()
    losses = {name: own["log_loss"]["estimate"] for name, own in found["models"].items()}
    with capsys.disabled():
        print()
        for name, own in found["models"].items():
            loss, right = own["log_loss"], own["accuracy"]["estimate"]
            spread = f"{loss['low']:.3f} to {loss['high']:.3f}"
            print(f"{name:8} log-loss {loss['estimate']:.3f} ({spread}), accuracy {right:.3f}")
        better = min(losses["logits"], losses["states"]) < losses["alone"]
        print("a distilled student is better than the same one alone:", better)
    assert max(losses.values()) < 0.5, "of ln 7 = 1.95 nats, and both ways of learning work"
