"""Domain expertise: the language of the texts, and how far their words are known to the start."""

from __future__ import annotations

from collections.abc import Iterator

from lmwright.plan.advise import Draft, Reason
from lmwright.plan.seen import Seen
from lmwright.train.start import START, foreign_texts

FERTILE = 1.8
"""Tokens a word from which on the start's vocabulary does not know the domain's words."""


def rule(seen: Seen, draft: Draft) -> Iterator[Reason]:
    """Another start for another language; a word where the texts' own words fall apart."""
    words, tokens = int(seen.words.sum()), int(seen.lengths.sum())
    fertility = tokens / max(words, 1)
    known = {code: count for code, count in seen.languages.items() if code != "?"}
    if known:
        most = max(known, key=lambda code: known[code])
        share = known[most] / sum(known.values())
        yield Reason("domain", "measured", f"{share:.0%} of the texts are in the language {most}")
    yield Reason(
        "domain",
        "measured",
        f"{fertility:.2f} tokens a word by the tokenizer of the default start",
    )
    if draft.start == START and (foreign := foreign_texts(START, seen.languages)):
        yield Reason("domain", "rule", foreign, "Conneau et al. 2020")
    elif fertility > FERTILE and draft.way == "tune":
        yield Reason(
            "domain",
            "rule",
            "many words fall apart: a start that was pre-trained on such texts would know more "
            "(train.start: hub:OWNER/NAME@REVISION)",
            "Rust et al. 2021; Gururangan et al. 2020",
        )
