"""A recipe: a name and its stages in order, read from a short YAML file.

    name: reviews
    stages:
      data: {sources: [...]}
      train: {epochs: 2}
      promote:
    watch: {keep_text: true}

A key under ``stages`` is the stage's name and, unless it says ``stage: KIND``, its kind too.
A stage needs what earlier ones give: artifacts, which go by names. ``reads`` and ``writes`` rename
them, so that one kind can stand twice:

    feedback: {stage: data, sources: [...], writes: {rows: feedback}}

What never ends (serving, watching, retraining) is no stage; its settings are sections beside
them. ``extends: OTHER.yaml``, a path from this file's folder, starts from another recipe:
mappings are laid over its own field by field, everything else replaces what was there.
``artifacts`` names what is in the store already (name: content hash), so that a stage may need it.
Last, ``--set STAGE.FIELD=VALUE`` of ``run`` and ``plan`` (or SECTION.FIELD) is laid over all.

Values are those of YAML 1.2: ``no`` is a word, ``1e-4`` a number. The dataclasses behind the
names are the only schema: an unknown key is refused, and so is one that stands twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import TypeAdapter, ValidationError

from lmwright.core.errors import BadInput, nearest
from lmwright.core.stage import Settings, Stage

Resolve = Callable[[str, str], Any]
"""(table, name) -> definition; the tables are passed in because the core knows no names."""
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
UNKNOWN = {"unexpected_keyword_argument", "extra_forbidden"}
"""What pydantic calls a key that it does not know."""
WANTED = {
    ("int_type", "int_parsing", "int_from_float", "int_parsing_size"): "a whole number",
    ("float_type", "float_parsing"): "a number",
    ("bool_type", "bool_parsing"): "true or false",
    ("string_type",): "a text; a number or true is one in quotes",
    ("tuple_type", "list_type"): "a list",
    ("dict_type", "dataclass_type"): "a mapping",
}
"""What pydantic calls a fault -> what a person is told was wanted."""
LARGEST = 1 << 20
"""Bytes of a recipe file; a longer one is no recipe."""
OWN_KEYS = {"name", "extends", "stages", "artifacts"}


@dataclass(frozen=True)
class Step:
    """One stage of a recipe under the name and kind that the recipe gives it."""

    name: str
    kind: str
    stage: Stage
    reads: Mapping[str, str]
    writes: Mapping[str, str]

    def needs(self) -> dict[str, str]:
        """The stage's own name of what it needs -> the artifact's name in this recipe."""
        return {name: self.reads.get(name, name) for name in self.stage.needs()}

    def gives(self) -> dict[str, str]:
        """The stage's own name of what it gives -> the artifact's name in this recipe."""
        return {name: self.writes.get(name, name) for name in self.stage.gives()}


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been read and checked. ``raw`` is what was written, overrides included."""

    name: str
    steps: tuple[Step, ...]
    sections: Mapping[str, Any]
    artifacts: Mapping[str, str]
    raw: Mapping[str, Any]

    def step(self, kind: str) -> Step | None:
        """The first step of a kind, or None."""
        return next((step for step in self.steps if step.kind == kind), None)


def read_recipe(
    path: Path,
    resolve: Resolve,
    sections: Iterable[str],
    sets: Iterable[str] = (),
    upgrade: Upgrade = dict,
) -> Recipe:
    """Read a recipe file, apply ``stage.field=value`` overrides, and check everything.

    ``upgrade`` turns raw values of an earlier format into those of today.

    Raises BadInput naming the file, the key and the nearest right key, before any work.
    """
    raw = read_yaml(path)
    for change in sets:
        override(raw, change)
    return make_recipe(upgrade(raw), str(path), resolve, sections)


def make_recipe(
    raw: dict[str, Any], where: str, resolve: Resolve, sections: Iterable[str]
) -> Recipe:
    """Turn a recipe's raw values into checked dataclasses."""
    refuse_unknown(raw, {*OWN_KEYS, *sections}, where)
    name = raw.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadInput(f"{where}: name is {name!r}", "lower-case letters, digits, - and _")
    stages = raw.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise BadInput(f"{where}: no stages", "a mapping from stage name to its settings")
    steps = tuple(make_step(key, value, where, resolve) for key, value in stages.items())
    artifacts = read_settings(dict[str, str], raw.get("artifacts") or {}, f"{where}: artifacts")
    check_order(steps, artifacts, where)
    check_contents(steps, where)
    parsed = parse_sections(raw, where, resolve, sections)
    refuse_infinite(raw, "", where)
    for section in parsed.values():
        if isinstance(section, Settings):
            section.check_in(raw, where, lambda raw, where: make_recipe(raw, where, resolve, ()))
    return Recipe(name, steps, parsed, artifacts, raw)


def read_sections(path: Path, resolve: Resolve, sections: Iterable[str]) -> Mapping[str, Any]:
    """The sections of a recipe file, or of one that holds nothing else."""
    raw, where = read_yaml(path), str(path)
    if not OWN_KEYS.isdisjoint(raw):
        return make_recipe(raw, where, resolve, sections).sections
    refuse_unknown(raw, {*OWN_KEYS, *sections}, where)
    refuse_infinite(raw, "", where)
    return parse_sections(raw, where, resolve, sections)


