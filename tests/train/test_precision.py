"""Training in bf16: fp32 weights that learn as in fp32, and the same bits again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lmwright.core.predictor import answer_all
from lmwright.models.core.device import Placement
from lmwright.models.core.low_rank import LowRankLinear
from lmwright.models.load import load_predictor
from lmwright.models.network.initialise import Initialisation, initialise
from lmwright.models.network.network import build
from lmwright.models.placement import place_networks
from lmwright.models.tunes.lora import LoRA
from lmwright.models.zoo import llama
from lmwright.train.base import Base
from lmwright.train.batches import EpochBatches
from lmwright.train.documents import Document, next_token_loss
from lmwright.train.loop import OptimizerConfig, State, train
from lmwright.train.optimizers import AdamW
from lmwright.train.schedules import Linear
from tests.pretend import ELSEWHERE, pretend_device
from tests.train.conftest import FakeWork
from tests.train.test_adapters import committed
from tests.train.test_finetune import files, interrupted, one_thread, stage  # noqa: F401


def test_training_in_bf16_learns_as_in_fp32_and_keeps_fp32_weights(stage, rows, tmp_path):  # noqa: F811
    works = [FakeWork({"rows": rows}, tmp_path / name) for name in "abc"]
    single = stage.run(works[0])
    half = replace(stage, precision="bf16")
    facts = half.run(works[1])
    assert abs(facts["validation_scaled_log_loss"] - single["validation_scaled_log_loss"]) < 0.05
    weights = load_file(works[1].folder / "model" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert files(works[1])["model.safetensors"] != files(works[0])["model.safetensors"]
    interrupted(half, works[2], 5)
    assert half.run(works[2]) == facts
    assert files(works[2]) == files(works[1])
    (told,) = works[1].named("placed")
    assert told["device"] == "cpu" and told["precision"] == "bf16"
    assert told["bf16_time_over_fp32"] > 0 and isinstance(told["native"], bool)
    assert works[0].named("placed")[0]["precision"] == "fp32"


def test_weights_move_in_bf16_where_bf16_itself_would_stand_still(stage, rows, tmp_path):  # noqa: F811
    """Steps below half of a bf16's last bit are lost without master weights."""
    work = FakeWork({"rows": rows}, tmp_path / "a")
    replace(stage, precision="bf16", lr=1e-6, epochs=1).run(work)
    before = FakeWork({"rows": rows}, tmp_path / "b")
    replace(stage, precision="bf16", lr=0.0, epochs=1).run(before)
    weights, old = (
        load_file(each.folder / "model" / "model.safetensors") for each in (work, before)
    )
    name = next(name for name in weights if name.endswith("up.weight"))
    pair = weights[name], old[name]
    moved, moved_by_rounding = (
        float((one != other).float().mean())
        for one, other in (pair, [each.bfloat16() for each in pair])
    )
    assert moved > 0.9 and moved_by_rounding < 0.1


def test_a_checkpoint_of_another_precision_is_told_apart(stage, rows, tmp_path, monkeypatch):  # noqa: F811
    """The settings are the same (auto); what they mean has changed under way."""
    work = FakeWork({"rows": rows}, tmp_path / "work")
    interrupted(stage, work, 9)
    monkeypatch.setattr(
        "lmwright.train.finetune.resolve_placement", lambda *_: Placement("cpu", "bf16")
    )
    stage.run(work)
    assert work.named("environment differs") == [{"differences": {"precision": ["fp32", "bf16"]}}]


def test_a_saved_model_answers_in_bf16_about_as_in_fp32(stage, rows, tmp_path, sentences):  # noqa: F811
    work = FakeWork({"rows": rows}, tmp_path / "work")
    stage.run(work)
    model = load_predictor(work.folder / "model")
    texts = [{"text": row["text"]} for row in sentences[:20]]
    single = answer_all(model, texts)
    assert place_networks(model, Placement("cpu", "bf16"))
    half = answer_all(model, texts)
    found, wanted = half.columns["logits"], single.columns["logits"]
    assert not np.array_equal(found, wanted)
    np.testing.assert_allclose(found, wanted, atol=0.1)
    assert half.vectors.dtype == np.float32
    model.save(tmp_path / "again")
    names = ("model.safetensors", "model.json", "tokenizer.json")
    assert all(
        (tmp_path / "again" / name).read_bytes() == (work.folder / "model" / name).read_bytes()
        for name in names
    )


