"""The kernels in C: those of the wheel or compiled once, loaded, kept to the class of the CPU.

``LMWRIGHT_KERNELS=off`` does without them, as does a machine without a C compiler that has no wheel
with them: the references in torch then give the same bits, more slowly.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from lmwright.core.cache import user_cache
from lmwright.core.errors import BadInput, MissingPart
from lmwright.kernels.compile import compile_library, shipped_library
from lmwright.machine.probe import cpu_class

SWITCH = "LMWRIGHT_KERNELS"
"""The environment variable that switches the kernels off."""

NOT_FINITE, SHAPE, NO_MEMORY = 1, 2, 3
"""Errors of ``kernels.h``."""

VOID, LONG, INT, SIZE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_size_t
WORK = ctypes.CFUNCTYPE(None, VOID, INT, INT)
FUNCTIONS: dict[str, tuple[type | None, Sequence[type]]] = {
    "lmw_limit": (None, [ctypes.c_char]),
    "lmw_variant": (ctypes.c_char_p, []),
    "lmw_variants": (ctypes.c_char_p, []),
    "lmw_choose": (INT, [ctypes.c_char_p]),
    "lmw_alloc": (VOID, [SIZE]),
    "lmw_free": (None, [VOID, SIZE]),
    "lmw_set_threads": (None, [INT]),
    "lmw_threads": (INT, []),
    "lmw_parallel": (None, [WORK, VOID]),
    "lmw_parallel_parts": (None, [WORK, VOID, INT]),
    "lmw_blocks": (LONG, [LONG]),
    "lmw_int8_bytes": (SIZE, [LONG, LONG]),
    "lmw_pack_int8": (INT, [VOID, LONG, LONG, LONG, VOID]),
    "lmw_pack_int8_head": (INT, [LONG, LONG, VOID]),
    "lmw_pack_int8_rows": (INT, [VOID, LONG, VOID, LONG, LONG]),
    "lmw_unpack_int8": (None, [VOID, VOID]),
    "lmw_unpack_int8_rows": (None, [VOID, VOID, LONG, LONG]),
    "lmw_linear_int8": (INT, [VOID, VOID, LONG, LONG, VOID, VOID, LONG]),
    "lmw_group_bytes": (SIZE, [INT, LONG, LONG]),
    "lmw_linear_group": (INT, [VOID, VOID, LONG, LONG, VOID, VOID, LONG]),
    "lmw_linear_group_q": (None, [VOID, VOID, LONG, VOID, VOID, LONG, LONG, LONG]),
    "lmw_quantised_bytes": (SIZE, [LONG, LONG]),
    "lmw_quantise": (None, [VOID, LONG, LONG, LONG, VOID]),
    "lmw_quantise_rows": (None, [VOID, LONG, LONG, LONG, VOID, LONG, LONG]),
    "lmw_linear_int8_q": (None, [VOID, VOID, LONG, VOID, VOID, LONG, LONG, LONG]),
    "lmw_multiply": (INT, [VOID, VOID, LONG, LONG, VOID, LONG]),
    "lmw_pass": (INT, [VOID]),
    "lmw_logits": (INT, [VOID, VOID, LONG, VOID, VOID]),
}
"""Result and arguments of each function of ``kernels.h``, ``map.h``, ``pass.h`` and ``head.h``."""


@cache
def load() -> ctypes.CDLL | MissingPart:
    """The library, loaded and set to the best variant within the class of this CPU, or why not."""
    try:
        code = ctypes.CDLL(str(shipped_library() or compile_library(user_cache() / "kernels")))
    except MissingPart as error:
        return error
    except OSError as error:  # a folder may forbid to write or to execute
        return MissingPart(f"the kernels cannot be compiled or loaded: {error}")
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(code, name)
        function.restype, function.argtypes = result, list(arguments)
    found = cpu_class()
    code.lmw_limit(b"-" if found == "other" else found.encode())
    return code


def library() -> ctypes.CDLL:
    """The loaded library, whose functions are those of ``kernels.h``.

    MissingPart where there is none; BadInput for a value of ``LMWRIGHT_KERNELS`` or
    ``LMWRIGHT_ISA`` that is unknown.
    """
    asked = os.environ.get(SWITCH, "").strip()
    if asked == "off":
        raise MissingPart(f"{SWITCH} is off", cure=f"unset {SWITCH}")
    if asked not in ("", "on"):
        raise BadInput(f"{SWITCH} is {asked!r}", "on or off", f"unset {SWITCH}")
    found = load()
    if isinstance(found, MissingPart):
        raise found
    return found


def reason() -> str:
    """Why there are no kernels; empty where there are."""
    try:
        library()
    except MissingPart as error:
        return str(error)
    return ""


def available() -> bool:
    """True where the kernels can be used."""
    return not reason()


def variants() -> list[str]:
    """The variants that this CPU runs within its class, the best first."""
    return library().lmw_variants().decode().split()


def choose(name: str) -> None:
    """Use one of :func:`variants` from now on; BadInput for another name."""
    if library().lmw_choose(name.encode()):
        raise BadInput(f"no variant {name!r} here", ", ".join(variants()), "choose one of these")


@dataclass
class Threads:
    """The number of threads that torch had when the library was last told."""

    told: int = 0


THREADS = Threads()
LOCK = threading.Lock()


def follow_threads(code: ctypes.CDLL) -> None:
    """Tell the library torch's number of threads where that has changed."""
    wanted = torch.get_num_threads()
    if THREADS.told != wanted:
        with LOCK:
            code.lmw_set_threads(wanted)
            THREADS.told = wanted


def optional_library() -> ctypes.CDLL | None:
    """The kernels, where there are any."""
    try:
        return library()
    except MissingPart:
        return None


def packed_memory(code: ctypes.CDLL, size: int) -> Tensor:
    """An uninitialised uint8 tensor at a multiple of 64 bytes, on huge pages where it is large.

    MemoryError where there is no such memory.
    """
    address = code.lmw_alloc(size)
    if not address:
        raise MemoryError(f"no {size:,} bytes for packed weights")
    memory = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(memory, code.lmw_free, address, size)
    return torch.frombuffer(memory, dtype=torch.uint8)
