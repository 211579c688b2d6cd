"""A client of an OpenAI-compatible endpoint: bounded in time and size, its key never shown."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

from lmwright.core.errors import BadInput, LmwrightError

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")
"""Upper case alone, so that a key that is given in place of a variable's name is seldom one."""
LINE_ENDS = re.compile(rb"\r\n|\n|\r(?!\Z)")
CHUNK = 1 << 16
LONGEST_LINE = 1 << 20
LONGEST_FAULT = 1 << 16
SHOWN = 400
"""Characters of an endpoint's own words that are shown."""
TRY_AGAIN = {429, *range(500, 600)}
ELSEWHERE = range(300, 400)


@dataclass(frozen=True)
class Limits:
    """Timeouts, size limit and retries of a request.

    A try ends after ``idle_timeout`` seconds without a byte, after ``timeout`` seconds in all, or
    with more than ``max_bytes``. There are ``tries``; between them the endpoint's ``Retry-After``
    is waited for, if it is at most ``max_wait`` seconds, else 1, 2, 4, ... seconds.
    """

    idle_timeout: float = 120.0
    timeout: float = 3600.0
    max_bytes: int = 16 << 20
    tries: int = 4
    max_wait: float = 60.0


class Rejected(BadInput):
    """A request that an endpoint refuses; ``message`` is its own, unchanged."""

    def __init__(self, found: str, wanted: str, cure: str, message: str) -> None:
        super().__init__(found, wanted, cure)
        self.message = message


