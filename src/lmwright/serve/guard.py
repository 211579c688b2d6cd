"""The guard before every route: who asks, from where, and how much they send.

Plain ASGI, so that nothing reaches a route, not even an unknown one, that has not passed it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.serve.request import RequestFault
from lmwright.serve.settings import LOOPBACK, Serve

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ROLES = {"use", "admin"}
DECIDING = {
    b"host",
    b"authorization",
    b"origin",
    b"content-length",
    b"content-type",
    b"content-encoding",
    b"transfer-encoding",
}
ADMIN = ("/v1/admin",)
WITHOUT_KEY = {("GET", "/"), ("HEAD", "/")}
"""Requests that want no key: those of the page, which holds nothing secret."""
MOST_HEADERS = 100
BODIES_AT_ONCE = 32
LINGER_SECONDS = 2.0

log = logging.getLogger("lmwright.serve")


class Guard:
    """Checks host, origin, key, role and body of every request, then calls ``app``.

    All bodies that are being received take ``BODIES_AT_ONCE`` times the largest one at most.
    """

    def __init__(self, app: App, settings: Serve) -> None:
        self.app, self.settings = app, settings
        self.keys = read_keys(Path(settings.keys)) if settings.keys else None
        self.names = {name.lower() for name in (*LOOPBACK, settings.host, *settings.hosts)}
        self.room = BODIES_AT_ONCE * settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass or answer it here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        sent = Sent(send)
        try:
            headers = single_headers(scope)
            self.check_host(headers)
            scope["client_name"] = self.check_key(scope, headers)
            body = await self.read_body(scope, headers, receive)
        except RequestFault as fault:
            await answer_fault(sent, fault, receive)
            return
        try:
            await self.app(scope, replay(body, receive), sent)
        except asyncio.CancelledError:  # the server ends and waits no longer
            if not sent.begun:
                stops = RequestFault(503, "the server stops", headers={"Retry-After": "5"})
                await answer_fault(sent, stops, receive)
        except Exception as error:
            log.error("a request failed", exc_info=error)
            if not sent.begun:
                await answer_fault(sent, RequestFault(500, "the server failed"), receive)

    def check_host(self, headers: dict[bytes, bytes]) -> None:
        """Only names of this server: a page elsewhere cannot reach it by rebinding its own name."""
        host = bare_name(headers.get(b"host", b"").decode("latin-1"))
        if host not in self.names:
            raise RequestFault(403, "this server does not go by that name")
        origin = headers.get(b"origin")
        if origin is not None:
            name = bare_name(origin.decode("latin-1").partition("://")[2])
            if name not in self.names:
                raise RequestFault(403, "requests from other origins are refused")

    def check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        """The name of the key's owner; every key is compared, in constant time.

        Where no key is wanted, the client's address.
        """
        if self.keys is None or (scope["method"], scope["path"]) in WITHOUT_KEY:
            client = scope.get("client")
            return client[0] if client else ""
        scheme, _, word = headers.get(b"authorization", b"").partition(b" ")
        given = hashlib.sha256(word).hexdigest() if scheme.lower() == b"bearer" else ""
        found: tuple[str, str] | None = None
        for name, role, digest in self.keys:
            if hmac.compare_digest(digest, given):
                found = (name, role)
        if found is None:
            raise RequestFault(
                401,
                "a key is needed: Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
        path = "/" + scope["path"].strip("/").lower()
        if path.startswith(ADMIN) and found[1] != "admin":
            raise RequestFault(403, "this key may not do that")
        return found[0]

    async def read_body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, bounded in size and time, of the one type that is understood."""
        if scope["method"] in {"GET", "HEAD", "OPTIONS", "DELETE"}:
            return b""
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RequestFault(415, "compressed bodies are refused")
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise RequestFault(415, "Content-Type must be application/json")
        most = self.settings.max_body_bytes
        if announced(headers) > most:
            raise RequestFault(413, f"the body is larger than {most} bytes")
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.request_seconds):
                await self.collect(receive, body)
        except TimeoutError:
            raise RequestFault(408, "the body came too slowly") from None
        finally:
            self.room += len(body)
        return bytes(body)

    async def collect(self, receive: Receive, body: bytearray) -> None:
        """Fill ``body`` with all parts of what is sent, while there is room."""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestFault(400, "the client went away")
            part = message.get("body", b"")
            if len(body) + len(part) > self.settings.max_body_bytes:
                raise RequestFault(
                    413, f"the body is larger than {self.settings.max_body_bytes} bytes"
                )
            if len(part) > self.room:
                raise RequestFault(
                    503, "too much is being received at once", headers={"Retry-After": "1"}
                )
            body += part
            self.room -= len(part)
            more = message.get("more_body", False)


class Sent:
    """Sends, and knows whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self.send, self.begun = send, False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of the answer."""
        self.begun = True
        await self.send(message)


def announced(headers: dict[bytes, bytes]) -> int:
    """The declared length of a body; a number of absurd length is as good as infinite."""
    length = headers.get(b"content-length", b"0")
    if not length.isdigit():
        raise RequestFault(400, "Content-Length is no number")
    return int(length[:20])


def replay(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read once more, then whatever comes after it (the disconnection)."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def answer_fault(send: Send, fault: RequestFault, receive: Receive) -> None:
    """Send an error, then end the connection, since the body may not have been read.

    What the client still sends is read and dropped for a while first: closing on it would reset
    the connection, and the client might never see why.
    """
    data = fault.to_bytes()
    headers = {"content-type": "application/json", "connection": "close", **fault.headers}
    headers["content-length"] = str(len(data))
    pairs = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": pairs})
    await send({"type": "http.response.body", "body": data, "more_body": True})
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})


def single_headers(scope: Scope) -> dict[bytes, bytes]:
    """Headers by name. Those that decide something must not stand twice, nor two lengths."""
    if scope.get("http_version") not in {"1.0", "1.1"}:
        raise RequestFault(505, "HTTP/1.1 is spoken here")
    if len(scope["headers"]) > MOST_HEADERS:
        raise RequestFault(431, f"more than {MOST_HEADERS} headers")
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in found and name in DECIDING:
            raise RequestFault(400, f"the header {name.decode()} stands twice")
        found[name] = value
    chunked = b"transfer-encoding" in found
    if chunked and (b"content-length" in found or scope.get("http_version") == "1.0"):
        raise RequestFault(400, "it is not clear where the body ends")
    return found


def bare_name(host: str) -> str:
    """A host without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def read_keys(path: Path) -> list[tuple[str, str, str]]:
    """``NAME ROLE SHA256`` lines; BadInput names the line at fault."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the keys in {path} cannot be read: {error}", "a text file") from None
    keys = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        right = len(words) == 3 and words[1] in ROLES and len(words[2]) == 64
        if not right or not all(c in "0123456789abcdef" for c in words[2]):
            raise BadInput(
                f"{path}, line {number} is no key",
                "NAME use|admin SHA256",
                "make the digest with: printf %s KEY | sha256sum",
            )
        keys.append((words[0], words[1], words[2]))
    if not keys:
        raise BadInput(f"{path} holds no key", "at least one NAME ROLE SHA256 line")
    return keys
