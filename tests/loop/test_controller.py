"""The state machine: what it enters, what it writes down, and that it goes on after a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lmwright.baselines.majority import Majority
from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import LmwrightError
from lmwright.core.recipe import make_recipe, read_yaml
from lmwright.core.task import Signal, ragged, role_columns, task_to_json
from lmwright.loop import controller as controller_module
from lmwright.loop.controller import FORGET_EVERY, PAUSES, TICK, Controller, canary
from lmwright.metrics.calibration import Calibration
from lmwright.metrics.detectors import Detectors, DriftScore
from lmwright.serve.engine import Engine
from lmwright.serve.load import load_version
from lmwright.serve.rows import RowScheduler
from lmwright.serve.served import Served
from lmwright.serve.service import Service
from lmwright.serve.settings import Serve
from lmwright.serve.traffic import Given, Traffic
from lmwright.store.run import REFUSED, write_head
from lmwright.store.store import Result, Store
from lmwright.store.versions import move, read_version, roll_back
from lmwright.tables import SECTIONS, TASKS, resolve
from lmwright.tasks.text_classification import TextClassification
from tests.serve.fake import rows
from tests.waiting import until

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
ALIAS = "reviews@production"
TASK = TextClassification(labels=("negative", "positive"))
DRIFT = {"length": {"over": True}, "confidence_mean": 0.5}
SIGNALS = ("length", "vocabulary", "embedding", "label", "confidence")
SEEN = {
    **{name: asdict(DriftScore(0.4, 0.3, 4.0, 4.5, 0.1, True)) for name in SIGNALS},
    "confidence_mean": 0.7,
}
CALM = {"length": {"over": False}, "confidence_mean": 0.9}


class Training:
    """Stands for the training process: ends when told, with a code."""

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.code = -15

    def wait(self, seconds: float) -> None:
        pass


def detectors(store: Store) -> str:
    """Detectors for the majority model, which sees no difference between texts."""
    folder, n = store.temporary(), 60
    rng = np.random.default_rng(0)
    sample = {
        "length": Signal("number", rng.integers(1, 9, n).astype(float)),
        "vocabulary": ragged([np.zeros(1, int)] * n),
        "embedding": Signal("vector", np.zeros((n, 1))),
        "label": Signal("category", rng.integers(0, 2, n), categories=2),
        "confidence": Signal("number", rng.random(n)),
    }
    assert tuple(sample) == SIGNALS
    Detectors.fit(sample, window=10, run_length=20.0, seed=0, windows=2000).save(folder)
    return store.add_artifact(folder)


def version(store: Store, positive: int, fitted: str | None = None) -> str:
    """A majority model as a version in the store, watched if detectors were ``fitted``."""
    model = store.temporary()
    Majority(TASK, (5, positive)).save(model)
    content = store.add_artifact(model)
    folder = store.temporary()
    bound = {
        "model": content,
        "name": "model",
        "kind": "majority",
        "task": task_to_json(TASK),
        "calibration": Calibration().to_json(),
        "artifacts": {"model": content, **({"detectors": fitted} if fitted else {})},
    }
    write_json(folder / "version.json", bound)
    return store.add_artifact(folder)


class House:
    """A store with a promoted version, an engine, a traffic log and a controller."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        if not self.store.decisions():
            move(self.store, ALIAS, version(self.store, 10), {})
        self.rows = RowScheduler(Engine(), load_version(self.store, ALIAS))
        self.service = Service(ALIAS, self.rows, Serve())
        self.traffic = Traffic(folder / "traffic" / "reviews@production", True, 30, 0.4)
        self.started: list[tuple[Path, Training]] = []
        raw = read_yaml(RECIPE)
        raw["stages"]["promote"]["gate"]["slices"] = None
        recipe = make_recipe(raw, "quickstart", resolve, SECTIONS)
        retrain = replace(recipe.sections["retrain"], fewest=30, new_labels=30)
        recipe = replace(recipe, sections={**recipe.sections, "retrain": retrain})
        self.controller = Controller(recipe, self.store, self.service, self.traffic, self.start)
        self.controller.standard = lambda: (0.3, 0.9)  # type: ignore[method-assign]
        self.answered = 0

    def start(self, recipe: Path, store: Path) -> Any:
        self.started.append((recipe, Training()))
        return self.started[-1][1]

    def answer(self, asked: Sequence[Row]) -> Served:
        """Serve rows; the log is told."""
        loaded, futures = self.rows.admit(asked)
        answers = tuple(future.result(10) for future in futures)
        name = f"cls-{self.answered}"
        served = Served(name, time.time(), "", loaded.version, tuple(asked), answers)
        self.traffic.observe(served)
        return served

    def answer_and_label(self, count: int, label: str = "negative") -> None:
        """Serve texts that were not served before and give their labels back."""
        asked = rows([f"A text, number {self.answered + k}." for k in range(count)])
        name = self.answer(asked).id
        for place in range(count):
            self.traffic.give(name, place, Given({"label": label}), TASK, "")
        self.answered += count

    def close(self) -> None:
        self.traffic.close()
        self.rows.engine.close()


