"""YAML 1.2, read and written under the same rules, so that what is written is read back as it was.

Plain words mean what the core schema says: ``no`` is a word, ``1e-4`` and ``012`` are numbers, a
date is text. Values are those of JSON. Refused: aliases (with which a page unfolds to gigabytes),
keys that stand twice or are no words, and tags beyond the core schema.
"""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import BaseResolver

from lmwright.core.errors import BadInput

TAG = "tag:yaml.org,2002:"
PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
"""Tag -> what a plain scalar of it looks like, and what it can begin with."""


def parse_yaml(text: str, where: str) -> Any:
    """The value that ``text`` holds; BadInput that names ``where`` and the line if it is none."""
    try:
        return dialect().load(text)
    except YAMLError as error:
        told = str(error).replace(' in "<unicode string>",', " at")
        raise BadInput(f"{where}: {' '.join(told.split())}", "valid YAML") from None
    except (ValueError, AttributeError) as error:  # an explicit tag that its value does not fit
        raise BadInput(f"{where}: {str(error)[:200]}", "valid YAML") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply", "a recipe of a few levels") from None


def write_yaml(value: Any) -> str:
    """The YAML of a value of JSON's types, keys in their order; ``parse_yaml`` reads it back."""
    stream = StringIO()
    dialect().dump(value, stream)
    return stream.getvalue()


def dialect() -> YAML:
    """A reader and writer of its own: they keep state."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Composer = CoreSchema, WithoutAliases
    yaml.Constructor, yaml.Representer = WordKeys, Unfolded
    yaml.default_flow_style = False  # type: ignore[assignment]
    yaml.allow_unicode = True  # type: ignore[assignment]
    yaml.width = 100
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    return yaml


class CoreSchema(BaseResolver):
    """The core schema of YAML 1.2 (§10.3), for reader and writer alike."""

    def __init__(self, version: Any = None, loader: Any = None, loadumper: Any = None) -> None:
        super().__init__(loader if loader is not None else loadumper)

    @property
    def processing_version(self) -> tuple[int, int]:
        return (1, 2)


CoreSchema.yaml_implicit_resolvers = {}
for name, (pattern, begins) in PLAIN.items():
    CoreSchema.add_implicit_resolver_base(TAG + name, re.compile(rf"^(?:{pattern})\Z"), begins)


class Unfolded(SafeRepresenter):
    """Nodes of JSON's values, each written where it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        """A text; in double quotes where it holds what YAML 1.1 took for the end of a line."""
        style = '"' if set(data) & {"\x85", "\u2028", "\u2029", "\ufeff"} else None
        return self.represent_scalar(TAG + "str", data, style=style)


Unfolded.add_representer(str, Unfolded.represent_str)


class WithoutAliases(Composer):
    """Nodes of a text in which nothing is named to be repeated."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.warn_double_anchors = False
        if self.parser.check_event(AliasEvent):
            mark = self.parser.peek_event().start_mark
            raise MarkedYAMLError(problem="aliases are refused", problem_mark=mark)
        return super().compose_node(parent, index)


class WordKeys(SafeConstructor):
    """Values of JSON's types, from mappings whose keys are words and stand once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            word = self.construct_object(key, deep=True)
            if not isinstance(word, str):
                problem = f"the key {word!r} is no word: write it in quotes"
                raise MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if word in found:
                problem = f"the key {word!r} stands twice"
                raise MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            found[word] = self.construct_object(value, deep=deep)
        return found


def construct_int(loader: WordKeys, node: Any) -> int:
    """An integer: decimal, where leading zeros mean nothing, or with 0o or 0x."""
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text.lower().startswith(("0o", "0x")) else int(text)


WordKeys.yaml_constructors = {
    tag: SafeConstructor.yaml_constructors[tag]
    for tag in (*(TAG + name for name in ("null", "bool", "float", "str", "seq", "map")), None)
}
WordKeys.add_constructor(TAG + "int", construct_int)
