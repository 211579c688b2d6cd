"""Chat templates: conversations rendered as text and ids, with a mask of the assistant's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.reading import FETCH_AGAIN
from lmwright.text.formats.layout import read_text
from lmwright.text.formats.sidecars import settings_beside
from lmwright.text.special_tokens import SpecialTokenMarks
from lmwright.text.template import SandboxedTemplate
from lmwright.text.tokenizer import Tokenizer

Message = Mapping[str, Any]
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
OWN = {"messages", "tools", "add_generation_prompt", "strftime_now", "raise_exception"}
"""Variables of a template that no caller gives as an extra."""
DEVELOPER = re.compile(r"(['\"])developer\1")
"""The role as a template's code spells it; text that is printed has no quotes round it."""
TURN_ENDS = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "</s>"}
"""Special tokens with which published models end an answer."""
TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True)
class Part:
    """A stretch of rendered text: a special token of the template's, or text whatever it spells.

    ``generated`` marks the assistant's text, where the template tells (generation tags).
    """

    text: str
    special: bool = False
    generated: bool = False


class ChatTemplate:
    """A model's chat template.

    ``special`` are the texts that the template knows by name (``bos_token``: ``<s>``);
    ``control`` are all tokens that a typed text must never become.
    """

    def __init__(
        self, source: str, special: Mapping[str, str] | None = None, control: Iterable[str] = ()
    ) -> None:
        self.source = source
        self.special = dict(special or {})
        self.control = frozenset(control) | frozenset(self.special.values())
        self.sandbox = SandboxedTemplate(source)
        self.knows_developers = bool(DEVELOPER.search(source))
        self.ends = TURN_ENDS | (
            {self.special["eos_token"]} if "eos_token" in self.special else set()
        )

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        now: datetime | None = None,
        **allowed: Any,
    ) -> list[Part]:
        """The conversation as the model sees it, in parts; their texts joined are the whole.

        A developer's message is given as the system's to a template that does not know developers:
        it would leave it out, or name a role that its model never saw.
        ``allowed`` are extras that the template reads, ``enable_thinking`` say. BadInput for
        messages that are none, an extra that the template does not read, or a template that
        refuses the conversation or takes too much time, memory or room.
        """
        check_messages(messages)
        self.check_extras(allowed)
        marks = SpecialTokenMarks(self.control)
        given = {
            "messages": [self.known(message) for message in messages],
            "tools": list(tools) if tools else None,
            **allowed,
        }
        variables = {name: marks.value(each) for name, each in given.items()}
        text = self.sandbox.render(
            {**self.special, **variables, "add_generation_prompt": add_generation_prompt},
            (marks.begun, marks.ended),
            now,
        )
        return [Part(*each) for each in marks.parts(text)]

    def known(self, message: Message) -> Message:
        """A message in a role that the template knows."""
        if message["role"] == "developer" and not self.knows_developers:
            return {**message, "role": "system"}
        return message

    def text(self, messages: Sequence[Message], **settings: Any) -> str:
        """The conversation as one text."""
        return text_of(self.render(messages, **settings))

    def ids(self, tokenizer: Tokenizer, messages: Sequence[Message], **settings: Any) -> np.ndarray:
        """The ids (int32) of the conversation: a prompt, with ``add_generation_prompt``."""
        return encode_parts(tokenizer, self.render(messages, **settings))[0]

    def encode(
        self, tokenizer: Tokenizer, messages: Sequence[Message], **settings: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids (int32) of the conversation and a mask (bool) of the assistant's.

        That is each answer and the token that ends it. BadInput if the template renders the
        beginning of a conversation otherwise once it goes on, and has no generation tags.
        """
        parts = self.render(messages, **settings)
        if "endgeneration" not in self.source:
            parts = self.marked(parts, messages, settings)
        return encode_parts(tokenizer, parts)

    def marked(
        self, whole: list[Part], messages: Sequence[Message], settings: Mapping[str, Any]
    ) -> list[Part]:
        """The parts with the assistant's marked: the text after the prompt of each answer."""
        spans = []
        plain = {**settings, "add_generation_prompt": False}
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked = self.render(messages[:place], **{**settings, "add_generation_prompt": True})
            answered = self.render(messages[: place + 1], **plain)
            first = character_count(asked)
            last = self.end_of_turn(answered, first)
            if not begins(answered, asked, first) or not begins(whole, answered, last):
                raise BadInput(
                    f"the template renders what comes before message {place} otherwise than "
                    "when the conversation ended there",
                    "a template that tells what the assistant wrote",
                    "put {% generation %} and {% endgeneration %} round it in the template",
                )
            spans.append((first, last))
        return with_spans(whole, spans)

    def end_of_turn(self, parts: Sequence[Part], first: int) -> int:
        """The place after the first token from ``first`` on that ends a turn, or the text's end."""
        place = 0
        for part in parts:
            place += len(part.text)
            if place > first and part.special and part.text in self.ends:
                return place
        return place

    def check_extras(self, allowed: Mapping[str, Any]) -> None:
        """BadInput for an extra that the template does not read, or that is not a caller's."""
        possible = self.sandbox.reads - OWN - set(self.special)
        for name in allowed:
            if name not in possible:
                raise BadInput(
                    f"the chat template reads no {name!r}",
                    "an extra that it reads",
                    nearest(name, possible) if possible else "leave it out",
                )

    def close(self) -> None:
        """End the process that renders."""
        self.sandbox.close()


def read_chat_template(folder: Path, tokenizer: Tokenizer, name: str = "default") -> ChatTemplate:
    """The template of a model's folder: chat_template.jinja, else that in tokenizer_config.json.

    ``name`` chooses among several. BadInput if there is none.
    """
    control = tokenizer.control
    if (folder / TEMPLATE_FILE).is_file():
        source: Any = read_text(folder / TEMPLATE_FILE)
    else:
        source = settings_beside(folder).get("chat_template")
    if isinstance(source, list):
        try:
            named = {each["name"]: each["template"] for each in source}
        except (KeyError, TypeError):
            raise Corrupt(
                f"{folder}: a chat template without name or text", "both", FETCH_AGAIN
            ) from None
        if name not in named:
            raise BadInput(f"{folder} has no chat template {name!r}", "one", nearest(name, named))
        source = named[name]
    if not isinstance(source, str):
        raise BadInput(
            f"{folder} has no chat template",
            f"{TEMPLATE_FILE}, or chat_template in tokenizer_config.json",
            "give the name of a built-in one: chatml, llama3, gemma, mistral or zephyr",
        )
    return ChatTemplate(source, tokenizer.special_text(), control)


def text_of(parts: Iterable[Part]) -> str:
    """The parts' texts joined."""
    return "".join(part.text for part in parts)


def encode_parts(tokenizer: Tokenizer, parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """The ids (int32) of some parts, and which of them (bool) begin in generated text.

    A special token of the template's that the tokenizer does not have is text.
    """
    pairs = [(part.text, part.special and part.text in tokenizer.control) for part in parts]
    ids, places = tokenizer.ids_of_parts(pairs)
    generated = np.array([part.generated for part in parts], dtype=bool)
    return ids, generated[places] if len(parts) else np.zeros(0, dtype=bool)


def check_messages(messages: Sequence[Message]) -> None:
    """BadInput unless these are messages with a known role and content of a known kind."""
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence) or not messages:
        raise BadInput("there are no messages", "a list of at least one message")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise BadInput(f"message {place} is no object", "role and content")
        role = message.get("role")
        if role not in ROLES:
            raise BadInput(
                f"message {place} has role {role!r}", "a known role", nearest(str(role), ROLES)
            )
        if not isinstance(message.get("content"), str | list | None):
            kind = type(message["content"]).__name__
            raise BadInput(f"message {place} has a {kind} for content", "a text")


def character_count(parts: Iterable[Part]) -> int:
    """The number of characters of some parts."""
    return sum(len(part.text) for part in parts)


def begins(whole: Sequence[Part], start: Sequence[Part], length: int) -> bool:
    """Whether ``whole`` begins with the first ``length`` characters of ``start``."""
    return first_of(whole, length) == first_of(start, length)


def first_of(parts: Sequence[Part], length: int) -> list[tuple[str, bool]]:
    """The first characters of some parts, text joined where it touches, tokens apart."""
    found: list[tuple[str, bool]] = []
    for part in parts:
        if length <= 0:
            break
        text = part.text[:length]
        length -= len(text)
        if found and not part.special and not found[-1][1]:
            text = found.pop()[0] + text
        found.append((text, part.special))
    return found if length <= 0 else [*found, ("", True)]


def with_spans(parts: Sequence[Part], spans: Sequence[tuple[int, int]]) -> list[Part]:
    """The parts cut at the edges of the spans of characters, those within marked as generated."""
    edges = sorted({edge for span in spans for edge in span})
    found = []
    place = 0
    for part in parts:
        end = place + len(part.text)
        cuts = [place, *(edge for edge in edges if place < edge < end), end]
        for first, last in pairwise(cuts):
            generated = any(start <= first and last <= stop for start, stop in spans)
            text = part.text[first - place : last - place]
            found.append(replace(part, text=text, generated=generated))
        place = end
    return found
