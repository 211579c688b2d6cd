"""Networks as wholes: what is shared is one, what is let go is not missed, specs come back."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.models.blocks.context import Cache, Trace
from lmwright.models.core import spec
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import order_of_pairs, pack
from lmwright.models.core.spec import (
    Attention,
    Embedding,
    FeedForward,
    Head,
    ModelSpec,
    Norm,
    Stack,
    Sublayer,
    read_head,
    read_spec,
)
from lmwright.models.network.network import Network, build, fill, parameter_count

NORM, WIDTH = Norm(eps=1e-3), 12
LENGTHS, NAMES = (5, 1, 12, 5, 3), (7, 2**100 + 1, 9, 2**64, 3)
HEAD = Head(pool="none", outputs=50, share="tokens")
ATTENTION = Attention(heads=4, kv_heads=2, head_width=3, scale=0.5, dropout=0.2)
FORWARD = FeedForward(inner=20, activation="gelu", inner_dropout=True)
OPS: dict[str, Any] = {
    "attention": ATTENTION,
    "causal": replace(ATTENTION, mask="causal", window=3),
    "recurrent": spec.Recurrent(cell="gru", hidden=6, bidirectional=True),
    "convolution": spec.Convolution(widths=(2, 3), channels=6, activation="relu"),
    "parallel": spec.Parallel(
        branches=(
            spec.Branch(
                pre_norm=NORM, op=replace(ATTENTION, positions=spec.Rotary(base=9, width=2))
            ),
            spec.Branch(pre_norm=None, op=FORWARD),
        )
    ),
    "experts": spec.Experts(experts=3, top_k=2, inner=5, activation="silu"),
    "feed-forward": FORWARD,
}


def texts(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 50, length) for length in lengths]


def stack(*ops: Any, name: str = "decoder", **fields: Any) -> Stack:
    """A layer for each op, each with a feed-forward after it."""
    layers = tuple(
        tuple(
            Sublayer(op=op, pre_norm=NORM, dropout=0.2, stochastic_depth=0.2)
            for op in (each, FORWARD)
        )
        for each in ops
    )
    known = {
        "embedding": Embedding(vocabulary=50, positions=20, dropout=0.2, share="tokens"),
        "norm": NORM,
    }
    return Stack(**{"name": name, "width": WIDTH, "layers": layers, **known, **fields})


def weights(network: Network, seed: int = 1) -> dict[str, Tensor]:
    """A wide value for every weight, in fp64."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(each.shape, generator=generator, dtype=torch.float64) * 0.4
        for name, each in network.named_parameters()
    }


def drawn(setting: ModelSpec, head: Head | None = HEAD) -> Network:
    made = build(setting, head)
    fill(made, weights(made))
    return made


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


def test_a_built_network_has_shapes_and_no_values():
    network = build(ModelSpec(stacks=(stack(ATTENTION),)), HEAD)
    assert all(weight.is_meta for weight in network.parameters())


def test_filling_copies_nothing_and_leaves_the_rest():
    network = build(ModelSpec(stacks=(stack(ATTENTION),)), HEAD)
    values = weights(network)
    left = "stacks.decoder.layers.0.1.op.up.weight"
    fill(network, {**{n: v for n, v in values.items() if n != left}, "of.another": values[left]})
    for name, weight in network.named_parameters():
        if name == left:
            assert weight.is_meta
        else:
            assert weight.data_ptr() == values[name].data_ptr()
            assert weight.requires_grad
    assert network.head.out.weight is network.stacks["decoder"].embedding.tokens.weight
    fill(network, {left: values[left]})
    assert not any(weight.is_meta for weight in network.parameters())


SHARED = spec.T5Bias(buckets=8, max_distance=10, bidirectional=True, share="distances")
TIED = ModelSpec(
    stacks=(
        stack(replace(ATTENTION, positions=SHARED), ATTENTION, name="one"),
        stack(
            replace(ATTENTION, positions=SHARED),
            replace(ATTENTION, cross_attends="one"),
            name="two",
        ),
    )
)
TWINS = ModelSpec(
    stacks=(
        stack(ATTENTION, ATTENTION, name="one"),
        stack(
            *[replace(ATTENTION, cross_attends="one", each_layer=True)] * 2,
            name="two",
            weights_of="one",
            embedding=Embedding(vocabulary=50, share="other"),
        ),
    )
)


def untied(setting: ModelSpec) -> ModelSpec:
    """The same with each weight for itself."""

    def change(part: Any) -> Any:
        if hasattr(part, "weights_of"):
            part = replace(part, weights_of="")
        return replace(part, share="") if hasattr(part, "share") else part

    return spec.with_parts(setting, change)


