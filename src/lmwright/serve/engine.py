"""The engine: many requests on one model, a batch at a time, and swaps while requests flow.

A request is pinned to a version when it is admitted and a batch holds one version only, so an
answer is always that of the version that it names. A batch is made of whatever waits, taken in
turn from each client, up to a number of tokens; nobody waits for a batch to fill.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmwright.core.errors import LmwrightError
from lmwright.models.calibration import Calibration
from lmwright.models.model import Model


class Busy(LmwrightError):
    """The queue is full; the client should come back after ``seconds``."""

    def __init__(self, seconds: int) -> None:
        super().__init__("the server is busy", "a free place in the queue", "try again later")
        self.seconds = seconds


class Failed(LmwrightError):
    """This text made the model fail; other requests are unaffected."""


@dataclass
class Loaded:
    """A version in memory: the model, its calibration, and how many texts are under way on it."""

    version: str
    model: Model
    calibration: Calibration
    pending: int = 0


@dataclass(frozen=True)
class Answer:
    """What the model says of one text. ``label`` is None where it is unsure."""

    label: str | None
    unsure: bool
    probabilities: np.ndarray
    embedding: np.ndarray
    ids: np.ndarray

    @property
    def tokens(self) -> int:
        """How many tokens the text was read as."""
        return len(self.ids)


@dataclass
class Item:
    """One text under way."""

    prepared: Any
    loaded: Loaded
    client: str
    future: Future[Answer] = field(default_factory=Future)

    @property
    def cost(self) -> int:
        """Tokens."""
        return int(self.prepared.cost)


class Engine:
    """Answers texts on one worker thread. All public methods may be called from any thread."""

    def __init__(self, loaded: Loaded, batch_tokens: int = 2048, queue_tokens: int = 200_000):
        self.current = loaded
        self.batch_tokens, self.queue_tokens = batch_tokens, queue_tokens
        self.queues: dict[str, deque[Item]] = {}
        self.turns: deque[str] = deque()
        self.queued = 0
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.closing = False
        self.draining = False
        self.steps = 0
        self.rate = 1000.0  # tokens a second, smoothed; only to tell clients when to come back
        self.beaten = time.monotonic()
        self.busy_since: float | None = None
        self.fault = ""
        self.worker = threading.Thread(target=self._work, name="engine", daemon=True)
        self.worker.start()

    def admit(self, texts: Sequence[str], client: str = "") -> tuple[Loaded, list[Future[Answer]]]:
        """Queue texts on the current version; Busy when they do not fit into the queue.

        Tokenising is done by the caller's thread, outside the lock.
        """
        loaded = self._pin(len(texts))
        try:
            items = [Item(prepared, loaded, client) for prepared in loaded.model.prepare(texts)]
            with self.changed:
                cost = sum(item.cost for item in items)
                if self.draining or self.queued + cost > self.queue_tokens:
                    raise Busy(max(1, round(self.queued / max(self.rate, 1.0))))
                if client not in self.queues:
                    self.queues[client] = deque()
                    self.turns.append(client)
                self.queues[client].extend(items)
                self.queued += cost
                self.changed.notify_all()
        except BaseException:
            self._release(loaded, len(texts))
            raise
        return loaded, [item.future for item in items]

    def swap(
        self, loaded: Loaded, canary: Sequence[str], stop: Callable[[], bool] = lambda: False
    ) -> Loaded:
        """Put another version in place: try it on ``canary`` texts, flip, let the old one drain.

        Returns the old one, which nothing uses any more. Raises LmwrightError, and changes
        nothing, when the canary fails.
        """
        answers = answer(loaded, loaded.model.prepare(canary))
        if not all(np.isfinite(a.probabilities).all() for a in answers):
            raise LmwrightError(
                f"version {loaded.version} answers the canary with no number",
                "finite probabilities",
                "the former version stays; look at the run that made this one",
            )
        with self.changed:
            old, self.current = self.current, loaded
            while old.pending and not stop():
                self.changed.wait(0.1)
        return old

    def healthy(self, patience: float = 30.0) -> str:
        """Why the engine is unwell, or an empty string."""
        if self.fault:
            return self.fault
        if not self.worker.is_alive():
            return "the engine's thread has ended"
        since = self.busy_since
        if since is not None and time.monotonic() - since > patience:
            return f"a step has taken more than {patience:.0f} s"
        return ""

    def drain(self, seconds: float) -> bool:
        """Take no new texts and wait for those under way; whether all were answered in time."""
        until = time.monotonic() + seconds
        with self.changed:
            self.draining = True
            while self.queued and time.monotonic() < until:
                self.changed.wait(0.1)
            return self.queued == 0

    def close(self) -> None:
        """End the worker; what still waits fails."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.worker.join(60)
        for queue in self.queues.values():
            for item in queue:
                item.future.cancel()

    def _pin(self, count: int) -> Loaded:
        with self.lock:
            self.current.pending += count
            return self.current

    def _release(self, loaded: Loaded, count: int) -> None:
        with self.changed:
            loaded.pending -= count
            self.changed.notify_all()

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self.closing and not self.turns:
                    self.changed.wait()
                if self.closing:
                    return
                batch = self._plan()
            if batch:
                self.busy_since = began = time.monotonic()
                self._step(batch)
                self._settle(batch, time.monotonic() - began)

    def _plan(self) -> list[Item]:
        """The next batch: in turn from each client, one version, up to ``batch_tokens``."""
        batch: list[Item] = []
        dropped: list[Item] = []
        cost, passes = 0, 0
        while self.turns and passes < len(self.turns):
            client = self.turns[0]
            queue = self.queues[client]
            item = queue[0]
            if item.future.cancelled():
                dropped.append(queue.popleft())
            elif batch and (
                item.loaded is not batch[0].loaded or cost + item.cost > self.batch_tokens
            ):
                self.turns.rotate(-1)
                passes += 1
                continue
            else:
                batch.append(queue.popleft())
                cost += item.cost
                passes = 0
                self.turns.rotate(-1)
            if not queue:
                del self.queues[client]
                self.turns.remove(client)
        for item in dropped:
            self.queued -= item.cost
            item.loaded.pending -= 1
        if dropped:
            self.changed.notify_all()
        return batch

    def _step(self, batch: list[Item]) -> None:
        """Answer a batch; if it fails, each text alone, so that only the guilty one fails."""
        try:
            answers = answer(batch[0].loaded, [item.prepared for item in batch])
        except Exception as error:
            if len(batch) > 1:
                for item in batch:
                    self._step([item])
            else:
                settle(batch[0].future, Failed(f"the model failed on this text: {error}"))
            return
        for item, result in zip(batch, answers, strict=True):
            if np.isfinite(result.probabilities).all():
                settle(item.future, result)
            else:
                settle(item.future, Failed("the model's answer to this text is no number"))

    def _settle(self, batch: list[Item], seconds: float) -> None:
        """Give the batch's places back."""
        cost = sum(item.cost for item in batch)
        with self.changed:
            self.queued -= cost
            batch[0].loaded.pending -= len(batch)
            self.rate = 0.9 * self.rate + 0.1 * cost / max(seconds, 1e-6)
            self.steps += 1
            self.busy_since = None
            self.changed.notify_all()


def answer(loaded: Loaded, prepared: Sequence[Any]) -> list[Answer]:
    """What a version says of prepared texts, in their order: also the slow, short reference."""
    logits, embeddings = loaded.model.look(prepared)
    probabilities = loaded.calibration.probabilities(logits)
    unsure = loaded.calibration.unsure(probabilities)
    labels = [loaded.model.labels[place] for place in probabilities.argmax(-1)]
    return [
        Answer(
            None if unsure[row] else labels[row],
            bool(unsure[row]),
            probabilities[row],
            embeddings[row],
            item.ids,
        )
        for row, item in enumerate(prepared)
    ]


def settle(future: Future[Answer], outcome: Answer | Exception) -> None:
    """Fulfil a future unless its client has gone."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
