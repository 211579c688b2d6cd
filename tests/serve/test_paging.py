"""Pages of the KV cache: shared beginnings are read once, answers that gave their pages go on."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmwright.core.random import stream
from lmwright.kernels.library import available
from lmwright.models.blocks.pages import PAGE, pages_for
from lmwright.models.core.device import Placement
from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, language_model
from lmwright.serve.engine import Engine
from lmwright.serve.generation import GenerationRequest
from lmwright.serve.texts import TextScheduler
from lmwright.text.generation import SamplingParams
from tests.serve.talking import write_model
from tests.serve.test_connections import wait_until
from tests.serve.test_texts import Listener, alone, submit

pytestmark = pytest.mark.skipif(
    not available(), reason="this machine lacks a C compiler, by which the kernels are built"
)


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """A tiny model in int8, whose bits do not depend on pieces and company."""
    folder = write_model(tmp_path_factory.mktemp("models") / "long", longest=1024)
    found = language_model(read_published(str(folder)))
    found.network.place(Placement("cpu", "int8"))
    return found


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[TextScheduler] = []

    def scheduler(tokens: int = 32_768) -> TextScheduler:
        made.append(TextScheduler(Engine(), 64, tokens))
        return made[-1]

    yield scheduler
    for each in made:
        each.engine.close(10)


def asked(
    model: TextModel, ids: list[int], seed: int, tokens: int = 12, **more: Any
) -> GenerationRequest:
    params = SamplingParams(tokens, temperature=1.0, stop_ids=())
    return GenerationRequest(np.array(ids), params, seed, **more)


def drawn(model: TextModel, length: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [int(each) for each in rng.integers(10, 60, length)]


def heard_of(scheduler: TextScheduler, model: TextModel, each: GenerationRequest) -> Listener:
    heard, _ = submit(scheduler, model, [each])
    assert heard.ended.wait(60) and heard.fault is None
    return heard


def passes(model: TextModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each text in each pass from now on."""
    sizes: list[int] = []
    proper = type(model.network).next

    def counted(self: Any, batch: Any, cache: Any) -> Any:
        sizes.extend(batch.lengths())
        return proper(self, batch, cache)

    monkeypatch.setattr(type(model.network), "next", counted)
    return sizes


