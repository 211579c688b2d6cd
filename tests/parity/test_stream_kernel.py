"""Attention through a kernel over the whole stream: the same as the loop over documents.

No GPU is used: a stand-in by the formula takes the place of CUDA's kernel and checks what it is
given; of the real one the signature is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lmwright.models.blocks import attention
from lmwright.models.blocks.attention import Attention, attend_stream, stream_kernel
from lmwright.models.blocks.context import Cache, Trace
from lmwright.models.core import spec
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.network.network import Network
from tests.parity.networks import NETWORKS


class StandIn:
    """The kernel by the formula, one document at a time, with the alignment of flash attention."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float,
        window_size: tuple[int, int],
        enable_gqa: bool,
        num_splits: int,
    ) -> Tensor:
        self.calls += 1
        assert query.dtype == key.dtype == value.dtype == torch.float32
        assert num_splits == 1 and enable_gqa == (query.shape[1] != key.shape[1])
        for cu, most, rows in ((cu_seq_q, max_q, query), (cu_seq_k, max_k, key)):
            assert cu.dtype == torch.int32 and cu[0] == 0 and cu[-1] == len(rows)
            assert most == int(cu.diff().max())
        found = []
        ends = zip(cu_seq_q.tolist(), cu_seq_k.tolist(), strict=True)
        first_q, first_k = next(ends)
        for last_q, last_k in ends:
            q, k, v = query[first_q:last_q], key[first_k:last_k], value[first_k:last_k]
            k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for each in (k, v))
            scores_mqs = torch.einsum("qmh,smh->mqs", q, k) * scale
            # The last query stands at the last key.
            back = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
            before, after = window_size
            hidden = torch.zeros_like(back, dtype=torch.bool)
            hidden |= (back > before) & (before >= 0)
            hidden |= (-back > after) & (after >= 0)
            weights = torch.softmax(scores_mqs.masked_fill(hidden, -torch.inf), dim=-1)
            found.append(torch.einsum("mqs,smh->qmh", weights, v))
            first_q, first_k = last_q, last_k
        return torch.cat(found)


@pytest.fixture
def stand_in(monkeypatch) -> Iterator[StandIn]:
    """The stand-in, for every device and any width of heads."""
    found = StandIn()
    monkeypatch.setattr(attention, "stream_kernel", lambda device, precision: found)
    monkeypatch.setattr(attention, "KERNEL_WIDTHS", 1)
    yield found


def fitting(network: Network) -> int:
    """Attentions without a bias, a softcap or another mask than the two."""
    found = [each.setting for each in network.modules() if isinstance(each, Attention)]
    return sum(
        isinstance(each.positions, spec.Rotary | None)
        and not each.logit_softcap
        and each.mask in ("full", "causal")
        for each in found
    )


def outcome(network: Network, batch: Any, dropout_rng: DropoutRNG | None = None) -> list[Tensor]:
    """Logits, and the gradients of all weights."""
    network.zero_grad()
    logits = network(batch, dropout_rng)
    logits.square().mean().backward()
    return [logits.detach(), *(each.grad for each in network.parameters() if each.grad is not None)]


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("distilbert", 2),  # full
        ("llama", 3),  # causal, grouped keys, rotary positions
        ("mistral", 3),  # a causal window
        ("gemma3_text", 3),  # both, and norms of heads
        ("bart", 8),  # full, causal and cross
        ("t5", 3),  # biases: its cross-attention alone
        ("bloom", 0),
        ("xlnet", 0),
    ],
)
def test_a_network_through_the_kernel_is_that_of_the_loop(name, calls, stand_in, monkeypatch):
    network, batch = NETWORKS[name]()
    network.float()
    found = outcome(network, batch)
    assert stand_in.calls == calls == fitting(network)
    monkeypatch.setattr(attention, "stream_kernel", lambda device, precision: None)
    for one, other in zip(found, outcome(network, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert stand_in.calls == calls


def test_a_window_both_ways_is_that_of_the_loop(stand_in, monkeypatch):
    setting = spec.Attention(heads=4, kv_heads=2, head_width=8, scale=0.3, window=3)
    texts = [torch.randn(length, 4, 8) for length in (5, 1, 9)]
    batch = pack([each[:, 0, 0].long().numpy() for each in texts], order=range(3))
    q = torch.cat(texts)
    k, v = q[:, :2] + 1, q[:, 2:] - 1
    found = attend_stream(stand_in, q, k, v, (batch, batch), setting, torch.float32)
    for start, stop in batch.spans():
        own = q[start:stop], *(each[start:stop].repeat_interleave(2, dim=1) for each in (k, v))
        back = torch.arange(stop - start)
        bias = torch.zeros(len(back), len(back))
        bias[(back[:, None] - back).abs() >= 3] = -torch.inf
        weights = attention.attention_weights(
            *(each.transpose(0, 1) for each in own[:2]), bias, setting.scale, 0.0
        )
        wanted = (weights @ own[2].transpose(0, 1)).transpose(0, 1)
        torch.testing.assert_close(found[start:stop], wanted)


def test_what_the_kernel_cannot_do_goes_to_the_loop(stand_in):
    network, batch = NETWORKS["llama"]()
    network = network.float()
    many = fitting(network)
    network(batch)
    assert stand_in.calls == many
    with torch.inference_mode():
        network.next(batch, Cache(len(batch.documents)))  # keys of former tokens lie in blocks
        assert stand_in.calls == many
        network.next(batch, None)  # in the last layer a causal query is not at its place
        assert stand_in.calls == 2 * many - 1
        network.hidden(batch, trace=Trace(attention=True))
        assert stand_in.calls == 2 * many - 1
        network.hidden(batch, trace=Trace())
    assert stand_in.calls == 3 * many - 1
    for each in network.modules():
        if isinstance(each, Attention):
            each.setting = replace(each.setting, dropout=0.5)
    network(batch)
    assert stand_in.calls == 4 * many - 1
    network(batch, DropoutRNG(0, 0))
    for each in network.modules():
        if isinstance(each, Attention):
            each.setting = replace(each.setting, logit_softcap=30.0)
    network(batch)
    assert stand_in.calls == 4 * many - 1


def test_the_kernel_is_chosen_by_device_and_precision_and_takes_what_it_is_given():
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    cuda = torch.device("cuda")
    assert stream_kernel(cuda, torch.bfloat16) is varlen.varlen_attn
    assert stream_kernel(cuda, torch.float32) is None
    assert stream_kernel(torch.device("cpu"), torch.bfloat16) is None
    setting = spec.Attention(heads=4, kv_heads=2, head_width=8, scale=1.0, mask="causal", window=4)
    q, k = torch.empty(7, 4, 8, device="meta"), torch.empty(7, 2, 8, device="meta")
    batch = pack([torch.arange(length).numpy() for length in (3, 4)])
    found = attend_stream(varlen.varlen_attn, q, k, k, (batch, batch), setting, torch.bfloat16)
    assert found.shape == q.shape and found.dtype == torch.float32
