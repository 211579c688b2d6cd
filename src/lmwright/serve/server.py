"""The server's process: its address, its connections, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from types import FrameType
from typing import cast

import uvicorn

from lmwright.core.errors import BadInput
from lmwright.serve.connection import HEAD_BYTES, Connection
from lmwright.serve.engine import Engine
from lmwright.serve.settings import Serve

log = logging.getLogger("lmwright.serve")

WRITE_SECONDS = 5
"""The most seconds that clients may take to read their last answers."""


class DrainingServer(uvicorn.Server):
    """A server that drains at the first SIGTERM or SIGINT and stops at once at the second."""

    def __init__(self, app: object, settings: Serve, engine: Engine) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # or any client could pretend to be another
                lifespan="off",
                http=Connection,
                ws="none",
                h11_max_incomplete_event_size=HEAD_BYTES,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=WRITE_SECONDS,
            )
        )
        self.engine, self.settings = engine, settings
        self.faults: Callable[[], Sequence[str]] = tuple
        self.told: Sequence[str] = ()
        self.stopping: float | None = None
        self.forced = 0
        self.dead = False
        self.drained = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: take nothing new, finish the old. Second: now."""
        self.engine.draining = True
        if self.stopping is None:
            self.stopping = time.monotonic()
        else:
            self.forced = sig
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Stop when everything under way is answered, or will not be, or an engine has died."""
        if not self.engine.worker.is_alive():
            self.dead = True
            return True
        if self.stopping is not None and not self.should_exit:
            self.drained = not self.engine.queued
            late = time.monotonic() - self.stopping > self.settings.drain_seconds
            self.should_exit = self.drained or late
        if counter % 10 == 0:
            self.look_round(time.monotonic())
        return bool(await super().on_tick(counter))

    @property
    def exit_code(self) -> int:
        """0 after a stop that lost nothing, 1 when some were not answered in time, 3 when what
        answers has died."""
        if self.dead:
            return 3
        return 0 if self.drained else 1

    def look_round(self, now: float) -> None:
        """End connections that wait for ever, and log the loop's faults when they change."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.sweep(now)
        faults = self.faults()
        if faults != self.told:
            self.told = faults
            for fault in filter(None, faults):
                log.error("the loop has a fault: %s", fault)


def begin_listening(alias: str, listener: socket.socket, settings: Serve) -> None:
    """Listen, and only then print the address, so that whoever reads it is not turned away."""
    try:
        listener.listen(1024)
    except OSError as error:
        raise taken(settings, error) from None
    with suppress(OSError):  # whoever started us may not read
        print(f"serving {alias} on {address(listener)}", flush=True)


def bind(settings: Serve) -> socket.socket:
    """A socket on the server's address, not listening yet; BadInput when it is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except (OSError, UnicodeError) as error:
        bound.close()
        raise taken(settings, error) from None
    return bound


def taken(settings: Serve, error: Exception) -> BadInput:
    """The error of an address that cannot be bound."""
    return BadInput(
        f"{settings.host}:{settings.port} cannot be listened on: "
        f"{getattr(error, 'strerror', None) or error}",
        "a free port of this machine",
        "choose another with --port (0 takes any free one)",
    )


def address(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed, the standard one otherwise."""
    if find_spec("uvloop") is None:
        return None
    return cast("Callable[[], asyncio.AbstractEventLoop]", import_module("uvloop").new_event_loop)
