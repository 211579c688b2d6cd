"""Batches that are divided, made by the model itself, kept in files or held together."""

from __future__ import annotations

import copy
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.models.core.ragged import pack
from lmwright.models.load import load_predictor
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import Network, build
from lmwright.models.zoo import bert, gpt2, mixtral
from lmwright.tasks.text_classification_model import TextClassifier
from lmwright.train.batches import UNLEARNT, EpochBatches, Example, Share, digest
from lmwright.train.checkpoint import Checkpoints
from lmwright.train.division import Division, ProcessGroup, add_gradients
from lmwright.train.finetune import Train
from lmwright.train.loop import OptimizerConfig, State, train
from lmwright.train.loss import BatchLoss
from lmwright.train.made import MadeBatches
from lmwright.train.optimizers import SGD, AdamW
from lmwright.train.schedules import Constant, Linear
from lmwright.train.stored import StoredExamples
from tests.train.conftest import SMALL, TASK, FakeWork
from tests.train.test_experts import CONFIG as EXPERTS

BY_MODEL = TextClassifier(TASK)
WORDS = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 6}


def encoder() -> Network:
    """An untrained encoder with dropout and a head for two labels."""
    network = build(bert.spec({**SMALL, "vocab_size": 50}).with_dropout(0.2), BY_MODEL.head(0.2))
    initialise(network, seed=5)
    return network


def examples(count: int) -> list[Example]:
    """Drawn documents: what is learnt of them does not matter here."""
    draw = np.random.default_rng(3)
    return [Example(draw.integers(0, 50, 2 + j % 5), 7 * j, j % 2) for j in range(count)]


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """The gradients of all weights, by name."""
    return {n: w.grad.clone() for n, w in network.named_parameters() if w.grad is not None}


def close(these: dict[str, Tensor], those: dict[str, Tensor]) -> None:
    """Assert equal gradients up to the order of sums."""
    assert these.keys() == those.keys()
    for name in these:
        torch.testing.assert_close(these[name], those[name], rtol=1e-4, atol=1e-7)


@given(size=st.integers(0, 40), count=st.integers(1, 9))
def test_shares_are_runs_that_make_up_the_whole(size: int, count: int) -> None:
    parts = [range(size)[Share(place, count).of(size)] for place in range(count)]
    assert [each for part in parts for each in part] == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("parts", [2, 3, 20])
def test_micro_batches_give_the_gradient_of_the_whole_batch(parts: int) -> None:
    """Dropout on; with 20 parts of 13 documents some are empty."""
    batches = EpochBatches(examples(13), 13, 1, seed=2)
    network = encoder()
    whole = add_gradients(network, batches, BY_MODEL.loss, 0, Division())
    wanted = gradients(network)
    network.zero_grad()
    found = add_gradients(network, batches, BY_MODEL.loss, 0, Division(parts))
    assert found == (pytest.approx(whole[0], rel=1e-5), whole[1])
    close(gradients(network), wanted)


