"""Turns to compile the forms of answers: a few at a time, and of each client one.

Requests are read by threads of one pool, of which there are few. A form may take seconds of a
processor; without turns those of one client would hold all threads, and nobody else be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

AT_ONCE = 2
"""Forms of one model that are compiled at once."""


class CompilingTurns:
    """Turns of one event loop. Clients that wait have one place each in the common queue."""

    def __init__(self) -> None:
        self.all = asyncio.Semaphore(AT_ONCE)
        self.own: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn of this client, and keep it for the length of a block."""
        own = self.own.setdefault(client, asyncio.Lock())
        async with own, self.all:
            yield
