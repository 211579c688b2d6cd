"""The settings of a server: the section ``serve`` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.core.device import Device, KvPrecision, Precision

LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True, kw_only=True)
class Serve(Settings):
    """The address, keys and limits of a server.

    ``keys`` is a file with one ``NAME ROLE SHA256`` a line (role ``use`` or ``admin``; the key
    itself is stored nowhere). Without it only this machine is listened to.
    ``hosts`` are further names under which the server may be addressed.
    No client may hold more than half of ``queue_tokens``, and none may have more than
    ``tokens_per_minute`` read and written (0: no bound). ``log_requests`` writes a line of JSON
    for each request; faults are always logged. For language models: ``queue_requests`` may be
    under way at once (half of them one client's), an answer has at most ``max_tokens``, all
    answers to a request take at most ``answer_seconds``, and the keys and values of all that a
    model reads and writes are those of at most ``cache_tokens``, those of searches (beams) of as
    many again. What begins like a text that was
    read before is not read again: like one of the same client, or with ``share_prefixes`` of any,
    who could then tell by the time of an answer what others have sent. In int8 and int4
    ``draft_tokens`` of a text may be read ahead where it repeats itself and that pays; the text
    stays the same. Of several published models those asked for last stay loaded, as many as have
    their weights in ``memory_mb`` (0: all). Each folder in the folder ``adapters`` is an adapter of
    PEFT on the first model and answers under its own name: it is read when it is asked for, and
    again once its files have changed. ``device`` is where networks run (auto: a CUDA device
    if there is one), ``precision`` in what their products are computed (auto: bf16 on a CUDA device
    that multiplies in it, else fp32), ``kv`` what keys and values are kept in while a text is
    written (int8 with a scale for each head of a token: a quarter of the memory).
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: str | None = None
    hosts: tuple[str, ...] = ()
    max_texts: int = 64
    max_characters: int = 50_000
    max_body_bytes: int = 4_000_000
    queue_tokens: int = 200_000
    tokens_per_minute: int = 0
    batch_tokens: int = 2048
    queue_requests: int = 32
    max_tokens: int = 4096
    cache_tokens: int = 32_768
    draft_tokens: int = 7
    share_prefixes: bool = False
    memory_mb: int = 0
    adapters: str | None = None
    request_seconds: float = 30.0
    answer_seconds: float = 600.0
    drain_seconds: float = 20.0
    log_requests: bool = False
    device: Device = "auto"
    precision: Precision = "auto"
    kv: KvPrecision = "fp32"

    def check(self) -> None:
        """Refuse to listen to other machines without keys, and limits below 1."""
        if self.host not in LOOPBACK and self.keys is None:
            raise BadInput(
                f"serve.host is {self.host!r} and there are no keys",
                "keys wherever other machines can reach the server",
                "set serve.keys to a file of NAME ROLE SHA256 lines, or host to 127.0.0.1",
            )
        limits = ("max_texts", "max_characters", "max_body_bytes", "queue_tokens", "batch_tokens")
        for name in (*limits, "queue_requests", "max_tokens", "cache_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"serve.{name} is {getattr(self, name)}", "at least 1")
        for name in ("tokens_per_minute", "memory_mb"):
            if getattr(self, name) < 0:
                raise BadInput(f"serve.{name} is {getattr(self, name)}", "0 or more")
        if not 0 <= self.draft_tokens <= 15:
            raise BadInput(f"serve.draft_tokens is {self.draft_tokens}", "0 (none) to 15")
        if not 0 <= self.port <= 65535:
            raise BadInput(f"serve.port is {self.port}", "0 (any free one) to 65535")
        for name in ("request_seconds", "answer_seconds", "drain_seconds"):
            if not 0 < getattr(self, name) <= 3600:
                raise BadInput(f"serve.{name} is {getattr(self, name)}", "seconds, up to 3600")
