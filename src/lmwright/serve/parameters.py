"""Generation requests over HTTP, read strictly: a parameter is honoured, or refused by its name."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lmwright.core.errors import BadInput
from lmwright.models.contrastive_search import network_with_states
from lmwright.models.text_model import TextModel
from lmwright.serve import parameter_table
from lmwright.serve.answer_form import AnswerForm, chat_form, text_form
from lmwright.serve.generation import GenerationRequest
from lmwright.serve.messages import read_messages
from lmwright.serve.output_format import OutputFormat, read_output_format, refuse
from lmwright.serve.parameter_table import Parameter
from lmwright.serve.request import (
    MAX_IDENTIFIER_CHARACTERS,
    RequestFault,
    allow_only,
    checked_text,
    flag,
    in_words,
    integer,
    number,
    printable,
    same,
    without_nulls,
)
from lmwright.serve.search_request import Search, read_search
from lmwright.serve.searches import most_new_tokens
from lmwright.serve.settings import Serve
from lmwright.serve.tools import Tools, read_tools
from lmwright.text.generation import GenerationConfig, SamplingParams

CHAT_ROUTE, TEXT_ROUTE = "/v1/chat/completions", "/v1/completions"
IDENTIFIERS = tuple(each.name for each in parameter_table.IDENTIFIERS)

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_LANGUAGE_CHARACTERS = 64
MAX_ALTERNATIVES = 20
MAX_BIASES = 1024
MAX_BIAS = 100
TOKEN_ID = re.compile(r"[0-9]{1,9}")
DEFAULT_COMPLETION_TOKENS = 16
"""Tokens of a completion without ``max_tokens``."""
RESERVED_KWARGS = {"now", "self", "tokenizer"}


@dataclass(frozen=True)
class CompletionRequest:
    """A request that has been checked as far as it can be without the model.

    Of ``prompts`` (texts or ids) and ``messages`` one is empty. Where ``max_tokens`` is None, it is
    ``default_max_tokens`` or what the context length leaves. ``top_logprobs`` as in
    :class:`GenerationRequest`. ``languages`` are those of a translator's prompts and answers, each
    empty for the model's default. ``output_format`` is the form that answers are held to, and
    ``tools`` are what they may call. ``search`` is how they are searched for, where they are not
    sampled.
    """

    model: str | None
    prompts: tuple[str | np.ndarray, ...]
    messages: tuple[Mapping[str, Any], ...]
    template_kwargs: Mapping[str, Any]
    max_tokens: int | None
    default_max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    n: int
    seed: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    top_logprobs: int | None
    echo: bool = False
    languages: tuple[str, str] = ("", "")
    output_format: OutputFormat | None = None
    tools: Tools | None = None
    search: Search | None = None


def read_chat(body: dict[str, Any], settings: Serve) -> CompletionRequest:
    """A request to ``/v1/chat/completions``."""
    refuse_unsupported(body, CHAT_ROUTE)
    most = integer(body, "max_completion_tokens", None, 1, settings.max_tokens)
    older = integer(body, "max_tokens", None, 1, settings.max_tokens)
    if None not in (most, older) and most != older:
        raise RequestFault(400, "max_tokens and max_completion_tokens differ", "max_tokens")
    logprobs = flag(body, "logprobs")
    top = integer(body, "top_logprobs", None, 0, MAX_ALTERNATIVES)
    if top and not logprobs:
        raise RequestFault(400, "top_logprobs needs logprobs: true", "top_logprobs")
    tools = read_tools(body)
    if tools is not None:
        reason = "is for answers without tools; ask without them, or with tool_choice: none"
        refuse(read_output_format(body), reason)
    request = CompletionRequest(
        prompts=(),
        messages=read_messages(body.get("messages"), settings.max_characters),
        template_kwargs=read_extras(body),
        max_tokens=older if most is None else most,
        default_max_tokens=settings.max_tokens,
        top_logprobs=(top or 0) if logprobs else None,
        tools=tools,
        **common(body),
    )
    if request.search is not None and tools is not None and (tools.forced or tools.strict):
        raise RequestFault(400, "a search holds no calls to their schemas", "tools")
    return request


def read_text(body: dict[str, Any], settings: Serve) -> CompletionRequest:
    """A request to ``/v1/completions``."""
    refuse_unsupported(body, TEXT_ROUTE)
    request = CompletionRequest(
        prompts=read_prompts(body.get("prompt"), settings),
        messages=(),
        template_kwargs={},
        max_tokens=integer(body, "max_tokens", None, 1, settings.max_tokens),
        default_max_tokens=min(DEFAULT_COMPLETION_TOKENS, settings.max_tokens),
        top_logprobs=integer(body, "logprobs", None, 0, MAX_ALTERNATIVES),
        echo=flag(body, "echo"),
        languages=(read_language(body, "src_lang"), read_language(body, "tgt_lang")),
        **common(body),
    )
    if request.echo:
        refuse(request.output_format, "is for the answer alone; ask without echo")
    if len(request.prompts) * request.n > settings.max_texts:
        raise RequestFault(400, f"more than {settings.max_texts} answers in one request", "n")
    return request


def common(body: dict[str, Any]) -> dict[str, Any]:
    """The parameters that both kinds of request may hold."""
    search, output_format = read_search(body), read_output_format(body)
    if search is not None:
        refuse(output_format, "is not for answers that are searched for")
    temperature = number(body, "temperature", 1.0 if search is None else 0.0, 0.0, 2.0)
    if 0 < temperature < 1e-6:  # logits divided by it might be no numbers
        raise RequestFault(400, "temperature must be 0, or at least 0.000001", "temperature")
    top_p = number(body, "top_p", 1.0, 0.0, 1.0)
    if top_p == 0:
        raise RequestFault(400, "top_p must be above 0", "top_p")
    seed = integer(body, "seed", None, -(1 << 63), (1 << 63) - 1)
    model = body.get("model")
    streamed = flag(body, "stream")
    return {
        "model": None if model is None else checked_text(model, "model", 256),
        "temperature": temperature,
        "top_p": top_p,
        "top_k": integer(body, "top_k", 0, 0, 1 << 20),
        "min_p": number(body, "min_p", 0.0, 0.0, 1.0),
        "typical_p": number(body, "typical_p", 1.0, 1e-6, 1.0),
        "repetition_penalty": number(body, "repetition_penalty", 1.0, 0.01, 100.0),
        "presence_penalty": number(body, "presence_penalty", 0.0, -2.0, 2.0),
        "frequency_penalty": number(body, "frequency_penalty", 0.0, -2.0, 2.0),
        "logit_bias": read_logit_bias(body.get("logit_bias")),
        "n": integer(body, "n", 1, 1, MAX_CHOICES),
        "seed": secrets.randbits(63) if seed is None else seed,
        "stop": read_stop(body.get("stop")),
        "stream": streamed,
        "include_usage": read_include_usage(body.get("stream_options"), streamed),
        "output_format": output_format,
        "search": search,
    }


def generation_requests(
    request: CompletionRequest, model: TextModel, cache_tokens: int
) -> list[GenerationRequest]:
    """One generation request an answer, n a prompt; RequestFault where the model refuses, and for
    more tokens than the KV cache has room for."""
    model = for_languages(request.languages, model)
    if request.search is not None and request.search.penalty_alpha:
        check_states(model)
    for token, _ in request.logit_bias:
        try:
            model.tokenizer.token(token)
        except BadInput as fault:
            raise RequestFault(400, in_words(fault), "logit_bias") from None
    given: Sequence[str | np.ndarray | None] = request.prompts or (None,)
    found: list[GenerationRequest] = []
    for prompt in given:
        param = "messages" if prompt is None else "prompt"
        try:
            ids = prompt_ids(prompt, request, model)
            budget = min(model.token_budget(ids), cache_room(request, len(ids), cache_tokens))
            if budget < 1:
                raise BadInput(
                    f"{len(ids)} tokens", f"at most {cache_tokens - 1}, by serve.cache_tokens"
                )
        except BadInput as fault:
            raise RequestFault(400, in_words(fault), param) from None
        if (
            request.top_logprobs is not None
            and request.echo
            and model.generation.decoder_start_id is not None
        ):
            raise RequestFault(400, "this model gives no logprobs of its prompt", "logprobs")
        form = answer_form(prompt, request, model, ids)
        params = sampling_params(request, model, len(ids), budget)
        echo = None
        if request.echo:
            echo = prompt if isinstance(prompt, str) else model.tokenizer.decode(ids.tolist())
        for rank in range(request.n):
            index, top = len(found), request.top_logprobs
            parts = form.constraint, form.reader, form.shown, rank
            found.append(
                GenerationRequest(ids, params, request.seed, index, request.stop, top, echo, *parts)
            )
    return found


def check_states(model: TextModel) -> None:
    """RequestFault for a model whose hidden states a contrastive search cannot compare."""
    try:
        network_with_states(model.network)
    except BadInput as fault:
        raise RequestFault(400, in_words(fault), "penalty_alpha") from None


def cache_room(request: CompletionRequest, prompt: int, cache_tokens: int) -> int:
    """The tokens of an answer for which the KV cache has room behind so many of a prompt."""
    if request.search is None:
        return cache_tokens - prompt
    return most_new_tokens(prompt, request.search.beams, request.top_k, cache_tokens)


def answer_form(
    prompt: str | np.ndarray | None, request: CompletionRequest, model: TextModel, ids: np.ndarray
) -> AnswerForm:
    """The form of the answers to one prompt, or to the conversation, of these ids."""
    if prompt is None:
        return chat_form(request.output_format, request.tools, model, ids)
    return text_form(request.output_format, model)


def for_languages(languages: tuple[str, str], model: TextModel) -> TextModel:
    """The model as a translator between these languages."""
    source, target = languages
    for param, pair in (("src_lang", (source, "")), ("tgt_lang", ("", target))):
        try:
            model = model.for_languages(*pair)
        except BadInput as fault:
            raise RequestFault(400, in_words(fault), param) from None
    return model


def prompt_ids(
    prompt: str | np.ndarray | None, request: CompletionRequest, model: TextModel
) -> np.ndarray:
    """The ids of one prompt, or of the conversation."""
    if isinstance(prompt, str):
        return model.prompt_ids(prompt)
    if prompt is not None:
        if model.longest is not None:
            model.token_budget(prompt)  # before each id is looked up
        for each in set(prompt.tolist()):
            model.tokenizer.token(each)
        return prompt
    return conversation_ids(request.messages, request.template_kwargs, model, request.tools)


def conversation_ids(
    messages: Sequence[Mapping[str, Any]],
    extras: Mapping[str, Any],
    model: TextModel,
    tools: Tools | None = None,
) -> np.ndarray:
    """The ids of a conversation by the model's template, with what the caller gives it besides."""
    if model.template is None:
        return model.chat_ids(messages)
    if "tool_calls" not in model.template.source:
        for each in messages:
            if "tool_calls" in each or each["role"] == "tool":
                raise BadInput("calls of tools", "messages that the model's chat template reads")
    model.template.check_extras(extras)
    for name in RESERVED_KWARGS & extras.keys():
        raise BadInput(f"{name!r} is not the caller's to give", "an extra of the template")
    given = {} if tools is None else {"tools": list(tools.given)}
    return model.chat_ids(messages, **given, **extras)


