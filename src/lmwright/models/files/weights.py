"""Safetensors files, checked before they are used.

The format: eight bytes that give the header's length, a JSON header that gives each tensor's
type, shape and place, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lmwright.core.durable import write_bytes
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.reading import FETCH_AGAIN

BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
LONGEST_HEADER = 100_000_000
PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}


def read_tensors(path: Path, others: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Every tensor of a safetensors file by name; floating-point numbers become fp32. Those whose
    names begin as one of ``others`` does are left where they are.

    Raises BadInput for a pickle (unopened) or a missing file, Corrupt when the header and the
    bytes do not fit together or a weight is not a finite number.
    """
    refuse_pickle(path)
    if not path.is_file():
        raise BadInput(f"{path.name} is not in {path.parent}", "a safetensors file", FETCH_AGAIN)
    check_header(path)
    with safe_open(path, framework="pt") as file:
        names = [name for name in list(file.keys()) if not name.startswith(others)]
        tensors = {name: in_single(file.get_tensor(name)) for name in names}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise Corrupt(
                f"{path.name}: {name} holds NaN or infinity",
                "finite weights",
                "use an earlier version of this model, or train it again",
            )
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors durably; equal tensors give equal bytes."""
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    write_bytes(path, save(plain))


def refuse_pickle(path: Path) -> None:
    """Raise BadInput for a file whose format can run code; it is never opened."""
    if path.suffix.lower() in PICKLED:
        raise BadInput(
            f"{path.name} is a pickle, which can run code when it is opened",
            "a .safetensors file",
            "ask the model's author for safetensors, or convert it where that is safe",
        )


def check_header(path: Path) -> None:
    """Raise Corrupt unless the header accounts for every byte of the file exactly once."""
    header, start = read_header(path)
    spans = sorted(checked_span(path, name, entry) for name, entry in header.items())
    place = 0
    for first, last, name in spans:
        if first != place:
            raise Corrupt(
                f"{path.name}: {name} starts at byte {first}",
                f"byte {place}, without gap or overlap",
                FETCH_AGAIN,
            )
        place = last
    if start + place != path.stat().st_size:
        raise Corrupt(
            f"{path.name} has {path.stat().st_size} bytes",
            f"{start + place}, as its header says",
            FETCH_AGAIN,
        )


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header without its metadata, and where the tensors' bytes start."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise Corrupt(
                f"{path.name} has {size} bytes and a header of {length}",
                "a header that fits into the file",
                FETCH_AGAIN,
            )
        text = stream.read(length)
    try:
        header = json.loads(text, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise Corrupt(
            f"{path.name}: {error}", "a JSON header with each name once", FETCH_AGAIN
        ) from None
    if not isinstance(header, dict):
        raise Corrupt(f"{path.name}: the header is no JSON object", "tensors by name", FETCH_AGAIN)
    header.pop("__metadata__", None)
    return header, 8 + length


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError if a name stands in it twice."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands in the header twice")
    return dict(pairs)


def checked_span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """First byte and byte after the last one of a tensor, whose size must follow from its shape."""
    try:
        first, last = entry["data_offsets"]
        size = BYTES[entry["dtype"]] * math.prod(entry["shape"])
        right = all(isinstance(each, int) and each >= 0 for each in (first, last, *entry["shape"]))
    except (KeyError, TypeError, ValueError):
        raise Corrupt(
            f"{path.name}: {name} has no known type, shape and place", "all three", FETCH_AGAIN
        ) from None
    if not right or last - first != size:
        raise Corrupt(
            f"{path.name}: {name} stands in bytes {first} to {last}",
            f"{size} bytes, as type and shape say",
            FETCH_AGAIN,
        )
    return first, last, name


def in_single(tensor: Tensor) -> Tensor:
    """Floating-point numbers as fp32; other types as they are."""
    return tensor.float() if tensor.is_floating_point() else tensor


def check_floating(found: Mapping[str, Tensor], names: Iterable[str], where: str) -> None:
    """Raise Corrupt for a named tensor that holds no floating-point numbers."""
    for name in names:
        if not found[name].is_floating_point():
            raise Corrupt(
                f"{where}: {name} holds {str(found[name].dtype).removeprefix('torch.')}",
                "floating-point weights",
                "take the model's version in fp32, fp16 or bf16",
            )


def check_fit(
    found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Raise Corrupt unless ``found`` has just the ``wanted`` names and shapes, all float."""
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        raise Corrupt(
            f"{where}: missing {some(missing)}; not expected {some(extra)}",
            "the tensors that its config describes",
            "check that weights and config come from the same model",
        )
    for name, shape in wanted.items():
        if tuple(found[name].shape) != tuple(shape):
            raise Corrupt(
                f"{where}: {name} has shape {tuple(found[name].shape)}",
                f"{tuple(shape)}, as its config says",
                "check that weights and config come from the same model",
            )
    check_floating(found, wanted, where)


def some(names: list[str]) -> str:
    """The first few of some names, and how many more there are."""
    if not names:
        return "none"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
