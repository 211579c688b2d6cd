"""Each way to tune on a network of every family: what learns, what stays, what it begins as."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lmwright.core.errors import BadInput
from lmwright.kernels.library import available
from lmwright.models.blocks.context import Cache, ForwardContext, Trace
from lmwright.models.core.device import Placement
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import Ragged, pack
from lmwright.models.core.spec import Head
from lmwright.models.decode import DecodingState
from lmwright.models.network.merge import merged, taken_apart
from lmwright.models.network.network import Network, build, fill, head_weights
from lmwright.models.tunes.adapters import Adapters
from lmwright.models.tunes.bitfit import BitFit, biases
from lmwright.models.tunes.freeze import Freeze, groups
from lmwright.models.tunes.ia3 import IA3
from lmwright.models.tunes.p_tuning import PTuning
from lmwright.models.tunes.prefix import Prefix, PrefixAttention
from lmwright.models.tunes.prompt import Prompt
from lmwright.models.zoo import xlnet
from lmwright.train.optimizers import SGD
from tests.parity.networks import NETWORKS
from tests.parity.test_devices import loss_and_gradients, moved
from tests.parity.test_lora import single
from tests.pretend import pretend_device

every = pytest.mark.parametrize("name", NETWORKS)
TUNES: dict[str, Any] = {
    "bitfit": BitFit(),
    "ia3": IA3(),
    "adapters": Adapters(width=3),
    "adapters, after the feed-forward alone": Adapters(width=3, place="feed_forward"),
    "prefix": Prefix(length=3),
    "prefix, with a network": Prefix(length=3, hidden=4),
    "prompt": Prompt(length=3),
    "p-tuning": PTuning(length=3, hidden=4),
}
"""Those that let weights of their own learn, and the head."""
NOTHING_TO_TUNE = {
    "bitfit": {"llama", "mistral", "gemma3_text", "mixtral", "t5", "palm", "lamda", "glam"},
    "ia3": {"elmo", "text cnn"},
    "adapters": {"elmo", "text cnn"},
    "adapters, after the feed-forward alone": {"elmo", "text cnn"},
    "prefix": {"elmo", "text cnn"},
    "prefix, with a network": {"elmo", "text cnn"},
    "prompt": {"elmo"},
    "p-tuning": {"elmo"},
}
BEGINS_ELSEWHERE = {"prefix", "prefix, with a network", "prompt", "p-tuning"}
"""Those that are not the frozen network before they have learnt."""
"""Networks that each refuses, as they have not what it tunes."""
PAIRS = [(tune, name) for tune in TUNES for name in NETWORKS if name not in NOTHING_TO_TUNE[tune]]
pairs = pytest.mark.parametrize(("tune", "name"), PAIRS)


def applied(tune: str, name: str) -> tuple[Network, Any]:
    """A network with a tune, and its batch."""
    network, batch = NETWORKS[name]()
    TUNES[tune].apply(network, seed=5)
    return network, batch


def own(tune: str, network: Network) -> set[int]:
    """The weights that a tune lets learn beside the head's."""
    if tune == "bitfit":
        return {id(each) for each in biases(network)}
    return {id(each) for path, each in network.named_parameters() if LEAVES.search(path)}


LEAVES = re.compile(r"\.(ia3|(shrink|expand)\.(weight|bias)|prefix_[kvzab]|prompt\.\w+)$")
"""Names of the weights that tunes bring."""


def learnt(tune: str, network: Network) -> None:
    """Move what a tune lets learn, as if it had learnt."""
    generator, mine = torch.Generator().manual_seed(4), own(tune, network)
    for each in network.parameters():
        if id(each) in mine:
            each.data += 0.2 * torch.randn(each.shape, generator=generator).to(each)


@pairs
def test_it_begins_as_the_frozen_network_and_then_is_another(tune, name):
    network, batch = NETWORKS[name]()
    with torch.no_grad():
        plain = network(batch)
        TUNES[tune].apply(network, seed=5)
        begun = network(batch)
        assert torch.equal(begun, plain) != (tune in BEGINS_ELSEWHERE)
        learnt(tune, network)
        assert not torch.allclose(network(batch), begun)


