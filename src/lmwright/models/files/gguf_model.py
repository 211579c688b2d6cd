"""Models in GGUF files: read into our network, and written from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.reading import FETCH_AGAIN
from lmwright.models.core.int4 import FileRows, Held
from lmwright.models.core.spec import ModelSpec
from lmwright.models.family.family import Family, GgufForm, Weight, to_ours, to_theirs
from lmwright.models.files.folder import (
    Described,
    Published,
    alike,
    check_vocabulary,
    heads_of,
    ids_of,
    spec_of,
)
from lmwright.models.files.gguf import PLAIN, Gguf, read_gguf, write_gguf
from lmwright.models.files.gguf_tokenizer import tokenizer_of
from lmwright.models.files.weights import check_fit
from lmwright.models.network.network import Network, build
from lmwright.tables import entries, resolve

ARCHITECTURE = "general.architecture"
FORMATS = {"F16": 1, "Q4_0": 2, "Q8_0": 7, "F32": 0, "BF16": 32}
"""Format of most weights -> its number in ``general.file_type``."""


def read_gguf_model(path: Path) -> Published:
    """The model of a GGUF file, its weights as fp32, its tokenizer from the same file.

    Raises what ``read_gguf`` raises, and BadInput for an architecture that we do not have, Corrupt
    for tensors that do not fit it.
    """
    file, described, tensors = open_model(path)
    family, setting, form = described.family, described.spec, described.family.gguf
    assert form is not None  # or it would not have been opened
    mapped = family.weights(setting)
    wanted = to_theirs(mapped, dict(build(setting).named_parameters()))
    shapes = {
        own: tuple(file.tensors[theirs].shape)
        for own, theirs in tensors.items()
        if own in wanted or not own.startswith(family.unread)
    }
    check_shapes(shapes, wanted, path)
    theirs = Lazy(file, tensors, form, setting)
    tokenizer = tokenizer_of(file)
    check_vocabulary(tokenizer, setting, path)
    heads = heads_of(family, described.config, setting, theirs, path.name)
    held = {each.ours: theirs.held(each) for each in mapped}
    return Published(described, to_ours(mapped, theirs), heads, tokenizer, held=held)


def describe_gguf(path: Path) -> Described:
    """Read a GGUF file's description of its model."""
    return open_model(path)[1]


