"""The doctor: is this machine fit for the work, and why did a run fail?

A run's journal says what happened; the doctor reads it and says what it means and what to do.
Each cause is a function of the journal that finds its own signs, or does not.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil

from lmwright.assets import ASSETS, cache_folder
from lmwright.core.journal import read_journal
from lmwright.machine.choice import choices
from lmwright.machine.probe import Machine, Say, probed_machine, silent
from lmwright.machine.quota import cpu_quota, granted_threads, usable_cores
from lmwright.models.core.device import (
    Precision,
    bf16_cost,
    cuda_there,
    native_bf16,
    resolve_placement,
)
from lmwright.store.run import read_run
from lmwright.store.store import Store

GIGABYTE = 1e9
NEEDED_MEMORY = 3 * GIGABYTE
NEEDED_DISK = 3 * GIGABYTE


@dataclass(frozen=True)
class Finding:
    """Something that was looked at: whether it is well, what was seen, and what to do.

    ``facts`` has the numbers behind ``seen``, for programs.
    """

    name: str
    well: bool
    seen: str
    cure: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


Events = Sequence[dict[str, Any]]


def check_machine(store: Path, say: Say = silent, again: bool = False) -> list[Finding]:
    """What a run needs of this machine, each looked at and not guessed.

    ``say`` is told what the probe of the CPU tries; ``again`` has it tried although it is known.
    BadInput for a value of ``LMWRIGHT_ISA`` that is no class of this CPU.
    """
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(existing(store))
    threads = granted_threads()
    load = os.getloadavg()[0]
    have = [name for name, a in ASSETS.items() if unpacked_is_there(name, a.sha256)]
    return [
        Finding("python", sys.version_info >= (3, 11), sys.version.split()[0], "install 3.11"),
        Finding(
            "memory",
            memory.available >= NEEDED_MEMORY,
            f"{memory.available / GIGABYTE:.1f} of {memory.total / GIGABYTE:.1f} GB are free",
            "close other programs, or lower train.batch and train.max_tokens",
        ),
        Finding(
            "disk",
            disk.free >= NEEDED_DISK,
            f"{disk.free / GIGABYTE:.1f} GB are free for the store",
            "lmwright gc, or another --store",
        ),
        Finding(
            "load",
            load < threads,
            f"load {load:.1f} on {threads} cores",
            "others use the cores: times will be longer than forecast",
        ),
        durable(store),
        threads_finding(),
        torch_finding(),
        *gpu_findings(),
        *cpu_findings(probed_machine(say, again=again)),
        bf16_finding(),
        Finding("assets", True, f"{len(have)} of {len(ASSETS)} are fetched: {', '.join(have)}"),
    ]


def durable(store: Path) -> Finding:
    """Whether the store's disk takes a write, an fsync and a rename."""
    try:
        with tempfile.TemporaryDirectory(dir=existing(store)) as folder:
            path = Path(folder) / "a"
            with path.open("wb") as file:
                file.write(b"x")
                file.flush()
                os.fsync(file.fileno())
            path.rename(Path(folder) / "b")
    except OSError as error:
        return Finding("store", False, f"{store}: {error.strerror}", "choose another --store")
    return Finding("store", True, f"{store} can be written durably")


def torch_finding() -> Finding:
    """Which torch there is and on how many threads it would work."""
    import torch

    device = torch.cuda.get_device_name() if cuda_there() else "no GPU"
    seen = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}"
    return Finding("torch", True, seen)


def threads_finding() -> Finding:
    """The number of threads that are granted, and by what."""
    cores, quota, threads = usable_cores(), cpu_quota(), granted_threads()
    limit = "no quota" if quota is None else f"a quota of {quota:g}"
    seen = f"{threads} are granted: {cores} usable cores of {os.cpu_count()} seen, {limit}"
    return Finding("threads", True, seen, facts={"threads": threads, "quota": quota})


