"""The section settings: the machine, the libraries and the stages of a run."""

from __future__ import annotations

from typing import Any

from lmwright.report.evidence import Past


def environment_section(run: Past) -> dict[str, Any]:
    """The machine of the run and the versions of the libraries that can change bits."""
    began = next((event for event in run.events if event["event"] == "run began"), {})
    machine = {
        key: began[key] for key in ("machine", "processor", "system", "threads") if key in began
    }
    libraries: dict[str, str] = {}
    for result in run.results.values():
        libraries |= result.parts.get("libraries", {})
    steps = [
        {
            "step": step,
            "seconds": result.measured.get("seconds"),
            "peak": result.measured.get("peak_bytes"),
            "peak_of_stage": result.measured.get("peak_of_stage", False),
            "stamp": result.stamp,
        }
        for step, result in run.results.items()
    ]
    return {"machine": machine, "libraries": dict(sorted(libraries.items())), "steps": steps}
