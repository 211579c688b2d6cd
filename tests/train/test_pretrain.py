"""Pretraining: stretches of a stream, rules of scale, parity with a plain loop, resumption."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.core.task import role_columns
from lmwright.data.corpus import schema_of
from lmwright.data.pack import Corpus
from lmwright.data.shards import TOKENIZER, Part, Shards, document_table, write_shards
from lmwright.data.tokenizer import TrainTokenizer
from lmwright.models.family.family import to_theirs
from lmwright.models.load import load_predictor
from lmwright.models.text_model import TextPredictor
from lmwright.models.zoo.gpt2 import FAMILY as GPT2
from lmwright.models.zoo.gpt2 import config as gpt2_config
from lmwright.tasks.text_generation import TextGeneration
from lmwright.tasks.text_generation_model import TextGenerator
from lmwright.text.tokenizer import read_tokenizer
from lmwright.train.batches import UNLEARNT, Share
from lmwright.train.documents import Document, windows
from lmwright.train.pretrain import Pretrain
from lmwright.train.scaling import horizon_of, peak_rate, shape_of, tokens_to_learn
from lmwright.train.stream import StreamBatches
from tests.train.conftest import FakeWork, write_rows, write_task

TASK = TextGeneration()
SUMMARIES = "asset:debian-summaries/debian-summaries.parquet"
TINY = Pretrain(
    family="llama",
    depth=2,
    aspect=16,
    context=32,
    tokens=40 * 128,
    batch_tokens=128,
    evaluate_every=20,
    checkpoint_every=7,
    validation_rows=5,
    device="cpu",
    precision="fp32",
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Path]:
    """Rows of real descriptions, and their shards with a tokenizer of 500 tokens."""
    folder = tmp_path_factory.mktemp("inputs")
    rows, texts = folder / "rows", parquet.read_table(asset_file(SUMMARIES)).slice(0, 200)
    rows.mkdir()
    schema = schema_of(role_columns(TASK, "input", "target"))
    found = [
        {"text": text, "continuation": "", "source": "debian"}
        for text in texts["description"].to_pylist()
    ]
    write_rows(rows / "train.parquet", found[:160], schema)
    write_rows(rows / "validation.parquet", found[160:], schema)
    write_task(rows, TASK)
    known = {"rows": rows}
    for stage in (TrainTokenizer(vocabulary=500), Corpus(workers=1)):
        work = Quiet(known, folder / type(stage).__name__, fail_at=-1)
        work.scratch.mkdir(parents=True)
        stage.run(work)
        known |= {name: work.folder / name for name in stage.gives()}
    return known


class Quiet(FakeWork):
    """A work that takes any measurement."""

    def measured(self, **facts):
        """Nothing."""


def work_of(inputs: dict[str, Path], folder: Path, fail_at: int = -1) -> FakeWork:
    """The surroundings of one run."""
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    return Quiet(inputs, folder, fail_at)


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    """A run to the end: its folder and its facts."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, TINY.run(work_of(inputs, folder))


