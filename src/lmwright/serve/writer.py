"""A language model behind a short queue: one thread, which answers one request at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmwright.models.language import LanguageModel
from lmwright.serve.engine import Busy, Failed
from lmwright.serve.written import Said, Wish, written

log = logging.getLogger("lmwright.serve")

Say = Callable[[int, Said | Failed | None], None]
"""Called from the worker's thread: the number of an answer and what was said of it, then None."""


@dataclass(eq=False)
class Job:
    """A request: the answers that it wants, and where they are said. ``gone``: nobody waits."""

    client: str
    say: Say
    wishes: Sequence[Wish] = ()
    gone: bool = False


class Writer:
    """Answers requests in their order on one worker thread; ``places`` may be under way at once.

    A client may hold half of them. All public methods may be called from any thread.
    """

    def __init__(self, model: LanguageModel, places: int = 16) -> None:
        self.model, self.places = model, places
        self.share = max(1, places // 2)
        self.held: list[Job] = []
        self.waiting: deque[Job] = deque()
        self.changed = threading.Condition()
        self.draining = self.closing = False
        self.fault = ""
        self.current: Job | None = None
        self.seconds = 1.0  # of a request, smoothed; only to tell clients when to come back
        self.busy_since: float | None = None
        self.worker = threading.Thread(target=self._live, name="writer", daemon=True)
        self.worker.start()

    @property
    def queued(self) -> int:
        """How many requests hold a place, the one that is being answered among them."""
        return len(self.held)

    def reserve(self, client: str, say: Say) -> Job:
        """A place for a request, to be filled by :meth:`begin`; Busy when there is none."""
        job = Job(client, say)
        with self.changed:
            own = sum(each.client == client for each in self.held)
            closed = self.draining or self.closing or self.fault
            if closed or len(self.held) >= self.places or own >= self.share:
                raise Busy(min(60, max(1, round(self.seconds * len(self.held)))))
            self.held.append(job)
        return job

    def begin(self, job: Job, wishes: Sequence[Wish]) -> None:
        """Queue what a request wants."""
        with self.changed:
            job.wishes = wishes
            if self.closing:
                job.say(0, Failed("the server stops"))
            elif not job.gone:
                self.waiting.append(job)
            self.changed.notify_all()

    def leave(self, job: Job) -> None:
        """Nobody waits for a request any more: it ends after its present token, or never begins."""
        with self.changed:
            job.gone = True
            if job in self.waiting:
                self.waiting.remove(job)
            if job is not self.current:
                self._free(job)

    def healthy(self, patience: float = 120.0) -> str:
        """Why the writer is unwell, or an empty string."""
        if self.fault:
            return self.fault
        if not self.worker.is_alive():
            return "the writer's thread has ended"
        since = self.busy_since
        if since is not None and time.monotonic() - since > patience:
            return f"a token has taken more than {patience:.0f} s"
        return ""

    def close(self, seconds: float = 60.0) -> None:
        """End the worker after its present token, or leave it after ``seconds``; the rest fails."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.worker.join(seconds)

    def _live(self) -> None:
        """Work until closed. If the thread dies, what waits fails at once, and health says so."""
        try:
            while job := self._next():
                began = time.monotonic()
                outcome: Failed | None = Failed("the writer has ended")
                try:
                    outcome = self._answer(job)
                finally:
                    with self.changed:
                        self.current = self.busy_since = None
                        self.seconds = 0.8 * self.seconds + 0.2 * (time.monotonic() - began)
                        self._free(job)
                    job.say(0, outcome)
        except BaseException as error:
            self.fault = "the writer has ended"
            log.critical("the writer has ended", exc_info=error)
        with self.changed:
            self.closing = True
            left, self.held = self.held, []
            self.waiting.clear()
        for job in left:
            job.say(0, Failed("the server stops"))

    def _next(self) -> Job | None:
        """The next request; None when it is time to end."""
        with self.changed:
            while not self.closing and not self.waiting:
                self.changed.wait()
            self.current = None if self.closing else self.waiting.popleft()
            return self.current

    def _answer(self, job: Job) -> Failed | None:
        """Write all that a request wants, unless its client goes; a fault is that request's."""
        try:
            for number, wish in enumerate(job.wishes):
                self.busy_since = time.monotonic()
                for said in written(self.model, wish):
                    if job.gone:
                        return None
                    if self.closing:
                        return Failed("the server stops")
                    job.say(number, said)
                    self.busy_since = time.monotonic()
        except Exception as error:
            log.error("the model fails on a request", exc_info=error)
            return Failed("the model failed on this request")
        return None

    def _free(self, job: Job) -> None:
        """Give a place back (the lock is held)."""
        if job in self.held:
            self.held.remove(job)
            self.changed.notify_all()
