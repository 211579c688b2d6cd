"""sentence-transformers: its default (torch, fp32), torch in bf16, and its other back ends.

``openvino-`` ones go through optimum-intel (int8: weights and activations, calibrated by nncf on
other texts of the same kind), ``onnx-int8`` through ONNX Runtime (dynamic, for AVX-512 with VNNI).
All pad a batch to its longest text, after they sorted all texts by length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PACKAGES = {
    "sentence_transformers": "sentence-transformers",
    "torch": "torch",
    "optimum.intel": "optimum-intel",
    "openvino": "openvino",
    "optimum.onnxruntime": "optimum-onnx",
}
PRECISIONS = ("fp32", "bf16", "openvino-fp32", "openvino-bf16", "openvino-int8", "onnx-int8")
HINTS = {"openvino-fp32": "f32", "openvino-bf16": "bf16", "openvino-int8": "bf16"}
BATCH = 32
CALIBRATION = "calibration.json"
"""The file beside the model whose texts show nncf the ranges of activations."""


class Embedder:
    """A ``SentenceTransformer`` by one of its back ends."""

    def __init__(
        self, folder: Path, made: Path, precision: str, threads: int, asked: dict[str, Any]
    ) -> None:
        import sentence_transformers
        import torch

        torch.set_num_threads(threads)
        backend, _, form = precision.rpartition("-")
        more: dict[str, Any] = {}
        if precision == "bf16":
            more = {"dtype": torch.bfloat16}
        elif backend == "openvino":
            hints = {
                "INFERENCE_PRECISION_HINT": HINTS[precision],
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
            }
            more = {"ov_config": hints}
        elif backend == "onnx":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            more = {"provider": "CPUExecutionProvider", "session_options": options}
        source = made if backend else folder  # torch reads the folder itself
        if form == "int8":
            more["file_name"] = quantised(made)
        self.model = sentence_transformers.SentenceTransformer(
            str(source),
            backend=backend or "torch",  # type: ignore[arg-type]
            device="cpu",
            model_kwargs=more,
            local_files_only=True,
        )
        self.model.max_seq_length = asked["longest"]
        told = {key: str(value) for key, value in more.items() if key != "session_options"}
        self.settings = {"backend": backend or "torch", "batch": BATCH, "threads": threads, **told}

    def embed(self, texts: list[str]) -> Any:
        """The vectors of the texts."""
        found = self.model.encode(
            texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return found.astype("float32")


def quantised(made: Path) -> str:
    """The one file in ``made`` that holds a quantised model."""
    (found,) = (each for each in made.rglob("*int8*") if each.suffix in (".onnx", ".xml"))
    return str(found.relative_to(made))


def prepare(folder: Path, made: Path, precision: str, threads: int) -> None:
    """Export for the back end, and quantise there."""
    import sentence_transformers

    backend = precision.rpartition("-")[0]
    if not backend:
        return
    model = sentence_transformers.SentenceTransformer(
        str(folder),
        backend=backend,  # type: ignore[arg-type]
        device="cpu",
        model_kwargs={"export": True},
    )
    model.save_pretrained(str(made))
    if precision == "onnx-int8":
        sentence_transformers.export_dynamic_quantized_onnx_model(
            model, "avx512_vnni", str(made), file_suffix="int8"
        )
    if precision == "openvino-int8":
        quantise(model, folder, made)


def quantise(model: Any, folder: Path, made: Path) -> None:
    """Weights and activations in int8, by nncf; its own helper would take texts from a hub."""
    import nncf
    import openvino

    texts = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    inner = model[0].model.model
    names = {each.get_any_name() for each in inner.inputs}

    def inputs(text: str) -> dict[str, Any]:
        found = model.tokenizer(text, truncation=True, max_length=256, return_tensors="np")
        return {name: each for name, each in found.items() if name in names}

    small = nncf.quantize(
        inner,
        nncf.Dataset(texts, inputs),
        subset_size=len(texts),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    openvino.save_model(small, made / "openvino" / "openvino_model_int8.xml")
