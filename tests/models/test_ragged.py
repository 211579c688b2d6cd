"""The packed stream: what a document gives does not depend on its company."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmwright.models.blocks import AttendWithNoise, attend, attend_one
from lmwright.models.network import Network, build, initialise
from lmwright.models.ragged import Noise, pack
from lmwright.models.spec import Head
from lmwright.models.zoo.bert import spec

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
    made = build(spec(CONFIG), Head(pool="mean", dense=True, dropout=0.3, outputs=3))
    initialise(made, seed=1)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(10)
    return made.double()


def random_qkv(rows: int, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rows, 3 * width, dtype=torch.float64, generator=generator)


def test_packing_keeps_every_document_whole(documents):
    batch = pack(documents, NAMES)
    assert [stop - start for start, stop in batch.spans()] == sorted(LENGTHS)
    for place, name, (start, stop) in zip(batch.order, batch.documents, batch.spans(), strict=True):
        assert batch.tokens_n[start:stop].tolist() == documents[place].tolist()
        assert batch.positions_n[start:stop].tolist() == list(range(LENGTHS[place]))
        assert name == NAMES[place]
    assert batch.as_packed(torch.tensor(batch.order)).tolist() == list(range(len(LENGTHS)))
    assert [len(group.documents) for group in batch.groups()] == [1, 1, 3, 1]


def test_attention_equals_the_one_document_reference(documents):
    batch = pack(documents)
    qkv = random_qkv(len(batch.tokens_n))
    mixed = attend(qkv, batch.groups(), heads=4, scale=0.7)
    for start, stop in batch.spans():
        q, k, v = qkv[start:stop].chunk(3, dim=1)
        wanted = attend_one(q, k, v, heads=4, scale=0.7)
        torch.testing.assert_close(mixed[start:stop], wanted, rtol=1e-12, atol=1e-13)


def test_attention_with_noise_equals_its_formula(documents):
    """softmax(scale q k) times the mask, times v: one document and head at a time."""
    batch = pack(documents, NAMES)
    qkv, noise = random_qkv(len(batch.tokens_n)), Noise(4, 5)
    masks = [noise.weights(group, 4, qkv, 0.4, 6) for group in batch.groups()]
    mixed = AttendWithNoise.apply(qkv, batch.groups(), 4, 0.7, masks)
    for document, (start, stop) in zip(batch.documents, batch.spans(), strict=True):
        mask = np.empty(4 * (stop - start) ** 2)
        noise.fill(mask, 0.4, 6, document)
        kept = torch.from_numpy(mask).view(4, stop - start, stop - start)
        for head in range(4):
            q, k, v = (part[:, 4 * head : 4 * head + 4] for part in qkv[start:stop].chunk(3, 1))
            wanted = (torch.softmax(0.7 * q @ k.T, dim=-1) * kept[head]) @ v
            torch.testing.assert_close(mixed[start:stop, 4 * head : 4 * head + 4], wanted)


def test_the_written_out_gradient_is_right(documents):
    batch, noise = pack(documents[:4]), Noise(1, 2)
    qkv = random_qkv(len(batch.tokens_n), width=8).requires_grad_()

    def run(x: torch.Tensor) -> torch.Tensor:
        masks = [noise.weights(group, 2, x, 0.3, 1) for group in batch.groups()]
        return AttendWithNoise.apply(x, batch.groups(), 2, 0.9, masks)

    assert torch.autograd.gradcheck(run, (qkv,))


def test_packed_equals_alone_with_dropout_on(network, documents):
    noise = Noise(seed=3, step=17)
    together = network(pack(documents, NAMES), noise)
    alone = [network(pack([ids], [name]), noise) for ids, name in zip(documents, NAMES)]  # noqa: B905
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-11, atol=1e-12)
    assert not torch.allclose(together, network(pack(documents, NAMES)))


def test_gradients_packed_equal_those_alone_with_dropout_on(network, documents):
    noise = Noise(seed=3, step=17)
    network(pack(documents, NAMES), noise).square().sum().backward()
    packed = {name: weight.grad.clone() for name, weight in network.named_parameters()}
    network.zero_grad()
    for ids, name in zip(documents, NAMES, strict=True):
        network(pack([ids], [name]), noise).square().sum().backward()
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.grad, packed[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    "other", [Noise(3, 18), Noise(4, 17)], ids=["another step", "another seed"]
)
def test_noise_depends_on_seed_and_step(network, documents, other):
    batch = pack(documents, NAMES)
    assert not torch.allclose(network(batch, Noise(3, 17)), network(batch, other))


def test_noise_depends_on_document_and_site():
    masks = np.empty((3, 4000), dtype=np.float32)
    for row, (site, document) in zip(masks, [(1, 5), (2, 5), (1, 6)], strict=True):
        Noise(0, 0).fill(row, 0.5, site, document)
    for one, other in ((0, 1), (0, 2)):
        assert 0.45 < (masks[one] == masks[other]).mean() < 0.55


def test_noise_has_the_stated_rate_and_mean():
    mask = np.empty(1_000_003, dtype=np.float32)
    Noise(1, 1).fill(mask, 0.1, 3, 2**127)
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
    head = Head(pool="mean", dense=True, dropout=0.0, outputs=3)
    one, other = build(spec(CONFIG), head), build(spec({**CONFIG, "num_hidden_layers": 1}), head)
    initialise(one, 5)
    initialise(other, 5)
    for name, weight in other.named_parameters():
        assert torch.equal(weight, one.get_parameter(name))


@pytest.mark.parametrize("noise", [None, Noise(seed=3, step=17)], ids=["plain", "dropout"])
def test_a_head_on_first_tokens_needs_no_others_at_the_end(documents, noise):
    """The rows that nobody reads are let go: same logits, same gradients as with all of them."""
    network = build(spec(CONFIG), Head(pool="first", dense=True, dropout=0.3, outputs=3))
    initialise(network, seed=1)
    network.double()
    batch = pack(documents, NAMES)
    gradients = []
    for give in (network, lambda *each: network.look(*each)[0]):
        logits = give(batch, noise)
        logits.square().sum().backward()
        gradients.append([logits.detach(), *(weight.grad for weight in network.parameters())])
        network.zero_grad()
    assert len(network.stacks["encoder"].firsts(batch)[0]) == len(documents) < len(batch.tokens_n)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)
