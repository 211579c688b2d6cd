"""The settings ``device`` and ``precision``: what they mean on this machine, and what that costs.

torch is imported where it is asked, so that a recipe that names both, or needs neither, is read
without it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from lmwright.core.errors import BadInput, nearest
from lmwright.machine.cpu import CpuClass
from lmwright.machine.probe import cpu_class

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "int8", "int4"]
ProductPrecision = Literal["fp32", "bf16", "int8", "int4"]
KvPrecision = Literal["fp32", "int8"]
TrainingPrecision = Literal["auto", "fp32", "bf16"]
"""The precisions that weights can be learnt in: gradients vanish in int8."""
PACKED = ("int8", "int4")
"""The precisions whose products are of packed weights and whole numbers, on a CPU."""

NATIVE_CAPABILITY = (8, 0)
"""The first compute capability of CUDA devices that multiply in bf16 themselves."""
NATIVE_QUESTIONS: dict[CpuClass, tuple[str, ...]] = {
    "A": (),
    "B": ("_is_avx512_bf16_supported",),
    "C": ("_is_avx512_bf16_supported", "_is_amx_tile_supported"),
    "other": ("_is_avx512_bf16_supported", "_is_amx_tile_supported"),
}
"""The questions of torch.cpu that count on a CPU of each class; other systems show no flags."""
PROBE = (256, 768, 768)
"""Rows, inputs and outputs of the product that :func:`bf16_cost` measures."""
ROUNDS = 10


@dataclass(frozen=True)
class Placement:
    """Where networks run and in what their products are computed: resolved, never ``auto``.

    ``kv`` is what the KV cache of a text that is written keeps keys and values in.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: ProductPrecision = "fp32"
    kv: KvPrecision = "fp32"

    def __str__(self) -> str:
        """The precisions in words."""
        return self.precision + (f" with keys and values in {self.kv}" * (self.kv != "fp32"))

    @property
    def torch_device(self) -> torch.device:
        """The device as torch's."""
        import torch

        return torch.device(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the products as torch's; of those of packed weights that of what goes in
        and out."""
        import torch

        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def to_json(self) -> dict[str, str]:
        """The resolved settings by their names; ``kv``, which few results have, where it is set."""
        found: dict[str, str] = {"device": self.device, "precision": self.precision}
        return found if self.kv == "fp32" else {**found, "kv": self.kv}


DEFAULT = Placement()
"""fp32 on the CPU: what everything is that names no other."""


def resolve_placement(device: str, precision: str, kv: str = "fp32") -> Placement:
    """What the settings mean here; BadInput for a CUDA device where there is none.

    By rules and no timing, so that a machine gives the same answer always: ``auto`` is a CUDA
    device if torch sees one, and bf16 on one that multiplies in it natively; on a CPU it is fp32,
    whatever the CPU has, as the bits of one machine should be those of the next.
    """
    check_placement(device, precision, kv)
    keys_in = cast(KvPrecision, kv)
    where: Literal["cpu", "cuda"] = "cpu" if device == "cpu" or not cuda_there() else "cuda"
    if device == "cuda" and where == "cpu":
        raise BadInput(
            f"device is cuda, and torch sees no CUDA device here ({seen()})",
            "auto or cpu on this machine",
            "set device to cpu, or use a machine with a GPU and a torch that is built for it",
        )
    if precision == "auto":
        half = where == "cuda" and native_bf16("cuda")
        return Placement(where, "bf16" if half else "fp32", keys_in)
    if precision in PACKED and where == "cuda":
        raise BadInput(
            f"precision is {precision} on a CUDA device",
            f"{precision} on the CPU, or bf16 or fp32 on the device",
            "set device to cpu, or precision to bf16",
        )
    return Placement(where, cast(ProductPrecision, precision), keys_in)


def check_placement(device: str, precision: str, kv: str = "fp32") -> None:
    """BadInput for a device or a precision that no machine has."""
    asked = (
        ("device", device, Device),
        ("precision", precision, Precision),
        ("kv", kv, KvPrecision),
    )
    for name, value, known in asked:
        if value not in get_args(known):
            raise BadInput(
                f"{name} is {value!r}",
                "one of " + ", ".join(get_args(known)),
                nearest(str(value), get_args(known)),
            )


def cuda_there() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return bool(torch.cuda.is_available())


def seen() -> str:
    """What torch has to work with on this machine, in words."""
    import torch

    if cuda_there():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"a CPU with {torch.get_num_threads()} threads, torch {torch.__version__}"


def device_name(device: str) -> str:
    """The device, a CUDA device by its model."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else device


def native_bf16(device: str) -> bool:
    """Whether the device multiplies in bf16 itself; others convert to fp32 and back.

    On x86 that takes the instructions of AVX512_BF16 or AMX: torch's own question is answered
    with yes by every CPU with AVX-512, most of which emulate it. They count as far as the class
    of the CPU goes, which a probe or ``LMWRIGHT_ISA`` may have set below what it shows.
    """
    import torch

    if device == "cuda":
        return cuda_there() and torch.cuda.get_device_capability() >= NATIVE_CAPABILITY
    questions: list[Callable[[], bool]] = [
        getattr(torch.cpu, name)
        for name in NATIVE_QUESTIONS[cpu_class()]
        if hasattr(torch.cpu, name)
    ]
    return any(question() for question in questions) or arm_bf16()


def arm_bf16() -> bool:
    """Whether this is an Arm CPU with instructions for bf16."""
    import platform

    import torch

    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return platform.machine() in ("arm64", "aarch64") and asked is not None and bool(asked())


@functools.cache
def bf16_cost(device: str) -> float:
    """The time of a small product in bf16, conversions included, over that in fp32: measured."""
    import torch

    from lmwright.models.core.bf16 import Bf16Product
    from lmwright.models.core.matmul import linear

    rows, inputs, outputs = PROBE
    x_ni = torch.ones(rows, inputs, device=device)
    weight_oi = torch.ones(outputs, inputs, device=device)

    def seconds(product: Callable[..., Any]) -> float:
        began = time.perf_counter()
        float(product(x_ni, weight_oi, None)[0, 0])  # which waits for the device
        return time.perf_counter() - began

    with torch.inference_mode():
        products = Bf16Product(), linear
        # In turns, so that a neighbour on the machine slows both; the first round warms up.
        rounds = [[seconds(product) for product in products] for _ in range(ROUNDS)][1:]
    half, single = map(min, zip(*rounds, strict=True))
    return half / single


def emulation_in_words(placement: Placement) -> str:
    """That bf16 is emulated here, and what that costs; empty where it is not."""
    if placement.precision != "bf16" or native_bf16(placement.device):
        return ""
    return (
        f"precision is bf16, which this {placement.device} only emulates: "
        f"a small product takes {bf16_cost(placement.device):.2f} times as long as in fp32"
    )


def describe_placement(placement: Placement) -> dict[str, Any]:
    """Facts for a journal: where and in what, on which machine, and for bf16 what that costs."""
    found: dict[str, Any] = {**placement.to_json(), "seen": seen()}
    if placement.precision == "bf16":
        found["native"] = native_bf16(placement.device)
        found["bf16_time_over_fp32"] = round(bf16_cost(placement.device), 2)
    return found


def reproducible(device: str) -> None:
    """Have torch take kernels that give the same bits each time, where a CUDA device has them."""
    if device != "cuda":
        return
    import os

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
