"""Batches of several sources: shares, order, resuming; general text beside a task's rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lmwright.core.errors import BadInput
from lmwright.core.settings import read_settings
from lmwright.core.task import role_columns
from lmwright.data.corpus import schema_of
from lmwright.tasks.summarization import Summarization
from lmwright.tasks.target_text import Decoding
from lmwright.tasks.text_generation import TextGeneration
from lmwright.train.batches import UNLEARNT, Example, Share
from lmwright.train.finetune import Train
from lmwright.train.forgetting import general_passages
from lmwright.train.mixed import MixedBatches, Part
from lmwright.train.new import New
from lmwright.train.replay import Replay
from tests.train.conftest import FakeWork, write_rows, write_task

SUMMARIES = Summarization(decoding=Decoding(max_new_tokens=6))
GENERAL = TextGeneration()


def some(name: int, count: int) -> list[Example]:
    """Examples whose document says of which source they are."""
    return [Example(np.arange(3), 1000 * name + number) for number in range(count)]


def names(examples: list[Example]) -> list[int]:
    return [each.document for each in examples]


def sources(examples: list[Example]) -> Counter[int]:
    return Counter(each.document // 1000 for each in examples)


@pytest.mark.parametrize("shares", [[0.1], [0.25, 0.5], [1 / 3, 1 / 3], [0.03, 0.11, 0.4]])
def test_each_source_has_its_share_of_any_stretch(shares):
    parts = {str(n): Part(some(n, 5 + n), share) for n, share in enumerate(shares, 1)}
    batches = MixedBatches(some(0, 50), parts, 9, 3, 7)
    seen: Counter[int] = Counter()
    for step in range(batches.steps - 1):
        found = batches.at(step)
        assert len(found) == 9
        seen += sources(found)
        for number, share in enumerate(shares, 1):
            assert seen[number] == int(share * 9 * (step + 1) + 1e-9)
    last = batches.at(batches.steps - 1)
    assert sources(last)[0] > 0 and len(last) <= 9
    assert batches.at(batches.steps) == []
    every = [each.document for step in range(batches.steps) for each in batches.at(step)]
    assert Counter(n for n in every if n < 1000) == Counter(dict.fromkeys(range(50), 3))
    counts = Counter(each // 1000 for each in every)
    assert batches.read == {name: counts[int(name)] for name in parts}


def test_a_source_is_read_evenly_and_in_a_new_order_each_time():
    batches = MixedBatches(some(0, 60), {"b": Part(some(1, 7), 0.5)}, 4, 1, 3)
    order = [each.document for step in range(batches.steps) for each in batches.at(step)]
    own = [each for each in order if each >= 1000]
    rounds = [tuple(own[at : at + 7]) for at in range(0, 56, 7)]
    assert all(sorted(each) == list(range(1000, 1007)) for each in rounds)
    assert len(set(rounds)) > 6


def test_a_step_is_a_function_of_seed_and_step_and_its_shares_are_all_of_it():
    def made(seed: int) -> MixedBatches:
        return MixedBatches(some(0, 30), {"b": Part(some(1, 9), 0.3)}, 8, 2, seed)

    one, other = made(1), made(1)
    assert [names(other.at(step)) for step in (4, 2)] == [names(one.at(step)) for step in (4, 2)]
    assert names(made(2).at(2)) != names(one.at(2))
    assert made(2).hash() != one.hash() == other.hash()
    parts = [each for place in range(3) for each in one.at(3, None, Share(place, 3))]
    assert names(parts) == names(one.at(3))
    more = MixedBatches(some(0, 30), {"b": Part(some(1, 9), 0.4)}, 8, 2, 1)
    assert more.hash() != one.hash()


@pytest.mark.parametrize(("size", "share"), [(1, 0.5), (8, 0.95), (8, 1.0)])
def test_a_task_without_room_is_refused(size, share):
    with pytest.raises(BadInput, match="room for a row of the task itself"):
        _ = MixedBatches(some(0, 30), {"b": Part(some(1, 9), share)}, size, 2, 1).steps


# Replay


@pytest.fixture(scope="module")
def folders(sentences, tmp_path_factory) -> dict[str, Path]:
    """Sentences with their beginnings as summaries, and other sentences as general text."""
    folder = tmp_path_factory.mktemp("replay")
    rows, general = folder / "rows", folder / "general"
    for path, task in ((rows, SUMMARIES), (general, GENERAL)):
        path.mkdir()
        write_task(path, task)
    told = [{**each, "summary": " ".join(each["text"].split()[:3])} for each in sentences]
    schema = schema_of(role_columns(SUMMARIES, "input", "target"))
    write_rows(rows / "train.parquet", told[:60], schema)
    write_rows(rows / "validation.parquet", told[60:80], schema)
    plain = schema_of(role_columns(GENERAL, "input", "target"))
    texts = [{**each, "continuation": ""} for each in sentences[100:140]]
    texts += [{**texts[0], "text": general_passages()[0]}]
    write_rows(general / "train.parquet", texts, plain)
    return {"rows": rows, "general": general}


@pytest.fixture
def stage() -> Train:
    config: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
    }
    return read_settings(
        Train,
        {
            "new": vars(New(family="llama", config=config, vocabulary=300)),
            "replay": {"texts": "general", "share": 0.25},
            "epochs": 2,
            "batch": 10,
            "max_tokens": 48,
            "lr": 3e-3,
            "evaluate_every": 6,
            "checkpoint_every": 3,
            "seed": 1,
            "check_first": "off",
        },
        "test",
    )


def test_a_quarter_of_the_rows_is_general_text_and_all_of_it_is_learnt(stage, folders, tmp_path):
    work = FakeWork(folders, tmp_path / "work")
    facts = stage.run(work)
    assert stage.needs() == ("rows", "general")
    assert facts["steps"] == 16 == stage.steps_of(60, {})  # 120 rows, 7.5 a step
    told = facts["replay"]
    assert (told["texts"], told["rows"]) == (40, 40), "and the gauge's own passage is left out"
    assert 0.5 < told["share_of_tokens"] < 0.99  # texts are longer than these summaries
    used = pq.read_table(work.folder / "model" / "rows.parquet").column("id").to_pylist()
    ids = [pq.read_table(folders[n] / "train.parquet").column("id").to_pylist() for n in folders]
    assert set(used) > set(ids[0]) and len(set(used) & set(ids[1])) == 40
    assert used == sorted(used)


def test_general_text_is_learnt_by_every_token(stage, folders, tmp_path):
    work = FakeWork(folders, tmp_path / "work")
    stage = replace(stage, epochs=1)
    trial, _ = stage.begun(work)
    parts, _ = stage.mixed_in(work, trial.model, stage.several(work, trial), 60)
    (part,) = parts.values()
    for each in part.examples:
        assert (np.asarray(each.target)[:-1] == each.tokens[1:]).all()
        assert each.target[-1] == UNLEARNT and 2 < len(each.tokens) <= 48


@pytest.mark.parametrize("step", [2, 8])
def test_an_interrupted_run_ends_in_the_same_bits(stage, folders, tmp_path, step):
    stage = replace(stage, micro_batch=4)
    whole, broken = (FakeWork(folders, tmp_path / name) for name in ("whole", "broken"))
    facts = stage.run(whole)
    broken.fail_at = step
    with pytest.raises(KeyboardInterrupt):
        stage.run(broken)
    broken.fail_at = 0
    assert stage.run(broken) == facts
    made = [each.folder / "model" / "model.safetensors" for each in (whole, broken)]
    assert made[0].read_bytes() == made[1].read_bytes()
    plain = replace(stage, replay=None).run(FakeWork({"rows": folders["rows"]}, tmp_path / "plain"))
    assert plain["steps"] == 12 and "replay" not in plain


def test_an_encoder_is_refused_by_name(rows, folders, small, tmp_path):
    own = {"rows": rows, "general": folders["general"]}
    stage = Train(start=str(small), replay=Replay(texts="general"), max_tokens=48)
    with pytest.raises(BadInput, match="replay, and an encoder for text-classification"):
        stage.run(FakeWork(own, tmp_path / "work"))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_that_is_none_is_refused(stage, share):
    with pytest.raises(BadInput, match="a share above 0 and below 1"):
        replace(stage, replay=replace(stage.replay, share=share)).check()
