"""The engine: one worker thread that asks models, a step at a time: schedule, run, settle.

What is asked is the affair of its schedulers: rows are answered a batch at a time, texts are
written a token a step by all that are under way. The engine gives each scheduler its turn, ends
with them, and knows whether a step takes too long.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Any, Generic, Protocol, TypeVar

from lmwright.core.errors import LmwrightError

log = logging.getLogger("lmwright.serve")

T = TypeVar("T")

MOST_CLIENTS = 10_000
"""Clients whose budgets are remembered before those that are whole are forgotten."""


class Busy(LmwrightError):
    """The queue is full; the client should come back after ``seconds``."""

    def __init__(self, seconds: int) -> None:
        super().__init__("the server is busy", "a free place in the queue", "try again later")
        self.seconds = seconds


class OverBudget(Busy):
    """The client has no tokens left in this minute."""

    def __init__(self, per_minute: int, seconds: int) -> None:
        LmwrightError.__init__(
            self,
            f"more tokens than serve.tokens_per_minute, {per_minute}",
            "fewer of each client",
            f"try again in {seconds} s",
        )
        self.seconds = seconds


class Failed(LmwrightError):
    """This request made the model fail; others are unaffected."""


class Unanswerable(Failed):
    """A request whose answer cannot be written to its end, by no fault of the model."""


class Scheduler(Protocol):
    """One kind of work: what waits for a model, and how a step of it is run.

    ``schedule`` and ``settle`` are called with the engine's lock held, ``run`` and ``abandon``
    without. A step takes at most ``patience`` seconds where all is well.
    """

    patience: float

    @property
    def queued(self) -> int:
        """The load, in the scheduler's own unit; 0 when idle."""

    def schedule(self) -> Any | None:
        """The work of the next step; None where nothing waits."""

    def run(self, step: Any) -> None:
        """Do the work of a step and give its answers; a fault of a request is that one's alone."""

    def settle(self, step: Any, seconds: float) -> None:
        """Give back the places of what has ended; called however the step ended."""

    def abandon(self) -> None:
        """Fail all that waits: the engine has ended."""


class Engine:
    """Runs the steps of its schedulers by turns. All public methods may be called by any thread.

    Each client may have ``tokens_per_minute`` read and written; 0 sets no bound.
    """

    def __init__(self, tokens_per_minute: int = 0) -> None:
        self.schedulers: list[Scheduler] = []
        self.budgets = Budgets(tokens_per_minute)
        self.changed = threading.Condition()
        self.closing = self.draining = False
        self.fault = ""
        self.steps = 0
        self.busy: tuple[Scheduler, float] | None = None
        self.worker = threading.Thread(target=self._live, name="engine", daemon=True)
        self.worker.start()

    def add(self, scheduler: Scheduler) -> None:
        """Give a scheduler its turns from now on."""
        with self.changed:
            self.schedulers.append(scheduler)

    @property
    def closed(self) -> bool:
        """True where nothing new is taken."""
        return self.draining or self.closing or bool(self.fault)

    @property
    def queued(self) -> int:
        """The load of all schedulers; 0 when idle."""
        return sum(scheduler.queued for scheduler in self.schedulers)

    def healthy(self, patience: float | None = None) -> str:
        """The engine's fault, or an empty string; ``patience`` instead of the schedulers'."""
        if self.fault:
            return self.fault
        if not self.worker.is_alive():
            return "the engine's thread has ended"
        busy = self.busy
        if busy is not None:
            most = busy[0].patience if patience is None else patience
            if time.monotonic() - busy[1] > most:
                return f"a step has taken more than {most:.0f} s"
        return ""

    def drain(self, seconds: float) -> bool:
        """Take nothing new and wait for what is under way; whether all was answered in time."""
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

    def _live(self) -> None:
        """Work until closed. If the engine dies, what waits fails at once, and health says so."""
        try:
            while planned := self._next():
                self._step(*planned)
                del planned  # with all that it holds, while the next one is waited for
        except BaseException as error:
            self.fault = "the engine has ended"
            log.critical("the engine has ended", exc_info=error)
        with self.changed:
            self.closing = True
        for scheduler in self.schedulers:
            scheduler.abandon()

    def _next(self) -> tuple[Scheduler, Any] | None:
        """The next scheduler that has work, and its step; None when it is time to end."""
        with self.changed:
            while not self.closing:
                for scheduler in self.schedulers:
                    step = scheduler.schedule()
                    if step is not None:
                        self.schedulers.remove(scheduler)
                        self.schedulers.append(scheduler)
                        return scheduler, step
                self.changed.wait()
        return None

    def _step(self, scheduler: Scheduler, step: Any) -> None:
        began = time.monotonic()
        self.busy = scheduler, began
        try:
            scheduler.run(step)
        finally:
            with self.changed:
                scheduler.settle(step, time.monotonic() - began)
                self.steps += 1
                self.busy = None
                self.changed.notify_all()


