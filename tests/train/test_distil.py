"""Distillation: losses as papers have them, a teacher that stays as it is, and who is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_tree, tree
from lmwright.core.task import role_columns, task_to_json
from lmwright.data.corpus import read_split, schema_of
from lmwright.models.blocks.context import Trace
from lmwright.models.core.ragged import pack
from lmwright.models.files.folder import read_folder, write_folder
from lmwright.models.files.layers import with_layers
from lmwright.models.load import load_predictor
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import build
from lmwright.models.text_model import language_model
from lmwright.models.zoo.bert import FAMILY, spec
from lmwright.tasks.regression import Regression
from lmwright.tasks.summarization import Summarization
from lmwright.tasks.target_text import Decoding
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.token_classification import TokenClassification
from lmwright.train import distil as trunk
from lmwright.train.base import source_of
from lmwright.train.batches import UNLEARNT, EpochBatches
from lmwright.train.distil import Lesson, mean_over_rows
from lmwright.train.distillations.hidden import Hidden
from lmwright.train.distillations.logits import Logits
from lmwright.train.distillations.on_policy import OnPolicy, answer_start, jensen_shannon
from lmwright.train.finetune import Train
from lmwright.train.loss import Learnt
from lmwright.train.new import New
from lmwright.train.several import Also
from lmwright.train.task_model import trained_task_model
from lmwright.train.teacher import open_teacher
from tests.serve.talking import write_model
from tests.train.conftest import SMALL, TASK, TOKENIZER, FakeWork, write_rows, write_task

FILES = ("model.safetensors", "model.json", "curves.json", "rows.parquet")
SUMMARIES = Summarization(decoding=Decoding(max_new_tokens=12))
SGD = {"kind": "sgd", "momentum": 0.0}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A published encoder of width 24 with three layers and the real tokenizer."""
    folder = tmp_path_factory.mktemp("wide")
    network = build(spec({**SMALL, "hidden_size": 24, "num_hidden_layers": 3}))
    initialise(network, seed=5)
    write_folder(folder, FAMILY, network)
    (folder / "tokenizer.json").write_bytes(asset_file(TOKENIZER).read_bytes())
    return folder


@pytest.fixture
def stage(small) -> Train:
    """A student of the first layer of a start."""
    return Train(
        start=str(small),
        start_layers=(0,),
        rows=60,
        epochs=1,
        batch=10,
        max_tokens=32,
        lr=0.05,
        optimizer=SGD,
        schedule="constant",
        clip=0.0,
        dropout=0.0,
        evaluate_every=3,
        checkpoint_every=2,
        validation_rows=20,
        seed=3,
    )


@pytest.fixture(scope="module")
def teacher(wide, rows, tmp_path_factory) -> Path:
    """A trained teacher of the rows' task, under the hash of its content."""
    work = FakeWork({"rows": rows}, tmp_path_factory.mktemp("teacher"))
    Train(start=str(wide), rows=80, epochs=1, max_tokens=32, lr=3e-3, validation_rows=20).run(work)
    folder = work.folder / "model"
    return folder.rename(folder.with_name(hash_tree(tree(folder))))


def files(work: FakeWork) -> dict[str, bytes]:
    """The bytes of the model's artifact."""
    return {name: (work.folder / "model" / name).read_bytes() for name in FILES}


def losses(work: FakeWork) -> list[float]:
    """The losses of all steps."""
    return [each["loss"] for each in work.named("step")]


# Logits


