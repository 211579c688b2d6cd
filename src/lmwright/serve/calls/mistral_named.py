"""Calls as Mistral's models since 2025 write them: a marker, a name, a marker, the arguments."""

from __future__ import annotations

from collections.abc import Sequence

from lmwright.serve.calls.scan import More, Scan, Unlike
from lmwright.serve.calls.syntax import Function, Mark, Next, text_without
from lmwright.text.constrained import Language, json_rule, quoted, up_to

ARGUMENTS = "[ARGS]"
CALL_ID = "[CALL_ID]"
MAX_NAME = 256


class MistralNamedCalls:
    """``[TOOL_CALLS]name[ARGS]{…}``, once for each call."""

    opens = "[TOOL_CALLS]"
    closes = ""
    markers = (opens, ARGUMENTS)

    def is_of(self, template: str) -> bool:
        """Whether the template has both markers."""
        return self.opens in template and ARGUMENTS in template

    def name(self, scan: Scan, names: Sequence[str], first: bool) -> str:
        """What stands before the second marker, but for an id."""
        try:
            name = scan.until(ARGUMENTS)
        except More:
            raise Unlike if len(scan.rest) > MAX_NAME else More from None
        return name.split(CALL_ID)[0].strip()

    def arguments(self, scan: Scan) -> bool:
        """Nothing is between the second marker and the arguments but space."""
        scan.space()
        return True

    def after(self, scan: Scan) -> Next:
        """Another marker is what begins another call."""
        return "text"

    def whole(self, text: str) -> tuple[str, str] | None:
        """There is one order only."""
        return None

    def calls(self, functions: Sequence[Function], several: bool, mark: Mark) -> Language:
        """Calls one after another."""
        rule = f"({mark(self.opens)} fn){'+' if several else ''}"
        return Language(f"{rule}\n{self.rules(functions, mark)}")

    def beside_text(self, functions: Sequence[Function], several: bool, mark: Mark) -> Language:
        """Text in which calls may stand."""
        rule = f"(before fn){'*' if several else '?'} TAIL"
        before = up_to("before", mark(self.opens), text_without(self.opens))
        tail = f"TAIL: {text_without(self.opens)}"
        return Language(f"{rule}\n{before}\n{tail}\n{self.rules(functions, mark)}")

    def rules(self, functions: Sequence[Function], mark: Mark) -> str:
        """Rules of Lark: ``fn``, name and arguments of one of some functions."""
        lines = ["fn: " + " | ".join(f"fn_{n}" for n in range(len(functions)))]
        for n, each in enumerate(functions):
            lines.append(f"fn_{n}: {quoted(each.name)} {mark(ARGUMENTS)} args_{n}")
            lines.append(f"args_{n}: {json_rule(each.schema)}")
        return "\n".join(lines)
