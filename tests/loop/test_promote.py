"""The stage promote: what it binds together, and what it says of decisions that were taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmwright.cli.main import main
from lmwright.core.errors import BadInput
from lmwright.loop.detect import refuse_other_model
from lmwright.store.store import Store
from lmwright.store.versions import current, move, read_version, roll_back
from tests.small_recipe import write_recipe

ALIAS = "made@production"
WEAK = ("--set", "baselines.rows=30")


def test_a_rerun_after_a_rollback_says_that_nothing_was_promoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = str(write_recipe(tmp_path)), tmp_path / "store"
    store = Store(folder)

    def run(*more: str) -> str:
        assert main(["run", recipe, "--store", str(folder), *more]) == 0
        out = capsys.readouterr().out
        return next(line for line in out.splitlines() if ALIAS in line)

    assert " refuse " in run(*WEAK)
    assert "refused before (decision 1)" in run(*WEAK)
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
