"""lmwright by its public interface: a published folder, placed in a precision, and asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.side import Tick
from lmwright.core.random import stream
from lmwright.models.core.device import Placement, Precision
from lmwright.models.decode import generate
from lmwright.models.files.folder import read_folder
from lmwright.models.text_model import from_published, language_model
from lmwright.text.generation import SamplingParams

PACKAGES = {"torch": "torch"}
PRECISIONS = tuple(each for each in get_args(Precision) if each != "auto")
BITS = {"fp32": 32, "bf16": 16, "int8": 8, "int4": 4}
SEED = 0


class Writer:
    """The reference decoder, or what ``generate`` runs in its place."""

    def __init__(
        self, folder: Path, made: Path, precision: str, threads: int, asked: dict[str, Any]
    ) -> None:
        torch.set_num_threads(threads)
        self.network = language_model(read_folder(folder)).network
        count = sum(each.numel() for each in self.network.parameters())
        self.weight_bytes = count * BITS[precision] // 8
        self.network.place(Placement("cpu", precision))  # type: ignore[arg-type]
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