@pairs
def test_its_own_weights_learn_and_the_rest_keeps_its_bytes(tune, name):
    network, batch = applied(tune, name)
    head, mine = {id(each) for each in head_weights(network)[0]}, own(tune, network)
    for path, weight in network.named_parameters():
        assert weight.requires_grad == (id(weight) in mine | head), path
    learnt(tune, network)
    before = {path: each.detach().clone() for path, each in network.named_parameters()}
    optimizer = SGD(momentum=0.0).make(network)
    network(batch).square().sum().backward()
    moved = {n for n, w in network.named_parameters() if w.grad is not None and w.grad.any()}
    for path, weight in network.named_parameters():
        # Of biases some have none: a layer that nothing reads, an expert that no token chose.
        assert id(weight) not in mine or tune == "bitfit" or path in moved, path
    assert {n for n, w in network.named_parameters() if id(w) in mine} & moved
    optimizer.step(1e-4)
    for path, weight in network.named_parameters():
        assert torch.equal(weight, before[path]) == (path not in moved), path


@pairs
def test_a_document_has_the_same_logits_in_any_company_and_step_by_step(tune, name):
    network, batch = applied(tune, name)
    learnt(tune, network)
    names = list(network.streams) if not isinstance(batch, Ragged) else []
    streams = [batch[n] for n in names] if names else [batch]
    pooled = network.head_spec.pool != "none"
    with torch.no_grad():
        whole, last = network(batch), network.next(batch, None)
        parts = whole if pooled else network.output_batch(batch).by_document(whole)
        for place in range(len(streams[0].documents)):
            alone = [single(stream, place) for stream in streams]
            given = dict(zip(names, alone, strict=True)) if names else alone[0]
            found = network(given)
            torch.testing.assert_close(found[0] if pooled else found, parts[place])
            torch.testing.assert_close(network.next(given, None)[0], last[place])
        if not network.is_causal_lm or network.two_streams:
            return
        texts = [each.numpy() for each in streams[-1].by_document(streams[-1].tokens_n)]
        sources = [each.numpy() for each in streams[0].by_document(streams[0].tokens_n)]
        longest = [place for place, text in enumerate(texts) if len(text) > 3]
        state = DecodingState(network, len(longest), [sources[place] for place in longest])
        state.append([texts[place][:2] for place in longest])
        state.append([texts[place][2:3] for place in longest])
        found = state.append([texts[place][3:] for place in longest])
        torch.testing.assert_close(found, last[longest])


MERGES = [(tune, name) for tune, name in PAIRS if tune == "ia3"]


@pytest.mark.parametrize(("tune", "name"), MERGES)
def test_it_merges_into_a_plain_network_with_the_same_logits(tune, name):
    network, batch = applied(tune, name)
    before = {path for path, _ in NETWORKS[name]()[0].named_parameters()}
    learnt(tune, network)
    found = merged(network)
    assert {path for path, _ in found.named_parameters()} == before
    with torch.no_grad():
        torch.testing.assert_close(found(batch), network(batch), rtol=1e-9, atol=1e-9)
    single_precision = merged(network.float())
    with torch.no_grad():
        wanted = network(batch)
        bound = 1e-5 * float(wanted.abs().max())
        torch.testing.assert_close(single_precision(batch), wanted, rtol=0, atol=bound)


@pytest.mark.parametrize(
    "tune", ["adapters", "prefix", "prefix, with a network", "prompt", "p-tuning"]
)
def test_what_cannot_be_merged_is_refused_by_name_and_taken_apart(tune):
    network, batch = NETWORKS["bert, classify"]()
    with torch.no_grad():
        plain = network(batch)
    TUNES[tune].apply(network, seed=5)
    learnt(tune, network)
    with pytest.raises(BadInput, match="which cannot be merged into its weights"):
        merged(network)
    found, adapter = taken_apart(network)
    mine = {path for path, each in network.named_parameters() if id(each) in own(tune, network)}
    assert adapter.keys() == mine
    with torch.no_grad():
        assert torch.equal(found(batch), plain)
        TUNES[tune].apply(found, seed=6)
        fill(found, adapter)
        assert torch.equal(found(batch), network(batch))


