"""The loop's state machine: observed → alarmed → training → gated → swapped or kept.

It never ends, so it is no stage. Every state is written down before it is acted upon, and a
server that starts again goes on from it: a training that was under way is resumed, not repeated.
What is served is whatever the alias names, so a decision made by hand is followed in the same way.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

from lmwright import old_format
from lmwright.core.columns import Row, example
from lmwright.core.recipe import Recipe
from lmwright.core.task import Task, role_columns
from lmwright.loop.alarms import Notifier, event_of
from lmwright.loop.gate import lacking
from lmwright.loop.retrain import (
    INCUMBENT,
    Retrain,
    Trigger,
    derive,
    drifts,
    export,
    find_trigger,
    parts,
    write_recipe,
)
from lmwright.loop.watch import Watch, Watcher
from lmwright.metrics.detectors import scores_from_json
from lmwright.serve.load import load_version
from lmwright.serve.rows import Loaded
from lmwright.serve.served import Served
from lmwright.serve.service import Service
from lmwright.serve.traffic import Traffic
from lmwright.store.run import REFUSED, runs_with
from lmwright.store.store import Store
from lmwright.store.versions import Version, current, history, read_version

CANARY = ("A plain sentence.", "Another one, a little longer than the first, to be read as well.")
"""Texts of the rows that a version must answer before it is swapped in."""
TICK = 0.5
FORGET_EVERY = 3600.0
LAST_WINDOWS = 200
ENDS = ("swapped", "kept")
"""States in which a retraining ends."""
ALARM = ("observed", "alarmed", *ENDS)
"""States in which the alarm may be raised."""
TOLD = ("alarmed", *ENDS)
"""States of which alarms tell when they are entered."""
PAUSES = (10.0, 60.0)
"""Seconds before a training that failed is tried again; after the last one it is given up."""

INTERRUPTED = {code for sig in (SIGINT, SIGTERM) for code in (128 + sig, -sig)}
"""Exit codes of a training that somebody stopped: it did not fail."""

Start = Callable[[Path, Path], "subprocess.Popen[bytes]"]


class Controller:
    """Watches one alias's traffic and turns the wheel. ``start`` begins a training process."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        service: Service,
        traffic: Traffic,
        start: Start,
    ) -> None:
        self.recipe, self.store, self.service, self.traffic = recipe, store, service, traffic
        self.settings: Retrain | None = recipe.sections.get("retrain")
        self.start = start
        watch: Watch = recipe.sections.get("watch") or Watch()
        self.notifier = Notifier(store, service.alias, watch.alarms)
        self.name = f"loop {service.alias}"
        self.state: dict[str, Any] = store.state(self.name) or {"at": "observed"}
        self.scores: list[dict[str, Any]] = []
        self.watcher: Watcher | None = None
        self.watch(service.rows.current)
        self.process: subprocess.Popen[bytes] | None = None
        self.again = self.forgot = float("-inf")  # a server that starts begins and forgets at once
        self.clock = traffic.newest() - time.monotonic()
        self.stopped = threading.Event()
        self.fault = ""
        self.unfit = ""
        self.thread = threading.Thread(target=self.turn, name="controller", daemon=True)

    def begin(self) -> None:
        """Start turning."""
        self.traffic.seen = self.see
        self.service.registry.register(self.notifier)
        self.notifier.begin()
        self.thread.start()

    def close(self) -> None:
        """Stop turning; a training under way goes on when the server starts again."""
        self.stopped.set()
        self.thread.join(60)
        self.notifier.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def turn(self) -> None:
        """Tick until stopped. A fault is shown by the route of the loop; serving goes on."""
        while not self.stopped.wait(TICK):
            try:
                self.tick()
                if not self.unfit:
                    self.fault = ""
            except Exception as error:
                self.fault = f"{type(error).__name__}: {error}"

    def tick(self) -> None:
        """Follow the alias, then take one step from the present state."""
        self.follow()
        if time.monotonic() - self.forgot > FORGET_EVERY:
            self.forget()
        self.hand_over()
        if self.settings is None:
            if self.state["at"] in ALARM:
                self.alarm(Retrain.windows)
            return
        steps = {"training": self.training, "gated": self.gated}
        steps.get(self.state["at"], self.observing)(self.settings)

    def forget(self) -> None:
        """Forget by the time that an hour ago's clock says it is now, where today's says more.

        A clock that leaps ahead would take the whole log; so it must have been so for an hour. A
        server that starts goes by the newest answer first.
        """
        self.forgot = time.monotonic()
        clock = time.time() - self.forgot
        self.traffic.forget(self.forgot + min(clock, self.clock))
        self.clock = clock

    def follow(self) -> None:
        """Swap in what the alias names, if it is another version than the one in service."""
        now = current(self.store, self.service.alias)
        if now is None or now.id == self.unfit:
            return
        if now.id == self.service.rows.current.version:
            self.unfit = ""
            return
        self.unfit = now.id  # tried once: what fails to load or its canary is not tried again
        where = self.service.settings
        beside = [self.service.rows.current.predictor]
        loaded = load_version(
            self.store, self.service.alias, where.device, where.precision, where.kv, beside
        )
        self.service.rows.swap(loaded, canary(loaded.task), self.stopped.is_set)
        self.unfit = ""
        self.watch(loaded)

    def watch(self, loaded: Loaded) -> None:
        """Watch a version, if detectors were fitted for it, from the last window that they saw.

        Only windows count that were seen since the alias moved to it.
        """
        self.watcher, self.scores = None, []
        now = current(self.store, self.service.alias)
        if now is None or now.id != loaded.version:
            return
        detectors = read_version(self.store, now.hash)["artifacts"].get("detectors")
        if detectors is None:
            return
        moved = self.store.decisions()[now.decision - 1]["time"]
        past = self.traffic.past_windows(loaded.version, moved)[-LAST_WINDOWS:]
        self.scores = [window["signs"] for window in past]
        watcher = Watcher(loaded.version, self.store.artifact(detectors))
        watcher.scores = scores_from_json(self.scores[-1]) if self.scores else None
        self.watcher = watcher

    def see(self, served: list[Served]) -> None:
        """Let the watcher see answers (called by the traffic log's writer)."""
        watcher = self.watcher
        if watcher is None:
            return
        for one in served:
            for scores in watcher.take(one):
                if self.watcher is not watcher:  # another version was put in place meanwhile
                    return
                self.traffic.add_window(watcher.version, scores)
                self.scores = [*self.scores, scores][-LAST_WINDOWS:]

    def observing(self, settings: Retrain) -> None:
        """Observed or alarmed: raise or clear the alarm; train when the alarm means harm."""
        scores = self.scores
        if not self.alarm(settings.windows):
            return
        found, looked = self.judge(settings, scores)
        if found.reason:
            self.train(settings, found, looked)
        elif looked:
            self.note(**looked)

    def alarm(self, windows: int) -> bool:
        """Raise or clear the alarm by the last windows; whether they drift."""
        if not any(drifts(window) for window in self.scores[-windows * 2 :]):
            if self.state["at"] == "alarmed":
                self.enter("observed", reason="no drift in the last windows")
            return False
        if self.state["at"] != "alarmed":
            self.enter("alarmed", reason="drift", scores=self.scores[-1])
        return True

    def hand_over(self) -> None:
        """Hand what is to be told over to its deliveries, which write it down before it goes."""
        if events := self.state.get("events"):
            self.notifier.take(events)
            self.note(events=[])

    def judge(
        self, settings: Retrain, scores: list[dict[str, Any]]
    ) -> tuple[Trigger, dict[str, Any]]:
        """Whether the drift is harm, or a chance to learn; and a new look at the loss, if any.

        A look that found a reason is written down with the training that it starts: written
        before, it would keep the training back if that fails to start for a want of space, say.
        """
        version, used = self.service.rows.current.version, self.state.get("labels_used", 0)
        rows = [row for row in self.traffic.labelled(version) if row["number"] > used]
        asked = {"version": version, "after": used}
        before = self.state.get("looked", {})
        looks = tuple(before["at"]) if asked.items() <= before.items() else ()
        loss, confidence = self.standard()
        found = find_trigger(settings, self.task, scores, rows, loss, confidence, looks)
        new = found.looks != looks
        return found, {"looked": {**asked, "at": list(found.looks)}} if new else {}

    def served(self) -> dict[str, Any]:
        """What the version binds together that answers, which may not be what the alias names."""
        version = self.service.rows.current.version
        past = history(self.store, self.service.alias)
        return read_version(self.store, next(one.hash for one in past if one.id == version))

    @property
    def task(self) -> Task:
        """The task of the version in service."""
        return self.service.rows.current.task

    def standard(self) -> tuple[float | None, float | None]:
        """The served version's loss and mean confidence on its detectors' reference rows."""
        detectors = self.served()["artifacts"]["detectors"]
        facts = self.store.makers(detectors)[0].facts
        facts = old_format.facts_of(facts)
        return facts["loss"], facts["confidence"]

    def train(self, settings: Retrain, found: Trigger, looked: dict[str, Any]) -> None:
        """Write the recipe of the retraining, then start it."""
        labelled = self.traffic.labelled()
        rows = parts(self.task, labelled, self.state.get("judged", 0))
        if self.waits(rows):
            return
        files = export(self.store, rows)
        now = current(self.store, self.service.alias)
        if now is None:
            return
        model = self.served()["model"]
        raw = derive(self.recipe.raw, settings, model, files, self.service.alias)
        self.enter(
            "training",
            reason=found.reason,
            evidence=found.evidence,
            recipe=str(write_recipe(self.store, raw).relative_to(self.store.folder)),
            decision=now.decision,
            failures=0,
            lacks="",
            labels=max(row["number"] for row in labelled),
            **looked,
        )

    def waits(self, rows: dict[str, list[dict[str, Any]]]) -> bool:
        """Whether there are too few targets for any candidate to pass the gate; says which."""
        lacks = lacking(len(rows["gate"]))
        if not lacks and not rows["train"]:
            lacks = "a row to learn from"
        if lacks:
            self.enter("alarmed", reason="a trigger; the gate has too few targets to judge by")
            if lacks != self.state.get("lacks"):
                self.note(lacks=lacks)
        return bool(lacks)

    def training(self, settings: Retrain) -> None:
        """Start, resume or await the training process; one that fails is tried again, not for ever.

        Its labels are used once the gate has decided, or once it is given up.
        """
        if self.process is None:
            if time.monotonic() < self.again:
                return
            self.process = self.start(self.store.folder / self.state["recipe"], self.store.folder)
            return
        code = self.process.poll()
        if code is None:
            return
        self.process = None
        failures = self.state["failures"]
        if code in (0, REFUSED):
            self.enter("gated")
        elif code in INTERRUPTED:
            self.again = time.monotonic() + PAUSES[0]
        elif failures < len(PAUSES):
            self.note(failures=failures + 1)
            self.again = time.monotonic() + PAUSES[failures]
        else:
            self.note(labels_used=self.state["labels"])
            self.enter("kept", "failed", reason=f"the retraining failed (exit code {code})")

    def gated(self, settings: Retrain) -> None:
        """The gate has decided: say whether the new version took over or the old one stays."""
        self.note(labels_used=self.state["labels"], judged=self.state["labels"])
        now = current(self.store, self.service.alias)
        if now is None or now.decision == self.state["decision"]:
            self.enter("kept", reason="the gate did not pass the new version")
        elif not self.by_gate(now):
            self.enter("kept", reason="the alias was moved, but not by the gate of the retraining")
        elif now.id != self.service.rows.current.version:
            self.enter("kept", reason="the new version cannot be served")
        else:
            self.enter("swapped", reason="the gate passed the new version", version=now.id)

    def by_gate(self, now: Version) -> bool:
        """Whether the gate of a retraining put a version there: no person, and no other run."""
        facts = self.store.decisions()[now.decision - 1]["facts"]
        if now.action != "promote" or "by_hand" in facts["evidence"]:
            return False
        made = {result.stamp for result in self.store.makers(now.hash)}
        heads = [head for _, head in runs_with(self.store, made)]
        return any(INCUMBENT in (head["raw"].get("artifacts") or {}) for head in heads)

    def enter(self, at: str, event: str = "", **facts: Any) -> None:
        """Write a state down. What it does not mention stays known.

        An end is kept as ``ended`` too: where drift goes on, the next tick says alarmed again.
        Alarms are told of ``event``, by default that the state was entered.
        """
        if self.state["at"] == at and self.state.get("reason") == facts.get("reason"):
            return
        entered = {"at": at, "since": time.time(), **facts}
        more: dict[str, Any] = {"ended": entered} if at in ENDS else {}
        if self.notifier.alarms and at in TOLD and at != self.state["at"]:
            version = self.service.rows.current.version
            told = event_of(event or at, self.service.alias, version, entered)
            more["events"] = [*self.state.get("events", ()), told]
        self.note(**entered, **more)

    def note(self, **facts: Any) -> None:
        """Write facts down beside the state; what cannot be written is not acted upon."""
        state = {**self.state, **facts}
        self.store.set_state(self.name, state)
        self.state = state


def canary(task: Task) -> list[Row]:
    """Plain rows of a task's inputs."""
    return [
        {
            column.name: column.example or example(column.type, text)
            for column in role_columns(task, "input")
        }
        for text in CANARY
    ]
