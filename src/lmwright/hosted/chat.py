"""Language models behind an endpoint: completions and chats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.hosted.endpoint import Endpoint, Rejected
from lmwright.text.generation import SamplingParams

SENT = {
    *("max_new_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "stop_ids"),
}
"""Parameters that are sent in some form; stop ids are the model's own there."""

ADDRESS = re.compile(r"hosted:(?P<model>[^\s@][^\s]*?)@(?P<url>https?://.*)", re.DOTALL)
FORM = "hosted:MODEL@https://HOST/v1"
OLDER, NEWER = "max_tokens", "max_completion_tokens"
"""Names of the bound on an answer: most endpoints know the first, some only the second."""


def open_hosted(address: str, key_from: str = "") -> HostedModel:
    """The model at an address ``hosted:MODEL@https://HOST/v1``; no request is sent yet.

    ``key_from`` names the variable of the environment that holds the endpoint's key.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        raise BadInput("the address of a hosted model that is none", FORM)
    return HostedModel(found["model"], Endpoint(found["url"], key_from))


@dataclass(frozen=True)
class HostedModel:
    """A model by its endpoint's name for it; a ``Generator``."""

    model: str
    endpoint: Endpoint

    def complete(self, text: str, params: SamplingParams, seed: int = 0) -> Iterator[str]:
        """The continuation of a text, streamed."""
        return self.streamed("completions", {"prompt": text}, params, seed, completion_text)

    def reply(
        self, messages: Sequence[Mapping[str, Any]], params: SamplingParams, seed: int = 0
    ) -> Iterator[str]:
        """The answer to a conversation, streamed."""
        body = {"messages": list(messages)}
        return self.streamed("chat/completions", body, params, seed, message_text)

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams,
        seed: int = 0,
        top_logprobs: int = 0,
    ) -> dict[str, Any]:
        """The answer to a conversation, not streamed: the first of the endpoint's ``choices``.

        ``top_logprobs`` is how many alternatives to each token come with their log-probabilities.
        """
        more = {"logprobs": True, "top_logprobs": top_logprobs} if top_logprobs else {}
        body = {"messages": list(messages), **self.settings(params, seed), **more}
        try:
            found = self.endpoint.post("chat/completions", body)
        except Rejected as fault:
            if NEWER not in fault.message:
                raise
            found = self.endpoint.post("chat/completions", renamed(body))
        if not (choices := self.choices(found)):
            raise self.endpoint.fault("answers nothing", b"")
        return choices[0]

    def text(self, choice: Mapping[str, Any]) -> str:
        """The text of a choice, lone surrogates replaced."""
        text = message_text(choice)
        if not isinstance(text, str):
            raise self.endpoint.fault("answers in a shape that we do not know", b"")
        return text.encode("utf-8", "replace").decode()

    def streamed(
        self,
        path: str,
        own: Mapping[str, Any],
        params: SamplingParams,
        seed: int,
        text_of: Callable[[Mapping[str, Any]], Any],
    ) -> Iterator[str]:
        """The texts of an answer as they come; LmwrightError if it ends without a finish reason."""
        finished = False
        for event in self.events(path, {**own, **self.settings(params, seed), "stream": True}):
            for choice in self.choices(event):
                text = text_of(choice)
                if not isinstance(text, str):
                    raise self.endpoint.fault("answers in a shape that we do not know", b"")
                yield text.encode("utf-8", "replace").decode()
                finished = finished or bool(choice.get("finish_reason"))
        if not finished:
            raise self.endpoint.fault("breaks off before the answer's end", b"")

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The endpoint's events; one that refuses the older name of a setting is sent the newer.

        Nothing has been read when a request is refused, so nothing is yielded twice.
        """
        try:
            yield from self.endpoint.events(path, body)
        except Rejected as fault:
            if NEWER not in fault.message or OLDER not in body:
                raise
            yield from self.endpoint.events(path, renamed(body))

    def choices(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The choices of a response or an event, of which there may be none."""
        choices = found.get("choices", [])
        if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
            raise self.endpoint.fault("answers in a shape that we do not know", b"")
        return choices

    def settings(self, params: SamplingParams, seed: int) -> dict[str, Any]:
        """Sampling parameters by the interface's names.

        Temperature and length are always sent, all else only where it is not neutral, as an
        endpoint may refuse what it does not know. BadInput for what the interface does not have.
        """
        plain = SamplingParams(1)
        for name in (each.name for each in fields(SamplingParams) if each.name not in SENT):
            if getattr(params, name) != getattr(plain, name):
                raise BadInput(
                    f"{name} {getattr(params, name)} for a hosted model",
                    "what its interface has: temperature, top_p, seed and the number of tokens",
                    f"leave {name} out",
                )
        optional = {
            "top_p": params.top_p if params.top_p < 1 else None,
            "seed": seed if params.temperature else None,
            "presence_penalty": params.presence_penalty or None,
            "frequency_penalty": params.frequency_penalty or None,
            "logit_bias": {str(token): more for token, more in params.logit_bias} or None,
        }
        return {
            "model": self.model,
            OLDER: params.max_new_tokens,
            "temperature": params.temperature,
            **{name: value for name, value in optional.items() if value is not None},
        }


def completion_text(choice: Mapping[str, Any]) -> Any:
    """The text of a choice of a completion."""
    return choice.get("text") or ""


def message_text(choice: Mapping[str, Any]) -> Any:
    """The text of a choice of a chat, streamed or not; a refusal is an answer."""
    message = choice.get("delta") or choice.get("message") or {}
    if not isinstance(message, dict):
        return None
    return message.get("content") or message.get("refusal") or ""


def renamed(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request body with the bound on its answer under the newer name."""
    return {NEWER if name == OLDER else name: value for name, value in body.items()}
