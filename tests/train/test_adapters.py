"""Trainings that leave the body as it is: what is saved, what it stands on, how it is read back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmwright.baselines.majority import Majority
from lmwright.core.bases import bases_of
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.hashing import hash_tree, tree
from lmwright.core.predictor import answer_all
from lmwright.core.task import role_columns
from lmwright.data.corpus import schema_of
from lmwright.metrics.calibration import Calibration
from lmwright.models.adapted import AdaptedPredictor
from lmwright.models.core.ragged import pack
from lmwright.models.ensemble import Ensemble, Member
from lmwright.models.files.export import export_predictor
from lmwright.models.files.folder import read_folder
from lmwright.models.load import load_predictor, modules_of
from lmwright.models.text_model import TextPredictor, language_model
from lmwright.tasks.text_generation import TextGeneration
from lmwright.train.base import Base
from lmwright.train.finetune import Train
from lmwright.train.new import New
from tests.serve.talking import write_model
from tests.train.conftest import TASK, FakeWork, write_rows, write_task

LORA = {"kind": "lora", "rank": 2, "dropout": 0.2}
DORA = {"kind": "lora", "dora": True, "scaling": "root-rank", "ranks": {"*.qkv": 3}}
INT8 = {"kind": "lora", "base": "int8", "dropout": 0.1}
FILES = ("adapter.safetensors", "base.json", "model.json", "curves.json", "rows.parquet")
ROWS = [{"text": "A joy from start to end."}, {"text": "Dull."}]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def stage(small) -> Train:
    return Train(
        start=str(small),
        rows=40,
        epochs=1,
        batch=8,
        max_tokens=24,
        lr=3e-3,
        tune=LORA,
        evaluate_every=3,
        checkpoint_every=2,
        validation_rows=10,
        seed=3,
    )


def committed(folder: Path) -> Path:
    """A folder under the hash of its content, as the store has it."""
    return folder.rename(folder.with_name(hash_tree(tree(folder))))


@pytest.fixture
def inputs(stage, rows, tmp_path) -> dict[str, Path]:
    """The rows, and the start as its stage commits it."""
    work = FakeWork({}, tmp_path)
    Base(start=stage.start).run(work)
    return {"rows": rows, "base": committed(tmp_path / "base")}


def files(work: FakeWork) -> dict[str, bytes]:
    """The bytes of the model's artifact."""
    return {name: (work.folder / "model" / name).read_bytes() for name in FILES}


def logits(predictor: Any) -> torch.Tensor:
    """The logits of two rows."""
    return torch.tensor(predictor.answers(predictor.prepare(ROWS)).columns["logits"])


def test_the_start_is_brought_as_an_artifact(stage, inputs):
    assert stage.needs() == ("rows", "base")
    assert stage.brings() == {"base": {"stage": "base", "start": stage.start}}
    assert stage.reads() == {} and Train.origins({"start_from": None}) == ("base",)
    whole = replace(stage, tune="full")
    assert (whole.needs(), whole.brings()) == (("rows",), {})
    assert {stage.start} == whole.reads().keys()
    reached = stage.reaches(inputs)
    assert "lmwright.models.tunes.lora" in reached and "lmwright.models.zoo.bert" in reached


@pytest.mark.parametrize(
    "tune", [LORA, "head", DORA, INT8, {"kind": "lora", "linears": "attention", "base": "bf16"}]
)
def test_what_is_read_back_answers_with_the_same_bits(stage, inputs, tmp_path, tune, monkeypatch):
    work, kept = FakeWork(inputs, tmp_path / "work"), []
    saved = AdaptedPredictor.save
    monkeypatch.setattr(
        AdaptedPredictor, "save", lambda self, out: (kept.append(self), saved(self, out))
    )
    facts = replace(stage, tune=tune).run(work)
    folder = work.folder / "model"
    found = load_predictor(folder)
    assert found.task == TASK and isinstance(found, TextPredictor)
    assert torch.equal(logits(found), logits(kept[0]))
    assert facts["base"] == inputs["base"].name == bases_of(folder)[0]
    own = load_file(folder / "adapter.safetensors")
    assert facts["own_parameters"] == sum(each.numel() for each in own.values())
    assert {name for name in own if name.startswith("head.")} == {
        "head.out.weight",
        "head.out.bias",
    }
    weights = read_folder(Path(stage.start)).weights
    body = {name: each for name, each in found.model.network.named_parameters() if name in weights}
    assert body and all(torch.equal(each, weights[name]) for name, each in body.items())
    found.save(tmp_path / "again")
    assert hash_tree(tree(tmp_path / "again")) == hash_tree(
        {name: entry for name, entry in tree(folder).items() if name in FILES[:3]}
    )
    modules = modules_of(folder)
    assert "lmwright.models.adapted" in modules and "lmwright.models.zoo.bert" in modules