class Places:
    """Places for what waits or is under way: a bounded number, half of them for one client.

    A flood from one client leaves room for the others. Used with the engine's lock held.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.share = capacity, max(1, capacity // 2)
        self.taken = 0
        self.held: dict[str, int] = {}

    def free_for(self, client: str, cost: int) -> bool:
        """Whether a client may take so many places."""
        whole = self.taken + cost <= self.capacity
        return whole and self.held.get(client, 0) + cost <= self.share

    def take(self, client: str, cost: int) -> None:
        """Take places."""
        self.taken += cost
        self.held[client] = self.held.get(client, 0) + cost

    def give(self, client: str, cost: int) -> None:
        """Give places back."""
        self.taken -= cost
        self.held[client] -= cost
        if not self.held[client]:
            del self.held[client]


class Budgets:
    """Tokens that each client may have a minute, of which a minute's worth can be saved.

    What is under way may use more than is left; the client then waits until it is made up for. Used
    with the engine's lock held. ``clock`` gives seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self.clock = per_minute, clock
        self.left: dict[str, tuple[float, float]] = {}

    def balance(self, client: str) -> float:
        """The tokens that a client has left now."""
        left, at = self.left.get(client, (float(self.per_minute), 0.0))
        return min(self.per_minute, left + (self.clock() - at) * self.per_minute / 60)

    def refuse_without(self, client: str) -> None:
        """Busy, with the seconds to wait, where a client has no tokens left."""
        if self.per_minute and (left := self.balance(client)) <= 0:
            raise OverBudget(self.per_minute, max(1, ceil((1 - left) * 60 / self.per_minute)))

    def spend(self, client: str, tokens: int) -> None:
        """Take tokens of a client."""
        if self.per_minute:
            self.left[client] = self.balance(client) - tokens, self.clock()
            if len(self.left) > MOST_CLIENTS:
                whole = [each for each in self.left if self.balance(each) >= self.per_minute]
                for each in whole:
                    del self.left[each]


class Turns(Generic[T]):
    """What waits, a queue a client, taken in turn from each."""

    def __init__(self) -> None:
        self.queues: dict[str, deque[T]] = {}
        self.order: deque[str] = deque()

    def __bool__(self) -> bool:
        return bool(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def push(self, client: str, items: list[T]) -> None:
        """Let items wait behind those of the same client."""
        if client not in self.queues:
            self.queues[client] = deque()
            self.order.append(client)
        self.queues[client].extend(items)
        self.drop_if_empty(client)

    @property
    def first(self) -> T:
        """The next item of the client whose turn it is."""
        return self.queues[self.order[0]][0]

    def pop(self) -> T:
        """Take the next item; it is the next client's turn."""
        client = self.order[0]
        found = self.queues[client].popleft()
        self.order.rotate(-1)
        self.drop_if_empty(client)
        return found

    def skip(self) -> None:
        """Pass the turn on."""
        self.order.rotate(-1)

    def remove(self, client: str, gone: Callable[[T], bool]) -> list[T]:
        """Take out those items of a client that are gone."""
        queue = self.queues.get(client, deque())
        found = [item for item in queue if gone(item)]
        if client in self.queues:
            self.queues[client] = deque(item for item in queue if not gone(item))
            self.drop_if_empty(client)
        return found

    def clear(self) -> list[T]:
        """Take all items out."""
        found = [item for queue in self.queues.values() for item in queue]
        self.queues.clear()
        self.order.clear()
        return found

    def drop_if_empty(self, client: str) -> None:
        """A client without items has no turn."""
        if not self.queues[client]:
            del self.queues[client]
            self.order.remove(client)


class TokenTurns(Turns[T]):
    """What waits, a queue a client; the next is of the client that was given the fewest tokens.

    A client that comes, or comes back, begins with what the one served last had been given: nobody
    saves turns by waiting (virtual token counter, Sheng et al. 2024).
    """

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, int] = {}
        self.level = 0

    def push(self, client: str, items: list[T]) -> None:
        """Let items wait behind those of the same client."""
        if client not in self.queues:
            self.given[client] = max(self.given.get(client, 0), self.level)
        super().push(client, items)

    def charge(self, client: str, tokens: int) -> None:
        """Take note of tokens that were read or written for a client."""
        self.given[client] = max(self.given.get(client, 0), self.level) + tokens

    @property
    def first(self) -> T:
        """The next item of the client whose turn it is."""
        self.order_by_given()
        return super().first

    def pop(self) -> T:
        """Take the next item."""
        self.order_by_given()
        self.level = max(self.level, self.given[self.order[0]])
        found = super().pop()
        self.given = {
            client: count
            for client, count in self.given.items()
            if count > self.level or client in self.queues
        }
        return found

    def order_by_given(self) -> None:
        """Put the client that was given the fewest tokens first."""
        self.order = deque(sorted(self.order, key=lambda client: self.given[client]))