def sampling_params(
    request: CompletionRequest, model: TextModel, used: int, budget: int
) -> SamplingParams:
    """Sampling parameters; RequestFault for an answer beyond the context length."""
    if request.max_tokens is not None and request.max_tokens > budget:
        raise RequestFault(
            400,
            f"{used} tokens of prompt leave room for {budget}, not for {request.max_tokens}",
            "max_tokens",
        )
    default, search = min(budget, request.default_max_tokens), request.search or Search()
    return SamplingParams(
        max_new_tokens=default if request.max_tokens is None else request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        typical_p=request.typical_p,
        generation_config=GenerationConfig(repetition_penalty=request.repetition_penalty),
        stop_ids=model.stop_ids,
        logit_bias=request.logit_bias,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        forced_bos_id=model.generation.forced_bos_id,
        **asdict(search),
    )


def read_prompts(value: Any, settings: Serve, name: str = "prompt") -> tuple[str | np.ndarray, ...]:
    """A text, texts, ids or lists of ids."""
    if isinstance(value, str) or is_ids(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise RequestFault(400, f"{name} must be a text, a list of texts, or token ids", name)
    if len(value) > settings.max_texts:
        raise RequestFault(
            413, f"{name} has {len(value)} entries; at most {settings.max_texts}", name
        )
    most, found = settings.max_characters, list[str | np.ndarray]()
    for each in value:
        if is_ids(each):
            found.append(np.array(read_ids(each, most, name), dtype=np.int32))
        else:
            found.append(checked_text(each, name, most))
        most -= len(each)
    return tuple(found)


def read_ids(value: Any, most: int, name: str) -> list[int]:
    """Token ids, at least one, as far as can be checked without the model."""
    if not is_ids(value):
        raise RequestFault(400, f"{name} must be a list of token ids", name)
    if len(value) > most or not all(0 <= number < 1 << 31 for number in value):
        raise RequestFault(400, f"{name}: too many ids, or some that no token has", name)
    found: list[int] = value
    return found


def is_ids(value: Any) -> bool:
    """Whether this is a list of whole numbers, at least one."""
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)


