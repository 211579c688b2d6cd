"""Completions and chats over HTTP: the model's own words, whole or as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch

from lmwright.core.random import stream
from lmwright.models.core.ragged import pack
from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, language_model
from lmwright.serve.generation import (
    AnswerBuilder,
    Chunk,
    GeneratedToken,
    GenerationRequest,
    token_logprob,
    top_tokens,
)
from lmwright.serve.parameters import generation_requests, read_chat
from lmwright.serve.settings import Serve
from lmwright.serve.shapes import text_logprobs
from lmwright.text.generation import GenerationConfig, SamplingParams
from lmwright.text.tokenizer import Tokenizer
from tests.serve.talking import Talk, of_pieces, talking, with_generation, write_model

PROMPTS = ["hello there", "日本 and ü", "x"]
HOT = {"temperature": 1.3, "top_p": 0.95}


@pytest.fixture(scope="module")
def client(talk: Talk) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{talk.port}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


def own(
    model: TextModel, ids: np.ndarray, most: int, seed: int, index: int = 0, **how: Any
) -> tuple[str, list[Any], str]:
    """The answer without a server: its text, its picks, and why it ended."""
    decoding = SamplingParams(most, stop_ids=model.stop_ids, **how)
    pieces = list(model.generate(ids, decoding, stream(seed, "answer", index)))
    picks = list({id(each.sampled): each.sampled for each in pieces}.values())
    reason = "stop" if picks[-1].id in model.stop_ids else "length"
    return "".join(piece.text for piece in pieces), picks, reason


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_completion_is_the_models_own(
    model: TextModel, client: openai.OpenAI, prompt: str, seed: int
) -> None:
    text, picks, reason = own(model, model.prompt_ids(prompt), 90, seed, **HOT)
    given: Any = dict(model="tiny", prompt=prompt, max_tokens=90, seed=seed, **HOT)
    whole = client.completions.create(**given)
    assert whole.object == "text_completion" and whole.model == "tiny"
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == (text, reason)
    assert whole.usage and whole.usage.prompt_tokens == len(model.prompt_ids(prompt))
    assert whole.usage.completion_tokens == len(picks)
    parts = list(client.completions.create(**given, stream=True))
    assert "".join(part.choices[0].text for part in parts) == text
    assert [part.choices[0].finish_reason for part in parts] == [None] * (len(parts) - 1) + [reason]
    assert len({part.id for part in parts}) == 1 and parts[0].usage is None
    ids = model.prompt_ids(prompt).tolist()
    assert client.completions.create(**{**given, "prompt": ids}).choices[0].text == text


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_an_answer_in_a_chat_is_the_models_own(
    model: TextModel, client: openai.OpenAI, seed: int
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello <|im_end|> 日本"}]},
    ]
    plain = [messages[0], {"role": "user", "content": "Hello <|im_end|> 日本"}]
    ids = model.chat_ids(plain)
    assert (ids == model.tokenizer.control["<|im_end|>"]).sum() == 2  # the typed one is text
    text, _, reason = own(model, ids, 40, seed, temperature=1.0)
    given: Any = {"model": "tiny", "messages": messages, "max_completion_tokens": 40, "seed": seed}
    whole = client.chat.completions.create(**given)
    choice = whole.choices[0]
    assert (whole.object, choice.message.role) == ("chat.completion", "assistant")
    assert (choice.message.content, choice.finish_reason) == (text, reason)
    assert whole.usage and whole.usage.prompt_tokens == len(ids)
    parts = list(
        client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True})
    )
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(p.choices[0].delta.content or "" for p in parts[:-1]) == text
    assert parts[-2].choices[0].finish_reason == reason
    assert parts[-1].choices == [] and parts[-1].usage == whole.usage
    assert all(part.usage is None for part in parts[:-1])


@pytest.mark.parametrize(
    ("named", "how"),
    [
        ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
        ({"frequency_penalty": -0.5}, {"frequency_penalty": -0.5}),
        ({"logit_bias": {"7": 4, "9": -100}}, {"logit_bias": ((7, 4.0), (9, -100.0))}),
    ],
    ids=["presence", "frequency", "bias"],
)
def test_what_leans_is_honoured(
    model: TextModel, client: openai.OpenAI, named: dict[str, Any], how: dict[str, Any]
) -> None:
    ids = model.prompt_ids("the")
    text, picks, _ = own(model, ids, 60, 3, temperature=1.0, **how)
    assert text != own(model, ids, 60, 3, temperature=1.0)[0]
    given: Any = {"model": "tiny", "max_tokens": 60, "seed": 3, **named}
    found = client.completions.create(prompt="the", logprobs=0, **given).choices[0]
    assert found.text == text and found.logprobs is not None
    logs = [pick.logprob for pick in picks if pick.id not in model.stop_ids]
    assert found.logprobs.token_logprobs == pytest.approx(logs, abs=1e-12)


def test_an_end_of_the_models_is_a_stop(model: TextModel, talk: Talk) -> None:
    ids = model.prompt_ids("x")
    seed = next(
        seed for seed in range(50) if own(model, ids, 100, seed, temperature=2.0)[2] == "stop"
    )
    text, picks, _ = own(model, ids, 100, seed, temperature=2.0)
    body = talk.complete("x", seed=seed, max_tokens=100, temperature=2)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["text"] == text and "<|" not in text
    assert body["usage"]["completion_tokens"] == len(picks) < 100


def test_an_end_that_the_length_forces_is_no_stop(model: TextModel) -> None:
    rules = GenerationConfig(forced_eos_token_id=model.stop_ids[:1])
    ending = with_generation(model, config=rules)
    request = GenerationRequest(
        model.prompt_ids("x"), SamplingParams(5, stop_ids=model.stop_ids), seed=0
    )
    builder = AnswerBuilder(ending, request)
    for token in ending.generate(request.prompt, request.params, np.random.default_rng(0)):
        builder.push(token.sampled)
    assert builder.finished
    last = builder.last()[-1]
    assert (last.count, last.finish_reason) == (5, "length")


def test_log_probabilities_are_the_models(model: TextModel, client: openai.OpenAI) -> None:
    ids = model.chat_ids([{"role": "user", "content": "hello"}])
    _, picks, _ = own(model, ids, 30, 5, temperature=1.0)
    given: Any = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 30,
        "seed": 5,
        "logprobs": True,
        "top_logprobs": 3,
    }
    found = client.chat.completions.create(**given).choices[0].logprobs
    assert found is not None and found.content is not None
    picks = [pick for pick in picks if pick.id not in model.stop_ids]
    for said, pick in zip(found.content, picks, strict=True):
        assert said.logprob == pytest.approx(pick.logprob, abs=1e-12)
        tops = torch.sort(pick.logprobs_v, descending=True).values[:3].tolist()
        assert [each.logprob for each in said.top_logprobs] == pytest.approx(tops, abs=1e-12)
        assert said.bytes == list(model.tokenizer.bytes_of(model.tokenizer.token(pick.id)))
    parts = list(client.chat.completions.create(**given, stream=True))
    streamed = [each for p in parts if (got := p.choices[0].logprobs) for each in got.content or []]
    assert streamed == found.content


def test_an_echo_tells_how_likely_the_prompt_was(model: TextModel, talk: Talk) -> None:
    prompt = "the 日本"
    ids = model.prompt_ids(prompt)
    given: Any = {"max_tokens": 4, "temperature": 0, "logprobs": 2, "echo": True}
    choice = talk.complete(prompt, **given)["choices"][0]
    text, picks, _ = own(model, ids, 4, 0)
    assert choice["text"] == prompt + text
    told = choice["logprobs"]
    with torch.inference_mode():
        all_ids = np.concatenate([ids, [pick.id for pick in picks]])
        logs = torch.log_softmax(model.network(pack([all_ids])).double(), -1)
    wanted = [float(logs[place, token]) for place, token in enumerate(all_ids[1:])]
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
    assert told["token_logprobs"][1:] == pytest.approx(wanted, abs=1e-4)
    assert told["text_offset"] == sorted(told["text_offset"])
    assert told["text_offset"][:3] == [0, 2, 3]  # "th", "e", " "
    assert all(2 <= len(each) <= 3 for each in told["top_logprobs"][1:])
    assert "bytes:\\xe6" in told["tokens"]
    assert talk.complete(ids.tolist(), **given)["choices"][0] == choice
    plain = talk.complete(prompt, max_tokens=4, temperature=0, echo=True)["choices"][0]
    assert (plain["text"], plain["logprobs"]) == (choice["text"], None)
    streamed = events(talk, "/v1/completions", prompt=prompt, **given)
    assert "".join(each["choices"][0]["text"] for each in streamed) == choice["text"]
    tokens = [
        token
        for each in streamed
        if each["choices"][0]["logprobs"]
        for token in each["choices"][0]["logprobs"]["tokens"]
    ]
    assert tokens == told["tokens"]


@pytest.mark.parametrize("kind", ["strip", "metaspace", "wordpiece"])
def test_an_answer_begins_with_the_space_that_its_prompt_does_not_end_in(
    tmp_path: Path, kind: str
) -> None:
    """Prompt and answer joined are the text of all their ids, by our decoder and the library's."""
    made = of_pieces(kind)
    model = language_model(read_published(str(write_model(tmp_path / kind, made))))
    (the, cat), mark = model.tokenizer.ids("the cat").tolist(), model.tokenizer.control
    whole = model.tokenizer.decode([the, cat, cat])
    assert whole == made.decode([the, cat, cat]) == "the cat cat"
    given: Any = {"max_tokens": 2, "logit_bias": {str(cat): 100}, "temperature": 0}
    how = SamplingParams(2, logit_bias=((cat, 100.0),))
    assert "".join(model.complete("the", how)) == " cat cat"
    with talking(model) as talk:
        for prompt in ("the", [the]):
            assert talk.complete(prompt, **given)["choices"][0]["text"] == " cat cat"
            told = talk.complete(prompt, **given, echo=True, logprobs=1)["choices"][0]
            assert told["text"] == whole
            assert told["logprobs"]["text_offset"] == [0, 3, 7]
            parts = events(talk, "/v1/completions", prompt=prompt, **given)
            assert "".join(each["choices"][0]["text"] for each in parts) == " cat cat"
        # What follows a control token is a text of its own: decoded as the answer alone is.
        anew = [the, mark["<|im_start|>"]]
        assert talk.complete(anew, **given)["choices"][0]["text"] == made.decode([cat, cat])
    assert model.template is not None
    model.template.close()


