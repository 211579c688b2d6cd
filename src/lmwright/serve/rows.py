"""Rows of a task: a batch at a time on one version, and swaps while requests flow.

A request is pinned to a version when it is admitted and a batch holds one version only, so an
answer is always that of the version that it names. A batch is made of whatever waits, taken in
turn from each client, up to a number of tokens; nobody waits for a batch to fill.
"""

from __future__ import annotations

import logging
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
from lmwright.serve.engine import Busy, Engine, Failed, Places, Turns

log = logging.getLogger("lmwright.serve")


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


@dataclass(frozen=True, eq=False)
class Question:
    """What a version is asked of inputs: how they are made ready, which is done by the thread that
    asks, and what is answered to a batch of them, which is done by the engine's.

    A batch holds one question only.
    """

    prepare: Callable[[Loaded, Sequence[Any]], list[Any]]
    answer: Callable[[Loaded, Sequence[Any]], list[Answer]]


@dataclass(eq=False)
class Item:
    """One row under way."""

    prepared: Any
    loaded: Loaded
    client: str
    question: Question
    future: Future[Answer] = field(default_factory=Future)

    @property
    def cost(self) -> int:
        """Tokens."""
        return int(self.prepared.cost)


class RowScheduler:
    """Answers rows. All public methods may be called from any thread.

    ``queue_tokens`` bounds what waits.
    """

    patience = 10.0

    def __init__(
        self,
        engine: Engine,
        loaded: Loaded,
        batch_tokens: int = 2048,
        queue_tokens: int = 200_000,
    ) -> None:
        self.engine, self.current, self.batch_tokens = engine, loaded, batch_tokens
        self.places, self.waiting = Places(queue_tokens), Turns[Item]()
        self.rate = 1000.0  # tokens a second, smoothed; only to tell clients when to come back
        engine.add(self)

    @property
    def queued(self) -> int:
        """Tokens that wait or are under way."""
        return self.places.taken

    def admit(
        self, rows: Sequence[Any], client: str = "", question: Question | None = None
    ) -> tuple[Loaded, list[Future[Answer]]]:
        """Queue rows on the current version; Busy when they do not fit into the queue.

        They are rows of its task that it answers, or what another ``question`` is asked of.

        BadInput when they would not even fit into an empty one. Tokenising is done by the
        caller's thread, outside the lock, and not at all while the queue is full.
        """
        asked = question or ANSWERS
        loaded = self.pin(client, len(rows))
        try:
            items = [
                Item(prepared, loaded, client, asked) for prepared in asked.prepare(loaded, rows)
            ]
            cost = sum(item.cost for item in items)
            if cost > self.places.share:
                raise BadInput(
                    f"{cost} tokens in one request",
                    f"at most {self.places.share}",
                    "send fewer at once",
                )
            with self.engine.changed:
                self.refuse_beyond(client, cost)
                self.waiting.push(client, items)
                self.places.take(client, cost)
                self.engine.budgets.spend(client, cost)
                self.engine.changed.notify_all()
        except BaseException:
            self.release(loaded, len(rows))
            raise
        return loaded, [item.future for item in items]

    def forget(self, client: str, futures: Sequence[Future[Answer]]) -> None:
        """Let go of rows that nobody waits for any more: their places are free at once.

        What is in the batch under way is finished, and its answer dropped.
        """
        cancelled = [future.cancel() for future in futures]
        if any(cancelled):
            with self.engine.changed:
                self.free(self.waiting.remove(client, lambda item: item.future.cancelled()))

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
        with self.engine.changed:
            old, self.current = self.current, loaded
            while old.pending and not stop():
                self.engine.changed.wait(0.1)
        return old

    def pin(self, client: str, count: int) -> Loaded:
        """The current version, kept for so many answers; Busy when nothing is taken."""
        with self.engine.changed:
            self.refuse_beyond(client, 1)
            self.current.pending += count
            return self.current

    def release(self, loaded: Loaded, count: int) -> None:
        """Keep a version no longer for so many answers."""
        with self.engine.changed:
            loaded.pending -= count
            self.engine.changed.notify_all()

    def refuse_beyond(self, client: str, cost: int) -> None:
        """Raise Busy when nothing is taken any more, or not so much, or not from this client."""
        self.engine.budgets.refuse_without(client)
        if self.engine.closed or not self.places.free_for(client, cost):
            raise Busy(min(60, max(1, round(self.queued / max(self.rate, 1.0)))))

    def schedule(self) -> list[Item] | None:
        """The next batch: in turn from each client, of one version and one question, up to
        ``batch_tokens``."""
        batch: list[Item] = []
        cost, passes = 0, 0
        while self.waiting and passes < len(self.waiting):
            item = self.waiting.first
            other = batch and (
                item.loaded is not batch[0].loaded or item.question is not batch[0].question
            )
            if item.future.cancelled():
                self.free([self.waiting.pop()])
            elif other or (batch and cost + item.cost > self.batch_tokens):
                self.waiting.skip()
                passes += 1
            else:
                batch.append(self.waiting.pop())
                cost += item.cost
                passes = 0
        return batch or None

    def run(self, step: list[Item]) -> None:
        """Answer a batch; if it fails, each half alone, so that only the guilty row fails."""
        try:
            first, prepared = step[0], [item.prepared for item in step]
            answers = first.question.answer(first.loaded, prepared)
        except Exception as error:
            if len(step) > 1:
                self.run(step[: len(step) // 2])
                self.run(step[len(step) // 2 :])
                return
            log.error("version %s fails on a row: %s", step[0].loaded.version, type(error))
            fulfil(step[0].future, Failed("the model failed on this row"))
            return
        for item, result in zip(step, answers, strict=True):
            if result.finite:
                fulfil(item.future, result)
            else:
                log.error("version %s answers a row with no number", step[0].loaded.version)
                fulfil(item.future, Failed("the model's answer to this row is no number"))

    def settle(self, step: list[Item], seconds: float) -> None:
        """Give the batch's places back. What is unanswered was in the hands of a dying engine."""
        for item in step:
            if not item.future.done():
                fulfil(item.future, Failed("the engine has ended"))
        self.free(step)
        cost = sum(item.cost for item in step)
        self.rate = 0.9 * self.rate + 0.1 * cost / max(seconds, 1e-6)

    def free(self, items: Sequence[Item]) -> None:
        """Give places back (the lock is held)."""
        for item in items:
            self.places.give(item.client, item.cost)
            item.loaded.pending -= 1
        if items:
            self.engine.changed.notify_all()

    def abandon(self) -> None:
        """Fail what waits."""
        with self.engine.changed:
            left = self.waiting.clear()
            self.free(left)
        for item in left:
            fulfil(item.future, Failed("the engine has ended"))


def answer(loaded: Loaded, prepared: Sequence[Any]) -> list[Answer]:
    """A version's answers to prepared rows, in their order: also the slow, short reference."""
    found = loaded.calibration.apply(loaded.task, loaded.predictor.answers(prepared))
    return [Answer(loaded.task, item, found.take([row])) for row, item in enumerate(prepared)]


def prepared_rows(loaded: Loaded, rows: Sequence[Row]) -> list[Any]:
    """Rows made ready by a version's predictor."""
    return loaded.predictor.prepare(rows)


ANSWERS = Question(prepared_rows, answer)
"""The task's answers to its rows."""


def fulfil(future: Future[Answer], outcome: Answer | Exception) -> None:
    """Fulfil a future unless its client has gone."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
