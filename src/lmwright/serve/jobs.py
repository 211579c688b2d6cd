"""Requests whose answers are written, and the places that they hold until they are whole."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lmwright.models.text_model import TextModel
from lmwright.serve.engine import Busy, Engine, Failed, Places
from lmwright.serve.generation import Chunk, GenerationRequest

Emit = Callable[[int, Chunk | Failed | None], None]
"""Called from the worker's thread: the number of an answer and its next chunk, then None."""


@dataclass(eq=False)
class Job:
    """An HTTP request: its generation requests, the model that answers them all, and where chunks
    go. ``release`` is called when its place is free again. ``gone``: nobody waits; ``left`` counts
    the answers that are not yet whole."""

    client: str
    emit: Emit
    model: TextModel
    release: Callable[[], None]
    requests: Sequence[GenerationRequest] = ()
    gone: bool = False
    left: int = 0
    began: float = field(default_factory=time.monotonic)


class JobScheduler(ABC):
    """A scheduler of jobs, each of which has one of ``places`` until it is free.

    A subclass has the queue of what is begun for them.
    """

    patience = 120.0

    def __init__(self, engine: Engine, places: Places) -> None:
        self.engine, self.places = engine, places
        self.held: set[Job] = set()
        self.seconds = 1.0  # of a request, smoothed; only to tell clients when to come back

    @property
    def queued(self) -> int:
        """The number of jobs under way."""
        return len(self.held)

    def reserve(
        self, client: str, emit: Emit, model: TextModel, release: Callable[[], None] = lambda: None
    ) -> Job:
        """A place in the queue, to be filled by :meth:`submit`; Busy when there is none."""
        with self.engine.changed:
            self.engine.budgets.refuse_without(client)
            if self.engine.closed or not self.places.free_for(client, 1):
                raise Busy(min(60, max(1, round(self.seconds * self.places.taken))))
            self.places.take(client, 1)
            job = Job(client, emit, model, release)
            self.held.add(job)
        return job

    def submit(self, job: Job, requests: Sequence[GenerationRequest]) -> None:
        """Queue a job with its requests."""
        with self.engine.changed:
            job.requests = requests
            closing = self.engine.closing
            if not closing and not job.gone:
                self.wait(job)
            self.engine.changed.notify_all()
        if closing:
            job.emit(0, Failed("the server stops"))

    @abstractmethod
    def wait(self, job: Job) -> None:
        """Let all that a job asks for wait its turn, and count it (the lock is held)."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """End a job after the present step, or before it begins."""

    def free(self, job: Job) -> None:
        """Give the place of a job back (the lock is held)."""
        if job in self.held:
            self.held.remove(job)
            self.places.give(job.client, 1)
            self.seconds = 0.8 * self.seconds + 0.2 * (time.monotonic() - job.began)
            job.release()
            self.engine.changed.notify_all()
