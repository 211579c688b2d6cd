"""What a syntax of calls is, and the parts that those of JSON objects share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lmwright.serve.calls.scan import Scan, Unlike
from lmwright.text.constrained import Language, json_rule, quoted

Next = Literal["call", "text", "end"]
"""What follows a call: another one at once, text in which another may begin, or text alone."""
OTHER_KEYS = ("type", "id", "index")
"""Keys that may stand before the name of a function."""


@dataclass(frozen=True)
class Function:
    """A function that a model may call: its name, and the schema of its arguments."""

    name: str
    schema: Mapping[str, Any]


class Syntax(Protocol):
    """How a model writes calls.

    ``opens`` begins them ("" where only a whole answer is calls), ``closes`` ends one ("" where
    nothing but the end of its arguments does). ``markers`` are the texts that may be tokens.
    """

    @property
    def opens(self) -> str: ...

    @property
    def closes(self) -> str: ...

    @property
    def markers(self) -> tuple[str, ...]: ...

    def is_of(self, template: str) -> bool:
        """Whether a chat template has its models write so."""

    def name(self, scan: Scan, names: Sequence[str], first: bool) -> str:
        """The function's name, read from behind ``opens`` or a call before (not ``first``)."""

    def arguments(self, scan: Scan) -> bool:
        """Read what is between name and arguments; False where there are none."""

    def after(self, scan: Scan) -> Next:
        """Read what is behind the arguments, and tell what follows."""

    def whole(self, text: str) -> tuple[str, str] | None:
        """Name and arguments of a block whose parts stand in another order; None for no call."""

    def calls(self, functions: Sequence[Function], several: bool, mark: Mark) -> Language:
        """Calls of these functions, one or ``several``."""

    def beside_text(self, functions: Sequence[Function], several: bool, mark: Mark) -> Language:
        """Any text, with calls of these functions in it or not."""


Mark = Callable[[str], str]
"""The expression of Lark for a marker: its token where there is one, else its text."""


def object_name(scan: Scan) -> str:
    """The value of ``name``, the first key of an object but for a few."""
    scan.space()
    scan.literal("{")
    while True:
        scan.space()
        key = scan.string()
        scan.space()
        scan.literal(":")
        scan.space()
        value = scan.string()
        if key == "name":
            return value
        if key not in OTHER_KEYS:
            raise Unlike
        scan.space()
        scan.literal(",")


def object_arguments(scan: Scan) -> bool:
    """What is between the name and the arguments of an object."""
    while True:
        scan.space()
        if scan.has("}"):
            scan.place -= 1  # the object's end is read behind the arguments
            return False
        scan.literal(",")
        scan.space()
        key = scan.string()
        scan.space()
        scan.literal(":")
        scan.space()
        if key in ("arguments", "parameters"):
            return True
        scan.string()


def object_after(scan: Scan) -> None:
    """The end of an object behind its arguments, with further keys that have texts."""
    scan.space()
    while scan.has(","):
        scan.space()
        scan.string()
        scan.space()
        scan.literal(":")
        scan.space()
        scan.string()
        scan.space()
    scan.literal("}")


def object_rules(functions: Sequence[Function], arguments: str) -> str:
    """Rules of Lark: ``fn``, the object of a call of one of some functions."""
    lines = ["fn: " + " | ".join(f"fn_{n}" for n in range(len(functions)))]
    for n, each in enumerate(functions):
        head = f'{{"name": {quoted(each.name)}, {quoted(arguments)}: '
        lines.append(f'fn_{n}: {quoted(head)} args_{n} "}}"')
        lines.append(f"args_{n}: {json_rule(each.schema)}")
    return "\n".join(lines)


def text_without(marker: str) -> str:
    """The expression for any text that does not hold a marker."""
    escaped = "".join(f"\\x{{{ord(each):x}}}" for each in marker)
    return f"/(?s:.*)/ & ~/(?s:.*){escaped}(?s:.*)/"
