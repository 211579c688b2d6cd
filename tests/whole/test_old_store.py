"""A store written by an earlier version of lmwright (tests/old_store): all of it still works."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lmwright.cli.main import main
from lmwright.old_format import READERS
from lmwright.serve.load import answer_rows, load_version
from lmwright.store.run import REFUSED
from lmwright.store.store import Store
from lmwright.store.versions import aliases, history

OLD = Path(__file__).parents[1] / "old_store"
ALIAS = "reviews@production"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the old store, its table, its start and its recipe, as the current one."""
    with tarfile.open(OLD / "store.tar.gz") as packed:
        packed.extractall(tmp_path)
    for name in ("talk.csv", "old.yaml"):
        shutil.copy(OLD / name, tmp_path / name)
    shutil.copytree(OLD / "start", tmp_path / "start")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMWRIGHT_STORE", str(tmp_path / "store"))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints; it must end with ``code``."""
    capsys.readouterr()
    ended = main(words)
    out = capsys.readouterr()
    assert ended == code, out.err
    return out.out + out.err


def artifacts(home: Path) -> dict[str, bytes]:
    """Every file of every artifact."""
    folder = home / "store" / "artifacts"
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_opens_and_its_decision_chain_holds(home: Path) -> None:
    store = Store(home / "store")
    assert [entry["action"] for entry in store.decisions()] == ["promote", "refuse", "promote"]
    assert all(store.verify(path.name) for path in (home / "store" / "artifacts").iterdir())
    assert list(aliases(store)) == [ALIAS]
    assert len(history(store, ALIAS)) == 2


@pytest.mark.parametrize("version", [0, 1])
def test_its_models_give_the_same_answers(home: Path, version: int) -> None:
    store = Store(home / "store")
    wanted = json.loads((OLD / "golden.json").read_text())["answers"]
    named = history(store, ALIAS)[version].hash
    loaded = load_version(store, named)
    answers = answer_rows(loaded, [{"text": row["text"]} for row in wanted])
    given = [answer["probabilities"] for answer in answers]
    same = [row["version"] == named[:16] for row in wanted]
    assert all(same) or not any(same)
    if not all(same):
        assert any(each != row["probabilities"] for each, row in zip(given, wanted, strict=True))
        return
    assert [answer["label"] for answer in answers] == [row["label"] for row in wanted]
    for each, row in zip(given, wanted, strict=True):
        assert list(each) == list(row["probabilities"])
        np.testing.assert_allclose(list(each.values()), list(row["probabilities"].values()), 1e-5)


def test_lineage_leads_both_ways(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = json.loads(said(capsys, "lineage", ALIAS))["steps"]
    assert {"data", "train", "evaluate", "promote"} <= {step["kind"] for step in steps}
    found = json.loads(said(capsys, "lineage", "talk"))
    answer = next(iter(found["answers"].values()))["ids"][0]
    back = json.loads(said(capsys, "lineage", answer))
    learnt = {step["kind"]: step for step in back["steps"]}["train"]["learnt_rows"]["model"]
    assert learnt["sources"]["talk"]["rows"] == learnt["rows"] > 0


def test_runs_show_and_report_read_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(said(capsys, "runs").splitlines()) == 3
    for name in ("", ALIAS, Store(home / "store").runs()[0]):
        assert said(capsys, "show", *filter(None, [name]))
    said(capsys, "report", ALIAS, "--out", "report.html")
    page = (home / "report.html").read_text()
    assert ALIAS in page
    for drawn in ("Confusion on test", "Reliability on test", "Drift of embedding"):
        assert f'aria-label="{drawn}"' in page
    for check in ("counterfactual", "personal", "perturbation", "slices"):
        assert f"<h3>{check} <span" in page
    assert "small_talk 98.2 %" in page and "the other" in page
    said(capsys, "card", ALIAS, "--out", "cards")
    card = json.loads((home / "cards" / "model-card.json").read_text())
    assert card["task"]["labels"] == ["coding", "small_talk", "tech_support"]
    data = json.loads((home / "cards" / "data-card.json").read_text())
    assert set(data["splits"]) == {"train", "validation", "calibration", "gate", "test"}


def test_what_is_read_of_it_is_of_todays_format(home: Path) -> None:
    """Reading it a second time changes nothing, so that a new artifact stays as it is."""
    changed = set()
    for path in (home / "store" / "artifacts").rglob("*.json"):
        if path.name in READERS:
            raw = json.loads(path.read_bytes())
            once = READERS[path.name](raw)
            assert READERS[path.name](once) == once, path.name
            changed |= {path.name} if once != raw else set()
    assert changed == set(READERS)


def test_rollback_withdraw_and_gc(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = artifacts(home)
    first = history(Store(home / "store"), ALIAS)[0]
    assert first.id in said(capsys, "rollback", ALIAS)
    said(capsys, "gc", "--dry")
    assert artifacts(home) == before
    said(capsys, "gc", "--keep-runs", "1")
    kept = artifacts(home)
    assert kept.items() <= before.items()
    question = {"text": "how do I sort a list?"}
    assert answer_rows(load_version(Store(home / "store"), ALIAS), [question])
    assert "train" in said(capsys, "withdraw", "talk", "--reason", "a test")


def test_its_recipe_runs_and_its_results_are_stale_not_wrong(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The killed run too: its checkpoint is gone on from where the stamp is the same, else not."""
    before = artifacts(home)
    store = Store(home / "store")
    known = {result.stamp for result in store.all_results()}
    told = said(
        capsys, "run", "old.yaml", "--set", "train.epochs=1", "--set", "train.rows=64", code=REFUSED
    )
    assert "run reviews-" in told
    for path, data in before.items():
        assert Path(path).read_bytes() == data
    fresh = [result for result in store.all_results() if result.stamp not in known]
    assert {"train", "evaluate", "promote"} <= {result.kind for result in fresh}