def read_logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """Token ids, and the bias added to their logits."""
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > MAX_BIASES:
        raise RequestFault(
            400, f"logit_bias must be an object of at most {MAX_BIASES} ids", "logit_bias"
        )
    found: dict[int, float] = {}
    for key, more in value.items():
        if not TOKEN_ID.fullmatch(key) or int(key) in found:
            raise RequestFault(400, "logit_bias: a key is no id, or twice there", "logit_bias")
        if type(more) not in (int, float) or not -MAX_BIAS <= more <= MAX_BIAS:
            raise RequestFault(
                400, f"logit_bias: numbers from {-MAX_BIAS} to {MAX_BIAS}", "logit_bias"
            )
        found[int(key)] = float(more)
    return tuple(found.items())


def read_extras(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a caller gives the chat template besides the messages."""
    extras = body.get("chat_template_kwargs")
    if not isinstance(extras, dict | None):
        raise RequestFault(400, "chat_template_kwargs must be an object", "chat_template_kwargs")
    return extras or {}


def read_language(body: Mapping[str, Any], name: str) -> str:
    """The name of a language; empty where it is absent or null."""
    value = body.get(name)
    return "" if value is None else checked_text(value, name, MAX_LANGUAGE_CHARACTERS)


def read_stop(value: Any) -> tuple[str, ...]:
    """The stop texts."""
    given = value if isinstance(value, list) else [] if value is None else [value]
    if len(given) > MAX_STOPS:
        raise RequestFault(400, f"stop has {len(given)} texts; at most {MAX_STOPS}", "stop")
    stops = tuple(checked_text(each, "stop", MAX_STOP_CHARACTERS) for each in given)
    if not all(stops):
        raise RequestFault(400, "stop holds an empty text", "stop")
    return stops


def read_include_usage(value: Any, streamed: bool) -> bool:
    """Whether a stream ends with its usage."""
    if value is None:
        return False
    if not isinstance(value, dict):
        raise RequestFault(400, "stream_options must be an object", "stream_options")
    for key, each in without_nulls(value).items():
        if key != "include_usage" and not (key == "include_obfuscation" and each is False):
            raise RequestFault(
                400, f"stream_options: {printable(key)} is not supported", "stream_options"
            )
    include = flag(value, "include_usage")
    if include and not streamed:
        raise RequestFault(400, "stream_options.include_usage needs stream: true", "stream_options")
    return include


def refuse_unsupported(body: dict[str, Any], route: str) -> None:
    """Refuse unsupported and unknown parameters by name; neutral values are accepted."""
    unsupported = parameter_table.unsupported(route)
    for key, value in body.items():
        if key in unsupported and not is_neutral(unsupported[key], value, body):
            raise RequestFault(400, f"{key} is not supported: {unsupported[key].why}", key)
        if key in IDENTIFIERS:
            checked_text(value, key, MAX_IDENTIFIER_CHARACTERS)
    known = {key: value for key, value in body.items() if key not in unsupported}
    allow_only(known, {*parameter_table.honoured(route)})


def is_neutral(parameter: Parameter, value: Any, body: Mapping[str, Any]) -> bool:
    """Whether an unsupported parameter asks for what is done anyway."""
    if parameter.name == "best_of":  # all answers are given, so the best of as many are these
        return same(value, body.get("n", 1))
    return any(same(value, each) for each in parameter.neutral)