@pytest.mark.parametrize("step", [1, 4])
def test_an_interrupted_run_ends_in_the_same_bits(stage, inputs, tmp_path, step):
    whole, broken = (FakeWork(inputs, tmp_path / name) for name in "ab")
    stage.run(whole)
    broken.fail_at = step
    with pytest.raises(KeyboardInterrupt):
        stage.run(broken)
    broken.fail_at = 0
    stage.run(broken)
    assert files(whole) == files(broken)
    kept = load_file(next((whole.scratch / "checkpoints").iterdir()) / "weights.safetensors")
    assert kept.keys() == load_file(whole.folder / "model" / "adapter.safetensors").keys()


def test_micro_batches_drop_alike(stage, inputs, tmp_path):
    """Dropout is keyed by document: a step in parts is the step, up to the order of its sums."""
    works = [FakeWork(inputs, tmp_path / name) for name in "ab"]
    for work, parts in zip(works, (0, 4), strict=True):
        replace(stage, micro_batch=parts).run(work)
    one, two = (load_file(work.folder / "model" / "adapter.safetensors") for work in works)
    for name, each in one.items():
        torch.testing.assert_close(each, two[name], rtol=1e-3, atol=1e-4)


@pytest.fixture
def first(stage, inputs, tmp_path) -> Path:
    """A trained adapter's artifact, beside its base."""
    work = FakeWork(inputs, tmp_path / "first")
    replace(stage, lr=3e-2).run(work)
    (tmp_path / "first" / "model").rename(tmp_path / "model")
    return committed(tmp_path / "model")


@pytest.mark.parametrize("tune", [LORA, "head"])
def test_an_adapter_on_an_adapter_stands_on_both(stage, inputs, first, tmp_path, tune):
    work = FakeWork({"rows": inputs["rows"], "old": first}, tmp_path / "second")
    on = replace(stage, start_from="old", tune=tune)
    assert (on.needs(), on.brings()) == (("rows", "old"), {})
    assert on.run(work)["base"] == first.name
    second = load_predictor(work.folder / "model")
    assert bases_of(work.folder / "model") == [first.name]
    before = load_predictor(first)
    assert not torch.allclose(logits(second), logits(before))
    body = {n for n in load_file(work.folder / "model" / "adapter.safetensors") if "lora" not in n}
    assert body == {"head.out.weight", "head.out.bias"}
    # With nothing learnt by the second it would be the first, whose adapter is merged.
    (work.folder / "same").mkdir()
    none = FakeWork({"rows": inputs["rows"], "old": first}, tmp_path / "none")
    replace(on, lr=0.0).run(none)
    same = load_predictor(none.folder / "model")
    torch.testing.assert_close(logits(same), logits(before), rtol=0, atol=1e-5)


def test_a_base_in_int8_takes_less_memory_and_a_chain_stands_on_what_it_was(
    stage, inputs, tmp_path
):
    facts = {}
    for kind, tune in (("fp32", LORA), ("int8", {**INT8, "rank": 2})):
        work = FakeWork(inputs, tmp_path / kind)
        facts[kind] = replace(stage, tune=tune).run(work)
    assert facts["int8"]["frozen_bytes"] < facts["fp32"]["frozen_bytes"]
    assert facts["int8"]["trained_bytes"] == facts["fp32"]["trained_bytes"]
    assert facts["int8"]["parameters"] == facts["fp32"]["parameters"]
    first = committed((tmp_path / "int8" / "model").rename(tmp_path / "one"))
    before = load_predictor(first)
    none = FakeWork({"rows": inputs["rows"], "old": first}, tmp_path / "none")
    replace(stage, start_from="old", tune="head", lr=0.0).run(none)
    same = logits(load_predictor(none.folder / "model"))
    # What is merged has the weights that the int8 ones stand for, and fp32 products.
    torch.testing.assert_close(same, logits(before), rtol=0, atol=1e-3)
    read_published = read_folder(Path(stage.start)).weights
    other = before.model.network.get_submodule("stacks.encoder.layers.0.0.op.qkv").inner.weight
    assert not torch.equal(other, read_published["stacks.encoder.layers.0.0.op.qkv.weight"])


