"""The kernels in C: compiled once into the user's cache, loaded, kept to the class of the CPU.

``LMWRIGHT_KERNELS=off`` does without them, as does a machine without a C compiler: the references
in torch then give the same bits, more slowly.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lmwright.core.cache import user_cache
from lmwright.core.errors import BadInput, MissingPart
from lmwright.core.hashing import hash_json
from lmwright.machine.compiled import (
    TooSlow,
    compiler_version,
    find_compiler,
    made_once,
    run_compiler,
)
from lmwright.machine.probe import cpu_class

SOURCES = Path(__file__).with_name("c")
SWITCH = "LMWRIGHT_KERNELS"
"""The environment variable that switches the kernels off."""

OPTIONS = ("-O3", "-std=gnu11", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden")
"""Of all files; a product and a sum are rounded one after the other, as in the references."""
SHARED: dict[str, Sequence[str]] = {
    **dict.fromkeys(
        ("threads.c", "loader.c", "rows.c", "int8.c", "group.c", "plain.c", "map.c"), ()
    ),
    # Its sums have no reference of the same bits, and it has clones of its own for each CPU.
    "pass.c": ("-ffp-contract=fast", "-Wno-psabi"),
    "head.c": (),
}
"""Files that every library has, with options of their own."""
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (
    *AVX2,
    *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni")),
    "-mprefer-vector-width=512",
)
VARIANTS: dict[str, dict[str, Sequence[str]]] = {
    "x86_64": {
        "avx2": AVX2,
        "avx_vnni": (*AVX2, "-mavxvnni"),
        "avx512_vnni": AVX512,
        "amx": (*AVX512, "-mamx-tile", "-mamx-int8"),
    },
    "aarch64": {"neon": ("-march=armv8.2-a+dotprod",)},
}
"""Machine -> variant -> options of its file. A compiler that does not know the options of a variant
leaves it out; AMX calls the variant of AVX-512 for few rows."""
MACHINES = {"AMD64": "x86_64", "arm64": "aarch64"}

COMPILE_SECONDS = 120.0
"""Bound on the compiler for one file."""

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


def compile_library(folder: Path) -> Path:
    """The shared library, in ``folder`` by hash of sources, options and compiler.

    MissingPart where there is no compiler, or it does not compile what every CPU needs.
    """
    if os.name != "posix":
        raise MissingPart(f"the kernels are of Linux and macOS, not of {platform.system()}")
    command = find_compiler("for the kernels", "the references in torch are used")
    variants = VARIANTS.get(MACHINES.get(platform.machine(), platform.machine()), {})
    texts = {path.name: path.read_text("utf-8") for path in sorted(SOURCES.iterdir())}
    parts = [texts, list(OPTIONS), {name: list(each) for name, each in variants.items()}]
    kept = folder / f"kernels-{hash_json([*parts, command, compiler_version(command)])[:16]}.so"
    return made_once(kept, lambda made: build(command, variants, made))


def build(command: list[str], variants: dict[str, Sequence[str]], made: Path) -> None:
    """Compile the variants that the compiler knows, then the files that name them; link all."""

    def unit(source: str, options: Sequence[str]) -> Path:
        written = made.with_name(f"{source}.o")
        line = [*command, *OPTIONS, *options, "-c", "-o", str(written), str(SOURCES / source)]
        run_compiler(line, written, COMPILE_SECONDS)
        return written

    def variant(name: str) -> tuple[str, Path] | None:
        try:
            return name, unit(f"{name}.c", variants[name])
        except TooSlow:
            raise  # a machine that is busy now is no reason to do without a variant for ever
        except MissingPart:
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        known = dict(found for found in pool.map(variant, variants) if found)
        if "avx512_vnni" not in known:
            known.pop("amx", None)
        macros = [f"-DLMW_WITH_{name.upper()}" for name in known]
        shared = list(pool.map(lambda each: unit(each[0], [*macros, *each[1]]), SHARED.items()))
    objects = [str(path) for path in (*shared, *known.values())]
    run_compiler([*command, "-shared", "-pthread", "-o", str(made), *objects, "-lm"], made)


@cache
def load() -> ctypes.CDLL | MissingPart:
    """The library, loaded and set to the best variant within the class of this CPU, or why not."""
    try:
        code = ctypes.CDLL(str(compile_library(user_cache() / "kernels")))
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
