"""The generation engine: a language model behind a short queue, one request at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmwright.models.text_model import TextModel
from lmwright.serve.engine import Busy, Failed
from lmwright.serve.generation import Chunk, GenerationRequest, generate_chunks

log = logging.getLogger("lmwright.serve")

Emit = Callable[[int, Chunk | Failed | None], None]
"""Called from the worker's thread: the number of an answer and its next chunk, then None."""


@dataclass(eq=False)
class Job:
    """An HTTP request: its generation requests, the model that answers them all, and where chunks
    go. ``gone``: nobody waits."""

    client: str
    emit: Emit
    model: TextModel
    requests: Sequence[GenerationRequest] = ()
    gone: bool = False


class GenerationEngine:
    """Answers jobs in their order on one worker thread; at most ``capacity`` are under way.

    Each is answered by the model that it was reserved with. A client may hold half of the places.
    All public methods may be called from any thread.
    """

    def __init__(self, capacity: int = 16) -> None:
        self.capacity = capacity
        self.share = max(1, capacity // 2)
        self.held: list[Job] = []
        self.waiting: deque[Job] = deque()
        self.changed = threading.Condition()
        self.draining = self.closing = False
        self.fault = ""
        self.current: Job | None = None
        self.seconds = 1.0  # of a request, smoothed; only to tell clients when to come back
        self.busy_since: float | None = None
        self.worker = threading.Thread(target=self._live, name="generation", daemon=True)
        self.worker.start()

    @property
    def queued(self) -> int:
        """The number of jobs under way, the one that is being answered among them."""
        return len(self.held)

    def reserve(self, client: str, emit: Emit, model: TextModel) -> Job:
        """A place in the queue, to be filled by :meth:`submit`; Busy when there is none."""
        job = Job(client, emit, model)
        with self.changed:
            own = sum(each.client == client for each in self.held)
            closed = self.draining or self.closing or self.fault
            if closed or len(self.held) >= self.capacity or own >= self.share:
                raise Busy(min(60, max(1, round(self.seconds * len(self.held)))))
            self.held.append(job)
        return job

    def submit(self, job: Job, requests: Sequence[GenerationRequest]) -> None:
        """Queue a job with its requests."""
        with self.changed:
            job.requests = requests
            if self.closing:
                job.emit(0, Failed("the server stops"))
            elif not job.gone:
                self.waiting.append(job)
            self.changed.notify_all()

    def cancel(self, job: Job) -> None:
        """End a job after its present token, or before it begins."""
        with self.changed:
            job.gone = True
            if job in self.waiting:
                self.waiting.remove(job)
            if job is not self.current:
                self._free(job)

    def healthy(self, patience: float = 120.0) -> str:
        """The engine's fault, or an empty string."""
        if self.fault:
            return self.fault
        if not self.worker.is_alive():
            return "the engine's thread has ended"
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
                outcome: Failed | None = Failed("the engine has ended")
                try:
                    outcome = self._answer(job)
                finally:
                    with self.changed:
                        self.current = self.busy_since = None
                        self.seconds = 0.8 * self.seconds + 0.2 * (time.monotonic() - began)
                        self._free(job)
                    job.emit(0, outcome)
        except BaseException as error:
            self.fault = "the engine has ended"
            log.critical("the engine has ended", exc_info=error)
        with self.changed:
            self.closing = True
            left, self.held = self.held, []
            self.waiting.clear()
        for job in left:
            job.emit(0, Failed("the server stops"))

    def _next(self) -> Job | None:
        """The next job; None when it is time to end."""
        with self.changed:
            while not self.closing and not self.waiting:
                self.changed.wait()
            self.current = None if self.closing else self.waiting.popleft()
            return self.current

    def _answer(self, job: Job) -> Failed | None:
        """Generate all answers of a job, unless its client goes; a fault is that job's alone."""
        try:
            for number, request in enumerate(job.requests):
                self.busy_since = time.monotonic()
                for chunk in generate_chunks(job.model, request):
                    if job.gone:
                        return None
                    if self.closing:
                        return Failed("the server stops")
                    job.emit(number, chunk)
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