def refuse_unknown(raw: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    """Raise BadInput for a key that no recipe has."""
    for key in raw:
        if key not in allowed:
            raise BadInput(f"{where}: unknown key {key!r}", "a recipe's key", nearest(key, allowed))


def parse_sections(
    raw: Mapping[str, Any], where: str, resolve: Resolve, sections: Iterable[str]
) -> dict[str, Any]:
    """The sections that are there, each by itself."""
    return {
        key: read_settings(resolve("sections", key), raw[key] or {}, f"{where}: {key}")
        for key in sections
        if key in raw
    }


def make_step(name: str, value: Any, where: str, resolve: Resolve) -> Step:
    """One entry under ``stages``."""
    if not isinstance(value, dict | None):
        raise BadInput(f"{where}: stages.{name} is {value!r}", "a mapping of settings")
    settings = dict[str, Any](value or {})
    kind = settings.pop("stage", name)
    renamed = [
        read_settings(dict[str, str], settings.pop(key, None) or {}, f"{where}: {name}.{key}")
        for key in ("reads", "writes")
    ]
    stage = read_settings(resolve("stages", kind), settings, f"{where}: {name}")
    step = Step(name, kind, stage, *renamed)
    for key, known, given in (
        ("reads", stage.needs(), step.reads),
        ("writes", stage.gives(), step.writes),
    ):
        for artifact in given:
            if artifact not in known:
                cure = nearest(artifact, known) if known else "leave it out"
                raise BadInput(f"{where}: {name}.{key} renames {artifact!r}", "an artifact", cure)
    return step


def read_settings(kind: type, value: Any, where: str) -> Any:
    """Read a mapping into a settings dataclass; every fault in it names its key and a cure."""
    try:
        settings: Any = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise BadInput(*explain(error, where, kind)) from None
    if isinstance(settings, Settings):
        try:
            settings.check()
        except BadInput as error:
            file, _, name = where.rpartition(": ")
            place = file if error.found.startswith(f"{name}.") else where
            raise BadInput(f"{place}: {error.found}", error.wanted, error.cure) from None
    return settings


def explain(error: ValidationError, where: str, kind: type) -> tuple[str, str, str]:
    """One fault of a validation as (found, wanted, cure): an unknown key if there is one.

    A misspelt key comes with a complaint that the right one is missing, and explains it.
    """
    faults = error.errors(include_url=False)
    fault = next((fault for fault in faults if fault["type"] in UNKNOWN), faults[0])
    key = ".".join(str(part) for part in fault["loc"]) or "(all)"
    if fault["type"] in UNKNOWN:
        known = known_fields(kind, fault["loc"][:-1])
        return (
            f"{where} has no setting {key!r}",
            "a known setting",
            nearest(str(fault["loc"][-1]), known),
        )
    if fault["type"] in {"missing", "missing_argument"}:
        return f"{where}: {key} is missing", "a value for it", f"add {key} to the recipe"
    plain = next((words for kinds, words in WANTED.items() if fault["type"] in kinds), "")
    wanted = plain or fault["msg"].removeprefix("Input should be ")
    return f"{where}: {key} is {fault['input']!r}", wanted, f"correct {key}"


def known_fields(kind: Any, path: tuple[Any, ...]) -> list[str]:
    """The fields of ``kind``, or of the dataclass that stands at ``path`` inside it."""
    schema = TypeAdapter(kind).json_schema()
    place: Any = schema
    for part in path:
        place = follow(schema, place)
        place = place.get("properties", {}).get(part, place.get("items", place))
    return sorted(follow(schema, place).get("properties", {"(none)": None}))


def follow(schema: dict[str, Any], place: Any) -> dict[str, Any]:
    """Step through a JSON Schema's references and alternatives to the object behind them."""
    while True:
        choices = [c for c in place.get("anyOf", []) if "$ref" in c or "properties" in c]
        if "$ref" in place:
            place = schema["$defs"][place["$ref"].rsplit("/", 1)[-1]]
        elif choices:
            place = choices[0]
        else:
            return place


def check_order(steps: tuple[Step, ...], artifacts: Mapping[str, str], where: str) -> None:
    """Every needed artifact must be in the store or given by one earlier stage."""
    given: dict[str, str] = dict.fromkeys(artifacts, "the store")
    later = {artifact: step.name for step in steps for artifact in step.gives().values()}
    for step in steps:
        for artifact in step.needs().values():
            if artifact in given:
                continue
            if artifact in later:
                raise BadInput(
                    f"{where}: {step.name} needs {artifact!r}, which {later[artifact]} gives later",
                    "stages in an order without cycles",
                    f"move {later[artifact]} before {step.name}",
                )
            raise BadInput(
                f"{where}: {step.name} needs {artifact!r}, which no stage gives",
                "an artifact of an earlier stage",
                nearest(artifact, given) if given else "add the stage that gives it",
            )
        for artifact in step.gives().values():
            if artifact in given:
                raise BadInput(f"{where}: {given[artifact]} and {step.name} both give {artifact!r}")
            given[artifact] = step.name


def check_contents(steps: tuple[Step, ...], where: str) -> None:
    """What a stage looks for inside an artifact must be what the earlier stage puts there."""
    held: dict[str, tuple[str, tuple[str, ...]]] = {}
    for step in steps:
        for place in step.stage.asks():
            own, _, name = place.partition("/")
            giver, names = held.get(step.reads.get(own, own), ("", (name,)))
            if name not in names:
                raise BadInput(
                    f"{where}: {step.name} looks for {place}, which {giver} does not give",
                    "one of " + ", ".join(f"{own}/{known}" for known in names),
                    nearest(name, names),
                )
        for own, names in step.stage.holds().items():
            held[step.gives()[own]] = (step.name, names)


def refuse_infinite(raw: Any, path: str, where: str) -> None:
    """Raise BadInput for a number that is none, or infinite, anywhere in a recipe."""
    if isinstance(raw, float) and not math.isfinite(raw):
        raise BadInput(f"{where}: {path} is {raw}", "a finite number", f"correct {path}")
    pairs = raw.items() if isinstance(raw, dict) else enumerate(raw if type(raw) is list else [])
    for key, value in pairs:
        refuse_infinite(value, f"{path}.{key}".lstrip("."), where)


def override(raw: dict[str, Any], change: str) -> None:
    """Apply one ``stage.field=value`` (or ``section.field=value``) to a recipe's raw values."""
    path, equals, text = change.partition("=")
    parts = path.split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise BadInput(f"--set {change!r}", "STAGE.FIELD=VALUE", "for example train.lr=1e-4")
    stages = raw.setdefault("stages", {})
    holder = stages if parts[0] in stages else raw
    if holder is raw and parts[0] not in raw:
        raise BadInput(
            f"--set {change!r}: the recipe has no {parts[0]!r}",
            "one of its stages or sections",
            nearest(parts[0], [*stages, *(set(raw) - OWN_KEYS)]),
        )
    for part in parts[:-1]:
        if not isinstance(holder.get(part), dict):
            holder[part] = {}
        holder = holder[part]
    holder[parts[-1]] = parse_yaml(text, f"--set {path}")


def read_yaml(path: Path, depth: int = 0) -> dict[str, Any]:
    """A recipe file as raw values, with what it ``extends`` merged below it."""
    try:
        with path.open("rb") as stream:
            body = stream.read(LARGEST + 1)
        text = body.decode() if len(body) <= LARGEST else ""
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        cure = nearest(path.name, near) if near else "check the path"
        raise BadInput(f"{path} does not exist", "a recipe file", cure) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "a YAML file in UTF-8") from None
    if len(body) > LARGEST:
        raise BadInput(f"{path} is over {LARGEST >> 20} MB long", "a recipe of a few pages")
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise BadInput(f"{path} holds {type(raw).__name__}", "a mapping with name and stages")
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if depth > 8:
        raise BadInput(f"{path} extends itself in a circle", "a chain that ends")
    return merge(read_yaml(path.parent / str(parent), depth + 1), raw)