@torch.no_grad()
def in_int8(network: Network, batch: Any) -> tuple[float, float, float, Any]:
    """Differences from fp32, from the modules in int8, and of the modules from themselves where
    each embedding is off by at most its last place, in shares of the logits' size; the fused
    stack."""
    exact = network.float()(batch)
    network.place(Placement("cpu", "int8"))
    found, fused = network(batch), network.fused
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(Network, "fused_stack", lambda self, context: None)
        by_modules, moved = network(batch), []
        table = next(iter(network.stacks.values())).embedding.tokens.weight
        kept = table.clone()
        for seed in range(6):
            generator = torch.Generator().manual_seed(seed)
            table.mul_(1 + LAST_PLACE * torch.randint(-1, 2, table.shape, generator=generator))
            moved.append(network(batch) - by_modules)
            table.copy_(kept)
    size = float(exact.square().mean().sqrt())
    shares = [float(x.square().mean().sqrt()) / size for x in (exact - found, by_modules - found)]
    return *shares, max(float(x.square().mean().sqrt()) / size for x in moved), fused


LAST_PLACE = 2.0**-24
"""Half of the last place of fp32 numbers beside 1."""


@pytest.mark.parametrize("tune", TUNES)
@pytest.mark.parametrize("name", ["bert, classify", "qwen2"])
def test_the_fast_path_of_int8_answers_as_the_modules_do(tune, name):
    """The fused stack steps aside where a sublayer is not plain, and else agrees with them, as far
    as they agree with themselves: a last place may move a number over the edge of two quants."""
    plain, batch = NETWORKS[name]()
    network, _ = applied(tune, name)
    learnt(tune, network)
    of_plain, _, _, _ = in_int8(plain, batch)
    of_tuned, apart, own, fused = in_int8(network, batch)
    assert apart < max(1e-4, own) and of_tuned < max(3 * of_plain, 0.02)
    if fused is not None and available():
        assert bool(fused.unfit) == (tune != "bitfit")


@pytest.mark.parametrize("name", [name for tune, name in PAIRS if tune == "bitfit"])
def test_bitfit_reaches_every_bias_that_a_gradient_reaches(name):
    """All biases of maps and norms have one in a full training exactly where they have one here."""
    network, batch = applied("bitfit", name)
    network(batch).square().sum().backward()
    whole, batch = NETWORKS[name]()
    whole(batch).square().sum().backward()
    found = dict(network.named_parameters())
    for path, weight in whole.named_parameters():
        if path.startswith("stacks.") and path.rpartition(".")[2].startswith("bias"):
            torch.testing.assert_close(found[path].grad, weight.grad, msg=path)


@pytest.mark.parametrize(
    ("tune", "name"),
    [(tune, name) for tune, names in NOTHING_TO_TUNE.items() for name in sorted(names)],
)
def test_a_network_without_what_it_tunes_is_refused_by_name(tune, name):
    network, _ = NETWORKS[name]()
    with pytest.raises(
        BadInput, match=f"tune is {tune.partition(',')[0]}( with .*)?, and the network"
    ):
        TUNES[tune].apply(network, seed=5)


@every
def test_groups_hold_every_weight_once_in_the_order_of_depth(name):
    network, _ = NETWORKS[name]()
    found, layers = groups(network), sum(len(stack.layers) for stack in network.spec.stacks)
    names = [each for _, group in found for each in group]
    assert sorted(names) == sorted(path for path, _ in network.named_parameters())
    depth = {each: depth for depth, group in found for each in group}
    assert max(depth.values()) == layers + 1
    for path in names:
        if path.startswith("head."):
            assert depth[path] == 0
        if ".embedding." in path:
            assert depth[path] == layers + 1


