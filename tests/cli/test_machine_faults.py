"""A machine that fails: said in one line; what was done stays done, and the rerun goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmwright.cli.main import main
from lmwright.core.durable import write_bytes
from lmwright.core.journal import read_journal
from lmwright.store import lease as leases
from lmwright.store.run import run_recipe
from lmwright.store.store import Store
from tests.store.test_run import events, recipe

ROOT = Path(__file__).parents[2]
ROWS = 400


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with the real stage data on a small made table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMWRIGHT_STORE", str(tmp_path / "store"))
    lines = [
        f"a tale of {n} lines that is {'fine' if n % 2 else 'dull'},{n % 2}" for n in range(ROWS)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ntask: text-classification\nstages:\n  data:\n    sources: "
        f"[{{name: some, path: {tmp_path}/rows.csv}}]\n    label_error_rows: 0\n"
    )
    return path


def call(*words: str) -> tuple[int, str]:
    """The real command in a process of its own: exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "lmwright.cli.main", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of the fault."""
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("lmwright: ")]
    assert len(lines) == 1 and "Traceback" not in err and "fault of lmwright" not in err, err
    return lines[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 1 MB on it."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.getuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
        ).returncode
    ):
        pytest.skip("this machine lacks the right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_told_and_the_rerun_goes_on(mine: Path, small_disk: Path) -> None:
    store = small_disk / "store"
    Store(store).database.close()
    filler = small_disk / "filler"
    with filler.open("wb") as stream:
        while os.statvfs(small_disk).f_bavail > 12:
            stream.write(b"\0" * 4096)
            stream.flush()
    code, line = call("run", str(mine), "--store", str(store))
    assert code == 1 and "Traceback" not in line and "fault of lmwright" not in line, line
    assert "wanted: a" in line and ("free" in line or "space" in line), line
    filler.unlink()
    assert call("run", str(mine), "--store", str(store))[0] == 0
    opened = Store(store)
    assert all(opened.verify(path.name) for path in (store / "artifacts").iterdir())
    assert [result.kind for result in opened.all_results()] == ["data"]
    opened.database.close()


def test_a_store_that_cannot_be_written_is_told(mine: Path, small_disk: Path, capsys) -> None:
    store = small_disk / "store"
    Store(store).database.close()
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    capsys.readouterr()
    assert main(["run", str(mine), "--store", str(store)]) == 1
    assert "wanted: a writable disk" in said(capsys)
    assert main(["run", str(mine), "--store", str(small_disk / "other")]) == 1
    assert "cannot be written" in said(capsys)


def test_a_disk_that_fills_in_the_middle_of_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    done = run_recipe(recipe(), store)
    before = store.decide("note", {})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lmwright.core.durable.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(store.decision_file(2), b"{}")
    with pytest.raises(Exception, match="No space left on device"):
        run_recipe(recipe(total={"seed": 5}), store)
    monkeypatch.undo()
    assert store.decisions() == [before]
    assert run_recipe(recipe(), store).artifacts == done.artifacts
    assert run_recipe(recipe(total={"seed": 5}), store).results["total"].attempt == 0
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_store_in_the_place_of_a_file_is_told(mine: Path, capsys) -> None:
    assert main(["run", str(mine), "--store", str(mine)]) == 1
    assert "cannot be written" in said(capsys)


def test_no_home_folder(mine: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"], "HOME": "/nowhere"}
    command = [sys.executable, "-m", "lmwright.cli.main"]
    done = subprocess.run(
        [*command, "run", str(mine)], env=environment, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_a_clock_set_back_changes_no_order(tmp_path: Path, monkeypatch) -> None:
    store = Store(tmp_path)
    now = time.time()
    names = []
    for hour in range(3):
        monkeypatch.setattr(time, "time", lambda hour=hour: now - 3600 * hour)
        monkeypatch.setattr(time, "strftime", lambda form, hour=hour: f"2026010{3 - hour}-000000")
        names.append(run_recipe(recipe(total={"seed": hour}), store).name)
        folder = tmp_path / "runs" / names[-1] / "run.json"
        os.utime(folder, (now - 3600 * hour,) * 2)
        store.decide("note", {"hour": hour})
    assert names == sorted(names, reverse=True)
    assert store.runs() == names
    assert [entry["facts"]["hour"] for entry in store.decisions()] == [0, 1, 2]


def test_a_clock_set_back_makes_no_holder_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = f"{leases.identity()} 1 1"
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 1000.0)
    assert not leases.gone(owner)
    host, pid, born = leases.identity().split()
    assert leases.gone(f"{host} {pid} {born}9 1 1")
    assert not leases.gone(f"elsewhere {pid} {born}9 1 1")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    theirs = f"{host} {child.pid} {leases.born(child.pid)} 1 1"
    assert not leases.gone(theirs)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert leases.gone(theirs), "a dead process that nobody has reaped is dead"
    child.communicate()
    assert leases.gone(theirs)


def start(mine: Path, *words: str) -> subprocess.Popen[bytes]:
    """The real command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "lmwright.cli.main", "run", str(mine), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_two_runs_at_once_in_two_processes(mine: Path) -> None:
    running = [start(mine) for _ in range(2)]
    told = [process.communicate(timeout=120)[0].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert (
        len({line.split()[-1] for one in told for line in one.splitlines() if "rows" in line}) == 1
    )
    store = Store(mine.parent / "store")
    assert sum(len(events(store, name, "stage ended")) for name in store.runs()) == 1


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_says_so_and_goes_on_later(mine: Path, stop: int) -> None:
    rows = mine.parent / "rows.csv"
    head, *lines = rows.read_text().splitlines()
    rows.write_text("\n".join([head, *(f"{n} {line}" for n in range(8) for line in lines)]))
    store = mine.parent / "store"
    process = start(mine)
    limit = time.monotonic() + 60
    while time.monotonic() < limit and not any(
        "stage began" in path.read_text() for path in store.glob("runs/*/journal.jsonl")
    ):
        time.sleep(0.02)
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + stop, err
    assert b"Traceback" not in err and b"interrupted; the same command goes on" in err
    (journal,) = store.glob("runs/*/journal.jsonl")
    ended = [event for event in read_journal(journal) if event["event"] == "run ended"]
    assert [event["state"] for event in ended] == ["interrupted"]
    opened = Store(store)
    assert not list(opened.all_results())
    if stop == signal.SIGTERM:
        assert call("run", str(mine))[0] == 0
        assert [result.kind for result in opened.all_results()] == ["data"]


def test_an_absent_extra_is_named(mine: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setenv("LMWRIGHT_DATABASE", "postgresql+psycopg://nobody@127.0.0.1/none")
    (mine.parent / "store" / "artifacts").mkdir(parents=True)
    assert main(["runs"]) == 1
    assert "-e '.[postgres]'" in said(capsys)
    monkeypatch.delenv("LMWRIGHT_DATABASE")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setenv("LMWRIGHT_REMOTE", "s3://bucket/folder")
    assert main(["runs"]) == 1
    assert "s3fs" in said(capsys)


def test_the_environment_names_a_remote(mine: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("LMWRIGHT_REMOTE", f"file://{mine.parent}/remote")
    assert main(["run", str(mine)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    shutil.rmtree(mine.parent / "store")
    assert main(["run", str(mine)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == first and "already done" in err
    content = json.loads(next((mine.parent / "remote").glob("results/*/0.json")).read_text())
    assert main(["show", content["outputs"]["rows"][:12]]) == 0
    assert "damaged" not in capsys.readouterr().out
