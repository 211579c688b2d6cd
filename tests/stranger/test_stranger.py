"""A task that none of ours resembles goes from ``init`` to a swap, with nothing of it in src."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lmwright.cli.main import main
from lmwright.core.columns import TYPES
from lmwright.core.stamp import reachable
from lmwright.core.task import Answers
from lmwright.data.corpus import read_split, read_task_of
from lmwright.loop import routes as loop_routes
from lmwright.loop.controller import ENDS, Controller
from lmwright.loop.lineage import of_answer, of_source
from lmwright.plan.recipe import open_recipe
from lmwright.serve import routes as serve_routes
from lmwright.serve.engine import Engine
from lmwright.serve.load import load_version
from lmwright.serve.rows import RowScheduler
from lmwright.serve.service import Service, Services
from lmwright.serve.settings import Serve
from lmwright.serve.traffic import Traffic, traffic_folder
from lmwright.store.store import Store
from lmwright.store.versions import current, read_version, withdraw
from tests.serve.live import Live

pytestmark = pytest.mark.timeout(300)

HERE = Path(__file__).parent
START = HERE.parent / "old_store" / "start"
ALIAS = "talk@production"
SMALL = f"""
extends: talk.yaml
stages:
  train: {{start: {START}, epochs: 14, lr: 1.0e-2, max_tokens: 32, dropout: 0.0, patience: 0}}
  evaluate: {{draws: 200}}
  audit: {{rows: 40}}
  detect: {{window: 40, windows: 2000}}
  promote: {{gate: {{baselines: ignored, kept_margin: 0.15, max_slowdown: 100}}}}
watch: {{keep_text: true}}
retrain:
  windows: 2
  fewest: 200
  new_labels: 380
  stages: {{train: {{start_from: incumbent, epochs: 8}}}}
"""
"""Training at the size of a test; so small a network does not beat one-versus-rest."""


class Ended:
    """A training that ran in this process."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code


class House(Live):
    """The server of an alias with its loop, in this process; trainings run in it too."""

    def __init__(self, recipe: Path, store: Store) -> None:
        self.settings = Serve(port=0)
        self.store = store
        self.engine = Engine()
        self.rows = RowScheduler(self.engine, load_version(store, ALIAS))
        self.service = Service(ALIAS, self.rows, self.settings)
        self.traffic = Traffic(traffic_folder(store, ALIAS), True, 30, 0.4)
        self.service.observers.append(self.traffic.observe)
        known = open_recipe(recipe, [])
        self.controller = Controller(known, store, self.service, self.traffic, self.train)
        self.traffic.seen = self.controller.see
        self.services = Services([self.service])
        loop = loop_routes.Loop(self.service, self.traffic, self.controller)
        loops = loop_routes.routes(self.services, [loop])
        self.begin([serve_routes.routes(self.services), loops])

    def train(self, recipe: Path, store: Path) -> Any:
        return Ended(main(["run", str(recipe), "--store", str(store)]))

    def predict(self, rows: list[dict[str, str]]) -> Any:
        body = {"inputs": [{"text": row["text"]} for row in rows]}
        status, _, found = self.ask("POST", "/v1/predict", body)
        assert status == 200, found
        return found

    def give(self, answer: str, place: int, judgements: list[str]) -> int:
        body = {"id": answer, "index": place, "judgements": judgements}
        return self.ask("POST", "/v1/feedback", body)[0]

    def stop(self) -> None:
        super().stop()
        self.traffic.close()


def table(name: str) -> list[dict[str, str]]:
    """The rows of a table beside this file."""
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, installed: None) -> Path:
    """Where ``init`` and ``run`` have been, with the recipe at small size."""
    folder = tmp_path_factory.mktemp("stranger")
    made = str(folder / "talk.yaml")
    words = ["--task", "stranger-labels", "--column", "judgements=judgement", "--out", made]
    assert main(["init", str(HERE / "talk.csv"), *words]) == 0
    (folder / "small.yaml").write_text(SMALL)
    assert main(["run", str(folder / "small.yaml"), "--store", str(folder / "store")]) == 0
    return folder


