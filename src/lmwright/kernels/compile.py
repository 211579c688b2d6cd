"""The shared library of the kernels: compiled from its C files, or found in an installed wheel.

Nothing here needs torch, since the build of a wheel calls it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lmwright.core.errors import MissingPart
from lmwright.core.hashing import hash_json
from lmwright.machine.compiled import (
    TooSlow,
    compiler_version,
    find_compiler,
    made_once,
    run_compiler,
)

SOURCES = Path(__file__).with_name("c")
SHIPPED = Path(__file__).with_name("shipped")
"""The folder of a wheel that has a library."""

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


def shipped_name() -> str:
    """The name of the library of these C files and options for this machine."""
    return f"kernels-{platform.machine()}-{hash_json(recipe())[:16]}.so"


def shipped_library() -> Path | None:
    """The library that came with the wheel, if one for this machine and these files did."""
    found = SHIPPED / shipped_name()
    return found if os.name == "posix" and found.is_file() else None


def recipe() -> list[object]:
    """The C files and compiler options of a library, those of its variants too."""
    texts = {path.name: path.read_text("utf-8") for path in sorted(SOURCES.iterdir())}
    options = {name: list(each) for name, each in variants_here().items()}
    return [platform.system(), texts, list(OPTIONS), options]


def variants_here() -> dict[str, Sequence[str]]:
    """The variants of this machine, with their options."""
    return VARIANTS.get(MACHINES.get(platform.machine(), platform.machine()), {})


def compile_library(folder: Path) -> Path:
    """The shared library, in ``folder`` by hash of sources, options and compiler.

    MissingPart where there is no compiler, or it does not compile what every CPU needs.
    """
    if os.name != "posix":
        raise MissingPart(f"the kernels are of Linux and macOS, not of {platform.system()}")
    command = find_compiler("for the kernels", "the references in torch are used")
    made_of = hash_json([*recipe(), command, compiler_version(command)])[:16]
    return made_once(
        folder / f"kernels-{made_of}.so", lambda made: build(command, variants_here(), made)
    )


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
