"""The probe: children that die, what is kept, the class by what was executed, and this machine."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lmwright.core.errors import BadInput, MissingPart
from lmwright.machine import probe as probe_module
from lmwright.machine.choice import WORTH, choices
from lmwright.machine.compiled import SOURCE, compile_source
from lmwright.machine.probe import (
    IN_C,
    Children,
    Machine,
    cpu_class,
    kept_machine,
    kept_path,
    probed_machine,
)
from lmwright.machine.steps import run_steps
from tests.machine.test_cpu import AMX, AVX2, VNNI, cpu

DYING = str(Path(__file__).with_name("dying.py"))
RATES = {"1": 10.0, "4": 20.0, "16": 40.0, "512": 80.0}
RESULTS = {
    "cpuid": True,
    "palettes": 1,
    "permission": True,
    "amx": {"right": True, "int8": 4000.0, "bf16": 1500.0},
    "vnni": {"right": True, "int8": 600.0},
    "fp32": RATES,
    "onednn": RATES,
    "bandwidth": {"1": 15.0},
    "bf16": {rows: 9 * rate for rows, rate in RATES.items()},
    "int8": {rows: 1.1 * rate for rows, rate in RATES.items()},
    "int8_7bit": RATES,
}
"""What children of a CPU with AMX tell."""


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMWRIGHT_ISA", raising=False)


@pytest.fixture
def dying(tmp_path: Path) -> Callable[..., list[str]]:
    """A function from deaths and results by step to the command of the child."""

    def command(deaths: dict | None = None, **results: object) -> list[str]:
        (tmp_path / "deaths.json").write_text(json.dumps(deaths or {}))
        (tmp_path / "results.json").write_text(json.dumps({**RESULTS, **results}))
        return [sys.executable, DYING, str(tmp_path)]

    return command


def children(command: list[str]) -> Children:
    """Both children from one command."""
    return Children(command, lambda folder: command)


def begun(folder: Path) -> list[str]:
    """The steps of each process that was begun."""
    log = folder / "log"
    return log.read_text().splitlines() if log.is_file() else []


# -- steps ------------------------------------------------------------------------------------


def test_a_child_that_dies_of_sigill_is_survived_and_the_other_steps_are_done(dying, tmp_path):
    found = run_steps(dying({"b": "SIGILL"}), ["a", "b", "c"], 20)
    assert found.results == {"a": 1.0, "c": 1.0}
    assert found.faults == {"b": "the process was ended by SIGILL"} and not found.late
    assert begun(tmp_path) == ["a b c", "c"]


def test_every_other_end_is_told_too(dying):
    found = run_steps(
        dying({"a": "SIGSEGV", "b": "code", "c": "wrong", "e": "silent"}), "abcde", 20
    )
    assert found.results == {"d": 1.0}
    assert found.faults["a"] == "the process was ended by SIGSEGV"
    assert found.faults["b"].startswith("the process ended with code 1: no such product")
    assert found.faults["c"] == "a product is wrong"
    assert found.faults["e"] == "the process ended without a result"


def test_a_child_that_hangs_ends_with_the_time(dying):
    found = run_steps(dying({"b": "hang"}), ["a", "b", "c"], 1.0)
    assert found.results == {"a": 1.0} and found.late.keys() == {"b", "c"} and not found.faults


def test_a_command_that_is_none(tmp_path):
    with pytest.raises(MissingPart, match="none did not start"):
        run_steps([str(tmp_path / "none")], ["a", "b"], 5)


# -- the class --------------------------------------------------------------------------------


def test_amx_that_executes_is_class_c(dying, tmp_path):
    said: list[str] = []
    found = probed_machine(said.append, cpu(AMX), tmp_path / "kept", children(dying()))
    assert found.cpu_class == "C" and "those of plain C" in found.why and not found.faults
    assert found.peaks == {"amx_int8": 4000.0, "amx_bf16": 1500.0, "vnni_int8": 600.0}
    assert found.rates["bf16"]["512"] == 720 and found.bandwidth == {"1": 15.0}
    assert any("as class C" in words for words in said)


@pytest.mark.parametrize(
    ("deaths", "results", "why"),
    [
        ({"amx": "SIGILL"}, {}, "a tile product failed: the process was ended by SIGILL"),
        ({"palettes": "SIGILL"}, {}, "asking for it (palettes) failed"),
        ({}, {"cpuid": False}, "the CPU does not"),
        ({}, {"palettes": 0}, "without palettes"),
        ({}, {"permission": False}, "no permission"),
        ({}, {"amx": {"right": False}}, "not that of plain C"),
        ({"bf16": "SIGILL unless limited"}, {}, "torch's product in bf16 failed"),
    ],
)
def test_amx_that_is_shown_and_does_not_execute_is_class_b(dying, tmp_path, deaths, results, why):
    folder = tmp_path / "kept"
    found = probed_machine(cpu=cpu(AMX), folder=folder, children=children(dying(deaths, **results)))
    assert found.cpu_class == "B" and why in found.why
    # torch is timed all the same, without the instructions that fail.
    assert found.rates["bf16"] and begun(tmp_path)[-1].endswith("AVX512_CORE_FP16")
    assert cpu_class(cpu(AMX), folder) == "B"
    assert cpu_class(cpu(AMX), tmp_path / "empty") == "C"


@pytest.mark.parametrize(("flags", "name"), [(AVX2, "A"), (VNNI, "B"), ("", "other")])
def test_other_classes_follow_from_the_flags(dying, tmp_path, flags, name):
    found = probed_machine(cpu=cpu(flags), folder=tmp_path / "kept", children=children(dying()))
    assert found.cpu_class == name and "shown" in found.why
    assert cpu_class(cpu(flags), tmp_path / "empty") == name


def test_without_a_compiler_torch_tries_amx(dying, tmp_path):
    def none(folder: Path) -> list[str]:
        raise MissingPart("no C compiler was found")

    found = probed_machine(cpu=cpu(AMX), folder=tmp_path / "kept", children=Children(dying(), none))
    assert found.cpu_class == "C" and not found.peaks and "no C compiler" in found.faults[IN_C]
    forbidden = Children(dying(), lambda folder: [str(tmp_path)])  # as on a disk without execution
    found = probed_machine(cpu=cpu(AMX), folder=tmp_path / "forbidden", children=forbidden)
    assert found.cpu_class == "C" and "did not start" in found.faults[IN_C]
    dead = Children(dying({"int8": "SIGILL unless limited"}), none)
    found = probed_machine(cpu=cpu(AMX), folder=tmp_path / "dead", children=dead)
    assert found.cpu_class == "B" and "SIGILL" in found.why and found.rates["int8"]


def test_int8_that_saturates_is_timed_with_seven_bits(dying, tmp_path):
    given = children(dying({"int8": "wrong"}))
    found = probed_machine(cpu=cpu(AVX2), folder=tmp_path / "kept", children=given)
    assert "int8" not in found.rates and found.rates["int8_7bit"] == RATES
    assert found.faults == {"int8": "a product is wrong"}


# -- what is kept -------------------------------------------------------------------------------


def test_the_second_probe_is_read_from_what_the_first_kept(dying, tmp_path):
    given, folder = children(dying()), tmp_path / "kept"
    first = probed_machine(cpu=cpu(AMX), folder=folder, children=given)
    count = len(begun(tmp_path))
    assert probed_machine(cpu=cpu(AMX), folder=folder, children=given) == first
    assert len(begun(tmp_path)) == count > 0
    probed_machine(cpu=cpu(AMX), folder=folder, children=given, again=True)
    assert len(begun(tmp_path)) == 2 * count


def test_another_model_microcode_or_set_of_flags_is_another_cpu(tmp_path):
    one = cpu(AMX)
    others = [replace(one, model="Other"), replace(one, microcode="0x2"), cpu(VNNI)]
    assert len({kept_path(each, tmp_path, None) for each in [one, *others]}) == 4
    assert kept_path(cpu(AMX), tmp_path, None) == kept_path(one, tmp_path, None)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"model": 1}', "\x00\xff", "CLASS", "RATE", "TABLE"],
)
def test_a_broken_file_is_made_anew(dying, tmp_path, text):
    given, folder = children(dying()), tmp_path / "kept"
    first = probed_machine(cpu=cpu(AMX), folder=folder, children=given)
    changed = {
        "CLASS": {"cpu_class": "Z"},
        "RATE": {"rates": {"fp32": {"1": -1}}},
        "TABLE": {"peaks": [1]},
    }.get(text)
    path = kept_path(cpu(AMX), folder, None)
    path.write_text(json.dumps({**first.to_json(), **changed}) if changed else text)
    assert kept_machine(cpu(AMX), folder) is None and cpu_class(cpu(AMX), folder) == "C"
    assert probed_machine(cpu=cpu(AMX), folder=folder, children=given) == first
    assert kept_machine(cpu(AMX), folder) == first


def test_what_there_was_no_time_for_is_not_kept(dying, tmp_path, monkeypatch):
    monkeypatch.setattr(probe_module, "SECONDS", 2.0)
    given = children(dying({"bandwidth": "hang"}))
    found = probed_machine(cpu=cpu(VNNI), folder=tmp_path / "kept", children=given)
    assert "bandwidth" in found.late and found.rates["fp32"]
    assert kept_machine(cpu(VNNI), tmp_path / "kept") is None


def test_a_folder_that_cannot_be_written_is_said(dying, tmp_path):
    (tmp_path / "file").write_text("")
    said: list[str] = []
    given = children(dying())
    assert probed_machine(said.append, cpu(VNNI), tmp_path / "file", given).cpu_class == "B"
    assert "cannot be kept" in said[-1]


def test_a_named_class_goes_before_the_probe_and_is_kept_apart(dying, tmp_path, monkeypatch):
    given, folder = children(dying()), tmp_path / "kept"
    assert probed_machine(cpu=cpu(AMX), folder=folder, children=given).cpu_class == "C"
    monkeypatch.setenv("LMWRIGHT_ISA", "B")
    found = probed_machine(cpu=cpu(AMX), folder=folder, children=given)
    assert found.cpu_class == cpu_class(cpu(AMX), folder) == "B"
    assert found.why == "named by LMWRIGHT_ISA"
    assert begun(tmp_path)[-1].endswith("AVX512_CORE_FP16")
    monkeypatch.setenv("LMWRIGHT_ISA", "Z")
    with pytest.raises(BadInput, match="A, B or C"):
        probed_machine(cpu=cpu(AMX), folder=folder, children=given)
    monkeypatch.delenv("LMWRIGHT_ISA")
    assert cpu_class(cpu(AMX), folder) == "C"


# -- choices ------------------------------------------------------------------------------------


def test_the_fastest_product_is_chosen_where_it_is_worth_it():
    machine = Machine("x", "y", "C", "", 2, {name: RESULTS[name] for name in ("fp32", "bf16")})
    assert {found.work: found.product for found in choices(machine)}["training"] == "bf16"
    slow = {rows: (WORTH - 0.01) * rate for rows, rate in RATES.items()}
    fast = {rows: (WORTH + 0.01) * rate for rows, rate in RATES.items()}
    machine = replace(machine, rates={"fp32": RATES, "bf16": slow, "int8": fast})
    found = {each.work: each.product for each in choices(machine)}
    assert found.pop("training") == "fp32" and set(found.values()) == {"int8"}
    # fp32 is what the faster library reaches.
    machine = replace(machine, rates={**machine.rates, "onednn": fast})
    assert {each.product for each in choices(machine)} == {"fp32"}
    assert choices(replace(machine, rates={})) == []


# -- here ---------------------------------------------------------------------------------------


def test_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(probe_module, "SECONDS", 40.0)
    found = probed_machine(folder=tmp_path)
    assert not found.late and found == kept_machine(folder=tmp_path)
    rates = [rate for by_rows in found.rates.values() for rate in by_rows.values()]
    assert found.rates["fp32"].keys() == {"1", "4", "16", "512"}
    for number in [*rates, *found.peaks.values(), *found.bandwidth.values()]:
        assert math.isfinite(number) and 0 < number < 1e5
    # More rows read a weight once for more work.
    assert max(found.rates["bf16"].values()) > found.rates["bf16"]["1"]
    if shutil.which("cc") and found.cpu_class in ("B", "C"):
        assert found.peaks["vnni_int8"] > found.rates["fp32"]["1"]


compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="this machine lacks a C compiler")


@compiled
def test_tile_products_are_right_by_the_published_operation(tmp_path):
    """The C tiles against plain C, each tile instruction computed as Intel's manual writes it."""
    pretended = Path(__file__).with_name("tiles.c")
    program = tmp_path / "tiles"
    include = f'-DPRODUCT="{SOURCE}"'
    made = subprocess.run(
        ["cc", "-O1", include, "-o", str(program), str(pretended)], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert subprocess.run([str(program)], capture_output=True, text=True).stdout == "1 0 0\n"


@compiled
def test_a_program_is_compiled_once_and_anew_for_another_source(tmp_path, monkeypatch):
    first = compile_source(tmp_path)
    made = first.stat().st_mtime_ns
    assert compile_source(tmp_path) == first and first.stat().st_mtime_ns == made
    other = tmp_path / "other.c"
    other.write_text("int main(void) { return 0; }")
    assert compile_source(tmp_path, other) != first
    other.write_text("no C")
    with pytest.raises(MissingPart, match=r"does not compile other\.c"):
        compile_source(tmp_path, other)
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    with pytest.raises(MissingPart, match="no C compiler"):
        compile_source(tmp_path)


@compiled
def test_the_program_refuses_a_step_that_is_none(tmp_path):
    program = str(compile_source(tmp_path))
    found = run_steps([program], ["cpuid", "nothing", "vnni"], 20)
    assert found.faults.keys() == {"nothing"} and found.results.keys() == {"cpuid", "vnni"}
