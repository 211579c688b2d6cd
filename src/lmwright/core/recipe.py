"""A recipe: a name and its stages in order, read from a short YAML file.

    name: reviews
    task: text-classification
    stages:
      data: {sources: [...]}
      train: {epochs: 2}
      promote:
    watch: {keep_text: true}

A key under ``stages`` is the stage's name and, unless it says ``stage: KIND``, its kind too.
A stage needs what earlier ones give: artifacts, which go by names. ``reads`` and ``writes`` rename
them, so that one kind can stand twice:

    feedback: {stage: data, sources: [...], writes: {rows: feedback}}

``task`` names what the rows are for: a task's name, or a mapping with its ``kind`` and settings.

What never ends (serving, watching, retraining) is no stage; its settings are sections beside
them. ``extends: OTHER.yaml`` starts from another recipe: mappings are laid over its own field by
field, everything else replaces what was there. Its path and those of sources are taken from the
folder of the file that they stand in.
``artifacts`` names what is in the store already (name: content hash), so that a stage may need it.
A model that serves goes by NAME@ALIAS there, and a version's model by the version's hash; where a
stage takes an artifact's name, it may name them so itself.
Last, ``--set STAGE.FIELD=VALUE`` of ``run`` and ``plan`` (or SECTION.FIELD) is laid over all.

Values are those of YAML 1.2: ``no`` is a word, ``1e-4`` a number. The dataclasses behind the
names are the only schema: an unknown key is refused, and so is one that stands twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput, nearest
from lmwright.core.settings import Resolve, read_settings
from lmwright.core.stage import Settings, Stage
from lmwright.core.task import Task, read_task
from lmwright.core.yaml12 import parse_yaml

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

LONGEST_NAME = 64
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
NAME_TASK = "add a line like task: text-classification"
STORED = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}@[a-z0-9][a-z0-9_-]{0,63}|[0-9a-f]{16,64}")
"""Names of what is in the store: an alias, the hash of a version."""
LARGEST = 1 << 20
"""Bytes of a recipe file; a longer one is no recipe."""
OWN_KEYS = {"name", "extends", "task", "stages", "artifacts"}


@dataclass(frozen=True)
class Step:
    """One stage of a recipe under the name and kind that the recipe gives it."""

    name: str
    kind: str
    stage: Stage
    reads: Mapping[str, str]
    writes: Mapping[str, str]
    wanted: tuple[str, ...] = ()

    def needs(self) -> dict[str, str]:
        """The stage's own name of what it reads -> the artifact's name in this recipe.

        ``wanted`` are those of the artifacts that it wants that earlier stages give.
        """
        names = dict.fromkeys((*self.stage.needs(), *self.wanted))
        return {name: self.reads.get(name, name) for name in names}

    def gives(self) -> dict[str, str]:
        """The stage's own name of what it gives -> the artifact's name in this recipe."""
        return {name: self.writes.get(name, name) for name in self.stage.gives()}


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been read and checked. ``raw`` is what was written, overrides included."""

    name: str
    task: Task | None
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
    raw = read_yaml(path, resolve)
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
    if len(name) > LONGEST_NAME:
        found = f"{where}: name is {len(name)} characters long: {name!r}"
        raise BadInput(found, f"at most {LONGEST_NAME} characters", "shorten it")
    stages = raw.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise BadInput(f"{where}: no stages", "a mapping from stage name to its settings")
    task = read_task(raw["task"], where, resolve) if "task" in raw else None
    steps = tuple(make_step(key, value, where, resolve, task) for key, value in stages.items())
    steps = with_brought(steps, where, resolve, task)
    artifacts = read_settings(dict[str, str], raw.get("artifacts") or {}, f"{where}: artifacts")
    artifacts |= {name: name for name in in_store(steps) if name not in artifacts}
    steps = with_wanted(steps, artifacts)
    check_order(steps, artifacts, where)
    check_contents(steps, where)
    parsed = parse_sections(raw, where, resolve, sections)
    refuse_infinite(raw, "", where)
    for section in parsed.values():
        if isinstance(section, Settings):
            section.check_in(raw, where, lambda raw, where: make_recipe(raw, where, resolve, ()))
    return Recipe(name, task, steps, parsed, artifacts, raw)


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


