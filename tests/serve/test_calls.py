"""Calls and reasoning told apart in texts, in whatever pieces these come."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmwright.serve.calls.reader import CallReader, ContentReader, Piece, Reader
from lmwright.serve.calls.table import SYNTAXES, syntax_of
from lmwright.serve.reasoning import ReasoningReader
from tests.serve.tool_templates import SILENT, TEMPLATES

NAMES = ("f", "get_weather")
CALL = '{"name": "f", "arguments": {"a": "}</tool_call>\\""}}'
LLAMA_CALL = '{"name": "f", "parameters": {"a": [1, {"b": 2}]}}'
CASES: dict[str, list[tuple[str, str, list[tuple[str, str]]]]] = {
    "hermes": [
        ("Hello there. ", "Hello there. ", []),
        ("", "", []),
        (" \n", " \n", []),
        (f"<tool_call>\n{CALL}\n</tool_call>", "", [("f", '{"a": "}</tool_call>\\""}')]),
        (
            f"Well,\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>"
            '{"name":"g","arguments":{}}</tool_call>\n done ',
            "Well,done ",
            [("f", '{"a": "}</tool_call>\\""}'), ("g", "{}")],
        ),
        ("a <tool_call b", "a <tool_call b", []),
        ("<tool_call>\n nothing </tool_call> x", "<tool_call>\n nothing </tool_call> x", []),
        ('<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>', "", [("f", '{"x": 1}')]),
        ('<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "f", "arguments": {broken</tool_call>', "", [("f", "{broken")]),
        ('<tool_call>{"name": "f", "arguments": all of it}</tool_call>', "", [("f", "all of it")]),
        ('<tool_call>{"name": "f", "arguments": 12}</tool_call>!', "!", [("f", "12")]),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "", [("f", '"{}"')]),
        ('<tool_call>{"name": "f", "arguments": {"a": "b', "", [("f", '{"a": "b')]),
        ('<tool_call>{"name": "f", "arguments": [1, 2<', "", [("f", "[1, 2<")]),
        ('Yes.\n<tool_call>{"na', "Yes.", []),
        ('<tool_call>{"type": "function", "name": "f", "parameters": {}}', "", [("f", "{}")]),
    ],
    "mistral": [
        ("Hello", "Hello", []),
        (f"[TOOL_CALLS][{CALL}]", "", [("f", '{"a": "}</tool_call>\\""}')]),
        (
            '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "123456789"}, '
            '{"name": "g", "arguments": {}}]',
            "",
            [("f", '{"a": 1}'), ("g", "{}")],
        ),
        ('[TOOL_CALLS]{"name": "f", "arguments": {"a": [', "", [("f", '{"a": [')]),
        ("[TOOL_CALLS] none", "[TOOL_CALLS] none", []),
        ("a [TOOL", "a [TOOL", []),
    ],
    "mistral-named": [
        ("[TOOL_CALLS]f[ARGS]{}", "", [("f", "{}")]),
        (
            'So: [TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]123456789[ARGS]{"b": 2}',
            "So:",
            [("f", '{"a": 1}'), ("g", '{"b": 2}')],
        ),
        ("[TOOL_CALLS]" + "x" * 300, "[TOOL_CALLS]" + "x" * 300, []),
        ("[TOOL_CALLS]f[ARGS]broken", "", [("f", "broken")]),
    ],
    "llama": [
        (LLAMA_CALL, "", [("f", '{"a": [1, {"b": 2}]}')]),
        (f" <|python_tag|>{LLAMA_CALL}; {LLAMA_CALL}", "", [("f", '{"a": [1, {"b": 2}]}')] * 2),
        (f"{LLAMA_CALL} and more", "and more", [("f", '{"a": [1, {"b": 2}]}')]),
        ('{"name": "Ann", "age": 5}', '{"name": "Ann", "age": 5}', []),
        ('{"a": 1}', '{"a": 1}', []),
        ('{"name": "f"', "", [("f", "")]),
        ('{"na', '{"na', []),
        (f"See {LLAMA_CALL}", f"See {LLAMA_CALL}", []),
        ("  spaced ", "  spaced ", []),
        ('{"type": "function", "name": "f", "parameters": {}}', "", [("f", "{}")]),
    ],
}


def reader_of(syntax: str, several: bool = True) -> CallReader:
    return CallReader(SYNTAXES[syntax], NAMES, several)


def read(reader: Reader, texts: Iterable[str]) -> tuple[str, str, list[tuple[str, str]]]:
    """Reasoning, content, and calls of an answer that comes in these texts."""
    pieces: list[Piece] = []
    for text in texts:
        if not reader.ended:
            pieces += reader.push(text)
    pieces += reader.finish()
    calls: list[list[str]] = []
    for piece in pieces:
        if piece.kind == "name":
            assert piece.call == len(calls)
            calls.append([piece.text, ""])
        elif piece.kind == "arguments":
            assert piece.call == len(calls) - 1
            calls[-1][1] += piece.text
    assert reader.called == bool(calls)
    said = {
        kind: "".join(piece.text for piece in pieces if piece.kind == kind)
        for kind in ("reasoning", "content")
    }
    return said["reasoning"], said["content"], [(name, given) for name, given in calls]


ALL = [(syntax, *case) for syntax, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(("syntax", "text", "content", "calls"), ALL)
def test_calls_are_told_apart_from_content(
    syntax: str, text: str, content: str, calls: list[Any]
) -> None:
    for size in (1, 2, 3, 7, len(text) or 1):
        texts = [text[at : at + size] for at in range(0, len(text), size)]
        assert read(reader_of(syntax), texts) == ("", content, calls)


MARKS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>"]
WORDS = ['"name"', '"f"', '"arguments"', '"parameters"', "a", "é", "f", CALL, LLAMA_CALL]
PARTS = st.sampled_from([*MARKS, *WORDS, *'[]{},:;"\\ \n'])


@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(max_examples=150, deadline=None)
@given(parts=st.lists(PARTS, max_size=14), cuts=st.lists(st.integers(1, 9), max_size=40))
def test_the_pieces_of_a_text_do_not_depend_on_how_it_comes(
    syntax: str, parts: list[str], cuts: list[int]
) -> None:
    text = "".join(parts)
    texts, at = [], 0
    for size in cuts:
        texts.append(text[at : at + size])
        at += size
    texts.append(text[at:])
    for several in (True, False):
        for reasons in (False, True):
            found = []
            for given_texts in ([text], texts, text):
                inner: Reader = reader_of(syntax, several)
                reader = ReasoningReader(inner, False) if reasons else inner
                found.append(read(reader, given_texts))
            assert found[0] == found[1] == found[2]
            assert several or len(found[0][2]) <= 1


def test_only_one_call_is_read_where_one_is_wanted() -> None:
    reader = reader_of("hermes", several=False)
    text = f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>"
    assert read(reader, text) == ("", "", [("f", '{"a": "}</tool_call>\\""}')])
    assert reader.ended


@pytest.mark.parametrize(
    ("open_", "text", "reasoning", "content"),
    [
        (False, "<think>\nWell </th.\n</think>\n\nYes ", "Well </th.", "Yes "),
        (False, " <think>Well", "Well", ""),
        (False, "  <thin", "  <thin", ""),
        (False, "Yes <think>no</think>", "", "Yes <think>no</think>"),
        (False, "  Yes", "", "  Yes"),
        (False, "", "", ""),
        (True, "Well\n</think>Yes", "Well", "Yes"),
        (True, "Well </thin", "Well </thin", ""),
        (True, "</think>\n\nYes</think>", "", "Yes</think>"),
    ],
)
def test_reasoning_is_told_apart_from_content(
    open_: bool, text: str, reasoning: str, content: str
) -> None:
    if text == "  <thin":  # not begun: content after all
        reasoning, content = "", text
    for size in (1, 4, len(text) or 1):
        texts = [text[at : at + size] for at in range(0, len(text), size)]
        found = read(ReasoningReader(ContentReader(), open_), texts)
        assert found == (reasoning, content, [])


def test_calls_come_behind_reasoning() -> None:
    text = f"<think>I call <tool_call>?</think>\n<tool_call>\n{CALL}\n</tool_call>"
    found = read(ReasoningReader(reader_of("hermes"), False), text)
    assert found == ("I call <tool_call>?", "", [("f", '{"a": "}</tool_call>\\""}')])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_tells_its_syntax(name: str) -> None:
    assert syntax_of(TEMPLATES[name]) is SYNTAXES[name]
    assert syntax_of(SILENT) is None
    assert set(TEMPLATES) == set(SYNTAXES)


def test_arguments_are_given_as_they_come() -> None:
    """A piece for each text, so that a client sees them grow."""
    reader = reader_of("hermes")
    reader.push('<tool_call>{"name": "f", "arguments": ')
    given = ['{"a": ', '"bc', 'd", "e"', ": 1}"]
    pieces = [piece for text in given for piece in reader.push(text)]
    assert [piece.text for piece in pieces] == given
    assert json.loads("".join(given)) == {"a": "bcd", "e": 1}
