"""The section lineage: sources, stages, artifacts and aliases as a graph."""

from __future__ import annotations

from typing import Any

from lmwright.draw import charts
from lmwright.draw.charts import Node
from lmwright.report.evidence import Evidence, Past
from lmwright.report.words import duration
from lmwright.store.store import Result
from lmwright.store.versions import aliases, history


def lineage_section(evidence: Evidence) -> list[dict[str, Any]]:
    """For each run, its sources, stages, artifacts and aliases as a graph."""
    drawn = []
    for run in evidence.runs:
        nodes: dict[str, Node] = {}
        edges: list[tuple[str, str]] = []
        for step, result in run.results.items():
            add_result(nodes, edges, run, step, result)
        for alias, now in aliases(evidence.store).items():
            for version in history(evidence.store, alias):
                if version.hash in nodes:
                    key = f"{alias} {version.hash}"
                    below = "in service" if version.hash == now.hash else "formerly"
                    words = f"{alias}: decision {version.decision}"
                    nodes[key] = Node(key, alias, below, "alias", words)
                    edges.append((version.hash, key))
        graph = charts.graph(list(nodes.values()), edges, f"Lineage of {run.name}")
        drawn.append({"run": run.name, "graph": graph})
    return drawn


def add_result(
    nodes: dict[str, Node], edges: list[tuple[str, str]], run: Past, step: str, result: Result
) -> None:
    """A stage with what it read and gave."""
    seconds = result.measured.get("seconds")
    took = [] if step == result.kind else [result.kind]
    took += [duration(seconds)] if isinstance(seconds, int | float) else []
    nodes[result.stamp] = Node(
        result.stamp,
        step,
        " · ".join(took),
        "stage",
        f"{step} ({result.kind}), result {result.stamp[:16]}",
    )
    for name, content in result.parts.get("reads", {}).items():
        key = f"{name} {content}"
        label = name.removeprefix("source ").removeprefix("asset:")
        nodes.setdefault(key, Node(key, label, content[:8], "source", f"{name}: {content}"))
        edges.append((key, result.stamp))
    for name, content in result.inputs.items():
        nodes.setdefault(content, Node(content, name, content[:8], "artifact", content))
        edges.append((content, result.stamp))
    names: dict[str, list[str]] = {}
    for name, content in result.outputs.items():
        names.setdefault(content, []).append(run.renamed(step, name))
    for content, same in names.items():  # equal contents are one artifact, whatever their names
        shown = ", ".join(same)
        nodes[content] = Node(content, shown, content[:8], "artifact", f"{shown}: {content}")
        edges.append((result.stamp, content))
