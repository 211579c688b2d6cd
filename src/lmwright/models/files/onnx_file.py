"""ONNX: a text model's forward pass for other runtimes, checked against the model before it leaves.

The graph is that of the class in transformers which loads the exported folder. Its inputs are
``input_ids`` and ``attention_mask`` (batch, sequence), both of any size; its output ``logits`` is
(batch, outputs), or (batch, sequence, outputs) for a head of tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmwright.core.durable import sync_file
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.random import stream
from lmwright.models.core.ragged import pack
from lmwright.models.family.family import BODY
from lmwright.models.files.sentence import OURS, read_mean_map
from lmwright.models.text_model import TextModel

FILE = "model.onnx"
CLASSES = {
    BODY: "AutoModel",
    "classify": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "lm": "AutoModelForCausalLM",
}
"""The class of transformers that loads a folder, by the use of its head."""
TOLERANCE = 1e-4
"""Largest difference of a logit, by the largest of the document's (1 at least)."""
LENGTHS = (3, 5, 16, 33)
"""Tokens of the drawn documents that are compared."""


class Graph(nn.Module):
    """A class of transformers as a function of ids and mask; ``dense`` maps the mean of tokens."""

    def __init__(self, body: nn.Module, dense: nn.Linear | None) -> None:
        super().__init__()
        self.body, self.dense = body, dense

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of a padded batch."""
        found = self.body(input_ids=input_ids, attention_mask=attention_mask)
        if self.dense is None:
            logits: Tensor = found.logits
            return logits
        mask_bs1 = attention_mask[:, :, None].to(found.last_hidden_state.dtype)
        mean_bd = (found.last_hidden_state * mask_bs1).sum(1) / mask_bs1.sum(1)
        mapped: Tensor = self.dense(mean_bd)
        return mapped


def write_onnx(folder: Path, exported: Path, model: TextModel, use: str) -> float:
    """Write ``model.onnx`` into a folder; the largest difference that was found.

    ``exported`` is the model as a folder that transformers loads, ``use`` that of its head.
    BadInput for a head that has no such class, for a decoder with an encoder, and without the
    packages; Corrupt where the runtime's logits are not the model's.
    """
    if use not in CLASSES or model.has_encoder:
        raise BadInput(
            f"ONNX of a head for {use!r}" + (" with an encoder" if model.has_encoder else ""),
            "a model of one stack that classifies texts or tokens, or goes on from a text",
            "export it as a folder",
        )
    need_packages()
    graph = loaded(exported, model, use).eval()
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    ids, mask = padded([np.arange(1, 8), np.arange(2, 6)])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says of its own libraries
        torch.onnx.export(
            graph,
            (torch.from_numpy(ids), torch.from_numpy(mask)),
            str(folder / FILE),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    sync_file(folder / FILE)
    return check_onnx(folder / FILE, model)


def need_packages() -> None:
    """BadInput where a package is missing that exporting to ONNX needs."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as fault:
        raise BadInput(
            f"ONNX needs {fault.name}, which is not installed",
            "transformers, onnxscript and onnxruntime",
            "pip install 'lmwright[hf,onnx]'",
        ) from None


def loaded(exported: Path, model: TextModel, use: str) -> Graph:
    """The exported folder as transformers reads it, with the map of the mean beside it."""
    import transformers

    body: Any = getattr(transformers, CLASSES[use]).from_pretrained(
        exported, attn_implementation="eager", use_safetensors=True, local_files_only=True
    )
    if use != BODY:
        body.config.use_cache = False
        return Graph(body, None)
    weights = read_mean_map(exported)
    weight, bias = weights[f"{OURS}weight"], weights.get(f"{OURS}bias")
    dense = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    with torch.no_grad():
        dense.weight.copy_(weight)
        if bias is not None:
            dense.bias.copy_(bias)
    return Graph(body, dense)


def padded(documents: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Documents as ids and mask (batch, sequence), filled up with 0 behind."""
    ids = np.zeros((len(documents), max(map(len, documents))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, each in enumerate(documents):
        ids[row, : len(each)], mask[row, : len(each)] = each, 1
    return ids, mask


def check_onnx(path: Path, model: TextModel) -> float:
    """The largest difference between the runtime's logits and the model's, on drawn documents of
    several lengths in one padded batch; Corrupt where it is above :data:`TOLERANCE`."""
    import onnxruntime

    draw = stream(0, "onnx", "documents")
    rows = model.network.spec.stacks[-1].embedding.vocabulary
    most = min(model.max_tokens, max(LENGTHS))
    documents = [draw.integers(1, rows, min(length, most)) for length in LENGTHS]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids, mask = padded(documents)
    (theirs,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    batch = pack(documents)
    with torch.inference_mode():
        found = model.network(batch)
        ours = [each.numpy() for each in batch.by_document(found)] if theirs.ndim == 3 else found
    worst = 0.0
    for row, document in enumerate(documents):
        mine = np.asarray(ours[row])
        other = theirs[row, : len(document)] if theirs.ndim == 3 else theirs[row]
        worst = max(worst, float(np.abs(mine - other).max() / max(1.0, np.abs(mine).max())))
    if not worst <= TOLERANCE:
        raise Corrupt(
            f"{path.name} gives logits that differ by {worst:.2g}",
            f"those of the model, within {TOLERANCE:g}",
            "export it as a folder",
        )
    return worst
