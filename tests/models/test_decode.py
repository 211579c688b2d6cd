"""How tokens are chosen: against the reference's processors of logits, and by their properties."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lmwright.core.errors import BadInput, LmwrightError
from lmwright.models.beam_search import beam_search
from lmwright.models.decode import (
    apply_constraints,
    apply_penalties,
    drawn_from,
    generate,
    sample,
)
from lmwright.models.zoo import bart, gpt2
from lmwright.text.generation import GenerationConfig, SamplingParams
from tests.parity.harness import Case, in_double, ours, reference

transformers = pytest.importorskip("transformers")


def logits(seed: int) -> torch.Tensor:
    """Log-probabilities of thirty tokens."""
    made = torch.Generator().manual_seed(seed)
    return torch.log_softmax(3 * torch.randn(30, generator=made, dtype=torch.float64), -1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.7), (5, 1.0), (5, 0.6), (1, 1.0), (0, 1e-9)])
def test_cuts_are_the_references(seed, top_k, top_p):
    scores = logits(seed)[None]
    if top_k:
        scores = transformers.TopKLogitsWarper(top_k)(None, scores)
    scores = transformers.TopPLogitsWarper(top_p)(None, scores)
    wanted = torch.softmax(scores[0], -1)
    params = SamplingParams(max_new_tokens=1, temperature=1.0, top_k=top_k, top_p=top_p)
    found = whole(*drawn_from(logits(seed).numpy(), params), 30)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


def whole(ids: np.ndarray, probs: np.ndarray, count: int) -> torch.Tensor:
    """Probabilities of all tokens."""
    found = torch.zeros(count, dtype=torch.float64)
    found[ids] = torch.from_numpy(probs)
    return found


@pytest.mark.parametrize("mass", [0.1, 0.9, 0.999, 1 - 1e-12])
@pytest.mark.parametrize("flat", [0.0, 1.0, 4.0])
def test_a_nucleus_of_a_large_vocabulary_is_that_of_a_whole_sort(mass, flat):
    """With equal probabilities too, where the first of the equal ones are taken."""
    rng = np.random.default_rng(1)
    values = np.round(flat * rng.standard_normal(5000), 1)
    params = SamplingParams(max_new_tokens=1, temperature=0.7, top_p=mass)
    ids, probs = drawn_from(values, params)
    every = np.exp(values / 0.7 - (values / 0.7).max())
    every /= every.sum()
    order = np.argsort(-every, kind="stable")
    wanted = np.sort(order[np.cumsum(every[order]) - every[order] < mass])
    assert abs(len(ids) - len(wanted)) <= (mass > 0.9999), "sums in another order may differ"
    np.testing.assert_array_equal(ids[: len(wanted) - 1], wanted[: len(ids) - 1])
    np.testing.assert_allclose(probs.sum(), 1)


@pytest.mark.parametrize("more", [{}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.2}])
def test_tokens_come_as_often_as_their_probabilities_say(more):
    params = SamplingParams(max_new_tokens=1, temperature=0.8, **more)
    scores = logits(0)[:6].float()
    ids, probs = drawn_from(scores.numpy(), params)
    rng, counts = np.random.default_rng(0), np.zeros(6)
    for _ in range(4000):
        id_, logprob = sample(scores, params, rng)
        assert logprob == pytest.approx(np.log(probs[list(ids).index(id_)]))
        counts[id_] += 1
    expected = 4000 * whole(ids, probs, 6).numpy()
    assert (counts[expected == 0] == 0).all()
    chi = ((counts - expected) ** 2 / np.maximum(expected, 1e-9))[expected > 0].sum()
    assert chi < 20.5, "0.1 % of chi squared with five degrees of freedom"


@pytest.mark.parametrize("seed", range(3))
def test_a_bias_is_the_references(seed):
    bias = {4: 2.5, 17: -100.0, 0: 0.25}
    warp = transformers.SequenceBiasLogitsProcessor([[[k], v] for k, v in bias.items()])
    wanted = warp(torch.zeros(1, 1, dtype=torch.int64), logits(seed)[None])[0]
    found = apply_penalties(
        logits(seed), [4, 4], SamplingParams(max_new_tokens=1, logit_bias=tuple(bias.items()))
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_what_may_not_come_is_the_references(length):
    scores, known = torch.stack([logits(0), logits(1)]), torch.zeros(2, 1 + length).long()
    never = transformers.NoBadWordsLogitsProcessor([[4], [17]])
    first = transformers.ForcedBOSTokenLogitsProcessor(9)
    how = SamplingParams(max_new_tokens=9, forced_bos_id=9, banned_ids=(4, 17))
    found = [
        apply_constraints(row, ids.numpy(), length, how)
        for row, ids in zip(scores, known, strict=True)
    ]
    torch.testing.assert_close(torch.stack(found), first(known, never(known, scores)))
    assert torch.equal(scores[0], logits(0))


RULES = {
    "penalty": {"repetition_penalty": 9.0},
    "bonus": {"repetition_penalty": 0.1},
    "no token twice": {"no_repeat_ngram_size": 1},
    "no pair twice": {"no_repeat_ngram_size": 2},
    "no three twice": {"no_repeat_ngram_size": 3},
    "a least length": {"min_length": 6},
    "a last token": {"forced_eos_token_id": (7,)},
    "a beginning": {"begin_suppress_tokens": (0, 1, 2, 3, 4, 5)},
    "all": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 3,
        "min_length": 5,
        "forced_eos_token_id": (7,),
        "begin_suppress_tokens": (0, 7, 9),
    },
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("length", [0, 1, 3, 4])
def test_rules_are_the_references(name, length):
    rules, scores = RULES[name], logits(length) + 2  # some logits are above 0
    known = torch.tensor([[4, 9, 4, 4, 9, 4, 9][: 3 + length]])
    wanted = scores[None]
    made = {
        "repetition_penalty": transformers.RepetitionPenaltyLogitsProcessor,
        "no_repeat_ngram_size": transformers.NoRepeatNGramLogitsProcessor,
        "min_length": lambda least: transformers.MinLengthLogitsProcessor(least, [7, 8]),
        "forced_eos_token_id": lambda ids: transformers.ForcedEOSTokenLogitsProcessor(8, [*ids]),
        "begin_suppress_tokens": lambda ids: transformers.SuppressTokensAtBeginLogitsProcessor(
            [*ids], 3
        ),
    }
    for each, value in rules.items():
        wanted = made[each](value)(known, wanted)
    how = SamplingParams(
        max_new_tokens=5, stop_ids=(7, 8), generation_config=GenerationConfig(**rules)
    )
    torch.testing.assert_close(apply_constraints(scores, known[0].numpy(), length, how), wanted[0])
    assert torch.equal(scores, logits(length) + 2)


def test_penalties_follow_their_formula():
    """logit − presence · [count > 0] − frequency · count, of the answer's own tokens."""
    written, before = [3, 9, 3, 3], logits(0)
    found = apply_penalties(
        before,
        written,
        SamplingParams(max_new_tokens=1, presence_penalty=0.5, frequency_penalty=0.25),
    )
    for token in range(30):
        count = Counter(written)[token]
        taken = 0.5 * (count > 0) + 0.25 * count
        assert float(found[token]) == pytest.approx(float(before[token]) - taken, abs=1e-12)
    assert torch.equal(before, logits(0))
    assert np.argmax(
        apply_penalties(
            before, [int(before.argmax())] * 40, SamplingParams(1, frequency_penalty=2.0)
        )
    ) != (int(before.argmax()))


