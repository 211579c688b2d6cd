"""The parameters of a request that has its answers searched for, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmwright.serve.request import RequestFault, flag, integer, number

MAX_BRANCHES = 16
"""Beams, or candidates, that a search reads side by side: as many as texts that are written so."""
MAX_PENALTY = 100.0
MAX_LENGTH_PENALTY = 10.0

OF_BEAMS: Mapping[str, Any] = {"num_beam_groups": 1, "diversity_penalty": 0, "length_penalty": 1}
"""Parameters of beams alone, and the values that ask for nothing."""
BESIDE_A_SEARCH: Mapping[str, Any] = {
    "seed": None,
    "temperature": 0,
    "top_p": 1,
    "min_p": 0,
    "typical_p": 1,
    "echo": False,
}
BESIDE_BEAMS: Mapping[str, Any] = {
    **BESIDE_A_SEARCH,
    "stream": False,
    "top_k": 0,
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0,
}
"""Parameters of which a search has no use, and the values of them that ask for nothing."""


@dataclass(frozen=True)
class Search:
    """Beams, or with ``penalty_alpha`` a contrastive search; the parameters of
    :class:`~lmwright.text.generation.SamplingParams` with these names."""

    beams: int = 1
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    penalty_alpha: float = 0.0


def read_search(body: Mapping[str, Any]) -> Search | None:
    """The search that a request asks for; None where its answers are sampled."""
    beams = read_beams(body)
    groups = integer(body, "num_beam_groups", 1, 1, MAX_BRANCHES)
    diversity = number(body, "diversity_penalty", 0.0, 0.0, MAX_PENALTY)
    length = number(body, "length_penalty", 1.0, -MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY)
    alpha = number(body, "penalty_alpha", 0.0, 0.0, 1.0)
    if alpha and beams > 1:
        raise RequestFault(400, "penalty_alpha is for a search without beams", "penalty_alpha")
    if beams == 1:
        refuse_beside(body, OF_BEAMS, "needs num_beams of 2 or more")
    if groups > 1 and beams % groups:
        raise RequestFault(400, "num_beam_groups must divide num_beams", "num_beam_groups")
    if diversity and groups == 1:
        raise RequestFault(
            400, "diversity_penalty needs num_beam_groups of 2 or more", "diversity_penalty"
        )
    if beams > 1:
        refuse_beside(body, BESIDE_BEAMS, "is of no use to a beam search; leave it out")
        return Search(beams, groups, diversity, length)
    return read_contrastive(body, alpha) if alpha else None


def read_beams(body: Mapping[str, Any]) -> int:
    """The number of beams, 1 where there is no search by them.

    ``use_beam_search`` alone means as many as answers, as vLLM has it.
    """
    asked, answers = flag(body, "use_beam_search"), integer(body, "n", 1, 1, MAX_BRANCHES)
    beams: int = integer(body, "num_beams", answers if asked else 1, 1, MAX_BRANCHES)
    if asked and beams == 1:
        raise RequestFault(400, "use_beam_search needs num_beams of 2 or more", "num_beams")
    if beams > 1 and body.get("use_beam_search") is False:
        raise RequestFault(400, "num_beams above 1 is a beam search", "use_beam_search")
    if beams > 1 and answers > beams:
        raise RequestFault(400, f"n is {answers}: {beams} beams find at most {beams} answers", "n")
    return beams


def read_contrastive(body: Mapping[str, Any], alpha: float) -> Search:
    """A contrastive search, which gives one answer from ``top_k`` candidates a token."""
    refuse_beside(body, BESIDE_A_SEARCH, "is of no use to a contrastive search; leave it out")
    if integer(body, "n", 1, 1, MAX_BRANCHES) > 1:
        raise RequestFault(400, "a contrastive search has one answer: n must be 1", "n")
    if not 2 <= integer(body, "top_k", 0, 0, 1 << 20) <= MAX_BRANCHES:
        raise RequestFault(400, f"penalty_alpha needs top_k of 2 to {MAX_BRANCHES}", "top_k")
    return Search(penalty_alpha=alpha)


def refuse_beside(body: Mapping[str, Any], neutral: Mapping[str, Any], reason: str) -> None:
    """RequestFault for a parameter that would be ignored, where its value asks for something."""
    for name, value in neutral.items():
        if name in body and body[name] != value:
            raise RequestFault(400, f"{name} {reason}", name)
