"""Several tasks on one body: rows by shares, losses joined, a model for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.core.task import asked_rows, role_columns
from lmwright.data.corpus import schema_of, used_ids
from lmwright.models.core.ragged import pack
from lmwright.models.files.folder import read_folder
from lmwright.models.load import load_predictor
from lmwright.models.network.network import Network
from lmwright.models.text_model import from_published
from lmwright.tasks.token_classification import TokenClassification
from lmwright.train.base import Base
from lmwright.train.finetune import Train
from lmwright.train.mixings.shares import Size, Uniform
from lmwright.train.mixings.surgery import Surgeon, projected
from lmwright.train.mixings.uncertainty import Variances
from lmwright.train.optim import trainable
from lmwright.train.several import (
    MAIN,
    Also,
    Combination,
    OfTask,
    Several,
    TaskLoss,
    task_beside,
)
from lmwright.train.task_model import trained_task_model
from tests.train.conftest import TASK, FakeWork, write_rows, write_task

WRITER = trained_task_model(TASK)
WORDS = TokenClassification(labels=("word",))


@pytest.fixture(scope="module")
def folders(rows: Path, sentences: list[dict[str, str]], tmp_path_factory) -> dict[str, Path]:
    """Reviews with their labels; others in which the word "the" is a span."""
    folder = tmp_path_factory.mktemp("words")
    schema = schema_of(role_columns(WORDS, "input", "target"))
    found = []
    for each in sentences:
        text, spans, at = each["text"], [], each["text"].find("the ")
        while at >= 0:
            spans.append({"start": at, "end": at + 3, "label": "word"})
            at = text.find("the ", at + 1)
        found.append({**each, "spans": spans})
    write_rows(folder / "train.parquet", found[:80], schema)
    write_rows(folder / "validation.parquet", found[80:110], schema)
    write_task(folder, WORDS)
    return {"rows": rows, "words": folder}


@pytest.fixture
def stage(small: Path) -> Train:
    return Train(
        start=str(small),
        also={"spans": Also(rows="words")},
        rows=80,
        epochs=2,
        batch=10,
        max_tokens=48,
        lr=3e-3,
        evaluate_every=7,
        checkpoint_every=4,
        seed=3,
    )


def weights_of(work: FakeWork, name: str) -> dict[str, Tensor]:
    return load_file(work.folder / name / "model.safetensors")


def test_each_task_gets_a_model_on_one_body(stage, folders, tmp_path):
    work = FakeWork(folders, tmp_path / "work")
    facts = stage.run(work)
    assert stage.needs() == ("rows", "words") and stage.gives() == ("model", "spans")
    one, other = weights_of(work, "model"), weights_of(work, "spans")
    body = [name for name in one if name.startswith("stacks.")]
    assert body and all(torch.equal(one[name], other[name]) for name in body)
    assert one.keys() == other.keys(), "and no head of another task"
    assert one["head.out.weight"].shape[0] == 2 and other["head.out.weight"].shape[0] == 3
    told = facts["also"]["spans"]
    assert (told["rows"], told["share"], told["read"]) == (80, 0.5, 160)
    assert facts["steps"] == 32  # 160 rows of each, five of each a step
    used = [pq.read_table(work.folder / name / "rows.parquet") for name in ("model", "spans")]
    assert used[0].drop(["beside"]).equals(used[1].drop(["beside"])) and used[0].num_rows == 160
    own = [used_ids(work.folder / name / "rows.parquet") for name in ("model", "spans")]
    assert [len(each) for each in own] == [80, 80]
    # What is saved for the other task scores as it did when the weights were kept.
    model = load_predictor(work.folder / "spans")
    table = pq.read_table(folders["words"] / "validation.parquet")
    loss = model.task_model.score(
        model.model.network, model.task_model.examples(model.model, table)
    )
    assert loss["log_loss"] == pytest.approx(told["scores"]["log_loss"], rel=1e-5)
    answers = WORDS.calibrated(answer_all(model, asked_rows(WORDS, table)), 1.0, 0.0)
    assert set(WORDS.measures(table, answers).losses)


def test_it_is_learnt_what_each_task_asks(stage, folders, tmp_path):
    """The word "the" is learnt by its head while the main task is learnt, too."""
    work = FakeWork(folders, tmp_path / "work")
    facts = replace(stage, epochs=12, patience=0, evaluate_every=24).run(work)
    first, *_, last = work.named("evaluated")
    assert last["spans.log_loss"] < 0.5 * first["spans.log_loss"]
    steps = work.named("step")
    assert np.mean([s["loss"] for s in steps[-9:]]) < np.mean([s["loss"] for s in steps[:9]])
    assert facts["also"]["spans"]["scores"]["tag_accuracy"] > 0.8


@pytest.mark.parametrize("mixing", ["uniform", "size", "uncertainty", "surgery"])
def test_an_interrupted_run_ends_in_the_same_bits(stage, folders, tmp_path, mixing):
    stage = replace(stage, mixing=mixing, epochs=1)
    whole, broken = (FakeWork(folders, tmp_path / name) for name in ("whole", "broken"))
    facts = stage.run(whole)
    broken.fail_at = 9
    with pytest.raises(KeyboardInterrupt):
        stage.run(broken)
    broken.fail_at = 0
    assert stage.run(broken) == facts
    for name in ("model", "spans"):
        pairs = zip(weights_of(whole, name).items(), weights_of(broken, name).items(), strict=True)
        assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)
    if mixing == "uncertainty":
        assert set(facts["learnt_weights"]) == {MAIN, "spans"}
        assert facts["learnt_weights"][MAIN] != 1.0
    if mixing == "surgery":
        assert 0 <= facts["conflicts"] <= 1


def test_adapters_of_all_tasks_stand_on_one_base(stage, folders, small, tmp_path):
    base = FakeWork({}, tmp_path / "base")
    Base(start=str(small)).run(base)
    folder = tmp_path / "artifacts" / ("b" * 64)
    folder.parent.mkdir()
    (base.folder / "base").rename(folder)
    work = FakeWork({**folders, "base": folder}, tmp_path / "artifacts")
    replace(stage, tune="lora", epochs=1).run(work)
    for name in ("model", "spans"):
        assert not (work.folder / name / "model.safetensors").exists()
        found = load_predictor(work.folder / name)
        assert found.adaptation.base == "b" * 64
    one, other = (load_file(work.folder / n / "adapter.safetensors") for n in ("model", "spans"))
    shared = [name for name in one if not name.startswith("head.")]
    assert shared and all(torch.equal(one[name], other[name]) for name in shared)


# Shares


def test_rows_are_shared_alike_or_by_size():
    sizes = {MAIN: 100, "b": 300}
    assert Uniform().shares(sizes) == {MAIN: 0.5, "b": 0.5}
    assert Size().shares(sizes) == {MAIN: 0.25, "b": 0.75}
    found = Size(temperature=2).shares(sizes)
    assert found["b"] / found[MAIN] == pytest.approx(math.sqrt(3))
    assert Size(temperature=1000).shares(sizes)["b"] == pytest.approx(0.5, abs=1e-3)


def losses(**means: float) -> dict[str, TaskLoss]:
    return {
        name: TaskLoss(torch.tensor(mean, requires_grad=True), 1 / len(means), 1.0)
        for name, mean in means.items()
    }


def test_a_plain_mixture_is_the_mean_over_rows_by_weight():
    one = TaskLoss(torch.tensor(2.0), 0.25, 1.0)
    other = TaskLoss(torch.tensor(4.0), 0.75, 0.5)
    assert float(Combination().joined({"a": one, "b": other}, 0)) == 0.25 * 2 + 0.75 * 0.5 * 4


# Uncertainty


def test_variances_go_to_where_their_loss_is_least():
    """At a fixed loss L the least of exp(-s) · L + s / 2 is at exp(-s) = 1 / (2 L)."""
    made = Variances(["a", "b"], 0.05)
    for step in range(3000):
        total = made.joined(losses(a=0.2, b=3.0), step)
        made.after(step)
    found = made.facts()["learnt_weights"]
    assert found["a"] == pytest.approx(1 / 0.4, rel=1e-3)
    assert found["b"] == pytest.approx(1 / 6.0, rel=1e-3)
    least = sum(0.5 + 0.5 * math.log(2 * each) for each in (0.2, 3.0))
    assert float(total.detach()) == pytest.approx(least, rel=1e-4)


def test_a_loss_counts_by_its_variance():
    made = Variances(["a", "b"], 0.05)
    made.restore({"logs": torch.tensor([math.log(4.0), 0.0])})
    own = losses(a=1.0, b=1.0)
    made.joined(own, 0).backward()
    assert float(own["a"].mean.grad) == pytest.approx(0.25)
    assert float(own["b"].mean.grad) == pytest.approx(1.0)


# Surgery

NUMBERS = st.lists(st.floats(-10, 10, width=32), min_size=12, max_size=12)


@settings(max_examples=200, deadline=None)
@given(NUMBERS, NUMBERS, st.integers(0, 99))
def test_two_projected_gradients_never_go_against_each_other(one, other, seed):
    pair = [torch.tensor(each, dtype=torch.float64) for each in (one, other)]
    found, counts = projected(pair, np.random.default_rng(seed))
    size = float(pair[0].norm() * pair[1].norm())
    inner = float(pair[0] @ pair[1])
    assert float(found[0] @ found[1]) >= -1e-9 * (1 + size)
    assert float(found[0] @ pair[1]) >= -1e-9 * (1 + size)
    if inner >= 0:
        assert all(torch.equal(a, b) for a, b in zip(pair, found, strict=True))
        assert int(counts[1]) == 0


def test_a_gradient_loses_what_goes_against_another_and_no_more():
    """The example of two vectors in a plane, by hand."""
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    found, counts = projected([one, other], np.random.default_rng(0))
    torch.testing.assert_close(found[0], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(found[1], torch.tensor([0.0, 1.0]))
    assert counts.tolist() == [2, 2]


@pytest.fixture
def pair(small: Path, folders: Mapping[str, Path]) -> tuple[Any, Several, list[Any]]:
    """A model with the other task beside it, and four examples of each."""
    model = from_published(read_folder(small), WRITER.head(0.0), 48, 0)
    beside = task_beside("spans", Also(rows="words"), folders["words"], model, WRITER, 20, 0.0, 0)
    several = Several(model.network, {"spans": beside}, {MAIN: 1.0, "spans": 1.0})
    several.attach()
    own = WRITER.examples(model, pq.read_table(folders["rows"] / "train.parquet").slice(0, 4))
    other = tasked(beside, 4)
    return model, several, [*own, *other]


def tasked(beside: Any, count: int) -> list[Any]:
    found = OfTask(beside.task_model.examples(beside.model, beside.rows.slice(0, count)), "spans")
    return [found[n] for n in range(count)]


def gradients(network: Network) -> dict[str, Tensor]:
    found = {n: w.grad.clone() for n, w in trainable(network).items() if w.grad is not None}
    for weight in network.parameters():
        weight.grad = None
    return found


def test_surgery_gives_the_sum_of_the_projected_gradients(pair):
    model, several, examples = pair
    network = model.network
    loss = several.wrapped(WRITER.loss, 0)
    loss(network, examples, None).mean.backward()
    plain = gradients(network)
    several.combination = Surgeon(network, 0)
    made = loss(network, examples, None)
    made.mean.backward()
    found = gradients(network)
    assert found.keys() == plain.keys()
    parts = []
    for own, part in (("main", examples[:4]), ("spans", examples[4:])):
        task = WRITER if own == "main" else several.others["spans"].task_model
        read = network if own == "main" else several.others["spans"].network
        (task.loss(read, part, None).mean / 2).backward()
        parts.append(gradients(network))
    names = [name for name in plain if name.startswith("stacks.")]
    flat = [torch.cat([part[name].reshape(-1) for name in names]) for part in parts]
    wanted = torch.stack(projected(flat, np.random.default_rng(0))[0]).sum(0)
    got = torch.cat([found[name].reshape(-1) for name in names])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)
    for name in plain:
        if not name.startswith("stacks."):
            torch.testing.assert_close(found[name], plain[name])  # heads are nobody else's


# Bodies


def test_heads_on_one_body_read_the_same_states(pair):
    model, several, examples = pair
    network, other = model.network, several.others["spans"].network
    assert other.stacks is network.stacks and other.head is not network.head
    with torch.no_grad():
        for weight in network.stacks.parameters():
            weight.add_(0.01)
    batch = pack([each.tokens for each in examples])
    torch.testing.assert_close(network.hidden(batch), other.hidden(batch))
    names = dict(network.named_parameters())
    assert "also.spans.out.weight" in names
    several.detach()
    assert not any(name.startswith("also") for name, _ in network.named_parameters())


def test_a_reversed_head_turns_the_gradient_of_the_body_round(small, folders):
    model = from_published(read_folder(small), WRITER.head(0.0), 48, 0)
    made = {}
    for reverse in (0.0, 2.0):
        setting = Also(rows="words", reverse=reverse)
        beside = task_beside("spans", setting, folders["words"], model, WRITER, 20, 0.0, 0)
        several = Several(model.network, {"spans": beside}, {"spans": 1.0})
        several.attach()
        several.begin(Size(), 0, 10)
        several.before(10)  # the end: nearly the whole factor
        beside.task_model.loss(beside.network, tasked(beside, 4), None).mean.backward()
        made[reverse] = gradients(model.network)
        several.before(0)
        beside.task_model.loss(beside.network, tasked(beside, 4), None).mean.backward()
        begun = gradients(model.network)
        several.detach()
    body = [n for n in made[0.0] if n.startswith("stacks.")]
    grown = 2 / (1 + math.exp(-10)) - 1
    for name in body:
        torch.testing.assert_close(made[2.0][name], -2.0 * grown * made[0.0][name])
        assert not begun[name].any(), "and none at the beginning"
    head = [n for n in made[0.0] if n.startswith("also.")]
    assert head and all(torch.equal(made[0.0][n], made[2.0][n]) for n in head)


# Bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"also": {"model": Also(rows="words")}}, "none of main"),
        ({"also": {"spans": Also(rows="words", weight=0.0)}}, "a weight above 0"),
        ({"micro_batch": 2}, "several tasks in a batch"),
        ({"epochs": 0}, "epochs is 0, and several tasks"),
        ({"mixing": "sizes"}, "did you mean 'size'"),
        ({"mixing": {"kind": "size", "temperature": 0.5}}, "from 1"),
        ({"regularize": ("adversarial",)}, "neither adversarial"),
        ({"mixing": "surgery", "regularize": ("r-drop",)}, "r-drop"),
    ],
)
def test_what_cannot_go_together_is_refused(stage, change, words):
    with pytest.raises(BadInput, match=words):
        replace(stage, **change).check()


def test_a_task_that_needs_another_body_is_refused(stage, folders, tmp_path):
    other = tmp_path / "cased"
    other.mkdir()
    for name in ("train", "validation"):
        (other / f"{name}.parquet").write_bytes((folders["words"] / f"{name}.parquet").read_bytes())
    write_task(other, replace(WORDS, case=True))
    with pytest.raises(BadInput, match=r"also\.spans: token-classification with these settings"):
        stage.run(FakeWork({**folders, "words": other}, tmp_path / "work"))
