"""Trainings by each way to tune: what is saved, read back, gone on from, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.task import role_columns
from lmwright.data.corpus import schema_of
from lmwright.metrics.calibration import Calibration
from lmwright.models.adapted import AdaptedPredictor
from lmwright.models.core.ragged import pack
from lmwright.models.decode import generate
from lmwright.models.files.export import export_predictor
from lmwright.models.files.folder import read_folder
from lmwright.models.load import load_predictor
from lmwright.models.text_model import language_model
from lmwright.tasks.text_generation import TextGeneration
from lmwright.text.generation import SamplingParams
from lmwright.train.base import Base
from lmwright.train.documents import Document, continuation_nats
from lmwright.train.finetune import Train
from lmwright.train.new import New
from lmwright.train.start import START
from tests.serve.talking import write_model
from tests.train.conftest import FakeWork, write_rows, write_task
from tests.train.test_adapters import committed, inputs, logits, one_thread, stage  # noqa: F401
from tests.train.test_finetune import interrupted

TUNES: dict[str, Any] = {
    "bitfit": "bitfit",
    "ia3": "ia3",
    "adapters": {"kind": "adapters", "width": 8},
    "prefix": {"kind": "prefix", "length": 4, "hidden": 6},
    "prompt": {"kind": "prompt", "length": 4},
    "p-tuning": {"kind": "p-tuning", "length": 4, "hidden": 6},
    "freeze": {"kind": "freeze", "layers": 1, "decay": 0.5, "unfreeze_every": 2},
}
"""Those that leave a part of the body as it is, so that only what learns is saved."""
each = pytest.mark.parametrize("tune", TUNES)


@pytest.fixture
def tuned(stage, tune) -> Train:  # noqa: F811
    return replace(stage, tune=TUNES[tune])


@each
def test_what_is_read_back_answers_with_the_same_bits(tuned, inputs, tmp_path, monkeypatch):  # noqa: F811
    work, kept = FakeWork(inputs, tmp_path / "work"), []
    saved = AdaptedPredictor.save
    monkeypatch.setattr(
        AdaptedPredictor, "save", lambda self, out: (kept.append(self), saved(self, out))
    )
    facts = tuned.run(work)
    folder = work.folder / "model"
    found = load_predictor(folder)
    assert torch.equal(logits(found), logits(kept[0]))
    own = load_file(folder / "adapter.safetensors")
    assert facts["own_parameters"] == sum(each.numel() for each in own.values())
    assert own.keys() == {n for n, w in kept[0].model.network.named_parameters() if w.requires_grad}
    weights = read_folder(Path(tuned.start)).weights
    before = {n: w for n, w in found.model.network.named_parameters() if n in weights}
    assert {n for n, w in before.items() if torch.equal(w, weights[n])} == before.keys() - own


@each
@pytest.mark.parametrize("step", [1, 4])
def test_an_interrupted_run_ends_in_the_same_bits(tuned, inputs, tmp_path, step):  # noqa: F811
    works = [FakeWork(inputs, tmp_path / name) for name in "ab"]
    tuned.run(works[0])
    interrupted(tuned, works[1], step)
    tuned.run(works[1])
    one, two = ((work.folder / "model" / "adapter.safetensors").read_bytes() for work in works)
    assert one == two


MERGED = {"bitfit", "ia3", "freeze"}


@each
def test_a_second_training_goes_on_from_the_first(tuned, inputs, tmp_path, tune):  # noqa: F811
    """With nothing learnt by the second it is the first: merged into its base, or taken over."""
    work = FakeWork(inputs, tmp_path / "first")
    replace(tuned, lr=3e-2).run(work)
    (tmp_path / "first" / "model").rename(tmp_path / "model")
    first = committed(tmp_path / "model")
    before = logits(load_predictor(first))
    for rate in (0.0, 1e-2):
        again = FakeWork({"rows": inputs["rows"], "old": first}, tmp_path / str(rate))
        assert replace(tuned, start_from="old", lr=rate).run(again)["base"] == first.name
        found = logits(load_predictor(again.folder / "model"))
        assert torch.allclose(found, before, rtol=0, atol=1e-5) == (rate == 0)
    other = replace(tuned, start_from="old", tune="full", lr=0.0)
    work = FakeWork({"rows": inputs["rows"], "old": first}, tmp_path / "full")
    if tune in MERGED:
        other.run(work)
        found = load_predictor(work.folder / "model")
        assert found.kind == "text-model"
        torch.testing.assert_close(logits(found), before, rtol=0, atol=1e-5)
    else:
        with pytest.raises(BadInput, match="has an adapter that cannot be merged"):
            other.run(work)


@each
def test_export_merges_or_says_what_can_be_done(tuned, inputs, tmp_path, tune):  # noqa: F811
    work = FakeWork(inputs, tmp_path / "work")
    tuned.run(work)
    made = load_predictor(work.folder / "model")
    calibration = Calibration(1.0)
    if tune in MERGED:
        export_predictor(made, calibration, "m@1", tmp_path / "out", "folder")
        assert (tmp_path / "out" / "model.safetensors").is_file()
    else:
        with pytest.raises(BadInput, match=r"cannot be merged.*serve the model with lmwright"):
            export_predictor(made, calibration, "m@1", tmp_path / "out", "folder")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tune", [tune for tune in TUNES if tune not in MERGED])
def test_a_drawn_model_takes_no_tune_that_cannot_be_merged(tuned):
    drawn = replace(tuned, new=New(family="bert", config={}, vocabulary=400))
    with pytest.raises(BadInput, match=f"new, and tune {tuned.tune['kind']}"):
        drawn.check()


@pytest.mark.parametrize("tune", [tune for tune in TUNES if tune not in MERGED])
def test_a_base_with_another_adapter_is_no_base(tuned, inputs, tmp_path):  # noqa: F811
    """Its weights are not left out in silence: a description that was changed by hand."""
    work = FakeWork(inputs, tmp_path / "first")
    tuned.run(work)
    (tmp_path / "first" / "model").rename(tmp_path / "model")
    first = committed(tmp_path / "model")
    again = FakeWork({"rows": inputs["rows"], "old": first}, tmp_path / "again")
    replace(tuned, start_from="old").run(again)
    path = again.folder / "model" / "base.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "tune": "head"}))
    with pytest.raises(Corrupt, match="which head does not apply"):
        load_predictor(again.folder / "model")


@pytest.mark.parametrize("tune", ["prompt"])
def test_a_prompt_leaves_less_room_for_texts(tuned, inputs, tmp_path):  # noqa: F811
    """The start has 64 positions."""
    work = FakeWork(inputs, tmp_path / "work")
    with pytest.raises(BadInput, match="texts of 61 tokens, and the start reads 60"):
        replace(tuned, max_tokens=24, read_tokens=61).run(work)
    replace(tuned, max_tokens=24, read_tokens=60).run(work)
    found = load_predictor(work.folder / "model")
    assert found.model.max_tokens == 60
    long = [{"text": "word " * 80}]
    assert len(found.answers(found.prepare(long)).columns["logits"]) == 1


@pytest.mark.parametrize("tune", ["ia3", "adapters", "prefix", "prompt", "p-tuning"])
def test_a_language_model_writes_as_its_whole_passes_say(tuned, sentences, tmp_path):
    """Trained, read back, and asked token by token with a KV cache, alone and in a batch."""
    folder, start = tmp_path / "rows", write_model(tmp_path / "start")
    folder.mkdir()
    documents = [{**row, "continuation": ""} for row in sentences[:60]]
    schema = schema_of(role_columns(TextGeneration(), "input", "target"))
    write_rows(folder / "train.parquet", documents[:40], schema)
    write_rows(folder / "validation.parquet", documents[40:], schema)
    write_task(folder, TextGeneration())
    Base(start=str(start)).run(FakeWork({}, tmp_path))
    base = committed(tmp_path / "base")
    work = FakeWork({"rows": folder, "base": base}, tmp_path / "work")
    replace(tuned, start=str(start), rows=0, lr=3e-2).run(work)
    found = load_predictor(work.folder / "model")
    model, plain = found.model, language_model(read_folder(start))
    prompts = [plain.tokenizer.encode([text], 20)[0] for text in ("The film", "A dull and long")]
    params = SamplingParams(max_new_tokens=6, temperature=0)
    wanted = []
    for prompt in prompts:
        ids = prompt.astype(np.int64)
        for _ in range(6):
            with torch.no_grad():
                ids = np.append(ids, int(model.network(pack([ids]))[-1].argmax()))
        wanted.append(ids[len(prompt) :].tolist())
    rng = np.random.default_rng(0)
    for prompt, right in zip(prompts, wanted, strict=True):
        assert [each.sampled.id for each in model.generate(prompt, params, rng)][:6] == right
    steps = list(generate(model.network, prompts, params, rng))
    assert [[step[place].id for step in steps] for place in range(2)] == wanted
    own = list(plain.generate(prompts[1], params, rng))
    assert [each.sampled.id for each in own][:6] != wanted[1], "the start writes something else"
    item = Document(prompts[1].astype(np.int64), 4, 4, None)
    others = [np.array([5, 6]), np.array([7])]
    nats = continuation_nats(model.network, item, others)
    for each, value in zip(others, nats, strict=True):
        whole = np.concatenate([item.tokens[: item.first], each])
        with torch.no_grad():
            logprobs = model.network(pack([whole])).log_softmax(-1)
        right = sum(logprobs[place - 1, whole[place]] for place in range(item.first, len(whole)))
        assert value == pytest.approx(-float(right), rel=1e-4)


def test_layers_keep_their_bits_until_they_are_unfrozen(stage, rows, tmp_path):  # noqa: F811
    """Five steps, a layer more after every two: nothing below the last layer has moved after two,
    nor the embeddings after the fifth, in which they are still frozen."""
    tune = {"kind": "freeze", "unfreeze_every": 2}
    found = {}
    for steps in (0, 2, 4, 5):
        work = FakeWork({"rows": rows}, tmp_path / str(steps))
        short = replace(stage, tune=tune, evaluate_every=100, rows=8 * max(steps, 1))
        facts = replace(short, lr=0.01 if steps else 0.0).run(work)
        assert facts["steps"] == max(steps, 1) and not short.brings()
        found[steps] = load_file(work.folder / "model" / "model.safetensors")
    moved = {
        steps: {n for n, w in found[steps].items() if not torch.equal(w, found[0][n])}
        for steps in (2, 4, 5)
    }
    layer = "stacks.encoder.layers."
    assert {n.partition(".")[0] for n in moved[2]} == {"head"}
    assert {n[: len(layer) + 1] for n in moved[4] if "head." not in n} == {f"{layer}1"}
    below = {n[: len(layer) + 1] for n in moved[5] if "head." not in n}
    assert below == {f"{layer}0", f"{layer}1"}


@pytest.fixture(scope="module")
def minilm(tmp_path_factory) -> Path:
    """A published encoder as its stage commits it."""
    folder = tmp_path_factory.mktemp("minilm")
    Base(start=START).run(FakeWork({}, folder))
    return committed(folder / "base")


@each
def test_the_loss_of_a_real_encoder_falls(minilm, rows, tmp_path, tune):
    """MiniLM on 64 sentences of Rotten Tomatoes, four times over."""
    work = FakeWork({"rows": rows, "base": minilm}, tmp_path / "work")
    stage = Train(  # noqa: F811
        rows=64, epochs=4, batch=16, max_tokens=24, lr=RATES.get(tune, 1e-2), tune=TUNES[tune],
        dropout=0.0, evaluate_every=100, validation_rows=10, seed=3,
    )  # fmt: skip
    stage.run(work)
    losses = [facts["loss"] for facts in work.named("step")]
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4]), losses


RATES = {"freeze": 1e-3}
"""Peak rates where they are not the one of few weights."""
