"""lmwright by its public interface: a published model, placed in a precision, and asked.

``q4_k_m`` is the published GGUF file of the folder's model in int4, which takes its weights as they
stand there; ``int4`` has the folder's own in groups of four bits, and its table in int8.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.side import Tick
from lmwright.core.random import stream
from lmwright.models.core.device import PACKED, Placement, Precision
from lmwright.models.core.linear import linears
from lmwright.models.core.packed import PackedProduct
from lmwright.models.decode import generate
from lmwright.models.files.folder import read_folder
from lmwright.models.files.gguf_model import read_gguf_model
from lmwright.models.network.network import Network
from lmwright.models.text_model import from_published, language_model
from lmwright.text.generation import SamplingParams

PACKAGES = {"torch": "torch"}
PRECISIONS = (*(each for each in get_args(Precision) if each != "auto"), "q4_k_m")
BITS = {"fp32": 32, "bf16": 16}
FILE = "published.gguf"
SEED = 0


class Writer:
    """The reference decoder, or what ``generate`` runs in its place."""

    def __init__(
        self, folder: Path, made: Path, precision: str, threads: int, asked: dict[str, Any]
    ) -> None:
        torch.set_num_threads(threads)
        of_file = precision == "q4_k_m"
        published = read_gguf_model(folder / FILE) if of_file else read_folder(folder)
        self.network = language_model(published).network
        self.network.place(Placement("cpu", "int4" if of_file else precision))  # type: ignore[arg-type]
        self.weight_bytes = weight_bytes(self.network)
        self.settings = {"precision": precision, "threads": threads}

    def write(self, prompts: list[list[int]], new: int, tick: Tick) -> list[list[int]]:
        """Greedy tokens after each prompt."""
        ids = [np.array(prompt, dtype=np.int64) for prompt in prompts]
        params = SamplingParams(max_new_tokens=new)
        steps = []
        for step in generate(self.network, ids, params, stream(SEED, "greedy")):
            steps.append(step)
            tick()
        return [[step[row].id for step in steps] for row in range(len(ids))]


def weight_bytes(network: Network) -> int:
    """The bytes of weights that a step of decoding reads; of packed ones their scales too."""
    precision = network.placement.precision
    if precision not in PACKED:
        return sum(each.numel() for each in network.parameters()) * BITS[precision] // 8
    products = [(each.product, each.weight) for _, each in linears(network)]
    return sum(p.of(w).nbytes for p, w in products if isinstance(p, PackedProduct))


class Embedder:
    """A text model of the published encoder, asked for the mean hidden state of each text."""

    def __init__(
        self, folder: Path, made: Path, precision: str, threads: int, asked: dict[str, Any]
    ) -> None:
        torch.set_num_threads(threads)
        from lmwright.models.core.spec import Head

        self.model = from_published(
            read_folder(folder), Head(pool="mean", outputs=1), asked["longest"], SEED
        )
        self.model.network.place(Placement("cpu", precision))  # type: ignore[arg-type]
        self.settings = {"precision": precision, "threads": threads}

    def embed(self, texts: list[str]) -> np.ndarray:
        """The vectors of the texts, from texts: tokenised here, too."""
        return self.model.embed(self.model.tokens(texts))
