"""Each way to tune on a network of every family: what learns, what stays, what it begins as."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from lmwright.core.errors import BadInput
from lmwright.kernels.library import available
from lmwright.models.core.device import Placement
from lmwright.models.core.ragged import Ragged
from lmwright.models.decode import DecodingState
from lmwright.models.network.merge import merged, taken_apart
from lmwright.models.network.network import Network, fill, head_weights
from lmwright.models.tunes.adapters import Adapters
from lmwright.models.tunes.bitfit import BitFit, biases
from lmwright.models.tunes.freeze import Freeze, groups
from lmwright.models.tunes.ia3 import IA3
from lmwright.train.optimizers import SGD
from tests.parity.networks import NETWORKS
from tests.parity.test_lora import single

every = pytest.mark.parametrize("name", NETWORKS)
TUNES: dict[str, Any] = {
    "bitfit": BitFit(),
    "ia3": IA3(),
    "adapters": Adapters(width=3),
    "adapters, after the feed-forward alone": Adapters(width=3, place="feed_forward"),
}
"""Those that let weights of their own learn, and the head."""
NOTHING_TO_TUNE = {
    "bitfit": {"llama", "mistral", "gemma3_text", "mixtral", "t5", "palm", "lamda", "glam"},
    "ia3": {"elmo", "text cnn"},
    "adapters": {"elmo", "text cnn"},
    "adapters, after the feed-forward alone": {"elmo", "text cnn"},
}
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


LEAVES = re.compile(r"\.(ia3|(shrink|expand)\.(weight|bias))$")
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
        assert torch.equal(network(batch), plain)
        learnt(tune, network)
        assert not torch.allclose(network(batch), plain)


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


@pytest.mark.parametrize("tune", ["adapters"])
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
def in_int8(network: Network, batch: Any) -> tuple[float, float, Any]:
    """Differences from fp32, and from the modules in int8, in shares of the logits' size; the
    fused stack."""
    exact = network.float()(batch)
    network.place(Placement("cpu", "int8"))
    found, fused = network(batch), network.fused
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "fused_stack", lambda self, context: None)
        by_modules = network(batch)
    size = float(exact.square().mean().sqrt())
    return *(float((x - found).square().mean().sqrt()) / size for x in (exact, by_modules)), fused


@pytest.mark.parametrize("tune", TUNES)
@pytest.mark.parametrize("name", ["bert, classify", "qwen2"])
def test_the_fast_path_of_int8_answers_as_the_modules_do(tune, name):
    """The fused stack steps aside where a sublayer is not plain, and else agrees with them."""
    plain, batch = NETWORKS[name]()
    network, _ = applied(tune, name)
    learnt(tune, network)
    of_plain, _, _ = in_int8(plain, batch)
    of_tuned, apart, fused = in_int8(network, batch)
    assert apart < 1e-4 and of_tuned < max(3 * of_plain, 0.02)
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
    ("tune", "name"), [(tune, name) for tune, names in NOTHING_TO_TUNE.items() for name in names]
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