def test_depths_of_an_encoder_and_of_two_stacks():
    depth = {each: d for d, group in groups(NETWORKS["bert, classify"]()[0]) for each in group}
    assert depth["stacks.encoder.layers.0.0.op.qkv.weight"] == 2
    assert depth["stacks.encoder.layers.1.1.op.up.weight"] == 1
    network = NETWORKS["bart"]()[0]
    counts = [len(stack.layers) for stack in network.spec.stacks]
    depth = {each: d for d, group in groups(network) for each in group}
    encoder, decoder = network.streams
    assert depth[f"stacks.{decoder}.layers.{counts[1] - 1}.0.op.qkv.weight"] == 1
    assert depth[f"stacks.{decoder}.layers.0.0.op.qkv.weight"] == counts[1]
    assert depth[f"stacks.{encoder}.layers.0.0.op.qkv.weight"] == sum(counts)


@pytest.mark.parametrize("name", ["bert, classify", "gpt2", "llama", "t5"])
def test_first_layers_and_embeddings_stay(name):
    network, batch = NETWORKS[name]()
    Freeze(layers=1).apply(network, seed=5)
    first = network.spec.stacks[0].name
    network(batch).square().sum().backward()
    for path, weight in network.named_parameters():
        still = ".embedding." in path or path.startswith(f"stacks.{first}.layers.0.")
        assert weight.requires_grad != still, path
        assert (weight.grad is None) == still, path


def test_more_layers_than_there_are_and_none_left_are_refused():
    network, _ = NETWORKS["gpt2"]()
    with pytest.raises(BadInput, match="has 3 layers"):
        Freeze(layers=4).apply(network, seed=5)
    with pytest.raises(BadInput, match="no weight is left to learn"):
        Freeze(layers=3).apply(network, seed=5)
    network, _ = NETWORKS["bert, classify"]()
    Freeze(layers=2).apply(network, seed=5)
    learning = {path for path, each in network.named_parameters() if each.requires_grad}
    assert learning and all(path.startswith("head.") for path in learning)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "no setting of it freezes anything"),
        ({"layers": -1}, "layers is -1"),
        ({"decay": 0.0}, "decay is 0.0"),
        ({"decay": 1.5}, "decay is 1.5"),
        ({"unfreeze_every": -1}, "unfreeze_every is -1"),
        ({"unfreeze_share": 1.5}, "unfreeze_share is 1.5"),
        ({"unfreeze_every": 1, "unfreeze_share": 0.5}, "both set"),
    ],
)
def test_settings_of_freezing_out_of_range_are_refused(given, words):
    with pytest.raises(BadInput, match=words):
        Freeze(**given).check()


def test_the_first_step_in_which_each_group_learns():
    network, _ = NETWORKS["bert, classify"]()
    held = groups(network)
    assert len(held) == 4, "head, two layers, embeddings"

    def open_at(tune: Freeze, step: int, steps: int | None = None) -> list[bool]:
        factors = tune.rates(network, step, steps)
        assert factors.keys() == {path for path, _ in network.named_parameters()}
        found = [{bool(factors[each]) for each in group} for _, group in held]
        assert all(len(each) == 1 for each in found)
        return [each.pop() for each in found]

    every_five = Freeze(unfreeze_every=5)
    for step, count in ((0, 1), (4, 1), (5, 2), (10, 3), (14, 3), (15, 4), (99, 4)):
        assert sum(open_at(every_five, step)) == count
    share = Freeze(unfreeze_share=0.3)
    for step, count in ((0, 1), (9, 1), (10, 2), (20, 3), (29, 3), (30, 4)):
        assert open_at(share, step, 100) == [True] * count + [False] * (4 - count)
    with pytest.raises(BadInput, match="nobody knows the number of steps"):
        share.rates(network, 0, None)
    tied = NETWORKS["gpt2"]()[0]
    begun = {path for path, factor in every_five.rates(tied, 0, None).items() if factor}
    assert begun == set(dict(groups(tied))[1]), "without a head of its own the last layer begins"
    Freeze(layers=1, unfreeze_every=5).apply(network, seed=5)
    factors = Freeze(layers=1, unfreeze_every=5).rates(network, 5, None)
    assert all(factors.values()) and set(factors) == {each for _, g in held[:2] for each in g}


