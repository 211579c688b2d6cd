"""The engine: batches, versions, fairness, faults, swaps."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait

import numpy as np
import pytest

from lmwright.core.errors import BadInput, LmwrightError
from lmwright.core.task import Answers
from lmwright.serve.engine import Budgets, Busy, Engine, Failed, TokenTurns
from lmwright.serve.rows import RowScheduler, answer
from tests.serve.fake import Words, loaded, rows


@pytest.fixture
def scheduler():
    scheduler = RowScheduler(Engine(), loaded(), batch_tokens=64, queue_tokens=400)
    yield scheduler
    scheduler.current.predictor.open.set()
    scheduler.engine.close()


def test_answers_are_those_of_the_model_alone(scheduler: RowScheduler) -> None:
    texts = ["a b", "bbb", "aaa c d", "x"]
    _, futures = scheduler.admit(rows(texts))
    alone = [
        answer(scheduler.current, scheduler.current.predictor.prepare(rows([t])))[0] for t in texts
    ]
    for future, other in zip(futures, alone, strict=True):
        assert future.result(10).told["label"] == other.told["label"]
        assert np.array_equal(
            future.result(10).answers["probabilities"], other.answers["probabilities"]
        )
    assert [f.result(10).told["label"] for f in futures] == ["yes", None, "yes", None]
    assert futures[1].result(10).told["unsure"]


def test_what_waits_is_answered_together(scheduler: RowScheduler) -> None:
    predictor = scheduler.current.predictor
    predictor.open.clear()
    futures = [scheduler.admit(rows(["a"]))[1][0] for _ in range(20)]
    predictor.open.set()
    wait(futures, 10)
    assert sum(predictor.batches) == 20
    assert len(predictor.batches) <= 3
    assert scheduler.queued == 0
    assert scheduler.current.pending == 0


def test_only_the_guilty_text_fails(scheduler: RowScheduler) -> None:
    scheduler.current.predictor.open.clear()
    good = scheduler.admit(rows(["a a", "b"]))[1]
    raising = scheduler.admit(rows(["RAISE a"]))[1][0]
    no_number = scheduler.admit(rows(["NAN"]))[1][0]
    scheduler.current.predictor.open.set()
    assert [f.result(10).told["label"] for f in good] == ["yes", None]
    for future in (raising, no_number):
        with pytest.raises(Failed):
            future.result(10)
    assert scheduler.admit(rows(["a"]))[1][0].result(10).told["label"] == "yes"
    assert scheduler.engine.healthy() == ""
    assert scheduler.current.pending == 0


def test_a_full_queue_says_so_and_forgets_nothing(scheduler: RowScheduler) -> None:
    scheduler.current.predictor.open.clear()
    taken = []
    with pytest.raises(Busy) as busy:
        for _ in range(1000):
            taken += scheduler.admit(rows(["a " * 20]))[1]
    assert busy.value.seconds >= 1
    pending = scheduler.current.pending
    assert pending == len(taken)
    scheduler.current.predictor.open.set()
    assert all(f.result(10).told["label"] == "yes" for f in taken)


def test_a_flood_does_not_delay_another_client(scheduler: RowScheduler) -> None:
    scheduler.current.predictor.open.clear()
    scheduler.admit(rows(["first"]), "flood")
    flood = [scheduler.admit(rows(["a " * 9]), "flood")[1][0] for _ in range(18)]
    other = scheduler.admit(rows(["a " * 9]), "other")[1][0]
    order: list[str] = []
    for future in flood:
        future.add_done_callback(lambda f: order.append("flood"))
    other.add_done_callback(lambda f: order.append("other"))
    scheduler.current.predictor.open.set()
    wait([*flood, other], 10)
    assert order.index("other") < 12


def test_a_cancelled_text_gives_its_place_back(scheduler: RowScheduler) -> None:
    scheduler.current.predictor.open.clear()
    scheduler.admit(rows(["first"]))
    futures = scheduler.admit(rows(["a"] * 10))[1]
    for future in futures:
        future.cancel()
    scheduler.current.predictor.open.set()
    assert scheduler.engine.drain(10)
    assert scheduler.current.pending == 0
    assert sum(scheduler.current.predictor.batches) == 1


def test_swaps_under_load_lose_nothing_and_mix_nothing(scheduler: RowScheduler) -> None:
    scales = {"v1": 1.0, "v2": 2.0, "v3": 3.0, "v4": 4.0}
    answers: list[tuple[str, float]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            pinned, futures = scheduler.admit(rows(["a", "a b"]))
            answers.extend(
                (pinned.version, f.result(10).answers["probabilities"][0, 1]) for f in futures
            )

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for name in ("v2", "v3", "v4", None):
        seen = len(answers)
        while len(answers) < seen + 200:
            stop.wait(0.001)
        if name:
            old = scheduler.swap(loaded(name, scales[name]), rows(["canary a"]))
            assert old.pending == 0
    stop.set()
    for thread in threads:
        thread.join(10)
    assert {version for version, _ in answers} == set(scales)
    for version, yes in answers:
        assert yes == pytest.approx(1 / (1 + np.exp(-scales[version])), abs=1e-12)


def test_a_version_that_fails_its_canary_changes_nothing(scheduler: RowScheduler) -> None:
    with pytest.raises(LmwrightError, match="canary"):
        scheduler.swap(loaded("bad"), rows(["NAN"]))
    assert scheduler.current.version == "v1"


def test_draining_refuses_the_new_and_finishes_the_old(scheduler: RowScheduler) -> None:
    futures = scheduler.admit(rows(["a"] * 5))[1]
    assert scheduler.engine.drain(10)
    assert all(f.result(0).told["label"] == "yes" for f in futures)
    with pytest.raises(Busy):
        scheduler.admit(rows(["a"]))


def test_what_nobody_waits_for_is_free_at_once(scheduler: RowScheduler) -> None:
    scheduler.current.predictor.open.clear()
    scheduler.admit(rows(["first"]))
    while scheduler.waiting:
        time.sleep(0.001)
    before = (scheduler.queued, scheduler.current.pending)
    kept = scheduler.admit(rows(["a a"]), "client")[1]
    for _ in range(1000):
        gone = scheduler.admit(rows(["a " * 20] * 5), "client")[1]
        scheduler.forget("client", gone)
        assert all(future.cancelled() for future in gone)
    scheduler.forget("client", [])
    assert (scheduler.queued, scheduler.current.pending) == (before[0] + 3, before[1] + 1)
    assert len(scheduler.waiting.queues["client"]) == 1
    scheduler.forget("client", kept)
    assert (scheduler.queued, scheduler.current.pending) == before
    assert scheduler.waiting.queues == {}
    assert not scheduler.waiting
    scheduler.current.predictor.open.set()
    assert scheduler.admit(rows(["a"]))[1][0].result(10).told["label"] == "yes"


def test_more_than_ever_fits_is_refused_for_good(scheduler: RowScheduler) -> None:
    with pytest.raises(BadInput, match="at most 200"):
        scheduler.admit(rows(["a " * 300]))
    assert (scheduler.queued, scheduler.current.pending, scheduler.places.held) == (0, 0, {})


def test_one_client_may_hold_half_of_the_queue(scheduler: RowScheduler) -> None:
    scheduler.current.predictor.open.clear()
    with pytest.raises(Busy):
        for _ in range(1000):
            scheduler.admit(rows(["a " * 9]), "flood")
    assert scheduler.places.held == {"flood": 200}
    assert len([scheduler.admit(rows(["a " * 9]), "other") for _ in range(20)]) == 20
    scheduler.current.predictor.open.set()
    assert scheduler.engine.drain(10)
    assert scheduler.places.held == {}


def test_a_full_queue_costs_no_tokenising(
    scheduler: RowScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler.current.predictor.open.clear()
    scheduler.admit(rows(["a " * 199]), "flood")
    monkeypatch.setattr(
        scheduler.current.predictor, "prepare", lambda rows: pytest.fail("tokenised")
    )
    with pytest.raises(Busy):
        scheduler.admit(rows(["a"]), "flood")


def test_the_guilty_one_of_many_is_found_in_few_steps(scheduler: RowScheduler) -> None:
    predictor = scheduler.current.predictor
    tried: list[int] = []
    answers = predictor.answers

    def counted(batch: Sequence[Words]) -> Answers:
        tried.append(len(batch))
        return answers(batch)

    predictor.answers = counted
    predictor.open.clear()
    scheduler.admit(rows(["first"]))
    while scheduler.waiting:
        time.sleep(0.001)
    futures = scheduler.admit(rows(["a"] * 15 + ["RAISE"] + ["a"] * 16))[1]
    predictor.open.set()
    wait(futures, 10)
    assert [isinstance(f.exception(), Failed) for f in futures] == [n == 15 for n in range(32)]
    assert len(tried) == 1 + 1 + 2 * 5


def test_a_dying_engine_leaves_nobody_waiting(
    scheduler: RowScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(batch: Sequence[Words]) -> None:
        predictor.open.wait(30)
        raise SystemExit

    predictor = scheduler.current.predictor
    monkeypatch.setattr(predictor, "answers", die)
    predictor.open.clear()
    first = scheduler.admit(rows(["a " * 60]))[1]
    while scheduler.waiting:
        time.sleep(0.001)
    second = scheduler.admit(rows(["a " * 60]))[1]
    predictor.open.set()
    for future in first + second:
        with pytest.raises(Failed):
            future.result(10)
    scheduler.engine.worker.join(10)
    assert scheduler.engine.healthy()
    assert (scheduler.queued, scheduler.current.pending, scheduler.places.held) == (0, 0, {})
    with pytest.raises(Busy):
        scheduler.admit(rows(["a"]))


def test_a_hanging_step_shows_in_the_health(scheduler: RowScheduler) -> None:
    scheduler.current.predictor.open.clear()
    future = scheduler.admit(rows(["a"]))[1][0]
    time.sleep(0.1)
    assert scheduler.engine.healthy() == ""
    assert "step" in scheduler.engine.healthy(patience=0.05)
    scheduler.current.predictor.open.set()
    future.result(10)
    assert scheduler.engine.drain(10)
    assert scheduler.engine.healthy(patience=0.0) == ""


def test_the_client_given_the_fewest_tokens_is_next() -> None:
    turns = TokenTurns[str]()
    turns.push("many", [f"m{n}" for n in range(6)])
    turns.push("few", [f"f{n}" for n in range(3)])
    taken = []
    while turns:
        item = turns.pop()
        taken.append(item)
        turns.charge("many" if item[0] == "m" else "few", 300 if item[0] == "m" else 100)
    assert taken == ["m0", "f0", "f1", "f2", "m1", "m2", "m3", "m4", "m5"]
    turns.push("late", ["l0", "l1"])
    turns.push("many", ["m6"])
    assert turns.pop() == "l0", "it was given less, but did not save turns"
    assert turns.given["late"] >= turns.level > 0


def test_a_client_without_tokens_waits_until_they_are_made_up_for() -> None:
    now = [100.0]
    budgets = Budgets(600, lambda: now[0])
    budgets.refuse_without("a")
    budgets.spend("a", 650)
    with pytest.raises(Busy, match=r"serve\.tokens_per_minute, 600") as caught:
        budgets.refuse_without("a")
    assert caught.value.seconds == 6
    budgets.refuse_without("b")
    now[0] += 6
    budgets.refuse_without("a")
    now[0] += 600
    assert budgets.balance("a") == 600, "no more than a minute's worth is saved"
    Budgets(0).spend("a", 10**9)
    Budgets(0).refuse_without("a")


def test_rows_beyond_a_budget_are_refused() -> None:
    engine = Engine(tokens_per_minute=3)
    try:
        scheduler = RowScheduler(engine, loaded())
        assert scheduler.admit(rows(["a", "b", "c", "d"]), "one")[1][0].result(10)
        with pytest.raises(Busy, match="tokens_per_minute"):
            scheduler.admit(rows(["a"]), "one")
        assert scheduler.admit(rows(["a"]), "two")[1][0].result(10)
    finally:
        engine.close(10)