def test_the_first_losses_are_those_of_a_plain_reference(stage, rows, teacher, tmp_path):
    """Hinton et al. 2015 by hand: one text after another, torch's KL, plain gradient descent."""
    temperature, alpha = 3.0, 0.7
    settings = {"kind": "logits", "teacher": "teacher", "temperature": temperature, "alpha": alpha}
    work = FakeWork({"rows": rows, "teacher": teacher}, tmp_path / "run")
    stage = replace(stage, distil=settings)
    stage.run(work)
    trial = stage.trial(FakeWork({"rows": rows, "teacher": teacher}, tmp_path / "reference"))
    network, wise = trial.model.network, load_predictor(teacher).model.network
    examples = trial.task_model.examples(trial.model, trial.rows)
    batches, wanted = EpochBatches(examples, 10, 1, stage.seed), []
    for step in range(4):
        batch = batches.at(step)
        own = torch.cat([network(pack([each.tokens])) for each in batch])
        with torch.no_grad():
            other = torch.cat([wise(pack([each.tokens])) for each in batch])
        soft = F.kl_div(
            torch.log_softmax(own / temperature, -1),
            torch.softmax(other / temperature, -1),
            reduction="batchmean",
        )
        hard = F.cross_entropy(own, torch.tensor([each.target for each in batch]))
        loss = alpha * temperature**2 * soft + (1 - alpha) * hard
        wanted.append(float(loss.detach()))
        loss.backward()
        with torch.no_grad():
            for weight in network.parameters():
                if weight.grad is not None:
                    weight -= stage.lr * weight.grad
                    weight.grad = None
    assert losses(work)[:4] == pytest.approx(wanted, abs=1e-5)
    assert max(wanted) - min(wanted) > 1e-3


def test_the_teacher_stays_as_it_is_and_is_an_input(stage, rows, teacher, tmp_path):
    before = hash_tree(tree(teacher))
    stage = replace(stage, distil={"kind": "logits", "teacher": "teacher"})
    facts = stage.run(FakeWork({"rows": rows, "teacher": teacher}, tmp_path / "run"))
    assert hash_tree(tree(teacher)) == before
    assert stage.needs() == ("rows", "teacher") and stage.learns_from() == ()
    assert "learns_from" not in facts
    assert Train.origins({"distil": {"teacher": "teacher"}}) == ("base", "teacher")
    reached = stage.reaches({"rows": rows, "teacher": teacher})
    assert "lmwright.train.distillations.logits" in reached
    assert "lmwright.models.text_model" in reached
    student = load_predictor(tmp_path / "run" / "model")
    assert len(student.model.network.stacks["encoder"].layers) == 1


@pytest.mark.parametrize(
    "distil",
    [
        {"kind": "logits", "teacher": "teacher"},
        {"kind": "hidden", "teacher": "teacher", "alpha": 0.5},
    ],
    ids=lambda each: each["kind"],
)
def test_an_interrupted_distillation_ends_in_the_same_bits(stage, rows, teacher, tmp_path, distil):
    stage = replace(stage, distil=distil, optimizer="adamw", dropout=0.1)
    works = [FakeWork({"rows": rows, "teacher": teacher}, tmp_path / name) for name in "ab"]
    facts = stage.run(works[0])
    works[1].fail_at = 5
    with pytest.raises(KeyboardInterrupt):
        stage.run(works[1])
    works[1].fail_at = 0
    assert stage.run(works[1]) == facts
    assert works[1].named("resumed") == [{"step": 4}]
    assert files(works[1]) == files(works[0])


def test_micro_batches_give_the_same_weights(stage, rows, teacher, tmp_path):
    stage = replace(stage, distil={"kind": "logits", "teacher": "teacher"})
    works = [FakeWork({"rows": rows, "teacher": teacher}, tmp_path / name) for name in "ab"]
    for work, micro in zip(works, (0, 4), strict=True):
        replace(stage, micro_batch=micro).run(work)
    assert losses(works[0]) == pytest.approx(losses(works[1]), abs=1e-5)


