"""The stage promote: what it binds together, what it says of past decisions, and its ledger."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from lmwright.baselines.majority import Majority
from lmwright.cli.main import main
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Refused
from lmwright.core.hashing import hash_json
from lmwright.core.task import role_columns, task_to_json
from lmwright.data.corpus import FRAME, TASK, schema_of, write_rows
from lmwright.loop.detect import refuse_other_model
from lmwright.loop.gate import Gate
from lmwright.loop.promote import SAMPLED, Promote, short_ids, uses
from lmwright.metrics.calibration import Calibration
from lmwright.metrics.noninferiority import allowance
from lmwright.store import versions
from lmwright.store.run import REFUSED
from lmwright.store.store import Store
from lmwright.store.versions import current, history, move, read_version, roll_back
from lmwright.tasks.text_classification import TextClassification
from tests.small_recipe import write_recipe

ALIAS = "made@production"
WEAK = ("--set", "baselines.rows=30")
CLASSIFICATION = TextClassification(labels=("no", "yes"))
PASSES = [{"name": "quality", "passed": True}]


def test_a_rerun_after_a_rollback_says_that_nothing_was_promoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = str(write_recipe(tmp_path)), tmp_path / "store"
    store = Store(folder)

    def run(*more: str, code: int = 0) -> str:
        assert main(["run", recipe, "--store", str(folder), *more]) == code
        out = capsys.readouterr().out
        return next(line for line in out.splitlines() if ALIAS in line)

    refused = run(*WEAK, code=REFUSED)
    assert " refuse " in refused and "because of quality on rows/gate: not inferior" in refused
    assert refused.endswith("; superior is asked")
    again = run(*WEAK, code=REFUSED)
    assert "refused before (decision 1)" in again
    assert again.endswith(refused.partition("because of ")[2]), "for the same reasons"
    assert main(["show", store.runs()[0], "--store", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "accuracy 0." in shown and "macro-f1 0." in shown
    assert f"the gate of {ALIAS}: refused" in shown
    assert "fails  quality on rows/gate: not inferior" in shown
    assert store.decisions()[0]["facts"]["evidence"]["gate_rows"]["rows/gate"][0] not in shown
    weak = store.decisions()[0]["facts"]["version"]
    move(store, ALIAS, weak, {"by_hand": "a test"})
    assert " promote " in run()
    strong = current(store, ALIAS)
    assert strong is not None and strong.hash != weak
    assert " in place " in run()
    roll_back(store, ALIAS, "a test")
    before = len(store.decisions())
    line = run()
    assert "rolled back since" in line
    assert f"lmwright promote {ALIAS} {strong.id} --reason" in line
    assert len(store.decisions()) == before
    assert current(store, ALIAS).hash == weak  # type: ignore[union-attr]

    bound = read_version(store, strong.hash)
    detectors = store.artifact(bound["artifacts"]["detectors"])
    refuse_other_model(detectors, bound["model"])
    with pytest.raises(BadInput, match="fitted to the model"):
        refuse_other_model(detectors, read_version(store, weak)["model"])


def promote(**settings: Any) -> Promote:
    """The stage, as a recipe of the task makes it."""
    return Promote(task=CLASSIFICATION, **settings)


def rows(first: int, last: int) -> pa.Table:
    """Rows with ids as the data stage gives them: hashes."""
    ids = [hashlib.blake2b(b"%d" % k, digest_size=16).hexdigest() for k in range(first, last)]
    return pa.table({"id": sorted(ids)})


def judge(store: Store, in_service: bool = True, **places: pa.Table) -> None:
    """Log a decision that was judged by rows at places."""
    named = {place: short_ids(table)[:SAMPLED] for place, table in places.items()}
    store.decide("refuse", {"evidence": {"in_service": in_service, "gate_rows": named}})


def used(store: Store, table: pa.Table, in_service: bool = False) -> int:
    """How often the ledger says that rows were used."""
    return uses(store, set(short_ids(table)), in_service)


def test_old_rows_with_new_ones_beside_them_are_used_rows(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.decide("withdraw", {"source": "another kind of decision"})
    judge(store, fresh=rows(0, 450))
    assert used(store, rows(0, 450)) == 1
    assert used(store, rows(0, 900)) == 1, "old rows and new ones"
    assert used(store, rows(400, 850)) == 1, "a few old rows among new ones"
    assert used(store, rows(450, 900)) == 0
    judge(store, fresh=rows(450, 900), kept=rows(0, 450))
    assert used(store, rows(0, 450)) == 2, "as kept rows they served again"
    assert used(store, rows(0, 900)) == 2
    assert used(store, rows(450, 900)) == 1


def test_that_a_first_model_beat_a_baseline_counts_for_fresh_rows_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    judge(store, in_service=False, fresh=rows(0, 450))
    assert used(store, rows(0, 450)) == 1
    assert used(store, rows(0, 450), in_service=True) == 0
    judge(store, fresh=rows(450, 900), kept=rows(0, 450))
    assert used(store, rows(0, 450), in_service=True) == 1


def split(store: Store, table: pa.Table) -> str:
    """An artifact whose gate holds rows of two labels."""
    folder = store.temporary()
    columns = {name: table.column("id") for name in (*FRAME, "text")}
    columns["label"] = ["no", "yes"] * (len(table) // 2)
    schema = schema_of(role_columns(CLASSIFICATION, "input", "target"))
    write_rows(folder / "gate.parquet", schema, [pa.table(columns)])
    write_json(folder / TASK, task_to_json(CLASSIFICATION))
    return store.add_artifact(folder)


def version(store: Store, counts: tuple[int, int]) -> str:
    """A majority model as a version."""
    model, folder = store.temporary(), store.temporary()
    Majority(CLASSIFICATION, counts).save(model)
    bound = {"model": store.add_artifact(model), "calibration": Calibration().to_json()}
    write_json(folder / "version.json", bound)
    return store.add_artifact(folder)


def test_two_retrainings_spend_alpha_on_what_they_share(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stage = promote(gate=Gate(fresh="feedback/gate", kept=("rows/gate",), slices=None))
    incumbent, old = version(store, (5, 5)), split(store, rows(0, 200))
    alphas = []
    for number, fresh in enumerate((rows(200, 400), rows(200, 600), rows(600, 800))):
        artifacts = {"rows": old, "feedback": split(store, fresh)}
        candidate = version(store, (6 + number, 5))
        evidence = stage.judge(artifacts, store, candidate, incumbent, True)
        store.decide("refuse", {"evidence": evidence})
        by_name = {each["name"]: each["evidence"] for each in evidence["conditions"]}
        fresh_alpha = by_name["quality on feedback/gate"]["alpha"]
        alphas.append((fresh_alpha, by_name["not forgotten: rows/gate"]["alpha"]))
        assert len(evidence["gate_rows"]["feedback/gate"]) == SAMPLED
    steps = [allowance(0.05, used) for used in range(3)]
    assert alphas == [(steps[0], steps[0]), (steps[1], steps[1]), (steps[0], steps[2])]


def test_a_refusal_holds_for_the_rows_that_it_was_judged_by(tmp_path: Path) -> None:
    """Of the same candidate, incumbent and gate: other rows, of which one is another, are judged
    anew; the same ones are not."""
    store = Store(tmp_path)
    weak, candidate = version(store, (5, 5)), version(store, (6, 5))
    move(store, "reviews@production", weak, {})
    stage = promote(gate=Gate(claim="superior", slices=None))

    def act(table: pa.Table) -> str:
        artifacts = {"version": candidate, "rows": split(store, table)}
        recipe = SimpleNamespace(name="reviews")
        found = stage.act(recipe, artifacts, store, lambda event, **facts: None)
        return str(found["decision"])

    assert act(rows(0, 400)) == "refuse"
    assert act(rows(0, 400)) == "refused before (decision 2)"
    assert act(rows(0, 402)) == "refuse"
    assert act(rows(0, 402)) == "refused before (decision 3)"
    assert act(rows(0, 400)) == "refused before (decision 2)"


@pytest.mark.parametrize("first", [True, False], ids=["nothing there", "a version there"])
def test_an_alias_that_is_moved_while_the_gate_judges_is_judged_again(
    tmp_path: Path, monkeypatch, first: bool
) -> None:
    """A gate compares with what it saw; what a person put there meanwhile is compared too."""
    store = Store(tmp_path)
    weak, good, best = (version(store, (5 + k, 5)) for k in (0, 1, 2))
    if not first:
        move(store, "reviews@production", weak, {})
    rivals, recorded = [], []

    def judge(stage, artifacts, store, candidate, incumbent, in_service):
        rivals.append((incumbent, in_service))
        if len(rivals) == 1:
            move(store, "reviews@production", good, {"by_hand": "meanwhile"})
        return {
            "incumbent": incumbent,
            "asked": hash_json(asdict(stage.gate)),
            "conditions": PASSES,
        }

    monkeypatch.setattr(Promote, "judge", judge)
    recipe = SimpleNamespace(name="reviews")
    artifacts = {"version": best, "majority": "ab" * 32, "rows": split(store, rows(0, 200))}
    found = promote().act(
        recipe, artifacts, store, lambda event, **facts: recorded.append(event), "ann"
    )
    assert found["decision"] == "promote"
    assert rivals == [(("ab" * 32, False) if first else (weak, True)), (good, True)]
    assert "alias moved while the gate judged" in recorded
    assert [entry.hash for entry in history(store, "reviews@production")][-2:] == [good, best]
    assert store.decisions()[-1]["facts"]["before"] == good


def test_a_source_withdrawn_while_the_gate_judges_bars_the_version(
    tmp_path: Path, monkeypatch
) -> None:
    store = Store(tmp_path)
    best = version(store, (5, 5))

    def judge(stage, artifacts, store, candidate, incumbent, in_service):
        monkeypatch.setattr(versions, "sources_of", lambda store, content: {"web"})
        store.decide("withdraw", {"source": "web", "reason": "a test"})
        return {"incumbent": incumbent, "asked": "", "conditions": PASSES}

    monkeypatch.setattr(Promote, "judge", judge)
    artifacts = {"version": best, "majority": "ab" * 32, "rows": split(store, rows(0, 200))}
    with pytest.raises(Refused, match="learnt from web, which was withdrawn"):
        promote().act(
            SimpleNamespace(name="reviews"), artifacts, store, lambda event, **facts: None
        )
    assert current(store, "reviews@production") is None
