"""Answers that are held to a form: schemas, patterns, grammars, choices."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openai
import pydantic
import pytest

from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, language_model
from lmwright.serve.generation import AnswerBuilder, GenerationRequest
from lmwright.text.constrained import of_choices, of_regex, vocabulary_of
from lmwright.text.generation import GenerationConfig, SamplingParams
from tests.serve.json_reference import fits
from tests.serve.live import check_error
from tests.serve.talking import Talk, byte_level, of_pieces, talking, with_generation, write_model
from tests.serve.test_completions import events
from tests.serve.tool_templates import HERMES, THINKING

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SEEDS = 4
"""Requests of 16 answers each, so that there are 64 of each form."""
MOST = 100
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "n": {"type": "integer", "minimum": -3, "maximum": 40},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["n", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: dict[str, Any] = {
    "object": {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"enum": ["x", "y", 3, None]},
            "c": {"type": "string", "maxLength": 5, "minLength": 2},
        },
        "required": ["b", "a"],
        "additionalProperties": False,
    },
    "array": {
        "type": "array",
        "items": {"type": ["boolean", "null"]},
        "minItems": 2,
        "maxItems": 4,
    },
    "pattern": {"type": "string", "pattern": "^[ab]{2,5}c?$"},
    "number": {"type": "integer", "minimum": 5, "maximum": 1234, "multipleOf": 7},
    "tree": TREE,
    "const": {"const": {"a": [1, "ü"]}},
    "properties": {
        "type": "object",
        "additionalProperties": {"const": 1},
        "minProperties": 1,
        "maxProperties": 2,
    },
}
REGEXES = ["(the|an) ?c[0-9]{3}", "a*b", "[^\\n]{3}/[0-9]", "日本?|ü+", "^ab$|^cd$"]
CHOICES = [["yes", "no", "yesterday"], [" a", "b "], ["日", '"quoted"\n', "\\"]]


@pytest.fixture(scope="module", params=["bytes", "pieces"])
def long(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    """A server for models of more tokens, with a template that knows no reasoning."""
    made = byte_level() if request.param == "bytes" else of_pieces("strip")
    folder = write_model(tmp_path_factory.mktemp("long") / "m", made, 1024, HERMES)
    model = language_model(read_published(str(folder)))
    with talking(model) as talk:
        yield talk
    model.close()


def against_space(talk: Talk) -> dict[str, int]:
    """A bias against white space and reasoning, so that answers end sooner."""
    inner = talk.model.tokenizer.inner
    names = ("Ġ", "Ċ", "ĉ", "\n", "<0x20>", "<0x0A>", "<0x09>", "<think>")
    return {str(id_): -100 for each in names if (id_ := inner.token_to_id(each)) is not None}


def answers(talk: Talk, **asked: Any) -> list[tuple[str, str]]:
    """Text and reason of 64 answers, which streams give just so."""
    found = []
    bias = against_space(talk)
    for seed in range(SEEDS):
        given: Any = {"prompt": "the", "n": 16, "seed": seed, "max_tokens": MOST, **asked}
        given["logit_bias"] = bias
        body = talk.complete(**given)
        whole = [(each["text"], each["finish_reason"]) for each in body["choices"]]
        if not seed:
            parts = [each["choices"][0] for each in events(talk, TEXT, **given)]
            for index, (text, reason) in enumerate(whole):
                mine = [each for each in parts if each["index"] == index]
                assert "".join(each["text"] for each in mine) == text
                assert mine[-1]["finish_reason"] == reason
        found += whole
    stopped = [text for text, reason in found if reason == "stop"]
    assert len(stopped) > 4
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_is_of_its_schema(long: Talk, name: str) -> None:
    schema = SCHEMAS[name]
    described = {"name": "it", "schema": schema, "strict": True}
    asked = {"response_format": {"type": "json_schema", "json_schema": described}}
    found = answers(long, **asked)
    for text, reason in found:
        assert reason == "length" or fits(json.loads(text), schema), text
    assert len({text for text, _ in found}) > 1 or name == "const"


def test_a_schema_may_be_given_as_text(long: Talk) -> None:
    """As vLLM takes one: an object, or its text."""
    schema = SCHEMAS["array"]
    given: Any = {"prompt": "x", "seed": 3, "n": 4, "max_tokens": 60}
    found = [
        long.complete(**given, structured_outputs={"json": each})["choices"]
        for each in (schema, json.dumps(schema))
    ]
    described = {"name": "it", "schema": schema}
    asked = {"response_format": {"type": "json_schema", "json_schema": described}}
    assert found[0] == found[1] == long.complete(**given, **asked)["choices"]


@pytest.mark.parametrize("pattern", REGEXES)
def test_every_answer_is_a_match(long: Talk, pattern: str) -> None:
    for text, reason in answers(long, structured_outputs={"regex": pattern}):
        assert reason == "length" or re.fullmatch(pattern, text), text


@pytest.mark.parametrize("choices", CHOICES)
def test_every_answer_is_one_of_the_choices(long: Talk, choices: list[str]) -> None:
    found = answers(long, structured_outputs={"choice": choices})
    assert {reason for _, reason in found} == {"stop"}
    assert {text for text, _ in found} <= set(choices)


@pytest.mark.parametrize(
    "grammar",
    ['start: item ("," item)*\nitem: /[0-9]/ | "(" start ")"', 'root ::= "(" root ")" | [0-9]'],
)
def test_every_answer_is_of_the_grammar(long: Talk, grammar: str) -> None:
    for text, reason in answers(long, structured_outputs={"grammar": grammar}):
        while (inner := re.sub(r"\(\d(,\d)*\)", "0", text)) != text:
            text = inner
        assert reason == "length" or re.fullmatch(r"\d(,\d)*", text), text


def test_any_object_is_json(long: Talk) -> None:
    asked = {"response_format": {"type": "json_object"}, "temperature": 0.2, "n": 16}
    body = long.chat("an object", max_tokens=80, seed=1, **asked)
    for each in body["choices"]:
        text, reason = each["message"]["content"], each["finish_reason"]
        assert text.startswith("{")
        assert reason == "length" or isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "how", [{"temperature": 0}, {"top_k": 1}, {"typical_p": 0.3}, {"min_p": 0.9}]
)
def test_however_tokens_are_drawn(long: Talk, how: dict[str, Any]) -> None:
    body = long.complete("x", structured_outputs={"choice": ["one", "two"]}, n=16, **how)
    assert {each["text"] for each in body["choices"]} <= {"one", "two"}
    assert {each["finish_reason"] for each in body["choices"]} == {"stop"}


def test_where_the_length_ends_it_first(long: Talk) -> None:
    body = long.complete("x", structured_outputs={"regex": "[ab]{100}"}, max_tokens=9, seed=1)
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "length" and set(choice["text"]) <= {*"ab"}


def test_a_bias_and_penalties_do_not_lead_out(long: Talk) -> None:
    bias = {str(id_): 100 for id_ in range(3, 200)}
    body = long.complete(
        "x", structured_outputs={"choice": ["one"]}, logit_bias=bias, presence_penalty=2, n=8
    )
    assert {each["text"] for each in body["choices"]} == {"one"}


def test_log_probabilities_are_those_of_all_tokens(model: TextModel) -> None:
    """The mask changes what is drawn, not what is told of it."""
    held = vocabulary_of(model.tokenizer).compiled(of_choices(["qz"]))
    params = SamplingParams(5, stop_ids=model.stop_ids)
    request = GenerationRequest(model.prompt_ids("x"), params, 0, top_logprobs=2, constraint=held)
    builder = AnswerBuilder(model, request)
    assert builder.allowed(model.tokenizer.size()).sum() == 1  # type: ignore[union-attr]
    free = AnswerBuilder(model, GenerationRequest(request.prompt, params, 0))
    assert free.allowed(model.tokenizer.size()) is None
    logits_v = next(iter(model.generate(request.prompt, params, np.random.default_rng(0)))).sampled
    sampled = builder.sample(logits_v.logits_v)
    assert model.tokenizer.token(sampled.id) == "q"
    assert sampled.logprob == pytest.approx(float(logits_v.logprobs_v[sampled.id]))


def test_what_a_model_never_writes_is_written_where_nothing_else_may_be(model: TextModel) -> None:
    """A model's own settings (no n-gram twice, a forced end) yield to the form."""
    ends = model.stop_ids[:1]
    config = GenerationConfig(no_repeat_ngram_size=1, forced_eos_token_id=ends, min_length=50)
    own = with_generation(model, config=config)
    with talking(own) as talk:
        body = talk.complete("a", structured_outputs={"regex": "a{4}"}, max_tokens=20)
    assert (body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == ("aaaa", "stop")


def test_reasoning_comes_before_what_is_held(tmp_path: Path) -> None:
    """Where the template opens it, all up to its end is free, and the form holds behind it."""
    model = language_model(read_published(str(write_model(tmp_path / "m", None, 1024, THINKING))))
    with talking(model) as talk:
        asked: Any = {"structured_outputs": {"choice": ["yes", "no"]}, "max_tokens": 60, "n": 16}
        open_ = talk.chat("x", chat_template_kwargs={"enable_thinking": True}, **asked)
        for each in open_["choices"]:
            assert each["message"]["reasoning_content"] and not each["message"]["content"]
        for each in talk.chat("x", seed=1, **asked)["choices"]:
            said = each["message"]
            if "reasoning_content" not in said and each["finish_reason"] == "stop":
                assert said["content"] in ("yes", "no")
    model.close()


class Place(pydantic.BaseModel):
    """A place."""

    name: Literal["Bern", "Rome"]
    people: int = pydantic.Field(ge=0, le=9999)
    near: list[Literal["sea", "hills"]] = pydantic.Field(max_length=2)


def test_the_official_client_parses_an_answer(long: Talk) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{long.port}/v1", api_key="none") as client:
        for seed in range(5):
            found = client.chat.completions.parse(
                model="tiny",
                messages=[{"role": "user", "content": "Where?"}],
                response_format=Place,
                seed=seed,
                max_tokens=500,
            )
            message: Any = found.choices[0].message
            assert message.parsed is not None and message.parsed.name in ("Bern", "Rome")
        asked: Any = {"role": "user", "content": "And?"}
        parsed: Any = {"role": "assistant", "content": message.content, "parsed": {"name": "x"}}
        goes_on: Any = {"model": "tiny", "messages": [asked, parsed, asked], "max_tokens": 2}
        assert client.chat.completions.create(**goes_on).choices


def schema_of(schema: Any) -> dict[str, Any]:
    described = {"name": "it", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a keyword": (schema_of({"type": "array", "uniqueItems": True}), "uniqueItems"),
    "no schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "sch",
    ),
    "no name": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "name",
    ),
    "a word beside": ({"response_format": {"type": "json_object", "x": 1}}, "response_format"),
    "strict of text": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {}, "strict": "yes"},
            }
        },
        "strict",
    ),
    "a format of text": ({"response_format": "json"}, "response_format"),
    "two forms": (
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        "exclude",
    ),
    "two in one": ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "exactly one"),
    "none in it": ({"structured_outputs": {}}, "exactly one"),
    "an unknown one": ({"structured_outputs": {"structural_tag": "a"}}, "exactly one"),
    "no choice": ({"structured_outputs": {"choice": []}}, "choices"),
    "an empty choice": ({"structured_outputs": {"choice": ["a", ""]}}, "choices"),
    "choices of numbers": ({"structured_outputs": {"choice": [1]}}, "string"),
    "an expression of numbers": ({"structured_outputs": {"regex": 1}}, "string"),
    "an empty expression": ({"structured_outputs": {"regex": ""}}, "empty"),
    "a broken expression": ({"structured_outputs": {"regex": "(a"}}, "unclosed"),
    "a broken grammar": ({"structured_outputs": {"grammar": "start: x"}}, "unknown name"),
    "a schema of text that is none": ({"structured_outputs": {"json": "{"}}, "JSON"),
    "a schema of a list": ({"structured_outputs": {"json": []}}, "schema"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_form_that_cannot_be_kept_is_refused_by_name(talk: Talk, name: str) -> None:
    asked, words = REFUSED[name]
    for status, _, body in (
        talk.post(TEXT, prompt="a", **asked),
        talk.post(CHAT, messages=[{"role": "user", "content": "a"}], **asked),
    ):
        check_error(status, body, 400)
        assert words in body["error"]["message"], body
        assert (body["error"]["param"] or "").split(".")[0] in (*asked, "")


@pytest.mark.parametrize(
    "asked", [{"response_format": {"type": "json_object"}}, REFUSED["a keyword"][0]]
)
def test_a_form_of_the_prompt_is_refused(talk: Talk, asked: dict[str, Any]) -> None:
    status, _, body = talk.post(TEXT, prompt="a", echo=True, **asked)
    check_error(status, body, 400)
    assert "echo" in body["error"]["message"]


def test_a_megabyte_of_schema_is_refused_at_once(talk: Talk) -> None:
    status, _, body = talk.post(TEXT, prompt="a", **schema_of({"enum": ["x" * 1_000_000]}))
    check_error(status, body, 400)
    status, _, body = talk.post(TEXT, prompt="a", structured_outputs={"regex": "x" * 1_000_000})
    check_error(status, body, 413)


def test_a_form_that_cannot_go_on_fails_its_own_request_alone(talk: Talk) -> None:
    """Too much of a regular expression for a step: the request's fault, in words."""
    deep = {"structured_outputs": {"regex": "((a{1,1000}){1,1000}){1,1000}"}, "max_tokens": 100}
    ends = {str(id_): -100 for id_ in talk.model.stop_ids}
    status, _, body = talk.post(TEXT, prompt="a", **deep, logit_bias=ends, temperature=0)
    check_error(status, body, 400)
    assert "constraint" in body["error"]["message"]
    assert talk.complete("a", structured_outputs={"choice": ["b"]})["choices"][0]["text"] == "b"


def test_a_language_is_compiled_once(model: TextModel) -> None:
    known = vocabulary_of(model.tokenizer)
    assert known.compiled(of_regex("a+")) is known.compiled(of_regex("a+"))
    first, second = (known.compiled(of_regex("a+")).matcher(False, []) for _ in "ab")
    first.push(int(model.tokenizer.ids("a")[0]))
    assert first.inner.is_accepting() and not second.inner.is_accepting()
