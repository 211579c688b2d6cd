"""Where an answer came from, and what became of a row: what its models say, not what is near."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from lmwright.cli.main import main
from lmwright.core.recipe import make_recipe
from lmwright.core.stage import Stage, Work
from lmwright.core.task import role_columns, task_to_json
from lmwright.data.corpus import TASK, schema_of
from lmwright.loop.lineage import of_row, of_source, of_version
from lmwright.serve.load import load_version
from lmwright.serve.rows import answer
from lmwright.serve.served import Served
from lmwright.serve.traffic import Traffic, traffic_folder
from lmwright.store.run import REFUSED, run_recipe
from lmwright.store.store import Result, Store
from lmwright.store.versions import current, move
from lmwright.tasks.text_classification import TextClassification
from tests.small_recipe import write_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Result]]:
    """A store in which the small recipe ran, learning from some of the rows; kind -> result."""
    folder = tmp_path_factory.mktemp("lineage")
    words = ["run", str(write_recipe(folder)), "--store", str(folder / "store")]
    assert main([*words, "--set", "baselines.rows=600"]) == 0
    store = Store(folder / "store")
    return store, {result.kind: result for result in store.all_results()}


def ids(path: Path) -> list[str]:
    return parquet.read_table(path, columns=["id"]).column("id").to_pylist()


def output(made: tuple[Store, dict[str, Result]], kind: str, name: str) -> str:
    return made[1][kind].outputs[name]


def row_of(made: Any, split: str, drawn: bool | None = None) -> str:
    """A row of a split; for ``train``, one that TF-IDF learnt from, or one that it did not."""
    store, _ = made
    rows = ids(store.artifact(output(made, "data", "rows")) / f"{split}.parquet")
    learnt = set(ids(store.artifact(output(made, "baselines", "tfidf")) / "rows.parquet"))
    return next(row for row in rows if drawn is None or (row in learnt) == drawn)


def test_a_row_that_was_drawn_leads_to_the_models_that_learnt_from_it(made: Any) -> None:
    found = of_row(made[0], row_of(made, "train", drawn=True))
    models = {output(made, "baselines", name) for name in ("tfidf", "majority", "tfidf_all")}
    assert set(found["made_with_it"]) == models | {output(made, "promote", "version")}
    assert found["served_as"] == ["made@production from decision 1"]
    assert found["used_otherwise"] == {}


def test_a_row_that_was_not_drawn_leads_to_no_version(made: Any) -> None:
    found = of_row(made[0], row_of(made, "train", drawn=False))
    assert found["made_with_it"] == {output(made, "baselines", "tfidf_all"): "baselines"}
    assert found["served_as"] == []


@pytest.mark.parametrize(
    ("split", "uses"),
    [
        ("test", {"judged": ("evaluate", "scores"), "compared": ("detect", "detectors")}),
        (
            "calibration",
            {"calibrated": ("evaluate", "scores"), "compared": ("detect", "detectors")},
        ),
        ("gate", {"gated": ("promote", "version"), "compared": ("detect", "detectors")}),
        ("validation", {}),
    ],
)
def test_a_row_that_nothing_learnt_from_says_what_it_was_used_for(
    made: Any, split: str, uses: dict[str, tuple[str, str]]
) -> None:
    found = of_row(made[0], row_of(made, split))
    assert found["made_with_it"] == {}
    assert found["answers"] == {}
    assert found["held_in"] == {output(made, "data", "rows"): split}
    assert found["used_otherwise"] == {word: [output(made, *place)] for word, place in uses.items()}


def test_a_version_leads_to_its_recipe_code_and_rows(made: Any) -> None:
    store, results = made
    version = current(store, "made@production")
    assert version is not None
    found = json.loads(json.dumps(of_version(store, version.hash)))
    assert found["runs"] == [{"run": store.runs()[0], "recipe": "made"}]
    steps = {step["kind"]: step for step in found["steps"]}
    assert set(steps) == {"data", "baselines", "evaluate", "audit", "detect", "promote"}
    assert len({step["code"] for step in steps.values()}) == len(steps)
    assert all(len(step["code"]) == 64 for step in steps.values())
    assert steps["baselines"]["learnt_rows"]["tfidf"] == {
        "artifact": results["baselines"].outputs["tfidf"],
        "rows": 600,
        "sources": {"rotten": {"rows": 600, "licence": "for research"}},
    }


@pytest.mark.parametrize("route", ["ans", "cls"])
def test_an_answer_of_either_route_leads_to_its_version(
    made: Any, capsys: pytest.CaptureFixture[str], route: str
) -> None:
    store = made[0]
    loaded = load_version(store, "made@production")
    rows = ({"text": "A joy from start to end."},)
    given = answer(loaded, loaded.predictor.prepare(rows))
    name = f"{route}-{'0' * 32}"
    log = Traffic(traffic_folder(store, "made@production"), True, 30, 0.4)
    log.observe(Served(name, time.time(), "", loaded.version, rows, tuple(given)))
    log.close()
    capsys.readouterr()
    assert main(["lineage", name, "--store", str(store.folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    (kept,) = found["answer"]
    assert (kept["id"], kept["inputs"], kept["answer"]) == (name, rows[0], given[0].told)
    assert found["version"][:16] == loaded.version
    assert {step["kind"] for step in found["steps"]} >= {"data", "baselines", "promote"}


def test_a_source_leads_to_what_learnt_from_it_and_apart_to_what_is_below_it(made: Any) -> None:
    found = of_source(made[0], "rotten")
    models = {output(made, "baselines", name) for name in ("tfidf", "majority", "tfidf_all")}
    assert set(found["made_with_it"]) == models | {output(made, "promote", "version")}
    assert found["served_as"] == ["made@production from decision 1"]
    assert found["made_beside_it"] == {
        output(made, "data", "rows"): "data",
        output(made, "evaluate", "scores"): "evaluate",
        output(made, "audit", "audit"): "audit",
        output(made, "detect", "detectors"): "detect",
    }


def test_a_model_that_drew_no_row_of_a_source_was_not_made_with_it(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "rare.csv").write_text("text,label\na rare and tender film,positive\n")
    text = recipe.read_text()
    source = f"{{name: rare, path: {tmp_path / 'rare.csv'}}}"
    recipe.write_text(text.replace("sources: [", f"sources: [{source}, "))
    words = ["run", str(recipe), "--store", str(tmp_path / "store")]
    assert main([*words, "--set", "baselines.rows=40", "--anyway"]) in (0, REFUSED)
    store = Store(tmp_path / "store")
    found = of_source(store, "rare")
    results = {result.kind: result for result in store.all_results()}
    tfidf = results["baselines"].outputs["tfidf"]
    drawn = (
        "rare" in parquet.read_table(store.artifact(tfidf) / "rows.parquet")["source"].to_pylist()
    )
    assert not drawn  # one row of 751; the draw is seeded
    assert tfidf not in found["made_with_it"]
    assert tfidf in found["made_beside_it"]


ROW = "0" * 32
CLASSIFICATION = TextClassification(labels=("x", "y"))
SCHEMA = schema_of(role_columns(CLASSIFICATION, "input", "target"))


@dataclass(frozen=True, kw_only=True)
class Data(Stage):
    """One row, of one source."""

    def gives(self) -> tuple[str, ...]:
        return ("rows",)

    def run(self, work: Work) -> dict[str, Any]:
        row = dict.fromkeys(SCHEMA.names, "x") | {"id": ROW, "source": "ours"}
        parquet.write_table(pa.Table.from_pylist([row], SCHEMA), work.out("rows") / "train.parquet")
        (work.out("rows") / TASK).write_text(json.dumps(task_to_json(CLASSIFICATION)))
        (work.out("rows") / "sources.json").write_text("[]")
        return {"learns_from": ["ours"]}


@dataclass(frozen=True, kw_only=True)
class Train(Stage):
    """A model that learnt from that row and comes out another way each time."""

    def needs(self) -> tuple[str, ...]:
        return ("rows",)

    def gives(self) -> tuple[str, ...]:
        return ("model",)

    def run(self, work: Work) -> dict[str, Any]:
        rows = (work.inputs["rows"] / "train.parquet").read_bytes()
        (work.out("model") / "rows.parquet").write_bytes(rows)
        (work.out("model") / "weights").write_text(str(noise()))
        return {}


@dataclass(frozen=True, kw_only=True)
class Bind(Stage):
    """A version of that model."""

    def needs(self) -> tuple[str, ...]:
        return ("model",)

    def gives(self) -> tuple[str, ...]:
        return ("version",)

    def run(self, work: Work) -> dict[str, Any]:
        model = work.inputs["model"].name
        (work.out("version") / "version.json").write_text(json.dumps({"model": model}))
        return {"model": model}


@dataclass(frozen=True, kw_only=True)
class Same(Train):
    """A model that comes out as it did before, whatever its rows are."""

    def run(self, work: Work) -> dict[str, Any]:
        (work.out("model") / "weights").write_text("1")
        return {}


def test_a_version_is_of_the_run_that_put_it_in_place_though_another_made_the_same(
    tmp_path: Path,
) -> None:
    stages = {"data": Data, "train": Same, "promote": Bind}
    store, alias = Store(tmp_path), "noisy@production"

    def made(seed: int) -> str:
        raw = {"name": "noisy", "stages": {**dict.fromkeys(stages), "data": {"seed": seed}}}
        recipe = make_recipe(raw, "noisy.yaml", lambda table, name: stages[name], ())
        return run_recipe(recipe, store).artifacts["version"]

    def seeds(until: float = math.inf) -> list[int]:
        steps = of_version(store, version, until)["steps"]
        return [step["settings"]["seed"] for step in steps if step["kind"] == "data"]

    version = made(1)
    move(store, alias, version, {})
    given = time.time()
    assert made(2) == version and len(store.makers(version)) == 1
    assert len({result.stamp for result in store.all_results() if result.kind == "data"}) == 2
    assert seeds() == seeds(given) == [1]
    move(store, alias, version, {"again": "by the second run"})
    assert (seeds(), seeds(given)) == ([2], [1])


def noise() -> int:
    """What the model depends on beside its stamp."""
    return 0


def test_a_model_that_came_out_another_way_has_its_lineage_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"data": Data, "train": Train, "promote": Bind}
    raw = {"name": "noisy", "stages": dict.fromkeys(stages)}
    recipe = make_recipe(raw, "noisy.yaml", lambda table, name: stages[name], ())
    store = Store(tmp_path)
    first = run_recipe(recipe, store).artifacts
    monkeypatch.setattr("tests.loop.test_lineage.noise", lambda: 1)
    then = run_recipe(recipe, store, again=True).artifacts
    assert first["model"] != then["model"]
    steps = of_version(store, then["version"])["steps"]
    assert [(step["kind"], step["attempt"]) for step in steps] == [
        ("promote", 0),
        ("train", 1),
        ("data", 0),
    ]
    assert steps[1]["learnt_rows"]["model"]["sources"] == {
        "ours": {"rows": 1, "licence": "unknown"}
    }
    learnt = {made[name] for made in (first, then) for name in ("model", "version")}
    assert set(of_row(store, ROW)["made_with_it"]) == learnt
    assert set(of_source(store, "ours")["made_with_it"]) == learnt
