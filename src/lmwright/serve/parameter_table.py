"""What becomes of every parameter of the interface, a table a route: honoured, accepted in the one
value that asks for what is done anyway, or refused with a reason.

The reading of requests, the OpenAPI document and the page docs/api.md are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmwright.serve.parameter_schemas import (
    BOOLEAN,
    DOCUMENT,
    FLAT_CHOICE,
    FLAT_TOOL,
    INPUT_ITEM,
    INTEGER,
    MESSAGES,
    OBJECT,
    RESPONSE_FORMAT,
    STRING,
    STRUCTURED,
    TEXT_SETTINGS,
    TEXTS,
    TEXTS_OR_IDS,
    TOOL,
    TOOL_CHOICE,
    JsonSchema,
    between,
    listed,
)
from lmwright.serve.search_request import MAX_BRANCHES, MAX_LENGTH_PENALTY, MAX_PENALTY


@dataclass(frozen=True)
class Parameter:
    """One parameter of a route.

    ``test``     the test that shows that it is honoured (a file under tests/, ``::`` and a name);
                 empty where it is not.
    ``schema``   what an honoured one may be, as JSON Schema has it; the server may refuse more.
    ``neutral``  values of one that is not honoured which are accepted: they ask for nothing.
    ``why``      why other values are refused.
    """

    name: str
    test: str = ""
    schema: JsonSchema = field(default_factory=dict)
    neutral: tuple[Any, ...] = ()
    why: str = ""
    required: bool = False

    @property
    def state(self) -> str:
        """What becomes of it, in a word or two."""
        if self.test:
            return "honoured"
        return "neutral value only" if self.neutral else "refused"


OWN = "serve/test_completions.py::test_a_completion_is_the_models_own"
CHATS = "serve/test_completions.py::test_an_answer_in_a_chat_is_the_models_own"
LEANS = "serve/test_completions.py::test_what_leans_is_honoured"
SAMPLES = "serve/test_parameter_table.py::test_a_way_to_sample_is_the_models_own"
SEVERAL = "serve/test_completions.py::test_several_prompts_have_several_answers_each"
LOGPROBS = "serve/test_completions.py::test_log_probabilities_are_the_models"
STOPS = "serve/test_completions.py::test_a_stop_ends_an_answer_and_is_not_shown"
ECHO = "serve/test_completions.py::test_an_echo_tells_how_likely_the_prompt_was"
EXTRAS = (
    "serve/test_completions.py::test_without_a_seed_answers_differ_and_a_template_takes_its_extras"
)
LANGUAGES = "models/files/test_folder_tokenizers.py::test_sentencepiece_of_m2m100"
CHANGES_NOTHING = "serve/test_completion_faults.py::test_a_neutral_value_changes_nothing"
CLASSIFIES = "serve/test_predict.py::test_predict_and_classify_give_the_same_answers"
ROWS = "serve/test_predict.py::test_as_many_rows_as_are_allowed_are_answered_in_order"
BY_NAME = "serve/test_predict.py::test_the_model_may_be_named_by_alias_or_version"
NAMES = "serve/test_services.py::test_a_request_is_answered_by_the_model_that_it_names"
EMBEDS = "serve/test_embeddings.py::"
RERANKS = "serve/test_rerank.py::"
TOKENS = "serve/test_tokenize.py::"
RESPONDS = "serve/test_responses.py::"
RESPONDED_CALLS = "serve/test_response_tools.py::"

FORMS = "serve/test_output_format.py::"
CALLS = "serve/test_tools.py::"
SEARCHES = "serve/test_searches.py::"
BEAMS = SEARCHES + "test_the_best_answers_are_those_of_the_models_beams"

MODEL = Parameter("model", NAMES, STRING)
IDENTIFIERS = (
    Parameter("user", CHANGES_NOTHING, STRING),
    Parameter("safety_identifier", CHANGES_NOTHING, STRING),
    Parameter("prompt_cache_key", CHANGES_NOTHING, STRING),
)
"""Texts that name a client's user or cache; they change no answer."""

