"""The verbs that look: runs, show, lineage."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer

from lmwright.cli.open import STORE, JsonOption, StoreOption
from lmwright.core.errors import BadInput
from lmwright.core.journal import read_journal
from lmwright.loop.lineage import of_answer, of_row, of_source, of_version
from lmwright.store.lease import is_running
from lmwright.store.open import existing_store
from lmwright.store.run import read_run, results_of
from lmwright.store.states import alarms_of
from lmwright.store.store import Result, Store
from lmwright.store.versions import Version, aliases, history, read_version, resolve_version

NEWEST = 10
"""So many runs are shown where no name is given."""


def runs(store: StoreOption = STORE, as_json: JsonOption = False) -> None:
    """List the runs, newest last."""
    opened = existing_store(store)
    found = [run_head(opened, name) for name in opened.runs()]
    say(found, as_json, map(run_line, found))


def run_head(store: Store, name: str) -> dict[str, Any]:
    """A run: its recipe, when it began and how it ended."""
    head = read_run(store, name)
    state = last_state(store, name)
    return {"run": name, "recipe": head["recipe"], "began": head["began"], "state": state}


def run_line(head: dict[str, Any]) -> str:
    """A run in a line: when it began and how it ended."""
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(head["began"]))
    return f"{head['run']:<32} {began}  {head['state']}"


def last_state(store: Store, name: str) -> str:
    """How a run ended, from its journal; of one without an end, whether its process lives."""
    state = "running" if is_running(store.database, name) else "killed"
    for event in read_journal(store.folder / "runs" / name / "journal.jsonl"):
        if event["event"] == "run ended":
            state = event["state"] + (f": {event['error']}" if "error" in event else "")
    return state


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A run, an alias, a version or an artifact; "
            "without one: the aliases and the newest runs."
        ),
    ] = "",
    store: StoreOption = STORE,
    mask: Annotated[
        bool,
        typer.Option(
            "--mask",
            help="Of an artifact of rows: some of them as a training reads (dim), learns (green) "
            "and cuts (red) their tokens.",
        ),
    ] = False,
    rows: Annotated[int, typer.Option(min=1, help="Rows that --mask shows.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Show what a name stands for; without a name, what there is."""
    opened = existing_store(store)
    if mask:
        from lmwright.plan.masks import learnt_from

        shown = learnt_from(opened, opened.find(name), rows)
        say([r.to_json() for r in shown], as_json, (line for r in shown for line in r.lines()))
        return
    if not name:
        found, lines = of_all(opened)
    elif "@" in name:
        found, lines = of_alias(opened, name)
    elif name in opened.runs():
        found, lines = of_run(opened, name)
    else:
        found, lines = of_artifact(opened, opened.find(name))
    say(found, as_json, lines)


Shown = tuple[dict[str, Any], Iterator[str]]
"""What is shown, as JSON values and as lines for people."""


def of_all(store: Store) -> Shown:
    """Every alias with its version, and the newest runs."""
    found: dict[str, Any] = {
        "aliases": {alias: version_json(version) for alias, version in aliases(store).items()},
        "runs": [run_head(store, run) for run in store.runs()[-NEWEST:]],
    }

    def lines() -> Iterator[str]:
        if not found["runs"]:
            yield "nothing here yet: lmwright run RECIPE"
        for alias, version in aliases(store).items():
            yield f"{alias:<32} {version.id}  {version.action}, decision {version.decision}"
        yield from map(run_line, found["runs"])

    return found, lines()


def of_alias(store: Store, alias: str) -> Shown:
    """What an alias names and named."""
    content, past = resolve_version(store, alias), history(store, alias)
    bound = read_version(store, content)
    alarms = alarms_of(store, alias)
    found = {
        "alias": alias,
        "history": [version_json(each) for each in past],
        "version": bound,
        "alarms": alarms,
    }

    def lines() -> Iterator[str]:
        for version in past:
            mark = "→" if version.hash == content else " "
            yield f"{mark} decision {version.decision:>3}  {version.action:<8} {version.id}"
        if alarms is not None:
            counts = (f"{alarms[name]} {name}" for name in ("sent", "pending", "failed"))
            yield f"alarms: {', '.join(counts)} for good"
            for lost in alarms["given_up"]:
                yield f"  given up: {lost['event']} to {lost['to']}: {lost['fault']}"
        yield pretty(bound)

    return found, lines()


