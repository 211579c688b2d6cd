"""Requests on which the model fails: they alone are told so, however often they come."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import psutil
import pytest
import torch

from lmwright.models.text_model import TextModel
from lmwright.serve.log import json_log
from tests.serve.live import check_error
from tests.serve.talking import Talk, talking
from tests.serve.test_connections import wait_until

TEXT = "/v1/completions"
READ = 45
"""Tokens of a prompt longer than any bystander's text becomes: its row is known by its length."""
STEP = 3
"""The step of its answer in which the model fails."""
POISON: dict[str, Any] = {
    "prompt": [66] * READ,
    "seed": 1,
    "max_tokens": 8,
    "logit_bias": {"258": -100, "260": -100},  # ends, which might come before the step
}
BYSTANDERS = {"hello": 4, "the cat": 5, "an": 6}


def raises(logits: Any, row: int) -> Any:
    raise ValueError(f"asked to fail at {__file__}")


def no_memory(logits: Any, row: int) -> Any:
    raise torch.OutOfMemoryError("tried to allocate 80 GiB")


def no_room(logits: Any, row: int) -> Any:
    raise MemoryError


def not_a_number(logits: Any, row: int) -> Any:
    return logits.index_fill(0, torch.tensor([row]), torch.nan)


HOW: dict[str, Callable[[Any, int], Any]] = {
    "raises": raises,
    "no memory of the device": no_memory,
    "no memory": no_room,
    "not a number": not_a_number,
}


@pytest.fixture
def talk(model: TextModel) -> Iterator[Talk]:
    with talking(model) as talk:
        yield talk


def poison(monkeypatch: pytest.MonkeyPatch, model: TextModel, after: int, how: list[str]) -> None:
    """Have the network fail on the poison once it has read so many tokens, in the last way of
    ``how``."""
    network, wanted = type(model.network), READ + after
    proper = network.next

    def odd(self: Any, batch: Any, cache: Any) -> Any:
        logits = proper(self, batch, cache)
        lengths = list(cache.lengths)
        return HOW[how[-1]](logits, lengths.index(wanted)) if wanted in lengths else logits

    monkeypatch.setattr(network, "next", odd)


def bystander(talk: Talk, prompt: str) -> Any:
    asked = {"prompt": prompt, "seed": BYSTANDERS[prompt], "max_tokens": 24, "logprobs": 0}
    status, _, body = talk.post(TEXT, **asked)
    assert status == 200, body
    (choice,) = body["choices"]
    return choice["text"], choice["logprobs"]["tokens"], choice["finish_reason"]


class Company:
    """Clients that ask good things again and again, ``pause`` seconds apart, and keep what they
    were told."""

    def __init__(self, talk: Talk, pause: float = 0.0) -> None:
        self.talk, self.pause, self.stop = talk, pause, threading.Event()
        self.told: dict[str, list[Any]] = {prompt: [] for prompt in BYSTANDERS}
        self.threads = [threading.Thread(target=self.ask, args=(each,)) for each in BYSTANDERS]
        for thread in self.threads:
            thread.start()

    def ask(self, prompt: str) -> None:
        while not self.stop.wait(self.pause):
            self.told[prompt].append(bystander(self.talk, prompt))

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)


@pytest.mark.parametrize("after", [0, STEP])
@pytest.mark.parametrize("how", HOW)
def test_the_guilty_request_alone_is_told(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, how: str, after: int
) -> None:
    """When its prompt is read, and in the middle of its answer beside others."""
    wanted = {prompt: bystander(talk, prompt) for prompt in BYSTANDERS}
    poison(monkeypatch, talk.model, after, [how])
    company = Company(talk)
    try:
        for streamed in (False, True):
            status, _, body = talk.post(TEXT, **POISON, stream=streamed)
            if streamed:
                assert status == 200 and b'"code": 500' in body and b"[DONE]" not in body
            else:
                check_error(status, body, 500)
        assert talk.ask("GET", "/health")[0] == 200
    finally:
        company.end()
    for prompt, told in company.told.items():
        assert told and all(each == wanted[prompt] for each in told)


def test_a_thousand_poisoned_requests_leave_bystanders_and_memory_as_they_were(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {prompt: bystander(talk, prompt) for prompt in BYSTANDERS}
    me, how = psutil.Process(), list(HOW)
    with redirect_stderr(StringIO()), json_log():  # or pytest keeps each failure with its tensors
        poison(monkeypatch, talk.model, 1, how)
        company = Company(talk, pause=0.5)
        try:
            for number in range(1050):
                how.append(list(HOW)[number % len(HOW)])
                status, _, body = talk.post(TEXT, **POISON)
                assert status == 500, body
                if number == 50:
                    before = told(me)
        finally:
            company.end()
    assert all(
        told and all(each == wanted[prompt] for each in told)
        for prompt, told in company.told.items()
    )
    texts = talk.service.texts
    assert wait_until(lambda: not talk.engine.queued and not talk.server.server_state.tasks)
    assert (texts.under_way(), texts.held, texts.places.held) == ([], set(), {})
    memory = texts.memory(talk.model)
    assert wait_until(lambda: gc.collect() >= 0 and held_by_nobody(memory))
    after = told(me)
    assert after["files"] <= before["files"] + 2 and after["threads"] <= before["threads"]
    assert after["megabytes"] <= before["megabytes"] + 8, (before, after)


def held_by_nobody(memory: Any) -> bool:
    """Whether all pages are free but those that are known for texts that begin alike."""
    return bool(memory.pool.held == len(memory.prefixes.pages))


def told(process: psutil.Process) -> dict[str, int]:
    """What a process holds."""
    gc.collect()
    return {
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "megabytes": process.memory_info().rss // 1_000_000,
    }


def test_a_step_that_hangs_is_told_by_the_health_and_nothing_else_waits(talk: Talk) -> None:
    wanted = bystander(talk, "hello")
    talk.service.texts.patience = 0.2
    talk.model.open.clear()
    found: list[Any] = []
    asked = threading.Thread(target=lambda: found.append(bystander(talk, "hello")))
    asked.start()
    assert wait_until(lambda: talk.ask("GET", "/health")[0] == 503)
    began = time.monotonic()
    for path, status in (("/health", 503), ("/ready", 503), ("/metrics", 200), ("/v1/models", 200)):
        assert talk.ask("GET", path)[0] == status
    check_error(*talk.post(TEXT, prompt="a", n=0)[::2], 400)
    assert time.monotonic() - began < 2
    talk.model.open.set()
    asked.join(10)
    assert found == [wanted]
    assert wait_until(lambda: talk.ask("GET", "/health")[0] == 200)