def test_tokens_of_one_text_are_all_told() -> None:
    """A line's end as a piece and as a byte: the chosen one, else the likelier, has the text."""
    tokenizer = Tokenizer(of_pieces("strip").to_str().encode())
    piece, byte, cat = (tokenizer.inner.token_to_id(each) for each in ("\n", "<0x0A>", "▁cat"))
    logs_v = torch.full((tokenizer.size(),), -9.0)
    logs_v[[piece, byte, cat]] = torch.tensor([-0.5, -1.0, -2.0])
    for top, chosen, wanted in (
        (3, piece, {"\n": -0.5, f"id:{byte}": -1.0, " cat": -2.0}),
        (3, byte, {f"id:{piece}": -0.5, "\n": -1.0, " cat": -2.0}),
        (3, cat, {"\n": -0.5, f"id:{byte}": -1.0, " cat": -2.0}),
        (1, byte, {f"id:{piece}": -0.5, "\n": -1.0}),
        (0, byte, {"\n": -1.0}),
    ):
        told = token_logprob(tokenizer, chosen, float(logs_v[chosen]))
        token = GeneratedToken(told, top_tokens(tokenizer, logs_v, top), 0)
        assert text_logprobs(Chunk("", (token,)))["top_logprobs"] == [wanted]


def events(talk: Talk, path: str, **body: Any) -> list[Any]:
    """The events of a stream; the last one says that it is over."""
    status, headers, data = talk.post(path, **body, stream=True)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    lines = data.decode("ascii").split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_a_stop_ends_an_answer_and_is_not_shown(model: TextModel, talk: Talk) -> None:
    text, _, _ = own(model, model.prompt_ids("x"), 60, 7, temperature=1.0)
    for first, length in ((20, 3), (5, 1), (11, 6)):
        stop = text[first : first + length]
        wanted = text[: text.find(stop)]
        given: Any = {"max_tokens": 60, "seed": 7, "stop": ["never in it", stop], "logprobs": 0}
        choice = talk.complete("x", **given)["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (wanted, "stop")
        assert all(offset < len(wanted) for offset in choice["logprobs"]["text_offset"])
        parts = events(talk, "/v1/completions", prompt="x", **given)
        assert "".join(each["choices"][0]["text"] for each in parts) == wanted
        assert parts[-1]["choices"][0]["finish_reason"] == "stop"
        offsets = [
            offset
            for each in parts
            if each["choices"][0]["logprobs"]
            for offset in each["choices"][0]["logprobs"]["text_offset"]
        ]
        assert offsets == choice["logprobs"]["text_offset"]
    begun = text[-2:] + "\U0010ffff"  # what looks like the beginning of a stop is shown at last
    choice = talk.complete("x", max_tokens=60, seed=7, stop=begun)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text, "length")