def test_rates_move_weights_in_the_stated_ratio():
    """With plain descent each weight's step is that of a full training times decay^depth."""
    found = []
    for tune in (None, Freeze(decay=0.5)):
        network, batch = NETWORKS["bert, classify"]()
        before = {path: each.detach().clone() for path, each in network.named_parameters()}
        network(batch).square().sum().backward()
        factors = {} if tune is None else tune.rates(network, 0, None)
        SGD(momentum=0.0).make(network).step(1e-3, factors)
        found.append({p: each.detach() - before[p] for p, each in network.named_parameters()})
    for depth, names in groups(network):
        for path in names:
            torch.testing.assert_close(found[1][path], found[0][path] * 0.5**depth, msg=path)
    assert max(depth for depth, _ in groups(network)) == 3


SOME = {"bert, classify", "gpt2", "llama", "t5"}


@pytest.mark.parametrize(("tune", "name"), [pair for pair in PAIRS if pair[1] in SOME])
def test_dropout_of_a_document_is_the_same_in_any_company(tune, name):
    plain, batch = NETWORKS[name]()
    head = replace(plain.head_spec, dropout=0.3)
    network = build(plain.spec.with_dropout(0.3), head)
    fill(network, dict(plain.named_parameters()))
    TUNES[tune].apply(network, seed=5)
    learnt(tune, network)
    names = list(network.streams) if not isinstance(batch, Ragged) else []
    streams = [batch[n] for n in names] if names else [batch]
    pooled = network.head_spec.pool != "none"
    with torch.no_grad():
        whole = network(batch, DropoutRNG(1, 2))
        assert not torch.allclose(whole, network(batch))
        parts = whole if pooled else network.output_batch(batch).by_document(whole)
        for place in range(len(streams[0].documents)):
            alone = [single(stream, place) for stream in streams]
            given = dict(zip(names, alone, strict=True)) if names else alone[0]
            found = network(given, DropoutRNG(1, 2))
            torch.testing.assert_close(found[0] if pooled else found, parts[place])


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "bart", "text cnn"])
def test_a_prompt_is_vectors_in_place_of_tokens_before_every_text(name):
    """By hand: ids before each document that vectors stand for, whose rows are then left out."""
    plain, batch = NETWORKS[name]()
    network, _ = applied("prompt", name)
    learnt("prompt", network)
    first = network.spec.stacks[0].name
    vectors_kd = network.stacks[first].prompt().detach()
    read = batch if isinstance(batch, Ragged) else batch[first]
    texts = [each.numpy() for each in read.by_document(read.tokens_n)]
    longer = pack(
        [np.concatenate([np.zeros(3, np.int64), text]) for text in texts],
        order=read.order,
        vectors={place: [(0, vectors_kd)] for place in range(len(texts))},
    )
    with torch.no_grad():
        if not isinstance(batch, Ragged):
            wanted = plain.hidden({**batch, first: longer})
        else:
            whole = longer.by_document(plain.hidden(longer))
            wanted = torch.cat([whole[place][3:] for place in read.order])
        torch.testing.assert_close(network.hidden(batch), wanted)


@pytest.mark.parametrize("pool", ["none", "mean", "max", "first", "last"])
def test_a_head_pools_a_texts_own_tokens(pool):
    plain, batch = NETWORKS["bert"]()
    network = build(plain.spec, Head(pool=pool, outputs=0)).double()
    fill(network, dict(plain.named_parameters()))
    TUNES["prompt"].apply(network, seed=5)
    with torch.no_grad():
        rows = batch.by_document(network.hidden(batch))
        wanted = {
            "none": torch.cat([rows[place] for place in batch.order]),
            "mean": torch.stack([each.mean(0) for each in rows]),
            "max": torch.stack([each.max(0).values for each in rows]),
            "first": torch.stack([each[0] for each in rows]),
            "last": torch.stack([each[-1] for each in rows]),
        }[pool]
        torch.testing.assert_close(network(batch), wanted)


