"""Desired output: a label, an amount, places in a text, or a text that has to be written."""

from __future__ import annotations

from collections.abc import Iterator

from lmwright.plan.advise import Draft, Reason
from lmwright.plan.seen import Seen
from lmwright.train.start import WRITER


def rule(seen: Seen, draft: Draft) -> Iterator[Reason]:
    """A language model with adapters for texts; an encoder with a head for all else."""
    for said in seen.guess.reasons:
        yield Reason("output", "measured", said)
    if seen.writes:
        draft.train |= {"start": WRITER, "tune": "lora", "lr": 1e-3}
        yield Reason(
            "output",
            "rule",
            "a text is to be written, so a language model begins; of one as large, low-rank "
            "adapters learn, at about ten times a full training's rate",
            "Hu et al. 2022, LoRA; Schulman et al. 2025, LoRA without regret",
        )
        return
    yield Reason(
        "output",
        "rule",
        "no text is to be written, so an encoder with a head answers in one pass",
        "Devlin et al. 2019",
    )