@dataclass(frozen=True)
class Endpoint:
    """The base URL of a hosted model's interface, such as ``https://host/v1``.

    ``key_from`` names the variable of the environment that holds the key, which is read when it is
    sent and appears in no message. Redirects are not followed and proxies not used: requests go to
    the host that the user named. BadInput for an address that is none, or would send a key
    unprotected: without TLS only this machine itself is asked.
    """

    url: str
    key_from: str = ""
    limits: Limits = Limits()
    sleep: Callable[[float], None] = field(default=time.sleep, compare=False)

    def __post_init__(self) -> None:
        checked_address(self.url)
        if self.key_from and not VARIABLE.fullmatch(self.key_from):
            raise BadInput(
                "what should name a variable of the environment is none in capitals",
                "the name of the variable that holds the key, not the key",
                "export it as LMWRIGHT_KEY, say, and give that name",
            )

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST ``body``; the JSON object of the response.

        Rejected if the endpoint refuses; LmwrightError if it cannot be reached, stays silent, or
        answers with something else.
        """
        with self.translated(), self.response(path, body) as response:
            return self.object(b"".join(self.chunks(response)))

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The objects of a stream of server-sent events; faults as :meth:`post`.

        An endpoint that does not stream gives one object.
        """
        with self.translated(), self.response(path, body) as response:
            if response.headers.get_content_type() != "text/event-stream":
                yield self.object(b"".join(self.chunks(response)))
                return
            for data in events(self.lines(response)):
                if data == b"[DONE]":
                    return
                found = self.object(data)
                if found.get("error"):
                    raise self.fault("breaks off", json.dumps(found).encode())
                yield found

    @contextmanager
    def response(self, path: str, body: Mapping[str, Any]) -> Iterator[http.client.HTTPResponse]:
        """The response to a request that was accepted, with retries."""
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if key := self.key():
            headers["Authorization"] = f"Bearer {key}"
        data = json.dumps(body).encode()
        where = urlsplit(self.url)
        for number in range(self.limits.tries):
            connection = TimedConnection(where, self.limits)
            try:
                target = f"{where.path.rstrip('/')}/{path}"
                connection.request("POST", target, data, headers)
                with connection.getresponse() as response:
                    if response.status in range(200, 300):
                        yield response
                        return
                    delay = self.retry_delay(response, number)
            finally:
                connection.close()
            self.sleep(delay)

    def retry_delay(self, response: http.client.HTTPResponse, number: int) -> float:
        """Seconds to wait before the try after ``number``; raises the refusal if there is none."""
        last = number + 1 == self.limits.tries
        wanted = retry_after(response.headers.get("Retry-After", ""))
        delay = 2.0**number if wanted is None else wanted
        if response.status in TRY_AGAIN and not last and delay <= self.limits.max_wait:
            return delay
        raise self.refusal(response, wanted)

    def refusal(self, response: http.client.HTTPResponse, delay: float | None) -> LmwrightError:
        """The error of a response that is no answer, with its cure."""
        status = response.status
        if status in ELSEWHERE:
            target = self.shown(response.headers.get("Location", ""))
            return BadInput(
                f"{self.url} sends elsewhere (status {status}, to {target})",
                "an endpoint that answers itself",
                "give the other address, if you trust it with your texts and your key",
            )
        body = response.read(LONGEST_FAULT)
        if status in TRY_AGAIN:
            wait = "" if delay is None else f" and asks for {delay:g} s of rest"
            return self.fault(f"answers with status {status}{wait}", body)
        words = message_of(body)
        cure = "change what it names"
        if status in (401, 403):
            cure = "name the variable that holds its key: --key-from NAME, or key_from"
        elif status in (404, 405):
            cure = "check the address and the model; one that only chats does not complete"
        return Rejected(
            f"{self.url} refuses the request (status {status}): {self.shown(words)}",
            "a request that it takes",
            cure,
            words,
        )

    def chunks(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """The body as it comes; LmwrightError where it is too long or cut short."""
        length, total = response.length, 0
        while length is None or total < length:
            chunk = response.read1(CHUNK if length is None else min(CHUNK, length - total))
            total += len(chunk)
            if total > self.limits.max_bytes:
                raise LmwrightError(
                    f"{self.url} answers with more than {self.limits.max_bytes:,} bytes",
                    "an answer within that",
                    "ask for fewer tokens, or check what answers there",
                )
            if not chunk:
                if length is not None:
                    raise self.fault("breaks off", b"")
                return
            yield chunk

    def lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """The body's lines as they come."""
        rest = b""
        for chunk in self.chunks(response):
            *whole, rest = LINE_ENDS.split(rest + chunk)
            if len(rest) > LONGEST_LINE:
                raise self.fault("streams a line without end", b"")
            yield from whole
        yield from (rest.rstrip(b"\r"), b"")

    def object(self, data: bytes) -> dict[str, Any]:
        """A JSON object; LmwrightError for anything else."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self.fault("answers with what is no JSON object", data)
        return found

    def fault(self, does: str, body: bytes) -> LmwrightError:
        """The error of an endpoint that misbehaves, with its own message if any."""
        words = message_of(body)
        return LmwrightError(
            f"{self.url} {does}" + (f": {self.shown(words)}" if words else ""),
            "an answer of an OpenAI-compatible endpoint",
            "check the address, or try again later",
        )

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn faults of the connection into LmwrightErrors."""
        try:
            yield
        except TimeoutError:
            raise LmwrightError(
                f"{self.url} was silent for {self.limits.idle_timeout:g} s, or took more than "
                f"{self.limits.timeout:g} s",
                "an answer in that time",
                "try again later, or ask for fewer tokens",
            ) from None
        except http.client.HTTPException as error:
            raise self.fault(
                f"breaks off, or speaks no HTTP ({type(error).__name__})", b""
            ) from None
        except OSError as error:
            raise LmwrightError(
                f"{self.url} cannot be reached: {self.shown(error.strerror or str(error))}",
                "an endpoint that answers",
                "check the address, and that something answers there",
            ) from None

    def key(self) -> str:
        """The key, or nothing where none is named."""
        if not self.key_from:
            return ""
        key = os.environ.get(self.key_from, "").strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise BadInput(
                f"the variable {self.key_from} is not set, or holds no key",
                "the key of the endpoint",
                f"export {self.key_from}=...",
            )
        return key

    def shown(self, words: str) -> str:
        """An endpoint's message in quotes, short, escaped, and without the key."""
        key = os.environ.get(self.key_from, "").strip() if self.key_from else ""
        return json.dumps((words.replace(key, "(the key)") if key else words)[:SHOWN])


class TimedConnection(http.client.HTTPConnection):
    """A connection whose operations all time out."""

    def __init__(self, where: SplitResult, limits: Limits) -> None:
        self.secure, self.limits = where.scheme == "https", limits
        port = where.port or (443 if self.secure else 80)
        super().__init__(where.hostname or "", port)

    def connect(self) -> None:
        """Reach the host; without TLS it must be this machine, whatever its name resolves to."""
        deadline = time.monotonic() + self.limits.timeout
        timeout = min(self.limits.idle_timeout, self.limits.timeout)
        plain = socket.create_connection((self.host, self.port), timeout)
        if self.secure:
            try:
                plain = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
            except BaseException:
                plain.close()
                raise
        elif not ip_address(plain.getpeername()[0]).is_loopback:
            plain.close()
            raise OSError("without TLS only this machine is asked")
        self.sock: Any = TimedSocket(plain, deadline, self.limits.idle_timeout)


class TimedSocket:
    """A socket whose operations time out after ``idle_timeout`` seconds, and at ``deadline`` at
    last (a time of the monotonic clock)."""

    def __init__(self, inner: socket.socket, deadline: float, idle_timeout: float) -> None:
        self.inner, self.deadline, self.idle_timeout = inner, deadline, idle_timeout

    def limit(self) -> None:
        """Bound the next operation; TimeoutError if its time is over."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.inner.settimeout(min(left, self.idle_timeout))

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self.limit()
        self.inner.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """A reader, which keeps the connection open until it is closed itself."""
        return io.BufferedReader(TimedReader(self))

    def close(self) -> None:
        """Close once no reader is left."""
        self.inner.close()


class TimedReader(io.RawIOBase):
    """The receiving side of a timed socket."""

    def __init__(self, timed: TimedSocket) -> None:
        self.timed, self.inner = timed, timed.inner.makefile("rb", buffering=0)

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what has come; 0 bytes at the end."""
        self.timed.limit()
        return self.inner.readinto(buffer)

    def close(self) -> None:
        """Let go of the connection."""
        self.inner.close()
        super().close()


def checked_address(url: str) -> SplitResult:
    """The parts of an endpoint's address; BadInput, which repeats none that may be secret."""
    wanted = "https://HOST/v1, or http:// for this machine itself"
    try:
        found = urlsplit(url)
        labels = (found.hostname or "").removesuffix(".").split(".")
        known = found.port != 0 and url.isascii() and url.isprintable()
        known = known and all(0 < len(label) < 64 for label in labels)
    except ValueError:
        known = False
    if not known or " " in url or found.scheme not in ("http", "https"):
        raise BadInput("an endpoint's address that is none", wanted)
    if found.username is not None or found.query or found.fragment:
        raise BadInput(
            "an endpoint's address with a user, a question mark or a hash",
            wanted,
            "give the key through a variable of the environment",
        )
    if found.scheme == "http" and not is_loopback(found.hostname or ""):
        raise BadInput(f"{url} is not protected by TLS", wanted, "use https")
    return found


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def retry_after(header: str) -> float | None:
    """The seconds that a ``Retry-After`` asks for (a number or a date); None where it is none."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        return max(0.0, seconds)
    return seconds if 0 <= seconds < float("inf") else None


def message_of(body: bytes) -> str:
    """An endpoint's error message: that of its JSON, else the beginning of the body."""
    text = body[: 4 * SHOWN].decode("utf-8", "replace")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return text
    found = found[0] if isinstance(found, list) and found else found
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else text


def events(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The data of each server-sent event (WHATWG HTML, section 9.2), comments left out."""
    data: list[bytes] = []
    for line in lines:
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data = []
