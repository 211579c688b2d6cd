"""A pretend device: real numbers on the CPU that torch takes for tensors of another device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
"""What stands for the other device: torch takes no tensor of it for one of the CPU."""
COPIES = {"_to_copy", "copy_"}
"""Ops whose work it is to move tensors between devices."""
LENGTHS = {"_pack_padded_sequence", "_pad_packed_sequence", "lstm", "gru", "rnn_tanh"}
"""Ops of torch's packed sequences, which want lengths on the CPU wherever the numbers are."""


class Mixed(AssertionError):
    """An op met tensors of both devices."""


class Elsewhere(Tensor):
    """A tensor of the pretend device; ``held`` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        found = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=ELSEWHERE,
        )
        found.held = held
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        return run(op, given, named or {})


@contextmanager
def pretend_device() -> Iterator[None]:
    """While this is on, tensors that are made on ``ELSEWHERE`` have numbers."""
    with Factories(), Lists():
        yield


class Factories(TorchDispatchMode):
    """Ops that make tensors."""

    def __torch_dispatch__(self, op: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        return run(op, given, named or {})


class Lists(TorchFunctionMode):
    """Tensors from lists, and lists from tensors: torch does these where no dispatch sees them."""

    def __torch_function__(self, call: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        named = named or {}
        if call in (torch.tensor, torch.as_tensor) and "device" in named:
            device = named.pop("device")
            return call(*given, **named).to(device)
        own = given[0] if given and isinstance(given[0], Elsewhere) else None
        if own is not None and call is Tensor.new_tensor:
            return torch.tensor(given[1], dtype=own.dtype).to(own.device)
        if own is not None and call is Tensor.tolist:
            return own.cpu().tolist()
        if own is not None and call in (Tensor.__getitem__, Tensor.__setitem__):
            given = (own, indexed(given[1]), *given[2:])
        return call(*given, **named)


def indexed(index: Any) -> Any:
    """An index whose lists are tensors of the pretend device."""
    if isinstance(index, tuple):
        return tuple(map(indexed, index))
    return torch.tensor(index).to(ELSEWHERE) if isinstance(index, list) else index


def run(op: Any, given: Any, named: dict[str, Any]) -> Any:
    """Run an op on the numbers; Mixed where a tensor of the CPU meets one of the other device."""
    name = op.overloadpacket.__name__
    tensors = [each for each in tree_leaves((given, named)) if isinstance(each, Tensor)]
    there = any(isinstance(each, Elsewhere) for each in tensors)
    # A number in a tensor of no dimension may stay on the CPU, on every device.
    here = [each for each in tensors if not isinstance(each, Elsewhere) and each.dim()]
    if there and here and name not in COPIES | LENGTHS:
        raise Mixed(f"{op}: {[tuple(each.shape) for each in here]} of the CPU")
    if named.get("device") is not None:
        there = torch.device(named["device"]) == ELSEWHERE
        named = {**named, "device": torch.device("cpu")}
    given, named = tree_map(
        lambda each: each.held if isinstance(each, Elsewhere) else each, original := (given, named)
    )
    found = op(*given, **named)
    target = original[0][0] if original[0] else None
    if op._schema.is_mutable and isinstance(target, Tensor):
        return target
    if not there:
        return found
    if name == "_pack_padded_sequence":
        return Elsewhere(found[0]), found[1]
    return tree_map(lambda each: Elsewhere(each) if isinstance(each, Tensor) else each, found)
