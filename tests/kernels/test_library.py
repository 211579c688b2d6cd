"""The library of kernels: compiled once, switched off, absent, cut to a class; its threads."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import lmwright.kernels.compile
from lmwright.core.errors import BadInput, MissingPart
from lmwright.kernels.compile import compile_library, shipped_library, shipped_name
from lmwright.kernels.library import WORK, available, choose, library, reason, variants

compiled = pytest.mark.skipif(not available(), reason=f"this machine lacks the kernels: {reason()}")


def run_python(program: str, **environment: str) -> str:
    """What a program prints in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_switch(monkeypatch):
    monkeypatch.setenv("LMWRIGHT_KERNELS", "off")
    assert not available() and "LMWRIGHT_KERNELS is off" in reason()
    with pytest.raises(MissingPart):
        library()
    monkeypatch.setenv("LMWRIGHT_KERNELS", "perhaps")
    with pytest.raises(BadInput, match="on or off"):
        library()


def test_without_a_compiler_there_are_none_and_the_reason_is_told(tmp_path):
    program = "from lmwright.kernels.library import *; print(available(), reason())"
    told = run_python(program, CC=str(tmp_path / "none"), XDG_CACHE_HOME=str(tmp_path))
    assert told.startswith("False no C compiler") and "references in torch are used" in told


@compiled
def test_the_library_is_compiled_once_and_anew_for_another_compiler(tmp_path, monkeypatch):
    compiled_with: list[list[str]] = []

    def build(command: list[str], _: object, made: Path) -> None:
        compiled_with.append(command)
        made.write_bytes(b"")

    monkeypatch.setattr(lmwright.kernels.compile, "build", build)
    first = compile_library(tmp_path)
    assert compile_library(tmp_path) == first and len(compiled_with) == 1
    monkeypatch.setenv("CC", "cc -DANOTHER")
    assert compile_library(tmp_path) != first and compiled_with[1] == ["cc", "-DANOTHER"]


def test_what_a_wheel_has_is_taken_without_a_compiler(tmp_path, monkeypatch):
    assert shipped_library() is None, "the sources have none beside them"
    monkeypatch.setattr(lmwright.kernels.compile, "SHIPPED", tmp_path)
    (tmp_path / shipped_name()).write_bytes(b"")
    assert shipped_library() == tmp_path / shipped_name()
    monkeypatch.setattr(lmwright.kernels.compile, "OPTIONS", ("-O1",))
    assert shipped_library() is None, "it is of other options"


@compiled
def test_what_a_compiler_does_not_know_is_left_out(tmp_path, monkeypatch):
    """A compiler that refuses the newest instructions gives a library with the other variants."""
    compiler = tmp_path / "old-cc"
    refused = "-mavxvnni | -mamx-int8 | -mavx512vnni) echo unrecognized option >&2; exit 1"
    compiler.write_text(
        f'#!/bin/sh\nfor word in "$@"; do case $word in {refused};; esac; done\nexec cc "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    code = ctypes.CDLL(str(compile_library(tmp_path)))
    code.lmw_variants.restype = ctypes.c_char_p
    code.lmw_limit(ctypes.c_char(b"C"))
    names = code.lmw_variants().decode().split()
    assert names[-1] == "plain" and not {"amx", "avx-vnni", "avx512-vnni"} & set(names)


@compiled
def test_the_class_limits_the_variants():
    program = "from lmwright.kernels.library import *; print(*variants())"
    names = variants()
    assert names[-1] == "plain"
    if "avx2" in names:
        below = run_python(program, LMWRIGHT_ISA="A").split()
        assert below == [name for name in names if name in ("avx-vnni", "avx2", "plain")]
    if "avx512-vnni" in names:
        assert run_python(program, LMWRIGHT_ISA="B").split()[0] == "avx512-vnni"
    with pytest.raises(BadInput, match="no variant 'abacus'"):
        choose("abacus")


def counted(code: ctypes.CDLL, parts: int) -> tuple[list[int], set[int]]:
    """How often each part of a region ran, and the threads that ran one."""
    times, threads = [0] * parts, set()

    def work(_: int, part: int, of: int) -> None:
        threads.add(threading.get_ident())
        for each in range(parts * part // of, parts * (part + 1) // of):
            times[each] += 1

    code.lmw_parallel_parts(WORK(work), None, parts)
    return times, threads


@compiled
def test_each_part_of_a_region_runs_once():
    code = library()
    before = code.lmw_threads()
    try:
        for threads in (1, 2, 3, 1, 4):
            code.lmw_set_threads(threads)
            assert code.lmw_threads() == threads
            for parts in (1, 2, 7, 64):
                times, used = counted(code, parts)
                assert times == [1] * parts and len(used) <= threads
    finally:
        code.lmw_set_threads(before)


@compiled
def test_a_region_inside_a_region_and_regions_of_two_threads():
    code = library()
    before = code.lmw_threads()
    code.lmw_set_threads(2)
    inner: list[list[int]] = []
    try:
        outer = WORK(lambda *_: inner.append(counted(code, 5)[0]))
        code.lmw_parallel_parts(outer, None, 3)
        assert inner and all(times == [1] * 5 for times in inner)
        results: list[bool] = []

        def many() -> None:
            results.append(all(counted(code, 6)[0] == [1] * 6 for _ in range(200)))

        callers = [threading.Thread(target=many) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
        assert results == [True] * 3
    finally:
        code.lmw_set_threads(before)