COMMON = (
    MODEL,
    Parameter("max_tokens", OWN, between(1, 4096, INTEGER)),
    Parameter("temperature", OWN, between(0, 2)),
    Parameter("top_p", OWN, between(0, 1)),
    Parameter("n", SEVERAL, between(1, 16, INTEGER)),
    Parameter("seed", OWN, INTEGER),
    Parameter("stop", STOPS, {"anyOf": [STRING, {**TEXTS, "maxItems": 16}]}),
    Parameter("stream", OWN, BOOLEAN),
    Parameter(
        "stream_options",
        CHATS,
        listed({"include_usage": BOOLEAN, "include_obfuscation": {"enum": [False]}}),
    ),
    Parameter("presence_penalty", LEANS, between(-2, 2)),
    Parameter("frequency_penalty", LEANS, between(-2, 2)),
    Parameter("logit_bias", LEANS, {"type": "object", "additionalProperties": between(-100, 100)}),
    Parameter("top_k", SAMPLES, between(0, 1 << 20, INTEGER)),
    Parameter("min_p", SAMPLES, between(0, 1)),
    Parameter("typical_p", SAMPLES, between(1e-6, 1)),
    Parameter("repetition_penalty", SAMPLES, between(0.01, 100)),
    Parameter("use_beam_search", BEAMS, BOOLEAN),
    Parameter("num_beams", BEAMS, between(1, MAX_BRANCHES, INTEGER)),
    Parameter("num_beam_groups", BEAMS, between(1, MAX_BRANCHES, INTEGER)),
    Parameter("diversity_penalty", BEAMS, between(0, MAX_PENALTY)),
    Parameter("length_penalty", BEAMS, between(-MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY)),
    Parameter("penalty_alpha", SEARCHES + "test_a_contrastive_search_is_the_models", between(0, 1)),
    Parameter("response_format", FORMS + "test_every_answer_is_of_its_schema", RESPONSE_FORMAT),
    Parameter("structured_outputs", FORMS + "test_every_answer_is_a_match", STRUCTURED),
)
"""Parameters of chat completions and completions alike."""

NO_STORE = "nothing is stored"
NO_TOOLS = "a conversation is rendered without tools"
OLD_TOOLS = "tools and tool_choice are what took its place"
WAITS = "an answer is given while its client waits"
CACHES = tuple(
    Parameter(name, why="the engine alone decides what it keeps")
    for name in ("prompt_cache_options", "prompt_cache_retention")
)
UNSUPPORTED = (
    Parameter("audio", why="answers are texts"),
    Parameter("best_of", neutral=(1,), why="all answers are given, so it may be n alone"),
    Parameter("chat_template", why="the template is the model's own"),
    Parameter("early_stopping", neutral=(False,), why="beams end when none can do better"),
    Parameter("function_call", neutral=("none", "auto"), why=OLD_TOOLS),
    Parameter("functions", neutral=([],), why=OLD_TOOLS),
    Parameter("metadata", neutral=({},), why=NO_STORE),
    Parameter("modalities", neutral=(["text"],), why="answers are texts"),
    Parameter("moderation", why="there is no moderation"),
    Parameter("prediction", why="answers are not predicted"),
    *CACHES,
    Parameter("reasoning_effort", why="no effort can be set"),
    Parameter("service_tier", neutral=("auto", "default"), why="there is one tier"),
    Parameter("store", neutral=(False,), why=NO_STORE),
    Parameter("suffix", neutral=("",), why="answers go on from the prompt"),
    Parameter("verbosity", neutral=("medium",), why="no verbosity can be set"),
    Parameter("web_search_options", why="nothing is searched"),
)
"""Parameters of the two interfaces, and of others that speak them, that are not honoured."""

