"""The probe: which class the CPU is of and what its products reach, found out by executing them.

Bits that a CPU shows are no proof: some virtual machines show AMX and have no palettes, or end a
process that uses it. So the products run in child processes, are compared with plain ones, and what
ends a child is a finding like any other. What was found is kept by CPU model, microcode, flags and
the version of torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from lmwright.core.cache import user_cache
from lmwright.core.durable import write_json
from lmwright.core.errors import MissingPart
from lmwright.core.hashing import hash_bytes, hash_json
from lmwright.machine.compiled import SOURCE, compile_source
from lmwright.machine.cpu import OVERRIDE, Cpu, CpuClass, limits, overridden_class, read_cpu
from lmwright.machine.quota import granted_threads
from lmwright.machine.steps import Outcome, run_steps

CHILD = Path(__file__).with_name("child.py")
SECONDS = 10.0
"""Bound on all children of one probe, without the time of a compiler."""
NATIVE_STEPS = ("cpuid", "palettes", "permission", "amx", "vnni")
TORCH_STEPS = ("fp32", "onednn", "bf16", "int8", "bandwidth")
SEVEN_BITS = "int8_7bit"
IN_C = "products in C"
WITH_AMX = ("bf16", "int8")
"""Steps of torch that use AMX where it is shown."""

Say = Callable[[str], None]


def silent(words: str) -> None:
    """Nothing, where nobody waits for progress."""


@dataclass(frozen=True)
class Children:
    """The programs of the child processes: that of torch, and that in C where there is one."""

    torch: Sequence[str] = (sys.executable, "-P", str(CHILD))
    native: Callable[[Path], Sequence[str]] = lambda folder: [str(compile_source(folder))]


@dataclass(frozen=True)
class Machine:
    """A CPU's class and what was measured on it.

    ``rates``: product (``fp32``, ``onednn`` – fp32 through oneDNN –, ``bf16``, ``int8``, and
    ``int8_7bit`` where that one is wrong) -> rows -> 1e9 operations a second of one thread through
    torch. ``peaks``: ``amx_int8``, ``amx_bf16``, ``vnni_int8`` in the same unit, from C.
    ``bandwidth``: threads -> 1e9 bytes a second. ``faults``: what could not be measured, and why;
    ``late``: what there was no time for.
    """

    model: str
    microcode: str
    cpu_class: CpuClass
    why: str
    threads: int
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    bandwidth: dict[str, float] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    late: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Any) -> Machine:
        """From what :meth:`to_json` gave; ValueError, TypeError or KeyError for anything else."""
        machine = cls(**found)
        tables = [machine.peaks, machine.bandwidth, *machine.rates.values()]
        numbers = [number for table in tables for number in table.values()]
        if machine.cpu_class not in get_args(CpuClass) or not all(map(positive, numbers)):
            raise ValueError("no machine")
        texts = [machine.model, machine.microcode, machine.why, *machine.faults.values()]
        if not isinstance(machine.threads, int) or not all(isinstance(text, str) for text in texts):
            raise ValueError("no machine")
        return machine


def positive(number: Any) -> bool:
    """True for a finite number above 0."""
    return isinstance(number, int | float) and math.isfinite(number) and number > 0


def kept_path(cpu: Cpu, folder: Path, chosen: CpuClass | None) -> Path:
    """The file of the findings on a CPU; those under a named class have one of their own."""
    parts = {
        "model": cpu.model,
        "microcode": cpu.microcode,
        "flags": sorted(cpu.flags),
        "torch": importlib.metadata.version("torch"),
        "named": chosen,
        "code": [hash_bytes(path.read_bytes()) for path in (SOURCE, CHILD, Path(__file__))],
    }
    return folder / f"probe-{hash_json(parts)[:16]}.json"


def machine_folder() -> Path:
    """The folder of findings and of the compiled program."""
    return user_cache() / "machine"


def kept_machine(
    cpu: Cpu | None = None, folder: Path | None = None, chosen: CpuClass | None = None
) -> Machine | None:
    """The findings of an earlier probe of this CPU; None where nothing is kept, or it is broken."""
    path = kept_path(cpu or read_cpu(), folder or machine_folder(), chosen)
    try:
        return Machine.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def cpu_class(cpu: Cpu | None = None, folder: Path | None = None) -> CpuClass:
    """The class of this CPU without a probe: the named one, else the kept one, else by its flags.

    BadInput for a value of ``LMWRIGHT_ISA`` that is no class of this CPU.
    """
    cpu = cpu or read_cpu()
    if chosen := overridden_class(cpu):
        return chosen
    kept = kept_machine(cpu, folder) if cpu.shown == "C" else None  # AMX alone needs a proof
    return kept.cpu_class if kept else cpu.shown


def probed_machine(
    say: Say = silent,
    cpu: Cpu | None = None,
    folder: Path | None = None,
    children: Children | None = None,
    again: bool = False,
) -> Machine:
    """What is known of this CPU, probed now if nothing is kept, or ``again``.

    ``say`` is told what is tried. What there was no time for is not kept, so that the next call
    probes once more.

    BadInput for a value of ``LMWRIGHT_ISA`` that is no class of this CPU.
    """
    cpu, folder = cpu or read_cpu(), folder or machine_folder()
    chosen = overridden_class(cpu)
    if not again and (kept := kept_machine(cpu, folder, chosen)):
        return kept
    machine = probe(cpu, folder, chosen, children or Children(), say)
    if machine.late:
        return machine
    try:
        write_json(kept_path(cpu, folder, chosen), machine.to_json())
    except OSError as error:
        say(f"what was measured cannot be kept in {folder}: {error.strerror}")
    return machine


def probe(cpu: Cpu, folder: Path, chosen: CpuClass | None, children: Children, say: Say) -> Machine:
    """Run the children and read a machine out of what they told and of how they ended."""
    faults: dict[str, str] = {}
    native = Outcome()
    until = time.monotonic() + SECONDS
    try:
        say("compiling the products in C")
        command = children.native(folder)
        until = time.monotonic() + SECONDS
        say("trying the instructions of the CPU in a child process")
        native = run_steps(command, NATIVE_STEPS, SECONDS / 4)
    except (MissingPart, OSError) as error:  # a folder may forbid to write or to execute
        faults[IN_C] = str(error)
    found, why = (
        (chosen, f"named by {OVERRIDE}") if chosen else class_by_execution(cpu, native, faults)
    )
    threads = granted_threads()
    timed = time_torch(children, found, cpu, threads, until, say)
    if not chosen and found == "C" and (lost := sorted(timed.faults.keys() & set(WITH_AMX))):
        why = f"AMX is shown, but torch's product in {lost[0]} failed: {timed.faults[lost[0]]}"
        found = "B"
        again = time_torch(children, found, cpu, threads, until, say)
        timed = Outcome(again.results, timed.faults | again.faults, again.late)
    bandwidth = timed.results.pop("bandwidth", {})
    return Machine(
        cpu.model,
        cpu.microcode,
        found,
        why,
        threads,
        timed.results,
        peaks_of(native),
        bandwidth,
        {**faults, **native.faults, **timed.faults},
        {**native.late, **timed.late},
    )


def time_torch(
    children: Children, found: CpuClass, cpu: Cpu, threads: int, until: float, say: Say
) -> Outcome:
    """torch's products by rows in a child that is kept to a class."""
    say(f"timing torch's products and the memory, as class {found}")
    environment = {
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "2000"),
        **limits(found, cpu),
    }
    command = [*children.torch, str(threads)]
    timed = run_steps(command, TORCH_STEPS, max(until - time.monotonic(), 1.0), environment)
    if "int8" in timed.faults:
        left = max(until - time.monotonic(), 1.0)
        fewer_bits = run_steps(command, [SEVEN_BITS], left, environment)
        timed.results |= fewer_bits.results
        timed.faults |= fewer_bits.faults
        timed.late |= fewer_bits.late
    return timed


