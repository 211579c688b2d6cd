"""Truncation, phrases, diverse beams and contrastive search against references and the papers."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch

from lmwright.core.errors import BadInput
from lmwright.models.beam_search import beam_search, beam_steps
from lmwright.models.contrastive_search import contrastive_search, contrastive_steps
from lmwright.models.core.ragged import pack
from lmwright.models.decode import apply_constraints, drawn_from, generate
from lmwright.models.required_phrases import Progress, search_with_phrases
from lmwright.text.generation import SamplingParams
from tests.models.test_decode import logits, tiny  # noqa: F401 - a fixture

PROMPT = np.array([3, 5, 1])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("min_p", "typical_p"), [(0.1, 1.0), (0.6, 1.0), (0.0, 0.4), (0.0, 0.95), (0.05, 0.7)]
)
def test_truncation_is_the_references(seed: int, min_p: float, typical_p: float) -> None:
    transformers = pytest.importorskip("transformers")
    scores = logits(seed)[None]
    if min_p:
        scores = transformers.MinPLogitsWarper(min_p)(None, scores)
    if typical_p < 1:
        scores = transformers.TypicalLogitsWarper(typical_p)(None, scores)
    params = SamplingParams(1, temperature=1.0, min_p=min_p, typical_p=typical_p)
    ids, probs = drawn_from(logits(seed).numpy(), params)
    found = torch.zeros(len(logits(seed)), dtype=torch.float64)
    found[ids] = torch.from_numpy(probs)
    torch.testing.assert_close(found, torch.softmax(scores[0], -1))


@pytest.mark.parametrize("ids", [[1, 2, 3], [4, 9, 3], [9, 2, 3, 4], [7]])
def test_banned_phrases_are_the_references(ids: list[int]) -> None:
    transformers = pytest.importorskip("transformers")
    phrases = ((5,), (3, 4), (2, 3, 6), (9, 2, 3, 4, 8))
    wanted = transformers.NoBadWordsLogitsProcessor([list(each) for each in phrases], [99])(
        torch.tensor([ids]), logits(1)[None].clone()
    )
    found = apply_constraints(logits(1), np.array(ids), 0, SamplingParams(1, banned=phrases))
    assert torch.equal(found, wanted[0])


def test_a_banned_phrase_is_never_written(tiny) -> None:  # noqa: F811
    network = tiny[1]
    plain = written(network, SamplingParams(12))
    phrase = tuple(plain[3:5])
    found = written(network, SamplingParams(12, banned=(phrase,)))
    assert phrase in set(pairwise(plain))
    assert phrase not in set(pairwise(found))


def written(network, params: SamplingParams) -> list[int]:
    steps = generate(network, [PROMPT], params, np.random.default_rng(0))
    return [step[0].id for step in steps]


# Groups of beams


def log_probabilities(network, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.log_softmax(network(pack([ids]))[-1].double(), -1).numpy()


@pytest.mark.parametrize("penalty", [0.3, 1.0, 5.0])
@pytest.mark.parametrize(("groups", "size"), [(2, 1), (3, 1), (2, 2)])
def test_diverse_beams_are_those_of_algorithm_1(tiny, groups, size, penalty) -> None:  # noqa: F811
    """A plain second implementation of Vijayakumar et al. 2018, without cache and ends."""
    network = tiny[1]
    length = 5
    beams = [[(0.0, [])] for _ in range(groups)]
    for _ in range(length):
        taken: list[int] = []
        for number, group in enumerate(beams):
            every = []
            for score, tokens in group:
                own = log_probabilities(network, np.array([*PROMPT, *tokens]))
                for token in range(11):
                    times = taken.count(token)
                    every.append((score + own[token] - penalty * times, [*tokens, token]))
            beams[number] = sorted(every, key=lambda each: -each[0])[:size]
            taken += [tokens[-1] for _, tokens in beams[number]]
    wanted = sorted((each for group in beams for each in group), key=lambda each: -each[0])
    params = SamplingParams(
        length, beams=groups * size, beam_groups=groups, diversity_penalty=penalty
    )
    found = beam_search(network, PROMPT, params)
    assert [list(each.tokens) for each in found] == [tokens for _, tokens in wanted]
    assert [each.score * length for each in found] == pytest.approx([s for s, _ in wanted])


def test_groups_differ_more_than_beams(tiny) -> None:  # noqa: F811
    network = tiny[1]

    def different(params: SamplingParams) -> int:
        found = beam_search(network, PROMPT, params)
        return len({each.tokens[:3] for each in found})

    plain = different(SamplingParams(6, beams=4))
    assert different(SamplingParams(6, beams=4, beam_groups=4, diversity_penalty=5.0)) == 4 > plain


# A step at a time


def test_a_search_by_steps_tells_what_it_reads_and_finds_the_same(tiny) -> None:  # noqa: F811
    """Pieces of the prompt, then a token of every beam; of each step what is recorded is kept."""
    network, params = tiny[1], SamplingParams(5, beams=4, beam_groups=2)
    steps = beam_steps(
        network, PROMPT, params, piece=2, record=lambda token, row_v: row_v[token : token + 1]
    )
    counts = []
    while True:
        try:
            counts.append(next(steps))
        except StopIteration as end:
            found = end.value
            break
    assert counts == [2, 1, 4, 4, 4, 4]
    whole = beam_search(network, PROMPT, params)
    assert [each.tokens for each in found] == [each.tokens for each in whole]
    for one, other in zip(found, whole, strict=True):
        wanted = [float(row[id_]) for row, id_ in zip(other.logprobs, other.tokens, strict=True)]
        assert [float(each) for each in one.logprobs] == pytest.approx(wanted, abs=1e-5)
    search = SamplingParams(5, penalty_alpha=0.5, top_k=3)
    tokens = list(contrastive_steps(network, PROMPT, search, piece=2))
    assert tokens[:2] == [None, None]
    ids = [each.id for each in tokens[2:] if each is not None]
    assert ids == [each.id for each in contrastive_search(network, PROMPT, search)]


# Required phrases


def test_progress_through_phrases() -> None:
    phrases = ((1, 2, 3), (1, 4), (5,))
    begun = Progress().after(1, phrases).after(2, phrases)
    assert (begun.within, begun.count(phrases), begun.wanted(phrases)) == ((0, 2), 2, [3])
    assert begun.after(7, phrases) == Progress()
    assert begun.after(5, phrases) == Progress(frozenset({2}))
    whole = begun.after(3, phrases)
    assert (whole, whole.wanted(phrases)) == (Progress(frozenset({0})), [1, 5])
    assert whole.after(1, phrases).after(4, phrases).after(5, phrases).count(phrases) == 6


@pytest.mark.parametrize("phrases", [((4,),), ((2, 7),), ((4,), (2, 7))])
def test_the_best_answer_with_all_phrases_is_found(tiny, phrases) -> None:  # noqa: F811
    """With beams enough, the likeliest of all answers of four tokens that have them."""
    network, length = tiny[1], 4
    best, value = None, -np.inf
    for tokens in product(range(11), repeat=length):
        if not all(holds(tokens, phrase) for phrase in phrases):
            continue
        score = total(network, tokens)
        if score > value:
            best, value = tokens, score
    found = search_with_phrases(
        network, PROMPT, SamplingParams(length, beams=200, required=phrases)
    )[0]
    assert found.tokens == best
    assert found.score * length == pytest.approx(value)


CACHE: dict[tuple[int, ...], np.ndarray] = {}


def total(network, tokens: tuple[int, ...]) -> float:
    found = 0.0
    for place, token in enumerate(tokens):
        before = tokens[:place]
        if before not in CACHE:
            CACHE[before] = log_probabilities(network, np.array([*PROMPT, *before]))
        found += CACHE[before][token]
    return found


def holds(tokens: tuple[int, ...], phrase: tuple[int, ...]) -> bool:
    return any(
        tokens[at : at + len(phrase)] == phrase for at in range(len(tokens) - len(phrase) + 1)
    )


@pytest.mark.parametrize("beams", [2, 4])
def test_an_answer_ends_only_with_its_phrases(tiny, beams) -> None:  # noqa: F811
    network = tiny[1]
    params = SamplingParams(12, beams=beams, required=((4, 9), (6,)), stop_ids=(0, 1))
    for each in search_with_phrases(network, PROMPT, params):
        assert holds(each.tokens, (4, 9)) and holds(each.tokens, (6,))
    short = SamplingParams(2, beams=2, required=((4, 9, 6),))
    (tight, *_) = search_with_phrases(network, PROMPT, short)
    assert tight.tokens == (4, 9), "no room for all of it: as much as there can be"


# Contrastive search


@pytest.mark.parametrize("alpha", [0.2, 0.6, 1.0])
def test_contrastive_search_is_equation_5(tiny, alpha: float) -> None:  # noqa: F811
    """A plain second implementation of Su et al. 2022, which reads all again at each step."""
    network, ids = tiny[1], list(PROMPT)

    def states(tokens: list[int]) -> np.ndarray:
        with torch.no_grad():
            found = network.hidden(pack([np.array(tokens)])).double().numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    for _ in range(8):
        p = np.exp(log_probabilities(network, np.array(ids)))
        scores = {}
        for token in np.argsort(-p)[:4]:
            h = states([*ids, int(token)])
            scores[int(token)] = (1 - alpha) * p[token] - alpha * (h[:-1] @ h[-1]).max()
        ids.append(max(scores, key=scores.__getitem__))
    params = SamplingParams(8, top_k=4, penalty_alpha=alpha)
    found = [each.id for each in contrastive_search(network, PROMPT, params)]
    assert found == ids[len(PROMPT) :]


def test_a_small_alpha_is_the_likeliest_token(tiny) -> None:  # noqa: F811
    params = SamplingParams(8, top_k=4, penalty_alpha=1e-9)
    found = [each.id for each in contrastive_search(tiny[1], PROMPT, params)]
    assert found == written(tiny[1], SamplingParams(8))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"min_p": 2}, "min_p 2"),
        ({"typical_p": 0}, "typical_p 0"),
        ({"beams": 4, "beam_groups": 3}, "beam_groups 3"),
        ({"diversity_penalty": 1.0}, "a diversity penalty"),
        ({"penalty_alpha": 0.5}, "contrastive search"),
        ({"penalty_alpha": 0.5, "top_k": 4, "beams": 2}, "contrastive search"),
        ({"required": ((1,),)}, "required phrases"),
        ({"required": ((),), "beams": 2}, "empty phrase"),
        ({"banned": ((),)}, "empty phrase"),
    ],
)
def test_what_does_not_go_together_is_refused(how, said) -> None:
    with pytest.raises(BadInput, match=said):
        SamplingParams(1, **how)