def test_a_beginning_that_is_known_is_not_read_again(
    make: Any, eight: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next turn of a chat, and another question to a document: the same bits as alone."""
    scheduler, document = make(), drawn(eight, 3 * PAGE + 11, 0)
    first = asked(eight, document, 1, PAGE)
    answer = heard_of(scheduler, eight, first)
    written = [
        each.sampled.id for each in eight.generate(first.prompt, first.params, rng_of(first))
    ]
    sizes = passes(eight, monkeypatch)
    turn = asked(eight, [*document, *written, *drawn(eight, 9, 2)], 3)
    other = asked(eight, [*document[: 2 * PAGE + 5], *drawn(eight, 20, 4)], 5)
    texts = [heard_of(scheduler, eight, each).texts[0] for each in (turn, other)]
    read = [size for size in sizes if size > 1]
    assert read == [len(turn.prompt) - 4 * PAGE, len(other.prompt) - 2 * PAGE]
    monkeypatch.undo()
    assert answer.texts[0] == alone(eight, first)
    assert texts == [alone(eight, turn), alone(eight, other)]


def rng_of(each: GenerationRequest) -> np.random.Generator:
    return stream(each.seed, "answer", each.index)


@pytest.mark.parametrize("shared", [False, True])
def test_what_a_client_sent_is_known_to_it_alone_unless_shared(
    make: Any, eight: TextModel, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make()
    scheduler.share_prefixes = shared
    prompt = drawn(eight, 2 * PAGE + 5, 3)
    sizes = passes(eight, monkeypatch)
    for client in ("one", "other", "one"):
        heard, _ = submit(scheduler, eight, [asked(eight, prompt, 1, 1)], client)
        assert heard.ended.wait(60)
    assert sizes == [len(prompt), 5 if shared else len(prompt), 5]


def test_several_answers_read_their_prompt_once(
    make: Any, eight: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, scheduler = drawn(eight, 2 * PAGE + 3, 7), make()
    several = [asked(eight, prompt, 8, index=n) for n in range(4)]
    sizes = passes(eight, monkeypatch)
    heard, _ = submit(scheduler, eight, several)
    assert heard.ended.wait(60)
    monkeypatch.undo()
    assert sorted(size for size in sizes if size > 1) == [3, 3, 3, len(prompt)]
    assert heard.texts == {n: alone(eight, each) for n, each in enumerate(several)}
    assert len(set(heard.texts.values())) > 1


@pytest.mark.parametrize("pages", [4, 5, 7])
def test_answers_that_gave_their_pages_go_on_with_the_same_bits(
    make: Any, eight: TextModel, pages: int
) -> None:
    """Five answers of up to four pages each in a memory of a few: all are whole."""
    scheduler = make(pages * PAGE)
    those = [asked(eight, drawn(eight, 10 + 5 * n, n), n, 120 + 18 * n) for n in range(5)]
    assert max(pages_for(len(each.prompt) + each.params.max_new_tokens) for each in those) == 4
    heard = [submit(scheduler, eight, [each], f"client {n}")[0] for n, each in enumerate(those)]
    assert all(each.ended.wait(120) and each.fault is None for each in heard)
    assert [each.texts[0] for each in heard] == [alone(eight, each) for each in those]
    assert scheduler.preemptions > 0
    assert scheduler.engine.drain(20)
    memory = scheduler.memory(eight)
    assert wait_until(lambda: memory.pool.held == len(memory.prefixes.pages) <= pages)
    assert set(memory.pool.holders) <= {0, 1}


def test_a_cancelled_answer_that_waits_for_pages_is_let_go(make: Any, eight: TextModel) -> None:
    scheduler = make(3 * PAGE)
    made = [
        submit(scheduler, eight, [asked(eight, drawn(eight, 40, n), n, 140)], str(n))
        for n in range(3)
    ]
    scheduler.cancel(made[2][1])
    scheduler.cancel(made[1][1])
    assert made[0][0].ended.wait(60)
    assert scheduler.engine.drain(20)
    assert (scheduler.queued, scheduler.under_way()) == (0, [])


def test_a_thousand_requests_leave_no_page_behind(make: Any, eight: TextModel) -> None:
    scheduler, rng = make(6 * PAGE), np.random.default_rng(0)
    for number in range(1000):
        length = int(rng.integers(1, 2 * PAGE))
        each = asked(eight, drawn(eight, length, number % 7), number, int(rng.integers(1, 4)))
        heard, job = submit(scheduler, eight, [each], str(number % 3))
        if number % 5 == 0:
            scheduler.cancel(job)
        else:
            assert heard.ended.wait(60) and heard.fault is None
    assert scheduler.engine.drain(20)
    memory = scheduler.memory(eight)
    assert wait_until(lambda: memory.pool.held == len(memory.prefixes.pages) <= 6)
    assert len(memory.pool.holders) <= 6


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_memory_stays_flat_over_a_hundred_thousand_requests(make: Any, eight: TextModel) -> None:
    """Sixteen clients at once, of whom some go; half an hour at most on two cores."""
    scheduler, rng = make(64 * PAGE), np.random.default_rng(1)
    prompts = [drawn(eight, int(rng.integers(1, 2 * PAGE)), n) for n in range(200)]
    begun, kept = 0, list[int]()
    heard: list[Listener] = []
    while begun < 100_000:
        prompt = prompts[int(rng.integers(len(prompts)))]
        each = asked(eight, prompt, begun, int(rng.integers(1, 5)))
        one, job = submit(scheduler, eight, [each], f"client {begun % 16}")
        begun += 1
        if begun % 11 == 0:
            scheduler.cancel(job)
        else:
            heard.append(one)
        if len(heard) >= 16:
            assert all(one.ended.wait(60) and one.fault is None for one in heard)
            heard.clear()
        if begun % 10_000 == 0:
            kept.append(resident())
    assert scheduler.engine.drain(60)
    assert kept[-1] - kept[0] < 8, f"megabytes after each ten thousand: {kept}"


def resident() -> int:
    """Megabytes of this process in memory."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize() // 1_000_000
