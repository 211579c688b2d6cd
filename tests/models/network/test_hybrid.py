"""Layers of several kinds in one stack, and attention that sees a prefix both ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lmwright.models.beam_search import beam_search
from lmwright.models.blocks.context import Cache
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import (
    Attention,
    Branch,
    Embedding,
    FeedForward,
    Head,
    ModelSpec,
    Norm,
    Parallel,
    Recurrent,
    Rotary,
    Stack,
    Sublayer,
)
from lmwright.models.decode import generate
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import Network, build
from lmwright.text.generation import SamplingParams

NORM = Norm(kind="rms", eps=1e-5, bias=False)
LENGTHS = (7, 1, 12, 2, 7)


def hybrid(cell: str, alternate: bool) -> ModelSpec:
    """Layers that attend and layers that remember, by turns, or both in each layer."""
    attention = Attention(
        heads=4,
        kv_heads=2,
        head_width=6,
        scale=6**-0.5,
        mask="causal",
        window=5,
        positions=Rotary(base=100.0, width=6),
    )
    recurrent = Recurrent(cell=cell, hidden=24)
    feed_forward = Sublayer(op=FeedForward(inner=30, activation="silu", gated=True), pre_norm=NORM)
    if alternate:
        ops = [attention if number % 2 else recurrent for number in range(4)]
    else:
        branches = tuple(Branch(pre_norm=NORM, op=op) for op in (attention, recurrent))
        ops = [Parallel(branches=branches)] * 2
    stack = Stack(
        name="decoder",
        width=24,
        embedding=Embedding(vocabulary=50, share="tokens"),
        layers=tuple((Sublayer(op=op, pre_norm=NORM), feed_forward) for op in ops),
        norm=NORM,
    )
    return ModelSpec(stacks=(stack,))


def prefixed(sees: str = "prefix") -> ModelSpec:
    """A decoder that may see its document's prefix both ways."""
    ops = (
        Attention(heads=4, kv_heads=4, head_width=6, scale=0.4, mask=sees),
        FeedForward(inner=30, activation="gelu"),
    )
    layer = tuple(Sublayer(op=op, pre_norm=NORM) for op in ops)
    embedding = Embedding(vocabulary=50, positions=40, share="tokens")
    return ModelSpec(
        stacks=(
            Stack(name="decoder", width=24, embedding=embedding, layers=(layer,) * 3, norm=NORM),
        )
    )


def network(setting: ModelSpec) -> Network:
    """A small language model with wide weights, in fp64."""
    made = build(setting, Head(pool="none", outputs=50, bias=False, share="tokens"))
    initialise(made, seed=1)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.mul_(20)
    return made.double()


def documents() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 50, length) for length in LENGTHS]


HYBRIDS = {
    "attention and gru by turns": hybrid("gru", alternate=True),
    "attention and lstm by turns": hybrid("lstm", alternate=True),
    "attention beside gru": hybrid("gru", alternate=False),
}