def test_a_prompt_takes_room_and_must_leave_some():
    network, _ = NETWORKS["gpt2"]()
    longest = network.longest
    Prompt(length=3).apply(network, seed=5)
    assert network.longest == longest - 3
    for tune in (Prompt(length=longest), Prefix(length=longest + 1)):
        with pytest.raises(BadInput, match=f"length is {tune.length}"):
            tune.apply(NETWORKS["gpt2"]()[0], seed=5)


def test_documents_after_vectors():
    """Segments, prefixes, spans of their own, and those that had the vectors before."""
    own_kd, vectors_kd = torch.ones(1, 2), torch.zeros(2, 2)
    batch = pack(
        [np.array([5, 6]), np.array([7, 8, 9])],
        past=[4, 0],
        segments=[np.array([0, 1]), np.array([1, 1, 0])],
        prefixes=[1, 2],
        vectors={1: [(1, own_kd)]},
    )
    found, rows = batch.after_vectors(vectors_kd, [False, True])
    assert found.cu_seqlens == (0, 2, 7) and rows == [0, 1, 4, 5, 6]
    assert found.tokens_n.tolist() == [5, 6, 0, 0, 7, 8, 9]
    assert found.positions_n.tolist() == [6, 7, 0, 1, 2, 3, 4]
    assert found.segments_n.tolist() == [0, 1, 0, 0, 1, 1, 0]
    assert found.prefixes == (3, 4) and found.documents == batch.documents
    assert [(row, len(each)) for row, each in found.vectors] == [(2, 2), (5, 1)]
    with pytest.raises(BadInput, match="order of factorisation"):
        pack([np.arange(2)], ranks=[np.arange(2)]).after_vectors(vectors_kd, [True])


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("hidden", [0, 4])
def test_a_prefix_is_attended_to_beside_the_documents_own_keys(name, hidden):
    """softmax over the prefix and the visible keys, written out for one document."""
    network, _ = NETWORKS[name]()
    Prefix(length=3, hidden=hidden).apply(network, seed=5)
    generator = torch.Generator().manual_seed(4)
    op = next(each for each in network.modules() if isinstance(each, PrefixAttention))
    for each in op.own:
        getattr(op, each).data.normal_(generator=generator)
    n, heads, causal = 5, op.setting.heads, op.setting.mask == "causal"
    x_nd = torch.randn(n, op.width, dtype=torch.float64, generator=generator)
    k, v = op.prefix_k, op.prefix_v
    if hidden:
        more = torch.tanh(op.prefix_z @ op.prefix_a) @ op.prefix_b
        k_more, v_more = (part.view(3, heads, -1).transpose(0, 1) for part in more.chunk(2, dim=1))
        k, v = k + k_more, v + v_more
    parts = [part.view(n, heads, -1).transpose(0, 1) for part in op.qkv(x_nd).chunk(3, dim=1)]
    scores = parts[0] @ torch.cat([k, parts[1]], 1).transpose(1, 2) * op.setting.scale
    if causal:
        after = torch.ones(n, n).triu(1).bool()
        scores[:, :, 3:] = scores[:, :, 3:].masked_fill(after, -torch.inf)
    mixed = scores.softmax(-1) @ torch.cat([v, parts[2]], 1)
    wanted = op.out(mixed.transpose(0, 1).flatten(1))
    context = ForwardContext(pack([np.arange(n)]))
    torch.testing.assert_close(op(x_nd, context), wanted)