# Stretches


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    length=st.integers(1, 9),
    size=st.integers(1, 4),
    seed=st.integers(0, 3),
)
@settings(deadline=None, max_examples=80)
def test_every_token_but_a_documents_first_is_learnt_once_a_pass(
    tmp_path_factory, lengths, length, size, seed
):
    folder, total = tmp_path_factory.mktemp("stream"), sum(lengths)
    rows = [{"id": "i", "source": "s", "key": "k", "tokens": n, "bytes": n} for n in lengths]
    write_shards(folder, [Part(np.arange(total), document_table(rows))], 1000, 7)
    shards = Shards(folder)
    stretches = -(-total // length)
    batches = StreamBatches(shards, length, size, 2 * stretches, seed)
    assert batches.stretches == stretches
    learnt = []
    for step in range(stretches):  # as many stretches as ``size`` passes have
        examples = batches.at(step)
        shares = [each for n in range(2) for each in batches.at(step, None, Share(n, 2))]
        assert [each.document for each in shares] == [each.document for each in examples]
        for each in examples:
            known = each.target != UNLEARNT
            assert (each.target[known] == each.tokens[known] + 1).all()  # ids are their places
            starts = set(shards.starts.tolist())
            assert not starts & set(each.tokens[1:].tolist())
            assert len(each.tokens) <= length
            learnt += each.target[known].tolist()
    wanted = sorted(set(range(total)) - set(shards.starts.tolist()))
    assert sorted(learnt) == sorted(wanted * size)
    assert batches.at(2 * stretches) == []


@given(
    count=st.integers(2, 60),
    first=st.integers(1, 20),
    most=st.integers(4, 20),
    data=st.data(),
)
def test_windows_score_each_token_once_after_what_they_share(count, first, most, data):
    shared, first = data.draw(st.integers(1, most - 1)), min(first, count - 1)
    found = [*windows(Document(np.arange(count), first, 9, None), most, shared)]
    scored = [int(n) for each in found for n in each.tokens[each.first :]]
    assert scored == list(range(first, count))
    assert all(len(each.tokens) <= most for each in found)
    assert all(each.first >= min(shared, each.tokens[0] or shared) for each in found[1:])


# Rules


def test_shapes_and_lengths_follow_from_the_depth():
    shape = shape_of(12, 64, 1024)
    assert (shape.layers, shape.width, shape.heads) == (12, 768, 12)  # GPT-2's smallest
    assert (shape_of(4, 32, 256).width, shape_of(4, 32, 256).heads) == (128, 4)
    assert shape_of(3, 50, 256).width == 160  # whole heads
    assert tokens_to_learn(1000, 10**6, 20, 4) == 20_000
    assert tokens_to_learn(10**6, 10**6, 20, 4) == 4 * 10**6
    small = horizon_of(300 * 10**9, 2048)  # Brown et al. 2020: 0.5 million tokens a step
    assert small.rows * 2048 == 2**19 and small.tokens == pytest.approx(300e9, rel=1e-3)
    assert peak_rate(768) == pytest.approx(6e-4, rel=0.1)  # table 2.1
    assert horizon_of(1, 256).steps == 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"context": 4}, "context is 4"),
        ({"family": "bert"}, "no shape follows.*one of .*llama"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"check_first": "no"}, "check_first"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, words):
    with pytest.raises(BadInput, match=words):
        Pretrain(**{"family": "llama", **setting}).check()


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gpt2"])
def test_families_take_the_shape(inputs, family):
    setting = replace(TINY, family=family, aspect=32)
    model = setting.drawn(read_tokenizer(inputs["shards"] / TOKENIZER))
    (stack,) = model.network.spec.stacks
    assert (len(stack.layers), stack.width) == (2, 64)
    assert model.longest == 32


# Training


