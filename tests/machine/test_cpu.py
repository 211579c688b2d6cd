"""The class of a CPU by pretended flags, and the class that the environment names."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmwright.core.errors import BadInput
from lmwright.machine.cpu import Cpu, class_by_flags, limits, overridden_class, read_cpu

AVX2 = "fpu sse2 fma avx avx2"
AVX512 = f"{AVX2} avx512f avx512dq avx512bw avx512vl"
VNNI = f"{AVX512} avx512_vnni"
AMX = f"{VNNI} avx512_bf16 amx_bf16 amx_tile amx_int8"


def cpu(flags: str) -> Cpu:
    return Cpu("Pretended", "0x1", frozenset(flags.split()))


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("", "other"),
        ("fp asimd bf16 i8mm", "other"),
        ("fpu sse2 avx", "other"),
        (AVX2, "A"),
        (f"{AVX2} avx_vnni", "A"),
        (AVX512, "A"),
        (VNNI, "B"),
        (f"{VNNI} avx512_bf16", "B"),
        (f"{VNNI} amx_tile", "B"),
        (AMX, "C"),
        (AMX.replace("avx512_vnni", ""), "A"),
    ],
)
def test_the_class_by_flags(flags: str, name: str) -> None:
    assert class_by_flags(flags.split()) == name


def test_a_file_of_two_processors_and_one_of_arm(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(
        "processor\t: 0\nmodel name\t: One: 2 GHz\nmicrocode\t: 0x2b\nflags\t\t: avx2 fma\n\n"
        "processor\t: 1\nmodel name\t: Two\nmicrocode\t: 0x3\nflags\t\t: sse2\n"
    )
    assert read_cpu(path) == Cpu("One: 2 GHz", "0x2b", frozenset({"avx2", "fma"}))
    path.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert read_cpu(path).flags == {"fp", "asimd"} and read_cpu(path).model
    assert read_cpu(tmp_path / "nothing").flags == frozenset()


def test_a_named_class(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, flags, found in (
        ("", AMX, None),
        ("A", AMX, "A"),
        (" B ", AMX, "B"),
        ("C", AMX, "C"),
    ):
        monkeypatch.setenv("LMWRIGHT_ISA", value)
        assert overridden_class(cpu(flags)) == found


@pytest.mark.parametrize("value", ["D", "b", "gpu", "other", "avx2"])
def test_an_unknown_class_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LMWRIGHT_ISA", value)
    with pytest.raises(BadInput, match=f"LMWRIGHT_ISA is '{value}'; wanted: A, B or C"):
        overridden_class(cpu(AMX))


def test_a_class_above_the_flags_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMWRIGHT_ISA", "C")
    with pytest.raises(BadInput, match="does not show amx_bf16, amx_int8, amx_tile"):
        overridden_class(cpu(VNNI))


def test_libraries_are_limited_only_below_what_is_shown() -> None:
    assert limits("B", cpu(VNNI)) == limits("C", cpu(AMX)) == limits("other", cpu("")) == {}
    assert limits("B", cpu(AMX)) == {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"}
    assert limits("A", cpu(VNNI))["ATEN_CPU_CAPABILITY"] == "avx2"
