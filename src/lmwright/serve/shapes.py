"""Answers in the shapes of the OpenAI interface, whole and in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lmwright.serve.written import Likely, Said, Token


@dataclass(frozen=True)
class Shape:
    """How answers are shaped: ids begin with ``prefix``, a whole answer is an ``object``, what a
    stream sends a ``part_object``.

    ``choice`` makes one answer of all that was said; ``parts`` what is sent of one saying, which
    may be nothing.
    """

    prefix: str
    object: str
    part_object: str
    choice: Callable[[int, Said, bool], dict[str, Any]]
    part: Callable[[int, Said, bool], dict[str, Any]]
    begins: bool

    def parts(self, number: int, said: Said, told: bool, first: bool) -> list[dict[str, Any]]:
        """What a stream sends when something was said of answer ``number``."""
        found = []
        if first and self.begins:
            found.append(part(number, {"role": "assistant", "content": ""}))
        if said.text or said.tokens:
            found.append(self.part(number, said, told))
        if said.finish:
            found.append({**self.part(number, Said(""), False), "finish_reason": said.finish})
        return found


def chat_choice(number: int, said: Said, told: bool) -> dict[str, Any]:
    """One answer to a conversation."""
    return {
        "index": number,
        "message": {"role": "assistant", "content": said.text, "refusal": None},
        "logprobs": chat_logprobs(said) if told else None,
        "finish_reason": said.finish,
    }


def chat_part(number: int, said: Said, told: bool) -> dict[str, Any]:
    """What was just said of it."""
    delta = {"content": said.text} if said.text or said.tokens else {}
    return part(number, delta, chat_logprobs(said) if told else None)


def part(number: int, delta: dict[str, Any], logprobs: Any = None) -> dict[str, Any]:
    """A part of an answer to a conversation."""
    return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def chat_logprobs(said: Said) -> dict[str, Any]:
    """Log-probabilities as chats have them."""
    content = [
        {**likely(token.chosen), "top_logprobs": [likely(each) for each in token.top]}
        for token in said.tokens
    ]
    return {"content": content, "refusal": None}


def likely(token: Likely) -> dict[str, Any]:
    """One token with its bytes."""
    return {
        "token": token.text,
        "logprob": token.log,
        "bytes": None if token.bytes is None else list(token.bytes),
    }


def text_choice(number: int, said: Said, told: bool) -> dict[str, Any]:
    """One completion, or what was just said of it."""
    return {
        "index": number,
        "text": said.text,
        "logprobs": text_logprobs(said) if told else None,
        "finish_reason": said.finish or None,
    }


def text_logprobs(said: Said) -> dict[str, Any]:
    """Log-probabilities as completions have them: the chosen token is among the likeliest."""
    return {
        "tokens": [token.chosen.text for token in said.tokens],
        "token_logprobs": [token.chosen.log for token in said.tokens],
        "top_logprobs": [alternatives(token) for token in said.tokens],
        "text_offset": [token.offset for token in said.tokens],
    }


def alternatives(token: Token) -> dict[str, float | None] | None:
    """The likeliest tokens and the chosen one, by their texts; None where nothing was before.

    Of several with one text the chosen one has it, else the likeliest; the others go by their ids.
    """
    if token.chosen.log is None:
        return None
    owners, found = {token.chosen.text: token.chosen.id}, dict[str, float | None]()
    for each in token.top:
        owns = owners.setdefault(each.text, each.id) == each.id
        found[each.text if owns else f"id:{each.id}"] = each.log
    return {**found, token.chosen.text: token.chosen.log}


CHAT = Shape(
    "chatcmpl", "chat.completion", "chat.completion.chunk", chat_choice, chat_part, begins=True
)
TEXT = Shape("cmpl", "text_completion", "text_completion", text_choice, text_choice, begins=False)
