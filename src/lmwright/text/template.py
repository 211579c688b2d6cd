"""Untrusted jinja2 templates, rendered in a sandbox: bounded time, memory and length."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput

WORKER = Path(__file__).with_name("template_worker.py")
SECONDS = 1.0
"""Processor time of one rendering."""
PATIENCE = 20.0
"""Seconds of the clock after which a rendering is given up even if it had no processor."""
MEMORY = 256 * 1024 * 1024
"""Bytes that a rendering may take beyond what an idle worker has."""
LONGEST = 8_000_000
"""Characters of one rendering."""
LONGEST_SOURCE = 1_000_000
SIMPLER = "use a template that renders in bounded time and memory"


class SandboxedTemplate:
    """A template and the process that renders it, started at its first use and after a death.

    ``reads`` are the names that the template takes from outside. BadInput if it is no template.
    """

    def __init__(self, source: str) -> None:
        if len(source) > LONGEST_SOURCE:
            raise BadInput(f"the template has {len(source)} characters", f"{LONGEST_SOURCE}")
        self.source = source
        self.lock = threading.Lock()
        self.worker: Worker | None = None
        with self.lock:
            self.reads = frozenset(self.started().reads)

    def render(
        self,
        variables: Mapping[str, Any],
        marks: tuple[str, str] = ("", ""),
        now: datetime | None = None,
    ) -> str:
        """The text; ``marks`` go before and after what is within generation tags.

        BadInput if the template refuses the variables, fails, or takes too much of anything.
        """
        moment = (now or datetime.now()).isoformat()
        with self.lock:
            request = {"variables": variables, "marks": marks, "now": moment}
            return self.started().ask(request)["text"]

    def close(self) -> None:
        """End the process; the next rendering starts another."""
        with self.lock:
            if self.worker:
                self.worker.end()
            self.worker = None

    def started(self) -> Worker:
        """The living worker of this process, which is not that of the process it was forked of."""
        worker = self.worker
        if worker is None or worker.dead or worker.owner != os.getpid():
            self.worker = worker = Worker(self.source)
        return worker


class Worker:
    """One process with one template."""

    def __init__(self, source: str) -> None:
        self.owner = os.getpid()
        self.dead = False
        command = [sys.executable, "-I", str(WORKER), str(MEMORY), str(SECONDS), str(LONGEST)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
        )
        self.end = weakref.finalize(self, stop, self.process, self.owner)
        self.reads: list[str] = self.ask({"source": source})["reads"]

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer; BadInput if it is an error or none comes."""
        data = json.dumps(request).encode()
        timer = threading.Timer(PATIENCE, self.process.kill)
        timer.start()
        try:
            answer = exchange(self.process, data)
        finally:
            timer.cancel()
        if answer is None or answer.get("spent"):
            self.dead = True
            self.end()
        if answer is None:
            raise BadInput(
                "the template was stopped",
                f"a rendering within {SECONDS:g} s and {MEMORY >> 20} MiB",
                SIMPLER,
            )
        if "error" in answer:
            raise BadInput(
                f"the template says: {answer['error']}", "a conversation that it can render"
            )
        return answer


def exchange(process: subprocess.Popen[bytes], data: bytes) -> dict[str, Any] | None:
    """Write a request and read the answer; None if the process died over it."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write(struct.pack("<Q", len(data)) + data)
        process.stdin.flush()
    except BrokenPipeError:
        return None
    head = process.stdout.read(8)
    if len(head) < 8:
        return None
    size = struct.unpack("<Q", head)[0]
    body = process.stdout.read(size)
    return json.loads(body) if len(body) == size else None


def stop(process: subprocess.Popen[bytes], owner: int) -> None:
    """End a worker; that of the process this one was forked of is left to it."""
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe:
                pipe.close()
        except OSError:
            pass  # what was not written before it died
