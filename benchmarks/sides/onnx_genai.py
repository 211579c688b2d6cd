"""ONNX Runtime GenAI: the folder by its own model builder, products at accuracy level 4.

At that level activations are in int8 in blocks of 32, as the weights are.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.side import Tick

PACKAGES = {
    "onnxruntime_genai": "onnxruntime-genai",
    "onnxruntime": "onnxruntime",
    "onnx_ir": "onnx-ir",
}
PRECISIONS = ("fp32", "int8", "int4")


def prepare(folder: Path, made: Path, precision: str, threads: int) -> None:
    """Build the graph, and note the bytes of the weights that a step reads."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-e", "cpu"]
    extra = [] if precision == "fp32" else ["--extra_options", "accuracy_level=4", "block_size=32"]
    paths = ["-i", str(folder), "-o", str(made), "-c", str(made / "cache")]
    subprocess.run([*command, *paths, "-p", precision, *extra], check=True)
    import onnx_ir

    graph = onnx_ir.load(made / "model.onnx").graph
    read = {
        value.name: value.const_value.nbytes
        for node in graph
        if node.op_type not in ("Gather", "GatherBlockQuantized")
        for value in node.inputs
        if value is not None and value.const_value is not None
    }
    (made / "bytes.json").write_text(json.dumps(sum(read.values())))


class Writer:
    """A generator for each request."""

    def __init__(
        self, folder: Path, made: Path, precision: str, threads: int, asked: dict[str, Any]
    ) -> None:
        import onnxruntime_genai

        self.api = onnxruntime_genai
        config = onnxruntime_genai.Config(str(made))
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.model = onnxruntime_genai.Model(config)
        self.weight_bytes = json.loads((made / "bytes.json").read_text())
        self.settings = {"precision": precision, "accuracy_level": 4, "block_size": 32, **options}
        if precision == "fp32":
            self.settings = {"precision": precision, **options}

    def write(self, prompts: list[list[int]], new: int, tick: Tick) -> list[list[int]]:
        """Greedy tokens after each prompt."""
        params, longest = self.api.GeneratorParams(self.model), len(prompts[0]) + new
        params.set_search_options(
            batch_size=len(prompts), max_length=longest, min_length=longest, do_sample=False
        )
        generator = self.api.Generator(self.model, params)
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        for _ in range(new):
            generator.generate_next_token()
            tick()
        rows = [generator.get_sequence(row) for row in range(len(prompts))]
        return [list(map(int, row[len(prompts[0]) :])) for row in rows]
