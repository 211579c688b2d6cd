"""One YAML dialect: what is written is read back, numbers are those of YAML 1.2."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmwright.core.errors import BadInput
from lmwright.core.yaml12 import parse_yaml, write_yaml

WORDS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.from_regex(r"\A[-+.~0-9eExoabcdef_:]{0,8}\Z"),
)
VALUES = st.recursive(
    st.one_of(WORDS, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, width=64)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


# fmt: off
AWKWARD = [
    "08", "1e5", "07", "0o7", "0x1F", "1_000", ".5", "1.", "+1", "no", "yes", "on", "null", "~",
    "true", "NULL", "2024-01-01", "12:30:00", "=", "<<", "-", "?", ":", ".inf", "-.INF", ".nan",
    "0b1", "190:20:30", "#", "@a", "`a", "%a", "&a", "*a", "!a", "|a", ">a", "[a", "{a", "'a",
    '"a', "a:b", "''", "", " ", "a ", "a: b", "a #b", "two\nlines", "\ttab", "caf\udce9.csv",
    "\ufeff", "\u2014", "a:\x85", "\x07", "a\u2028b", "---", "...", "- a",
]
# fmt: on


@pytest.mark.parametrize("word", AWKWARD)
def test_a_word_is_read_back_as_key_and_value(word):
    value = {word: word, "in a list": [word, [word]]}
    assert parse_yaml(write_yaml(value), "t") == value


@given(VALUES)
@example({"a": -0.0, "b": 1e300, "c": 1e-7, "d": 1e16})
def test_whatever_is_written_is_read_back(value):
    found = parse_yaml(write_yaml(value), "t")
    assert found == value
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e5", 1e5),
        ("012", 12),
        ("08", 8),
        ("0o17", 15),
        ("0x1F", 31),
        ("no", "no"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0b1", "0b1"),
        ("<<", "<<"),
        ("Null", None),
        ("", None),
        ("TRUE", True),
        (".5", 0.5),
        ("-.inf", -math.inf),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text, value):
    found = parse_yaml(f"a: {text}", "t")["a"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2", "'a' stands twice at line 2"),
        ("{a: {b: 1, b: 1}}", "'b' stands twice"),
        ("a: &x [1]\nb: *x", "aliases are refused at line 2"),
        ("a: &x {b: 1}\nc: {<<: *x}", "aliases are refused"),
        ("1: a", "the key 1 is no word"),
        ("a: !!timestamp 2024-01-01", "timestamp"),
        ("a: !!binary aGk=", "binary"),
        ("a: !!python/name:os.system x", "python/name"),
        ("a: !!set {x, y}", "set"),
        ("a: !!int x", "invalid literal"),
    ],
)
def test_what_is_no_json_value_is_refused(text, told):
    with pytest.raises(BadInput, match=told):
        parse_yaml(text, "t")
