"""Promotion, roll-back, withdrawal, lineage, and what gc keeps."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lmwright.cli.main import main
from lmwright.core.errors import BadInput, Refused
from lmwright.core.recipe import make_recipe
from lmwright.core.stage import Stage, Work
from lmwright.store import run as runner
from lmwright.store.database import leases
from lmwright.store.gc import collect
from lmwright.store.lease import SWEEP, lease
from lmwright.store.run import run_recipe
from lmwright.store.store import Store
from lmwright.store.versions import (
    aliases,
    ancestors,
    current,
    descendants,
    history,
    learnt_from,
    move,
    reinstate,
    resolve_version,
    retire,
    roll_back,
    sources_of,
    withdraw,
    withdrawn,
)

ALIAS = "toy@production"


@dataclass(frozen=True, kw_only=True)
class Read(Stage):
    """Gives rows of some sources."""

    sources: tuple[str, ...] = ("ours",)

    def gives(self) -> tuple[str, ...]:
        return ("rows",)

    def learns_from(self) -> tuple[str, ...]:
        return self.sources

    def run(self, work: Work) -> dict[str, Any]:
        (work.out("rows") / "rows.json").write_text(json.dumps(self.sources))
        return {"learns_from": list(self.sources)}


@dataclass(frozen=True, kw_only=True)
class Learn(Stage):
    """Gives a model of the rows, and a version that names both."""

    def needs(self) -> tuple[str, ...]:
        return ("rows",)

    def gives(self) -> tuple[str, ...]:
        return ("model", "version")

    def run(self, work: Work) -> dict[str, Any]:
        rows = (work.inputs["rows"] / "rows.json").read_text()
        (work.out("model") / "model.json").write_text(json.dumps([rows, self.seed, noise()]))
        (work.out("version") / "version.json").write_text(json.dumps({"artifacts": {}, "r": rows}))
        (work.out("version") / "seed").write_text(f"{self.seed} {noise()}")
        return {}


@dataclass(frozen=True, kw_only=True)
class PutInPlace(Learn):
    """The same, and puts the version behind the alias."""

    def act(self, recipe: Any, artifacts: Any, store: Any, record: Any, author: str) -> Any:
        move(store, ALIAS, artifacts["version"], {"kind": "toy"})
        return {"decision": "promote"}


def noise() -> int:
    """What a stage that is not reproducible depends on beside its stamp."""
    return 0


def resolve(table: str, name: str) -> type[Stage]:
    return {"read": Read, "learn": Learn, "promote": PutInPlace}[name]


def make(
    store: Store,
    seed: int = 0,
    sources: tuple[str, ...] = ("ours",),
    name: str = "toy",
    again: bool = False,
):
    """Run read and learn."""
    raw = {"name": name, "stages": {"read": {"sources": sources}, "learn": {"seed": seed}}}
    return run_recipe(make_recipe(raw, "toy.yaml", resolve, ()), store, again)


def promote(store: Store, **settings: Any) -> str:
    """Make a version, promote it, return its hash."""
    version = make(store, **settings).artifacts["version"]
    move(store, ALIAS, version, {"kind": "toy"})
    return version


def test_an_alias_names_what_was_promoted_last(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert current(store, ALIAS) is None
    with pytest.raises(BadInput, match="nothing is behind"):
        resolve_version(store, ALIAS)
    first, second = promote(store, seed=1), promote(store, seed=2)
    assert resolve_version(store, ALIAS) == second == resolve_version(store, second[:12])
    assert [(v.hash, v.decision) for v in history(store, ALIAS)] == [(first, 1), (second, 2)]
    assert {name: v.hash for name, v in aliases(store).items()} == {ALIAS: second}
    with pytest.raises(BadInput, match=ALIAS):
        resolve_version(store, "toy@prodction")
    with pytest.raises(BadInput, match="no version"):
        resolve_version(store, make(store, seed=2).artifacts["model"])
    with pytest.raises(BadInput, match="no alias"):
        move(store, "../toy@x", first, {})


def test_rolling_back_twice_goes_back_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second, third = (promote(store, seed=seed) for seed in (1, 2, 3))
    assert roll_back(store, ALIAS, "bad")["facts"]["version"] == second
    assert roll_back(store, ALIAS, "worse")["facts"]["version"] == first
    with pytest.raises(Refused, match="no former version"):
        roll_back(store, ALIAS, "too far")
    move(store, ALIAS, third, {})
    assert roll_back(store, ALIAS, "again")["facts"]["version"] == first
    assert [v.action for v in history(store, ALIAS)] == [
        *["promote"] * 3,
        *["rollback"] * 2,
        "promote",
        "rollback",
    ]


def test_a_withdrawn_source_bars_promotion_and_rollback(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tainted = promote(store, seed=1, sources=("ours", "theirs"))
    clean = promote(store, seed=1)
    entry, touched = withdraw(store, "theirs", "asked to")
    assert entry["action"] == "withdraw" and withdrawn(store) == {"theirs"}
    made = make(store, seed=1, sources=("ours", "theirs")).artifacts
    assert set(touched) == set(made.values())
    assert clean not in touched
    with pytest.raises(Refused, match="theirs"):
        move(store, ALIAS, tainted, {})
    with pytest.raises(Refused, match="theirs"):
        roll_back(store, ALIAS, "bad")
    assert resolve_version(store, ALIAS) == clean
    with pytest.raises(BadInput, match="did you mean 'theirs'"):
        withdraw(store, "theirz", "")


def test_a_recipe_that_would_promote_a_withdrawn_source_is_refused_before_any_work(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    raw = {"name": "toy", "stages": {"read": {"sources": ["ours", "theirs"]}, "promote": {}}}
    recipe = make_recipe(raw, "toy.yaml", resolve, ())
    version = run_recipe(recipe, store).artifacts["version"]
    assert [row.why for row in runner.plan_recipe(recipe, store)] == [[], []]
    withdraw(store, "theirs", "asked to")
    runs = store.runs()
    with pytest.raises(Refused, match="read learns from theirs, which was withdrawn"):
        run_recipe(recipe, store)
    assert store.runs() == runs
    planned = runner.plan_recipe(recipe, store)
    assert [row.why for row in planned] == [["learns from theirs, which was withdrawn"], []]
    going_on = {**raw, "stages": {"promote": {}}, "artifacts": {"rows": version}}
    with pytest.raises(Refused, match="rows learns from theirs"):
        run_recipe(make_recipe(going_on, "toy.yaml", resolve, ()), store)
    make(store, sources=("ours", "theirs"))  # which promotes nothing
    with pytest.raises(BadInput, match="no reason"):
        reinstate(store, "theirs", " ")
    with pytest.raises(BadInput, match="did you mean 'theirs'"):
        reinstate(store, "their", "allowed again")
    entry = reinstate(store, "theirs", "allowed again", "ann")
    assert (entry["action"], entry["author"], withdrawn(store)) == ("reinstate", "ann", set())
    assert run_recipe(recipe, store).acts == {"promote": {"decision": "promote"}}
    withdraw(store, "theirs", "again")
    assert withdrawn(store) == {"theirs"}


def test_an_alias_that_is_retired_names_nothing_until_the_next_promotion(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = promote(store, seed=1), promote(store, seed=2)
    with pytest.raises(BadInput, match="nothing is behind"):
        retire(store, "toy@other", "")
    with pytest.raises(BadInput, match="no alias"):
        retire(store, second[:12], "")
    entry = retire(store, ALIAS, "the service ends", "ann")
    assert (entry["action"], entry["facts"]["before"]) == ("retire", second)
    assert current(store, ALIAS) is None and aliases(store) == {}
    with pytest.raises(BadInput, match="nothing is behind"):
        resolve_version(store, ALIAS)
    with pytest.raises(Refused, match="nothing is behind"):
        roll_back(store, ALIAS, "")
    collect(store, keep_runs=0)
    move(store, ALIAS, first, {})
    assert resolve_version(store, ALIAS) == first
    assert roll_back(store, ALIAS, "")["facts"]["version"] == second


def test_a_withdrawal_advises_what_can_be_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "store")
    promote(store, seed=1)
    promote(store, seed=1, sources=("theirs",))
    place = ("--store", str(tmp_path / "store"))
    assert main(["withdraw", "theirs", *place]) == 0
    assert f"or: lmwright rollback {ALIAS}" in capsys.readouterr().out
    assert main(["withdraw", "ours", *place]) == 0
    capsys.readouterr()
    assert main(["withdraw", "theirs", *place]) == 0
    assert f"or: lmwright retire {ALIAS}" in capsys.readouterr().out
    assert main(["retire", ALIAS, *place]) == 0
    assert f"nothing is behind {ALIAS} now" in capsys.readouterr().out
    assert main(["reinstate", "ours", "--reason", "a mistake", *place]) == 0
    assert withdrawn(store) == {"theirs"}


def test_a_withdrawn_version_in_the_middle_is_no_way_back_but_logged_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = promote(store, seed=1)
    promote(store, seed=1, sources=("theirs",))
    promote(store, seed=2)
    withdraw(store, "theirs", "")
    count = len(store.decisions())
    with pytest.raises(Refused):
        roll_back(store, ALIAS, "")
    assert len(store.decisions()) == count
    move(store, ALIAS, first, {"why": "by hand, past the barred one"})
    assert resolve_version(store, ALIAS) == first


def test_lineage_reads_both_ways(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = make(store, seed=1), make(store, seed=2)
    rows = one.artifacts["rows"]
    assert two.artifacts["rows"] == rows
    assert [r.kind for r in ancestors(store, one.artifacts["version"])] == ["learn", "read"]
    below = {h for result in descendants(store, rows) for h in result.outputs.values()}
    assert below == {run.artifacts[name] for run in (one, two) for name in ("model", "version")}
    assert sources_of(store, one.artifacts["model"]) == {"ours"}
    assert set(learnt_from(store, "ours")) == below | {rows}


def twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, str], dict[str, str]]:
    """What a recipe that is not reproducible gave first, and what it gave then."""
    first = make(store)
    monkeypatch.setattr("tests.store.test_versions.noise", lambda: 7)
    then = make(store, again=True)
    assert then.results["learn"].attempt == 1
    assert first.artifacts["rows"] == then.artifacts["rows"]
    assert first.artifacts["model"] != then.artifacts["model"]
    return first.artifacts, then.artifacts


def test_lineage_knows_what_came_out_when_it_was_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    first, then = twice(store, monkeypatch)
    for made, attempt in ((first, 0), (then, 1)):
        makers = store.makers(made["model"])
        assert [(result.kind, result.attempt) for result in makers] == [("learn", attempt)]
        assert [r.kind for r in ancestors(store, made["version"])] == ["learn", "read"]
        assert sources_of(store, made["model"]) == {"ours"}
    users = store.users(then["rows"])
    assert [(result.kind, result.attempt) for result in users] == [("learn", 0), ("learn", 1)]
    below = {h for result in descendants(store, then["rows"]) for h in result.outputs.values()}
    assert below == {made[name] for made in (first, then) for name in ("model", "version")}


def test_withdrawal_reaches_what_came_out_when_it_was_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    first, then = twice(store, monkeypatch)
    move(store, ALIAS, then["version"], {})
    _, touched = withdraw(store, "ours", "")
    assert set(touched) == {*first.values(), *then.values()}
    with pytest.raises(Refused, match="ours"):
        move(store, ALIAS, then["version"], {})


def test_gc_keeps_what_came_out_when_it_was_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    _, then = twice(store, monkeypatch)
    assert collect(store, keep_runs=1).artifacts == []
    move(store, ALIAS, then["version"], {})
    collect(store, keep_runs=0)
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == set(then.values())
    assert sources_of(store, then["version"]) == {"ours"}


def test_an_index_that_knew_first_attempts_only_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    _, then = twice(store, monkeypatch)
    with store.database.write() as connection:
        connection.exec_driver_sql("DROP TABLE edges")
        connection.exec_driver_sql(
            "CREATE TABLE edges (stamp VARCHAR(64), role VARCHAR(8), name VARCHAR(64), "
            "artifact VARCHAR(64) NOT NULL, PRIMARY KEY (stamp, role, name))"
        )
        connection.exec_driver_sql("DELETE FROM schema_version WHERE number > 1")
    assert [result.attempt for result in Store(tmp_path).makers(then["model"])] == [1]


def test_gc_keeps_what_aliases_need_and_removes_the_rest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    version = promote(store, seed=1)
    kept = set(make(store, seed=1).artifacts.values())
    loose = {make(store, seed=seed, sources=("x",)).artifacts["model"] for seed in range(2, 6)}
    (store.scratch("f" * 64) / "scratch").mkdir(parents=True)
    dry = collect(store, keep_runs=0, dry=True)
    assert loose <= set(dry.artifacts) and dry.work == ["f" * 64] and dry.freed > 0
    assert all(store.verify(content) for content in loose)
    swept = collect(store, keep_runs=0)
    assert swept == dry
    left = {path.name for path in (tmp_path / "artifacts").iterdir()}
    assert left == kept and version in left
    assert [r.kind for r in ancestors(store, version)] == ["learn", "read"]
    assert collect(store, keep_runs=0).artifacts == []
    assert not (tmp_path / "work" / ("f" * 64)).exists()


def test_gc_keeps_former_versions_and_the_last_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    versions = [promote(store, seed=seed) for seed in (1, 2)]
    recent = [make(store, seed=seed, name="other").artifacts["model"] for seed in (3, 4, 5)]
    collect(store, keep_runs=2)
    assert not store.has_artifact(recent[0])
    assert all(store.verify(content) for content in [*versions, *recent[1:]])
    assert roll_back(store, ALIAS, "")["facts"]["version"] == versions[0]


def test_gc_spares_a_running_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    model = make(store).artifacts["model"]
    scratch = store.scratch("e" * 64) / "scratch"
    scratch.mkdir(parents=True)
    with lease(store.database, "e" * 64):
        swept = collect(store, keep_runs=0)
        assert (swept.artifacts, swept.results, swept.work) == ([], [], [])
        assert scratch.exists() and store.verify(model)
    assert model in collect(store, keep_runs=0).artifacts
    assert not scratch.exists()


def test_gc_waits_for_the_beat_of_another_machine_and_not_for_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmwright.store.lease.PATIENCE", 0.5)
    store = Store(tmp_path)
    model = make(store).artifacts["model"]
    with store.database.write() as connection:
        row = {"stamp": "d" * 64, "owner": "elsewhere 7 7 1 1", "beat": 3}
        connection.execute(leases.insert().values(**row))
    alive = threading.Timer(0.2, beat_once, (store,))
    alive.start()
    assert collect(store, keep_runs=0).artifacts == []
    alive.join()
    assert model in collect(store, keep_runs=0).artifacts


def beat_once(store: Store) -> None:
    """What a living holder does."""
    with store.database.write() as connection:
        connection.execute(leases.update().values(beat=leases.c.beat + 1))


def test_a_run_that_begins_during_a_sweep_waits_for_its_end(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(make(Store(tmp_path))))
    with lease(store.database, SWEEP):
        thread.start()
        thread.join(0.8)
        assert not made and not list((tmp_path / "artifacts").iterdir())
    thread.join(20)
    assert store.verify(made[0].artifacts["model"])


def test_gc_between_two_stages_of_a_run_takes_nothing_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    whole, step = runner.run_step, threading.local()

    def swept_before(*arguments: Any) -> Any:
        if getattr(step, "second", False):
            collect(Store(tmp_path), keep_runs=0)
        step.second = True
        return whole(*arguments)

    monkeypatch.setattr(runner, "run_step", swept_before)
    run = make(store)
    assert all(store.verify(content) for content in run.artifacts.values())