@pytest.fixture
def house(tmp_path: Path):
    house = House(tmp_path)
    yield house
    house.close()


def at(house: House) -> str:
    """The state as it is written down, which must be the one in memory."""
    kept = house.store.state(f"loop {ALIAS}")
    assert kept is None or kept["at"] == house.controller.state["at"]
    return house.controller.state["at"]


def test_drift_without_harm_alarms_and_calms_down(house: House) -> None:
    house.controller.tick()
    assert at(house) == "observed"
    house.controller.scores = [DRIFT] * 3
    house.controller.tick()
    assert at(house) == "alarmed"
    assert not house.started
    house.controller.scores = [CALM] * 6
    house.controller.tick()
    assert at(house) == "observed"


def to_training(house: House) -> None:
    """Bring the controller to the point where a training runs."""
    house.answer_and_label(120)
    house.controller.scores = [DRIFT] * 3
    house.controller.tick()
    assert at(house) == "training"
    house.controller.tick()
    assert len(house.started) == 1
    assert house.started[0][0].exists()


def test_a_retraining_waits_until_its_gate_could_judge(house: House) -> None:
    house.controller.scores = [DRIFT] * 3
    lacks = []
    for count in (40, 10):
        house.answer_and_label(count)
        house.controller.tick()
        assert at(house) == "alarmed" and not house.started
        assert "too few targets" in house.controller.state["reason"]
        lacks.append(house.controller.state["lacks"])
    judging = [sum(row["part"] == "gate" for row in labelled(house, n)) for n in (40, 50)]
    assert lacks == [f"{30 - n} more rows ({n} of 30 are there)" for n in judging]
    house.answer_and_label(80)
    house.controller.tick()
    assert at(house) == "training"
    assert len(parts(house)["gate"]) >= 30, "all labels that were waited for are judged by"


def test_ratings_alone_start_no_retraining_and_are_nothing_to_learn_from(house: House) -> None:
    served = house.answer(rows([f"A rated text, number {k}." for k in range(200)]))
    for place in range(200):
        house.traffic.give(served.id, place, Given(rating=0.0), TASK, "")
    house.controller.scores = [DRIFT] * 3
    house.controller.tick()
    house.controller.tick()
    assert at(house) == "alarmed" and not house.started
    house.answered = 200
    house.answer_and_label(120)
    house.controller.tick()
    assert at(house) == "training"
    found = parts(house)
    assert len(found["train"] | found["gate"]) == 120
    assert not any("rated" in text for text in found["train"] | found["gate"])


def labelled(house: House, first: int) -> list[dict[str, Any]]:
    """The first rows with feedback, by its number."""
    found = sorted(house.traffic.labelled(), key=lambda row: row["number"])
    return found[:first]


def passed(house: House, content: str) -> None:
    """Let the run of the retraining make a version, and its gate put it behind the alias."""
    stamp = "cd" * 32
    made = Result(stamp, 0, "promote", {"inputs": {}}, {"version": content}, {}, {}, {})
    house.store.add_result(made)
    name, folder = house.store.new_run("reviews")
    raw = read_yaml(house.store.folder / house.controller.state["recipe"])
    write_head(folder, {"run": name, "recipe": "reviews", "raw": raw, "results": {"p": stamp}})
    move(house.store, ALIAS, content, {"incumbent": "", "conditions": []})


def test_a_better_version_is_swapped_in(house: House) -> None:
    to_training(house)
    better = version(house.store, 20)
    passed(house, better)
    house.started[0][1].code = 0
    house.controller.tick()
    house.controller.tick()
    assert at(house) == "swapped"
    assert house.rows.current.version == better[:16]