def test_the_first_losses_are_those_of_a_plain_loop_on_transformers(inputs, tmp_path):
    """GPT-2 with the same weights and rows, fp32 and no dropout: fifty losses within 1e-4."""
    transformers = pytest.importorskip("transformers")
    setting = replace(TINY, family="gpt2", tokens=50 * 128, lr=3e-3, evaluate_every=1000)
    shards = Shards(inputs["shards"])
    model = setting.drawn(read_tokenizer(inputs["shards"] / TOKENIZER))
    spec = model.network.spec
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**gpt2_config(spec)))
    weights = to_theirs(GPT2.weights(spec), dict(model.network.named_parameters()))
    theirs.transformer.load_state_dict(
        {name: each.detach().clone() for name, each in weights.items()}, strict=False
    )
    theirs.tie_weights()
    theirs.eval()
    matrices = [each for each in theirs.parameters() if each.dim() > 1]
    vectors = [each for each in theirs.parameters() if each.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    batches = StreamBatches(shards, 32, 4, 50, setting.seed)
    wanted = []
    for step in range(50):
        total, count = torch.zeros(()), 0
        for each in batches.at(step):
            logits = theirs(torch.from_numpy(each.tokens)[None]).logits[0]
            target = torch.from_numpy(each.target)
            total = total + torch.nn.functional.cross_entropy(logits, target, reduction="sum")
            count += int((target != UNLEARNT).sum())
        loss = total / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = setting.descent().schedule.rate(step, 50, 3e-3)
        optimizer.step()
        optimizer.zero_grad()
        wanted.append(loss.item())
    work = work_of(inputs, tmp_path)
    setting.run(work)
    found = [each["loss"] for each in work.named("step")]
    assert len(found) == 50
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_model_is_written_that_scores_and_writes_as_any_other(inputs, trained):
    folder, facts = trained
    assert facts["steps"] == 40 and facts["step_tokens"] == 128
    assert facts["rows"] == 160 and facts["corpus_tokens"] > 10_000
    predictor = load_predictor(folder / "model")
    assert isinstance(predictor, TextPredictor)
    assert predictor.model.max_tokens == 32
    learnt = parquet.read_table(folder / "model" / "rows.parquet")
    rows = parquet.read_table(inputs["rows"] / "train.parquet")
    assert learnt["id"].to_pylist() == rows["id"].to_pylist()
    assert set(learnt["source"].to_pylist()) == {"debian"}


def test_bits_of_a_byte_fall_and_are_those_of_the_texts(inputs, trained):
    folder, facts = trained
    whole = TextGenerator(TextGeneration(whole=True))
    model = load_predictor(folder / "model").model
    texts = parquet.read_table(inputs["rows"] / "validation.parquet").slice(0, 5).to_pylist()
    prepared = whole.prepare(model, [{"text": r["text"], "continuation": ""} for r in texts])
    answers = whole.answers(model, prepared)
    shared_half = answers["nats"].sum() / math.log(2) / answers["bytes"].sum()
    assert answers["bytes"].sum() == sum(len(TASK.text(row).encode()) for row in texts)
    # The stage's own windows share no more than a token, so that each knows less of the text.
    assert shared_half < facts["validation_bits_per_byte"] < 1.1 * shared_half
    uniform = math.log2(500) * answers["tokens"].sum() / answers["bytes"].sum()
    assert facts["validation_bits_per_byte"] < 0.9 * uniform


def test_a_run_that_was_broken_off_ends_with_the_same_bits(inputs, trained, tmp_path):
    folder, facts = trained
    with pytest.raises(KeyboardInterrupt):
        TINY.run(work_of(inputs, tmp_path, fail_at=17))
    again = work_of(inputs, tmp_path)
    assert TINY.run(again) == facts
    assert again.named("resumed") == [{"step": 14}]
    for name in ("model.safetensors", "curves.json", "rows.parquet"):
        assert (tmp_path / "model" / name).read_bytes() == (folder / "model" / name).read_bytes()


def test_settings_that_are_marked_inert_change_nothing(inputs, trained, tmp_path):
    folder, facts = trained
    inert = [each.name for each in fields(Pretrain) if each.metadata.get("inert")]
    assert inert == ["checkpoint_every", "check_first"]
    other = replace(TINY, checkpoint_every=1000, check_first="off")
    assert other.run(work_of(inputs, tmp_path)) == facts
    for name in ("model.safetensors", "curves.json"):
        assert (tmp_path / "model" / name).read_bytes() == (folder / "model" / name).read_bytes()


def test_a_short_document_has_the_same_likelihood_whole_or_not(inputs, trained):
    folder, _ = trained
    model = load_predictor(folder / "model").model
    rows = [{"text": "This package provides", "continuation": " some tools"}]
    answers = [
        TextGenerator(task).answers(model, TextGenerator(task).prepare(model, rows))
        for task in (TASK, TextGeneration(whole=True))
    ]
    for name in ("nats", "tokens", "bytes"):
        assert answers[0][name].tolist() == answers[1][name].tolist()


def test_parts_of_a_step_give_the_same_losses(inputs, trained, tmp_path):
    folder, _ = trained
    replace(TINY, micro_batch=1).run(work := work_of(inputs, tmp_path))
    whole = losses_of(folder)
    parts = [each["loss"] for each in work.named("step")]
    assert parts == pytest.approx(whole, rel=1e-4)


def losses_of(folder: Path) -> list[float]:
    """The losses of a run."""
    return [each["loss"] for each in json.loads((folder / "model" / "curves.json").read_text())]


def test_a_look_before_the_first_step_calls_no_text_cut(inputs, tmp_path):
    trial = TINY.trial(work_of(inputs, tmp_path))
    assert trial.steps == 40 and trial.rows.num_rows == 160
    assert any(len(each.tokens) == 32 for each in trial.examples)
    assert not any(each.cut for each in trial.examples)


def test_rows_of_another_task_are_refused(rows, inputs):
    with pytest.raises(BadInput, match="pretraining on rows of text-classification"):
        TINY.foresee({"rows": rows, "shards": inputs["shards"]})
