"""The section tokens: how a trained tokenizer fits held-out texts, and what the shards hold."""

from __future__ import annotations

from typing import Any

from lmwright.report.evidence import Evidence


def tokens_section(evidence: Evidence) -> dict[str, Any] | None:
    """The judgement of the run's tokenizer and its corpus; None where it trained none."""
    trained, packed = evidence.run.giving("tokenizer"), evidence.run.giving("shards")
    if trained is None:
        return None
    facts = trained.facts
    corpus = packed.facts if packed else None
    return {
        "model": facts["model"],
        "vocabulary": facts["vocabulary"],
        "held_out": facts["held_out"],
        "warnings": facts["headline"]["warnings"],
        "corpus": corpus,
        "sources": sorted(corpus["tokens_of"].items()) if corpus else [],
    }