def test_a_better_version_that_cannot_be_loaded_is_not_swapped_in(house: House) -> None:
    served, facts = serving_watched(house), {"loss": 0.45, "confidence": 0.8}
    to_training(house)
    bad = version(house.store, 30)
    (house.store.artifact(read_version(house.store, bad)["model"]) / "model.json").write_text("{}")
    passed(house, bad)
    house.started[0][1].code = 0
    with pytest.raises(LmwrightError):
        house.controller.tick()
    house.controller.tick()
    house.controller.tick()
    assert at(house) == "kept"
    assert house.controller.state["reason"] == "the new version cannot be served"
    assert house.rows.current.version == served[:16]
    assert Controller.standard(house.controller) == tuple(facts.values())
    house.answer_and_label(120)
    house.controller.scores = [DRIFT] * 3
    house.controller.tick()
    raw = json.loads((house.store.folder / house.controller.state["recipe"]).read_text())
    assert raw["artifacts"]["incumbent"] == read_version(house.store, served)["model"]


@pytest.mark.parametrize("how", ["rolled back", "by hand", "another run"])
def test_what_else_moves_the_alias_meanwhile_is_not_called_swapped(house: House, how: str) -> None:
    to_training(house)
    if how == "rolled back":
        passed(house, version(house.store, 20))
        roll_back(house.store, ALIAS, "a test")
    else:
        why = {"by_hand": "a test"} if how == "by hand" else {"incumbent": "", "conditions": []}
        move(house.store, ALIAS, version(house.store, 20), why)
    house.started[0][1].code = 0
    house.controller.tick()
    house.controller.tick()
    assert at(house) == "kept"
    assert "not by the gate" in house.controller.state["reason"]


def test_what_is_no_better_is_not_swapped_in(house: House) -> None:
    to_training(house)
    before = house.rows.current.version
    house.started[0][1].code = REFUSED
    house.controller.tick()
    house.controller.tick()
    assert at(house) == "kept"
    assert house.rows.current.version == before
    house.controller.tick()
    assert len(house.started) == 1, "the labels were used; only new ones start another training"


def test_a_failed_training_is_tried_again_but_not_for_ever(house: House, monkeypatch) -> None:
    moment, day = 1000.0, time.time()
    clocks = SimpleNamespace(monotonic=lambda: moment, time=lambda: day)
    monkeypatch.setattr(controller_module, "time", clocks)
    to_training(house)
    for attempt, pause in enumerate(PAUSES, 1):
        house.started[-1][1].code = 1
        house.controller.tick()
        day -= 86400  # a clock that is set back keeps nothing waiting
        house.controller.tick()
        assert at(house) == "training" and len(house.started) == attempt, "too early"
        moment += pause + 0.1
        house.controller.tick()
        assert len(house.started) == attempt + 1
    assert "labels_used" not in house.controller.state
    house.started[-1][1].code = 1
    house.controller.tick()
    assert at(house) == "kept"
    assert "failed" in house.controller.state["reason"]
    assert len({recipe for recipe, _ in house.started}) == 1
    house.controller.tick()
    assert at(house) == "alarmed", "its labels start no further training"
    house.answer_and_label(40)
    house.controller.tick()
    assert len(parts(house)["gate"]) > 25, "no gate has judged by the first labels"


@pytest.mark.parametrize("code", [130, 143, -2, -15])
def test_a_training_that_was_interrupted_has_not_failed(house: House, code: int) -> None:
    to_training(house)
    for stops in range(2, len(PAUSES) + 4):
        house.started[-1][1].code = code
        house.controller.tick()
        house.controller.again = float("-inf")  # the pause is over
        house.controller.tick()
        assert at(house) == "training" and len(house.started) == stops
    assert house.controller.state["failures"] == 0
    assert "labels_used" not in house.controller.state


def parts(house: House) -> dict[str, set[str]]:
    """The texts of the last retraining's feedback by part."""
    recipe = json.loads((house.store.folder / house.controller.state["recipe"]).read_text())
    sources = recipe["stages"]["feedback"]["sources"]
    return {
        source["name"].removeprefix("feedback-"): {
            json.loads(line)["text"] for line in Path(source["path"]).read_text().splitlines()
        }
        for source in sources
    }


def test_the_second_gate_judges_by_feedback_that_the_first_has_not_seen(house: House) -> None:
    to_training(house)
    first = parts(house)
    house.started[0][1].code = 0
    house.controller.tick()
    assert "labels_used" not in house.controller.state, "nothing is used before the gate's decision"
    house.controller.tick()
    assert at(house) == "kept"
    house.answer_and_label(120)
    house.controller.tick()
    assert at(house) == "training"
    second = parts(house)
    assert first["gate"] and second["gate"]
    assert not first["gate"] & second["gate"]
    assert first["train"] < second["train"]


