"""What the settings device and precision mean on machines with and without a GPU, pretended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmwright.core.errors import BadInput
from lmwright.core.stamp import settings_of, stamp_of
from lmwright.evals.evaluate import Evaluate
from lmwright.models.core import device
from lmwright.models.core.device import (
    Placement,
    bf16_cost,
    describe_placement,
    emulation_in_words,
    native_bf16,
    resolve_placement,
)
from lmwright.models.placement import place_networks, place_or_refuse
from lmwright.plan.doctor import bf16_finding
from lmwright.train.finetune import Train


@pytest.fixture
def gpu(monkeypatch):
    """A function that pretends a GPU of a compute capability."""

    def pretend(*capability: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Pretended")

    return pretend


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def emulate(monkeypatch) -> None:
    """A CPU without instructions for bf16."""
    monkeypatch.setattr(device, "cpu_class", lambda: "C")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    monkeypatch.setattr(device, "arm_bf16", lambda: False)


def test_auto_is_fp32_on_the_cpu_where_there_is_no_gpu(no_gpu):
    assert resolve_placement("auto", "auto") == Placement("cpu", "fp32")
    assert resolve_placement("cpu", "auto") == Placement("cpu", "fp32")
    assert resolve_placement("auto", "bf16") == Placement("cpu", "bf16")


def test_auto_is_the_gpu_and_bf16_where_it_is_native(gpu):
    gpu(8, 0)
    assert resolve_placement("auto", "auto") == Placement("cuda", "bf16")
    assert resolve_placement("cuda", "fp32") == Placement("cuda", "fp32")
    assert resolve_placement("cpu", "auto") == Placement("cpu", "fp32")
    gpu(7, 5)
    assert resolve_placement("auto", "auto") == Placement("cuda", "fp32")
    assert resolve_placement("auto", "bf16") == Placement("cuda", "bf16")
    assert not native_bf16("cuda")


def test_a_gpu_that_is_not_there_is_refused_with_what_is(no_gpu):
    with pytest.raises(BadInput, match=r"no CUDA device here \(a CPU with \d+ threads, torch"):
        resolve_placement("cuda", "auto")
    for stage in (Train(device="cuda"), Evaluate(device="cuda")):
        with pytest.raises(BadInput, match="set device to cpu"):
            stage.foresee({})
        with pytest.raises(BadInput, match="set device to cpu"):
            stage.resolved()


@pytest.mark.parametrize(
    ("given", "words"),
    [(("gpu", "auto"), "one of auto, cpu, cuda"), (("auto", "bf61"), "did you mean 'bf16'")],
)
def test_what_is_no_device_or_precision_is_refused(given, words):
    with pytest.raises(BadInput, match=words):
        resolve_placement(*given)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_packed_weights_are_refused_on_a_gpu(gpu, precision):
    gpu(8, 0)
    with pytest.raises(BadInput, match=f"precision is {precision} on a CUDA device"):
        resolve_placement("cuda", precision)


def test_a_stamp_has_what_auto_meant(gpu, no_gpu, monkeypatch):
    """So a result of one device is not taken for that of another, but for an equal setting's."""
    given = ("evaluate", {"rows": "a", "model": "b"}, {"rows": Path(), "model": Path()})
    monkeypatch.setattr(Evaluate, "reaches", lambda self, inputs: ())

    def stamp(**settings: str) -> str:
        return stamp_of(Evaluate(models=("model",), **settings), *given).hash

    on_cpu = stamp()
    assert on_cpu == stamp(device="cpu") == stamp(precision="fp32")
    assert on_cpu != stamp(precision="bf16")
    gpu(9, 0)
    assert stamp() == stamp(device="cuda", precision="bf16") != on_cpu
    assert stamp(device="cpu") == on_cpu
    stage = Train()
    assert settings_of(stage) | stage.resolved() == {
        **settings_of(stage),
        "device": "cuda",
        "precision": "bf16",
    }


def test_emulated_bf16_is_allowed_and_said_with_its_cost(no_gpu, monkeypatch):
    half = Placement("cpu", "bf16")
    emulate(monkeypatch)
    assert not native_bf16("cpu")
    assert f"{bf16_cost('cpu'):.2f} times as long" in emulation_in_words(half)
    assert bf16_cost("cpu") > 0
    told = describe_placement(half)
    assert told["native"] is False and told["bf16_time_over_fp32"] > 0
    assert "emulated" in bf16_finding().seen
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert emulation_in_words(half) == "" == emulation_in_words(Placement())
    assert "native" in bf16_finding().seen
    assert describe_placement(Placement()).keys() == {"device", "precision", "seen"}


@pytest.mark.parametrize(
    ("name", "avx512_bf16", "amx"),
    [("A", False, False), ("B", True, False), ("C", True, True), ("other", True, True)],
)
def test_instructions_count_as_far_as_the_class_goes(no_gpu, monkeypatch, name, avx512_bf16, amx):
    """A machine may show AMX that a probe found unusable."""
    emulate(monkeypatch)
    monkeypatch.setattr(device, "cpu_class", lambda: name)
    for question, native in (
        ("_is_avx512_bf16_supported", avx512_bf16),
        ("_is_amx_tile_supported", amx),
    ):
        with monkeypatch.context() as shown:
            shown.setattr(torch.cpu, question, lambda: True, raising=False)
            assert native_bf16("cpu") is native
        assert not native_bf16("cpu")


def test_the_class_changes_neither_what_auto_means_nor_a_stamp(no_gpu, monkeypatch):
    found = set()
    for name in ("A", "B", "C", "other"):
        monkeypatch.setattr(device, "cpu_class", lambda name=name: name)
        found.add(tuple(Train().resolved().items()))
    assert found == {(("device", "cpu"), ("precision", "fp32"))}


class WithoutNetwork:
    pass


class WithNetwork:
    def place(self, placement: Placement) -> bool:
        self.placed = placement
        return True


def test_what_runs_no_network_is_asked_for_no_gpu_and_no_bf16(no_gpu):
    plain, model = WithoutNetwork(), WithNetwork()
    assert not place_networks(plain, Placement("cpu", "bf16"))
    for given in (("auto", "auto"), ("cpu", "fp32")):
        place_or_refuse(plain, *given, "words")
    for precision in ("bf16", "int8", "int4"):
        with pytest.raises(BadInput, match=f"precision {precision} for words, which runs no"):
            place_or_refuse(plain, "cpu", precision, "words")
    with pytest.raises(BadInput, match="kv int8 for words, which runs no network"):
        place_or_refuse(plain, "cpu", "auto", "words", "int8")
    with pytest.raises(BadInput, match="kv is 'int4'; wanted: one of fp32, int8"):
        place_or_refuse(plain, "cpu", "auto", "words", "int4")
    place_or_refuse(model, "cpu", "bf16", "words")
    assert model.placed == Placement("cpu", "bf16")
