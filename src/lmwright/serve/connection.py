"""One HTTP/1.1 connection, bounded: in time, in number, in the size of a request's head.

uvicorn's own protocol waits for ever for a head that never ends, for a client that never reads
and for one that never sends; here each of these ends, and every refusal has the one shape.
"""

from __future__ import annotations

import asyncio
import http
import logging
import resource
import sys
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from lmwright.serve.request import RequestFault

log = logging.getLogger("lmwright.serve")

HEAD_BYTES = 65536
"""The most that a request's line and headers may take."""


def max_connections() -> int:
    """The most open connections: a thousand, or half of the files we may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1000 if soft == resource.RLIM_INFINITY else max(8, min(1000, soft // 2))


class Connection(H11Protocol):
    """uvicorn's protocol with an end to everything. Times are in seconds."""

    head_seconds = 10.0
    """From when a connection is free until the whole head of a request must be there."""
    write_seconds = 20.0
    """The longest that a client may leave a response unread."""
    linger_seconds = 1.0
    """The time for which a refused client's bytes are still read, so that it sees the refusal."""
    max_connections = max_connections()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; where there are too many, the one longest idle goes."""
        super().connection_made(transport)
        self.free_since = time.monotonic()
        self.stuck_since: float | None = None
        self.refused = False
        if len(self.connections) > self.max_connections:
            self.make_room()

    def make_room(self) -> None:
        """End the connection that has been idle longest, or refuse this one if all are busy."""
        others = (other for other in self.connections if isinstance(other, Connection))
        idle = [other for other in others if other.idle and other is not self]
        if idle:
            oldest = min(idle, key=lambda other: other.free_since)
            self.connections.discard(oldest)  # now, so that the next one does not choose it again
            oldest.end()
        else:
            fault = RequestFault(503, "too many connections", headers={"Retry-After": "1"})
            self.refuse(fault)

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Read on, unless the client has been refused."""
        if self.refused:
            return
        try:
            super().data_received(data)
        except Exception as error:
            log.error("a connection failed", exc_info=error)
            self.end()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, with the status that the parser hints at."""
        hint = getattr(sys.exc_info()[1], "error_status_hint", 400)
        words = {
            431: "the head of the request is too large",
            501: "this transfer encoding is not understood",
        }
        self.refuse(RequestFault(hint, words.get(hint, "this is not valid HTTP")))

    def refuse(self, fault: RequestFault) -> None:
        """Answer with an error and end; whatever was under way learns that its client is gone."""
        self.refused = True
        answerable = self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}
        if not self.idle:
            answerable = answerable and not self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._unset_keepalive_if_required()
        if not answerable:
            self.end()
            return
        self.flow.resume_reading()
        self.transport.write(plain_answer(fault))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(self.linger_seconds, self.end)

    def end(self) -> None:
        """Close, at once: what has not been read yet is dropped."""
        self.transport.abort()

    def on_response_complete(self) -> None:
        """From here on the connection is free again."""
        self.free_since = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not read."""
        self.stuck_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.stuck_since = None
        super().resume_writing()

    def shutdown(self) -> None:
        """End when the request under way is answered."""
        if self.refused:
            self.end()
        else:
            super().shutdown()

    def sweep(self, now: float) -> None:
        """End the connection if it has waited too long for its client; called every second."""
        if self.stuck_since is not None and now - self.stuck_since > self.write_seconds:
            self.end()
        elif self.transport.is_closing():
            if self.stuck_since is None:
                self.stuck_since = now
        elif self.idle and not self.refused and now - self.free_since > self.head_seconds:
            begun = self.conn.our_state is h11.IDLE and bool(self.conn.trailing_data[0])
            if begun:
                self.refuse(RequestFault(408, "the head of the request came too slowly"))
            else:
                self.end()

    def _unsupported_upgrade_warning(self) -> None:
        """Other protocols are not spoken here; that is no news for the log."""


def plain_answer(fault: RequestFault) -> bytes:
    """A whole HTTP/1.1 response, for clients whose request never became one."""
    body = fault.to_bytes()
    headers: dict[str, Any] = {
        "content-type": "application/json",
        "content-length": len(body),
        "connection": "close",
        **fault.headers,
    }
    phrase = http.HTTPStatus(fault.status).phrase
    lines = [f"HTTP/1.1 {fault.status} {phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