def test_the_loss_is_tested_when_the_labels_have_doubled_only(house: House) -> None:
    house.controller.settings = replace(
        house.controller.settings, new_labels=0, loss=9.0, confidence=1.0
    )
    house.controller.scores = [DRIFT] * 3
    looks = []
    for _ in range(4):
        house.answer_and_label(25)
        house.controller.tick()
        house.controller.tick()
        looks.append(house.controller.state.get("looked", {}).get("at"))
    assert looks == [None, [50], [50], [50, 100]]
    again = House(house.store.folder)
    assert again.controller.state["looked"]["at"] == [50, 100], "a restart gives no alpha back"
    again.close()


@pytest.mark.parametrize("at_fault", ["export", "set_state"])
def test_a_fault_after_the_loss_was_found_keeps_the_training_back_only_while_it_lasts(
    house: House, monkeypatch: pytest.MonkeyPatch, at_fault: str
) -> None:
    def full(*given: Any) -> Any:
        raise OSError(28, "No space left on device")

    house.controller.settings = replace(
        house.controller.settings, new_labels=0, loss=0.01, confidence=1.0
    )
    house.controller.scores = [DRIFT] * 3
    house.controller.enter("alarmed", reason="drift")
    house.answer_and_label(120)
    for place in range(6):
        house.traffic.give("cls-0", place, Given({"label": "positive"}), TASK, "")
    with monkeypatch.context() as patched:
        patched.setattr(controller_module if at_fault == "export" else house.store, at_fault, full)
        with pytest.raises(OSError, match="No space"):
            house.controller.tick()
        assert at(house) == "alarmed"
        again = House(house.store.folder)  # what a server would go on from after a SIGKILL here
        assert at(again) == "alarmed" and "looked" not in again.controller.state
        again.close()
    house.controller.tick()
    assert at(house) == "training"
    assert "loss" in house.controller.state["reason"]
    assert house.controller.state["looked"]["at"] == [120]


def test_the_loop_of_one_alias_moves_no_other(house: House) -> None:
    staging = "reviews@staging"
    move(house.store, staging, version(house.store, 12), {})
    service = Service(staging, house.rows, Serve())
    controller = Controller(
        house.controller.recipe, house.store, service, house.traffic, house.start
    )
    controller.follow()
    controller.standard = lambda: (0.3, 0.9)  # type: ignore[method-assign]
    house.answer_and_label(120)
    controller.scores = [DRIFT] * 3
    controller.tick()
    raw = json.loads((house.store.folder / controller.state["recipe"]).read_text())
    promote = make_recipe(raw, "derived", resolve, SECTIONS).step("promote")
    assert f"{raw['name']}@{promote.stage.alias}" == staging


def test_a_restart_while_alarmed_goes_on_with_the_windows_seen(
    house: House, tmp_path: Path
) -> None:
    watched = version(house.store, 20, detectors(house.store))
    move(house.store, ALIAS, watched, {})
    house.controller.tick()
    house.traffic.add_window("another", SEEN)
    for _ in range(3):
        house.traffic.add_window(watched[:16], SEEN)
        house.controller.scores.append(SEEN)
    house.controller.tick()
    assert at(house) == "alarmed"
    house.close()
    again = House(tmp_path)
    assert again.controller.scores == [SEEN] * 3
    assert again.controller.watcher.scores["length"].smoothed == 4.5
    again.controller.tick()
    assert at(again) == "alarmed"
    move(again.store, ALIAS, version(again.store, 30), {})
    again.controller.tick()
    roll_back(again.store, ALIAS, "a test")
    again.controller.tick()
    assert again.rows.current.version == watched[:16]
    assert again.controller.scores == [], "what it saw before it left is no news of today"
    again.close()


def serving_watched(house: House) -> str:
    """A version in service whose detectors know the loss and confidence of their rows."""
    fitted = detectors(house.store)
    watched = version(house.store, 20, fitted)
    facts = {"loss": 0.45, "confidence": 0.8}
    parts: dict[str, Any] = {"inputs": {}}
    made = Result("ab" * 32, 0, "detect", parts, {"detectors": fitted}, facts, {}, {})
    house.store.add_result(made)
    move(house.store, ALIAS, watched, {})
    house.controller.tick()
    return watched