def test_a_full_training_goes_on_from_an_adapter_as_a_whole_model(stage, inputs, first, tmp_path):
    work = FakeWork({"rows": inputs["rows"], "old": first}, tmp_path / "second")
    assert "base" not in replace(stage, start_from="old", tune="full", lr=0.0).run(work)
    found = load_predictor(work.folder / "model")
    assert found.kind == "text-model" and not bases_of(work.folder / "model")
    before = logits(load_predictor(first))
    torch.testing.assert_close(logits(found), before, rtol=0, atol=1e-5)


def test_adapters_of_a_drawn_model_are_merged_as_it_has_no_base(stage, rows, tmp_path):
    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"intermediate_size": 32, "max_position_embeddings": 64}
    drawn = replace(stage, new=New(family="bert", config=config, vocabulary=400))
    work = FakeWork({"rows": rows}, tmp_path / "work")
    assert drawn.needs() == ("rows",)
    drawn.run(work)
    found = load_predictor(work.folder / "model")
    assert found.kind == "text-model"
    assert not any("lora" in name for name, _ in found.model.network.named_parameters())


def test_an_ensemble_of_adapters_names_their_bases(inputs, first, tmp_path):
    members = [
        Member(load_predictor(first), Calibration(temperature), first.name)
        for temperature in (1.0, 2.0)
    ]
    made = Ensemble(TASK, members)
    made.save(tmp_path / "ensemble")
    assert bases_of(tmp_path / "ensemble") == [inputs["base"].name]
    folder = committed(tmp_path / "ensemble")
    wanted, found = (answer_all(each, ROWS) for each in (made, load_predictor(folder)))
    assert wanted.columns.keys() == found.columns.keys()
    for name, column in wanted.columns.items():
        assert (column == found.columns[name]).all()
    assert "lmwright.models.tunes.lora" in modules_of(folder)


@pytest.fixture
def writing(sentences, tmp_path) -> tuple[Path, dict[str, Path]]:
    """A start that writes, and the inputs of a training on it: documents and the base."""
    folder, start = tmp_path / "rows", write_model(tmp_path / "start")
    folder.mkdir()
    documents = [{**row, "continuation": ""} for row in sentences[:60]]
    schema = schema_of(role_columns(TextGeneration(), "input", "target"))
    write_rows(folder / "train.parquet", documents[:40], schema)
    write_rows(folder / "validation.parquet", documents[40:], schema)
    write_task(folder, TextGeneration())
    Base(start=str(start)).run(FakeWork({}, tmp_path))
    return start, {"rows": folder, "base": committed(tmp_path / "base")}


def next_logits(predictor: Any) -> torch.Tensor:
    """The logits of what follows a text."""
    with torch.no_grad():
        return predictor.model.network(pack([predictor.model.document("A joy from start.")]))


@pytest.mark.parametrize("kind", [{}, {"dora": True}, {"scaling": "root-rank", "rank": 3}])
def test_an_adapter_of_peft_is_taken_as_it_is_and_goes_on(stage, writing, tmp_path, kind):
    start, given = writing
    stage = replace(stage, start=str(start), rows=0, tune={"kind": "lora", "rank": 2, **kind})
    work = FakeWork(given, tmp_path / "work")
    replace(stage, lr=3e-2).run(work)
    made = load_predictor(work.folder / "model")
    export_predictor(made, Calibration(1.0), "some", tmp_path / "out", "peft")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= files
    assert "AutoModelForCausalLM" in (tmp_path / "out" / "README.md").read_text()
    taken = replace(stage, tune="lora", epochs=0, adapter=str(tmp_path / "out"))
    assert taken.reads().keys() == {str(tmp_path / "out")} and taken.needs() == ("rows", "base")
    taken.check()
    none = FakeWork(given, tmp_path / "none")
    facts = taken.run(none)
    assert facts["steps"] == 0 and facts["base"] == given["base"].name
    found = load_predictor(none.folder / "model")
    torch.testing.assert_close(next_logits(found), next_logits(made), rtol=1e-5, atol=1e-5)
    about = json.loads((none.folder / "model" / "base.json").read_bytes())
    assert "adapter" not in about["tune"] and about["tune"]["dora"] == bool(kind.get("dora"))
    shutil.rmtree(tmp_path / "out")  # the artifact stands without it
    torch.testing.assert_close(
        next_logits(load_predictor(none.folder / "model")), next_logits(found)
    )