def with_brought(
    steps: Sequence[Step], where: str, resolve: Resolve, task: Task | None
) -> tuple[Step, ...]:
    """The steps, each behind those that it brings: ``STAGE-ARTIFACT``, as is what these give."""
    taken, found = {step.name for step in steps}, list[Step]()
    for step in steps:
        for own, settings in step.stage.brings().items():
            name = f"{step.name}-{own}"
            if name in taken or own in step.reads:
                used = f"a stage called {name!r}" if name in taken else f"{step.name}.reads.{own}"
                raise BadInput(
                    f"{where}: {used}, and {step.name} brings a {own} of that name",
                    f"one {own} of one name",
                    f"rename or take out {used}",
                )
            made = make_step(name, settings, where, resolve, task)
            (given,) = made.stage.gives()
            found.append(replace(made, writes={given: name}))
            step = replace(step, reads={**step.reads, own: name})
        found.append(step)
    return tuple(found)


def in_store(steps: Sequence[Step]) -> list[str]:
    """Names by which stages need models of the store, and not what another stage gives."""
    given = {name for step in steps for name in step.gives().values()}
    needed = [name for step in steps for name in step.needs().values()]
    return [name for name in needed if name not in given and STORED.fullmatch(name)]


def with_wanted(steps: Sequence[Step], given: Collection[str]) -> tuple[Step, ...]:
    """The steps, each with those artifacts that it wants and that earlier ones give."""
    here, found = set(given), []
    for step in steps:
        wanted = tuple(name for name in step.stage.wants() if step.reads.get(name, name) in here)
        found.append(replace(step, wanted=wanted))
        here.update(step.gives().values())
    return tuple(found)


def make_step(
    name: str, value: Any, where: str, resolve: Resolve, task: Task | None = None
) -> Step:
    """One entry under ``stages``. A stage with a setting ``task`` takes the recipe's by default."""
    if not isinstance(value, dict | None):
        raise BadInput(f"{where}: stages.{name} is {value!r}", "a mapping of settings")
    settings = dict[str, Any](value or {})
    kind = settings.pop("stage", name)
    renamed = [
        read_settings(dict[str, str], settings.pop(key, None) or {}, f"{where}: {name}.{key}")
        for key in ("reads", "writes")
    ]
    definition = resolve("stages", kind)
    if any(field.name == "task" for field in fields(definition)):
        own = settings.pop("task", None)
        settings["task"] = task if own is None else read_task(own, f"{where}: {name}", resolve)
        if settings["task"] is None:
            raise BadInput(f"{where}: no task", "what the rows are for", NAME_TASK)
    stage = read_settings(definition, settings, f"{where}: {name}")
    try:
        stage.check_task(settings.get("task") or task)
    except BadInput as error:
        raise BadInput(f"{where}: {error.found}", error.wanted, error.cure) from None
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


def read_yaml(path: Path, resolve: Resolve | None = None, depth: int = 0) -> dict[str, Any]:
    """A recipe file as raw values, with what it ``extends`` merged below it.

    With ``resolve`` each file's relative paths are taken from its own folder.
    """
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
    if depth > 8:
        raise BadInput(f"{path} extends itself in a circle", "a chain that ends")
    below = {} if parent is None else read_yaml(path.parent / str(parent), resolve, depth + 1)
    return merge(below, raw if resolve is None else located(raw, below, path.parent, resolve))


def located(
    raw: dict[str, Any], below: Mapping[str, Any], folder: Path, resolve: Resolve
) -> dict[str, Any]:
    """A file's raw values with the relative paths of its stages taken from its folder.

    A stage's kind may be said by the recipe ``below`` that the file extends.
    """
    stages = raw.get("stages")
    if not isinstance(stages, dict):
        return raw
    lower, found = below.get("stages"), dict(stages)
    for name, settings in stages.items():
        if isinstance(settings, dict):
            under = lower.get(name) if isinstance(lower, dict) else None
            kind = str(settings.get("stage", (under or {}).get("stage", name)))
            try:
                found[name] = resolve("stages", kind).located(settings, folder.absolute())
            except BadInput:  # there is none of this name, which is said when it is read
                continue
    return {**raw, "stages": found}


def merge(below: Any, above: Any) -> Any:
    """``above`` laid over ``below``: mappings field by field, everything else replaced."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    both = {**below, **above}
    return {key: merge(below[key], both[key]) if key in below else both[key] for key in both}
