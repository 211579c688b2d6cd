"""OpenVINO GenAI: the folder exported by optimum-intel, weights compressed by nncf.

int8 has a scale and a zero a row, int4 is symmetric in groups of 64 with the table, which is the
head too, in int8 (nncf's default for it). Products of compressed weights take activations in int8
in groups (dynamic quantization, on by default), all else is in the precision of the hint; the KV
cache is in u8 (default) except in fp32.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.side import Tick

PACKAGES = {
    "openvino": "openvino",
    "openvino_genai": "openvino-genai",
    "openvino_tokenizers": "openvino-tokenizers",
    "optimum.intel": "optimum-intel",
    "nncf": "nncf",
}
PRECISIONS = ("fp32", "bf16", "int8", "int4")
FORMATS = {
    "fp32": ("fp32",),
    "bf16": ("fp16",),
    "int8": ("int8",),
    "int4": ("int4", "--sym", "--group-size", "64", "--ratio", "1.0"),
}


def prepare(folder: Path, made: Path, precision: str, threads: int) -> None:
    """Export the folder with its weights compressed."""
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino"]
    task = ["--model", str(folder), "--task", "text-generation-with-past"]
    subprocess.run([*command, *task, "--weight-format", *FORMATS[precision], str(made)], check=True)


class Writer:
    """``LLMPipeline``, given token ids."""

    def __init__(
        self, folder: Path, made: Path, precision: str, threads: int, asked: dict[str, Any]
    ) -> None:
        import openvino_genai

        self.settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
            "ATTENTION_BACKEND": "SDPA",
        }
        if precision == "fp32":
            self.settings["KV_CACHE_PRECISION"] = "f32"
        self.pipeline = openvino_genai.LLMPipeline(str(made), "CPU", **self.settings)
        self.settings["weights"] = " ".join(FORMATS[precision])
        self.weight_bytes = (made / "openvino_model.bin").stat().st_size

    def write(self, prompts: list[list[int]], new: int, tick: Tick) -> list[list[int]]:
        """Greedy tokens after each prompt."""
        import openvino
        import openvino_genai

        ids = np.array(prompts, dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(
            openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids))
        )
        found = self.pipeline.generate(
            inputs,
            max_new_tokens=new,
            ignore_eos=True,
            do_sample=False,
            # It shows the steps of one text alone.
            **({"streamer": ticking(tick)} if len(prompts) == 1 else {}),
        )
        return [list(map(int, each)) for each in found.tokens]


def ticking(tick: Tick) -> Any:
    """A streamer that decodes no text and tells of each step."""
    import openvino_genai

    class Streamer(openvino_genai.StreamerBase):  # type: ignore[misc]
        def write(self, token: Any) -> Any:
            tick()
            return openvino_genai.StreamingStatus.RUNNING

        def end(self) -> None:
            pass

    return Streamer()
