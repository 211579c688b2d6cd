"""What the command line sets for torch's libraries before they are loaded."""

from __future__ import annotations

import os

import pytest

from lmwright.cli.main import set_environment
from lmwright.machine import probe, quota
from tests.machine.test_cpu import AMX, cpu

NAMES = ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "LMWRIGHT_ISA", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables is set, before and after."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def seen() -> dict[str, str]:
    """The variables that are set."""
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_without_a_quota_torch_chooses_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "cpu_quota", lambda *_: None)
    set_environment()
    assert seen() == {"GOMP_SPINCOUNT": "2000"}


def test_threads_are_those_of_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "usable_cores", lambda: 64)
    monkeypatch.setattr(quota, "cpu_quota", lambda *_: 3.5)
    set_environment()
    assert seen()["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    set_environment()
    assert seen()["OMP_NUM_THREADS"] == "8"


def test_libraries_are_kept_to_a_named_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "read_cpu", lambda: cpu(AMX))
    monkeypatch.setenv("LMWRIGHT_ISA", "B")
    set_environment()
    assert seen()["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE_FP16"