@pytest.mark.parametrize(
    "how", [{"presence_penalty": 1.0}, {"frequency_penalty": 1.0}, {"logit_bias": ((1, 1.0),)}]
)
def test_beams_do_not_lean(how):
    with pytest.raises(BadInput, match="beams"):
        SamplingParams(max_new_tokens=1, beams=2, **how)


TINY = Case(
    gpt2.FAMILY,
    "GPT2LMHeadModel",
    {"vocab_size": 11, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32},
    "lm",
)


@pytest.fixture(scope="module")
def tiny():
    """A network of eleven tokens, the reference's and ours."""
    model = reference(TINY)
    return model, ours(TINY, model)


def of_reference(model, prompt, read, **how):
    """What the reference's ``generate`` writes after what it has ``read``, up to the first end."""
    with in_double(True), torch.no_grad():
        found = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            pad_token_id=0,
            **how,
        )[0].tolist()[read:]
    ends = how.get("eos_token_id") or []
    return found[: next((n + 1 for n, each in enumerate(found) if each in ends), len(found))]


@pytest.mark.parametrize("ends", [(3, 7), (3, 7, 8), (1, 3, 6, 7, 8)])
@pytest.mark.parametrize("beams", [2, 3])
def test_beams_with_several_ends_are_the_references(tiny, ends, beams):
    model, network = tiny
    for first in range(11):
        prompt = [first, 3]
        how = {"max_new_tokens": 8, "num_beams": beams, "eos_token_id": list(ends)}
        found = beam_search(
            network, np.array(prompt), SamplingParams(8, beams=beams, stop_ids=ends)
        )
        assert list(found[0].tokens) == of_reference(model, prompt, 2, **how)
        assert len(found) == beams


