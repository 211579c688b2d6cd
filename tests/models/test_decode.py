"""How tokens are chosen: against the reference's processors of logits, and by their properties."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lmwright.core.errors import BadInput
from lmwright.models.decode import Decoding, beam_search, bound, cut, leaning
from lmwright.models.zoo import gpt2
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
    found = cut(torch.softmax(logits(seed), -1), Decoding(most=1, top_k=top_k, top_p=top_p))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_a_bias_is_the_references(seed):
    bias = {4: 2.5, 17: -100.0, 0: 0.25}
    warp = transformers.SequenceBiasLogitsProcessor([[[k], v] for k, v in bias.items()])
    wanted = warp(torch.zeros(1, 1, dtype=torch.int64), logits(seed)[None])[0]
    found = leaning(logits(seed), [4, 4], Decoding(most=1, bias=tuple(bias.items())))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_what_may_not_come_is_the_references(length):
    scores, known = torch.stack([logits(0), logits(1)]), torch.zeros(2, 1 + length).long()
    never = transformers.NoBadWordsLogitsProcessor([[4], [17]])
    first = transformers.ForcedBOSTokenLogitsProcessor(9)
    found = bound(scores, length, Decoding(most=1, first=9, never=(4, 17)))
    torch.testing.assert_close(found, first(known, never(known, scores)))
    assert torch.equal(scores[0], logits(0))


def test_penalties_follow_their_formula():
    """logit − presence · [count > 0] − frequency · count, of the answer's own tokens."""
    written, before = [3, 9, 3, 3], logits(0)
    found = leaning(before, written, Decoding(most=1, presence=0.5, frequency=0.25))
    for token in range(30):
        count = Counter(written)[token]
        taken = 0.5 * (count > 0) + 0.25 * count
        assert float(found[token]) == pytest.approx(float(before[token]) - taken, abs=1e-12)
    assert torch.equal(before, logits(0))
    assert np.argmax(leaning(before, [int(before.argmax())] * 40, Decoding(1, frequency=2.0))) != (
        int(before.argmax())
    )


@pytest.mark.parametrize("how", [{"presence": 1.0}, {"frequency": 1.0}, {"bias": ((1, 1.0),)}])
def test_beams_do_not_lean(how):
    with pytest.raises(BadInput, match="beams"):
        Decoding(most=1, beams=2, **how)


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


def of_reference(model, prompt, **how):
    """What the reference's ``generate`` writes after a prompt, up to the first end."""
    with in_double(True), torch.no_grad():
        found = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            pad_token_id=0,
            **how,
        )[0].tolist()[len(prompt) :]
    ends = how.get("eos_token_id") or []
    return found[: next((n + 1 for n, each in enumerate(found) if each in ends), len(found))]


@pytest.mark.parametrize("ends", [(3, 7), (3, 7, 8), (1, 3, 6, 7, 8)])
@pytest.mark.parametrize("beams", [2, 3])
def test_beams_with_several_ends_are_the_references(tiny, ends, beams):
    model, network = tiny
    for first in range(11):
        prompt = [first, 3]
        how = {"max_new_tokens": 8, "num_beams": beams, "eos_token_id": list(ends)}
        found = beam_search(network, np.array(prompt), Decoding(8, beams=beams, ends=ends))
        assert list(found[0].tokens) == of_reference(model, prompt, **how)
        assert len(found) == beams
