"""Contrastive search (Su et al. 2022): likely tokens that are unlike what went before."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.models.blocks.context import Cache
from lmwright.models.blocks.pages import Pool
from lmwright.models.core.ragged import Ragged, pack
from lmwright.models.decode import CausalLM, SampledToken, process_logits, require_finite
from lmwright.models.network.network import Batch, Network
from lmwright.text.generation import SamplingParams


def contrastive_search(
    network: CausalLM, prompt: np.ndarray, params: SamplingParams, source: np.ndarray | None = None
) -> Iterator[SampledToken]:
    """Continue a prompt token by token: those of :func:`contrastive_steps`."""
    steps = contrastive_steps(network, prompt, params, source)
    return (token for token in steps if token is not None)


def contrastive_steps(
    network: CausalLM,
    prompt: np.ndarray,
    params: SamplingParams,
    source: np.ndarray | None = None,
    pool: Pool | None = None,
    piece: int = sys.maxsize,
) -> Iterator[SampledToken | None]:
    """A contrastive search, a pass of the network at a time (Su et al. 2022, equation 5): None for
    each ``piece`` of the prompt that was read, then the tokens.

    Of the ``top_k`` likeliest tokens that one is taken whose probability, weighed 1 - alpha, less
    the greatest cosine of its hidden state with those of all tokens before it, weighed alpha, is
    greatest. Keys and values are in the ``pool``, if one is given. BadInput as
    :func:`network_with_states` has it.
    """
    network = network_with_states(network)
    cache, ids = Cache(1, network.new_pool() if pool is None else pool), prompt
    parts: list[Tensor] = []
    for at in range(0, len(prompt), piece):
        hidden_nd = read(network, [prompt[at : at + piece]], at, cache, source)
        parts.append(F.normalize(hidden_nd, dim=-1))
        yield None
    known_nd = torch.cat(parts)
    logits_v = logits_of(network, hidden_nd[-1:])[0]
    for length in range(params.max_new_tokens):
        raw_v = require_finite(logits_v[None])[0]
        allowed_v = process_logits(raw_v, ids, length, params)
        likely, tokens = torch.softmax(allowed_v.double(), -1).topk(params.top_k)
        tokens = tokens[likely > 0]
        branch = cache.chosen([0] * len(tokens))
        each = [np.array([token]) for token in tokens.tolist()]
        hidden_kd = read(network, each, len(ids), branch, source)
        unit_kd = F.normalize(hidden_kd, dim=-1)
        likeness_k = (unit_kd @ known_nd.T).amax(-1).double().cpu()
        alpha = params.penalty_alpha
        best = int(((1 - alpha) * likely[likely > 0] - alpha * likeness_k).argmax())
        token = int(tokens[best])
        yield SampledToken(token, raw_v)
        if token in params.stop_ids:
            return
        branch.choose([best])
        cache, ids = branch, np.append(ids, token)
        known_nd = torch.cat([known_nd, unit_kd[best : best + 1]])
        logits_v = logits_of(network, hidden_kd[best : best + 1])[0]


def network_with_states(network: CausalLM) -> Network:
    """The network; BadInput for one of another library, whose hidden states are not known."""
    if not isinstance(network, Network) or network.two_streams:
        raise BadInput(
            "contrastive search by this network", "one whose hidden states are known", "use top_k"
        )
    return network


@torch.inference_mode()
def read(
    network: Network, tokens: list[np.ndarray], past: int, cache: Cache, source: np.ndarray | None
) -> Tensor:
    """The hidden states (n, d) of new tokens of each document, in the documents' order."""
    order = range(len(tokens))
    stream: Ragged = pack(tokens, order=order, past=[past] * len(tokens))
    batch: Batch = stream
    if source is not None and len(network.streams) > 1:
        encoder, decoder = network.streams
        batch = {encoder: pack([source] * len(tokens), order=order), decoder: stream}
    return network.hidden(batch, None, cache)


@torch.inference_mode()
def logits_of(network: Network, hidden_nd: Tensor) -> Tensor:
    """The next-token logits (n, vocabulary) of hidden states, on the CPU."""
    assert network.head is not None  # of a causal language model
    one = pack([np.zeros(len(hidden_nd), dtype=np.int64)])
    found: Tensor = network.head(hidden_nd, one, None)
    return found.cpu()
