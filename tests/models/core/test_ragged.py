"""The packed stream: what a document gives does not depend on its company."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch

from lmwright.core.errors import BadInput
from lmwright.models.blocks.attention import AttendWithDropout, Attention
from lmwright.models.blocks.build import BuildContext
from lmwright.models.blocks.context import ForwardContext, Trace
from lmwright.models.core import spec
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import Group, pack
from lmwright.models.core.spec import Dense, Head
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import Network, build
from lmwright.models.zoo import bert

CONFIG = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "hidden_dropout_prob": 0.3,
    "attention_probs_dropout_prob": 0.2,
}
LENGTHS = (5, 1, 12, 5, 3, 5)
NAMES = (7, 2**100 + 1, 9, 2**64, 3, 1)


@pytest.fixture
def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 50, length) for length in LENGTHS]


@pytest.fixture
def network() -> Network:
    """A small classifier with wide weights, in fp64."""
    made = build(
        bert.spec(CONFIG),
        Head(pool="mean", dense=Dense(outputs=16, activation="tanh"), dropout=0.3, outputs=3),
    )
    initialise(made, seed=1)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(10)
    return made.double()


def test_packing_keeps_every_document_whole(documents):
    batch = pack(documents, NAMES)
    assert [stop - start for start, stop in batch.spans()] == sorted(LENGTHS)
    for place, name, (start, stop) in zip(batch.order, batch.documents, batch.spans(), strict=True):
        assert batch.tokens_n[start:stop].tolist() == documents[place].tolist()
        assert batch.positions_n[start:stop].tolist() == list(range(LENGTHS[place]))
        assert name == NAMES[place]
    assert batch.as_packed(torch.tensor(batch.order)).tolist() == list(range(len(LENGTHS)))
    assert [len(group.documents) for group in batch.groups()] == [1, 1, 3, 1]


def test_vectors_stand_in_the_rows_of_their_documents(documents):
    own = [torch.full((2, 3), 1.0), torch.full((1, 3), 2.0), torch.full((5, 3), 3.0)]
    batch = pack(documents, NAMES, vectors={2: [(7, own[0]), (3, own[1])], 0: [(0, own[2])]})
    found = batch.with_vectors(torch.zeros(sum(LENGTHS), 3, dtype=torch.float64))
    parts = [each[:, 0].tolist() for each in batch.by_document(found)]
    assert parts[0] == [3.0] * 5
    assert parts[2] == [0.0] * 3 + [2.0] + [0.0] * 3 + [1.0] * 2 + [0.0] * 3
    assert not sum(sum(parts[j]) for j in (1, 3, 4, 5))
    assert found.dtype == torch.float64
    assert not batch.boundary_tokens(last=True).vectors


@pytest.mark.parametrize(
    "spans",
    [
        {0: [(4, torch.zeros(2, 3))]},
        {0: [(-1, torch.zeros(2, 3))]},
        {2: [(3, torch.zeros(2, 3)), (4, torch.zeros(1, 3))]},
        {1: [(0, torch.zeros(1))]},
        {6: [(0, torch.zeros(1, 3))]},
    ],
)
def test_vectors_that_have_no_place_are_refused(documents, spans):
    with pytest.raises(BadInput, match="vectors"):
        pack(documents, vectors=spans)


def test_vectors_of_another_width_are_refused(documents, network):
    with pytest.raises(BadInput, match="width"):
        network(pack(documents, vectors={0: [(0, torch.zeros(2, 3))]}))


def attention(
    dropout_rng: DropoutRNG | None = None, **fields
) -> tuple[Attention, ForwardContext, torch.Tensor]:
    """One attention of four heads in fp64, a pass over the documents, and their stream."""
    rng = np.random.default_rng(0)
    batch = pack([rng.integers(0, 50, length) for length in LENGTHS], NAMES)
    setting = spec_of_attention(**{"heads": 4, "kv_heads": 4, **fields})
    place = BuildContext("a.0.0", 16, {}, count(1), 0.0)
    made = Attention(setting, place).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(0, 0.4, generator=generator)
    x_nd = torch.randn(len(batch.tokens_n), 16, dtype=torch.float64, generator=generator)
    return made, ForwardContext(batch, dropout_rng), x_nd


def spec_of_attention(**fields) -> spec.Attention:
    return spec.Attention(head_width=4, scale=0.7, **fields)


def by_formula(made: Attention, batch, x_nd, seen, masks=None) -> torch.Tensor:
    """One document and head at a time: softmax(scale q k) over what ``seen`` says, times v."""
    setting, found = made.setting, []
    shared = setting.heads // setting.kv_heads
    for place, (start, stop) in enumerate(batch.spans()):
        q, k, v = made.qkv(x_nd[start:stop]).split(made.sizes, dim=1)
        columns = []
        for head in range(setting.heads):
            own = slice(4 * head, 4 * head + 4)
            other = slice(4 * (head // shared), 4 * (head // shared) + 4)
            scores = setting.scale * q[:, own] @ k[:, other].T
            places = torch.arange(stop - start)
            scores = scores.masked_fill(~seen(places[:, None], places[None]), -torch.inf)
            weights = torch.softmax(scores, dim=-1)
            if masks is not None:
                weights = weights * masks[place][head]
            columns.append(weights @ v[:, other])
        found.append(made.out(torch.cat(columns, dim=1)))
    return torch.cat(found)


MASKS = {
    "all": ({}, lambda q, k: q >= -1),
    "causal": ({"mask": "causal"}, lambda q, k: k <= q),
    "window": ({"mask": "causal", "window": 3}, lambda q, k: (k <= q) & (q - k < 3)),
    "both ways": ({"window": 2}, lambda q, k: (q - k).abs() < 2),
    "grouped": ({"mask": "causal", "kv_heads": 2}, lambda q, k: k <= q),
    "multi-query": ({"kv_heads": 1}, lambda q, k: q >= -1),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("noisy", [False, True], ids=["plain", "dropout"])
def test_attention_equals_its_formula(name, noisy):
    fields, seen = MASKS[name]
    dropout_rng = DropoutRNG(4, 5) if noisy else None
    made, context, x_nd = attention(dropout_rng, **fields, dropout=0.4)
    masks = []
    for document, length in zip(context.batch.documents, context.batch.lengths(), strict=True):
        mask = np.empty(4 * length**2)
        DropoutRNG(4, 5).fill_mask(mask, 0.4, made.dropout_id, document)
        masks.append(torch.from_numpy(mask).view(length, 4, length).transpose(0, 1))
    wanted = by_formula(made, context.batch, x_nd, seen, masks if noisy else None)
    torch.testing.assert_close(made(x_nd, context), wanted, rtol=1e-10, atol=1e-12)


def test_attention_maps_are_those_of_the_formula_and_a_masked_head_gives_nothing():
    made, context, x_nd = attention(mask="causal")
    plain = made(x_nd, context)
    context.trace = Trace(attention=True)
    torch.testing.assert_close(made(x_nd, context), plain, rtol=1e-10, atol=1e-12)
    for weights, length in zip(
        context.trace.attention_weights["a.0.0"], context.batch.lengths(), strict=True
    ):
        assert weights.shape == (4, length, length)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        assert not weights.triu(1).any()
    context.trace = Trace(head_factors={"a.0.0": torch.tensor([1.0, 0.0, 1.0, 1.0])})
    masked = made(x_nd, context)
    made.out.weight.data[:, 4:8] = 0
    context.trace = None
    torch.testing.assert_close(masked, made(x_nd, context), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(masked, plain)


@pytest.mark.parametrize(
    "added", [None, torch.zeros(1, 1, 3, 3).triu(1) - 1e30 * torch.ones(3, 3).triu(1)]
)
def test_the_written_out_gradient_is_right(added):
    generator = torch.Generator().manual_seed(3)
    parts = [
        torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=generator).requires_grad_()
        for _ in range(3)
    ]

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        group = Group(0, 3, (5, 2**100), 0, 0, 3)
        mask = DropoutRNG(1, 2).attention_weight_mask(group, 2, q, 0.3, 1)
        return AttendWithDropout.apply(q, k, v, added, 0.9, mask)

    assert torch.autograd.gradcheck(run, parts)


def test_packed_equals_alone_with_dropout_on(network, documents):
    dropout_rng = DropoutRNG(seed=3, step=17)
    together = network(pack(documents, NAMES), dropout_rng)
    alone = [network(pack([ids], [name]), dropout_rng) for ids, name in zip(documents, NAMES)]  # noqa: B905
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-11, atol=1e-12)
    assert not torch.allclose(together, network(pack(documents, NAMES)))


def test_gradients_packed_equal_those_alone_with_dropout_on(network, documents):
    dropout_rng = DropoutRNG(seed=3, step=17)
    network(pack(documents, NAMES), dropout_rng).square().sum().backward()
    packed = {name: weight.grad.clone() for name, weight in network.named_parameters()}
    network.zero_grad()
    for ids, name in zip(documents, NAMES, strict=True):
        network(pack([ids], [name]), dropout_rng).square().sum().backward()
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.grad, packed[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    "other", [DropoutRNG(3, 18), DropoutRNG(4, 17)], ids=["another step", "another seed"]
)
def test_dropout_depends_on_seed_and_step(network, documents, other):
    batch = pack(documents, NAMES)
    assert not torch.allclose(network(batch, DropoutRNG(3, 17)), network(batch, other))


def test_dropout_depends_on_document_and_dropout_id():
    masks = np.empty((3, 4000), dtype=np.float32)
    for row, (dropout_id, document) in zip(masks, [(1, 5), (2, 5), (1, 6)], strict=True):
        DropoutRNG(0, 0).fill_mask(row, 0.5, dropout_id, document)
    for one, other in ((0, 1), (0, 2)):
        assert 0.45 < (masks[one] == masks[other]).mean() < 0.55


def test_dropout_has_the_stated_rate_and_mean():
    mask = np.empty(1_000_003, dtype=np.float32)
    DropoutRNG(1, 1).fill_mask(mask, 0.1, 3, 2**127)
    # Five standard deviations of a mean of a million draws.
    assert abs((mask == 0).mean() - 0.1) < 5 * (0.09 / 1e6) ** 0.5
    assert np.unique(mask).tolist() == [0.0, np.float32(1 / 0.9)]


def test_a_table_gradient_is_the_same_step_after_step(network, documents):
    """The buffer that steps share holds what a fresh one would."""
    table = network.stacks["encoder"].embedding.tokens.weight
    network(pack(documents[:3])).square().sum().backward()
    network.zero_grad()
    network(pack(documents[3:])).square().sum().backward()
    reused = table.grad.clone()
    network.zero_grad()
    network.stacks["encoder"].embedding.gradient.buffer = None
    network(pack(documents[3:])).square().sum().backward()
    assert torch.equal(reused, table.grad)
    assert reused.abs().sum() > 0


def test_fresh_weights_depend_on_their_names_only():
    head = Head(pool="mean", dense=Dense(outputs=16, activation="tanh"), dropout=0.0, outputs=3)
    one, other = (
        build(bert.spec(CONFIG), head),
        build(bert.spec({**CONFIG, "num_hidden_layers": 1}), head),
    )
    initialise(one, 5)
    initialise(other, 5)
    for name, weight in other.named_parameters():
        assert torch.equal(weight, one.get_parameter(name))


@pytest.mark.parametrize(
    "dropout_rng", [None, DropoutRNG(seed=3, step=17)], ids=["plain", "dropout"]
)
def test_a_head_on_first_tokens_needs_no_others_at_the_end(documents, dropout_rng):
    """The rows that nobody reads are let go: same logits, same gradients as with all of them."""
    network = build(
        bert.spec(CONFIG),
        Head(pool="first", dense=Dense(outputs=16, activation="tanh"), dropout=0.3, outputs=3),
    )
    initialise(network, seed=1)
    network.double()
    batch = pack(documents, NAMES)
    gradients = []
    for give in (network, lambda *each: network.logits_and_hidden(*each)[0]):
        logits = give(batch, dropout_rng)
        logits.square().sum().backward()
        gradients.append([logits.detach(), *(weight.grad for weight in network.parameters())])
        network.zero_grad()
    ends = network.boundary_states(batch, dropout_rng, None, last=False)[0]
    assert len(ends) == len(documents) < len(batch.tokens_n)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)