def gpu_findings() -> Iterator[Finding]:
    """Kind, memory and bf16 of the GPU that torch works on, where there is one."""
    if not cuda_there():
        return
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory
    major, minor = torch.cuda.get_device_capability()
    bf16 = native_bf16("cuda")
    facts = {
        "class": "gpu",
        "name": torch.cuda.get_device_name(),
        "memory": memory,
        "capability": [major, minor],
        "bf16": bf16,
    }
    seen = (
        f"class gpu: {facts['name']}, {memory / GIGABYTE:.1f} GB, compute capability "
        f"{major}.{minor}, bf16 {'native' if bf16 else 'not native'}"
    )
    yield Finding("gpu", True, seen, facts=facts)


PRODUCT_NAMES = {
    "fp32": "fp32",
    "onednn": "fp32 oneDNN",
    "bf16": "bf16",
    "int8": "int8",
    "int8_7bit": "int8 7 bits",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX bf16",
    "vnni_int8": "VNNI int8",
}


def cpu_findings(machine: Machine) -> Iterator[Finding]:
    """Class of the CPU, rates by rows, bandwidth, and the fastest product for each work."""
    microcode = f", microcode {machine.microcode}" if machine.microcode else ""
    yield Finding(
        "cpu",
        True,
        f"class {machine.cpu_class} ({machine.model}{microcode}): {machine.why}",
        facts=machine.to_json(),
    )
    for name, rates in machine.rates.items():
        figures = ", ".join(f"{rate:.0f} at {rows}" for rows, rate in rates.items())
        yield Finding(
            f"rate {PRODUCT_NAMES[name]}", True, f"1e9 operations/s of a thread by rows: {figures}"
        )
    if machine.peaks:
        figures = ", ".join(
            f"{PRODUCT_NAMES[name]} {peak:.0f}" for name, peak in machine.peaks.items()
        )
        yield Finding("peak", True, f"1e9 operations/s of a thread in C: {figures}")
    if machine.bandwidth:
        figures = ", ".join(
            f"{rate:.1f} GB/s with {count} thread{'s' * (count != '1')}"
            for count, rate in machine.bandwidth.items()
        )
        yield Finding("bandwidth", True, f"{figures} (memory, read)")
    for name, words in {**machine.faults, **machine.late}.items():
        # Without fp32 nothing of a network can be computed here; all else has another way.
        seen = f"not measured: {name}; {words}"
        yield Finding(
            "probe",
            name != "fp32" or name in machine.late,
            seen,
            "reinstall torch, or set LMWRIGHT_ISA to a lower class",
        )
    for found in choices(machine):
        how = (
            f"precision: {found.product}"
            if found.product in get_args(Precision)
            else "no precision has it yet"
        )
        seen = f"{found.work}: {found.product}, {found.why}; {how}"
        yield Finding("fastest", True, seen, facts=vars(found))


def bf16_finding() -> Finding:
    """Whether the device that ``auto`` means multiplies in bf16, and how fast that is."""
    device = resolve_placement("auto", "bf16").device
    how = "native" if native_bf16(device) else "emulated"
    seen = f"{how} on this {device}: a small product takes {bf16_cost(device):.2f} times as long"
    return Finding("bf16", True, f"{seen} as in fp32")


def unpacked_is_there(name: str, sha256: str) -> bool:
    """Whether an asset has been fetched."""
    return (cache_folder() / f"{name}-{sha256[:16]}").is_dir()


def existing(path: Path) -> Path:
    """The path or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def explain_run(store: Store, name: str) -> list[Finding]:
    """What a run's journal says of how it ended, the likeliest cause first."""
    read_run(store, name)
    events = list(read_journal(store.folder / "runs" / name / "journal.jsonl"))
    found = [finding for cause in CAUSES for finding in cause(events)]
    ended = [event for event in events if event["event"] == "run ended"]
    if ended and ended[-1]["state"] == "done" and not found:
        return [Finding("run", True, "it ended well, and its journal shows nothing unusual")]
    return found or [
        Finding("run", False, f"it failed: {ended[-1].get('error', '')}", "see its journal")
    ]