ROUTES: Mapping[str, tuple[Parameter, ...]] = {
    "/v1/chat/completions": (
        Parameter("messages", CHATS, MESSAGES, required=True),
        *COMMON,
        Parameter("max_completion_tokens", CHATS, between(1, 4096, INTEGER)),
        Parameter("logprobs", LOGPROBS, BOOLEAN),
        Parameter("top_logprobs", LOGPROBS, between(0, 20, INTEGER)),
        Parameter("chat_template_kwargs", EXTRAS, OBJECT),
        Parameter(
            "tools", CALLS + "test_a_forced_call_is_always_valid", {"type": "array", "items": TOOL}
        ),
        Parameter("tool_choice", CALLS + "test_a_forced_call_is_always_valid", TOOL_CHOICE),
        Parameter(
            "parallel_tool_calls", CALLS + "test_calls_that_a_model_chooses_to_make", BOOLEAN
        ),
        *IDENTIFIERS,
        *UNSUPPORTED,
    ),
    "/v1/completions": (
        Parameter("prompt", OWN, TEXTS_OR_IDS, required=True),
        *COMMON,
        Parameter("logprobs", ECHO, between(0, 20, INTEGER)),
        Parameter("echo", ECHO, BOOLEAN),
        Parameter("src_lang", LANGUAGES, STRING),
        Parameter("tgt_lang", LANGUAGES, STRING),
        *IDENTIFIERS,
        *UNSUPPORTED,
    ),
    "/v1/responses": (
        Parameter(
            "input",
            RESPONDS + "test_a_response_is_the_models_own",
            {"anyOf": [STRING, {"type": "array", "items": INPUT_ITEM, "minItems": 1}]},
            required=True,
        ),
        MODEL,
        Parameter("instructions", RESPONDS + "test_a_response_is_the_models_own", STRING),
        Parameter(
            "max_output_tokens",
            RESPONDS + "test_an_answer_that_its_length_ends_is_incomplete",
            between(1, 4096, INTEGER),
        ),
        Parameter("temperature", RESPONDS + "test_a_response_is_the_models_own", between(0, 2)),
        Parameter("top_p", RESPONDS + "test_a_response_is_the_models_own", between(0, 1)),
        Parameter("stream", RESPONDS + "test_a_stream_tells_its_events_in_order", BOOLEAN),
        Parameter(
            "tools",
            RESPONDED_CALLS + "test_a_response_calls_the_tools_that_a_chat_calls",
            {"type": "array", "items": FLAT_TOOL},
        ),
        Parameter(
            "tool_choice", RESPONDED_CALLS + "test_a_choice_of_tools_is_kept_to", FLAT_CHOICE
        ),
        Parameter("parallel_tool_calls", RESPONDED_CALLS + "test_one_call_or_several", BOOLEAN),
        Parameter(
            "text", RESPONDED_CALLS + "test_a_response_is_of_the_form_asked_for", TEXT_SETTINGS
        ),
        Parameter(
            "metadata",
            RESPONDS + "test_what_is_told_beside_a_question_is_echoed",
            {"type": "object", "additionalProperties": STRING, "maxProperties": 16},
        ),
        *(
            Parameter(each.name, RESPONDS + "test_what_is_told_beside_a_question_is_echoed", STRING)
            for each in IDENTIFIERS
        ),
        Parameter("access_programs", why="there are no such programmes"),
        Parameter("background", neutral=(False,), why=WAITS),
        Parameter("background_options", neutral=({},), why=WAITS),
        Parameter("context_management", neutral=([],), why="the context is never shortened"),
        Parameter("conversation", why="no conversation is stored; send it as input"),
        Parameter("image", neutral=({},), why="models read texts"),
        Parameter("include", neutral=([],), why="nothing can be told beside an answer"),
        Parameter("max_tool_calls", why="calls are the client's to answer"),
        Parameter("moderation", why="there is no moderation"),
        Parameter("previous_response_id", why="no response is stored; send what was said as input"),
        Parameter("prompt", why="no prompts are stored"),
        *CACHES,
        Parameter("reasoning", neutral=({},), why="no effort can be set"),
        Parameter("service_tier", neutral=("auto", "default"), why="there is one tier"),
        Parameter("store", neutral=(False,), why="no response is stored; leave it out"),
        Parameter(
            "stream_options",
            neutral=({}, {"include_obfuscation": False}),
            why="events are not obfuscated",
        ),
        Parameter("top_logprobs", neutral=(0,), why="logprobs are told of chat completions"),
        Parameter("truncation", neutral=("disabled",), why="the context is never shortened"),
    ),
    "/v1/embeddings": (
        Parameter("input", EMBEDS + "test_a_vector_is_the_models_own", TEXTS_OR_IDS, required=True),
        MODEL,
        Parameter(
            "encoding_format",
            EMBEDS + "test_base64_holds_the_same_numbers",
            {"enum": ["float", "base64"]},
        ),
        Parameter(
            "dimensions",
            EMBEDS + "test_only_widths_that_were_learnt_are_given",
            {**INTEGER, "minimum": 1},
        ),
        Parameter("user", EMBEDS + "test_the_official_client_reads_vectors", STRING),
    ),
    "/v1/rerank": (
        Parameter(
            "query",
            RERANKS + "test_documents_are_ranked_by_the_models_score",
            STRING,
            required=True,
        ),
        Parameter(
            "documents",
            RERANKS + "test_documents_are_ranked_by_the_models_score",
            {"type": "array", "items": DOCUMENT, "minItems": 1},
            required=True,
        ),
        Parameter("model", RERANKS + "test_each_model_is_asked_by_its_name", STRING),
        Parameter(
            "top_n", RERANKS + "test_the_first_few_are_given_bare", {**INTEGER, "minimum": 1}
        ),
        Parameter("return_documents", RERANKS + "test_the_first_few_are_given_bare", BOOLEAN),
        Parameter("user", RERANKS + "test_the_first_few_are_given_bare", STRING),
        Parameter("max_chunks_per_doc", why="a document is read as one text"),
        Parameter("max_tokens_per_doc", why="what is read of a document is the model's"),
        Parameter("rank_fields", why="documents are texts"),
        Parameter("truncate_prompt_tokens", why="what is read of a document is the model's"),
    ),
    "/v1/predict": (
        Parameter("inputs", ROWS, {"type": "array", "items": OBJECT, "minItems": 1}, required=True),
        Parameter("model", BY_NAME, STRING),
    ),
    "/v1/classify": (
        Parameter("input", CLASSIFIES, {"anyOf": [STRING, TEXTS]}, required=True),
        Parameter("model", BY_NAME, STRING),
    ),
    "/v1/tokenize": (
        Parameter("prompt", TOKENS + "test_the_ids_are_those_that_the_model_reads", STRING),
        Parameter("messages", TOKENS + "test_a_conversation_is_rendered_as_a_chat_is", MESSAGES),
        Parameter("model", TOKENS + "test_every_model_with_a_tokenizer_answers", STRING),
        Parameter(
            "add_special_tokens", TOKENS + "test_the_ids_are_those_that_the_model_reads", BOOLEAN
        ),
        Parameter("return_token_strs", TOKENS + "test_a_token_is_told_by_its_name", BOOLEAN),
        Parameter(
            "add_generation_prompt", neutral=(True,), why="a conversation is asked to be answered"
        ),
        Parameter("continue_final_message", neutral=(False,), why="an answer begins a new message"),
        Parameter("chat_template", why="the template is the model's own"),
        Parameter(
            "chat_template_kwargs",
            TOKENS + "test_a_conversation_is_rendered_as_a_chat_is",
            OBJECT,
        ),
        Parameter("tools", neutral=([],), why=NO_TOOLS),
    ),
    "/v1/detokenize": (
        Parameter(
            "tokens",
            TOKENS + "test_what_was_tokenized_comes_back",
            {"type": "array", "items": {"type": "integer", "minimum": 0}},
            required=True,
        ),
        Parameter("model", TOKENS + "test_every_model_with_a_tokenizer_answers", STRING),
    ),
}
"""The parameters of each route whose body has parameters of its own."""


def honoured(route: str) -> dict[str, Parameter]:
    """The parameters of a route that are honoured, by their names."""
    return {each.name: each for each in ROUTES[route] if each.test}


def unsupported(route: str) -> dict[str, Parameter]:
    """The parameters of a route that are refused but for neutral values, by their names."""
    return {each.name: each for each in ROUTES[route] if not each.test}


def described(route: str) -> dict[str, Any]:
    """What the OpenAPI document says of a route beside its summary: the body of its requests."""
    properties = {
        each.name: dict(each.schema) if each.test else {"enum": list(each.neutral)}
        for each in ROUTES[route]
        if each.test or each.neutral
    }
    schema = listed(properties, *(each.name for each in ROUTES[route] if each.required))
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}