@pytest.fixture(scope="module")
def house(folder: Path) -> Iterator[House]:
    """A server that has seen the world move to one category, and learnt it."""
    house = House(folder / "small.yaml", Store(folder / "store"))
    house.first = house.rows.current  # type: ignore[attr-defined]
    house.controller.tick()
    rows = table("traffic.csv")
    for start in range(0, len(rows) - 100, 20):
        batch = rows[start : start + 20]
        found = house.predict(batch)
        for place, row in enumerate(batch):
            assert house.give(found["id"], place, [row["judgement"]]) == 201
    house.traffic.flush()
    until = time.monotonic() + 120
    while house.controller.state["at"] not in ENDS and time.monotonic() < until:
        house.controller.tick()
    yield house
    house.stop()


def test_init_names_the_task_and_its_columns(folder: Path) -> None:
    recipe = open_recipe(folder / "talk.yaml", [])
    assert recipe.task is not None and recipe.task.kind == "stranger-labels"
    (source,) = recipe.step("data").stage.sources  # type: ignore[union-attr]
    assert source.columns == {"judgements": "judgement"}
    assert source.side == {"annotator": "annotator"}


def test_judgements_of_one_text_are_one_row(folder: Path) -> None:
    given: dict[str, dict[str, list[str]]] = {}
    for row in table("talk.csv"):
        entry = given.setdefault(" ".join(row["text"].casefold().split()), {"who": [], "said": []})
        entry["said"].append(row["judgement"])
        entry["who"].append(row["annotator"])
    rows = rows_of(folder)
    kept = [row for split in SPLITS for row in read_split(rows, split).to_pylist()]
    assert len(kept) == len(given)
    several = 0
    for row in kept:
        entry = given[" ".join(row["text"].casefold().split())]
        assert row["judgements"] == entry["said"]
        assert row["annotator"] == ", ".join(dict.fromkeys(entry["who"]))
        several += len(row["judgements"]) > 1
    assert several > 400
    quality = json.loads((rows / "quality.json").read_bytes())
    assert quality["rows"]["merged"] == len(table("talk.csv")) - len(kept)


SPLITS = ("train", "validation", "calibration", "gate", "test")


def rows_of(folder: Path) -> Path:
    """The rows artifact of the version in service at first."""
    store = Store(folder / "store")
    version = next(e["facts"]["version"] for e in store.decisions() if e["action"] == "promote")
    return store.artifact(read_version(store, version)["artifacts"]["rows"])


def test_the_measures_are_hierarchical_f1(folder: Path) -> None:
    from stranger_tasks.labels import LabelTree  # on the path only while these tests run

    task = LabelTree(labels=("a", "a/b", "a/c", "d"))
    rows = pa.table({"judgements": [["a/b"], ["a/b", "d"], ["d"]]})
    logits = np.array([[9.0, 9, -9, -9], [9, -9, 9, -9], [9, -9, -9, 9]])
    answers = task.calibrated(Answers({"logits": logits}), 1.0, 0.0)
    assert answers["labels"] == [["a", "a/b"], ["a", "a/c"], ["a", "d"]]
    measures = task.measures(rows, answers)
    expected = [0.0, np.mean([1 - 2 * 1 / 4, 1.0]), 1 - 2 / 3]
    assert measures.losses["hierarchical_error"].values == pytest.approx(expected)
    both, said, true = 2 + 0.5 + 1, 2 + 2 + 2, 2 + 1.5 + 1
    value = measures.scores(np.ones((1, 3)))["micro_f1"][0]
    assert value == pytest.approx(2 * both / (said + true))


