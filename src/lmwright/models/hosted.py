"""A language model behind an endpoint: it goes on from prompts and answers conversations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.models.decode import Decoding
from lmwright.models.endpoint import Endpoint, Rejected

ADDRESS = re.compile(r"hosted:(?P<model>[^\s@][^\s]*?)@(?P<url>https?://.*)", re.DOTALL)
FORM = "hosted:MODEL@https://HOST/v1"
OLDER, NEWER = "max_tokens", "max_completion_tokens"
"""How the bound on an answer is called: most endpoints know the first, some only the second."""


def is_hosted(address: str) -> bool:
    """Whether an address is that of a hosted model."""
    return address.startswith("hosted:")


def hosted(address: str, key_from: str = "") -> Hosted:
    """The model at an address ``hosted:MODEL@https://HOST/v1``; nobody is asked yet.

    ``key_from`` names the variable of the environment that holds the endpoint's key.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        raise BadInput("the address of a hosted model that is none", FORM)
    return Hosted(found["model"], Endpoint(found["url"], key_from))


@dataclass(frozen=True)
class Hosted:
    """A model by the name that its endpoint knows it by."""

    model: str
    endpoint: Endpoint

    def complete(self, text: str, how: Decoding, seed: int = 0) -> Iterator[str]:
        """What follows a text, as it comes."""
        return self.streamed("completions", {"prompt": text}, how, seed, completed)

    def reply(
        self, messages: Sequence[Mapping[str, Any]], how: Decoding, seed: int = 0
    ) -> Iterator[str]:
        """The answer to a conversation, as it comes."""
        said = {"messages": list(messages)}
        return self.streamed("chat/completions", said, how, seed, replied)

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        how: Decoding,
        seed: int = 0,
        top: int = 0,
    ) -> dict[str, Any]:
        """The answer to a conversation as the endpoint gives it, whole: one of its ``choices``.

        ``top`` asks for the log-probabilities of so many alternatives to each token.
        """
        told = {"logprobs": True, "top_logprobs": top} if top else {}
        body = {"messages": list(messages), **self.settings(how, seed), **told}
        try:
            found = self.endpoint.post("chat/completions", body)
        except Rejected as fault:
            if NEWER not in fault.said:
                raise
            found = self.endpoint.post("chat/completions", renamed(body))
        if not (choices := self.choices(found)):
            raise self.endpoint.fault("answers nothing", b"")
        return choices[0]

    def text(self, choice: Mapping[str, Any]) -> str:
        """The text of such an answer, without halves of characters."""
        text = replied(choice)
        if not isinstance(text, str):
            raise self.endpoint.fault("answers in a shape that we do not know", b"")
        return text.encode("utf-8", "replace").decode()

    def streamed(
        self,
        path: str,
        said: Mapping[str, Any],
        how: Decoding,
        seed: int,
        text_of: Callable[[Mapping[str, Any]], Any],
    ) -> Iterator[str]:
        """The pieces of an answer; LmwrightError if it ends before the endpoint says so."""
        finished = False
        for event in self.events(path, {**said, **self.settings(how, seed), "stream": True}):
            for choice in self.choices(event):
                text = text_of(choice)
                if not isinstance(text, str):
                    raise self.endpoint.fault("answers in a shape that we do not know", b"")
                yield text.encode("utf-8", "replace").decode()
                finished = finished or bool(choice.get("finish_reason"))
        if not finished:
            raise self.endpoint.fault("breaks off before the answer's end", b"")

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the endpoint sends; one that refuses the older name of a setting is given the newer.

        Nothing has been read when a request is refused, so nothing is said twice.
        """
        try:
            yield from self.endpoint.events(path, body)
        except Rejected as fault:
            if NEWER not in fault.said or OLDER not in body:
                raise
            yield from self.endpoint.events(path, renamed(body))

    def choices(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The answers in what was sent, of which there may be none."""
        choices = found.get("choices", [])
        if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
            raise self.endpoint.fault("answers in a shape that we do not know", b"")
        return choices

    def settings(self, how: Decoding, seed: int) -> dict[str, Any]:
        """How tokens are to be chosen, in the interface's words.

        Temperature and length are always said, all else only where it is not at rest, as an
        endpoint may refuse what it does not know. BadInput for what the interface has no word for.
        """
        for name in ("top_k", "beams"):
            if getattr(how, name) > (name == "beams"):
                raise BadInput(
                    f"{name} {getattr(how, name)} for a hosted model",
                    "what its interface knows: temperature, top_p, seed and the number of tokens",
                    f"leave {name} out",
                )
        wishes = {
            "top_p": how.top_p if how.top_p < 1 else None,
            "seed": seed if how.temperature else None,
            "presence_penalty": how.presence or None,
            "frequency_penalty": how.frequency or None,
            "logit_bias": {str(token): more for token, more in how.bias} or None,
        }
        said = {name: value for name, value in wishes.items() if value is not None}
        return {"model": self.model, OLDER: how.most, "temperature": how.temperature, **said}


def completed(choice: Mapping[str, Any]) -> Any:
    """The text in a piece of a completion."""
    return choice.get("text") or ""


def replied(choice: Mapping[str, Any]) -> Any:
    """The text in a piece of an answer, or in one that is given whole; a refusal is an answer."""
    said = choice.get("delta") or choice.get("message") or {}
    if not isinstance(said, dict):
        return None
    return said.get("content") or said.get("refusal") or ""


def renamed(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request with the bound on its answer under the newer name."""
    return {NEWER if name == OLDER else name: value for name, value in body.items()}