@pytest.mark.parametrize(("setting", "shared"), [(TIED, 3), (TWINS, 25)], ids=["keys", "layers"])
def test_shared_weights_are_one_and_get_the_sum_of_their_gradients(setting, shared):
    network = drawn(setting)
    plain = build(untied(setting), replace(HEAD, share=""))
    values = dict(network.named_parameters(remove_duplicate=False))
    fill(plain, {name: value.detach().clone() for name, value in values.items()})
    own = dict(plain.named_parameters())
    assert len(own) == len(values) == len(dict(network.named_parameters())) + shared
    assert parameter_count(plain) == sum(weight.numel() for weight in values.values())
    assert (
        parameter_count(network)
        == sum(weight.numel() for weight in network.parameters())
        < parameter_count(plain)
    )
    batch, dropout_rng = pack(texts(), NAMES), DropoutRNG(1, 2)
    given = [each(batch, dropout_rng) for each in (network, plain)]
    close(*given)
    for each in given:
        each.square().sum().backward()
    sums: dict[int, Any] = {}
    for name, weight in values.items():
        if own[name].grad is not None:
            sums[id(weight)] = sums.get(id(weight), 0.0) + own[name].grad
    for weight in network.parameters():
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, sums.pop(id(weight)), rtol=1e-8, atol=1e-9)
    assert not sums


@pytest.mark.parametrize("dropout_rng", [None, DropoutRNG(3, 17)], ids=["plain", "dropout"])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("op", OPS)
def test_ends_equal_rows_of_the_whole_pass(op, last, dropout_rng):
    """Whichever op is the last that mixes tokens, if there is one at all."""
    network = drawn(ModelSpec(stacks=(stack(OPS[op], OPS["experts"], output_dropout=True),)))
    batch = pack(texts(), NAMES)
    states, ends = network.boundary_states(batch, dropout_rng, None, last)
    whole = network.hidden(batch, dropout_rng)
    close(states, whole[batch.boundary_rows(last)])
    assert (ends.order, ends.documents) == (batch.order, batch.documents)
    pooled = Network(network.spec, Head(pool="last" if last else "first", outputs=3, dropout=0.3))
    own = {n: each for n, each in network.named_parameters() if n.startswith("stacks.")}
    fill(pooled, weights(pooled) | own)
    close(pooled(batch, dropout_rng), pooled.logits_and_hidden(batch, dropout_rng)[0])
    everything = network.logits_and_hidden(batch)[0]
    close(network.next(batch, None), torch.stack([r[-1] for r in batch.by_document(everything)]))


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_ends_that_read_another_stack_have_the_noise_of_the_whole_pass(last):
    network, dropout_rng = drawn(ModelSpec(stacks=PAIR)), DropoutRNG(3, 17)
    sources, targets = texts((2, 9, 4, 4, 1), 1), texts()
    order = order_of_pairs(sources, targets)
    batch = {
        "one": pack(sources, NAMES, order=order),
        "two": pack(targets, NAMES, order=order),
    }
    states, _ = network.boundary_states(batch, dropout_rng, None, last)
    close(states, network.hidden(batch, dropout_rng)[batch["two"].boundary_rows(last)])


PAIR = (
    stack(ATTENTION, name="one"),
    stack(replace(ATTENTION, mask="causal"), replace(ATTENTION, cross_attends="one"), name="two"),
)
GIVES = {
    "the last": {},
    "the first": {"outputs_from": ("one",)},
    "both": {"outputs_from": ("two", "one")},
    "mixed": {"scalar_mix": True},
    "both mixed": {
        "stacks": (stack(ATTENTION, ATTENTION, name="one"), PAIR[1]),
        "outputs_from": ("one", "two"),
        "scalar_mix": True,
    },
}


@pytest.mark.parametrize("pool", ["none", "first", "last"])
@pytest.mark.parametrize("name", GIVES)
def test_whatever_a_network_gives_its_head_reads(name, pool):
    """Also where the last stack alone would not do."""
    setting = ModelSpec(**{"stacks": PAIR, **GIVES[name]})
    network, batch = drawn(setting, Head(pool=pool, outputs=4)), pack(texts(), NAMES)
    hidden = network.hidden(batch)
    assert hidden.shape[1] == network.width == WIDTH * len(setting.output_stacks)
    if pool == "none":
        close(network(batch), network.head.out(hidden))
        found = network.next(batch, None)
        rows = batch.as_packed(hidden[batch.boundary_rows(last=True)])
    else:
        found = network(batch)
        rows = batch.as_packed(hidden[batch.boundary_rows(pool == "last")])
    close(found, network.head.out(rows))


def test_mixed_states_go_on_with_a_cache():
    forwards = stack(replace(ATTENTION, mask="causal"), spec.Recurrent(cell="gru", hidden=WIDTH))
    network, text = drawn(ModelSpec(stacks=(forwards,), scalar_mix=True)), texts((9,))[0]
    cache, whole = Cache(1), network(pack([text]))
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        found = network.next(pack([text[start:stop]], past=[start]), cache)
        close(found[0], whole[stop - 1])


