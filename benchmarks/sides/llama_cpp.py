"""llama.cpp through its C interface, built for this processor, on GGUF files of the same weights.

int8 is Q8_0; int4 is Q4_0, which it repacks for the processor; ``q4_k_m`` is its mixture (of Gemma,
the published file). Greedy choice is numpy's argmax over its logits.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.side import Tick

PACKAGES = {"llama_cpp": "llama-cpp-python"}
PRECISIONS = ("fp32", "bf16", "int8", "int4", "q4_k_m")
FTYPES = {"int8": 7, "int4": 2, "q4_k_m": 15}
"""Precision -> llama.cpp's number of the file type that it is quantised to."""


def file_of(folder: Path, made: Path, precision: str) -> Path:
    """The GGUF file of a precision."""
    if precision == "q4_k_m" and (folder / "published.gguf").exists():
        return folder / "published.gguf"
    kept = {"fp32": folder / "f32.gguf", "bf16": folder / "bf16.gguf"}
    return kept.get(precision, made / "model.gguf")


def prepare(folder: Path, made: Path, precision: str, threads: int) -> None:
    """Quantise the fp32 file."""
    import llama_cpp

    file = file_of(folder, made, precision)
    if file.exists():
        return
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FTYPES[precision], threads
    source = str(folder / "f32.gguf").encode()
    if llama_cpp.llama_model_quantize(source, str(file).encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp did not quantise {source!r}")


class Writer:
    """A context with room for all prompts of a request."""

    def __init__(
        self, folder: Path, made: Path, precision: str, threads: int, asked: dict[str, Any]
    ) -> None:
        import llama_cpp

        self.api = llama_cpp
        llama_cpp.llama_backend_init()
        file = file_of(folder, made, precision)
        model = llama_cpp.llama_model_load_from_file(
            str(file).encode(), llama_cpp.llama_model_default_params()
        )
        rows = len(asked["prompts"]) if asked["claim"] == "decode" else 1
        longest = len(asked["prompts"][0]) + asked["new"]
        params = llama_cpp.llama_context_default_params()
        params.n_threads = params.n_threads_batch = threads
        params.n_seq_max, params.n_ctx = rows, rows * (-(-longest // 256) * 256)
        params.n_batch = max(512, rows * len(asked["prompts"][0]))
        self.context = llama_cpp.llama_init_from_model(model, params)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.weight_bytes = llama_cpp.llama_model_size(model)
        self.batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        system = llama_cpp.llama_print_system_info().decode()
        self.settings = {
            "file": file.name if precision in ("fp32", "bf16") else precision,
            "threads": threads,
            "n_ubatch": params.n_ubatch,
            "flash_attn_type": params.flash_attn_type,
            "built": " ".join(part.strip() for part in system.split("|") if "= 1" in part),
        }

    def write(self, prompts: list[list[int]], new: int, tick: Tick) -> list[list[int]]:
        """Greedy tokens after each prompt."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)
        written = [[token] for token in self.step(prompts, 0)]
        for past in range(len(prompts[0]), len(prompts[0]) + new - 1):
            tick()
            for row, token in enumerate(self.step([row[-1:] for row in written], past)):
                written[row].append(token)
        tick()
        return written

    def step(self, rows: list[list[int]], past: int) -> list[int]:
        """Append tokens to each sequence, of ``past`` tokens: the greedy next one of each."""
        batch, last = self.batch, []
        batch.n_tokens = sum(map(len, rows))
        place = 0
        for row, tokens in enumerate(rows):
            for offset, token in enumerate(tokens):
                batch.token[place], batch.pos[place] = token, past + offset
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
                batch.logits[place] = offset == len(tokens) - 1
                place += 1
            last.append(place - 1)
        if self.api.llama_decode(self.context, batch):
            raise SystemExit("llama.cpp did not decode")
        return [int(self.logits(at).argmax()) for at in last]

    def logits(self, at: int) -> np.ndarray:
        """The logits at a place of the last batch."""
        pointer = self.api.llama_get_logits_ith(self.context, at)
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary,))