def class_by_execution(cpu: Cpu, native: Outcome, faults: dict[str, str]) -> tuple[CpuClass, str]:
    """The class by what was shown, granted and executed, and the reason in words."""
    shown = cpu.shown
    if shown != "C":
        return shown, {
            "B": "AVX-512 with VNNI is shown, and no AMX",
            "A": "AVX2 is shown, and no AVX-512 with VNNI",
            "other": "neither AVX2 nor AVX-512 is shown",
        }[shown]
    if IN_C in faults:
        return "C", "AMX is shown; without products in C only torch's try it"
    told = native.results
    for step, words in (
        ("cpuid", "the system shows AMX and the CPU does not"),
        ("palettes", "AMX is shown without palettes of tiles"),
        ("permission", "AMX is shown, and the kernel grants no permission"),
    ):
        if failed := native.faults.get(step) or native.late.get(step):
            return "B", f"AMX is shown, but asking for it ({step}) failed: {failed}"
        if not told.get(step):
            return "B", words
    if failed := native.faults.get("amx") or native.late.get("amx"):
        return "B", f"AMX is shown and granted, but a tile product failed: {failed}"
    if not (told.get("amx") or {}).get("right"):
        return "B", "AMX is shown and granted, but a tile product is not that of plain C"
    return "C", "AMX is shown and granted, and tile products are those of plain C"


def peaks_of(native: Outcome) -> dict[str, float]:
    """The rates of the C program by instruction set and number format."""
    return {
        f"{name}_{kind}": native.results[name][kind]
        for name in ("amx", "vnni")
        for kind in ("int8", "bf16")
        if positive((native.results.get(name) or {}).get(kind))
    }


def library_limits() -> dict[str, str]:
    """Environment variables that keep torch's libraries, loaded afterwards, to this CPU's class.

    Empty where the class is all that the CPU shows. BadInput for a value of ``LMWRIGHT_ISA`` that
    is no class of this CPU.
    """
    cpu = read_cpu()
    return limits(cpu_class(cpu), cpu)
