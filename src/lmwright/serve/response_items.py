"""The items of a response as its answer comes, and the events that tell of them.

The whole response and its stream are made of the same items, so they cannot differ.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from lmwright.serve.calls.reader import Piece

Event = tuple[str, dict[str, Any]]
"""The kind of an event, without the ``response.`` that it begins with, and its fields."""


class Items:
    """The items of one answer: messages and calls in their order, reasoning behind them.

    Of the last one more may come; the others are whole. Their ids end with ``name``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.output: list[dict[str, Any]] = []
        self.open = False
        self.reasoning = ""

    def push(self, piece: Piece) -> list[Event]:
        """Go on by a piece; its events."""
        return list(self.take(piece))

    def finish(self, status: str) -> list[Event]:
        """End with the status of the whole answer, which has at least one item; the events."""
        return list(self.end(status))

    def take(self, piece: Piece) -> Iterator[Event]:
        """Go on by a piece."""
        if piece.kind == "reasoning":
            self.reasoning += piece.text
        elif piece.kind == "name":
            yield from self.close("completed")
            yield from self.begin_call(piece.text)
        elif piece.kind == "arguments":
            self.output[-1]["arguments"] += piece.text
            yield "function_call_arguments.delta", {**self.place(), "delta": piece.text}
        else:
            yield from self.say(piece.text)

    def end(self, status: str) -> Iterator[Event]:
        """End the last item, and tell the reasoning."""
        if not self.output:
            yield from self.begin_message()
        yield from self.close(status)
        if self.reasoning:
            content = [{"type": "reasoning_text", "text": self.reasoning}]
            yield from self.begin("rs", {"type": "reasoning", "summary": [], "content": content})
            yield "output_item.done", self.told()

    def say(self, text: str) -> Iterator[Event]:
        """Go on with a message."""
        if not self.open or self.output[-1]["type"] != "message":
            yield from self.close("completed")
            yield from self.begin_message()
        self.output[-1]["content"][0]["text"] += text
        yield "output_text.delta", {**self.part_place(), "delta": text, "logprobs": []}

    def begin_message(self) -> Iterator[Event]:
        """Begin a message, of one part."""
        head = {"type": "message", "status": "in_progress", "role": "assistant"}
        yield from self.begin("msg", {**head, "content": []})
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.output[-1]["content"] = [part]
        yield "content_part.added", {**self.part_place(), "part": dict(part)}

    def begin_call(self, function: str) -> Iterator[Event]:
        """Begin a call of a function, with an id that is new."""
        call = secrets.token_hex(5)[:9]  # Mistral's templates take no other ids
        head = {"type": "function_call", "status": "in_progress", "call_id": call}
        yield from self.begin("fc", {**head, "name": function, "arguments": ""})

    def begin(self, kind: str, item: dict[str, Any]) -> Iterator[Event]:
        """Begin an item."""
        self.open = True
        self.output.append({"id": f"{kind}{self.name}-{len(self.output)}", **item})
        yield "output_item.added", self.told()

    def close(self, status: str) -> Iterator[Event]:
        """End the item under way, if there is one."""
        if not self.open:
            return
        self.open, item = False, self.output[-1]
        item["status"] = status
        if item["type"] == "message":
            (part,) = item["content"]
            text = {"text": part["text"], "logprobs": []}
            yield "output_text.done", {**self.part_place(), **text}
            yield "content_part.done", {**self.part_place(), "part": dict(part)}
        else:
            called = {"name": item["name"], "arguments": item["arguments"]}
            yield "function_call_arguments.done", {**self.place(), **called}
        yield "output_item.done", self.told()

    def told(self) -> dict[str, Any]:
        """The last item as an event has it, and its place."""
        return {"output_index": len(self.output) - 1, "item": dict(self.output[-1])}

    def place(self) -> dict[str, Any]:
        """The place of the last item."""
        return {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1}

    def part_place(self) -> dict[str, Any]:
        """The place of a message's part."""
        return {**self.place(), "content_index": 0}