def test_the_stage_honours_micro_batch(small: Path, rows: Path, tmp_path: Path) -> None:
    stage = Train(start=str(small), rows=60, epochs=1, batch=10, max_tokens=48, lr=1e-3, seed=3)
    works = [FakeWork({"rows": rows}, tmp_path / name) for name in "ab"]
    facts = [
        replace(stage, micro_batch=size).run(work) for size, work in zip((0, 4), works, strict=True)
    ]
    assert facts[0]["tokens"] == facts[1]["tokens"]
    losses = [[each["loss"] for each in work.named("step")] for work in works]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    networks = [load_predictor(work.folder / "model").model.network for work in works]
    for one, other in zip(*(each.parameters() for each in networks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    with pytest.raises(BadInput, match="micro_batch is 11; wanted: at least 0 and at most 10"):
        replace(stage, micro_batch=11).check()


def test_a_loss_across_the_batch_is_not_divided() -> None:
    """The balance of routed experts is one of all tokens of a pass."""
    network = build(mixtral.FAMILY.spec(EXPERTS), BY_MODEL.head(0.0))
    initialise(network, seed=1)
    batches = EpochBatches(examples(6), 6, 1, seed=2)
    assert add_gradients(network, batches, BY_MODEL.loss, 0, Division())[1]
    with pytest.raises(BadInput, match="set micro_batch to 0"):
        add_gradients(network, batches, BY_MODEL.loss, 0, Division(2))


def run_rank(rank: int, folder: str) -> None:
    """Three steps as one of two processes; its weights go into a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    network = encoder()
    fit(network, Division(2, ProcessGroup()))
    torch.distributed.destroy_process_group()
    torch.save(network.state_dict(), f"{folder}/{rank}.pt")


def fit(network: Network, division: Division) -> State:
    """Three steps over ten documents, the last batch smaller than the others."""
    state = State()
    train(
        network,
        EpochBatches(examples(10), 4, 1, seed=2),
        BY_MODEL.loss,
        SGD().make(network),  # whose moves are in proportion to the gradients
        OptimizerConfig(0.1, Linear(), 1.0),
        state,
        [],
        lambda event, **facts: None,
        division,
    )
    return state


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file")
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    network = encoder()
    assert fit(network, Division()).step == 3
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=run_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(60)
    assert [each.exitcode for each in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, weight in network.state_dict().items():
        assert torch.equal(found[0][name], found[1][name])
        torch.testing.assert_close(found[0][name], weight, rtol=1e-3, atol=1e-6)


# Batches that the model makes itself

WANTED = 4


def writer() -> Network:
    """An untrained causal network over six words."""
    spec = gpt2.FAMILY.spec(WORDS)
    network = build(spec, gpt2.FAMILY.heads["lm"](WORDS, spec)[0])
    initialise(network, seed=9)
    return network


def rollouts(step: int, network: Network, share: Share) -> list[Example]:
    """Eight sampled documents of five words; target: the reward, the share of one word."""
    draw = stream(11, "rollout", step)
    found = []
    for number in range(8):
        ids = [0]
        for _ in range(5):
            with torch.no_grad():
                p = network.next(pack([np.array(ids)]), None)[0].double().softmax(-1).numpy()
            ids.append(int(draw.choice(len(p), p=p / p.sum())))
        reward = np.array([ids[1:].count(WANTED) / 5])
        found.append(Example(np.array(ids), step * 8 + number, reward))
    return found[share.of(len(found))]


def policy_gradient(network: Network, batch: list[Example], dropout_rng: Any) -> BatchLoss:
    """REINFORCE (Williams 1992) with a fixed baseline, per document."""
    packed = pack([each.tokens for each in batch], [each.document for each in batch])
    total = torch.zeros(())
    for each, rows in zip(batch, packed.by_document(network(packed, dropout_rng)), strict=True):
        nats = F.cross_entropy(rows[:-1], torch.from_numpy(each.tokens[1:]), reduction="sum")
        total = total + (float(np.asarray(each.target)[0]) - 1 / 6) * nats
    return BatchLoss(total / len(batch), len(batch))


def reinforce(folder: Path, steps: int, record: Any, most: int | None = None) -> tuple[Any, Any]:
    """Train by policy gradient to ``steps`` steps from the last checkpoint; break at ``most``."""
    network, events = writer(), []
    optimizer = AdamW().make(network)
    checkpoints = Checkpoints(folder / "checkpoints", "toy", record)
    state = (checkpoints.resume(network, optimizer) or (State(), {}))[0]

    def stop(state: State) -> None:
        if state.step == most:
            raise KeyboardInterrupt

    made = MadeBatches(
        lambda step, model, share: rollouts(step, model, share) if step < steps else [],
        11,
        folder / "made.jsonl",
        lambda event, **facts: events.append((event, facts)),
        "toy",
    )
    train(
        network,
        made,
        policy_gradient,
        optimizer,
        OptimizerConfig(1e-2, Constant(), 1.0),
        state,
        [(1, stop), (5, lambda state: checkpoints.save(state, network, optimizer, {}))],
        record,
    )
    return network, (state, events)


def test_a_policy_gradient_learns_from_its_own_rollouts_and_survives_a_kill(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir(), (tmp_path / "broken").mkdir()
    ignore = lambda event, **facts: None  # noqa: E731
    whole, (state, events) = reinforce(tmp_path / "whole", 60, ignore)
    assert (state.step, state.ended, events) == (60, "no more batches", [])
    rewards = [
        np.mean([float(np.asarray(each.target)[0]) for each in rollouts(1000, network, Share())])
        for network in (writer(), whole)
    ]
    assert rewards[1] > rewards[0] + 0.3
    with pytest.raises(KeyboardInterrupt):
        reinforce(tmp_path / "broken", 60, ignore, most=13)
    journal = (tmp_path / "broken" / "made.jsonl").read_text()
    again, (state, events) = reinforce(tmp_path / "broken", 60, ignore)
    assert events == [], "steps 10 to 12 were made again, and came out as before"
    assert (tmp_path / "broken" / "made.jsonl").read_text().startswith(journal)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_batch_that_is_made_otherwise_is_told(tmp_path: Path) -> None:
    events: list[Any] = []
    for place, word in enumerate((1, 1, 2)):
        made = MadeBatches(
            lambda step, network, share, word=word: [Example(np.array([word]), 0)],
            0,
            tmp_path / "made.jsonl",
            lambda event, **facts: events.append((event, facts["step"])),
            "",
        )
        made.at(4, None)
        assert events == ([("made otherwise", 4)] if place == 2 else [])
    with (tmp_path / "made.jsonl").open("a") as file:
        file.write("\n[5, 0, 1, ")  # a kill in the middle of a line
    last = MadeBatches(lambda *_: [], 0, tmp_path / "made.jsonl", lambda event, **facts: None, "")
    assert list(last.known) == [(4, 0, 1)]


def test_a_schedule_that_needs_the_number_of_steps_says_so() -> None:
    assert Constant().rate(7, None, 0.5) == 0.5
    with pytest.raises(BadInput, match="set schedule to constant"):
        Linear().rate(0, None, 0.5)


# Documents that stay together, and a second, frozen network

CHOSEN, REJECTED = [0, 1, 2, 3], [0, 1, 5, 5]


def test_a_preference_pair_is_learnt_beside_a_frozen_reference() -> None:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7) on one pair."""
    network = writer()
    reference = copy.deepcopy(network).requires_grad_(False)
    target = np.array([UNLEARNT, 1, 1, UNLEARNT])
    rejected = Example(np.array(REJECTED), 1, target)
    pair = Example(np.array(CHOSEN), 0, target, (rejected,))

    def likelihoods(model: Network, batch: list[Example]) -> Tensor:
        """Log-likelihoods (pairs, 2) of what is learnt of the chosen and the rejected one."""
        every = [one for each in batch for one in (each, *each.beside)]
        packed = pack([one.tokens for one in every], [one.document for one in every])
        found = []
        for one, rows in zip(every, packed.by_document(model(packed)), strict=True):
            learnt = torch.from_numpy(np.flatnonzero(np.asarray(one.target) != UNLEARNT))
            wanted = torch.from_numpy(one.tokens)[learnt + 1]
            found.append(-F.cross_entropy(rows[learnt], wanted, reduction="sum"))
        return torch.stack(found).view(-1, 2)

    def loss(model: Network, batch: list[Example], dropout_rng: Any) -> BatchLoss:
        ratio = likelihoods(model, batch) - likelihoods(reference, batch)
        return BatchLoss(-F.logsigmoid(2.0 * (ratio[:, 0] - ratio[:, 1])).mean(), len(batch))

    before = [weight.clone() for weight in reference.parameters()]
    losses: list[float] = []
    train(
        network,
        EpochBatches([pair] * 4, 2, 20, seed=1),
        loss,
        AdamW().make(network),
        OptimizerConfig(1e-2, Constant(), 1.0),
        State(),
        [],
        lambda event, **facts: losses.append(facts["loss"]),
    )
    assert losses[0] == pytest.approx(np.log(2), rel=1e-6), "both networks are the same at first"
    assert losses[-1] < 0.1
    with torch.no_grad():
        ours, theirs = likelihoods(network, [pair])[0], likelihoods(reference, [pair])[0]
    assert ours[0] - theirs[0] > ours[1] - theirs[1]
    assert all(map(torch.equal, before, reference.parameters()))
    assert pair.cost == 8


# Examples in files

ids = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(lambda each: np.array(each, np.int64))
aims = st.one_of(
    st.integers(-100, 1 << 40),
    st.lists(st.integers(-100, 9), max_size=4).map(lambda each: np.array(each, np.int64)),
    st.lists(st.floats(-1, 1), max_size=4).map(lambda each: np.array(each, np.float64)),
)
names = st.integers(0, (1 << 128) - 1)


def segmented(example: Example, segments: bool) -> Example:
    """An example, perhaps with segments."""
    own = (np.arange(len(example.tokens)) % 3).astype(np.int32) if segments else None
    return replace(example, segments=own)


alone = st.builds(segmented, st.builds(Example, ids, names, aims), st.booleans())
nested = st.builds(Example, ids, names, aims, st.lists(alone, max_size=2).map(tuple))
whole = st.builds(Example, ids, names, aims, st.lists(nested, max_size=2).map(tuple))
groups = st.builds(segmented, whole, st.booleans())


@given(st.lists(groups, max_size=6), st.integers(1, 3))
def test_stored_examples_are_those_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, given_ones: list[Example], size: int
) -> None:
    parts = [given_ones[at : at + size] for at in range(0, len(given_ones), size)]
    found = StoredExamples(tmp_path_factory.mktemp("stored"), parts)
    assert len(found) == len(given_ones)
    for one, other in zip(found, given_ones, strict=True):
        assert digest([one]) == digest([other])
        assert type(one.target) is type(other.target)
        assert len(one.beside) == len(other.beside)
        assert one.cost == other.cost
        assert (one.segments is None) == (other.segments is None)
        bare = digest([replace(other, segments=None)])
        assert (bare == digest([other])) == (other.segments is None), "another batch"
    assert digest(found[1:]) == digest(given_ones[1:])
