"""The verbs that look: runs, show, lineage."""

from __future__ import annotations

import json
import re
import time
from typing import Annotated, Any

import typer

from lmwright.cli.open import STORE, StoreOption
from lmwright.core.errors import BadInput
from lmwright.core.journal import read_journal
from lmwright.loop.lineage import of_answer, of_row, of_source, of_version
from lmwright.store.open import existing_store
from lmwright.store.run import read_run, results_of
from lmwright.store.store import Store
from lmwright.store.versions import aliases, history, read_version, resolve_version

NEWEST = 10
"""So many runs are shown where no name is given."""


def runs(store: StoreOption = STORE) -> None:
    """List the runs, newest last."""
    opened = existing_store(store)
    for name in opened.runs():
        print(run_line(opened, name))


def run_line(store: Store, name: str) -> str:
    """A run in a line: when it began and how it ended."""
    began = time.localtime(read_run(store, name)["began"])
    return f"{name:<32} {time.strftime('%Y-%m-%d %H:%M', began)}  {last_state(store, name)}"


def last_state(store: Store, name: str) -> str:
    """How a run ended, from its journal."""
    state = "running or killed"
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
) -> None:
    """Show what a name stands for; without a name, what there is."""
    opened = existing_store(store)
    if not name:
        show_all(opened)
    elif "@" in name:
        show_alias(opened, name)
    elif name in opened.runs():
        show_run(opened, name)
    else:
        show_artifact(opened, opened.find(name))


def show_all(store: Store) -> None:
    """Every alias with its version, and the newest runs."""
    if not store.runs():
        print("nothing here yet: lmwright run RECIPE")
    for alias, version in aliases(store).items():
        print(f"{alias:<32} {version.id}  {version.action}, decision {version.decision}")
    for run in store.runs()[-NEWEST:]:
        print(run_line(store, run))


def show_alias(store: Store, alias: str) -> None:
    """What an alias names and named."""
    content = resolve_version(store, alias)
    for version in history(store, alias):
        mark = "→" if version.hash == content else " "
        print(f"{mark} decision {version.decision:>3}  {version.action:<8} {version.id}")
    print(pretty(read_version(store, content)))


def show_run(store: Store, name: str) -> None:
    """A run's stages with their results, times and headlines."""
    head = read_run(store, name)
    print(f"run {name} of {head['recipe']}: {last_state(store, name)}")
    for step, result in results_of(store, head).items():
        seconds = result.measured.get("seconds", 0)
        outputs = ", ".join(f"{k} {v[:12]}" for k, v in result.outputs.items())
        print(f"  {step:<12} {seconds:>7.1f} s  {outputs}")
    for event in read_journal(store.folder / "runs" / name / "journal.jsonl"):
        if event["event"] in {"fault", "not reproducible", "gate"}:
            print(f"  {event['event']}: {pretty({k: v for k, v in event.items() if k != 'event'})}")


def show_artifact(store: Store, content: str) -> None:
    """An artifact: who made it, from what, and its files."""
    whole = store.verify(content)
    print(f"artifact {content}" + ("" if whole else "  (damaged! run its recipe with --again)"))
    for result in store.makers(content):
        print(pretty({"made by": result.kind, "inputs": result.inputs, "facts": result.facts}))
    for path in sorted(store.artifact(content).rglob("*")):
        if path.is_file():
            print(f"  {path.stat().st_size:>12} {path.relative_to(store.artifact(content))}")


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


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)
