"""Renders one template again and again in a process of its own; run as a script by the box.

A template is a program by a stranger. The sandbox of jinja2 keeps it from Python's insides, but
not from a loop without end, 9**9**9, or a string doubled forty times; there are too many ways
to check for each of them. So the process itself is bounded: memory by RLIMIT_AS, processor time
by a timer whose signal ends the process whatever C code it is in, files by limits of size 0.
Requests and answers are JSON behind their length, on standard input and output.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import struct
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace


class Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, which refuses a forbidden attribute at once and not when it is used."""

    generation_marks = ("", "")

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Refuse the access."""
        raise SecurityError(f"{attribute!r} of {type(obj).__name__} may not be read")


class Generation(Extension):
    """The tag pair generation and endgeneration, round what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 wants it)

    def parse(self, parser: Parser) -> nodes.Node:
        """The block between the tags, given to ``marked``."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("marked"), [], [], body).set_lineno(line)

    def marked(self, caller: Any) -> str:
        """The block's text, between this rendering's marks."""
        first, last = cast(Sandbox, self.environment).generation_marks
        return f"{first}{caller()}{last}"


class PlainNamespace(Namespace):
    """A namespace without names that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a name."""
        if name.startswith("_"):
            raise SecurityError(f"{name!r} may not be set")
        super().__setitem__(name, value)


def main() -> None:
    """Answer requests until there are no more."""
    limit(int(sys.argv[1]))
    seconds, longest = float(sys.argv[2]), int(sys.argv[3])
    environment = sandbox()
    template: Any = None
    while request := receive():
        answer: dict[str, Any]
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            if "source" in request:
                template = environment.from_string(request["source"])
                answer = {"reads": reads(environment, request["source"])}
            else:
                answer = {"text": rendered(environment, template, request, longest)}
        except MemoryError:
            answer = {"error": "it needs too much memory", "spent": True}
        except RecursionError:
            answer = {"error": "it calls itself too deeply"}
        except Exception as error:
            line = getattr(error, "lineno", None)
            where = f" (line {line})" if line else ""
            kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
            answer = {"error": f"{kind}{str(error)[:400]}{where}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(answer)


def limit(memory: int) -> None:
    """Bound this process: so many bytes beyond what it has now, no files written, no core."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    total = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (total, total))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))


def sandbox() -> Sandbox:
    """The environment that published chat templates are written for."""
    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "namespace": PlainNamespace,
        "dict": lambda *args, **names: dict(*args, **names),
    }
    return environment


def raise_exception(message: str) -> None:
    """The function with which a template refuses a conversation."""
    raise jinja2.TemplateError(str(message))


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, where jinja2's own filter would escape it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def reads(environment: Sandbox, source: str) -> list[str]:
    """The names that the template takes from outside."""
    return sorted(meta.find_undeclared_variables(environment.parse(source)))


def rendered(environment: Sandbox, template: Any, request: dict, longest: int) -> str:
    """The text of one rendering; an error when it is longer than it may be."""
    now = datetime.fromisoformat(request["now"])
    environment.generation_marks = tuple(request["marks"])
    template.globals["strftime_now"] = lambda form: now.strftime(form)
    pieces = []
    size = 0
    for piece in template.generate(**request["variables"]):
        size += len(piece)
        if size > longest:
            raise jinja2.TemplateError(f"it renders more than {longest} characters")
        pieces.append(piece)
    # A surrogate of a template's own making ("\ud800") has no place in UTF-8.
    return re.sub("[\ud800-\udfff]", "\ufffd", "".join(pieces))


def receive() -> dict | None:
    """The next request; None when there are no more."""
    head = sys.stdin.buffer.read(8)
    if len(head) < 8:
        return None
    return json.loads(sys.stdin.buffer.read(struct.unpack("<Q", head)[0]))


def send(answer: dict) -> None:
    """Answer a request."""
    data = json.dumps(answer).encode()
    sys.stdout.buffer.write(struct.pack("<Q", len(data)) + data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
