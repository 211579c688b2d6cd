"""Modules of sentence-transformers beside a body: a linear map of the mean over the tokens, and
what an encoder's own say of its vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.reading import read_json_object
from lmwright.models.core.spec import Head
from lmwright.models.files.weights import read_tensors, write_tensors
from lmwright.models.text_model import TextModel, head_spec

MODULES = "modules.json"
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
    write_json(folder / MODULES, listed)
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


def tokens_read(folder: Path) -> int | None:
    """The most tokens of a text that the sentence-transformers model of a folder reads, if it says.

    BadInput where its vectors are no means over the tokens, or a text is not read as it is.
    A folder without ``modules.json`` is an encoder by itself, of which it takes means too.
    """
    if not (folder / MODULES).is_file():
        return None
    for name, path in modules_in(folder):
        if name not in ("Transformer", "Pooling", "Normalize"):
            raise BadInput(f"{folder}: vectors that pass a {name}", "means over the tokens")
        if name == "Pooling":
            refuse_pooling(path / "config.json")
    about = settings_of(folder / "config_sentence_transformers.json")
    if about.get("default_prompt_name"):
        raise BadInput(
            f"{folder}: a prompt {about['default_prompt_name']!r} before every text",
            "texts that are read as they are",
        )
    read = settings_of(folder / "sentence_bert_config.json")
    if read.get("do_lower_case"):
        raise BadInput(f"{folder}: texts in lower case", "a tokenizer that does it")
    most = read.get("max_seq_length")
    return most if isinstance(most, int) else None


def modules_in(folder: Path) -> list[tuple[str, Path]]:
    """The class and folder of each module that ``modules.json`` lists; Corrupt if it is broken."""
    try:
        listed = json.loads((folder / MODULES).read_text("utf-8"))
        return [
            (str(each["type"]).rpartition(".")[2], folder / str(each["path"])) for each in listed
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Corrupt(f"{folder / MODULES}", "a list of modules with type and path") from None


def refuse_pooling(path: Path) -> None:
    """BadInput for a vector that is anything else than the mean over the tokens."""
    found = settings_of(path)
    modes = [name for name, on in found.items() if name.startswith("pooling_mode_") and on is True]
    mode = found.get("pooling_mode")
    if modes != ["pooling_mode_mean_tokens"] and not (mode == "mean" and not modes):
        raise BadInput(f"{path}: vectors by {', '.join(modes) or mode}", "means over the tokens")


def settings_of(path: Path) -> dict[str, Any]:
    """The settings in a file; none where there is no such file."""
    return read_json_object(path) if path.is_file() else {}
