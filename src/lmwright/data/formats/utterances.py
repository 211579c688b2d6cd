"""Conversations of utterances as rows of ``messages``, as the Chit-Chat Challenge has them.

``{id: {"messages": [[{"text", "sender"}]]}}``: a turn is a list of what one person wrote, line
after line. Who speaks first is the user, the other one the assistant.
"""

from __future__ import annotations

from typing import Any


def is_utterances(value: dict[str, Any]) -> bool:
    """True for a JSON object that holds such conversations, by its first one."""
    first = next(iter(value.values()))
    turns = first.get("messages") if isinstance(first, dict) else None
    return isinstance(turns, list) and bool(turns) and is_turn(turns[0])


def is_turn(turn: Any) -> bool:
    """True for a list of utterances with text and sender."""
    return (
        isinstance(turn, list)
        and bool(turn)
        and all(isinstance(each, dict) and {"text", "sender"} <= set(each) for each in turn)
    )


def utterance_rows(value: dict[str, Any]) -> list[Any]:
    """Every conversation as a row: its ``conversation_id``, what else it has, and ``messages``.

    A conversation of other turns, or of more than two people, stands as it is, so that it is found
    to be a faulty row.
    """
    return [row_of(name, conversation) for name, conversation in value.items()]


def row_of(name: str, conversation: Any) -> Any:
    """One conversation; the utterances of a turn are lines of one message, those without a
    character that shows are left out, and turns that follow one of the same person join it."""
    turns = conversation.get("messages") if isinstance(conversation, dict) else None
    if not isinstance(turns, list) or not all(map(is_turn, turns)):
        return conversation
    people: list[Any] = []
    messages: list[dict[str, str]] = []
    for each in (each for turn in turns for each in turn):
        text, sender = each["text"], each["sender"]
        if not isinstance(text, str) or not isinstance(sender, str):
            return conversation
        if not text.strip():
            continue
        people += [sender] if sender not in people else []
        if len(people) > 2:
            return conversation
        role = ("user", "assistant")[people.index(sender)]
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n{text}"
        else:
            messages.append({"role": role, "content": text})
    return {**conversation, "conversation_id": name, "messages": messages}
