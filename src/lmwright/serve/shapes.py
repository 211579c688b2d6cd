"""Answers in the shapes of the OpenAI interface, whole and in parts."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lmwright.serve.calls.reader import Piece
from lmwright.serve.generation import Chunk, GeneratedToken, TokenLogprob


@dataclass(frozen=True)
class Shape:
    """The JSON shape of answers: ids begin with ``prefix``, a whole answer is an ``object``, an
    event of a stream a ``part_object``.

    ``choice`` shapes a whole answer, ``part`` a chunk. ``begins``: a stream starts with the role.
    """

    prefix: str
    object: str
    part_object: str
    choice: Callable[[int, Chunk, bool], dict[str, Any]]
    part: Callable[[int, Chunk, bool], dict[str, Any]]
    begins: bool

    def parts(
        self, number: int, chunk: Chunk, with_logprobs: bool, first: bool
    ) -> list[dict[str, Any]]:
        """The choices that a stream sends for a chunk of answer ``number``, perhaps none."""
        found = []
        if first and self.begins:
            found.append(part(number, {"role": "assistant", "content": ""}))
        if chunk.shows:
            found.append(self.part(number, chunk, with_logprobs))
        if chunk.finish_reason:
            reason = finish_reason(chunk)
            found.append({**self.part(number, Chunk(""), False), "finish_reason": reason})
        return found


def chat_choice(number: int, chunk: Chunk, with_logprobs: bool) -> dict[str, Any]:
    """One answer to a conversation."""
    said = told(pieces_of(chunk))
    calls = [{key: each[key] for key in ("id", "type", "function")} for each in said.pop("calls")]
    message = {"role": "assistant", "content": None if calls else "", **said, "refusal": None}
    return {
        "index": number,
        "message": {**message, "tool_calls": calls} if calls else message,
        "logprobs": chat_logprobs(chunk) if with_logprobs else None,
        "finish_reason": finish_reason(chunk),
    }


def chat_part(number: int, chunk: Chunk, with_logprobs: bool) -> dict[str, Any]:
    """One chunk of an answer to a conversation."""
    delta = told(pieces_of(chunk))
    if calls := delta.pop("calls"):
        delta["tool_calls"] = calls
    if chunk.tokens and not delta:
        delta = {"content": ""}
    return part(number, delta, chat_logprobs(chunk) if with_logprobs else None)


def pieces_of(chunk: Chunk) -> Sequence[Piece]:
    """The pieces of a chunk."""
    if chunk.pieces is None:
        return [Piece("content", chunk.text)] if chunk.text else []
    return chunk.pieces


def told(pieces: Sequence[Piece]) -> dict[str, Any]:
    """Pieces as a message has them: content and reasoning as far as there are any, and ``calls``.

    A call whose name is among the pieces has an id, which is new.
    """
    found: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        if piece.kind in ("content", "reasoning"):
            key = "content" if piece.kind == "content" else "reasoning_content"
            found[key] = found.get(key, "") + piece.text
        elif piece.kind == "name":
            function = {"name": piece.text, "arguments": ""}
            # Nine letters and digits: Mistral's templates take no other ids.
            head = {"index": piece.call, "id": secrets.token_hex(5)[:9], "type": "function"}
            calls[piece.call] = {**head, "function": function}
        else:
            part = {"index": piece.call, "function": {"arguments": ""}}
            call = calls.setdefault(piece.call, part)
            call["function"]["arguments"] += piece.text
    return {**found, "calls": list(calls.values())}


def finish_reason(chunk: Chunk) -> str:
    """Why an answer ended, as clients are told it."""
    return "tool_calls" if chunk.called and chunk.finish_reason == "stop" else chunk.finish_reason


def part(number: int, delta: dict[str, Any], logprobs: Any = None) -> dict[str, Any]:
    """A choice of a streamed chat."""
    return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def chat_logprobs(chunk: Chunk) -> dict[str, Any]:
    """Log-probabilities as chats have them, and beside the model's own that with which a token was
    drawn: after bias, penalties, temperature and truncation."""
    content = [
        {
            **logprob_of(token.chosen),
            "top_logprobs": [logprob_of(each) for each in token.top],
            "sampled_logprob": token.drawn_logprob,
        }
        for token in chunk.tokens
    ]
    return {"content": content, "refusal": None}


def logprob_of(token: TokenLogprob) -> dict[str, Any]:
    """One token with its bytes."""
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": None if token.bytes is None else list(token.bytes),
    }


def text_choice(number: int, chunk: Chunk, with_logprobs: bool) -> dict[str, Any]:
    """One completion, or a chunk of one."""
    return {
        "index": number,
        "text": chunk.text,
        "logprobs": text_logprobs(chunk) if with_logprobs else None,
        "finish_reason": chunk.finish_reason or None,
    }


def text_logprobs(chunk: Chunk) -> dict[str, Any]:
    """Log-probabilities as completions have them: the chosen token is among the likeliest. Beside
    the model's own stands that with which a token was drawn."""
    return {
        "tokens": [token.chosen.text for token in chunk.tokens],
        "token_logprobs": [token.chosen.logprob for token in chunk.tokens],
        "sampled_token_logprobs": [token.drawn_logprob for token in chunk.tokens],
        "top_logprobs": [alternatives(token) for token in chunk.tokens],
        "text_offset": [token.offset for token in chunk.tokens],
    }


def alternatives(token: GeneratedToken) -> dict[str, float | None] | None:
    """The likeliest tokens and the chosen one, by their texts; None where nothing was before.

    Of several with one text the chosen one has it, else the likeliest; the others go by their ids.
    """
    if token.chosen.logprob is None:
        return None
    owners, found = {token.chosen.text: token.chosen.id}, dict[str, float | None]()
    for each in token.top:
        owns = owners.setdefault(each.text, each.id) == each.id
        found[each.text if owns else f"id:{each.id}"] = each.logprob
    return {**found, token.chosen.text: token.chosen.logprob}


CHAT = Shape(
    "chatcmpl", "chat.completion", "chat.completion.chunk", chat_choice, chat_part, begins=True
)
TEXT = Shape("cmpl", "text_completion", "text_completion", text_choice, text_choice, begins=False)
