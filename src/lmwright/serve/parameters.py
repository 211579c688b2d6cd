"""Requests for text, read strictly: what is asked for is honoured, or refused by its name."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmwright.core.errors import BadInput
from lmwright.models.decode import Decoding
from lmwright.models.language import LanguageModel
from lmwright.serve.request import RequestFault, allow_only, checked_text, printable
from lmwright.serve.settings import Serve
from lmwright.serve.written import Wish

COMMON = {
    "model", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "stream",
    "stream_options", "logprobs", "presence_penalty", "frequency_penalty", "logit_bias",
}  # fmt: skip
CHAT = COMMON | {"messages", "max_completion_tokens", "top_logprobs", "chat_template_kwargs"}
TEXT = COMMON | {"prompt", "echo", "src_lang", "tgt_lang"}
ELSEWHERE = {
    "audio", "best_of", "chat_template", "function_call", "functions", "metadata", "modalities",
    "moderation", "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_retention",
    "reasoning_effort", "response_format", "safety_identifier", "service_tier", "store", "suffix",
    "tool_choice", "tools", "user", "verbosity", "web_search_options",
}  # fmt: skip
"""Parameters of the interface, and of others that speak it, which are not honoured here."""

ROLES = ("system", "developer", "user", "assistant")
MOST_MESSAGES = 1000
MOST_CHOICES = 16
MOST_STOPS = 16
MOST_STOP_CHARACTERS = 256
MOST_LANGUAGE_CHARACTERS = 64
MOST_ALTERNATIVES = 20
MOST_BIASES = 1024
MOST_BIAS = 100
TOKEN_ID = re.compile(r"[0-9]{1,9}")
SHORT = 16
"""Tokens of a completion that does not say how many it wants."""
NOT_THE_CALLERS = {"now", "self", "tokenizer"}


@dataclass(frozen=True)
class Asked:
    """A request that has been checked as far as it can be without the model.

    Of ``prompts`` (texts or ids) and ``messages`` one is empty. ``most`` is how many tokens an
    answer may have; where it is None, ``usual`` many or what there is room for. ``top`` as in
    :class:`Wish`. ``languages`` are those of a translator's prompts and answers, each empty
    where the model's files say it.
    """

    model: str | None
    prompts: tuple[str | np.ndarray, ...]
    messages: tuple[Mapping[str, str], ...]
    extras: Mapping[str, Any]
    most: int | None
    usual: int
    temperature: float
    top_p: float
    presence: float
    frequency: float
    bias: tuple[tuple[int, float], ...]
    n: int
    seed: int
    stops: tuple[str, ...]
    stream: bool
    usage: bool
    top: int | None
    echo: bool = False
    languages: tuple[str, str] = ("", "")


def read_chat(body: dict[str, Any], settings: Serve) -> Asked:
    """A request to ``/v1/chat/completions``."""
    refuse_others(body, CHAT)
    most = whole(body, "max_completion_tokens", None, 1, settings.max_tokens)
    older = whole(body, "max_tokens", None, 1, settings.max_tokens)
    if None not in (most, older) and most != older:
        raise RequestFault(400, "max_tokens and max_completion_tokens differ", "max_tokens")
    told = flag(body, "logprobs")
    top = whole(body, "top_logprobs", None, 0, MOST_ALTERNATIVES)
    if top is not None and not told:
        raise RequestFault(400, "top_logprobs needs logprobs: true", "top_logprobs")
    extras = body.get("chat_template_kwargs")
    if not isinstance(extras, dict | None):
        raise RequestFault(400, "chat_template_kwargs must be an object", "chat_template_kwargs")
    return Asked(
        prompts=(),
        messages=messages_of(body.get("messages"), settings.max_characters),
        extras=extras or {},
        most=older if most is None else most,
        usual=settings.max_tokens,
        top=(top or 0) if told else None,
        **common(body),
    )


def read_text(body: dict[str, Any], settings: Serve) -> Asked:
    """A request to ``/v1/completions``."""
    refuse_others(body, TEXT)
    asked = Asked(
        prompts=prompts_of(body.get("prompt"), settings),
        messages=(),
        extras={},
        most=whole(body, "max_tokens", None, 1, settings.max_tokens),
        usual=min(SHORT, settings.max_tokens),
        top=whole(body, "logprobs", None, 0, MOST_ALTERNATIVES),
        echo=flag(body, "echo"),
        languages=(language_of(body, "src_lang"), language_of(body, "tgt_lang")),
        **common(body),
    )
    if len(asked.prompts) * asked.n > settings.max_texts:
        raise RequestFault(400, f"more than {settings.max_texts} answers in one request", "n")
    return asked


def common(body: dict[str, Any]) -> dict[str, Any]:
    """What both kinds of request may hold."""
    temperature = number(body, "temperature", 1.0, 0.0, 2.0)
    if 0 < temperature < 1e-6:  # logits divided by it might be no numbers
        raise RequestFault(400, "temperature must be 0, or at least 0.000001", "temperature")
    top_p = number(body, "top_p", 1.0, 0.0, 1.0)
    if top_p == 0:
        raise RequestFault(400, "top_p must be above 0", "top_p")
    seed = whole(body, "seed", None, -(1 << 63), (1 << 63) - 1)
    model = body.get("model")
    streamed = flag(body, "stream")
    return {
        "model": None if model is None else checked_text(model, "model", 256),
        "temperature": temperature,
        "top_p": top_p,
        "presence": number(body, "presence_penalty", 0.0, -2.0, 2.0),
        "frequency": number(body, "frequency_penalty", 0.0, -2.0, 2.0),
        "bias": bias_of(body.get("logit_bias")),
        "n": whole(body, "n", 1, 1, MOST_CHOICES),
        "seed": secrets.randbits(63) if seed is None else seed,
        "stops": stops_of(body.get("stop")),
        "stream": streamed,
        "usage": wants_usage(body.get("stream_options"), streamed),
    }


def wishes(asked: Asked, model: LanguageModel) -> list[Wish]:
    """The answers that a request wants, n to each prompt; RequestFault where the model refuses."""
    model = translator(asked.languages, model)
    for token, _ in asked.bias:
        try:
            model.tokenizer.token(token)
        except BadInput as fault:
            raise RequestFault(400, in_words(fault), "logit_bias") from None
    given: Sequence[str | np.ndarray | None] = asked.prompts or (None,)
    found: list[Wish] = []
    for prompt in given:
        param = "messages" if prompt is None else "prompt"
        try:
            ids = ids_of(prompt, asked, model)
            room = model.room(ids)
        except BadInput as fault:
            raise RequestFault(400, in_words(fault), param) from None
        if asked.top is not None and asked.echo and model.start is not None:
            raise RequestFault(400, "this model gives no logprobs of its prompt", "logprobs")
        decoding = decoding_of(asked, model, len(ids), room)
        echo = None
        if asked.echo:
            echo = prompt if isinstance(prompt, str) else model.tokenizer.decode(ids.tolist())
        for _ in range(asked.n):
            found.append(Wish(ids, decoding, asked.seed, len(found), asked.stops, asked.top, echo))
    return found


def translator(languages: tuple[str, str], model: LanguageModel) -> LanguageModel:
    """The model, as what translates between these languages."""
    source, target = languages
    for param, pair in (("src_lang", (source, "")), ("tgt_lang", ("", target))):
        try:
            model = model.between(*pair)
        except BadInput as fault:
            raise RequestFault(400, in_words(fault), param) from None
    return model


def ids_of(prompt: str | np.ndarray | None, asked: Asked, model: LanguageModel) -> np.ndarray:
    """The ids of one prompt, or of the conversation."""
    if isinstance(prompt, str):
        return model.prompt(prompt)
    if prompt is not None:
        if model.longest is not None:
            model.room(prompt)  # before each id is looked up
        for each in set(prompt.tolist()):
            model.tokenizer.token(each)
        return prompt
    if model.template is None:
        return model.chat(asked.messages)
    model.template.check_extras(asked.extras)
    for name in NOT_THE_CALLERS & asked.extras.keys():
        raise BadInput(f"{name!r} is not the caller's to give", "an extra of the template")
    return model.chat(asked.messages, **asked.extras)


def decoding_of(asked: Asked, model: LanguageModel, used: int, room: int) -> Decoding:
    """How tokens are chosen; RequestFault for an answer that is longer than the room for it."""
    if asked.most is not None and asked.most > room:
        raise RequestFault(
            400,
            f"{used} tokens of prompt leave room for {room}, not for {asked.most}",
            "max_tokens",
        )
    return Decoding(
        most=min(room, asked.usual) if asked.most is None else asked.most,
        temperature=asked.temperature,
        top_p=asked.top_p,
        ends=model.ends,
        bias=asked.bias,
        presence=asked.presence,
        frequency=asked.frequency,
        first=model.first,
    )


def messages_of(value: Any, most: int) -> tuple[Mapping[str, str], ...]:
    """Messages of a known role, each with a text."""
    if not isinstance(value, list) or not value:
        raise RequestFault(400, "messages must be a list of at least one message", "messages")
    if len(value) > MOST_MESSAGES:
        raise RequestFault(
            413, f"messages has {len(value)} entries; at most {MOST_MESSAGES}", "messages"
        )
    found = []
    for place, message in enumerate(value):
        name = f"messages[{place}]"
        if not isinstance(message, dict):
            raise RequestFault(400, f"{name} must be an object", "messages")
        for key in message:
            if key not in ("role", "content"):
                raise RequestFault(400, f"{name}: {printable(key)} is not supported", "messages")
        if message.get("role") not in ROLES:
            raise RequestFault(400, f"{name}.role must be one of {', '.join(ROLES)}", "messages")
        content = content_of(message.get("content"), f"{name}.content", most)
        found.append({"role": message["role"], "content": content})
        most -= len(content)
    return tuple(found)


def content_of(value: Any, name: str, most: int) -> str:
    """A message's text, or its parts' texts, a line each."""
    if not isinstance(value, list):
        return checked_text(value, name, most)
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or part["type"] != "text":
            raise RequestFault(400, f"{name} may hold parts of type text only", "messages")
        texts.append(checked_text(part["text"], name, most))
    if not texts:
        raise RequestFault(400, f"{name} is an empty list", "messages")
    return checked_text("\n".join(texts), name, most)


def prompts_of(value: Any, settings: Serve) -> tuple[str | np.ndarray, ...]:
    """A text, texts, ids or lists of ids."""
    if isinstance(value, str) or is_ids(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise RequestFault(400, "prompt must be a text, a list of texts, or token ids", "prompt")
    if len(value) > settings.max_texts:
        raise RequestFault(
            413, f"prompt has {len(value)} entries; at most {settings.max_texts}", "prompt"
        )
    most, found = settings.max_characters, list[str | np.ndarray]()
    for each in value:
        if is_ids(each):
            if len(each) > most or not all(0 <= number < 1 << 31 for number in each):
                raise RequestFault(400, "prompt: too many ids, or some that no token has", "prompt")
            found.append(np.array(each, dtype=np.int32))
        else:
            found.append(checked_text(each, "prompt", most))
        most -= len(each)
    return tuple(found)


def is_ids(value: Any) -> bool:
    """Whether this is a list of whole numbers, at least one."""
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)


def bias_of(value: Any) -> tuple[tuple[int, float], ...]:
    """Ids, and what is added to their logits."""
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > MOST_BIASES:
        raise RequestFault(
            400, f"logit_bias must be an object of at most {MOST_BIASES} ids", "logit_bias"
        )
    found: dict[int, float] = {}
    for key, more in value.items():
        if not TOKEN_ID.fullmatch(key) or int(key) in found:
            raise RequestFault(400, "logit_bias: a key is no id, or twice there", "logit_bias")
        if type(more) not in (int, float) or not -MOST_BIAS <= more <= MOST_BIAS:
            raise RequestFault(
                400, f"logit_bias: numbers from {-MOST_BIAS} to {MOST_BIAS}", "logit_bias"
            )
        found[int(key)] = float(more)
    return tuple(found.items())


def language_of(body: Mapping[str, Any], name: str) -> str:
    """How a language is named; empty where it is absent or null."""
    value = body.get(name)
    return "" if value is None else checked_text(value, name, MOST_LANGUAGE_CHARACTERS)


def stops_of(value: Any) -> tuple[str, ...]:
    """The texts before which an answer ends."""
    given = value if isinstance(value, list) else [] if value is None else [value]
    if len(given) > MOST_STOPS:
        raise RequestFault(400, f"stop has {len(given)} texts; at most {MOST_STOPS}", "stop")
    stops = tuple(checked_text(each, "stop", MOST_STOP_CHARACTERS) for each in given)
    if not all(stops):
        raise RequestFault(400, "stop holds an empty text", "stop")
    return stops


def wants_usage(value: Any, streamed: bool) -> bool:
    """Whether a stream is to end with what it took."""
    if value is None:
        return False
    if not isinstance(value, dict) or not streamed:
        raise RequestFault(
            400, "stream_options is an object, and needs stream: true", "stream_options"
        )
    for key in value:
        if key != "include_usage":
            raise RequestFault(
                400, f"stream_options: {printable(key)} is not supported", "stream_options"
            )
    return flag(value, "include_usage")


def refuse_others(body: dict[str, Any], allowed: set[str]) -> None:
    """Refuse by name what would otherwise be ignored."""
    for key in body:
        if key in ELSEWHERE:
            raise RequestFault(400, f"{key} is not supported", key)
    allow_only(body, allowed)


def whole(body: Mapping[str, Any], name: str, default: Any, least: int, most: int) -> Any:
    """A whole number of the body, or the default where it is absent or null."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise RequestFault(400, f"{name} must be a whole number from {least} to {most}", name)
    return value


def number(body: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    """A number of the body, or the default where it is absent or null."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not least <= value <= most:
        raise RequestFault(400, f"{name} must be a number from {least:g} to {most:g}", name)
    return float(value)


def flag(body: Mapping[str, Any], name: str) -> bool:
    """Whether something is asked for."""
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise RequestFault(400, f"{name} must be true or false", name)
    return bool(value)


def in_words(fault: BadInput) -> str:
    """A fault as one short line; it may quote what a client or a template wrote."""
    line = "".join(each if each.isprintable() else " " for each in str(fault))
    return line[:400]