def test_what_auto_means_trains_the_same_bits_as_its_name(stage, rows, tmp_path):  # noqa: F811
    works = [FakeWork({"rows": rows}, tmp_path / each) for each in "ab"]
    short = replace(stage, epochs=1, rows=20)
    for each, work in zip(
        (short, replace(short, device="cpu", precision="fp32")), works, strict=True
    ):
        each.run(work)
    assert files(works[0]) == files(works[1])


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_the_stage_runs_on_another_device(tune, stage, rows, small, tmp_path, monkeypatch):  # noqa: F811
    """Placed, scored, checkpointed, killed, resumed and saved, on a device that is pretended."""
    Base(start=str(small)).run(FakeWork({}, tmp_path))
    inputs = {"rows": rows, "base": committed(tmp_path / "base")}
    here, there = (FakeWork(inputs, tmp_path / name) for name in ("here", "there"))
    short = replace(stage, epochs=1, rows=50, evaluate_every=3, checkpoint_every=2, tune=tune)
    facts = short.run(here)
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # tags take no inference mode
    elsewhere: Any = Placement(cast(Any, ELSEWHERE.type), "fp32")
    monkeypatch.setattr("lmwright.train.finetune.resolve_placement", lambda *_: elsewhere)
    with pretend_device():
        interrupted(short, there, 4)
        found = short.run(there)
    assert there.named("resumed") and there.named("placed")[0]["device"] == ELSEWHERE.type
    assert found["best_step"] == facts["best_step"]
    name = "validation_scaled_log_loss"
    assert abs(found[name] - facts[name]) < 1e-3
    paths = (next((each.folder / "model").glob("*.safetensors")) for each in (here, there))
    mine, its = map(load_file, paths)
    assert mine.keys() == its.keys()
    for name, weight in its.items():
        torch.testing.assert_close(weight, mine[name], rtol=1e-2, atol=1e-3, msg=name)


LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 60,
    "tie_word_embeddings": True,
}


def losses_of_a_decoder(precision: str, seed: int) -> list[float]:
    """Thirty steps over documents that count upwards, from weights that the seed draws."""
    spec = llama.spec(LLAMA)
    network = build(spec, llama.FAMILY.heads["lm"](LLAMA, spec)[0])
    initialise(network, seed, Initialisation())
    network.place(Placement("cpu", cast(Any, precision)))
    draw = np.random.default_rng(0)
    examples = []
    for place in range(120):
        length, first = draw.integers(5, 30), draw.integers(0, 60)
        ids = (first + np.arange(length)) % 60
        examples.append(Document(ids, 1, length, None).example(place))
    state = State()
    train(
        network,
        EpochBatches(examples, 4, epochs=1, seed=0),
        next_token_loss,
        AdamW().make(network),
        OptimizerConfig(3e-3, Linear(), 1.0),
        state,
        [],
        lambda event, **facts: None,
    )
    return [point["loss"] for point in state.curves]


def test_a_decoder_learns_in_bf16_closer_to_fp32_than_another_seed_does(one_thread):  # noqa: F811
    single, others = losses_of_a_decoder("fp32", 0), losses_of_a_decoder("fp32", 1)
    half = losses_of_a_decoder("bf16", 0)
    assert losses_of_a_decoder("bf16", 0) == half != single
    assert single[-1] < single[0] - 1
    apart = np.abs(np.subtract(half, single))
    assert apart.max() < np.abs(np.subtract(others, single)).max()
    assert apart.mean() < 0.01


def test_adapters_on_frozen_maps_in_bf16_learn_and_round_the_maps_once():
    spec = llama.spec(LLAMA)
    network = build(spec, llama.FAMILY.heads["lm"](LLAMA, spec)[0])
    initialise(network, 0, Initialisation())
    LoRA(rank=4).apply(network, 0)
    network.place(Placement("cpu", "bf16"))
    frozen = {n: w.clone() for n, w in network.named_parameters() if not w.requires_grad}
    inner = next(each.inner for each in network.modules() if isinstance(each, LowRankLinear))
    optimizer, ids = AdamW().make(network), np.arange(40) % 60
    examples, found, roundings = [Document(ids, 1, 40, None).example(0)], [], []
    for _ in range(30):
        loss = next_token_loss(network, examples, None)
        loss.mean.backward()
        assert inner.weight.grad is None
        roundings.append(inner.product.rounded[2])  # type: ignore[attr-defined]
        optimizer.step(1e-2)
        found.append(loss.mean.item())
    assert found[-1] < found[0] - 0.5
    assert all(each is roundings[0] for each in roundings)
    assert all(torch.equal(network.get_parameter(n), w) for n, w in frozen.items())