def killed(events: Events) -> list[Finding]:
    """The process ended without a word: SIGKILL, most often for want of memory."""
    if any(event["event"] == "run ended" for event in events):
        return []
    process = next((event.get("process") for event in events if "process" in event), None)
    if isinstance(process, int) and psutil.pid_exists(process):
        return [Finding("running", True, f"process {process} is still at work")]
    return [
        Finding(
            "killed",
            False,
            f"the process was killed in {last_stage(events)} (a machine short of memory does that)",
            "run it again: it goes on from the last checkpoint. If it is killed again at the same "
            "place, lower train.batch or train.max_tokens",
        )
    ]


def last_stage(events: Events) -> str:
    """The stage that a run came to."""
    began = [event["step"] for event in events if event["event"] == "stage began"]
    return str(began[-1]) if began else "the first stage"


def interrupted(events: Events) -> list[Finding]:
    """Somebody stopped the run with a signal, as a shutdown or Ctrl-C does."""
    if not any(e["event"] == "run ended" and e["state"] == "interrupted" for e in events):
        return []
    return [
        Finding(
            "interrupted",
            False,
            f"somebody stopped it in {last_stage(events)} (Ctrl-C, SIGTERM or a shutdown); "
            "it did not fail",
            "run it again: it goes on from the last checkpoint",
        )
    ]


def out_of_memory(events: Events) -> list[Finding]:
    """An allocation failed."""
    for event in events:
        text = f"{event.get('kind', '')} {event.get('error', '')}".lower()
        if event["event"] == "run ended" and (
            "memoryerror" in text or "can't allocate memory" in text or "out of memory" in text
        ):
            return [
                Finding(
                    "out of memory",
                    False,
                    str(event.get("error", ""))[:200],
                    "halve train.batch or train.max_tokens, then run again: it resumes",
                )
            ]
    return []


def not_a_number(events: Events) -> list[Finding]:
    """A loss or gradient that is no number."""
    return [
        Finding(
            "no number",
            False,
            f"{event.get('what', 'the loss')} was {event.get('loss', 'not finite')} at step "
            f"{event.get('step')}",
            "lower train.lr by ten, or raise the warmup of train.schedule; "
            "look at the rows of that step",
        )
        for event in events
        if event["event"] == "fault"
    ][:1]


def exploding_gradient(events: Events) -> list[Finding]:
    """The gradient's norm grew far beyond what it was."""
    norms = [event["gradient"] for event in events if is_step(event) and event.get("gradient")]
    if len(norms) < 20:
        return []
    usual, late = float(np.median(norms[: len(norms) // 2])), float(np.max(norms[-10:]))
    if late < 50 * usual:
        return []
    return [
        Finding(
            "exploding gradient",
            False,
            f"its norm rose from about {usual:.3g} to {late:.3g}",
            "lower train.lr, or train.clip, or raise the warmup of train.schedule",
        )
    ]


def no_learning(events: Events) -> list[Finding]:
    """The loss at the end is what it was at the beginning."""
    losses = [event["loss"] for event in events if is_step(event)]
    if len(losses) < 60:
        return []
    third = len(losses) // 3
    first, last = np.array(losses[:third]), np.array(losses[-third:])
    spread = np.sqrt(first.var() / third + last.var() / third)
    if first.mean() - last.mean() > 2 * spread:
        return []
    return [
        Finding(
            "no learning",
            False,
            f"the loss began at {first.mean():.3f} and ended at {last.mean():.3f}",
            "raise train.lr or train.epochs; check the labels (see label_errors in quality.json)",
        )
    ]


def data_fault(events: Events) -> list[Finding]:
    """The data stage refused its sources."""
    for event in events:
        if event["event"] == "run ended" and event.get("kind") in {"BadInput", "Corrupt"}:
            stage = [e["step"] for e in events if e["event"] == "stage began"]
            where = stage[-1] if stage else "the recipe"
            return [Finding("bad input", False, f"in {where}: {event['error']}", "as it says")]
    return []


def is_step(event: dict[str, Any]) -> bool:
    """Whether an event is a training step with a loss."""
    return event["event"] == "step" and isinstance(event.get("loss"), float)


CAUSES: tuple[Callable[[Events], list[Finding]], ...] = (
    killed,
    interrupted,
    out_of_memory,
    not_a_number,
    exploding_gradient,
    no_learning,
    data_fault,
)