def test_a_mix_is_the_softmax_of_its_weights_over_the_states():
    setting = ModelSpec(stacks=(stack(ATTENTION, ATTENTION),), scalar_mix=True)
    network, batch, trace = drawn(setting), pack(texts()), Trace()
    mixed = network.hidden(batch, trace=trace)
    states = trace.states["decoder"]
    exps = network.mix.exp()
    wanted = sum(e / exps.sum() * s for e, s in zip(exps, states, strict=True))
    close(mixed, network.mix_scale * wanted)


def test_noted_states_are_those_of_shorter_networks():
    """Before each layer, and at the end; of every stack, without a change of the result."""
    network, batch, trace = drawn(TIED), pack(texts(), NAMES), Trace()
    found = network.hidden(batch, trace=trace)
    close(found, network.hidden(batch))
    assert [len(trace.states[name]) for name in ("one", "two")] == [3, 3]
    close(trace.states["two"][-1], found)
    for place in range(3):
        shorter = list(TIED.stacks)
        cut = {"layers": TIED.stacks[0].layers[:place]} | ({} if place == 2 else {"norm": None})
        shorter[0] = replace(shorter[0], **cut)
        part = build(ModelSpec(stacks=(shorter[0],)))
        fill(part, dict(network.named_parameters()))
        close(part.hidden(batch), trace.states["one"][place])


def test_noted_maps_are_named_by_sublayer_and_branch():
    setting = ModelSpec(stacks=(stack(OPS["parallel"], OPS["causal"]), *PAIR))
    network, batch, trace = drawn(setting), pack(texts()), Trace(attention=True)
    close(network.hidden(batch, trace=trace), network.hidden(batch))
    assert list(trace.attention_weights) == [
        "decoder.0.0.0",
        "decoder.1.0",
        "one.0.0",
        "two.0.0",
        "two.1.0",
    ]
    for maps in trace.attention_weights.values():
        assert [each.shape for each in maps] == [(4, n, n) for n in batch.lengths()]
        for each in maps:
            close(each.sum(-1), torch.ones_like(each[..., 0]))


def test_maps_of_a_pair_go_from_target_to_source():
    network, trace = drawn(ModelSpec(stacks=PAIR)), Trace(attention=True)
    sources, targets = texts((2, 9, 4, 4, 1), 1), texts()
    order = order_of_pairs(sources, targets)
    batch = {"one": pack(sources, order=order), "two": pack(targets, order=order)}
    network.hidden(batch, trace=trace)
    sizes = [(4, len(targets[place]), len(sources[place])) for place in order]
    assert [each.shape for each in trace.attention_weights["two.1.0"]] == sizes


def test_the_loss_of_experts_comes_with_the_states():
    setting = replace(OPS["experts"], aux_loss_coef=0.5)
    network = drawn(ModelSpec(stacks=(stack(setting, setting),)))
    losses: list[Tensor] = []
    network.hidden(pack(texts()), aux_losses=losses)
    assert not losses
    network.hidden(pack(texts()), DropoutRNG(1, 2), aux_losses=losses)
    assert len(losses) == 2 and all(each > 0.4 for each in losses)


def test_a_network_without_a_head_says_so():
    network = drawn(ModelSpec(stacks=PAIR), None)
    for give in (network, network.logits_and_hidden, lambda batch: network.next(batch, None)):
        with pytest.raises(TypeError, match="no head"):
            give(pack(texts()))


def test_a_spec_knows_its_stacks_and_its_longest_text():
    setting = ModelSpec(stacks=PAIR)
    assert (setting.output_stacks, setting.longest) == (PAIR[1:], 20)
    assert replace(setting, context_length=9).longest == 9
    free = replace(PAIR[0], embedding=Embedding(vocabulary=50))
    assert ModelSpec(stacks=(free,)).longest is None
    late = replace(PAIR[0], embedding=Embedding(vocabulary=50, positions=20, first_position=2))
    assert ModelSpec(stacks=(late, PAIR[1])).longest == 18
    with pytest.raises(BadInput, match="no stack 'three'"):
        setting.stack("three")


def test_every_dropout_rate_is_set_and_nothing_else():
    setting = ModelSpec(stacks=(stack(*OPS.values()), *PAIR))
    said = json.dumps(setting.to_json())
    assert said.count('"dropout": 0.2') == said.count('"dropout"') > 20
    other = json.dumps(setting.with_dropout(0.7).to_json())
    assert other == said.replace('"dropout": 0.2', '"dropout": 0.7')


MODULES = ("families", "decoders", "encoders", "seq2seq")


