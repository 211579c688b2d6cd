"""What a precision costs is measured beside fp32; in a conversation it decides on ``auto``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lmwright.core.errors import BadInput
from lmwright.kernels.library import SWITCH, available
from lmwright.models import answering
from lmwright.models.answering import place_to_answer
from lmwright.models.core.device import DEFAULT, Placement
from lmwright.models.core.ragged import pack
from lmwright.models.loading import load_text_model
from lmwright.models.network.network import Network
from lmwright.models.parity import Parity, parity
from lmwright.models.text_model import TextModel
from tests.cli.folders import folder_of
from tests.parity.networks import NETWORKS

needs_kernels = pytest.mark.skipif(
    not available(), reason="this machine lacks a C compiler, by which the kernels are built"
)


def network(name: str) -> tuple[Network, list[np.ndarray]]:
    made, _ = NETWORKS[name]()
    made.float().eval()
    lengths = [min(length, made.longest or length) for length in (9, 20, 31)]
    vocabulary, rng = made.spec.stacks[0].embedding.vocabulary, np.random.default_rng(0)
    return made, [rng.integers(0, vocabulary, length) for length in lengths]


def model_of(folder: Path) -> TextModel:
    return load_text_model(str(folder_of("gpt2", folder / "model")), print)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_divergence_is_that_of_the_distributions(name: str):
    made, texts = network(name)
    found = parity(made, texts, "int8")
    nats, equal = [], []
    with torch.inference_mode():
        logits = {}
        for precision in ("fp32", "int8"):
            made.place(Placement("cpu", precision))
            logits[precision] = [made(pack([ids])).double() for ids in texts]
    for one, other in zip(logits["fp32"], logits["int8"], strict=True):
        p, q = one.softmax(-1), other.softmax(-1)
        nats.append((p * (p / q).log()).sum(-1))
        equal.append(one.argmax(-1) == other.argmax(-1))
    assert found.kl_mean == pytest.approx(float(torch.cat(nats).mean()), rel=1e-2, abs=1e-7)
    assert found.kl_most == pytest.approx(float(torch.cat(nats).max()), rel=1e-2, abs=1e-7)
    assert found.equal == pytest.approx(float(torch.cat(equal).double().mean()))
    assert 0 < found.kl_mean <= found.kl_p99 <= found.kl_most
    assert found.count == sum(map(len, texts))


def test_an_encoder_has_cosines_and_fp32_costs_nothing():
    made, texts = network("bert")
    made.place(Placement("cpu", "bf16"))
    found = parity(made, texts, "int8")
    assert 0.99 < found.cosine_least < found.cosine_mean < 1
    assert parity(made, texts, "fp32").cosine_least == pytest.approx(1, abs=1e-9)
    assert made.placement == Placement("cpu", "bf16")


def test_no_texts_are_refused():
    with pytest.raises(BadInput, match="no texts"):
        parity(network("gpt2")[0], [], "int8")


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_the_other_side_is_fp32_wherever_the_network_was(name: str):
    made, texts = network(name)
    wanted = parity(made, texts, "int8")
    made.place(Placement("cpu", "int8"))
    assert parity(made, texts, "int8") == wanted
    assert made.placement == Placement("cpu", "int8")


def test_four_bits_cost_more_than_eight():
    made, texts = network("llama")
    eight, four = (parity(made, texts, each).kl_mean for each in ("int8", "int4"))
    assert 0 < 5 * eight < four < 1


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_keys_in_int8_have_a_parity_of_their_own(name: str):
    made, texts = network(name)
    keys, plain = parity(made, texts, "fp32", "int8"), parity(made, texts, "fp32")
    assert plain.kl_mean == pytest.approx(0, abs=1e-9)
    assert 1e-9 < keys.kl_mean < 0.01
    assert keys.precision == "fp32 with keys and values in int8"
    assert made.placement == DEFAULT


@needs_kernels
def test_what_a_chosen_precision_costs_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr(answering, "user_cache", lambda: tmp_path)
    model, said = model_of(tmp_path), []
    for precision in ("int8", "int4"):
        assert place_to_answer(model, "auto", precision, said.append).precision == precision
        assert model.network.placement.precision == precision
    assert [line.split(":")[0] for line in said] == ["computing in int8", "computing in int4"]
    assert all("KL 0.0" in line for line in said)
    assert said[0].partition("KL")[2] != said[1].partition("KL")[2]
    found = place_to_answer(model, "auto", "auto", said.append, "int8")
    assert found == model.network.placement == Placement("cpu", "int8", "int8")
    assert said[-1].startswith("computing in int8 with keys and values in int8: ")


@needs_kernels
def test_auto_is_int8_where_that_is_close(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr(answering, "user_cache", lambda: tmp_path)
    model, said = model_of(tmp_path), []
    assert place_to_answer(model, "auto", "auto", said.append).precision == "int8"
    assert "computing in int8" in said[0]
    assert "KL" in said[0]

    def never(*_: object) -> Parity:
        raise AssertionError("it was measured twice")

    monkeypatch.setattr(answering, "parity", never)
    assert place_to_answer(model, "auto", "auto", said.append).precision == "int8"
    assert said[0] == said[1]


@needs_kernels
def test_auto_is_fp32_where_int8_is_not_close(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr(answering, "user_cache", lambda: tmp_path)
    monkeypatch.setattr(answering, "KL_BOUND", -1.0)
    model, said = model_of(tmp_path), []
    assert place_to_answer(model, "auto", "auto", said.append) == DEFAULT
    assert "computing in fp32" in said[0]
    assert model.network.placement == DEFAULT
    assert place_to_answer(model, "auto", "int8", said.append).precision == "int8"


def test_auto_is_fp32_without_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv(SWITCH, "off")
    model, said = model_of(tmp_path), []
    assert place_to_answer(model, "auto", "auto", said.append) == DEFAULT
    assert not said
