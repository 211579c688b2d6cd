"""A linear map of the mean over the tokens, as modules of sentence-transformers beside a body."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from lmwright.core.durable import write_json
from lmwright.models.core.spec import Head
from lmwright.models.files.weights import read_tensors, write_tensors
from lmwright.models.text_model import TextModel, head_spec

POOLING, DENSE = "1_Pooling", "2_Dense"
TYPES = {"": "Transformer", POOLING: "Pooling", DENSE: "Dense"}
"""Folders of the modules and their classes in ``sentence_transformers.models``."""
WEIGHTS = "model.safetensors"
OURS = "head.out."
THEIRS = "linear."


def is_mean_map(model: TextModel) -> bool:
    """Whether a model of one stack has no other head than a linear map of the mean."""
    head = head_spec(model.network)
    plain = Head(pool="mean", outputs=head.outputs, dropout=head.dropout, bias=head.bias)
    return head == plain and head.outputs > 0 and len(model.network.spec.stacks) == 1


def write_mean_map(folder: Path, model: TextModel) -> None:
    """Write pooling and map beside a body that is in the folder already."""
    head, width = head_spec(model.network), model.network.width
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{name}"}
        for n, (path, name) in enumerate(TYPES.items())
    ]
    write_json(folder / "modules.json", listed)
    settings = {"max_seq_length": model.max_tokens, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", settings)
    pooled = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    write_json(folder / POOLING / "config.json", pooled)
    dense: dict[str, Any] = {"in_features": width, "out_features": head.outputs, "bias": head.bias}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    write_json(folder / DENSE / "config.json", dense)
    weights = dict(model.network.named_parameters())
    named = {
        name.replace(OURS, THEIRS): weight
        for name, weight in weights.items()
        if name.startswith(OURS)
    }
    write_tensors(folder / DENSE / WEIGHTS, named)


def read_mean_map(folder: Path) -> dict[str, Tensor]:
    """The weights of the map, by our names."""
    found = read_tensors(folder / DENSE / WEIGHTS)
    return {name.replace(THEIRS, OURS): weight for name, weight in found.items()}
