"""The CPU by what the system shows of it: model, microcode, flags, and the class that they make.

Classes of CPUs, by which products are worth it:

- ``A``: AVX2, and no AVX-512 with VNNI. bf16 is emulated; int8 saves bandwidth, not time.
- ``B``: AVX-512 with VNNI. int8 is several times fp32; bf16 is native with AVX512_BF16 only.
- ``C``: AVX-512 and AMX that was seen to execute. bf16 and int8 are many times fp32.
- ``other``: none of these (an Arm CPU, or a system that shows no flags).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from lmwright.core.errors import BadInput, nearest
from lmwright.machine.quota import lines

CpuClass = Literal["A", "B", "C", "other"]
OVERRIDE = "LMWRIGHT_ISA"
"""The environment variable that names the class in place of the probe: A, B or C."""

NEEDED: dict[CpuClass, frozenset[str]] = {
    "C": frozenset({"avx512f", "avx512bw", "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16"}),
    "B": frozenset({"avx512f", "avx512bw", "avx512_vnni"}),
    "A": frozenset({"avx2", "fma"}),
}
"""The flags of each class as Linux names them, the highest class first."""

LIMITS: dict[CpuClass, dict[str, str]] = {
    "A": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "B": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"},
}
"""Environment variables that keep torch's libraries to a class below what the CPU shows."""


@dataclass(frozen=True)
class Cpu:
    """Model, microcode and flags of a CPU; empty where the system does not show them."""

    model: str = ""
    microcode: str = ""
    flags: frozenset[str] = frozenset()

    @property
    def shown(self) -> CpuClass:
        """The highest class whose flags are all shown; that AMX executes is not known by that."""
        return class_by_flags(self.flags)


def read_cpu(path: Path = Path("/proc/cpuinfo")) -> Cpu:
    """The first processor of a cpuinfo file; where there is none, what Python knows of it."""
    facts: dict[str, str] = {}
    for line in lines(path):
        if not line.strip() and facts:
            break
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    return Cpu(
        facts.get("model name") or platform.processor() or platform.machine(),
        facts.get("microcode", ""),
        frozenset(facts.get("flags", facts.get("Features", "")).split()),
    )


def class_by_flags(flags: Collection[str]) -> CpuClass:
    """The highest class all of whose flags are among ``flags``."""
    return next((name for name, needed in NEEDED.items() if needed <= set(flags)), "other")


def overridden_class(cpu: Cpu) -> CpuClass | None:
    """The class that ``LMWRIGHT_ISA`` names; None where it is not set.

    BadInput for an unknown class, and for one whose instructions this CPU does not show.
    """
    asked = os.environ.get(OVERRIDE, "").strip()
    if not asked:
        return None
    known = [name for name in get_args(CpuClass) if name != "other"]
    if asked not in known:
        raise BadInput(f"{OVERRIDE} is {asked!r}", "A, B or C", nearest(asked, known))
    chosen = cast(CpuClass, asked)
    if missing := NEEDED[chosen] - cpu.flags:
        raise BadInput(
            f"{OVERRIDE} is {asked}, and this CPU ({cpu.model}) does not show "
            + ", ".join(sorted(missing)),
            f"{cpu.shown} or a lower class",
            f"unset {OVERRIDE}, or name a class whose instructions the CPU has",
        )
    return chosen


def limits(chosen: CpuClass, cpu: Cpu) -> dict[str, str]:
    """The environment that keeps torch's libraries to a class; empty where nothing is above it."""
    return dict(LIMITS.get(chosen, {})) if chosen != cpu.shown else {}