@pytest.mark.parametrize("module", [*MODULES, "papers", "recurrent"])
def test_every_tiny_spec_and_head_comes_back_from_json(module):
    pytest.importorskip("transformers")
    found = import_module(f"tests.parity.test_{module}")
    if module == "recurrent":
        pairs = [(found.BOTH, None)]
    elif module == "papers":
        pairs = [(each.family.spec(each.config), None) for each in found.PAPERS.values()]
    else:
        harness = import_module("tests.parity.harness")
        pairs = [harness.specs(case) for case in found.CASES.values()]
    assert pairs
    for setting, head in pairs:
        assert read_spec(json.loads(json.dumps(setting.to_json())), "here") == setting
        if head is not None:
            value = json.loads(json.dumps(spec.asdict(head)))
            assert read_head(value, "here") == head


def broken(path: str, value: Any) -> dict[str, Any]:
    """The JSON of a spec with another value at a path; ... takes the field away."""
    made = json.loads(json.dumps(ModelSpec(stacks=PAIR, context_length=9).to_json()))
    *steps, last = path.split(".")
    at: Any = made
    for step in steps:
        at = at[int(step)] if step.isdigit() else at[step]
    if value is ...:
        del at[last]
    else:
        at[int(last) if last.isdigit() else last] = value
    return made


WRONG = {
    "stacks": [[], ..., None, 3, "x"],
    "stacks.1.width": ["wide", None, ..., 1.5, [3]],
    "stacks.0.depth": [3],
    "stacks.0.name": [..., 3],
    "stacks.0.embedding.vocabulary": [..., "many", {}, -1],
    "stacks.0.embedding.sinusoids": [{"interleaved": "perhaps"}, 5],
    "stacks.1.layers.0.0.op": [..., None, {"op": "convulsion"}, {"op": "attention"}, []],
    "stacks.1.layers.0.0.op.heads": [..., "four", None, 0],
    "stacks.1.layers.0.0.op.mask": ["nothing", 1],
    "stacks.1.layers.0.0.op.positions": [{"kind": "compass"}, {}, {"kind": "rotary"}],
    "stacks.1.layers.0.0.pre_norm.eps": ["small", None, ...],
    "stacks.1.layers.0.0.pre_norm.kind": ["batch"],
    "stacks.1.layers.0.0": [{}, None, [1, 2]],
    "context": ["long", None, {}],
    "outputs_from": ["one", 3],
    "code": ["import os"],
}


@pytest.mark.parametrize("path", WRONG)
def test_wrong_json_is_refused_with_the_field_named(path):
    for value in WRONG[path]:
        with pytest.raises(BadInput) as told:
            read_spec(broken(path, value), "folder/spec.json")
        words = [word for word in path.split(".") if not word.isdigit()]
        assert "folder/spec.json: " in str(told.value)
        assert all(word in str(told.value) for word in words[-2:]), (value, str(told.value))


UNFIT = {
    "stacks.1.layers.0.0.op.kv_heads": (3, "cannot share 3 kv_heads"),
    "stacks.1.name": ("one", "one name"),
    "stacks.1.weights_of": ("enkoder", "weights_of 'enkoder'"),
    "outputs_from": (["third"], "'third'"),
}


@pytest.mark.parametrize("path", UNFIT)
def test_parts_that_do_not_fit_one_another_are_refused(path):
    value, told = UNFIT[path]
    with pytest.raises(BadInput, match="folder/spec") as fault:
        read_spec(broken(path, value), "folder/spec.json")
    assert told in str(fault.value)


def test_a_stack_that_reads_a_later_one_or_none_is_refused():
    made = ModelSpec(stacks=PAIR).to_json()
    for stacks in (made["stacks"][::-1], made["stacks"][1:]):
        with pytest.raises(BadInput, match="no earlier stack"):
            read_spec({**made, "stacks": stacks}, "here")


@pytest.mark.parametrize("top", [0, 5])
def test_more_experts_than_there_are_are_refused(top):
    with pytest.raises(ValueError, match="of 4 experts"):
        spec.Experts(experts=4, top_k=top, inner=8, activation="silu")


@pytest.mark.parametrize("value", [None, [], 3, "spec", {}])
def test_what_is_no_spec_at_all_is_refused(value):
    with pytest.raises(BadInput, match="here: "):
        read_spec(value, "here")
    with pytest.raises(BadInput, match="here: "):
        read_head(value, "here")


def test_a_network_is_built_without_torchs_compiler():
    made = """
import sys
from lmwright.models.network.network import build
from lmwright.models.zoo import bert
build(bert.spec({"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1,
                 "num_attention_heads": 2, "intermediate_size": 9, "max_position_embeddings": 9}))
assert "torch" in sys.modules
assert "torch._dynamo" not in sys.modules, "it takes more than a second to load"
"""
    done = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
