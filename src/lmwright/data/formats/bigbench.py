"""Tasks of BIG-bench (Srivastava et al. 2022) as rows: an input and the target that scores highest.

``{"examples": [{"input", "target_scores": {target: score}}]}``.
"""

from __future__ import annotations

from typing import Any


def is_bigbench(value: dict[str, Any]) -> bool:
    """True for a JSON object that is such a task, by its first example."""
    examples = value.get("examples")
    first = examples[0] if isinstance(examples, list) and examples else None
    return isinstance(first, dict) and isinstance(first.get("target_scores"), dict)


def bigbench_rows(value: dict[str, Any]) -> list[Any]:
    """Every example with its ``target``; one without a single best target has none, so that it is
    found to be a faulty row."""
    return [row_of(example) for example in value["examples"]]


def row_of(example: Any) -> Any:
    """An example with its target."""
    scores = example.get("target_scores") if isinstance(example, dict) else None
    if not isinstance(scores, dict) or not scores:
        return example
    try:
        most = max(scores.values())
    except TypeError:
        return example
    best = [target for target, score in scores.items() if score == most]
    return {**example, "target": best[0]} if len(best) == 1 else example
