"""A span of the stream given as vectors is read as the tokens that have them, with gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lmwright.models.core.ragged import Ragged, pack
from lmwright.models.network.network import Batch, Network
from tests.parity import harness, test_decoders, test_families
from tests.parity.networks import NETWORKS


def as_vectors(network: Network, batch: Ragged, name: str) -> Ragged:
    """Two spans of a stack's stream as vectors: of its second and its last document."""
    embedding = network.stacks[name].embedding
    spans = [(start, stop) for start, stop in (list(batch.spans())[1], list(batch.spans())[-1])]
    spans[1] = spans[1][0] + 1, spans[1][1] - 1
    ids = batch.tokens_n.clone()
    vectors = []
    for start, stop in spans:
        scale = embedding.setting.scale
        found = embedding.tokens.weight[batch.tokens_n[start:stop]].detach() * scale
        vectors.append((start, found.requires_grad_()))
        ids[start:stop] = 0
    return replace(batch, tokens_n=ids, vectors=tuple(vectors))


def streams(batch: Batch) -> list[Ragged]:
    return [batch] if isinstance(batch, Ragged) else list(batch.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_vectors_of_the_ids_give_the_logits_of_the_ids(name):
    network, batch = NETWORKS[name]()
    first = network.spec.stacks[0].name
    given: Batch = (
        as_vectors(network, batch, first)
        if isinstance(batch, Ragged)
        else {stack: as_vectors(network, each, stack) for stack, each in batch.items()}
    )
    with torch.no_grad():
        wanted, next_wanted = network(batch), network.next(batch, None)
        assert torch.equal(network.next(given, None), next_wanted)
    found = network(given)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    found.square().sum().backward()
    for stream in streams(given):
        for _, vectors_kd in stream.vectors:
            assert (vectors_kd.grad != 0).any(dim=1).all()
    table = network.stacks[first].embedding.tokens.weight
    if isinstance(batch, Ragged) and network.head.out.weight is not table:
        read = given.tokens_n[~in_spans(given)].unique()
        others = torch.ones(len(table), dtype=torch.bool).index_fill(0, read, False)
        assert not table.grad[others].any()


def in_spans(batch: Ragged) -> torch.Tensor:
    """True for the rows that are given as vectors."""
    found = torch.zeros(len(batch.tokens_n), dtype=torch.bool)
    for first, vectors_kd in batch.vectors:
        found[first : first + len(vectors_kd)] = True
    return found


EMBEDS = {
    "bert": test_families.CASES["bert"],
    "gpt2": test_families.CASES["gpt2"],
    "gemma3": test_decoders.CASES["gemma3"],
    "bloom": test_decoders.CASES["bloom"],
    "bart, scaled": test_families.CASES["bart, scaled"],
}
"""With positions, a scale, a norm of the tokens."""


@pytest.mark.parametrize("name", EMBEDS)
def test_vectors_are_read_as_the_reference_reads_inputs_embeds(name):
    case = EMBEDS[name]
    model = harness.reference(case)
    network = harness.ours(case, model)
    text = harness.documents(case)[0]
    generator = torch.Generator().manual_seed(1)
    vectors_nd = torch.randn(
        len(text), network.spec.stacks[0].width, dtype=torch.float64, generator=generator
    )
    batch: Batch = pack([text], vectors={0: [(0, vectors_nd)]})
    given = {"inputs_embeds": vectors_nd[None], **case.given}
    if case.pairs:
        given["decoder_input_ids"] = torch.from_numpy(text)[None]
        names = [stack.name for stack in network.spec.stacks]
        batch = dict(zip(names, (batch, pack([text])), strict=True))
    with torch.no_grad(), harness.in_double(on=True):
        wanted = model(**given).logits[0]
        torch.testing.assert_close(network(batch), wanted, rtol=1e-7, atol=1e-8)


def test_a_soft_prompt_lowers_the_loss_of_a_fixed_model():
    network, _ = NETWORKS["llama"]()
    texts = harness.documents(test_families.CASES["llama"])
    network.requires_grad_(requires_grad=False)
    generator, width = torch.Generator().manual_seed(2), network.spec.stacks[0].width
    prompt_kd = torch.randn(4, width, dtype=torch.float64, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([prompt_kd], lr=0.1)
    whole = [torch.cat([torch.zeros(4).long(), torch.from_numpy(text)]).numpy() for text in texts]
    losses = []
    for _ in range(30):
        batch = pack(whole, vectors={j: [(0, prompt_kd)] for j in range(len(whole))})
        logits = batch.by_document(network(batch))
        loss = torch.stack(
            [
                F.cross_entropy(each[3:-1], torch.from_numpy(text))
                for each, text in zip(logits, texts, strict=True)
            ]
        ).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    assert all(weight.grad is None for weight in network.parameters())
