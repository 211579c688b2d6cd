"""A network without some heads gives what the whole one gives with these masked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.models import spec
from lmwright.models.blocks.attention import Attention
from lmwright.models.blocks.flow import Cache, Notes
from lmwright.models.blocks.positions import alibi_slopes
from lmwright.models.network import Network, build, fill, size
from lmwright.models.prune import prune_heads
from lmwright.models.ragged import pack
from lmwright.models.spec import Embedding, FeedForward, Head, ModelSpec, Norm, Stack, Sublayer
from lmwright.models.zoo import t5, xlnet

NORM = Norm(eps=1e-3)
PLAIN = spec.Attention(heads=6, kv_heads=6, head_width=4, scale=0.5, sees="causal")
DISTANCES = spec.Buckets(buckets=8, distance=10, both_ways=False)
KINDS: dict[str, spec.Attention] = {
    "plain": PLAIN,
    "without bias": replace(PLAIN, bias=False, out_bias=False),
    "rotary": replace(PLAIN, positions=spec.Rotary(base=50.0, width=4), head_norm=NORM),
    "slopes": replace(PLAIN, positions=spec.Slopes(slopes=alibi_slopes(6))),
    "buckets": replace(PLAIN, positions=DISTANCES),
    "shared buckets": replace(PLAIN, positions=replace(DISTANCES, share="distances")),
    "relative": replace(PLAIN, positions=spec.Relative(segments=True), sees="all"),
    "window, capped": replace(PLAIN, window=3, cap=2.0),
}
GONE = {"decoder.0.0": [0, 4], "decoder.2.0": [5, 1, 2]}
GROUPS = {"decoder.0.0": [2, 3], "decoder.1.0": [0, 1, 4, 5]}


def network(attention: Any, **fields: Any) -> Network:
    """Three layers of it, drawn wide, in fp64."""
    ops = (attention, FeedForward(inner=9, bend="gelu"))
    layer = tuple(Sublayer(op=op, before=NORM) for op in ops)
    stack = Stack(
        name="decoder",
        width=10,
        embedding=Embedding(vocabulary=50, positions=30, share="tokens"),
        layers=(layer,) * 3,
        norm=NORM,
    )
    return drawn(ModelSpec(**{"stacks": (stack,), **fields}))


def drawn(setting: ModelSpec) -> Network:
    head = Head(pool="none", outputs=50, share="tokens")
    made, generator = build(setting, head), torch.Generator().manual_seed(1)
    shapes = {name: weight.shape for name, weight in made.named_parameters()}
    values = {n: torch.randn(s, generator=generator).double() * 0.4 for n, s in shapes.items()}
    fill(made, values)
    return made


def masks(made: Network, gone: Mapping[str, Sequence[int]]) -> Notes:
    """Notes that mask these heads."""
    counts = {m.name: m.setting.heads for m in made.modules() if isinstance(m, Attention)}
    heads = {
        name: torch.tensor([float(head not in own) for head in range(counts[name])])
        for name, own in gone.items()
    }
    return Notes(heads=heads)


def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 50, length) for length in (5, 1, 12, 5, 3)]


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def compare(whole: Network, gone: Mapping[str, Sequence[int]], batch: Any) -> Network:
    """The pruned network, after it gave what the masked one gives, and something else than it."""
    before = {name: weight.clone() for name, weight in whole.named_parameters()}
    pruned = prune_heads(whole, gone)
    wanted = whole.hidden(batch, notes=masks(whole, gone))
    close(pruned.hidden(batch), wanted)
    assert not torch.allclose(whole.hidden(batch), wanted)
    for name, weight in whole.named_parameters():
        assert torch.equal(weight, before[name])
    return pruned


def saved_and_loaded(made: Network) -> Network:
    """The same network from its spec's JSON and its weights."""
    again = spec.read_spec(json.loads(json.dumps(made.spec.to_json())), "here")
    loaded = build(again, made.head_spec)
    fill(loaded, dict(made.named_parameters()))
    assert not any(weight.is_meta for weight in loaded.parameters())
    return loaded


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_pruned_equals_masked(name):
    whole = network(KINDS[name])
    segments = [np.arange(len(text)) % 2 for text in texts()] if name == "relative" else None
    batch = pack(texts(), segments=segments)
    pruned = compare(whole, GONE, batch)
    counts = [layer[0].op.heads for layer in pruned.spec.stacks[0].layers]
    assert counts == [4, 6, 3]
    rows = 4 * 4 * 10 + 3 * 4 * KINDS[name].bias  # of a head: q, k, v and out, with biases
    rows += {"relative": 4 * 10 + 3 * 4 + 2 * 4, "buckets": 8}.get(name, 0)
    apart = 8 * (4 + 3) if name == "shared buckets" else 0
    assert size(pruned) == size(whole) - 5 * rows + apart
    close(saved_and_loaded(pruned).hidden(batch), pruned.hidden(batch))


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [3, 1])
def test_groups_go_with_the_head_of_keys_that_they_read(kv_heads):
    whole, batch = network(replace(PLAIN, kv_heads=kv_heads)), pack(texts())
    if kv_heads == 3:
        pruned = compare(whole, GROUPS, batch)
        counts = [
            (layer[0].op.heads, layer[0].op.kv_heads) for layer in pruned.spec.stacks[0].layers
        ]
        assert counts == [(4, 2), (2, 1), (6, 3)]
        close(saved_and_loaded(pruned).hidden(batch), pruned.hidden(batch))
    for gone in ([0], [0, 1, 2], [1, 3, 5]):
        with pytest.raises(BadInput, match="which share keys"):
            prune_heads(whole, {"decoder.1.0": gone})