def merge(below: Any, above: Any) -> Any:
    """``above`` laid over ``below``: mappings field by field, everything else replaced."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    both = {**below, **above}
    return {key: merge(below[key], both[key]) if key in below else both[key] for key in both}


def parse_yaml(text: str, where: str) -> Any:
    """YAML 1.2 core values: ``1e-4`` is a number, ``no`` and ``012`` are what they look like."""
    try:
        return yaml.load(text, Loader=Yaml12)
    except yaml.YAMLError as error:
        told = str(error).replace(' in "<unicode string>",', " at")
        raise BadInput(f"{where}: {' '.join(told.split())}", "valid YAML") from None
    except (ValueError, AttributeError) as error:  # an explicit tag that its value does not fit
        raise BadInput(f"{where}: {str(error)[:200]}", "valid YAML") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply", "a recipe of a few levels") from None


class Yaml12(yaml.SafeLoader):
    """A safe loader with the number and word rules of YAML 1.2, without aliases or doubled keys."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem="aliases are refused", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            word = self.construct_object(key, deep=True)
            if not isinstance(word, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {word!r} is no word: write it in quotes",
                    problem_mark=key.start_mark,
                )
            if word in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {word!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(word)
        return super().construct_mapping(node, deep)


def decimal(loader: Yaml12, node: Any) -> int:
    """An integer of YAML 1.2: decimal with leading zeros allowed, 0o and 0x."""
    text = loader.construct_scalar(node)
    return int(text, 0) if text.lower().startswith(("0o", "0x")) else int(text)


for tag, pattern, first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    Yaml12.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}",
        re.compile(rf"^(?:{pattern})$"),
        [c.replace("\0", "") for c in first],
    )
Yaml12.add_constructor("tag:yaml.org,2002:int", decimal)
