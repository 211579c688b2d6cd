"""Constrained generation: masks against a slow reference, hostile constraints in bounded time."""

from __future__ import annotations

import json
import time
from functools import cache
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from lmwright.core.errors import BadInput
from lmwright.text.constrained import (
    MAX_CHARACTERS,
    ConstraintFault,
    Language,
    Matcher,
    of_choices,
    of_grammar,
    of_regex,
    of_schema,
    vocabulary_of,
)
from lmwright.text.tokenizer import Tokenizer
from tests.serve.talking import CONTROL, byte_level, of_pieces

STOP = "<|im_end|>"


def of_words(kind: str) -> Tokenizer:
    """A vocabulary of a few words over a, b and the space, several of them for some texts."""
    mark = "Ġ" if kind == "bytes" else "▁"
    words = ["a", "b", mark, "ab", "ba", "aab", f"{mark}a", f"{mark}b", f"{mark}{mark}", "bb"]
    if kind == "bytes":
        made = tokenizers.Tokenizer(models.BPE({each: n for n, each in enumerate(words)}, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = decoders.ByteLevel()
    else:
        pieces = [(each, -1.0) for each in ["<unk>", *words, f"{mark}{mark}a", "\n"]]
        made = tokenizers.Tokenizer(models.Unigram(pieces, 0, False))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens(CONTROL)
    return Tokenizer(made.to_str().encode())


WORDS = {kind: of_words(kind) for kind in ("bytes", "pieces")}

# The reference: a language is derived by each character of a text (Brzozowski 1964); what is left
# has a text unless it is NONE, since nothing else here is empty.

NONE, EMPTY = ("none",), ("empty",)
Tree = tuple[Any, ...]


@cache
def then(left: Tree, right: Tree) -> Tree:
    if NONE in (left, right):
        return NONE
    return right if left == EMPTY else left if right == EMPTY else ("then", left, right)


@cache
def either(left: Tree, right: Tree) -> Tree:
    if left == right or right == NONE:
        return left
    return right if left == NONE else ("either", *sorted((left, right), key=repr))


@cache
def ends(tree: Tree) -> bool:
    kind, *parts = tree
    if kind == "then":
        return all(map(ends, parts))
    return kind in ("empty", "many") or (kind == "either" and any(map(ends, parts)))


@cache
def derived(tree: Tree, char: str) -> Tree:
    kind, *parts = tree
    if kind == "char":
        return EMPTY if parts[0] == char else NONE
    if kind == "many":
        return then(derived(parts[0], char), tree)
    if kind == "either":
        return either(derived(parts[0], char), derived(parts[1], char))
    if kind == "then":
        first = then(derived(parts[0], char), parts[1])
        return either(first, derived(parts[1], char)) if ends(parts[0]) else first
    return NONE


def left_of(tree: Tree, text: str) -> Tree:
    for char in text:
        tree = derived(tree, char)
    return tree


def spelled(tree: Tree) -> str:
    kind, *parts = tree
    if kind == "char":
        return str(parts[0])
    if kind == "many":
        return f"({spelled(parts[0])})*"
    return f"({spelled(parts[0])}{'|' if kind == 'either' else ''}{spelled(parts[1])})"


CHARS = st.sampled_from("ab ").map(lambda char: ("char", char))
TREES = st.recursive(
    CHARS,
    lambda inner: (
        st.tuples(st.just("then"), inner, inner)
        | st.tuples(st.just("either"), inner, inner)
        | st.tuples(st.just("many"), inner)
    ),
    max_leaves=8,
)


def begun(kind: str, language: Language) -> tuple[Tokenizer, Matcher]:
    tokenizer = WORDS[kind]
    stops = [tokenizer.control[STOP]]
    matcher = vocabulary_of(tokenizer).compiled(language).matcher(kind == "pieces", stops)
    return tokenizer, matcher


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@settings(max_examples=25, deadline=None)
@given(tree=TREES, seed=st.integers(0, 1 << 30))
def test_a_token_is_allowed_if_and_only_if_some_text_goes_on_so(
    kind: str, tree: Tree, seed: int
) -> None:
    """Token by token along a random text, for the text that the tokenizer itself decodes."""
    tokenizer, matcher = begun(kind, of_regex(f"({spelled(tree)})"))
    rng, ids = np.random.default_rng(seed), list[int]()
    for _ in range(6):
        left = left_of(tree, tokenizer.decode(ids))
        wanted = {id_ for id_ in range(tokenizer.size()) if id_ not in tokenizer.names}
        wanted = {
            id_
            for id_ in wanted
            if left_of(tree, tokenizer.decode([*ids, id_])) != NONE
            # A space that is not shown is allowed once.
            and (tokenizer.decode([*ids, id_]) != tokenizer.decode(ids) or not ids)
        }
        assert matcher.done == (bool(ids) and ends(left) and not wanted)
        if ends(left):
            wanted.add(tokenizer.control[STOP])
        assert set(np.flatnonzero(matcher.allowed(tokenizer.size() + 5))) == wanted
        goes_on = sorted(wanted - {tokenizer.control[STOP]})
        if not goes_on:
            return
        ids.append(int(rng.choice(goes_on)))
        matcher.push(ids[-1])


def test_the_reference_knows_a_language() -> None:
    tree = ("then", ("many", ("either", ("char", "a"), ("char", "b"))), ("char", "b"))
    for text, whole, begins in (("b", 1, 1), ("ab", 1, 1), ("a", 0, 1), ("", 0, 1), ("a ", 0, 0)):
        left = left_of(tree, text)
        assert (ends(left), left != NONE) == (bool(whole), bool(begins))


def test_a_token_that_is_not_allowed_is_refused() -> None:
    tokenizer, matcher = begun("bytes", of_regex("ab*"))
    (b,) = tokenizer.ids("b").tolist()
    with pytest.raises(ConstraintFault):
        matcher.push(b)


@pytest.mark.parametrize("made", [byte_level(), of_pieces("strip")], ids=["bytes", "pieces"])
@pytest.mark.parametrize("text", ['{"a": "日本 ü\\n"}', '{"a": ""}'])
def test_characters_of_several_bytes_are_followed(made: tokenizers.Tokenizer, text: str) -> None:
    tokenizer = Tokenizer(made.to_str().encode())
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    language = of_schema({**schema, "additionalProperties": False})
    matcher = vocabulary_of(tokenizer).compiled(language).matcher(False, [])
    by_bytes = {tokenizer.bytes_of(tokenizer.token(n)): n for n in range(256) if tokenizer.bytes_of}
    by_bytes |= (
        {bytes([n]): tokenizer.inner.token_to_id(f"<0x{n:02X}>") for n in range(256)}
        if (tokenizer.inner.token_to_id("<0x00>") is not None)
        else {}
    )
    for byte in text.encode():
        id_ = by_bytes[bytes([byte])]
        assert matcher.allowed(tokenizer.size())[id_]
        matcher.push(id_)
    assert matcher.done


def test_a_tokenizer_without_bytes_is_refused() -> None:
    tokenizer = Tokenizer(of_pieces("wordpiece").to_str().encode())
    with pytest.raises(BadInput, match="no bytes of their own"):
        vocabulary_of(tokenizer)


def nested(depth: int) -> Any:
    found: Any = {"type": "string"}
    for _ in range(depth):
        found = {"type": "array", "items": found}
    return found


def deep_value(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


def chain(rules: int) -> str:
    """A grammar that is compiled by recursion; the stack of a thread may be 2 MiB."""
    lines = [f'r{n}: "x{n}" | r{n + 1}' for n in range(rules)]
    return "\n".join(["start: r0", *lines, f'r{rules}: "z"'])


PATTERNS = {"allOf": [{"pattern": f"a.{{{n}}}b"} for n in range(1, 100)], "type": "string"}
HOSTILE: dict[str, Any] = {
    "a deep one": lambda: of_schema(nested(500)),
    "values of depth": lambda: of_schema({"const": deep_value(900)}),
    "a megabyte": lambda: of_schema({"enum": ["x" * 1_000_000]}),
    "a huge choice": lambda: of_choices([str(n) for n in range(100_000)]),
    "a keyword that nobody knows": lambda: of_schema({"type": "object", "x-new": 1}),
    "a keyword of a megabyte": lambda: of_schema({"k" * 1_000_000: 1}),
    "the library's own settings": lambda: of_schema({"x-guidance": {"lenient": True}}),
    "a keyword that is not enforced": lambda: of_schema({"type": "array", "uniqueItems": True}),
    "one deep inside": lambda: of_schema({"properties": {"a": {"items": {"not": {}}}}}),
    "an unknown type": lambda: of_schema({"type": "objekt"}),
    "an unknown format": lambda: of_schema({"type": "string", "format": "nope"}),
    "no value at all": lambda: of_schema({"enum": []}),
    "itself": lambda: of_schema({"$ref": "#"}),
    "another machine": lambda: of_schema({"$ref": "http://127.0.0.1:1/x"}),
    "a hundred patterns at once": lambda: of_schema(PATTERNS),
    "repeated repeats": lambda: of_regex("((a{1,1000}){1,1000}){1,1000}"),
    "looking ahead": lambda: of_regex("(?=a)b"),
    "no expression": lambda: of_regex("(a"),
    "a deep expression": lambda: of_regex("(" * 20_000 + "a" + ")" * 20_000),
    "a deep grammar": lambda: of_grammar("start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "a deep EBNF": lambda: of_grammar("root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "a chain of rules": lambda: of_grammar(chain(1000)),
    "no grammar": lambda: of_grammar("start: nothing"),
    "a grammar without a text": lambda: of_grammar("start: start"),
    "a control token": lambda: of_grammar("start: <|im_start|>"),
    "a token by number": lambda: of_grammar("start: <[257]>"),
    "other settings": lambda: of_grammar('%llguidance {}\nstart: "a"'),
    "a grammar beyond": lambda: of_grammar('start: "' + "a" * MAX_CHARACTERS + '"'),
}
BOUNDED = {"repeated repeats"}
"""What can be compiled, and is bounded in each step."""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_constraint_is_refused_in_bounded_time(name: str) -> None:
    began = time.monotonic()
    tokenizer = WORDS["bytes"]
    fault = None
    try:
        matcher = vocabulary_of(tokenizer).compiled(HOSTILE[name]()).matcher(False, [])
        for _ in range(50):
            allowed = np.flatnonzero(matcher.allowed(tokenizer.size()))
            matcher.push(int(allowed[0]))
    except BadInput as found:
        fault = found
    assert fault is not None and len(str(fault)) < 1000
    assert isinstance(fault, ConstraintFault) == (name in BOUNDED), fault
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"properties": {"a": {"dependentRequired": {}}}}, "dependentRequired"),
        ({"anyOf": [{"if": {}}]}, "if"),
        ({"type": "string", "format": "nope"}, "nope"),
    ],
)
def test_what_cannot_be_enforced_is_named(schema: Any, word: str) -> None:
    with pytest.raises(BadInput, match=word):
        vocabulary_of(WORDS["bytes"]).compiled(of_schema(schema))


def test_names_of_properties_are_no_keywords() -> None:
    schema = {"type": "object", "properties": {"not": {"enum": [{"if": 1}]}}, "required": ["not"]}
    assert json.loads(of_schema(schema).rule.removeprefix("%json "))["properties"]


def test_a_language_behind_a_first_part() -> None:
    tokenizer = Tokenizer(byte_level().to_str().encode())
    known = vocabulary_of(tokenizer)
    for open_, texts in (
        (False, {"<think>a<b</think>\nyes": True, "yes": True, "a</think>yes": False}),
        (True, {"a</th</think>yes": True, "yes": False, "</think>no": False}),
    ):
        language = of_choices(["yes"]).after(open_, '"<think>"', '"</think>"')
        for text, wanted in texts.items():
            matcher = known.compiled(language).matcher(False, [])
            try:
                for id_ in tokenizer.ids(text).tolist():
                    assert matcher.allowed(tokenizer.size())[id_]
                    matcher.push(id_)
                found = matcher.done
            except (AssertionError, ConstraintFault):
                found = False
            assert found is wanted, text
