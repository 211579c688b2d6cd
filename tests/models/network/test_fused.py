"""The fused stack computes what the modules do; a document's bits depend on it alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.kernels.library import available
from lmwright.models.blocks.context import Cache
from lmwright.models.blocks.pages import PAGE
from lmwright.models.core.device import Placement
from lmwright.models.core.ragged import Ragged, pack
from lmwright.models.decode import DecodingState
from lmwright.models.network.fused import FusedStack
from lmwright.models.network.network import Network
from tests.parity.networks import NETWORKS

pytestmark = pytest.mark.skipif(
    not available(), reason="this machine lacks a C compiler, by which the kernels are built"
)

PRECISIONS = ("int8", "int4")
FUSED = {
    *("bert", "distilbert", "roberta", "xlm-roberta", "xlm", "megatron"),
    *("openai-gpt", "gpt2", "llama", "mistral", "qwen2", "gemma3_text"),
}
"""Families whose networks have to be fused whole."""
LENGTHS = (5, 1, 33, 70, 17)


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["fp32", "int8"])
def kv(request: pytest.FixtureRequest) -> str:
    return request.param


def placed(name: str, precision: str = "int8", kv: str = "fp32") -> tuple[Network, Ragged]:
    network, batch = NETWORKS[name]()
    network.float().eval()
    network.place(Placement("cpu", precision, kv))  # type: ignore[arg-type]
    return network, batch


def unfused(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Tensor]) -> Tensor:
    with monkeypatch.context() as patched:
        patched.setattr(FusedStack, "fits", lambda *_: False)
        return run()


def texts(network: Network, lengths=LENGTHS, seed: int = 0) -> list[np.ndarray]:
    vocabulary = network.spec.stacks[0].embedding.vocabulary
    rng = np.random.default_rng(seed)
    longest = network.longest or max(lengths)
    return [rng.integers(0, vocabulary, min(length, longest)) for length in lengths]


def assert_close(one: Tensor, other: Tensor) -> None:
    """Equal but for numbers that fall on the edge of two quants, now on one side, now the other."""
    distance, size = (one - other).abs(), float(other.abs().max())
    assert float(distance.max()) < 0.05 * size
    assert float(distance.median()) < 2e-3 * size


@torch.inference_mode()
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_pass_is_that_of_the_modules(name: str, precision: str, monkeypatch: pytest.MonkeyPatch):
    network, batch = placed(name, precision)
    found = network(batch)
    fused = network.fused is not None and not network.fused.unfit
    assert fused or name not in FUSED, network.fused
    assert_close(found, unfused(monkeypatch, lambda: network(batch)))


def decoded(network: Network, prompts: list[np.ndarray], steps: int = 6) -> Tensor:
    state, rng = DecodingState(network, len(prompts)), np.random.default_rng(2)
    found = [state.append(prompts)]
    for _ in range(steps):
        new = [rng.integers(0, 20, 1) for _ in prompts]
        found.append(state.append(new))
    return torch.stack(found)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text"])
def test_a_step_with_a_cache_is_that_of_the_modules(
    name: str, precision: str, kv: str, monkeypatch: pytest.MonkeyPatch
):
    network, _ = placed(name, precision, kv)
    prompts = texts(network, (5, 1, 9))
    found = decoded(network, prompts)
    assert network.fused is not None
    assert not network.fused.unfit
    assert_close(found, unfused(monkeypatch, lambda: decoded(network, prompts)))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "gemma3_text"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_documents_states_do_not_depend_on_its_company(name: str, precision: str, threads: int):
    network, _ = placed(name, precision)
    documents, before = texts(network), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        batch = pack(documents)
        together = batch.by_document(network.hidden(batch))
        for document, states in zip(documents, together, strict=True):
            assert torch.equal(network.hidden(pack([document])), states)
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text"])
def test_a_text_is_continued_alike_alone_and_beside_others(name: str, precision: str, kv: str):
    network, _ = placed(name, precision, kv)
    prompts = texts(network, (5, 1, 9))

    def steps(those: list[np.ndarray]) -> Tensor:
        state = DecodingState(network, len(those))
        state.append(those)
        return torch.stack([state.append([np.array([n])] * len(those)) for n in range(6)])

    together = steps(prompts)
    for place, prompt in enumerate(prompts):
        assert torch.equal(steps([prompt])[:, 0], together[:, place])


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_text_gives_the_same_bits_in_whatever_pieces_it_is_read(
    name: str, precision: str, kv: str, threads: int
):
    """Whole, token by token, in uneven pieces, and behind a beginning that another text shares."""
    network, _ = placed(name, precision, kv)
    (text,), before = texts(network, (150,)), torch.get_num_threads()
    (rest,) = texts(network, (7,), seed=1)
    most, cut = len(text), len(text) - 9

    def logits(*cuts: int) -> Tensor:
        state = DecodingState(network, 1)
        return [state.append([text[a:b]]) for a, b in pairwise((0, *cuts, most))][-1]

    torch.set_num_threads(threads)
    try:
        wanted = logits()
        assert torch.equal(logits(*range(1, most)), wanted)
        assert torch.equal(logits(1, 3, most // 2, most - 1), wanted)
        state = DecodingState(network, 1)
        state.append([text[:cut]])
        state.select([0, 0])
        assert torch.equal(state.append([text[cut:], rest])[:1], wanted)
        other = DecodingState(network, 1)
        assert torch.equal(other.append([np.concatenate([text[:cut], rest])]), logits_of(state, 1))
    finally:
        torch.set_num_threads(before)


def logits_of(state: DecodingState, place: int) -> Tensor:
    """The logits after a document of a state, by a state that reads it anew token by token."""
    alone = DecodingState(state.network, 1)
    return [alone.append([ids]) for ids in np.split(state.ids[place], len(state.ids[place]))][-1]


@torch.inference_mode()
def test_documents_that_leave_and_join_keep_their_keys(kv: str):
    network, _ = placed("llama", "int8", kv)
    one, two, three = texts(network, (5, 3, 9))
    alone = DecodingState(network, 1)
    alone.append([two])
    wanted = [alone.append([np.array([n])])[0] for n in range(6)]
    pool = network.new_pool()
    state, other = (DecodingState(network, count, pool=pool) for count in (2, 1))
    state.append([one, two])
    other.append([three])
    found = [state.append([np.array([n])] * 2)[1] for n in range(2)]
    state.join(other)
    found += [state.append([np.array([n])] * 3)[1] for n in range(2, 4)]
    state.leave([0])
    found += [state.append([np.array([n])] * 2)[0] for n in range(4, 6)]
    assert torch.equal(torch.stack(found), torch.stack(wanted))


def test_weights_that_change_are_packed_anew(precision: str):
    def tripled(network: Network) -> None:
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(3)

    network, batch = placed("gpt2", precision)
    fresh, _ = placed("gpt2", precision)
    tripled(fresh)
    with torch.inference_mode():
        before = network(batch)
    tripled(network)
    with torch.inference_mode():
        after = network(batch)
        assert not torch.equal(before, after)
        assert torch.equal(after, fresh(batch))


@torch.inference_mode()
def test_states_with_no_number_stay_those_of_their_own_document():
    network, _ = placed("gpt2")
    documents = texts(network, (4, 6))
    batch = pack(documents)
    whole = batch.by_document(network.hidden(batch))
    table = network.stacks["decoder"].embedding.tokens.weight
    vectors = torch.full((1, table.shape[1]), torch.nan)
    broken = pack(documents, vectors={0: [(3, vectors)]})
    found = broken.by_document(network.hidden(broken))
    assert found[0][3:].isnan().all()
    assert torch.equal(found[1], whole[1])


def test_a_gradient_goes_through_the_modules(precision: str):
    network, _ = placed("gpt2", precision)
    width = network.spec.stacks[0].width
    vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    document = texts(network, (6,))[0]
    network(pack([document], vectors={0: [(1, vectors)]})).square().sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.abs().min() > 0


@torch.inference_mode()
def test_a_copy_makes_its_own(precision: str):
    network, batch = placed("llama", precision)
    wanted = network(batch)
    other = copy.deepcopy(network)
    assert other.fused is None
    assert torch.equal(other(batch), wanted)


@torch.inference_mode()
def test_threads_may_ask_one_network_at_once():
    network, _ = placed("llama")
    documents = texts(network, (9, 40, 17, 60, 3, 25))
    wanted = [network.hidden(pack([ids])) for ids in documents]
    network.place(
        Placement("cpu", "int8")
    )  # so that what they share is made anew, by several at once

    def hidden(ids: np.ndarray) -> Tensor:
        with torch.inference_mode():
            return network.hidden(pack([ids]))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(hidden, documents * 8))
    assert all(torch.equal(*pair) for pair in zip(found, wanted * 8, strict=True))


@torch.inference_mode()
def test_a_cache_of_another_kind_goes_through_the_modules():
    class Other(Cache):
        pass

    network, _ = placed("llama")
    documents = texts(network, (4, 6))
    logits = network.next(pack(documents, order=range(2)), Other(2))
    assert_close(logits, network.next(pack(documents, order=range(2)), Cache(2)))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text"])
def test_keys_in_int8_cost_little_and_take_a_quarter(name: str):
    network, _ = placed(name)
    prompts = texts(network, (5, 1, 9))
    wanted = decoded(network, prompts)
    network.place(Placement("cpu", "int8", "int8"))
    found = decoded(network, prompts)
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.02
    state = DecodingState(network, 1)
    state.append([prompts[0]])
    assert state.cache is not None
    own, plain = state.cache.pool.attentions, Cache(1)
    network.next(pack([prompts[0]], order=range(1)), plain)
    for entry, pages in plain.pool.attentions.items():
        assert own[entry].k.dtype == own[entry].v.dtype == torch.int8
        assert own[entry].k.shape[1:] == pages.k.shape[1:]
        assert {each.shape for each in own[entry].scales} == {(*pages.k.shape[:2], PAGE)}
        k, v = state.cache.read(entry, slice(0, 1), 5)
        wanted_k, wanted_v = plain.read(entry, slice(0, 1), 5)
        if entry == min(own):  # later layers read what earlier ones rounded
            for kept, exact in ((k, wanted_k), (v, wanted_v)):
                step = exact.abs().amax(-1, keepdim=True) / 127
                assert ((kept - exact).abs() <= step * 0.501).all()


def test_a_network_that_keeps_no_keys_is_refused():
    network, _ = NETWORKS["bert"]()
    with pytest.raises(BadInput, match="kv is int8, and this network keeps no keys"):
        network.place(Placement("cpu", "int8", "int8"))
