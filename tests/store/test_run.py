"""Running, reusing, repeating, resuming; what is stale and why."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path

import pytest

from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.journal import read_journal
from lmwright.core.recipe import make_recipe
from lmwright.store.run import plan_recipe, read_run, results_of, run_recipe
from lmwright.store.store import Store
from tests.store.toy import resolve


def recipe(**settings: dict):
    raw = {"name": "toy", "stages": {"draw": settings.get("draw"), "total": settings.get("total")}}
    return make_recipe(raw, "toy.yaml", resolve, ())


def events(store: Store, run: str, event: str) -> list[dict]:
    path = store.folder / "runs" / run / "journal.jsonl"
    return [line for line in read_journal(path) if line["event"] == event]


def test_a_second_run_reuses_every_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = run_recipe(recipe(), store)
    second = run_recipe(recipe(), store)
    assert first.artifacts == second.artifacts
    assert len(events(store, first.name, "stage ended")) == 2
    assert len(events(store, second.name, "stage reused")) == 2
    assert [row.state for row in plan_recipe(recipe(), store)] == ["done", "done"]


def test_a_setting_changes_the_stamp_and_an_inert_one_does_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run_recipe(recipe(), store)
    changed = plan_recipe(recipe(draw={"count": 5}), store)
    assert [(row.state, row.why) for row in changed] == [
        ("to do", ["settings count"]),
        ("waits", ["needs numbers"]),
    ]
    assert [r.state for r in plan_recipe(recipe(draw={"workers": 9}), store)] == ["done", "done"]
    below = plan_recipe(recipe(total={"seed": 3}), store)
    assert [row.state for row in below] == ["done", "to do"]


def test_an_inert_setting_does_not_change_the_result(tmp_path: Path) -> None:
    one = run_recipe(recipe(draw={"workers": 1}), Store(tmp_path / "a"))
    nine = run_recipe(recipe(draw={"workers": 9}), Store(tmp_path / "b"))
    assert one.artifacts == nine.artifacts


def test_a_failed_stage_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch) -> None:
    store = Store(tmp_path)
    whole = run_recipe(recipe(total={"fail_at": 99}), Store(tmp_path / "other"))
    with pytest.raises(BadInput, match="told to fail"):
        run_recipe(recipe(total={"fail_at": 2}), store)
    failed = store.runs()[-1]
    assert events(store, failed, "run ended")[0]["state"] == "failed"
    monkeypatch.setenv("TOY_MENDED", "1")
    run = run_recipe(recipe(total={"fail_at": 2}), store)
    assert events(store, run.name, "began at")[0]["place"] == 2
    assert run.artifacts["total"] == whole.artifacts["total"]


def test_again_repeats_and_a_different_outcome_is_kept_apart(tmp_path: Path, monkeypatch) -> None:
    store = Store(tmp_path)
    first = run_recipe(recipe(), store)
    same = run_recipe(recipe(), store, again=True)
    assert len(events(store, same.name, "stage ended")) == 2
    assert not events(store, same.name, "not reproducible")
    monkeypatch.setattr("tests.store.toy.scaled", lambda total: total * 4)
    other = run_recipe(recipe(), store, again=True)
    assert len(events(store, other.name, "not reproducible")) == 1
    stamp = first.results["total"].stamp
    assert store.read_result(stamp, 0).outputs == first.results["total"].outputs
    assert store.read_result(stamp, 1).outputs != first.results["total"].outputs
    for run in (first, same, other):
        found = results_of(store, read_run(store, run.name))
        assert [(name, each.attempt, each.outputs) for name, each in found.items()] == [
            (name, each.attempt, each.outputs) for name, each in run.results.items()
        ]


def test_two_runs_at_once_do_the_work_once(tmp_path: Path) -> None:
    names: list[str] = []

    def go() -> None:
        names.append(run_recipe(recipe(draw={"count": 200}), Store(tmp_path)).name)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    store = Store(tmp_path)
    assert len(names) == 4
    assert sum(len(events(store, name, "stage ended")) for name in names) == 2


def test_a_database_that_another_is_just_beginning_is_waited_for(tmp_path: Path) -> None:
    """Two that open a new store at once: one writes already, in a file that has no log yet."""
    other = sqlite3.connect(tmp_path / "registry.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    let_go = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    let_go.start()
    try:
        store = Store(tmp_path)
    finally:
        let_go.join()
        other.close()
    assert store.runs() == []
    with store.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_the_index_is_rebuilt_from_the_folders(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = run_recipe(recipe(), store)
    store.decide("promote", {"alias": "toy@production"})
    store.set_state("loop", {"at": "observed"})
    store.database.close()
    for path in tmp_path.glob("registry.db*"):
        path.unlink()
    again = Store(tmp_path)
    assert [r.kind for r in again.makers(run.artifacts["numbers"])] == ["draw"]
    assert [r.kind for r in again.users(run.artifacts["numbers"])] == ["total"]
    assert again.state("loop") == {"at": "observed"}
    assert again.decide("rollback", {})["number"] == 2


def test_one_kind_stands_twice_under_other_names(tmp_path: Path) -> None:
    raw = {
        "name": "toy",
        "stages": {
            "draw": None,
            "more": {"stage": "draw", "writes": {"numbers": "others"}, "seed": 5},
            "total": {"reads": {"numbers": "others"}},
        },
    }
    run = run_recipe(make_recipe(raw, "toy.yaml", resolve, ()), Store(tmp_path))
    assert run.artifacts["others"] != run.artifacts["numbers"]
    assert run.results["total"].inputs == {"numbers": run.artifacts["others"]}


def test_a_missing_artifact_is_made_anew_with_the_same_content(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = run_recipe(recipe(), store)
    store.remove([run.artifacts["numbers"]], [])
    with pytest.raises(Corrupt):
        store.artifact(run.artifacts["numbers"])
    assert run_recipe(recipe(), store).artifacts == run.artifacts


def test_a_damaged_artifact_is_put_right_by_doing_it_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = run_recipe(recipe(), store)
    numbers = store.artifact(run.artifacts["numbers"])
    for damage in (b"[1, 2]", b""):
        (numbers / "numbers.json").write_bytes(damage)
        assert not store.verify(numbers.name)
        again = run_recipe(recipe(), store, again=True)
        assert all(store.verify(content) for content in again.artifacts.values())
        assert again.artifacts == run.artifacts
        assert not events(store, again.name, "not reproducible")


def test_the_decision_log_notices_any_change(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(3):
        store.decide("promote", {"version": number}, author="a person")
    path = store.decision_file(2)
    entry = json.loads(path.read_bytes())
    entry["facts"]["version"] = 7
    path.write_text(json.dumps(entry))
    with pytest.raises(Corrupt, match="entry 2"):
        store.decisions()


def test_unknown_runs_are_named_with_the_nearest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = run_recipe(recipe(), store)
    with pytest.raises(BadInput, match=run.name):
        read_run(store, run.name[:-1])
