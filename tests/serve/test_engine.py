"""The engine: batches, versions, fairness, faults, swaps."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait

import numpy as np
import pytest

from lmwright.core.errors import BadInput, LmwrightError
from lmwright.serve.engine import Busy, Engine, Failed, answer
from tests.serve.fake import Words, loaded


@pytest.fixture
def engine():
    engine = Engine(loaded(), batch_tokens=64, queue_tokens=400)
    yield engine
    engine.current.model.open.set()
    engine.close()


def test_answers_are_those_of_the_model_alone(engine: Engine) -> None:
    texts = ["a b", "bbb", "aaa c d", "x"]
    _, futures = engine.admit(texts)
    alone = [answer(engine.current, engine.current.model.prepare([t]))[0] for t in texts]
    for future, other in zip(futures, alone, strict=True):
        assert future.result(10).label == other.label
        assert np.array_equal(future.result(10).probabilities, other.probabilities)
    assert [f.result(10).label for f in futures] == ["yes", None, "yes", None]
    assert futures[1].result(10).unsure


def test_what_waits_is_answered_together(engine: Engine) -> None:
    model = engine.current.model
    model.open.clear()
    futures = [engine.admit(["a"])[1][0] for _ in range(20)]
    model.open.set()
    wait(futures, 10)
    assert sum(model.batches) == 20
    assert len(model.batches) <= 3
    assert engine.queued == 0
    assert engine.current.pending == 0


def test_only_the_guilty_text_fails(engine: Engine) -> None:
    engine.current.model.open.clear()
    good = engine.admit(["a a", "b"])[1]
    raising = engine.admit(["RAISE a"])[1][0]
    no_number = engine.admit(["NAN"])[1][0]
    engine.current.model.open.set()
    assert [f.result(10).label for f in good] == ["yes", None]
    for future in (raising, no_number):
        with pytest.raises(Failed):
            future.result(10)
    assert engine.admit(["a"])[1][0].result(10).label == "yes"
    assert engine.healthy() == ""
    assert engine.current.pending == 0


def test_a_full_queue_says_so_and_forgets_nothing(engine: Engine) -> None:
    engine.current.model.open.clear()
    taken = []
    with pytest.raises(Busy) as busy:
        for _ in range(1000):
            taken += engine.admit(["a " * 20])[1]
    assert busy.value.seconds >= 1
    pending = engine.current.pending
    assert pending == len(taken)
    engine.current.model.open.set()
    assert all(f.result(10).label == "yes" for f in taken)


def test_a_flood_does_not_delay_another_client(engine: Engine) -> None:
    engine.current.model.open.clear()
    engine.admit(["first"], "flood")
    flood = [engine.admit(["a " * 9], "flood")[1][0] for _ in range(18)]
    other = engine.admit(["a " * 9], "other")[1][0]
    order: list[str] = []
    for future in flood:
        future.add_done_callback(lambda f: order.append("flood"))
    other.add_done_callback(lambda f: order.append("other"))
    engine.current.model.open.set()
    wait([*flood, other], 10)
    assert order.index("other") < 12


def test_a_cancelled_text_gives_its_place_back(engine: Engine) -> None:
    engine.current.model.open.clear()
    engine.admit(["first"])
    futures = engine.admit(["a"] * 10)[1]
    for future in futures:
        future.cancel()
    engine.current.model.open.set()
    assert engine.drain(10)
    assert engine.current.pending == 0
    assert sum(engine.current.model.batches) == 1


def test_swaps_under_load_lose_nothing_and_mix_nothing(engine: Engine) -> None:
    scales = {"v1": 1.0, "v2": 2.0, "v3": 3.0, "v4": 4.0}
    answers: list[tuple[str, float]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            pinned, futures = engine.admit(["a", "a b"])
            answers.extend((pinned.version, f.result(10).probabilities[1]) for f in futures)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for name in ("v2", "v3", "v4", None):
        seen = len(answers)
        while len(answers) < seen + 200:
            stop.wait(0.001)
        if name:
            old = engine.swap(loaded(name, scales[name]), ["canary a"])
            assert old.pending == 0
    stop.set()
    for thread in threads:
        thread.join(10)
    assert {version for version, _ in answers} == set(scales)
    for version, yes in answers:
        assert yes == pytest.approx(1 / (1 + np.exp(-scales[version])), abs=1e-12)


def test_a_version_that_fails_its_canary_changes_nothing(engine: Engine) -> None:
    with pytest.raises(LmwrightError, match="canary"):
        engine.swap(loaded("bad"), ["NAN"])
    assert engine.current.version == "v1"


def test_draining_refuses_the_new_and_finishes_the_old(engine: Engine) -> None:
    futures = engine.admit(["a"] * 5)[1]
    assert engine.drain(10)
    assert all(f.result(0).label == "yes" for f in futures)
    with pytest.raises(Busy):
        engine.admit(["a"])


def test_what_nobody_waits_for_is_free_at_once(engine: Engine) -> None:
    engine.current.model.open.clear()
    engine.admit(["first"])
    while engine.queues:
        time.sleep(0.001)
    before = (engine.queued, engine.current.pending)
    kept = engine.admit(["a a"], "client")[1]
    for _ in range(1000):
        gone = engine.admit(["a " * 20] * 5, "client")[1]
        engine.forget("client", gone)
        assert all(future.cancelled() for future in gone)
    engine.forget("client", [])
    assert (engine.queued, engine.current.pending) == (before[0] + 3, before[1] + 1)
    assert len(engine.queues["client"]) == 1
    engine.forget("client", kept)
    assert (engine.queued, engine.current.pending) == before
    assert engine.queues == {}
    assert not engine.turns
    engine.current.model.open.set()
    assert engine.admit(["a"])[1][0].result(10).label == "yes"


def test_more_than_ever_fits_is_refused_for_good(engine: Engine) -> None:
    with pytest.raises(BadInput, match="at most 200"):
        engine.admit(["a " * 300])
    assert (engine.queued, engine.current.pending, engine.held) == (0, 0, {})


def test_one_client_may_hold_half_of_the_queue(engine: Engine) -> None:
    engine.current.model.open.clear()
    with pytest.raises(Busy):
        for _ in range(1000):
            engine.admit(["a " * 9], "flood")
    assert engine.held == {"flood": 200}
    assert len([engine.admit(["a " * 9], "other") for _ in range(20)]) == 20
    engine.current.model.open.set()
    assert engine.drain(10)
    assert engine.held == {}


def test_a_full_queue_costs_no_tokenising(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.current.model.open.clear()
    engine.admit(["a " * 199], "flood")
    monkeypatch.setattr(engine.current.model, "prepare", lambda texts: pytest.fail("tokenised"))
    with pytest.raises(Busy):
        engine.admit(["a"], "flood")


def test_the_guilty_one_of_many_is_found_in_few_steps(engine: Engine) -> None:
    model = engine.current.model
    tried: list[int] = []
    look = model.look

    def counted(batch: Sequence[Words]) -> tuple[np.ndarray, np.ndarray]:
        tried.append(len(batch))
        return look(batch)

    model.look = counted
    model.open.clear()
    engine.admit(["first"])
    while engine.queues:
        time.sleep(0.001)
    futures = engine.admit(["a"] * 15 + ["RAISE"] + ["a"] * 16)[1]
    model.open.set()
    wait(futures, 10)
    assert [isinstance(f.exception(), Failed) for f in futures] == [n == 15 for n in range(32)]
    assert len(tried) == 1 + 1 + 2 * 5


def test_a_dying_engine_leaves_nobody_waiting(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(batch: Sequence[Words]) -> None:
        raise SystemExit

    engine.current.model.open.clear()
    first = engine.admit(["a " * 60])[1]
    while engine.queues:
        time.sleep(0.001)
    second = engine.admit(["a " * 60])[1]
    monkeypatch.setattr(engine.current.model, "embed", die)
    engine.current.model.open.set()
    for future in first + second:
        with pytest.raises(Failed):
            future.result(10)
    engine.worker.join(10)
    assert engine.healthy()
    assert (engine.queued, engine.current.pending, engine.held) == (0, 0, {})
    with pytest.raises(Busy):
        engine.admit(["a"])


def test_a_hanging_step_shows_in_the_health(engine: Engine) -> None:
    engine.current.model.open.clear()
    future = engine.admit(["a"])[1][0]
    time.sleep(0.1)
    assert engine.healthy() == ""
    assert "step" in engine.healthy(patience=0.05)
    engine.current.model.open.set()
    future.result(10)
    assert engine.drain(10)
    assert engine.healthy(patience=0.0) == ""
