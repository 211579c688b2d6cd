"""Calls as Hermes and Qwen write them: an object of JSON in a pair of tags, each call its own."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lmwright.serve.calls.scan import Scan
from lmwright.serve.calls.syntax import (
    Function,
    Mark,
    Next,
    object_arguments,
    object_name,
    object_rules,
    text_without,
)
from lmwright.text.constrained import Language, up_to


class HermesCalls:
    """``<tool_call>{"name": …, "arguments": …}</tool_call>``."""

    opens = "<tool_call>"
    closes = "</tool_call>"
    markers = (opens, closes)

    def is_of(self, template: str) -> bool:
        """Whether the template has the tag, and not that of calls in XML inside it."""
        return self.opens in template and "<function=" not in template

    def name(self, scan: Scan, names: Sequence[str], first: bool) -> str:
        """The name in the object."""
        return object_name(scan)

    def arguments(self, scan: Scan) -> bool:
        """What is before the arguments in the object."""
        return object_arguments(scan)

    def after(self, scan: Scan) -> Next:
        """The rest of the block."""
        scan.until(self.closes)
        return "text"

    def whole(self, text: str) -> tuple[str, str] | None:
        """A block whose object has its keys in another order."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return None
        given = value.get("arguments", value.get("parameters", {}))
        return value["name"], json.dumps(given, ensure_ascii=False)

    def calls(self, functions: Sequence[Function], several: bool, mark: Mark) -> Language:
        """Blocks, a line's end between them."""
        rule = 'call ("\\n" call)*' if several else "call"
        call = f'call: {mark(self.opens)} "\\n" {self.rest(mark)}'
        return Language(f"{rule}\n{call}\n{object_rules(functions, 'arguments')}")

    def beside_text(self, functions: Sequence[Function], several: bool, mark: Mark) -> Language:
        """Text in which blocks may stand."""
        rule = f"(before call){'*' if several else '?'} TAIL"
        before = up_to("before", mark(self.opens), text_without(self.opens))
        call = f'call: "\\n" {self.rest(mark)}'
        tail = f"TAIL: {text_without(self.opens)}"
        objects = object_rules(functions, "arguments")
        return Language(f"{rule}\n{before}\n{call}\n{tail}\n{objects}")

    def rest(self, mark: Mark) -> str:
        """The expression for the object and the end of its block."""
        return f'fn "\\n" {mark(self.closes)}'