def test_it_is_scored_reported_and_promoted(folder: Path) -> None:
    store = Store(folder / "store")
    version = current(store, ALIAS)
    assert version is not None
    scores = store.artifact(read_version(store, version.hash)["artifacts"]["scores"])
    found = json.loads((scores / "scores.json").read_bytes())["splits"]["test"]["models"]
    for name in ("model", "frequent", "words", "words_all"):
        value = found[name]["metrics"]["micro_f1"]
        assert 0 < value["low"] <= value["estimate"] <= value["high"] < 1
    error = {n: found[n]["metrics"]["hierarchical_error"]["estimate"] for n in found}
    assert error["words"] < error["frequent"] and error["model"] < error["frequent"]
    page = folder / "report.html"
    assert main(["report", ALIAS, "--store", str(store.folder), "--out", str(page)]) == 0
    assert "F1 of labels on test" in page.read_text()


def test_the_loop_swaps_in_what_it_learnt_of_the_feedback(house: House) -> None:
    state = house.controller.state
    assert state["at"] == "swapped", (state, house.store.decisions()[-1])
    assert house.rows.current.version != house.first.version  # type: ignore[attr-defined]
    held_out = table("traffic.csv")[-100:]
    task = house.rows.current.task
    columns = {"judgements": pa.array([[r["judgement"]] for r in held_out], TYPES["texts"].arrow)}
    losses = []
    for loaded in (house.first, house.rows.current):  # type: ignore[attr-defined]
        prepared = loaded.predictor.prepare(held_out)
        answers = loaded.calibration.apply(task, loaded.predictor.answers(prepared))
        losses.append(task.measures(pa.table(columns), answers).losses[task.primary].values.mean())
    assert losses[1] < losses[0] - 0.2


def test_feedback_is_of_the_tasks_own_kind(house: House) -> None:
    found = house.predict(table("traffic.csv")[:1])
    assert set(found["answers"][0]) == {"index", "labels", "shares"}
    assert house.give(found["id"], 0, ["world/trivia", "world/trivia; form/question"]) == 201
    assert house.give(found["id"], 0, ["world/nowhere"]) == 400
    assert house.give(found["id"], 0, []) == 400


def test_an_answer_leads_to_its_rows_and_a_source_to_its_answers(house: House) -> None:
    answer = house.predict(table("traffic.csv")[:1])["id"]
    house.traffic.flush()
    kinds = {step["kind"] for step in of_answer(house.store, answer)["steps"]}
    assert {"data", "train", "evaluate", "promote"} <= kinds
    found = of_source(house.store, "talk")
    assert any(answer in each["ids"] for each in found["answers"].values())
    learnt = of_source(house.store, "feedback-train")["answers"]
    assert len(learnt) == 1 and len(found["answers"]) == 2


def test_another_process_sees_the_task(house: House, folder: Path) -> None:
    asked = folder / "asked.csv"
    asked.write_text("text\nWhat is the capital of France?\n")
    words = ["predict", str(asked), "--model", ALIAS, "--store", str(folder / "store")]
    done = subprocess.run(
        [sys.executable, "-m", "lmwright.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "labels" in json.loads(done.stdout)


def test_a_withdrawn_source_lists_what_learnt_of_it(house: House) -> None:
    version = current(house.store, ALIAS)
    assert version is not None
    _, touched = withdraw(house.store, "feedback-train", "a test")
    assert version.hash in touched
    assert house.first.version not in {each[:16] for each in touched}  # type: ignore[attr-defined]


def test_the_stamp_follows_the_stranger_own_modules() -> None:
    found, libraries = reachable([], ["stranger_tasks.baselines"])
    assert "stranger_tasks.labels:with_parents" in found
    assert "scikit-learn" in libraries


def test_src_knows_nothing_of_it() -> None:
    source = HERE.parents[1] / "src"
    own = ("stranger_tasks", "stranger-", '"judgements"', "hierarchical")
    texts = {path: path.read_text("utf-8") for path in source.rglob("*.py")}
    found = [path.name for path, text in texts.items() if any(name in text for name in own)]
    assert len(texts) > 100 and not found


def test_the_task_of_the_rows_holds_parents(folder: Path) -> None:
    labels = read_task_of(rows_of(folder)).labels  # type: ignore[attr-defined]
    assert {"talk", "tech", "world", "form"} <= set(labels)
