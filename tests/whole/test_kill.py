"""SIGKILL at any write, fsync or rename: the rerun ends with the same bits and a readable store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmwright.store.store import Store
from lmwright.store.versions import current

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STRIDE = 9
"""The ordinary run tries every ninth place, from another start each time the code changes it."""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that kills, compiled."""
    if shutil.which("cc") is None:
        pytest.skip("this machine lacks a C compiler")
    target = tmp_path_factory.mktemp("shim") / "kill_at.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", str(target), str(HERE / "kill_at.c"), "-ldl"],
        check=True,
        timeout=60,
    )
    return target


def run(folder: Path, *words: str, **extra: str) -> int:
    """Run the toy on a store in a process of its own, or another program: ``-c``, its text, …"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", **extra}
    done = subprocess.run(
        [sys.executable, *(words or ("-m", "tests.whole.toy_run")), str(folder)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        timeout=60,
    )
    if done.returncode > 0:
        raise AssertionError(done.stderr.decode())
    return done.returncode


def content(folder: Path) -> dict[str, set[str]]:
    """What a store holds: its artifacts, results and what the alias names."""
    store = Store(folder)
    artifacts = {path.name for path in (folder / "artifacts").iterdir()}
    assert all(store.verify(name) for name in artifacts)
    now = current(store, "toy@production")
    found = {
        "artifacts": artifacts,
        "results": {result.stamp for result in store.all_results()},
        "alias": {now.hash if now else ""},
        "state": {str(store.state("loop toy"))},
        "left": {path.name for path in (folder / "work").iterdir()},
    }
    store.database.close()
    return found


def killed_everywhere(shim: Path, tmp_path: Path, places: range) -> None:
    """Kill at each place, look at the store, run again, compare with a run left in peace."""
    run(tmp_path / "whole")
    wanted = content(tmp_path / "whole")
    for place in places:
        folder = tmp_path / f"at-{place}"
        assert run(folder, LD_PRELOAD=str(shim), KILL_AT=str(place)) == -9, place
        partial = content(folder)
        assert partial["artifacts"] <= wanted["artifacts"], place
        assert partial["results"] <= wanted["results"], place
        assert run(folder) == 0
        assert content(folder) == wanted, place
        shutil.rmtree(folder)


def count(shim: Path, tmp_path: Path) -> int:
    """How many places there are."""
    told = tmp_path / "count"
    assert run(tmp_path / "counted", LD_PRELOAD=str(shim), KILL_COUNT=str(told)) == 0
    return int(told.read_text())


def test_a_kill_at_every_ninth_place(shim: Path, tmp_path: Path) -> None:
    places = count(shim, tmp_path)
    assert places > 60
    killed_everywhere(shim, tmp_path, range(1 + places % STRIDE, places, STRIDE))


def test_a_kill_while_a_damaged_artifact_is_put_right(shim: Path, tmp_path: Path) -> None:
    add = (
        "import sys; from pathlib import Path; from lmwright.store.store import Store; "
        "Store(Path(sys.argv[1])).add_artifact(Path(sys.argv[1]) / 'tmp' / 'made')"
    )
    whole = tmp_path / "whole"
    (whole / "tmp" / "made").mkdir(parents=True)
    (whole / "tmp" / "made" / "numbers.json").write_text("[1, 2, 3]")
    store = Store(whole)
    damaged = store.artifact(store.add_artifact(whole / "tmp" / "made")) / "numbers.json"
    store.database.close()
    damaged.write_text("[1,")
    left: set[str] = set()
    for place in range(1, 99):
        folder = tmp_path / f"at-{place}"
        made = folder / "tmp" / "made"
        there = folder / damaged.relative_to(whole)
        shutil.copytree(whole, folder)
        made.mkdir()
        (made / "numbers.json").write_text("[1, 2, 3]")
        code = run(folder, "-c", add, LD_PRELOAD=str(shim), KILL_AT=str(place))
        left.add(there.read_text() if there.parent.exists() else "missing")
        assert len(list((folder / "artifacts").iterdir())) <= 1
        if code == 0:
            break
        made.mkdir(exist_ok=True)
        (made / "numbers.json").write_text("[1, 2, 3]")
        assert run(folder, "-c", add) == 0
        assert there.read_text() == "[1, 2, 3]", place
    assert code == 0 and left == {"[1,", "missing", "[1, 2, 3]"}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_kill_at_every_place(shim: Path, tmp_path: Path) -> None:
    killed_everywhere(shim, tmp_path, range(1, count(shim, tmp_path)))
