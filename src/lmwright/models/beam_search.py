"""Beam search, in one group of beams or in several that avoid one another's tokens."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lmwright.models.blocks.pages import Pool
from lmwright.models.decode import CausalLM, DecodingState, apply_constraints
from lmwright.text.generation import SamplingParams

Beam = tuple[tuple[int, ...], tuple[Tensor, ...]]
"""The tokens of an answer under way, and the model's log-probabilities at each of its steps."""

Record = Callable[[int, Tensor], Tensor]
"""The record of a step, from its token and the model's log-probabilities (vocabulary,)."""


@dataclass(frozen=True)
class Hypothesis:
    """An answer found by beam search, its score, and the model's log-probabilities at each step,
    or what was recorded of them."""

    tokens: tuple[int, ...]
    score: float
    logprobs: tuple[Tensor, ...]


@dataclass
class Group:
    """Beams that are continued together, their scores (beams,), and those that have ended.

    ``taken`` are the beams of the last step that were continued, by their places in the group, and
    the tokens that they were continued with. A group is ``over`` when no beam can score above the
    worst of those that ended. Of each token ``record`` is kept.
    """

    size: int
    scores_b: Tensor
    running: list[Beam]
    record: Record
    done: list[Hypothesis] = field(default_factory=list)
    taken: list[tuple[int, int]] = field(default_factory=list)
    over: bool = False

    def advance(
        self, allowed_bv: Tensor, logprobs_bv: Tensor, length: int, params: SamplingParams
    ) -> None:
        """Continue every beam by every token, and keep the best.

        Of the best (so many that ``size`` of them cannot end) those that end are finished if they
        are among the first ``size``, and the first others go on. ``allowed_bv`` are the
        log-probabilities under all constraints, ``logprobs_bv`` the model's own.
        """
        ended = set(params.stop_ids)
        all_scores = (self.scores_b[:, None] + allowed_bv).flatten()
        kept = max(2, 1 + len(ended)) * self.size
        best, places = all_scores.topk(min(kept, len(all_scores)))
        going: list[tuple[float, int, int]] = []
        for rank, (score, place) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
            beam, token = divmod(place, logprobs_bv.shape[1])
            if token in ended:
                if rank < self.size:
                    found = self.extended(beam, token, logprobs_bv)
                    self.done.append(to_hypothesis(found, score, params))
            elif len(going) < self.size:
                going.append((score, beam, token))
        self.done = sorted(self.done, key=lambda each: -each.score)[: self.size]
        self.running = [self.extended(beam, token, logprobs_bv) for _, beam, token in going]
        self.scores_b = torch.tensor([score for score, _, _ in going], dtype=torch.float64)
        self.taken = [(beam, token) for _, beam, token in going]
        hope = going[0][0] / length**params.length_penalty
        self.over = len(self.done) == self.size and self.done[-1].score >= hope

    def extended(self, beam: int, token: int, logprobs_bv: Tensor) -> Beam:
        """The beam at a place and one more token."""
        return extended(self.running[beam], token, self.record(token, logprobs_bv[beam]))

    def answers(self, params: SamplingParams) -> list[Hypothesis]:
        """The best answers, those that have not ended too, best first."""
        last = zip(self.running, self.scores_b.tolist(), strict=True)
        found = [*self.done, *(to_hypothesis(beam, score, params) for beam, score in last)]
        return sorted(found, key=lambda each: -each.score)[: self.size]


def beam_search(
    network: CausalLM, prompt: np.ndarray, params: SamplingParams, source: np.ndarray | None = None
) -> list[Hypothesis]:
    """The best answers to one prompt, best first: what :func:`beam_steps` ends with."""
    steps = beam_steps(network, prompt, params, source)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: list[Hypothesis] = end.value
            return found


def beam_steps(
    network: CausalLM,
    prompt: np.ndarray,
    params: SamplingParams,
    source: np.ndarray | None = None,
    pool: Pool | None = None,
    piece: int = sys.maxsize,
    record: Record = lambda token, logprobs_v: logprobs_v,
) -> Generator[int, None, list[Hypothesis]]:
    """A beam search, a pass of the network at a time: the number of tokens that each pass read, and
    in the end the best answers, best first.

    The prompt is read ``piece`` tokens at a time, its keys and values are in the ``pool``, if one
    is given, and of each step of a beam ``record`` is kept. It is over when every group is, or
    after ``max_new_tokens``, where beams that have not ended count too. With several groups, each
    sees the tokens that earlier ones took at the same step as less likely: by
    ``diversity_penalty`` for each time, which stays in its beams' scores (Vijayakumar et al. 2018,
    algorithm 1, with the Hamming diversity).
    """
    size = params.beams // params.beam_groups
    state = DecodingState(network, 1, None if source is None else [source], pool)
    for at in range(0, len(prompt), piece):
        logits_bv = state.append([prompt[at : at + piece]])
        yield len(prompt[at : at + piece])
    state.select([0] * params.beams)
    logprobs_bv = torch.log_softmax(logits_bv.double(), dim=-1).expand(params.beams, -1)
    first = torch.full((size,), -torch.inf, dtype=torch.float64)
    first[0] = 0.0
    groups = [
        Group(size, first.clone(), [((), ())] * size, record) for _ in range(params.beam_groups)
    ]
    for length in range(1, params.max_new_tokens + 1):
        advance(groups, logprobs_bv, state, length, params)
        if length == params.max_new_tokens or all(group.over for group in groups):
            break
        state.select(
            [number * size + beam for number, group in enumerate(groups) for beam, _ in group.taken]
        )
        tokens = [np.array([token]) for group in groups for _, token in group.taken]
        logprobs_bv = torch.log_softmax(state.append(tokens).double(), dim=-1)
        yield len(tokens)
    found = [each for group in groups for each in group.answers(params)]
    return sorted(found, key=lambda each: -each.score)


def advance(
    groups: list[Group],
    logprobs_bv: Tensor,
    state: DecodingState,
    length: int,
    params: SamplingParams,
) -> None:
    """Continue the beams of each group that is not over, one group after another."""
    size = groups[0].size
    pairs = zip(logprobs_bv, state.ids, strict=True)
    allowed_bv = torch.stack(
        [apply_constraints(row, ids, length - 1, params) for row, ids in pairs]
    )
    taken: Counter[int] = Counter()
    for number, group in enumerate(groups):
        own = slice(number * size, (number + 1) * size)
        if not group.over:
            mine_bv = lowered(allowed_bv[own], taken, params.diversity_penalty)
            group.advance(mine_bv, logprobs_bv[own], length, params)
        taken.update(token for _, token in group.taken)


def lowered(scores_bv: Tensor, taken: Counter[int], penalty: float) -> Tensor:
    """Scores with those of taken tokens lowered by the penalty for each time."""
    if not taken or not penalty:
        return scores_bv
    tokens = torch.tensor([*taken])
    times = torch.tensor([*taken.values()], dtype=scores_bv.dtype)
    return scores_bv.index_add(1, tokens, -penalty * times.expand(len(scores_bv), -1))


def extended(beam: Beam, token: int, logprobs_v: Tensor) -> Beam:
    """A beam and one more token."""
    return (*beam[0], token), (*beam[1], logprobs_v)


def to_hypothesis(beam: Beam, score: float, params: SamplingParams) -> Hypothesis:
    """A beam as an answer with its length-normalised score."""
    tokens, logprobs = beam
    return Hypothesis(tokens, score / len(tokens) ** params.length_penalty, logprobs)
