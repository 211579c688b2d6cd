"""Alarms: the loop's events, told to people by a command or a webhook, each at least once.

What is to be told is written down in the same step as the state that it tells of, and handed over
to deliveries, which are a state of their own: a kill between an attempt and its record makes the
same event come again, under the same id, and none is ever lost. Deliveries run on threads of their
own, so that no slow receiver holds anything else up.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_json
from lmwright.core.stage import Settings
from lmwright.hosted.endpoint import Limits, TimedConnection, is_loopback
from lmwright.store.states import alarms_name
from lmwright.store.store import Store

log = logging.getLogger("lmwright.serve")

SECONDS = 30.0
"""The longest that a command may take."""
LIMITS = Limits(idle_timeout=10.0, timeout=20.0)
"""Of a webhook's request."""
PAUSES = (2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 7200.0, 7200.0)
"""Seconds before each further attempt; after the last one the event is given up."""
KEPT = 20
"""So many of the events that were given up are remembered."""
LEAVE = 2.0
"""Seconds that deliveries under way have when a server ends; they come again with the next one."""


@dataclass(frozen=True, kw_only=True)
class Command(Settings):
    """An alarm that runs a command with the event as JSON on its standard input.

    ``command``  its words; no shell reads them. Exit code 0 within 30 seconds is success.
    """

    command: tuple[str, ...]

    @property
    def label(self) -> str:
        """What it is called in logs."""
        return f"command {self.command[0]}"

    def refuse(self, hosts: Sequence[str]) -> None:
        """BadInput for a command without words."""
        if not self.command or not self.command[0]:
            raise BadInput("watch.alarms: an empty command", "a program and its arguments")

    def deliver(self, event: bytes, stopped: threading.Event) -> str | None:
        """Run it once; an empty text, why it failed, or None when it was stopped."""
        with tempfile.TemporaryFile() as given:
            given.write(event)
            given.seek(0)
            try:
                process = subprocess.Popen(
                    self.command,
                    stdin=given,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                return f"cannot be run: {error.strerror}"
        until = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < until and not stopped.wait(0.05):
            pass
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None if stopped.is_set() else f"took more than {SECONDS:g} s"
        return f"exit code {process.returncode}" if process.returncode else ""


@dataclass(frozen=True, kw_only=True)
class Webhook(Settings):
    """An alarm that posts the event as JSON to a URL.

    ``webhook``  the URL: https to one of ``watch.hosts``, or to this machine, which http may reach
                 too. Redirects are not followed, proxies not used. A status of 200 to 299 is
                 success. The recipe is kept and reported: no secret may stand in it.
    """

    webhook: str

    @property
    def label(self) -> str:
        """What it is called in logs: its host."""
        return f"webhook {urlsplit(self.webhook).hostname}"

    def refuse(self, hosts: Sequence[str]) -> None:
        """BadInput for a URL that is none, and for a host that is not listed."""
        try:
            parts = urlsplit(self.webhook)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port = "", 0
        plain = self.webhook.isascii() and self.webhook.isprintable() and " " not in self.webhook
        if not plain or not host or port == 0 or parts.username is not None or parts.fragment:
            raise BadInput("watch.alarms: a webhook's address that is none", "https://HOST/PATH")
        if is_loopback(host):
            known = parts.scheme in ("http", "https")
        else:
            if host not in hosts:
                raise BadInput(
                    f"watch.alarms: a webhook to {host}",
                    "this machine, or a host in watch.hosts",
                    f"add {host} to watch.hosts, if it may know of the loop",
                )
            known = parts.scheme == "https"
        if not known:
            raise BadInput(f"watch.alarms: {parts.scheme} to {host}", "https", "use https")

    def deliver(self, event: bytes, stopped: threading.Event) -> str | None:
        """Post it once; an empty text, or why it failed."""
        where = urlsplit(self.webhook)
        target = (where.path or "/") + (f"?{where.query}" if where.query else "")
        headers = {"Content-Type": "application/json", "Connection": "close"}
        try:
            with closing(TimedConnection(where, LIMITS)) as connection:
                connection.request("POST", target, event, headers)
                status = connection.getresponse().status
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"no answer ({type(error).__name__})"
        return "" if status in range(200, 300) else f"status {status}"


Alarm = Command | Webhook


def event_of(kind: str, alias: str, version: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """An event of the loop, with an id by which receivers know it when it comes again.

    ``kind`` is alarmed, swapped, kept or failed; ``version`` is the one in service.
    """
    told = {name: facts[name] for name in ("reason", "scores") if name in facts}
    head = {"id": f"alarm-{uuid.uuid4().hex}", "event": kind, "alias": alias, "version": version}
    return {**head, "time": facts["since"], **told}


class Notifier:
    """The deliveries of an alias's events to its alarms, kept in the store until they are over."""

    def __init__(self, store: Store, alias: str, alarms: Sequence[Alarm]) -> None:
        self.store, self.name = store, alarms_name(alias)
        self.alarms = {hash_json([type(each).__name__, vars(each)])[:16]: each for each in alarms}
        none: dict[str, Any] = {"sent": 0, "failed": 0, "pending": [], "given_up": []}
        self.state = {**none, **(store.state(self.name) or {})}
        self.due = {name_of(item): due(item) for item in self.state["pending"]}
        self.changed = threading.Condition()
        self.stopped = threading.Event()
        self.threads = [
            threading.Thread(target=self.work, args=(key,), name="alarms", daemon=True)
            for key in self.alarms
        ]

    def begin(self) -> None:
        """Deliver what waits. What waits for an alarm that the recipe no longer has is given up."""
        with self.changed:
            for item in [each for each in self.state["pending"] if each["to"] not in self.alarms]:
                self.over(item, "the recipe has this alarm no more", "a former alarm")
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        """End; what is under way is tried again by the next server."""
        with self.changed:
            self.stopped.set()
            self.changed.notify_all()
        for thread in self.threads:
            if thread.is_alive():
                thread.join(LEAVE)

    def take(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Write events down for every alarm; those that wait already stay as they are."""
        with self.changed:
            known = {name_of(item) for item in self.state["pending"]}
            new = [
                {"event": event, "to": key, "attempts": 0, "after": 0.0, "fault": ""}
                for event in events
                for key in self.alarms
                if (event["id"], key) not in known
            ]
            self.keep(pending=[*self.state["pending"], *new])
            self.changed.notify_all()

    def work(self, key: str) -> None:
        """Deliver the events of one alarm, those that are due first, until stopped."""
        alarm = self.alarms[key]
        while not self.stopped.is_set():
            with self.changed:
                mine = [item for item in self.state["pending"] if item["to"] == key]
                item = min(mine, key=self.waiting, default=None)
                if item is None or self.waiting(item) > 0:
                    self.changed.wait(None if item is None else self.waiting(item))
                    continue
            fault = alarm.deliver(json.dumps(item["event"]).encode(), self.stopped)
            if fault is None:
                return
            with self.changed:
                self.attempted(item, alarm, fault)

    def attempted(self, item: dict[str, Any], alarm: Alarm, fault: str) -> None:
        """Write an attempt down (the lock is held)."""
        if not fault:
            self.over(item, "", alarm.label)
        elif item["attempts"] >= len(PAUSES):
            self.over(item, fault, alarm.label)
        else:
            log.warning("alarm %s: %s: %s", item["event"]["id"], alarm.label, fault)
            after = time.time() + PAUSES[item["attempts"]]
            tried = {**item, "attempts": item["attempts"] + 1, "after": after, "fault": fault}
            self.due[name_of(item)] = due(tried)
            self.keep(pending=[*self.without(item), tried])

    def over(self, item: dict[str, Any], fault: str, receiver: str) -> None:
        """Take an event off, as sent or as failed for good (the lock is held)."""
        left = self.without(item)
        self.due.pop(name_of(item), None)
        if not fault:
            self.keep(sent=self.state["sent"] + 1, pending=left)
            return
        event = item["event"]
        log.error("alarm %s is given up: %s: %s", event["id"], receiver, fault)
        lost = {"id": event["id"], "event": event["event"], "to": receiver, "fault": fault}
        given_up = [*self.state["given_up"], {**lost, "time": time.time()}][-KEPT:]
        self.keep(failed=self.state["failed"] + 1, pending=left, given_up=given_up)

    def without(self, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What waits but for one."""
        return [each for each in self.state["pending"] if name_of(each) != name_of(item)]

    def waiting(self, item: Mapping[str, Any]) -> float:
        """Seconds until an attempt is due; one that was never tried is due at once."""
        return max(0.0, self.due.get(name_of(item), 0.0) - time.monotonic())

    def keep(self, **facts: Any) -> None:
        """Change the state, here first: what cannot be written now is with the next change."""
        self.state = {**self.state, **facts}
        try:
            self.store.set_state(self.name, self.state)
        except Exception as error:
            log.error("the alarms' state cannot be written: %s", type(error).__name__)

    def collect(self) -> Iterator[Metric]:
        """The counters for Prometheus: sent and failed for good ever, waiting now."""
        state = self.state
        counts = CounterMetricFamily("lmwright_alarms", "Alarms by outcome", labels=["outcome"])
        for outcome in ("sent", "failed"):
            counts.add_metric([outcome], state[outcome])
        yield counts
        waits = len(state["pending"])
        yield GaugeMetricFamily("lmwright_alarms_pending", "Alarms that wait", value=waits)


def name_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """What a delivery is known by: the event's id and the alarm."""
    return item["event"]["id"], item["to"]


def due(item: Mapping[str, Any]) -> float:
    """When an attempt is due by the monotonic clock: no later than its pause says, as the clock of
    the day may have been set back since."""
    pause = PAUSES[min(item["attempts"], len(PAUSES)) - 1] if item["attempts"] else 0.0
    return time.monotonic() + min(max(0.0, item["after"] - time.time()), pause)