def test_training_goes_on_from_an_adapter_with_settings_of_its_own(stage, writing, tmp_path):
    start, given = writing
    stage = replace(stage, start=str(start), rows=0)
    work = FakeWork(given, tmp_path / "work")
    replace(stage, lr=3e-2).run(work)
    made = load_predictor(work.folder / "model")
    export_predictor(made, Calibration(1.0), "some", tmp_path / "out", "peft")
    tune = {"kind": "lora", "dropout": 0.1, "base": "int8"}
    on = replace(stage, tune=tune, adapter=str(tmp_path / "out"))
    second = FakeWork(given, tmp_path / "second")
    on.run(second)
    found = load_predictor(second.folder / "model")
    assert not torch.allclose(next_logits(found), next_logits(made), rtol=1e-3, atol=1e-3)
    about = json.loads((second.folder / "model" / "base.json").read_bytes())["tune"]
    assert (about["base"], about["dropout"], about["rank"]) == ("int8", 0.1, 2)
    with pytest.raises(BadInput, match="trained on a base in fewer bits"):
        export_predictor(found, Calibration(1.0), "some", tmp_path / "again", "peft")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tune": "full"}, "with the tune full; wanted: a published start, and tune: lora"),
        ({"start_from": "old"}, "on old with the tune lora"),
        ({"tune": {"kind": "lora", "rank": 4}}, r"tune\.rank beside an adapter"),
        ({"adapter": "nowhere"}, "the adapter nowhere is not there"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(stage, tmp_path, changes, words):
    with pytest.raises(BadInput, match=words):
        replace(stage, **{"tune": "lora", "adapter": str(tmp_path), **changes}).check()


def test_a_model_without_adapters_is_not_written_for_peft(stage, inputs, tmp_path):
    work = FakeWork(inputs, tmp_path / "work")
    replace(stage, tune="full", epochs=1, rows=8).run(work)
    found = load_predictor(work.folder / "model")
    with pytest.raises(BadInput, match="some is a whole model without adapters"):
        export_predictor(found, Calibration(1.0), "some", tmp_path / "out", "peft")


def test_a_language_model_keeps_the_head_that_its_base_has(stage, writing, tmp_path):
    start, given = writing
    work = FakeWork(given, tmp_path / "work")
    replace(stage, start=str(start), rows=0).run(work)
    own = load_file(work.folder / "model" / "adapter.safetensors")
    assert {name.rpartition(".")[2] for name in own} == {"lora_a", "lora_b"}
    assert json.loads((work.folder / "model" / "base.json").read_bytes())["head"] == "lm"
    made, given = load_predictor(work.folder / "model").model, language_model(read_folder(start))
    assert made.generation == given.generation and made.tokenizer.roles == given.tokenizer.roles
    assert torch.equal(made.network.head.out.weight, given.network.head.out.weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"artifacts": []}, "holds"),
        ({"artifacts": ["../../etc"]}, "names"),
        ({"artifacts": 3}, "names"),
        ({"tune": {"kind": "lora", "rank": 3, "dropout": 0.2}}, "has shape"),
        ({"tune": "full"}, "not expected"),
        ({"tune": "none"}, "none"),
    ],
)
def test_a_damaged_description_is_refused(first, change, words):
    about = json.loads((first / "base.json").read_bytes())
    (first / "base.json").write_text(json.dumps({**about, **change}))
    with pytest.raises((BadInput, Corrupt), match=words):
        load_predictor(first)


def test_a_base_of_another_kind_is_refused(stage, inputs, first):
    Majority(TASK, (3, 4)).save(inputs["base"])
    with pytest.raises(Corrupt, match="is a majority model; wanted: a text model"):
        load_predictor(first)