@torch.no_grad()
def test_slopes_stay_with_their_heads():
    pruned = prune_heads(network(KINDS["slopes"]), GONE)
    slopes = alibi_slopes(6)
    found = [layer[0].op.positions.slopes for layer in pruned.spec.stacks[0].layers]
    assert found == [tuple(slopes[h] for h in (1, 2, 3, 5)), slopes, (slopes[0], *slopes[3:5])]


@torch.no_grad()
def test_a_shared_table_stays_shared_among_those_that_keep_their_heads():
    """Also if the one that it is named after loses heads."""
    whole = network(KINDS["shared buckets"])
    table = whole.stacks["decoder"].layers[0][0].op.buckets.weight
    pruned = prune_heads(whole, {"decoder.0.0": [2]})
    own, *others = (layer[0].op.buckets.weight for layer in pruned.stacks["decoder"].layers)
    assert others[0] is others[1] and torch.equal(others[0], table)
    assert torch.equal(own, table[:, [0, 1, 3, 4, 5]])


@torch.no_grad()
def test_branches_and_what_reads_another_stack():
    branches = (
        spec.Branch(before=NORM, op=PLAIN),
        spec.Branch(before=None, op=replace(PLAIN, kv_heads=2)),
    )
    whole = network(spec.Parallel(branches=branches))
    compare(whole, {"decoder.1.0.0": [3], "decoder.1.0.1": [0, 1, 2]}, pack(texts()))
    encoder = replace(whole.spec.stacks[0], name="encoder", width=7)
    reading = replace(PLAIN, sees="all", reads="encoder", kv_heads=3)
    layer = (Sublayer(op=PLAIN), Sublayer(op=reading, before=NORM))
    decoder = replace(whole.spec.stacks[0], layers=(layer, layer))
    pair = drawn(ModelSpec(stacks=(replace(encoder, embedding=Embedding(vocabulary=50)), decoder)))
    gone = {"encoder.2.0.0": [0], "decoder.0.1": [2, 3], "decoder.1.0": [1, 2, 3, 4, 5]}
    compare(pair, gone, pack(texts()))


@torch.no_grad()
def test_published_families_lose_heads():
    """T5 with its two shared tables, XLNet with its queries' biases; then with a cache."""
    sizes = {"d_model": 24, "d_kv": 6, "d_ff": 30, "num_heads": 4, "vocab_size": 50}
    whole = drawn(t5.spec({**sizes, "num_layers": 2}))
    gone = {"encoder.1.0": [0], "decoder.0.0": [1, 3], "decoder.1.1": [2]}
    compare(whole, gone, pack(texts()))
    config = {"d_model": 24, "n_layer": 3, "n_head": 4, "d_inner": 36, "vocab_size": 50}
    whole = drawn(xlnet.spec(config))
    segments = [np.arange(len(text)) % 2 for text in texts()]
    compare(whole, {"content.0.0": [3], "content.2.0": [0, 1, 2]}, pack(texts(), segments=segments))
    both = drawn(xlnet.two_streams(xlnet.spec(config)))
    with pytest.raises(BadInput, match=r"content\.0\.0 shares weights with stacks\.query"):
        prune_heads(both, {"content.0.0": [3]})


@torch.no_grad()
def test_what_is_pruned_goes_on_with_a_cache():
    whole, text = network(replace(PLAIN, kv_heads=3)), texts()[2]
    pruned, cache = prune_heads(whole, GROUPS), Cache(1)
    wanted = whole.hidden(pack([text]), notes=masks(whole, GROUPS))
    for start, stop in ((0, 4), (4, 5), (5, 12)):
        found = pruned.hidden(pack([text[start:stop]], past=[start]), cache=cache)
        close(found, wanted[start:stop])


def test_what_is_pruned_can_learn_and_be_pruned_again():
    whole, batch = network(PLAIN), pack(texts())
    once = prune_heads(whole, {"decoder.0.0": [0, 4]})
    twice = prune_heads(once, {"decoder.0.0": [1]})
    at_once = prune_heads(whole, {"decoder.0.0": [0, 2, 4]})
    assert twice.spec == at_once.spec
    close(twice(batch), at_once(batch))
    twice(batch).square().sum().backward()
    assert all(weight.grad is not None for weight in twice.parameters())
    assert all(weight.grad is None for weight in whole.parameters())


def test_nothing_gone_is_the_same_network():
    whole = network(PLAIN)
    for nothing in ({}, {"decoder.0.0": []}):
        same = prune_heads(whole, nothing)
        assert same.spec == whole.spec
        close(same(pack(texts())), whole(pack(texts())))


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ({"decoder.0.3": [0]}, "no attention is called 'decoder.0.3'.*did you mean"),
        ({"decoder.0.1": [0]}, "no attention is called 'decoder.0.1'"),
        ({"encoder": []}, "no attention is called 'encoder'"),
        ({"decoder.0.0": [6]}, "decoder.0.0 has no head 6; wanted: heads 0 to 5"),
        ({"decoder.0.0": [-1, 2]}, "has no head -1"),
        ({"decoder.2.0": range(6)}, "all 6 heads of decoder.2.0"),
    ],
    ids=str,
)
def test_what_cannot_be_taken_out_is_refused(gone, said):
    whole = network(PLAIN)
    with pytest.raises(BadInput, match=said):
        prune_heads(whole, gone)
