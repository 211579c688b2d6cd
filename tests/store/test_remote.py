"""A store shared through an object store: nothing half, nothing lost, one log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import fsspec
import pytest

from lmwright.core.errors import BadInput, Corrupt, LmwrightError, MissingPart
from lmwright.store.gc import collect
from lmwright.store.remote import Remote
from lmwright.store.run import run_recipe
from lmwright.store.store import Store
from tests.store import test_run
from tests.store.breaking import Breaking
from tests.store.s3 import s3_server
from tests.store.test_run import events, recipe

ROOT = Path(__file__).parents[2]
S3 = pytest.param("s3", marks=pytest.mark.long)
"""Its server and driver are no part of the test environment; the long run says so if absent."""


@pytest.fixture(params=["file", "memory", S3])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty remote of each kind."""
    if request.param == "file":
        return f"file://{tmp_path}/remote"
    name = f"store-{uuid.uuid4().hex}"
    if request.param == "s3":
        request.getfixturevalue("s3_address")
        fsspec.filesystem("s3").mkdir(name)
    return f"{request.param}://{name}/folder"


@pytest.fixture(scope="session")
def s3_address():
    """A server of the S3 protocol on loopback, and the environment that leads there."""
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield address


def whole(url: str) -> dict[str, set[str]]:
    """What a remote holds; every manifest's artifacts must be there, whole."""
    place = Remote(url)
    manifests = place.names("results")
    for name in manifests:
        for content in json.loads(place.read(f"results/{name}"))["outputs"].values():
            assert place.has(f"artifacts/{content}.json"), name
    log = [json.loads(place.read(f"decisions/{name}")) for name in place.names("decisions")]
    assert [entry["number"] for entry in log] == list(range(1, len(log) + 1))
    return {"artifacts": set(place.artifacts("")), "results": set(manifests)}


def test_another_folder_takes_over_what_was_done(tmp_path: Path, remote: str) -> None:
    here = Store(tmp_path / "here", remote=remote)
    run = run_recipe(recipe(), here)
    here.decide("promote", {"alias": "toy@production", "version": run.artifacts["total"]})
    there = Store(tmp_path / "there", remote=remote)
    assert there.decisions() == here.decisions()
    assert [r.kind for r in there.users(run.artifacts["numbers"])] == ["total"]
    assert there.find(run.artifacts["total"][:8]) == run.artifacts["total"]
    again = run_recipe(recipe(), there)
    assert again.artifacts == run.artifacts
    assert len(events(there, again.name, "stage reused")) == 2
    assert not any((tmp_path / "there" / "artifacts").iterdir())
    assert all(there.verify(content) for content in run.artifacts.values())
    further = run_recipe(recipe(total={"seed": 3}), there)
    assert here.result(further.results["total"].stamp).facts == further.results["total"].facts


def test_what_is_swept_here_comes_back_from_there(tmp_path: Path, remote: str) -> None:
    store = Store(tmp_path / "here", remote=remote)
    run = run_recipe(recipe(), store)
    assert set(collect(store, keep_runs=0).artifacts) == set(run.artifacts.values())
    assert all(store.verify(content) for content in run.artifacts.values())
    assert run_recipe(recipe(), store).artifacts == run.artifacts


def test_a_store_that_was_alone_is_pushed_when_it_gets_a_remote(
    tmp_path: Path, remote: str
) -> None:
    alone = Store(tmp_path / "here")
    run = run_recipe(recipe(), alone)
    alone.decide("note", {})
    shared = Store(tmp_path / "here", remote=remote)
    assert len(events(shared, run_recipe(recipe(), shared).name, "stage reused")) == 2
    assert whole(remote)["artifacts"] == set(run.artifacts.values())
    assert len(Store(tmp_path / "there", remote=remote).decisions()) == 1