def test_several_prompts_have_several_answers_each(model: TextModel, talk: Talk) -> None:
    body = talk.complete(["one", "three"], n=2, seed=9, max_tokens=8, echo=True)
    assert [each["index"] for each in body["choices"]] == [0, 1, 2, 3]
    for index, prompt in enumerate(["one", "one", "three", "three"]):
        text = own(model, model.prompt_ids(prompt), 8, 9, index, temperature=1.0)[0]
        assert body["choices"][index]["text"] == prompt + text
    assert body["choices"][0]["text"] != body["choices"][1]["text"]
    assert body["usage"]["prompt_tokens"] == sum(len(model.prompt_ids(p)) for p in ("one", "three"))
    ids = [model.prompt_ids(p).tolist() for p in ("one", "three")]
    again = talk.complete(ids, n=2, seed=9, max_tokens=8, echo=True)
    assert again["choices"] == body["choices"] and again["usage"] == body["usage"]
    parts = events(talk, "/v1/completions", prompt=ids, n=2, seed=9, max_tokens=8, echo=True)
    for index in range(4):
        mine = [each["choices"][0] for each in parts if each["choices"][0]["index"] == index]
        assert "".join(each["text"] for each in mine) == body["choices"][index]["text"]


def test_without_a_seed_answers_differ_and_a_template_takes_its_extras(
    model: TextModel, talk: Talk
) -> None:
    answers = {talk.chat("hello", max_tokens=20)["choices"][0]["message"]["content"] for _ in "abc"}
    assert len(answers) == 3
    plain = talk.chat("hello", max_tokens=1)["usage"]["prompt_tokens"]
    more = talk.chat("hello", max_tokens=1, chat_template_kwargs={"enable_thinking": True})
    assert more["usage"]["prompt_tokens"] == plain + len(model.tokenizer.ids("<think>"))