def test_a_mean_in_pieces_is_the_mean(monkeypatch, tmp_path):
    model = language_model(read_folder(write_model(tmp_path)))
    generator = torch.Generator().manual_seed(0)
    states, others = (torch.randn(13, 32, generator=generator) for _ in range(2))
    head = model.network.head
    found = []
    for most in (1 << 25, 4 * head.setting.outputs):
        monkeypatch.setattr(trunk, "MOST_LOGITS", most)
        own = states.clone().requires_grad_()
        weight = head.out.weight
        weight.grad = None
        targets = torch.zeros(13, dtype=torch.int64)
        loss = mean_over_rows(
            Learnt(own, targets, head),
            Learnt(others, targets, head),
            lambda one, two: trunk.divergence(two, one, 2.0),
        )
        (3 * loss).backward()
        found.append((loss.detach(), own.grad, weight.grad.clone()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert found[0][1].abs().max() > 0


def test_tags_are_learnt_of_a_teacher_where_they_are_learnt_at_all(small, tmp_path):
    """A teacher that says what the student says has nothing to teach, on known tags alone."""
    task = TokenClassification(labels=("NAME",))
    text = "Ada Lovelace wrote to Charles Babbage in London."
    spans = [{"start": 0, "end": 12, "label": "NAME"}]
    schema = schema_of(role_columns(task, "input", "target"))
    for split in ("train", "validation"):
        row = {"text": text, "spans": spans, "source": "made"}
        write_rows(tmp_path / f"{split}.parquet", [row], schema)
    write_task(tmp_path, task)
    stage = Train(start=str(small), max_tokens=24, dropout=0.0)
    trial = stage.trial(FakeWork({"rows": tmp_path}, tmp_path / "run"))
    examples = trial.task_model.examples(trial.model, trial.rows)
    learnt = trial.task_model.learnt(trial.model.network, examples, None, [])
    assert (learnt.targets == UNLEARNT).any()
    assert len(learnt.known().states) == int((learnt.targets != UNLEARNT).sum())
    found = mean_over_rows(learnt.known(), learnt.known(), lambda a, b: trunk.divergence(b, a))
    assert float(found.detach()) == pytest.approx(0, abs=1e-6)


# Hidden states


def lesson_of(stage: Train, rows: Path, teacher: Path, folder: Path) -> Lesson:
    """A student before its first step, and its teacher."""
    inputs = {"rows": rows, "teacher": teacher}
    work = FakeWork(inputs, folder)
    trial = stage.trial(work)
    wise = open_teacher("teacher", inputs, trial.task_model, True)
    return Lesson(trial.task_model, trial.model, wise, stage.seed, stage.max_tokens, work)


def test_distances_are_those_of_the_states_through_the_maps(stage, rows, teacher, tmp_path):
    lesson = lesson_of(replace(stage, start_layers=()), rows, teacher, tmp_path)
    network, wise = lesson.student.network, lesson.teacher.model.network
    examples = lesson.task_model.examples(lesson.student, read_split(rows, "train", 12))
    plain = lesson.task_model.loss(network, examples, None).mean
    made = Hidden(teacher="teacher", weight=2.0).make(lesson)
    assert made.pairs["encoder"] == [(0, 0), (1, 2), (2, 3)]
    names = {n for n, _ in network.named_parameters() if n.startswith("distillation.")}
    assert len(names) == 3, "widths differ"
    loss = made.wrapped(lesson.task_model.loss)(network, examples, None)
    assert not loss.divisible
    batch, errors = pack([each.tokens for each in examples]), []
    own, other = Trace(), Trace()
    network.hidden(batch, trace=own)
    wise.hidden(batch, trace=other)
    for one, two in made.pairs["encoder"]:
        mapped = own.states["encoder"][one] @ made.maps[f"encoder-{one}-{two}"].weight.T
        errors.append((mapped - other.states["encoder"][two]).square().mean())
    wanted = plain + 2.0 * torch.stack(errors).mean()
    torch.testing.assert_close(loss.mean, wanted, rtol=1e-5, atol=1e-6)
    loss.mean.backward()
    assert all(network.get_parameter(name).grad is not None for name in names)
    assert all(each.grad is None for each in wise.parameters())
    made.close()
    assert not any(name.startswith("distillation") for name, _ in network.named_parameters())
    assert not network.stacks["encoder"]._forward_hooks


def test_what_learns_its_teachers_states_comes_nearer_to_them(stage, rows, teacher, tmp_path):
    stage = replace(stage, optimizer="adamw", lr=3e-3, epochs=6)
    setting = {"kind": "hidden", "teacher": "teacher", "distance": "cosine", "weight": 10.0}
    work = FakeWork({"rows": rows, "teacher": teacher}, tmp_path / "a")
    replace(stage, distil=setting).run(work)
    assert np.mean(losses(work)[-6:]) < 0.7 * np.mean(losses(work)[:6])
    saved = load_predictor(work.folder / "model").model.network
    assert not any(name.startswith("distillation") for name, _ in saved.named_parameters())


def test_an_equal_network_is_at_no_distance(stage, rows, small, tmp_path):
    """With alpha 0 a published body will do: no head of it is read, and no map is needed."""
    stage = replace(stage, start_layers=())
    trial = stage.trial(FakeWork({"rows": rows}, tmp_path))
    wise = open_teacher(str(small), {}, trial.task_model, False)
    lesson = Lesson(trial.task_model, trial.model, wise, 3, 32, FakeWork({}, tmp_path))
    made = Hidden(teacher=str(small)).make(lesson)
    examples = trial.task_model.examples(trial.model, read_split(rows, "train", 6))
    plain = trial.task_model.loss(trial.model.network, examples, None)
    found = made.wrapped(trial.task_model.loss)(trial.model.network, examples, None)
    torch.testing.assert_close(found.mean, plain.mean)
    assert not len(made.maps)


# Texts


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Real descriptions and their synopses, as rows of a task that writes."""
    folder = tmp_path_factory.mktemp("texts")
    table = pq.read_table(asset_file("asset:debian-summaries/debian-summaries.parquet"))
    pairs = [
        {"text": row["description"], "summary": row["synopsis"], "source": "debian"}
        for row in table.to_pylist()[:36]
    ]
    schema = schema_of(role_columns(SUMMARIES, "input", "target"))
    write_rows(folder / "train.parquet", pairs[:24], schema)
    write_rows(folder / "validation.parquet", pairs[24:], schema)
    write_task(folder, SUMMARIES)
    return folder


@pytest.fixture(scope="module")
def talker(tmp_path_factory) -> Path:
    """A published decoder of two layers."""
    return write_model(tmp_path_factory.mktemp("talker"))


@pytest.fixture
def writing(talker) -> Train:
    """A student of its first layer, which learns to write."""
    return Train(
        start=str(talker),
        start_layers=(0,),
        epochs=1,
        batch=6,
        max_tokens=48,
        lr=1e-3,
        dropout=0.0,
        evaluate_every=2,
        checkpoint_every=1,
        check_first="off",
        validation_rows=8,
        seed=3,
    )


def test_targets_are_what_the_teacher_writes(writing, texts, talker, tmp_path, monkeypatch):
    stage = replace(writing, distil={"kind": "sequences", "teacher": str(talker)})
    work = FakeWork({"rows": texts}, tmp_path)
    trial = stage.trial(work)
    made = stage.method(work, trial)
    writer = trial.task_model
    # An untrained model ends few answers; who writes here is told to end all but some.
    plain = type(writer).written_rows

    def ended(self: Any, model: Any, rows: Any) -> Any:
        return [(row, int(row["id"], 16) % 4 > 0) for row, _ in plain(self, model, rows)]

    monkeypatch.setattr(type(writer), "written_rows", ended)
    taught = made.taught(trial.rows)
    facts = made.facts()["taught"]
    assert facts["unended"] > 0 and sum(facts.values()) == 24
    assert taught.num_rows == facts["written"] == len(set(taught["id"].to_pylist()))
    wise = language_model(read_folder(talker))
    for row in taught.slice(0, 4).to_pylist():
        (item,) = writer.documents(wise, [{**row, "summary": None}])
        assert writer.written(wise, [item]) == [row["summary"]]
    assert taught.schema == trial.rows.schema

    # A run that was killed does not write again what it has.
    def refuse(*_: Any) -> Any:
        raise AssertionError("written twice")

    monkeypatch.setattr(type(writer), "written_rows", refuse)
    again = stage.method(work, trial).taught(trial.rows)
    assert again.equals(taught)
    facts = stage.run(work)
    assert facts["taught"]["written"] == facts["rows"] == taught.num_rows
    assert facts["learns_from"] == [source_of(str(talker))]


def test_a_teacher_that_ends_nothing_is_refused(writing, texts, talker, tmp_path, monkeypatch):
    stage = replace(writing, distil={"kind": "sequences", "teacher": str(talker)})
    writer = type(trained_task_model(SUMMARIES))
    monkeypatch.setattr(
        writer, "written_rows", lambda self, model, rows: [(row, False) for row in rows]
    )
    with pytest.raises(BadInput, match="answered none to its end"):
        stage.run(FakeWork({"rows": texts}, tmp_path))


# On policy


def distributions(seed: int, rows: int = 7, width: int = 11) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, two = (2 * torch.randn(rows, width, generator=generator) for _ in range(2))
    return one, two


@pytest.mark.parametrize("seed", range(5))
def test_divergences_are_what_they_are_called(seed):
    own, other = distributions(seed)
    p, q = torch.softmax(other, -1), torch.softmax(own, -1)
    torch.testing.assert_close(
        jensen_shannon(own, other, 0.0), F.kl_div(q.log(), p, reduction="none").sum(-1)
    )
    torch.testing.assert_close(
        jensen_shannon(own, other, 1.0), F.kl_div(p.log(), q, reduction="none").sum(-1)
    )
    for beta in (0.1, 0.5, 0.9):
        found = jensen_shannon(own, other, beta)
        mixed = beta * p + (1 - beta) * q
        wanted = beta * F.kl_div(mixed.log(), p, reduction="none").sum(-1)
        wanted += (1 - beta) * F.kl_div(mixed.log(), q, reduction="none").sum(-1)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        assert bool((found > 0).all()) and bool((found < np.log(2) + 1e-6).all())
        torch.testing.assert_close(found, jensen_shannon(other, own, 1 - beta))
        torch.testing.assert_close(
            jensen_shannon(own, own + 3, beta), torch.zeros(len(own)), rtol=0, atol=1e-6
        )
    # The ends are the limits of the divergence over its weight.
    for beta, end in ((1e-7, 0.0), (1 - 1e-7, 1.0)):
        scaled = jensen_shannon(own.double(), other.double(), beta) / (
            beta if not end else 1 - beta
        )
        torch.testing.assert_close(
            scaled, jensen_shannon(own.double(), other.double(), end), rtol=1e-4, atol=1e-6
        )


def on_policy(stage: Train, texts: Path, folder: Path, **settings: Any) -> tuple[Any, Any, Any]:
    """An on-policy distillation, the student and examples."""
    stage = replace(stage, distil={"kind": "on-policy", "teacher": stage.start, **settings})
    work = FakeWork({"rows": texts}, folder)
    trial = stage.trial(work)
    made = stage.method(work, trial)
    return made, trial, trial.task_model.examples(trial.model, trial.rows)


def test_answers_are_the_students_own(writing, texts, tmp_path):
    made, trial, examples = on_policy(
        writing, texts, tmp_path, share=1.0, temperature=0.0, max_new_tokens=9
    )
    plain = EpochBatches(examples, 6, 1, 3)
    found = made.batches(plain).at(0, trial.model.network)
    before = plain.at(0)
    assert [each.document for each in found] == [each.document for each in before]
    for own, gold in zip(found, before, strict=True):
        start = answer_start(gold)
        assert np.array_equal(own.tokens[:start], gold.tokens[:start])
        tokens = own.tokens
        assert start < len(tokens) <= start + 9
        assert (np.asarray(own.target) != UNLEARNT).sum() == len(tokens) - start
        with torch.no_grad():
            logits = trial.model.network(pack([tokens]))
        greedy = logits.argmax(-1).numpy()
        assert np.array_equal(greedy[start - 1 : -1], tokens[start:]), "what it would say itself"
        assert np.array_equal(np.asarray(own.target)[start - 1 : -1], tokens[start:])


def test_a_share_of_the_steps_is_the_students(writing, texts, tmp_path):
    made, trial, examples = on_policy(writing, texts, tmp_path, share=0.5, max_new_tokens=2)
    plain = EpochBatches(examples, 6, 5, 3)
    batches = made.batches(plain)
    own = [
        not np.array_equal(
            np.concatenate([each.tokens for each in batches.at(step, trial.model.network)]),
            np.concatenate([each.tokens for each in plain.at(step)]),
        )
        for step in range(plain.steps)
    ]
    assert 4 <= sum(own) <= 16
    assert batches.steps == plain.steps and batches.hash() != plain.hash()


def test_an_equal_student_has_nothing_to_learn(writing, texts, tmp_path):
    writing = replace(writing, start_layers=())
    for beta in (0.0, 0.5, 1.0):
        made, trial, examples = on_policy(writing, texts, tmp_path, beta=beta)
        loss = made.wrapped(trial.task_model.loss)(trial.model.network, examples[:4], None)
        assert float(loss.mean.detach()) == pytest.approx(0, abs=1e-6)
        assert loss.divisible and loss.count == sum(
            int((np.asarray(each.target) != UNLEARNT).sum()) for each in examples[:4]
        )


def test_on_policy_comes_nearer_and_resumes_to_the_same_bits(writing, texts, talker, tmp_path):
    setting = {"kind": "on-policy", "teacher": str(talker), "share": 0.6, "max_new_tokens": 6}
    stage = replace(writing, distil=setting, epochs=3, lr=3e-3)
    works = [FakeWork({"rows": texts}, tmp_path / name) for name in "ab"]
    facts = stage.run(works[0])
    works[1].fail_at = 5
    with pytest.raises(KeyboardInterrupt):
        stage.run(works[1])
    works[1].fail_at = 0
    assert stage.run(works[1]) == facts
    assert files(works[1]) == files(works[0])
    assert not works[1].named("made otherwise")
    assert np.mean(losses(works[0])[-4:]) < np.mean(losses(works[0])[:4])


# Who is refused


def test_a_teacher_with_another_vocabulary_is_refused_by_name(writing, texts, tmp_path):
    new = New(family="llama", config={"hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 96}, vocabulary=300)  # fmt: skip
    for kind in ("logits", "on-policy", "hidden"):
        stage = replace(
            writing, new=new, start_layers=(), distil={"kind": kind, "teacher": writing.start}
        )
        with pytest.raises(BadInput, match="read as those of other tokens") as error:
            stage.run(FakeWork({"rows": texts}, tmp_path / kind))
        assert writing.start in error.value.found and "sequences" in error.value.cure
    own = replace(new, tokenizer=writing.start)
    stage = replace(
        writing, new=own, start_layers=(), distil={"kind": "logits", "teacher": writing.start}
    )
    assert stage.run(FakeWork({"rows": texts}, tmp_path / "own"))["steps"] == 4
    assert writing.start in stage.reads()


def test_other_labels_are_refused(stage, rows, teacher, small, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    said = json.loads((other / "model.json").read_text())
    said["task"] = task_to_json(TextClassification(labels=("bad", "good")))
    (other / "model.json").write_text(json.dumps(said))
    stage = replace(stage, distil={"kind": "logits", "teacher": "teacher"})
    with pytest.raises(BadInput, match="the teacher teacher answers"):
        stage.run(FakeWork({"rows": rows, "teacher": other}, tmp_path / "a"))
    stage = replace(stage, distil={"kind": "logits", "teacher": str(small)})
    with pytest.raises(BadInput, match=r"the teacher .* names") as error:
        stage.run(FakeWork({"rows": rows}, tmp_path / "b"))
    assert "train a teacher" in error.value.cure


@pytest.mark.parametrize(
    ("distil", "found"),
    [
        ({"kind": "logits"}, "teacher is missing"),
        ({"kind": "logits", "teacher": ""}, "teacher is empty"),
        ({"kind": "logits", "teacher": "hosted:m@https://x/v1"}, "is hosted"),
        ({"kind": "logits", "teacher": "no/such/folder"}, "there is no no/such/folder"),
        ({"kind": "logits", "teacher": "hub:a/b"}, "names no revision"),
        ({"kind": "logits", "teacher": "t", "alpha": 0}, "alpha is 0"),
        ({"kind": "logits", "teacher": "t", "temperature": 0}, "temperature is 0"),
        ({"kind": "hidden", "teacher": "t", "weight": 0}, "weight is 0"),
        ({"kind": "on-policy", "teacher": "t", "beta": 2}, "beta is 2"),
        ({"kind": "on-policy", "teacher": "t", "max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"kind": "logits", "teacher": "rows"}, "which are rows"),
        ({"kind": "soft", "teacher": "t"}, "'soft'"),
    ],
)
def test_settings_that_are_none(stage, distil, found):
    with pytest.raises(BadInput) as error:
        replace(stage, distil=distil).check()
    assert found in error.value.found


def test_what_has_no_classes_or_no_texts_is_refused(stage, rows, small, teacher, tmp_path):
    replace(stage, distil={"kind": "logits", "teacher": "t"}).check()
    with pytest.raises(BadInput, match="distil, and several tasks"):
        also = {"other": Also(rows="more")}
        replace(stage, also=also, distil={"kind": "logits", "teacher": "t"}).check()
    with pytest.raises(BadInput, match="epochs is 0"):
        replace(stage, epochs=0, distil={"kind": "logits", "teacher": "t"}).check()
    for kind, found in (("sequences", "nothing is written"), ("on-policy", "writes nothing")):
        broken = replace(stage, distil={"kind": kind, "teacher": "teacher"})
        with pytest.raises(BadInput, match=found):
            broken.run(FakeWork({"rows": rows, "teacher": teacher}, tmp_path / kind))
    lesson = lesson_of(stage, rows, teacher, tmp_path)
    amounts = replace(lesson, task_model=trained_task_model(Regression(low=0, high=1)))
    with pytest.raises(BadInput, match="no distribution over classes"):
        Logits(teacher="t").make(amounts)
    with pytest.raises(BadInput, match="the student has 1 layers"):
        Hidden(teacher="t", layers=((2, 1),)).make(lesson)
    with pytest.raises(BadInput, match=r"the teacher .* reads 64"):
        Logits(teacher="t").make(replace(lesson, max_tokens=65))
    with pytest.raises(BadInput, match="writes nothing"):
        OnPolicy(teacher="t").make(lesson)
    assert TASK.comparable(lesson.teacher.task_model.task)


# Smaller starts


def test_some_layers_of_a_start_are_these_layers(wide):
    published = read_folder(wide)
    found = with_layers(published, (0, 2))
    assert len(found.spec.stacks[0].layers) == 2
    for name, weight in found.weights.items():
        old = name.replace("layers.1.", "layers.2.")
        assert torch.equal(weight, published.weights[old])
    assert {name for name, _ in build(found.spec).named_parameters()} == set(found.weights)
    for layers in ((3,), (0, 0), (-1,)):
        with pytest.raises(BadInput, match="start's 3 layers"):
            with_layers(published, layers)


def test_layers_are_of_a_published_start(stage):
    with pytest.raises(BadInput, match="start_layers beside start_from"):
        replace(stage, start_from="model").check()
    with pytest.raises(BadInput, match="numbers from 0 on"):
        replace(stage, start_layers=(-1,)).check()
