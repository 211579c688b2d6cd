"""The page of one run, at work or over: its stages and the curves of what it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lmwright.report.evidence import Evidence, Past, past_run
from lmwright.report.page import render
from lmwright.report.sections.learning import drawn, monitored
from lmwright.store.store import Store


def run_page(store: Store, name: str, shares: Mapping[str, tuple[float, str]]) -> str:
    """A run as its journal and results tell of it.

    ``shares`` says how far stages at work are: from 0 to 1, and a note.
    """
    recipe, run = past_run(store, name)
    evidence = Evidence(store, recipe, "", run, [])
    return render(
        "run.html",
        {
            "name": recipe,
            "run": {"name": run.name, "began": run.began, "state": run.state},
            "stages": list(stages(run, shares)),
            "curves": list(curves(evidence)),
        },
    )


def stages(run: Past, shares: Mapping[str, tuple[float, str]]) -> Iterator[dict[str, Any]]:
    """Every stage of the recipe: its state, how far it is, how long it took, its headline."""
    began = [event["step"] for event in run.events if event["event"] == "stage began"]
    reused = {event["step"] for event in run.events if event["event"] == "stage reused"}
    over = run.state != "not ended"
    for step in run.raw.get("stages") or {}:
        result = run.results.get(step)
        share, note = shares.get(step, (0.0, ""))
        if result is not None:
            headline = result.facts.get("headline") or ""
            note = headline["line"] if isinstance(headline, dict) else headline
            state, share = "already done" if step in reused else "done", 1.0
        elif began and step == began[-1]:
            state = run.state if over else "running"
        else:
            state = "not begun"
        seconds = result.measured.get("seconds") if result and step not in reused else None
        yield {"step": step, "state": state, "share": share, "seconds": seconds, "note": note}


def curves(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """The curves of what the run trained; while it trains, those of its steps so far."""
    run = evidence.run
    for step, result in run.results.items():
        kept = evidence.load(result, "model", "curves.json")
        if kept:
            yield {"step": step, **drawn(kept, monitored(result.facts))}
    at_work, steps = "", list[dict[str, Any]]()
    for event in run.events:
        if event["event"] == "stage began":
            at_work, steps = event["step"], []
        elif event["event"] == "step":
            steps.append(event)
    if steps and at_work not in run.results:
        yield {"step": at_work, **drawn(steps, "")}
