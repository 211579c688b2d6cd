"""The guard before every route: who asks, from where, and how much they send.

Plain ASGI, so that nothing reaches a route, not even an unknown one, that has not passed it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
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
ADMIN = ("/v1/admin",)


class Guard:
    """Checks host, origin, key, role and body of every request, then calls ``app``."""

    def __init__(self, app: App, settings: Serve) -> None:
        self.app, self.settings = app, settings
        self.keys = read_keys(Path(settings.keys)) if settings.keys else None
        self.names = {name.lower() for name in (*LOOPBACK, settings.host, *settings.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass or answer it here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            headers = single_headers(scope)
            self.check_host(headers)
            scope["client_name"] = self.check_key(scope, headers)
            body = await self.read_body(scope, headers, receive)
        except RequestFault as fault:
            await answer_fault(send, fault)
            return
        await self.app(scope, replay(body, receive), send)

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
        """The name of the key's owner; every key is compared, in constant time."""
        if self.keys is None:
            client = scope.get("client")
            return client[0] if client else ""
        scheme, _, word = headers.get(b"authorization", b"").partition(b" ")
        given = hashlib.sha256(word).hexdigest() if scheme.lower() == b"bearer" else ""
        found = None
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
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            raise RequestFault(413, f"the body is larger than {most} bytes")
        try:
            async with asyncio.timeout(self.settings.request_seconds):
                return await collect(receive, most)
        except TimeoutError:
            raise RequestFault(408, "the body came too slowly") from None


async def collect(receive: Receive, most: int) -> bytes:
    """All parts of a body, at most ``most`` bytes."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestFault(400, "the client went away")
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise RequestFault(413, f"the body is larger than {most} bytes")
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


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


async def answer_fault(send: Send, fault: RequestFault) -> None:
    """Send an error. The connection ends, since the body may not have been read."""
    data = json.dumps(fault.body()).encode()
    headers = {"content-type": "application/json", "connection": "close", **fault.headers}
    headers["content-length"] = str(len(data))
    pairs = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": pairs})
    await send({"type": "http.response.body", "body": data})


def single_headers(scope: Scope) -> dict[bytes, bytes]:
    """Headers by name. Those that decide something must not stand twice."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in found and name in {b"host", b"authorization", b"content-length", b"origin"}:
            raise RequestFault(400, f"the header {name.decode()} stands twice")
        found[name] = value
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