def test_an_answer_fills_the_context_and_not_more(model: TextModel, talk: Talk) -> None:
    assert model.longest == 128
    ids = [65] * 120
    assert talk.complete(ids, max_tokens=8, temperature=0)["usage"]["completion_tokens"] == 8
    assert talk.complete(ids, temperature=0)["usage"]["completion_tokens"] == 8  # 16 do not fit
    assert talk.complete([65] * 127, max_tokens=1)["usage"]["total_tokens"] == 128
    for body in ({"prompt": ids, "max_tokens": 9}, {"prompt": [65] * 128}, {"prompt": [65] * 129}):
        status, _, answer = talk.post("/v1/completions", **body)
        assert (status, answer["error"]["param"] in ("prompt", "max_tokens")) == (400, True)
    chat = talk.chat("hello", temperature=0)["usage"]
    assert chat["total_tokens"] == 128 or chat["completion_tokens"] < 128


def accumulated(parts: Any) -> dict[str, Any]:
    """The message that a stream of events makes, every field that was ever sent in it."""
    message: dict[str, Any] = {}
    for each in parts:
        for name, value in each["choices"][0]["delta"].items():
            old = message.get(name)
            message[name] = old + value if isinstance(old, str) else value
    return message


@pytest.mark.parametrize("more", [{}, {"logprobs": True, "top_logprobs": 2}, {"max_tokens": 1}])
@pytest.mark.parametrize("shape", ["sent", "streamed", "object", "dumped"])
def test_an_answer_is_accepted_as_history(
    talk: Talk, client: openai.OpenAI, shape: str, more: dict[str, Any]
) -> None:
    """In every shape in which we write it, and in those that the official client makes of it."""
    asked: Any = [{"role": "user", "content": "hello"}]
    given: Any = {"seed": 6, "max_tokens": 12, "messages": asked, **more}
    path = "/v1/chat/completions"
    sent = talk.post(path, **given)[2]["choices"][0]["message"]
    theirs = client.chat.completions.create(model="tiny", **given).choices[0].message
    messages: dict[str, Any] = {
        "sent": sent,
        "streamed": accumulated(events(talk, path, **given)),
        "object": theirs,
        "dumped": theirs.model_dump(),
    }
    goes_on: Any = {"model": "tiny", "seed": 6, "max_tokens": 5}
    plain = {"role": "assistant", "content": sent["content"]}
    again = {"role": "user", "content": "and?"}
    wanted = client.chat.completions.create(messages=[*asked, plain, again], **goes_on)
    found = client.chat.completions.create(messages=[*asked, messages[shape], again], **goes_on)
    assert found.choices == wanted.choices and found.usage == wanted.usage


