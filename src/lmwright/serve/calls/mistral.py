"""Calls as Mistral's models of 2024 write them: a marker, and a list of objects."""

from __future__ import annotations

from collections.abc import Sequence

from lmwright.serve.calls.scan import Scan
from lmwright.serve.calls.syntax import (
    Function,
    Mark,
    Next,
    object_after,
    object_arguments,
    object_name,
    object_rules,
    text_without,
)
from lmwright.text.constrained import Language, up_to


class MistralCalls:
    """``[TOOL_CALLS][{"name": …, "arguments": …}, …]``."""

    opens = "[TOOL_CALLS]"
    closes = ""
    markers = (opens,)

    def is_of(self, template: str) -> bool:
        """Whether the template has the marker, and none between name and arguments."""
        return self.opens in template and "[ARGS]" not in template

    def name(self, scan: Scan, names: Sequence[str], first: bool) -> str:
        """The name in the next object of the list."""
        scan.space()
        if first and scan.has("["):
            scan.space()
        return object_name(scan)

    def arguments(self, scan: Scan) -> bool:
        """What is before the arguments in the object."""
        return object_arguments(scan)

    def after(self, scan: Scan) -> Next:
        """The end of the object, and of the list with the last one."""
        object_after(scan)
        scan.space()
        if scan.has(","):
            return "call"
        scan.literal("]")
        return "text"

    def whole(self, text: str) -> tuple[str, str] | None:
        """No block has an end that can be known."""
        return None

    def calls(self, functions: Sequence[Function], several: bool, mark: Mark) -> Language:
        """The marker and a list."""
        return Language(f"{mark(self.opens)} {self.list(several)}\n{self.rules(functions)}")

    def beside_text(self, functions: Sequence[Function], several: bool, mark: Mark) -> Language:
        """Text that may end with a list."""
        rule = f"TAIL | before {self.list(several)}"
        before = up_to("before", mark(self.opens), text_without(self.opens))
        tail = f"TAIL: {text_without(self.opens)}"
        return Language(f"{rule}\n{before}\n{tail}\n{self.rules(functions)}")

    def list(self, several: bool) -> str:
        """The expression for a list of calls."""
        more = ' (", " fn)*' if several else ""
        return f'"[" fn{more} "]"'

    def rules(self, functions: Sequence[Function]) -> str:
        """The rules of the objects."""
        return object_rules(functions, "arguments")
