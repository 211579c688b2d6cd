"""The table of parameters, held against the server, the tests that it names and the client."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import openai.types.chat.completion_create_params as of_chats
import openai.types.completion_create_params as of_texts
import openai.types.embedding_create_params as of_vectors
import openai.types.responses.response_create_params as of_responses
import pytest

from lmwright.models.text_model import TextModel
from lmwright.serve.parameter_table import ROUTES, Parameter, honoured, unsupported
from lmwright.text.generation import GenerationConfig
from tests.serve.fake import loaded as counting
from tests.serve.kinds import Several, ranking, similarity, talker
from tests.serve.live import check_error
from tests.serve.talking import Talk
from tests.serve.test_completions import own
from tests.train.conftest import small as small  # the fixture

TESTS = Path(__file__).parents[1]
SAID = [{"role": "user", "content": "a"}]
LEAST: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": SAID},
    "/v1/completions": {"prompt": "a"},
    "/v1/responses": {"input": "a"},
    "/v1/embeddings": {"input": "a"},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/v1/predict": {"inputs": [{"text": "a"}], "model": "counts@production"},
    "/v1/classify": {"input": "a"},
    "/v1/tokenize": {"prompt": "a"},
    "/v1/detokenize": {"tokens": [1]},
}
"""A request of each route that is answered."""
EXAMPLES: dict[str, Any] = {
    "add_special_tokens": True,
    "chat_template_kwargs": {"enable_thinking": True},
    "dimensions": 16,
    "diversity_penalty": 1,
    "documents": [{"text": "b"}],
    "echo": True,
    "encoding_format": "base64",
    "frequency_penalty": 1,
    "input": ["a"],
    "inputs": [{"text": "a"}],
    "length_penalty": 2,
    "instructions": "Be brief.",
    "logit_bias": {"5": 1},
    "logprobs": 1,
    "max_completion_tokens": 2,
    "max_output_tokens": 2,
    "max_tokens": 2,
    "messages": SAID,
    "metadata": {"a": "b"},
    "min_p": 0.1,
    "n": 2,
    "num_beam_groups": 2,
    "num_beams": 2,
    "parallel_tool_calls": False,
    "penalty_alpha": 0.5,
    "presence_penalty": 1,
    "prompt": "a",
    "prompt_cache_key": "k",
    "query": "a",
    "repetition_penalty": 1.5,
    "response_format": {"type": "json_object"},
    "return_documents": True,
    "return_token_strs": True,
    "safety_identifier": "s",
    "seed": 3,
    "stop": ["z"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "structured_outputs": {"regex": "a+"},
    "temperature": 0.5,
    "text": {"format": {"type": "json_object"}},
    "tokens": [1],
    "tool_choice": "none",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_k": 3,
    "top_logprobs": 1,
    "top_n": 1,
    "top_p": 0.5,
    "typical_p": 0.5,
    "use_beam_search": True,
    "user": "ann",
}
"""A value of each parameter that is honoured."""
OF_SEARCHES: dict[str, dict[str, Any]] = {
    "diversity_penalty": {"num_beams": 4, "num_beam_groups": 2},
    "length_penalty": {"num_beams": 2},
    "num_beam_groups": {"num_beams": 4},
    "penalty_alpha": {"top_k": 3},
    "use_beam_search": {"n": 2},
}
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    **{
        (route, name): more
        for route in ("/v1/chat/completions", "/v1/completions")
        for name, more in OF_SEARCHES.items()
    },
    ("/v1/chat/completions", "stream_options"): {"stream": True},
    ("/v1/completions", "stream_options"): {"stream": True},
    ("/v1/chat/completions", "top_logprobs"): {"logprobs": True},
    ("/v1/chat/completions", "logprobs"): {"logprobs": True},
    ("/v1/chat/completions", "tools"): {"tool_choice": "none"},
    ("/v1/responses", "tools"): {
        "tools": [{"type": "function", "name": "f"}],
        "tool_choice": "none",
    },
    ("/v1/responses", "input"): {"input": SAID},
    ("/v1/tokenize", "messages"): {"prompt": None},
    ("/v1/tokenize", "chat_template_kwargs"): {"prompt": None, "messages": SAID},
}
"""What a parameter's request has beside it, or in its place."""
KEEPING = {
    "/v1/embeddings": "near",
    "/v1/rerank": "ranks",
    "/v1/predict": "counts",
    "/v1/classify": "counts",
}
OF_TRANSLATORS = ("src_lang", "tgt_lang")
CHATS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")


def cases(kind: str) -> list[tuple[str, Parameter]]:
    """The parameters of all routes that are honoured, or that are not."""
    chosen = honoured if kind == "honoured" else unsupported
    return [(route, each) for route in ROUTES for each in chosen(route).values()]