def of_run(store: Store, name: str) -> Shown:
    """A run's stages with their results, times and headlines."""
    results = results_of(store, read_run(store, name))
    stages = {
        step: {"seconds": result.measured.get("seconds", 0), "outputs": result.outputs}
        for step, result in results.items()
    }
    events = [
        event
        for event in read_journal(store.folder / "runs" / name / "journal.jsonl")
        if event["event"] in {"fault", "not reproducible", "gate"}
    ]
    found = {**run_head(store, name), "stages": stages, "events": events}

    def lines() -> Iterator[str]:
        yield f"run {name} of {found['recipe']}: {found['state']}"
        for line in filter(None, map(headline_of, results.values())):
            yield f"  {line}"
        for event in events:
            yield from event_lines(event)
        for step, one in stages.items():
            outputs = ", ".join(f"{k} {v[:12]}" for k, v in one["outputs"].items())
            yield f"  {step:<12} {one['seconds']:>7.1f} s  {outputs}"

    return found, lines()


def headline_of(result: Result) -> str:
    """What a person asks first of a result; "" where it has no such line."""
    headline = result.facts.get("headline") or ""
    if isinstance(headline, dict):
        return f"{headline['line']} {headline.get('scores', '')}".rstrip()
    return str(headline)


def event_lines(event: Mapping[str, Any]) -> Iterator[str]:
    """An event of a run's journal in words: of a gate its verdict and every condition."""
    if event["event"] != "gate":
        yield f"  {event['event']}: {pretty({k: v for k, v in event.items() if k != 'event'})}"
        return
    yield f"  the gate of {event['alias']}: {'passed' if event['passed'] else 'refused'}"
    for condition in event["conditions"]:
        word = "holds" if condition["passed"] else "fails"
        yield f"    {word}  {condition['name']}: {condition['reason']}"


def of_artifact(store: Store, content: str) -> Shown:
    """An artifact: who made it, from what, and its files."""
    folder = store.artifact(content)
    makers = [
        {"made by": result.kind, "inputs": result.inputs, "facts": result.facts}
        for result in store.makers(content)
    ]
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    found = {"artifact": content, "whole": store.verify(content), "makers": makers, "files": files}

    def lines() -> Iterator[str]:
        damaged = "" if found["whole"] else "  (damaged! run its recipe with --again)"
        yield f"artifact {content}{damaged}"
        yield from map(pretty, makers)
        for name, size in files.items():
            yield f"  {size:>12} {name}"

    return found, lines()


def version_json(version: Version) -> dict[str, Any]:
    """What an alias named from one decision on."""
    return {**vars(version), "id": version.id}


def lineage(
    name: Annotated[
        str, typer.Argument(help="An answer's id, an alias, a version, a row's id or a source.")
    ],
    store: StoreOption = STORE,
) -> None:
    """From an answer to its rows; from a row or a source to models and answers. JSON."""
    opened = existing_store(store)
    if name.startswith(("ans-", "cls-", "cmpl-")):
        print(pretty(of_answer(opened, name)))
    elif "@" in name:
        print(pretty(of_version(opened, resolve_version(opened, name))))
    elif re.fullmatch(r"[0-9a-f]{32}", name):
        print(pretty(of_row(opened, name)))
    elif re.fullmatch(r"[0-9a-f]{4,64}", name):
        print(pretty(of_version(opened, opened.find(name))))
    else:
        found = of_source(opened, name)
        if not found["made_with_it"] and not found["made_beside_it"]:
            raise BadInput(
                f"nothing here is called {name!r} or learnt from it",
                "an answer, version, row or source",
            )
        print(pretty(found))


def say(found: Any, as_json: bool, lines: Iterable[str]) -> None:
    """Print JSON for programs, or lines for people."""
    for line in [pretty(found)] if as_json else lines:
        print(line)


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)
