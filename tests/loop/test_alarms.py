"""Alarms: each event reaches its receiver at least once, and no receiver holds anything up."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import generate_latest

from lmwright.cli.main import main
from lmwright.core.errors import BadInput
from lmwright.core.recipe import make_recipe, read_yaml
from lmwright.loop import alarms
from lmwright.loop.alarms import PAUSES, Command, Notifier, Webhook, event_of
from lmwright.store.states import alarms_of
from lmwright.store.store import Store
from lmwright.tables import SECTIONS, resolve
from tests.loop.test_controller import ALIAS, DRIFT, RECIPE, House, passed, to_training, version
from tests.waiting import until

EVENT = event_of("alarmed", ALIAS, "0" * 16, {"since": 1.0, "reason": "drift", "labels": 3})


class Receiver(HTTPServer):
    """A receiver on loopback that answers with ``statuses`` in turn, then with 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.got: list[dict[str, Any]] = []

    def url(self, path: str = "/hook?room=1") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append({"path": self.path, **json.loads(body)})
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("Location", self.server.url("/elsewhere"))
        self.end_headers()

    def log_message(self, *given: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, as many as there are."""
    assert len(PAUSES) > 5 and sum(PAUSES) > 6 * 3600
    monkeypatch.setattr(alarms, "PAUSES", (0.05, 0.1, 0.2))


def counted(store: Store) -> dict[str, Any]:
    """Deliveries by outcome."""
    found = alarms_of(store, ALIAS)
    assert found is not None
    return {name: found[name] for name in ("sent", "pending", "failed")}


def test_a_receiver_that_fails_twice_gets_the_same_event_until_it_takes_it(
    receiver: Receiver, tmp_path: Path
) -> None:
    store, receiver.statuses = Store(tmp_path), [503, 302]
    notifier = Notifier(store, ALIAS, [Webhook(webhook=receiver.url())])
    notifier.take([EVENT])
    assert counted(store) == {"sent": 0, "pending": 1, "failed": 0}, "written before it goes"
    notifier.begin()
    until(lambda: counted(store)["sent"])
    assert counted(store) == {"sent": 1, "pending": 0, "failed": 0}
    assert receiver.got == [{"path": "/hook?room=1", **EVENT}] * 3, "no redirect is followed"
    assert "labels" not in EVENT and EVENT["reason"] == "drift"
    notifier.close()


def test_a_command_that_hangs_is_ended_and_holds_nothing_up(
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(alarms, "SECONDS", 0.3)
    house, mark = House(tmp_path / "store"), f"{tmp_path}/hanging"
    hanging = Command(command=("sh", "-c", f"cat > {mark}; sleep 300 & sleep 300"))
    controller = house.controller
    controller.notifier = Notifier(house.store, ALIAS, [hanging, Webhook(webhook=receiver.url())])
    controller.service.registry.register(controller.notifier)
    controller.notifier.begin()
    controller.scores = [DRIFT] * 3
    began = time.monotonic()
    controller.tick()
    controller.tick()
    assert time.monotonic() - began < 2.0
    until(lambda: receiver.got)
    until(lambda: counted(house.store)["failed"])
    assert counted(house.store) == {"sent": 1, "pending": 0, "failed": 1}
    assert json.loads(Path(mark).read_text()) == {
        name: value for name, value in receiver.got[0].items() if name != "path"
    }
    left = [each for each in psutil.process_iter(["cmdline"]) if mark in str(each.info["cmdline"])]
    assert left == [], "its children went with it"
    said = generate_latest(controller.service.registry).decode()
    assert 'lmwright_alarms_total{outcome="failed"} 1.0' in said
    assert 'lmwright_alarms_total{outcome="sent"} 1.0' in said
    assert "lmwright_alarms_pending 0.0" in said
    assert main(["show", ALIAS, "--store", str(tmp_path / "store")]) == 0
    shown = capsys.readouterr().out
    assert "alarms: 1 sent, 0 pending, 1 failed for good" in shown
    assert "given up: alarmed to command sh: took more than 0.3 s" in shown
    controller.notifier.close()
    house.close()


CHILD = """
import sys
from pathlib import Path
from lmwright.loop.alarms import Command, Notifier
from lmwright.store.store import Store
notifier = Notifier(Store(Path(sys.argv[1])), "reviews@production", [Command(command=sys.argv[2:])])
notifier.begin()
notifier.threads[0].join(60)
"""
KILLS = """
import os, signal, sys
path = sys.argv[1]
first = not os.path.exists(path)
with open(path, "a") as file:
    file.write(sys.stdin.read() + "\\n")
if first:
    os.kill(os.getppid(), signal.SIGKILL)
"""


def test_a_kill_between_the_attempt_and_its_record_sends_the_same_event_again(
    tmp_path: Path,
) -> None:
    got, store = tmp_path / "got", Store(tmp_path / "store")
    command = Command(command=(sys.executable, "-c", KILLS, str(got)))
    Notifier(store, ALIAS, [command]).take([EVENT])
    words = [sys.executable, "-c", CHILD, str(store.folder), *command.command]
    assert subprocess.run(words, timeout=120).returncode == -9
    assert counted(store) == {"sent": 0, "pending": 1, "failed": 0}
    notifier = Notifier(store, ALIAS, [command])
    notifier.begin()
    until(lambda: counted(store)["sent"])
    assert [json.loads(line) for line in got.read_text().splitlines()] == [EVENT] * 2
    notifier.close()


def test_a_kill_between_the_state_and_the_delivery_loses_no_event(tmp_path: Path) -> None:
    got = tmp_path / "got"
    told = [Command(command=("sh", "-c", f"cat >> {got}; echo >> {got}"))]
    house = House(tmp_path / "store")
    house.controller.notifier = Notifier(house.store, ALIAS, told)
    house.controller.scores = [DRIFT] * 3
    house.controller.tick()
    assert house.controller.state["at"] == "alarmed"
    assert alarms_of(house.store, ALIAS) is None, "only the state is written"
    house.close()
    again = House(tmp_path / "store")  # what a server would go on from after a SIGKILL here
    again.controller.notifier = Notifier(again.store, ALIAS, told)
    again.controller.notifier.begin()
    events = again.controller.state["events"]
    again.controller.hand_over()
    again.controller.notifier.take(events)  # handed over, and killed before that was written
    until(lambda: counted(again.store)["sent"])
    assert again.controller.state["events"] == []
    ids = {json.loads(line)["id"] for line in got.read_text().splitlines()}
    assert ids == {events[0]["id"]}
    again.controller.notifier.close()
    again.close()


@pytest.mark.parametrize("end", ["swapped", "kept", "failed"])
def test_the_ends_of_a_retraining_are_told(tmp_path: Path, end: str) -> None:
    house = House(tmp_path)
    house.controller.notifier = Notifier(house.store, ALIAS, [Command(command=("true",))])
    to_training(house)
    if end == "swapped":
        passed(house, version(house.store, 20))
    for _ in range(4 if end == "failed" else 1):
        house.started[-1][1].code = int(end == "failed")
        house.controller.tick()
        house.controller.again = float("-inf")
        house.controller.tick()
    house.controller.hand_over()
    told = [item["event"]["event"] for item in house.controller.notifier.state["pending"]]
    assert told[:2] == ["alarmed", end]
    house.close()


def test_without_a_retraining_an_alarm_is_raised_too(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.controller.settings = None
    house.controller.notifier = Notifier(house.store, ALIAS, [Command(command=("true",))])
    for _ in range(2):
        house.controller.scores = [DRIFT] * 3
        house.controller.tick()
        house.controller.tick()
        assert house.controller.state["at"] == "alarmed"
        house.controller.scores = [{"length": {"over": False}}] * 6
        house.controller.tick()
        assert house.controller.state["at"] == "observed"
    told = [item["event"]["event"] for item in house.controller.notifier.state["pending"]]
    assert told == ["alarmed"] * 2
    house.close()


def test_what_waits_for_an_alarm_that_is_gone_is_given_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    Notifier(store, ALIAS, [Command(command=("false",))]).take([EVENT])
    notifier = Notifier(store, ALIAS, [])
    notifier.begin()
    assert counted(store) == {"sent": 0, "pending": 0, "failed": 1}


def test_a_clock_that_is_set_back_keeps_no_event(tmp_path: Path) -> None:
    store = Store(tmp_path)
    told = [Command(command=("true",))]
    Notifier(store, ALIAS, told).take([EVENT])
    state = store.state(f"alarms {ALIAS}")
    assert state is not None
    state["pending"][0] |= {"attempts": 1, "after": time.time() + 86400}
    store.set_state(f"alarms {ALIAS}", state)
    notifier = Notifier(store, ALIAS, told)
    notifier.begin()
    until(lambda: counted(store)["sent"], 10)
    notifier.close()


def read(watch: dict[str, Any]) -> Any:
    """The section watch of the quickstart with these settings."""
    raw = read_yaml(RECIPE)
    raw["watch"] |= watch
    return make_recipe(raw, "quickstart", resolve, SECTIONS).sections["watch"]


def test_alarms_are_read_from_the_recipe() -> None:
    hook = "https://hooks.example.org/a?b=c"
    asked = [{"command": ["notify", "-x"]}, {"webhook": hook}, {"webhook": "http://localhost:9/"}]
    watch = read({"alarms": asked, "hosts": ["hooks.example.org"]})
    assert watch.alarms == (
        Command(command=("notify", "-x")),
        Webhook(webhook=hook),
        Webhook(webhook="http://localhost:9/"),
    )
    assert replace(watch, alarms=(), hosts=()) == read({})


@pytest.mark.parametrize(
    ("alarm", "said"),
    [
        ({"webhook": "https://elsewhere.example.org/"}, "add elsewhere.example.org to watch.hosts"),
        ({"webhook": "http://hooks.example.org/"}, "use https"),
        ({"webhook": "ftp://127.0.0.1/"}, "use https"),
        ({"webhook": "https://hooks.example.org@elsewhere.org/"}, "address that is none"),
        ({"webhook": "hooks.example.org"}, "address that is none"),
        ({"webhook": "https://[::1/"}, "address that is none"),
        ({"webhook": "https://hooks.example.org.elsewhere.org/"}, "watch.hosts"),
        ({"command": []}, "an empty command"),
        ({"command": "notify"}, "alarms.*a list"),
        ({"webhok": "http://localhost/"}, "'alarms.0.webhok'.*did you mean 'webhook'"),
        (
            {"webhook": "http://localhost/", "command": ["a"]},
            "webhook beside another kind",
        ),
        ("notify", "alarms"),
    ],
)
def test_what_must_not_be_told_is_refused_when_the_recipe_is_read(alarm: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read({"alarms": [alarm], "hosts": ["hooks.example.org"]})
