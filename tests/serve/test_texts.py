"""Texts written side by side: the same answers as alone, shared steps, faults and swaps apart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lmwright.core.random import stream
from lmwright.models.text_model import TextModel
from lmwright.serve import texts
from lmwright.serve.engine import Engine, Failed
from lmwright.serve.generation import Chunk, GenerationRequest
from lmwright.serve.jobs import Job
from lmwright.serve.rows import RowScheduler
from lmwright.serve.texts import TextScheduler
from lmwright.text.generation import SamplingParams
from tests.serve.fake import loaded, rows

PROMPTS = ("hello", "a", "the cat and the other one", "x" * 60, "an", "the end is near")


class Listener:
    """What a job was sent: texts and finish reasons by answer, and how it ended."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.reasons: dict[int, str] = {}
        self.fault: Failed | None = None
        self.ended = threading.Event()

    def __call__(self, number: int, chunk: Chunk | Failed | None) -> None:
        if isinstance(chunk, Chunk):
            self.texts[number] = self.texts.get(number, "") + chunk.text
            self.reasons[number] = chunk.finish_reason
        else:
            self.fault = chunk
            self.ended.set()


@pytest.fixture
def scheduler() -> Iterator[TextScheduler]:
    scheduler = TextScheduler(Engine(), capacity=64)
    yield scheduler
    scheduler.engine.close(10)


def request(model: TextModel, prompt: str, seed: int, tokens: int = 12) -> GenerationRequest:
    params = SamplingParams(tokens, temperature=1.0, stop_ids=model.stop_ids)
    return GenerationRequest(model.prompt_ids(prompt), params, seed)


def alone(model: TextModel, asked: GenerationRequest) -> str:
    """The text that the model writes by the reference decoder."""
    rng = stream(asked.seed, "answer", asked.index)
    return "".join(each.text for each in model.generate(asked.prompt, asked.params, rng))


def submit(
    scheduler: TextScheduler, model: TextModel, asked: list[GenerationRequest], client: str = "c"
) -> tuple[Listener, Job]:
    heard = Listener()
    job = scheduler.reserve(client, heard, model)
    scheduler.submit(job, asked)
    return heard, job


def test_side_by_side_is_as_alone(
    scheduler: TextScheduler, model: TextModel, monkeypatch: Any
) -> None:
    """Long prompts, read in pieces, and short ones; some begin while others write."""
    monkeypatch.setattr(texts, "READ_TOKENS", 7)
    sizes: list[int] = []
    proper = type(model.network).next

    def counted(self: Any, batch: Any, cache: Any) -> Any:
        sizes.append(len(batch.order))
        return proper(self, batch, cache)

    monkeypatch.setattr(type(model.network), "next", counted)
    asked = [request(model, each, seed, 6 + 7 * seed % 20) for seed, each in enumerate(PROMPTS)]
    heard = [submit(scheduler, model, [each], f"client {n % 3}")[0] for n, each in enumerate(asked)]
    assert all(each.ended.wait(30) for each in heard)
    assert max(sizes) >= 3, "they shared steps"
    monkeypatch.undo()
    assert [each.texts[0] for each in heard] == [alone(model, each) for each in asked]
    assert all(each.reasons[0] in ("stop", "length") and each.fault is None for each in heard)
    assert (scheduler.queued, scheduler.under_way(), scheduler.places.held) == (0, [], {})


def test_several_answers_of_a_job_end_together(scheduler: TextScheduler, model: TextModel) -> None:
    asked = [request(model, "hello", seed, 3 + seed) for seed in range(5)]
    heard, _ = submit(scheduler, model, asked)
    assert heard.ended.wait(30)
    assert heard.texts == {number: alone(model, each) for number, each in enumerate(asked)}


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_only_the_guilty_of_a_batch_fails(
    scheduler: TextScheduler, model: TextModel, monkeypatch: Any, how: str
) -> None:
    asked = [request(model, each, seed, 20) for seed, each in enumerate(PROMPTS[:4])]
    wanted = [alone(model, each) for each in asked]
    guilty, network, proper = asked[3], type(model.network), type(model.network).next
    passes = threading.Event()

    def odd(self: Any, batch: Any, cache: Any) -> Any:
        logits = proper(self, batch, cache)
        size = len(guilty.prompt) + 9  # a length that no other answer reaches
        row = next((n for n, length in enumerate(cache.lengths) if length == size), None)
        if row is None:
            return logits
        passes.set()
        if how == "raises":
            raise ValueError("asked to fail")
        return logits.index_fill(0, torch.tensor([row]), torch.nan)

    monkeypatch.setattr(network, "next", odd)
    heard = [submit(scheduler, model, [each], str(n))[0] for n, each in enumerate(asked)]
    assert all(each.ended.wait(30) for each in heard)
    assert passes.is_set()
    assert [each.fault is not None for each in heard] == [False, False, False, True]
    assert [each.texts[0] for each in heard[:3]] == wanted[:3]
    assert scheduler.queued == 0 and scheduler.engine.healthy() == ""


def test_rows_are_answered_while_texts_are_written(model: TextModel) -> None:
    engine = Engine()
    try:
        predicted = RowScheduler(engine, loaded())
        written = TextScheduler(engine)
        heard = [
            submit(written, model, [request(model, "hello", n, 60)], str(n))[0] for n in range(4)
        ]
        for _ in range(20):
            assert predicted.admit(rows(["a"]))[1][0].result(10).told["label"] == "yes"
        assert all(each.ended.wait(30) for each in heard)
        assert engine.drain(10)
    finally:
        engine.close(10)


def test_a_swap_waits_for_what_is_written_by_the_old_version(model: TextModel) -> None:
    """A job holds its version until its place is free again."""
    engine = Engine()
    try:
        predicted, written = RowScheduler(engine, loaded("v1")), TextScheduler(engine)
        old = predicted.current
        old.pending += 1
        heard = Listener()
        job = written.reserve("c", heard, model, lambda: predicted.release(old, 1))
        swapped = threading.Event()
        thread = threading.Thread(
            target=lambda: (predicted.swap(loaded("v2"), rows(["a"])), swapped.set())
        )
        thread.start()
        assert not swapped.wait(0.3)
        written.submit(job, [request(model, "hello", 1)])
        assert heard.ended.wait(10) and swapped.wait(10)
        assert old.pending == 0
        thread.join(10)
    finally:
        engine.close(10)


def test_a_cancelled_answer_leaves_the_others_alone(
    scheduler: TextScheduler, model: TextModel
) -> None:
    asked = [request(model, each, seed, 40) for seed, each in enumerate(PROMPTS[:3])]
    made = [submit(scheduler, model, [each], str(n)) for n, each in enumerate(asked)]
    scheduler.cancel(made[1][1])
    for number in (0, 2):
        assert made[number][0].ended.wait(30)
        assert made[number][0].texts[0] == alone(model, asked[number])
    assert np.all([each is None for each in (made[0][0].fault, made[2][0].fault)])
    assert scheduler.engine.drain(10)
