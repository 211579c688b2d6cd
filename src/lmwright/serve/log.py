"""The server's log: one JSON object a line on stderr, written by a thread of its own.

JSON escapes line ends, escape sequences and characters that turn the direction of writing, so no
client can forge a line or colour a terminal. A reader that has gone or does not read cannot hold
the server up: what does not fit into the queue is counted and dropped.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from typing import Any

LINES = 10_000
NAMES = ("lmwright.serve", "uvicorn", "asyncio")


class JsonLines(logging.Formatter):
    """A record as one line of ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC), level, logger, message, facts of a request, traceback of a fault."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Dropping(QueueHandler):
    """Puts lines into the queue as they will be written; drops those that do not fit."""

    lost = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The finished line, so that nothing of the request is kept alive."""
        line = self.format(record)
        return logging.makeLogRecord({"msg": line, "levelno": record.levelno})

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a line; never waits."""
        try:
            self.queue.put_nowait(record)
        except Full:
            self.lost += 1


class Quiet(logging.StreamHandler[Any]):
    """A stream whose reader may go away."""

    def handleError(self, record: logging.LogRecord) -> None:
        """A line that cannot be written is lost, and that is all."""


@contextmanager
def json_log() -> Iterator[None]:
    """Send the server's loggers to stderr for the length of a block; then all is as it was."""
    queue: Queue[logging.LogRecord] = Queue(LINES)
    handler = Dropping(queue)
    handler.setFormatter(JsonLines())
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if logger.name == "lmwright.serve" else logging.WARNING)
    listener = QueueListener(queue, Quiet(sys.stderr))
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        for logger, handlers, level, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