PAIR = Case(
    bart.FAMILY,
    "BartForConditionalGeneration",
    {
        "vocab_size": 11,
        "d_model": 8,
        "max_position_embeddings": 32,
        **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 9 for side in ("encoder", "decoder")},
    },
    "lm",
    pairs=True,
)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("case", [TINY, PAIR], ids=["gpt2", "bart"])
def test_what_is_written_by_rules_is_the_references(case, name, beams):
    model = reference(case)
    network, changed = ours(case, model), False
    rules = {each: [*v] if isinstance(v, tuple) else v for each, v in RULES[name].items()}
    for first in (0, 4, 8):
        prompt = [first, 3, 5]
        how = {"max_new_tokens": 8, "num_beams": beams, "forced_eos_token_id": None}
        start, sources = [prompt], None
        if case.pairs:
            start, sources = [[2]], [np.array(prompt)]
            how |= {"decoder_start_token_id": 2, "bos_token_id": 1, "forced_bos_token_id": None}
        cut_off, ends = len(start[0]), [7, 8]
        if "min_length" in rules:  # what is written early without the rule
            ends = [7, of_reference(model, prompt, cut_off, **how, eos_token_id=None)[1]]
        how |= {"eos_token_id": ends}
        asked = SamplingParams(
            8, beams=beams, stop_ids=tuple(ends), generation_config=GenerationConfig(**RULES[name])
        )
        begin = np.array(start[0])
        if beams > 1:
            source = sources and sources[0]
            found = list(beam_search(network, begin, asked, source)[0].tokens)
        else:
            steps = generate(network, [begin], asked, np.random.default_rng(0), sources)
            found = [step[0].id for step in steps]
        assert found == of_reference(model, prompt, cut_off, **{**how, **rules})
        changed = changed or found != of_reference(model, prompt, cut_off, **how)
    assert changed or name == "bonus"  # the tiny models repeat themselves without one


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_what_is_no_number_is_said_and_not_written(tiny, odd, monkeypatch):
    """One logit of one prompt of two; a logit of -inf is a token that is never next."""
    _, network = tiny
    prompts, right = [np.array([3, 5]), np.array([4])], network.next
    how = {"params": SamplingParams(3), "rng": np.random.default_rng(0)}

    def change(value):
        def next_of(batch, cache):
            logits = right(batch, cache).clone()
            logits[-1, 6] = value
            return logits

        monkeypatch.setattr(network, "next", next_of)

    change(-float("inf"))
    assert len(list(generate(network, prompts, **how))) == 3
    change(odd)
    with pytest.raises(LmwrightError, match="no numbers"):
        next(generate(network, prompts, **how))
    with pytest.raises(LmwrightError, match="no numbers"):
        beam_search(network, prompts[0], SamplingParams(3, beams=2))
