"""Two streams against the reference: an order of factorisation, and targets to be foretold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmwright.models.family import to_ours
from lmwright.models.network import build, fill
from lmwright.models.ragged import pack
from lmwright.models.zoo.xlnet import FAMILY, two_streams
from tests.parity.harness import Case, in_double, reference, tensors_of

pytest.importorskip("transformers")

CONFIG = {
    "vocab_size": 61,
    "d_model": 24,
    "n_layer": 3,
    "n_head": 4,
    "d_inner": 36,
    "layer_norm_eps": 1e-3,
}
CASE = Case(FAMILY, "XLNetLMHeadModel", CONFIG, "lm")


def test_the_query_stream_equals_the_reference():
    model, rng = reference(CASE), np.random.default_rng(3)
    setting = two_streams(FAMILY.spec(CASE.settings))
    head, names = FAMILY.heads["lm"](CASE.settings, setting)
    network = build(setting, head)
    fill(network, to_ours([*FAMILY.weights(setting), *names], tensors_of(CASE, model)))
    texts = [rng.integers(4, 61, length) for length in (9, 4, 6, 4)]
    orders = [rng.permutation(len(text)) for text in texts]
    targets = [rng.permutation(len(text))[: 1 + len(text) // 3] for text in texts]
    order = list(range(len(texts)))
    batch = {
        "content": pack(texts, order=order, ranks=orders),
        "query": pack(
            [text[own] for text, own in zip(texts, targets, strict=True)],
            order=order,
            positions=targets,
            ranks=[ranks[own] for ranks, own in zip(orders, targets, strict=True)],
        ),
    }
    with torch.no_grad():
        found = batch["query"].by_document(network(batch))
        for text, ranks, own, ours in zip(texts, orders, targets, found, strict=True):
            hidden = torch.from_numpy(ranks[None, :] >= ranks[:, None])[None].double()
            mapping = torch.zeros(1, len(own), len(text), dtype=torch.float64)
            mapping[0, range(len(own)), own] = 1
            with in_double(True):
                wanted = model(
                    torch.from_numpy(text)[None], perm_mask=hidden, target_mapping=mapping
                ).logits[0]
            torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-10)


def test_segments_equal_the_reference():
    model, rng = reference(CASE), np.random.default_rng(4)
    setting = FAMILY.spec(CASE.settings)
    head, names = FAMILY.heads["lm"](CASE.settings, setting)
    network = build(setting, head)
    fill(network, to_ours([*FAMILY.weights(setting), *names], tensors_of(CASE, model)))
    texts = [rng.integers(4, 61, length) for length in (9, 4, 9)]
    segments = [np.sort(rng.integers(0, 2, len(text))) for text in texts]
    batch = pack(texts, segments=segments)
    with torch.no_grad():
        for text, own, ours in zip(texts, segments, batch.by_document(network(batch)), strict=True):
            with in_double(True):
                ids, kinds = torch.from_numpy(text)[None], torch.from_numpy(own)[None]
                wanted = model(ids, token_type_ids=kinds).logits[0]
            torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-10)