def test_the_standard_is_of_the_rows_that_the_detectors_refer_to(house: House) -> None:
    serving_watched(house)
    assert Controller.standard(house.controller) == (0.45, 0.8)


def test_a_server_that_starts_again_resumes_the_training(house: House, tmp_path: Path) -> None:
    to_training(house)
    house.close()
    again = House(tmp_path)
    assert at(again) == "training"
    again.controller.tick()
    assert [recipe for recipe, _ in again.started] == [house.started[0][0]]
    again.close()


def test_a_decision_by_hand_is_followed(house: House) -> None:
    other = version(house.store, 30)
    move(house.store, ALIAS, other, {"by_hand": "a test"})
    house.controller.tick()
    assert house.rows.current.version == other[:16]
    assert np.isfinite(
        house.rows.admit(rows(["a"]))[1][0].result(10).answers["probabilities"]
    ).all()


def test_a_version_that_cannot_be_swapped_in_is_named_until_the_alias_moves(house: House) -> None:
    first, bad = house.rows.current.version, version(house.store, 30)
    (house.store.artifact(read_version(house.store, bad)["model"]) / "model.json").write_text("{}")
    move(house.store, ALIAS, bad, {})
    thread = house.controller.thread
    thread.start()
    until(lambda: house.controller.fault)
    time.sleep(3 * TICK)
    assert house.controller.fault and house.controller.unfit == bad[:16]
    assert house.rows.current.version == first
    roll_back(house.store, ALIAS, "it cannot be loaded")
    until(lambda: not house.controller.fault)
    assert not house.controller.unfit and house.rows.current.version == first
    house.controller.stopped.set()
    thread.join(10)


def test_a_clock_that_leaps_ahead_makes_a_server_forget_after_an_hour_only(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.answer_and_label(3)
    steady, day = time.monotonic(), time.time()
    clocks = SimpleNamespace(monotonic=lambda: steady, time=lambda: day)
    monkeypatch.setattr(controller_module, "time", clocks)
    house.controller.tick()
    leap = 400 * 86400
    for leapt, kept in ((leap, 3), (-leap, 3), (leap, 3), (0, 0)):  # and back, and ahead to stay
        steady += FORGET_EVERY + 1
        day += FORGET_EVERY + 1 + leapt
        house.controller.tick()
        assert house.traffic.count() == kept


def test_what_grew_too_old_while_a_server_was_stopped_is_forgotten(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.answer_and_label(3)
    with house.traffic.database.write() as connection:
        connection.exec_driver_sql("UPDATE answers SET time = time - 31 * 86400 * (place + 1)")
    house.close()
    again = House(tmp_path)
    again.controller.tick()
    assert again.traffic.count() == 1, "by the newest answer, all others are too old"
    monkeypatch.setattr(controller_module, "FORGET_EVERY", -1.0)  # an hour later
    again.controller.tick()
    assert again.traffic.count() == 0
    again.close()


@pytest.mark.parametrize(("label", "trains"), [("positive", False), ("negative", True)])
def test_a_drift_alarm_trains_only_if_the_labels_show_a_loss(
    house: House, label: str, trains: bool
) -> None:
    settings = house.controller.settings
    assert settings is not None
    house.controller.settings = replace(settings, fewest=30, new_labels=900)
    served = house.answer(rows([f"A TEXT, NUMBER {k}." for k in range(100)]))
    said = served.answers[0].told["probabilities"]
    for place in range(100):  # as many right as the model expects, or all wrong
        kept = label if place >= 100 * (1 - said["positive"]) else "negative"
        house.traffic.give(served.id, place, Given({"label": kept}), TASK, "")
    expected = -sum(p * np.log(p) for p in said.values())
    house.controller.standard = lambda: (float(expected), 0.9)  # type: ignore[method-assign]
    house.controller.scores = [{"length": {"over": True}, "confidence_mean": 0.9}] * 4
    house.controller.tick()
    house.controller.tick()
    assert at(house) == ("training" if trains else "alarmed")
    assert len(house.started) == trains


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_can_take_its_canary(kind):
    """A version that cannot answer the canary would never be swapped in."""
    task = resolve("tasks", kind)()
    for row in canary(task):
        for column in role_columns(task, "input"):
            assert column.read(row[column.name]) is not None
        rendered = getattr(task, "rendered", None)
        if rendered is not None:
            assert task.source(row) in rendered(row, task.source(row))