def open_model(path: Path) -> tuple[Gguf, Described, dict[str, str]]:
    """Open a file: its description and its tensors by a checkpoint's names."""
    file = read_gguf(path)
    name = file.metadata.get(ARCHITECTURE)
    families = [resolve("families", each) for each in entries("families")]
    known = {each.gguf.architecture: each for each in reversed(families) if each.gguf}
    if name not in known:
        raise BadInput(
            f"{path.name}: the architecture {name!r}",
            f"one that lmwright reads: {', '.join(sorted(known))}",
            nearest(str(name), known),
        )
    family: Family = known[name]
    form = family.gguf
    assert form is not None  # of those that are known
    metadata = {
        key.removeprefix(f"{name}."): value
        for key, value in file.metadata.items()
        if key.startswith(f"{name}.")
    }
    told = [each for each in form.settings if each in file.tensors]
    metadata |= {each: file.tensor(each).numpy() for each in told}
    tensors = {spelt(form.names, each, path): each for each in file.tensors if each not in told}
    if "embed_tokens.weight" not in tensors:
        raise Corrupt(f"{path.name} has no table of tokens", "token_embd.weight", FETCH_AGAIN)
    config = config_of(form, metadata, path)
    config["vocab_size"] = file.tensors[tensors["embed_tokens.weight"]].shape[0]
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    setting, heads = spec_of(family, config, path.name)
    ends = ids_of(
        [file.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot", "eom")]
    )
    template = str(file.metadata.get("tokenizer.chat_template", ""))
    return file, Described(family, config, setting, heads, ends, None, template), tensors


def config_of(form: GgufForm, metadata: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Make the config of a file's metadata; BadInput, naming the file, for invalid metadata."""
    try:
        return form.config(metadata)
    except BadInput as error:
        raise BadInput(f"{path.name}: {error.found}", error.wanted, error.cure) from None
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise BadInput(
            f"{path.name}: {type(error).__name__}: {error}",
            f"metadata of a {form.architecture} model",
            FETCH_AGAIN,
        ) from None


class Lazy(Mapping[str, Tensor]):
    """The file's tensors under a checkpoint's names, each made when it is asked for."""

    def __init__(
        self, file: Gguf, names: Mapping[str, str], form: GgufForm, setting: ModelSpec
    ) -> None:
        self.file, self.names, self.form, self.setting = file, names, form, setting

    def __getitem__(self, name: str) -> Tensor:
        found = self.file.tensor(self.names[name])
        return self.form.read(name, found, self.setting)

    def held(self, weight: Weight) -> Held:
        """One of our weights as the file has it; empty where that is not quantised rows of it.

        What our weight's rows are in the file is found by doing with numbers of rows what is done
        with the rows: they are put in another order, and those of several tensors together.
        """
        tensors = [self.file.tensors[self.names[name]] for name in weight.theirs]
        if any(len(each.shape) != 2 or each.format in PLAIN for each in tensors):
            return ()
        firsts = [0, *accumulate(each.shape[0] for each in tensors)]
        numbers = [
            self.form.read(name, torch.arange(*ends)[:, None], self.setting)
            for name, ends in zip(weight.theirs, pairwise(firsts), strict=True)
        ]
        joined = weight.join(numbers)
        if joined.shape != (firsts[-1], 1):
            return ()
        rows = joined[:, 0].numpy()
        sources = np.searchsorted(firsts, rows, side="right") - 1
        ends = [0, *(np.flatnonzero(np.diff(sources)) + 1).tolist(), len(rows)]
        return tuple(
            self.rows(weight.theirs[source], rows[start:stop] - firsts[source])
            for start, stop in pairwise(ends)
            for source in (int(sources[start]),)
        )

    def rows(self, name: str, rows: np.ndarray) -> FileRows:
        """Some rows of a tensor."""
        theirs = self.names[name]
        found = self.file.tensors[theirs]
        return FileRows(found.format, self.file.blocks(theirs).reshape(found.shape[0], -1), rows)

    def __iter__(self) -> Any:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def spelt(names: Mapping[str, str], theirs: str, path: Path) -> str:
    """Translate a GGUF tensor's name to a checkpoint's; Corrupt for an unknown one."""
    stem, _, leaf = theirs.rpartition(".")
    number = re.search(r"\d+", stem)
    layer = number.group() if number else ""
    pattern = re.sub(r"\d+", "{}", stem, count=1)
    if pattern not in names:
        raise Corrupt(f"{path.name}: the tensor {theirs!r}", "one of its architecture")
    return f"{names[pattern].format(layer)}.{leaf}"


def check_shapes(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor], path: Path
) -> None:
    """Raise Corrupt unless the file has the tensors of its metadata."""
    empty = {name: Shape(shape) for name, shape in found.items()}
    check_fit(empty, {name: tuple(each.shape) for name, each in wanted.items()}, path.name)  # type: ignore[arg-type]


class Shape:
    """A tensor of which only the shape is known yet; what GGUF holds becomes fp32."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def is_floating_point(self) -> bool:
        """True, whatever its format in the file."""
        return True


def write_gguf_model(
    path: Path,
    network: Network,
    family: Family,
    config: Mapping[str, Any],
    beside: Mapping[str, Any],
    format: str,
) -> None:
    """Write a network as one GGUF file: matrices in ``format``, vectors in F32.

    ``beside`` is the metadata of the tokenizer and whatever else goes along. Raises BadInput for a
    family, a spec, a head or a format that cannot be written; then nothing is.
    """
    form, setting = form_of(family), network.spec
    if format not in FORMATS:
        raise BadInput(f"the format {format!r}", "a known one", nearest(format, FORMATS))
    told = form.metadata(setting)
    check_told(network, family, form.config(told))
    weights: list[Weight] = [*family.weights(setting), *family.heads["lm"](config, setting)[1]]
    ours = dict(network.named_parameters())
    back = {theirs: gguf for gguf, theirs in form.names.items()}
    tensors = {each: torch.from_numpy(told.pop(each)) for each in form.settings if each in told}
    for name, tensor in to_theirs(weights, ours).items():
        stem, _, leaf = name.rpartition(".")
        number = re.search(r"\d+", stem)
        pattern = back[re.sub(r"\d+", "{}", stem, count=1)]
        own = f"{pattern.format(number.group() if number else '')}.{leaf}"
        tensors[own] = form.written(name, tensor.detach(), setting).contiguous()
    metadata = {
        ARCHITECTURE: form.architecture,
        "general.file_type": FORMATS[format],
        "general.quantization_version": 2,
        **{f"{form.architecture}.{key}": value for key, value in told.items()},
        **beside,
    }
    formats = {name: format for name, tensor in tensors.items() if tensor.ndim > 1}
    write_gguf(path, metadata, tensors, formats)


def form_of(family: Family) -> GgufForm:
    """The GGUF form of a family; BadInput for a family without one."""
    if family.gguf is None:
        known = {
            each.name for name in entries("families") if (each := resolve("families", name)).gguf
        }
        raise BadInput(
            f"{family.name}, of which GGUF files are not written",
            f"one of {', '.join(sorted(known))}",
            "export the model as a folder",
        )
    return family.gguf


def check_told(network: Network, family: Family, config: Mapping[str, Any]) -> None:
    """Raise BadInput unless the config read back makes the same network and head."""
    head, setting = network.head_spec, network.spec
    vocabulary = setting.stacks[-1].embedding.vocabulary
    tied = head is not None and bool(head.share)
    config = {**config, "vocab_size": vocabulary, "tie_word_embeddings": tied}
    same = family.spec(config) == setting.with_dropout(0.0)
    if not same or head is None or alike(family.heads["lm"](config, setting)[0]) != alike(head):
        raise BadInput(
            f"a {family.name} model that differs from what GGUF's metadata can tell of it",
            "one of published shape",
            "export the model as a folder",
        )