@pytest.mark.parametrize("name", HYBRIDS)
@torch.no_grad()
def test_a_document_packed_equals_the_document_alone(name):
    model, batch = network(HYBRIDS[name]), pack(documents())
    for text, together in zip(documents(), batch.by_document(model(batch)), strict=True):
        torch.testing.assert_close(together, model(pack([text])), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", HYBRIDS)
@torch.no_grad()
def test_no_token_depends_on_later_ones(name):
    model, text = network(HYBRIDS[name]), documents()[2]
    whole = model(pack([text]))
    for length in (1, 5, 6, 11):
        part = model(pack([text[:length]]))
        torch.testing.assert_close(part, whole[:length], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(model(pack([text[1:]]))[-1], whole[-1])


@pytest.mark.parametrize("name", HYBRIDS)
@torch.no_grad()
def test_step_by_step_with_a_cache_equals_the_whole_pass(name):
    """Several documents, of different pasts, in pieces of one and of several tokens."""
    model, texts = network(HYBRIDS[name]), [text for text in documents() if len(text) > 6]
    cache, order, cuts = Cache(len(texts)), range(len(texts)), [(0, 3, 4, 6), (0, 1, 5, 7)]
    cuts.append((0, 2, 3, 4))
    found: list[list[Tensor]] = [[] for _ in texts]
    for step in range(3):
        pieces = [text[cut[step] : cut[step + 1]] for text, cut in zip(texts, cuts, strict=True)]
        batch = pack(pieces, order=order, past=[cut[step] for cut in cuts])
        for rows, part in zip(found, batch.by_document(model(batch, cache=cache)), strict=True):
            rows.append(part)
    for text, rows, cut in zip(texts, found, cuts, strict=True):
        whole = model(pack([text[: cut[-1]]]))
        torch.testing.assert_close(torch.cat(rows), whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", HYBRIDS)
def test_generation_equals_whole_passes(name):
    model, prompts = network(HYBRIDS[name]), documents()
    known = list(prompts)
    for picks in generate(
        model, prompts, SamplingParams(max_new_tokens=9), np.random.default_rng(0)
    ):
        for place, pick in picks.items():
            logs = torch.log_softmax(model(pack([known[place]]))[-1], dim=-1)
            torch.testing.assert_close(pick.logprobs_v, logs, rtol=1e-9, atol=1e-9)
            known[place] = np.append(known[place], pick.id)
    assert [len(text) for text in known] == [length + 9 for length in LENGTHS]


@pytest.mark.parametrize("name", HYBRIDS)
def test_beams_have_the_scores_of_whole_passes(name):
    model, prompt = network(HYBRIDS[name]), documents()[0]
    for found in beam_search(model, prompt, SamplingParams(max_new_tokens=7, beams=3)):
        whole = np.concatenate([prompt, found.tokens])
        logs = torch.log_softmax(model(pack([whole])), dim=-1)[len(prompt) - 1 : -1]
        own = logs[range(7), found.tokens].sum() / 7
        assert found.score == pytest.approx(own.item(), rel=1e-9)


@torch.no_grad()
def test_a_prefix_is_seen_both_ways_and_the_rest_backwards_alone():
    """Tokens of the prefix change with each other and with no token after it."""
    model, text, prefix = network(prefixed()), documents()[2], 5
    before = model(pack([text], prefixes=[prefix]))
    for place in range(len(text)):
        other = text.copy()
        other[place] = (other[place] + 1) % 50
        after = model(pack([other], prefixes=[prefix]))
        changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        first = 0 if place < prefix else place
        assert changed == [row >= first for row in range(len(text))]


@torch.no_grad()
def test_no_prefix_is_causal_and_a_whole_one_is_full_attention():
    texts = documents()
    kinds = {sees: network(prefixed(sees)) for sees in ("prefix", "causal", "all")}
    plain = pack(texts)
    cases = {"causal": [0] * len(texts), "all": [len(text) for text in texts]}
    for sees, prefixes in cases.items():
        found = kinds["prefix"](pack(texts, prefixes=prefixes))
        torch.testing.assert_close(found, kinds[sees](plain), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(kinds["prefix"](plain), kinds["causal"](plain))
    assert not torch.allclose(kinds["all"](plain), kinds["causal"](plain))


@torch.no_grad()
def test_prefixes_packed_equal_prefixes_alone():
    model, texts, prefixes = network(prefixed()), documents(), [3, 1, 9, 0, 6]
    batch = pack(texts, prefixes=prefixes)
    for text, prefix, together in zip(
        texts, prefixes, batch.by_document(model(batch)), strict=True
    ):
        alone = model(pack([text], prefixes=[prefix]))
        torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_the_last_token_alone_attends_as_in_the_whole_pass():
    model, texts, prefixes = network(prefixed()), documents(), [3, 1, 12, 0, 6]
    batch = pack(texts, prefixes=prefixes)
    wanted = torch.stack([rows[-1] for rows in batch.by_document(model(batch))])
    torch.testing.assert_close(model.next(batch, None), wanted, rtol=1e-10, atol=1e-10)
    first = build(replace(model.spec), Head(pool="first", outputs=0))
    first.load_state_dict(
        {n: w for n, w in model.state_dict().items() if "head" not in n}, assign=True
    )
    states = batch.by_document(model.hidden(batch))
    wanted = torch.stack([rows[0] for rows in states])
    torch.testing.assert_close(first(batch), wanted, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_a_prompt_that_is_the_prefix_goes_on_with_a_cache():
    model, texts = network(prefixed()), [text for text in documents() if len(text) > 6]
    sizes, order = [4, 6, 2], range(3)
    cache = Cache(3)
    prompt = pack([t[:n] for t, n in zip(texts, sizes, strict=True)], order=order, prefixes=sizes)
    rows = [[part] for part in prompt.by_document(model(prompt, cache=cache))]
    for step in range(3):
        past = [size + step for size in sizes]
        news = [t[n : n + 1] for t, n in zip(texts, past, strict=True)]
        batch = pack(news, order=order, past=past, prefixes=sizes)
        for own, part in zip(rows, batch.by_document(model(batch, cache=cache)), strict=True):
            own.append(part)
    for text, size, own in zip(texts, sizes, rows, strict=True):
        whole = model(pack([text[: size + 3]], prefixes=[size]))
        torch.testing.assert_close(torch.cat(own), whole, rtol=1e-10, atol=1e-10)