def test_a_prefix_begins_as_keys_and_values_of_tokens_by_the_seed():
    found = []
    for seed in (1, 1, 2):
        network, _ = NETWORKS["llama"]()
        plain = Prefix(length=4).read_drawn_tokens(network, seed)
        Prefix(length=4).apply(network, seed)
        own = [each for each in network.modules() if isinstance(each, PrefixAttention)]
        assert len(own) == 3
        for each in own:
            k, v = plain.read(each.name, slice(0, 1), 4)
            assert torch.equal(each.prefix_k, k[0]) and torch.equal(each.prefix_v, v[0])
        found.append(own[0].prefix_k)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("tune", ["prefix", "prompt"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_trace_is_of_a_documents_own_tokens(tune, name):
    network, batch = applied(tune, name)
    trace = Trace(attention=True)
    with torch.no_grad():
        hidden_nd = network.hidden(batch, trace=trace)
    (states,) = trace.states.values()
    assert all(len(each) == len(batch.tokens_n) for each in states)
    assert torch.equal(states[-1], hidden_nd)
    for weights in trace.attention_weights.values():
        assert [each.shape[1:] for each in weights] == [(n, n) for n in batch.lengths()]


@pytest.mark.parametrize("tune", ["prefix", "prompt"])
def test_two_streams_in_an_order_of_factorisation_are_refused(tune):
    network = build(xlnet.FAMILY.generation_spec(NETWORKS["xlnet"]()[0].spec))
    with pytest.raises(BadInput, match=f"tune is {tune}, and the network"):
        TUNES[tune].apply(network, seed=5)


@pytest.mark.parametrize("tune", ["prefix", "prompt", "p-tuning", "adapters", "ia3"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_batches_that_documents_leave_and_join_go_on_as_alone(tune, name):
    """As the engine decodes: greedy, with a KV cache, in changing company."""
    network, _ = applied(tune, name)
    learnt(tune, network)
    texts = [np.array([7, 8, 9]), np.array([10, 11]), np.array([12, 13, 14, 15])]
    sources = [np.array([20, 21, 22]), np.array([23]), np.array([24, 25])]
    encodes, pool = len(network.streams) > 1, network.new_pool()

    def state_of(places: list[int]) -> DecodingState:
        own = [sources[p] for p in places] if encodes else None
        return DecodingState(network, len(places), own, pool)

    def greedy(place: int) -> list[int]:
        state, new, found = state_of([place]), texts[place], []
        for _ in range(4):
            found.append(int(state.append([new])[0].argmax()))
            new = np.array([found[-1]])
        return found

    state, other = state_of([0, 1]), state_of([2])
    logits = state.append(texts[:2])
    found = [[int(row.argmax())] for row in logits]
    found.append([int(other.append([texts[2]])[0].argmax())])
    state.join(other)
    for step in range(3):
        if step == 1:
            state.leave([1])
        going = [0, 1, 2] if step < 1 else [0, 2]
        logits = state.append([np.array([found[place][-1]]) for place in going])
        for place, row in zip(going, logits, strict=True):
            found[place].append(int(row.argmax()))
    for place in range(3):
        assert found[place] == greedy(place)[: len(found[place])], place


@pytest.mark.parametrize(("tune", "name"), [pair for pair in PAIRS if pair[1] in SOME])
def test_on_another_device_it_meets_no_tensor_of_the_cpu_and_gives_the_same(tune, name):
    (here, batch), (there, _) = applied(tune, name), applied(tune, name)
    for network in (here, there):
        learnt(tune, network)
        network.requires_grad_(True)
    wanted = loss_and_gradients(here, batch)
    with pretend_device():
        found = loss_and_gradients(moved(there), batch)
    torch.testing.assert_close(found[0].held, wanted[0], rtol=1e-9, atol=1e-10)
    assert found[1].keys() == wanted[1].keys()
    for path, gradient in found[1].items():
        torch.testing.assert_close(gradient.held, wanted[1][path], rtol=1e-6, atol=1e-9, msg=path)
    if here.is_causal_lm and len(here.streams) == 1:
        wanted = passes_with_a_cache(here)
        with pretend_device():
            torch.testing.assert_close(passes_with_a_cache(there).held, wanted)


@torch.no_grad()
def passes_with_a_cache(network: Network) -> torch.Tensor:
    """Next-token logits of two documents after two passes."""
    cache = Cache(2)
    network.next(pack([np.array([5, 6]), np.array([7, 8, 9])], order=range(2)), cache)
    return network.next(pack([np.array([3]), np.array([4])], order=range(2), past=[2, 3]), cache)
