"""Calls as Llama 3 writes them: an answer that is nothing but an object of JSON, or several."""

from __future__ import annotations

from collections.abc import Sequence

from lmwright.serve.calls.scan import Scan, Unlike
from lmwright.serve.calls.syntax import (
    Function,
    Mark,
    Next,
    object_after,
    object_arguments,
    object_name,
    object_rules,
)
from lmwright.text.constrained import Language

PYTHON_TAG = "<|python_tag|>"


class LlamaCalls:
    """``{"name": …, "parameters": …}``, further ones behind a semicolon."""

    opens = ""
    closes = ""
    markers = (PYTHON_TAG,)

    def is_of(self, template: str) -> bool:
        """Whether the template asks for objects with parameters."""
        return '"parameters":' in template and "function name" in template

    def name(self, scan: Scan, names: Sequence[str], first: bool) -> str:
        """The name in the object; Unlike for an object of something else."""
        scan.space()
        if first and scan.has(PYTHON_TAG):
            scan.space()
        name = object_name(scan)
        if name not in names:
            raise Unlike
        return name

    def arguments(self, scan: Scan) -> bool:
        """What is before the parameters in the object."""
        return object_arguments(scan)

    def after(self, scan: Scan) -> Next:
        """The end of the object; whatever follows that is no further one is text."""
        object_after(scan)
        scan.space()
        if scan.has(";"):
            return "call"
        if scan.has("{"):
            scan.place -= 1
            return "call"
        return "end"

    def whole(self, text: str) -> tuple[str, str] | None:
        """No block has an end that can be known."""
        return None

    def calls(self, functions: Sequence[Function], several: bool, mark: Mark) -> Language:
        """Objects, a semicolon between them."""
        rule = 'fn ("; " fn)*' if several else "fn"
        return Language(f"{rule}\n{object_rules(functions, 'parameters')}")

    def beside_text(self, functions: Sequence[Function], several: bool, mark: Mark) -> Language:
        """Calls, or a text that does not begin as one does."""
        calls = self.calls(functions, several, mark)
        begun = r"\s*(<\|python_tag\|>)?\s*\{(?s:.*)"
        return Language(f"TEXT | calls\nTEXT: /(?s:.*)/ & ~/{begun}/\ncalls: {calls.rule}")
