"""The engine: many requests on one model, a batch at a time, and swaps while requests flow.

A request is pinned to a version when it is admitted and a batch holds one version only, so an
answer is always that of the version that it names. A batch is made of whatever waits, taken in
turn from each client, up to a number of tokens; nobody waits for a batch to fill.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmwright.core.columns import Row
from lmwright.core.errors import BadInput, LmwrightError
from lmwright.core.predictor import Predictor
from lmwright.core.task import Answers, Prepared, Task
from lmwright.metrics.calibration import Calibration

log = logging.getLogger("lmwright.serve")


class Busy(LmwrightError):
    """The queue is full; the client should come back after ``seconds``."""

    def __init__(self, seconds: int) -> None:
        super().__init__("the server is busy", "a free place in the queue", "try again later")
        self.seconds = seconds


class Failed(LmwrightError):
    """This row made the model fail; other requests are unaffected."""


@dataclass
class Loaded:
    """A version in memory: predictor, calibration, and how many rows are under way on it."""

    version: str
    predictor: Predictor
    calibration: Calibration
    pending: int = 0

    @property
    def task(self) -> Task:
        """The task that it answers."""
        return self.predictor.task


@dataclass(frozen=True)
class Answer:
    """The calibrated answer to one row: ``answers`` has this row alone."""

    task: Task
    prepared: Prepared
    answers: Answers

    @property
    def told(self) -> dict[str, Any]:
        """Its columns as JSON values."""
        return self.task.told(self.answers, 0)

    @property
    def tokens(self) -> int:
        """The length of the row in tokens."""
        return len(self.prepared.ids)

    @property
    def finite(self) -> bool:
        """True if every number of it is one."""
        every = self.answers.columns.values()
        arrays = (
            each for values in every for each in (values if isinstance(values, list) else [values])
        )
        return all(
            np.isfinite(values).all()
            for values in arrays
            if isinstance(values, np.ndarray) and values.dtype.kind == "f"
        )


@dataclass(eq=False)
class Item:
    """One row under way."""

    prepared: Any
    loaded: Loaded
    client: str
    future: Future[Answer] = field(default_factory=Future)

    @property
    def cost(self) -> int:
        """Tokens."""
        return int(self.prepared.cost)


class Engine:
    """Answers rows on one worker thread. All public methods may be called from any thread.

    ``queue_tokens`` bounds what waits; one client may hold half of it, so that a flood from one
    leaves room for the others.
    """

    def __init__(self, loaded: Loaded, batch_tokens: int = 2048, queue_tokens: int = 200_000):
        self.current = loaded
        self.batch_tokens, self.queue_tokens = batch_tokens, queue_tokens
        self.share = max(1, queue_tokens // 2)
        self.queues: dict[str, deque[Item]] = {}
        self.turns: deque[str] = deque()
        self.queued = 0
        self.held: dict[str, int] = {}
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.closing = False
        self.draining = False
        self.steps = 0
        self.rate = 1000.0  # tokens a second, smoothed; only to tell clients when to come back
        self.busy_since: float | None = None
        self.fault = ""
        self.worker = threading.Thread(target=self._live, name="engine", daemon=True)
        self.worker.start()

    def admit(self, rows: Sequence[Row], client: str = "") -> tuple[Loaded, list[Future[Answer]]]:
        """Queue rows on the current version; Busy when they do not fit into the queue.

        BadInput when they would not even fit into an empty one. Tokenising is done by the
        caller's thread, outside the lock, and not at all while the queue is full.
        """
        loaded = self._pin(client, len(rows))
        try:
            items = [Item(prepared, loaded, client) for prepared in loaded.predictor.prepare(rows)]
            cost = sum(item.cost for item in items)
            if cost > self.share:
                raise BadInput(
                    f"{cost} tokens in one request", f"at most {self.share}", "send fewer at once"
                )
            with self.changed:
                self._refuse_beyond(client, cost)
                if client not in self.queues:
                    self.queues[client] = deque()
                    self.turns.append(client)
                self.queues[client].extend(items)
                self.queued += cost
                self.held[client] = self.held.get(client, 0) + cost
                self.changed.notify_all()
        except BaseException:
            self._release(loaded, len(rows))
            raise
        return loaded, [item.future for item in items]

    def forget(self, client: str, futures: Sequence[Future[Answer]]) -> None:
        """Let go of rows that nobody waits for any more: their places are free at once.

        What is in the batch under way is finished, and its answer dropped.
        """
        cancelled = [future.cancel() for future in futures]
        if not any(cancelled):
            return
        with self.changed:
            queue = self.queues.get(client)
            if queue is None:
                return
            gone = [item for item in queue if item.future.cancelled()]
            kept = [item for item in queue if not item.future.cancelled()]
            self._free(gone)
            self._keep(client, deque(kept))

    def swap(
        self, loaded: Loaded, canary: Sequence[Row], stop: Callable[[], bool] = lambda: False
    ) -> Loaded:
        """Put another version in place: try it on ``canary`` rows, flip, let the old one drain.

        Returns the old one, which nothing uses any more. Raises LmwrightError, and changes
        nothing, when the canary fails.
        """
        answers = answer(loaded, loaded.predictor.prepare(canary))
        if not all(each.finite for each in answers):
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

    def healthy(self, patience: float = 10.0) -> str:
        """The engine's fault, or an empty string."""
        if self.fault:
            return self.fault
        if not self.worker.is_alive():
            return "the engine's thread has ended"
        since = self.busy_since
        if since is not None and time.monotonic() - since > patience:
            return f"a step has taken more than {patience:.0f} s"
        return ""

    def drain(self, seconds: float) -> bool:
        """Take no new rows and wait for those under way; whether all were answered in time."""
        until = time.monotonic() + seconds
        with self.changed:
            self.draining = True
            while self.queued and time.monotonic() < until:
                self.changed.wait(0.1)
            return self.queued == 0

    def close(self, seconds: float = 60.0) -> None:
        """End the worker after its present step, or leave it after ``seconds``; the rest fails."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.worker.join(seconds)

    def _pin(self, client: str, count: int) -> Loaded:
        with self.lock:
            self._refuse_beyond(client, 1)
            self.current.pending += count
            return self.current

    def _refuse_beyond(self, client: str, cost: int) -> None:
        """Raise Busy when nothing is taken any more, or not so much, or not from this client."""
        full = self.queued + cost > self.queue_tokens
        if (
            self.draining
            or self.closing
            or self.fault
            or full
            or self.held.get(client, 0) + cost > self.share
        ):
            raise Busy(min(60, max(1, round(self.queued / max(self.rate, 1.0)))))

    def _release(self, loaded: Loaded, count: int) -> None:
        with self.changed:
            loaded.pending -= count
            self.changed.notify_all()

    def _live(self) -> None:
        """Work until closed. If the engine dies, what waits fails at once, and health says so."""
        try:
            self._work()
        except BaseException as error:
            self.fault = "the engine has ended"
            log.critical("the engine has ended", exc_info=error)
        with self.changed:
            self.closing = True
            left = [item for queue in self.queues.values() for item in queue]
            self._free(left)
            self.queues.clear()
            self.turns.clear()
        for item in left:
            settle(item.future, Failed("the engine has ended"))

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self.closing and not self.turns:
                    self.changed.wait()
                if self.closing:
                    return
                batch = self._plan()
            if not batch:
                continue
            self.busy_since = began = time.monotonic()
            try:
                self._step(batch)
            finally:
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
            self._keep(client, queue)
        self._free(dropped)
        return batch

    def _keep(self, client: str, queue: deque[Item]) -> None:
        """Make ``queue`` what waits of a client; one without texts has no turn."""
        if queue:
            self.queues[client] = queue
        elif client in self.queues:
            del self.queues[client]
            self.turns.remove(client)

    def _free(self, items: Sequence[Item]) -> None:
        """Give places back (the lock is held)."""
        for item in items:
            self.queued -= item.cost
            item.loaded.pending -= 1
            left = self.held[item.client] - item.cost
            if left:
                self.held[item.client] = left
            else:
                del self.held[item.client]
        if items:
            self.changed.notify_all()

    def _step(self, batch: list[Item]) -> None:
        """Answer a batch; if it fails, each half alone, so that only the guilty row fails."""
        try:
            answers = answer(batch[0].loaded, [item.prepared for item in batch])
        except Exception as error:
            if len(batch) > 1:
                self._step(batch[: len(batch) // 2])
                self._step(batch[len(batch) // 2 :])
                return
            log.error("version %s fails on a row: %s", batch[0].loaded.version, type(error))
            settle(batch[0].future, Failed("the model failed on this row"))
            return
        for item, result in zip(batch, answers, strict=True):
            if result.finite:
                settle(item.future, result)
            else:
                log.error("version %s answers a row with no number", batch[0].loaded.version)
                settle(item.future, Failed("the model's answer to this row is no number"))

    def _settle(self, batch: list[Item], seconds: float) -> None:
        """Give the batch's places back. What is unsettled was in the hands of a dying engine."""
        for item in batch:
            if not item.future.done():
                settle(item.future, Failed("the engine has ended"))
        cost = sum(item.cost for item in batch)
        with self.changed:
            self._free(batch)
            self.rate = 0.9 * self.rate + 0.1 * cost / max(seconds, 1e-6)
            self.steps += 1
            self.busy_since = None


def answer(loaded: Loaded, prepared: Sequence[Any]) -> list[Answer]:
    """A version's answers to prepared rows, in their order: also the slow, short reference."""
    found = loaded.calibration.apply(loaded.task, loaded.predictor.answers(prepared))
    return [Answer(loaded.task, item, found.take([row])) for row, item in enumerate(prepared)]


def settle(future: Future[Answer], outcome: Answer | Exception) -> None:
    """Fulfil a future unless its client has gone."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
