"""What a precision costs a language model, and whether the bounded head ever chooses another token.

    python -m benchmarks.parity [--tokens 20000] [--states 100000]

Gemma 3 270M on whole reviews (IMDB), at most 1,024 tokens of each. For each precision the
divergence of its next-token distributions from those in fp32. For the head in int8 with a bound:
the states of the fp32 network (so that both heads are asked the same), the tokens that it would
choose beside those of the fp32 head, and how many rows of the table were multiplied again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.answer_models import GEMMA, reviews
from lmwright.kernels import library
from lmwright.machine.probe import cpu_class
from lmwright.models.core.bounded import MOST_STATES, BoundedProduct
from lmwright.models.core.device import DEFAULT
from lmwright.models.core.ragged import pack
from lmwright.models.loading import load_text_model
from lmwright.models.network.network import Network
from lmwright.models.parity import parity

PRECISIONS = ("int8", "int4", "bf16")


def main() -> None:
    """Print a line for each precision, and one for the head."""
    parser = argparse.ArgumentParser(description="what a precision costs a language model")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--states", type=int, default=100_000)
    parser.add_argument("--model", default=GEMMA)
    chosen = parser.parse_args()
    model = load_text_model(chosen.model, lambda line: None)
    texts = first_tokens(model.tokenizer.encode(reviews("imdb"), 1024), chosen.tokens)
    machine = {"class": cpu_class(), "kernels": library.variants()[:1] or library.reason()}
    for precision in PRECISIONS if chosen.tokens else ():
        found = parity(model.network, texts, precision).to_json()
        print(json.dumps({"name": f"parity {chosen.model}", **found, **machine}), flush=True)
    if chosen.states:
        more = first_tokens(model.tokenizer.encode(reviews("imdb"), 1024), chosen.states)
        print(json.dumps({**heads(model.network, more), **machine}), flush=True)


def first_tokens(texts: list[np.ndarray], count: int) -> list[np.ndarray]:
    """The first texts that have so many tokens together, the last one cut."""
    found, left = [], count
    for ids in texts:
        if left <= 0:
            break
        found.append(ids[:left])
        left -= len(ids)
    return found


@torch.inference_mode()
def heads(network: Network, texts: list[np.ndarray]) -> dict[str, object]:
    """The choices of the bounded head beside those of the fp32 head."""
    network.place(DEFAULT)
    head, bounded = network.head, BoundedProduct()
    assert head is not None
    assert head.out is not None
    other, off, began = 0, 0.0, time.perf_counter()
    for states_nd in states(network, texts):
        wanted = head.out(states_nd)
        found = bounded(states_nd, head.out.weight, None)
        differ = wanted.argmax(-1) != found.argmax(-1)
        other += int(differ.sum())
        if differ.any():  # two rows whose fp32 logits differ by rounding alone are a tie
            chosen = wanted.gather(1, found.argmax(-1, keepdim=True))[:, 0]
            off = max(off, float((wanted.amax(-1) - chosen)[differ].max()))
    return {
        "name": "bounded head, Gemma 3 270M",
        "states": bounded.states,
        "other_choices": other,
        "their_largest_distance": off,
        "rows_again_a_state": round(bounded.again / bounded.states, 2),
        "bytes_a_token": {"int8": head.out.weight.numel(), "fp32": 4 * head.out.weight.numel()},
        "minutes": round((time.perf_counter() - began) / 60, 1),
    }


def states(network: Network, texts: list[np.ndarray]) -> Iterator[torch.Tensor]:
    """The last states of the texts' tokens, some at a time."""
    assert network.head is not None
    for ids in texts:
        batch = pack([ids])
        hidden_nd = network.head.states(network.hidden(batch), batch, None)
        yield from hidden_nd.split(MOST_STATES)


if __name__ == "__main__":
    main()
