"""Beam search for answers that have required phrases: dynamic beam allocation.

Post and Vilar 2018: at each step the beams are shared out among banks, by how many tokens of the
phrases a hypothesis has so far, so that those which have begun a phrase are not crowded out by
likelier ones that have none. An answer may end only with all phrases in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lmwright.models.beam_search import Beam, Hypothesis, extended, to_hypothesis
from lmwright.models.decode import CausalLM, DecodingState, apply_constraints
from lmwright.text.generation import SamplingParams

Phrases = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Progress:
    """Phrases (by place) that an answer has whole, and the one it is in: its place and tokens."""

    met: frozenset[int] = frozenset()
    within: tuple[int, int] = (-1, 0)

    def count(self, phrases: Phrases) -> int:
        """How many tokens of the phrases are there."""
        return sum(len(phrases[place]) for place in self.met) + self.within[1]

    def wanted(self, phrases: Phrases) -> list[int]:
        """The tokens that go on with a phrase, or begin one that is missing."""
        place, size = self.within
        if size:
            return [phrases[place][size]]
        return [each[0] for number, each in enumerate(phrases) if number not in self.met]

    def after(self, token: int, phrases: Phrases) -> Progress:
        """The progress after one more token; a phrase that is broken off is begun anew."""
        place, size = self.within
        if not size or phrases[place][size] != token:
            missing = [n for n in range(len(phrases)) if n not in self.met]
            begun = [n for n in missing if phrases[n][0] == token]
            if not begun:
                return Progress(self.met)
            place, size = begun[0], 0
        if size + 1 == len(phrases[place]):
            return Progress(self.met | {place})
        return Progress(self.met, (place, size + 1))


@dataclass(frozen=True)
class Candidate:
    """A beam continued by a token: its score and the phrases that it has then."""

    score: float
    beam: int
    token: int
    progress: Progress


def search_with_phrases(
    network: CausalLM, prompt: np.ndarray, params: SamplingParams, source: np.ndarray | None = None
) -> list[Hypothesis]:
    """The best answers with all required phrases, best first; where ``max_new_tokens`` leave no
    room for them, those with most of their tokens."""
    phrases, size, ended = params.required, params.beams, {*params.stop_ids}
    total = sum(map(len, phrases))
    state = DecodingState(network, 1, None if source is None else [source])
    logprobs_bv = torch.log_softmax(state.append([prompt]).double(), dim=-1)
    running: list[tuple[Beam, float, Progress]] = [(((), ()), 0.0, Progress())]
    done: list[Hypothesis] = []
    for length in range(1, params.max_new_tokens + 1):
        found: dict[tuple[int, int], Candidate] = {}
        for beam, (_, score, progress) in enumerate(running):
            row = apply_constraints(logprobs_bv[beam], state.ids[beam], length - 1, params)
            if progress.count(phrases) < total and ended:
                row = row.index_fill(-1, torch.tensor([*ended]), -torch.inf)
            likely = row.topk(min(2 * size, len(row))).indices.tolist()
            for token in {*likely, *progress.wanted(phrases)}:
                value = score + float(row[token])
                if value > -np.inf:
                    after = progress.after(token, phrases)
                    found[beam, token] = Candidate(value, beam, token, after)
        ordered = sorted(found.values(), key=lambda each: (-each.score, each.beam, each.token))
        for each in [one for one in ordered if one.token in ended][:size]:
            ending = extended(running[each.beam][0], each.token, logprobs_bv[each.beam])
            done.append(to_hypothesis(ending, each.score, params))
        done = sorted(done, key=lambda each: -each.score)[:size]
        going = allocated([one for one in ordered if one.token not in ended], size, phrases)
        if not going:
            break
        running = [
            (
                extended(running[each.beam][0], each.token, logprobs_bv[each.beam]),
                each.score,
                each.progress,
            )
            for each in going
        ]
        hope = max(each.score for each in going) / length**params.length_penalty
        if length == params.max_new_tokens or (len(done) == size and done[-1].score >= hope):
            break
        state.select([each.beam for each in going])
        new = [np.array([each.token]) for each in going]
        logprobs_bv = torch.log_softmax(state.append(new).double(), dim=-1)
    whole = [one for one in running if one[2].count(phrases) == total]
    if not done and not whole:
        most = max(one[2].count(phrases) for one in running)
        whole = [one for one in running if one[2].count(phrases) == most]
    done += [to_hypothesis(beam, score, params) for beam, score, _ in whole]
    return sorted(done, key=lambda each: -each.score)[:size]


def allocated(ordered: list[Candidate], size: int, phrases: Phrases) -> list[Candidate]:
    """The candidates that go on: as many from each bank, what a bank cannot fill from the others,
    from those with most tokens of the phrases on; best scores first within a bank."""
    banks: dict[int, list[Candidate]] = {}
    for each in ordered:
        banks.setdefault(each.progress.count(phrases), []).append(each)
    kept: list[Candidate] = []
    share = max(1, size // max(1, len(banks)))
    order = sorted(banks, reverse=True)
    for bank in order:
        kept += banks[bank][: min(share, size - len(kept))]
    for bank in order:
        kept += banks[bank][share : share + size - len(kept)]
    return kept