@pytest.mark.parametrize("remote", ["file", S3], indirect=True)  # memory's create is not atomic
def test_many_writers_make_one_log(tmp_path: Path, remote: str) -> None:
    stores = [Store(tmp_path / str(place), remote=remote) for place in range(3)]
    threads = [
        threading.Thread(target=lambda s=store: [s.decide("note", {"n": n}) for n in range(4)])
        for store in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    log = Store(tmp_path / "reader", remote=remote).decisions()
    assert [entry["number"] for entry in log] == list(range(1, 13))
    assert sorted(entry["facts"]["n"] for entry in log) == sorted([*range(4)] * 3)


def test_a_name_is_given_once(remote: str, tmp_path: Path) -> None:
    place = Remote(remote)
    assert place.create("decisions/00000001.json", b"one") is True
    assert place.create("decisions/00000001.json", b"two") is False
    assert place.read("decisions/00000001.json") == b"one"
    assert place.read("decisions/00000002.json") is None
    assert place.names("nothing") == []


def test_logs_that_parted_are_noticed(tmp_path: Path, remote: str) -> None:
    Store(tmp_path / "one", remote=remote).decide("note", {"n": 1})
    other = Store(tmp_path / "two")
    other.decide("note", {"n": 2})
    with pytest.raises(Corrupt, match="are two"):
        Store(tmp_path / "two", remote=remote)


def test_a_different_outcome_elsewhere_comes_first(
    tmp_path: Path, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Store(tmp_path / "mine")
    ours = run_recipe(recipe(), mine)
    monkeypatch.setattr("tests.store.toy.scaled", lambda total: total * 4)
    theirs = run_recipe(recipe(), Store(tmp_path / "theirs", remote=remote))
    shared = Store(tmp_path / "mine", remote=remote)
    stamp = ours.results["total"].stamp
    assert shared.result(stamp).outputs == theirs.results["total"].outputs
    assert shared.read_result(stamp, 1).outputs == ours.results["total"].outputs
    assert f"{stamp}/1.json" in whole(remote)["results"]
    for store in (shared, Store(tmp_path / "third", remote=remote)):
        for attempt, run in enumerate((theirs, ours)):
            (maker,) = store.makers(run.artifacts["total"])
            assert (maker.stamp, maker.attempt) == (stamp, attempt)


def test_damage_at_the_remote_is_refused(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote"
    run = run_recipe(recipe(), Store(tmp_path / "here", remote=url))
    content = run.artifacts["numbers"]
    manifest = tmp_path / "remote" / "artifacts" / f"{content}.json"
    files = json.loads(manifest.read_bytes())
    blob = tmp_path / "remote" / "blobs" / files["numbers.json"]["sha256"]
    blob.write_bytes(b"[1]")
    there = Store(tmp_path / "there", remote=url)
    with pytest.raises(Corrupt, match="damaged at file"):
        there.artifact(content)
    assert not (tmp_path / "there" / "artifacts" / content).exists()
    manifest.write_text(json.dumps({"../../escaped": files["numbers.json"]}))
    with pytest.raises(Corrupt, match="manifest"):
        there.artifact(content)
    assert not list(tmp_path.rglob("escaped"))


def test_a_remote_that_cannot_be_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="address of fsspec"):
        Remote("nosuch://place")
    with pytest.raises(MissingPart, match="install"):
        Remote("dropbox://place")
    (tmp_path / "file").write_text("")
    with pytest.raises(LmwrightError, match="mend it and run again"):
        run_recipe(recipe(), Store(tmp_path / "here", remote=f"file://{tmp_path}/file/x"))


def test_a_write_that_fails_at_any_place_is_mended_by_the_rerun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = run_recipe(recipe(), Store(tmp_path / "alone")).artifacts
    places = 0
    while True:
        places += 1
        monkeypatch.setattr(Breaking, "left", places)
        monkeypatch.setattr(Breaking, "count", 0)
        folder, url = tmp_path / f"at-{places}", f"breaking://{tmp_path}/remote-{places}"
        try:
            run_recipe(recipe(), Store(folder, remote=url))
        except LmwrightError as error:
            assert "the line was cut" in str(error)
        else:
            break
        left = whole(url)
        assert left["artifacts"] <= set(wanted.values())
        store = Store(folder, remote=url)
        rerun = run_recipe(recipe(), store)
        assert len(events(store, rerun.name, "stage reused")) >= 1, "work done is not done again"
        assert whole(url)["artifacts"] == set(wanted.values())
        there = Store(tmp_path / f"there-{places}", remote=url)
        assert all(there.verify(content) for content in wanted.values())
    assert places > 6


def test_a_push_that_is_killed_anywhere_loses_nothing(tmp_path: Path) -> None:
    def run(folder: str, **extra: str) -> tuple[int, dict]:
        url = f"breaking://{tmp_path}/remote-{folder}"
        done = subprocess.run(
            [sys.executable, "-m", "tests.store.toy_process", tmp_path / folder, "", url, "3"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", **extra},
            capture_output=True,
            timeout=60,
        )
        assert done.returncode in (0, -9), done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else {}

    wanted = run("whole")[1]
    for place in range(2, 20, 3):
        code, _ = run(f"at-{place}", BREAK_AT=str(place), BREAK_KILLS="1")
        if code == 0:
            break
        whole(f"breaking://{tmp_path}/remote-at-{place}")
        code, told = run(f"at-{place}")
        assert (code, told["artifacts"]) == (0, wanted["artifacts"])
        assert whole(f"breaking://{tmp_path}/remote-at-{place}") == whole(
            f"breaking://{tmp_path}/remote-whole"
        )
    assert 6 < place < 20


@pytest.mark.parametrize(
    "test",
    [
        test_run.test_a_second_run_reuses_every_result,
        test_run.test_two_runs_at_once_do_the_work_once,
        test_run.test_the_decision_log_notices_any_change,
    ],
)
def test_the_store_does_the_same_with_a_remote(
    test, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/remote"
    monkeypatch.setattr(test_run, "Store", lambda folder: Store(folder / "local", remote=url))
    test(tmp_path)