def in_words(case: Any) -> str:
    return case if isinstance(case, str) else case.name


@pytest.fixture(scope="module")
def live(small: Path, model_folder: Path) -> Iterator[Several]:
    versions = {
        "talks@production": talker(model_folder),
        "near@production": similarity(small),
        "ranks@production": ranking(small),
        "counts@production": counting("c1"),
    }
    live = Several(versions)
    yield live
    live.stop()


@pytest.mark.parametrize(("route", "parameter"), cases("honoured"), ids=in_words)
def test_what_is_honoured_is_accepted(live: Several, route: str, parameter: Parameter) -> None:
    short = {"max_output_tokens" if route == "/v1/responses" else "max_tokens": 2}
    name = parameter.name
    body = {**LEAST[route], **(short if route in CHATS else {})}
    if name == "max_completion_tokens":
        del body["max_tokens"]
    if name in OF_TRANSLATORS:
        status, found = live.post(route, **body, **{name: "fr"})
        check_error(status, found, 400)
        assert "translator" in found["error"]["message"]
        return
    value = f"{KEEPING.get(route, 'talks')}@production" if name == "model" else EXAMPLES[name]
    status, found = live.post(route, **{**body, name: value, **BESIDE.get((route, name), {})})
    assert status == 200, found


@pytest.mark.parametrize(("route", "parameter"), cases("unsupported"), ids=in_words)
def test_what_is_not_is_refused_by_name_but_for_what_asks_for_nothing(
    live: Several, route: str, parameter: Parameter
) -> None:
    assert parameter.why
    for value in ("nonsense", {"nonsense": 1}, [{}], 7):
        status, found = live.post(route, **LEAST[route], **{parameter.name: value})
        check_error(status, found, 400)
        assert found["error"]["param"] == parameter.name
        assert parameter.name in found["error"]["message"]
        assert parameter.why in found["error"]["message"]
    body = {"/v1/tokenize": {"messages": SAID}}.get(route, LEAST[route])
    for value in parameter.neutral:
        status, found = live.post(route, **body, **{parameter.name: value})
        assert status == 200, found


def test_what_is_in_no_table_is_refused(live: Several) -> None:
    for route, body in LEAST.items():
        status, found = live.post(route, **body, nothing_like_it=1)
        check_error(status, found, 400)
        assert found["error"]["param"] == "nothing_like_it"


def test_the_named_tests_are_there() -> None:
    for test in {each.test for _, each in cases("honoured")}:
        path, _, name = test.partition("::")
        tree = ast.parse((TESTS / path).read_text("utf-8"))
        assert name in {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}, test


@pytest.mark.parametrize(
    ("route", "module", "kinds"),
    [
        ("/v1/chat/completions", of_chats, "CompletionCreateParams"),
        ("/v1/completions", of_texts, "CompletionCreateParams"),
        ("/v1/embeddings", of_vectors, "EmbeddingCreateParams"),
        ("/v1/responses", of_responses, "ResponseCreateParams"),
    ],
)
def test_every_parameter_of_the_official_client_is_in_the_table(
    route: str, module: Any, kinds: str
) -> None:
    bases = [
        each for name, each in inspect.getmembers(module, inspect.isclass) if name.startswith(kinds)
    ]
    known = {name for each in bases for name in get_type_hints(each)}
    assert len(known) > 4
    assert known <= {each.name for each in ROUTES[route]}


def test_the_interface_is_described_by_the_table(live: Several) -> None:
    _, _, document = live.ask("GET", "/openapi.json")
    for route, table in ROUTES.items():
        told = document["paths"][route]["post"]["requestBody"]
        schema = told["content"]["application/json"]["schema"]
        assert set(schema["properties"]) == {
            each.name for each in table if each.test or each.neutral
        }
        assert schema.get("required", []) == [each.name for each in table if each.required]
        assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("named", "how"),
    [
        ({"top_k": 3}, {"top_k": 3}),
        ({"min_p": 0.2}, {"min_p": 0.2}),
        ({"typical_p": 0.4}, {"typical_p": 0.4}),
        (
            {"repetition_penalty": 1.7},
            {"generation_config": GenerationConfig(repetition_penalty=1.7)},
        ),
    ],
    ids=["top_k", "min_p", "typical_p", "repetition"],
)
def test_a_way_to_sample_is_the_models_own(
    model: TextModel, talk: Talk, named: dict[str, Any], how: dict[str, Any]
) -> None:
    """Its answer differs from that without it, and is what the model gives by itself."""
    ids = model.prompt_ids("the")
    text, _, _ = own(model, ids, 60, 3, temperature=1.0, **how)
    assert text != own(model, ids, 60, 3, temperature=1.0)[0]
    found = talk.complete("the", max_tokens=60, seed=3, **named)
    assert found["choices"][0]["text"] == text