def test_a_refusal_is_the_text_of_its_message_and_a_name_is_the_templates_to_read(
    model: TextModel, talk: Talk
) -> None:
    asked: Any = {"role": "user", "content": "hello"}
    given: Any = {"seed": 6, "max_tokens": 5}
    answers = [
        talk.post("/v1/chat/completions", messages=[asked, each, asked], **given)[2]
        for each in (
            {"role": "assistant", "content": "no"},
            {"role": "assistant", "content": None, "refusal": "no", "annotations": []},
            {"role": "assistant", "content": "no", "name": "ann"},
        )
    ]
    assert answers[0]["choices"] == answers[1]["choices"] == answers[2]["choices"]
    template = "{% for m in messages %}{{ m.name }}: {{ m.content }}{% endfor %}"
    named = with_generation(model, template=template)
    body = {"messages": [{**asked, "name": "ann<|im_end|>"}]}
    (request,) = generation_requests(read_chat(body, Serve()), named, 4096)
    assert model.tokenizer.decode(request.prompt.tolist()) == "ann<|im_end|>: hello"
    assert not {*request.prompt.tolist()} & {*model.tokenizer.control.values()}
    named.close()


def test_a_model_is_retrieved_by_its_name(client: openai.OpenAI) -> None:
    (listed,) = client.models.list()
    assert client.models.retrieve("tiny") == listed and listed.created > 0
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.models.retrieve("other/tiny")


def test_what_frameworks_send_beside_a_question_is_accepted(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "seed": 6, "max_tokens": 5}
    asked["messages"] = [{"role": "user", "content": "hello"}]
    more: Any = {"user": "ann", "store": False, "tool_choice": "none"}
    more["response_format"] = {"type": "text"}
    found = client.chat.completions.create(**asked, **more)
    assert found.choices == client.chat.completions.create(**asked).choices


def test_the_client_sees_errors_as_its_own_kinds(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match="reads no tools") as caught:
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "x"}],
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
    assert caught.value.param == "tools"
    assert [each.id for each in client.models.list()] == ["tiny"]
