"""Repair: what a reader sees stays, what a machine left goes."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmwright.text.repair import even_spaces, repair, strip_markup


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("It was great.<br /><br />I cried.", "It was great.\nI cried."),
        ("a <b>very</b> good <i class='x'>film</i>", "a very good film"),
        ("salt &amp; pepper &lt;3", "salt & pepper <3"),
        ("if a < b and c > d", "if a < b and c > d"),
        ("I <3 this", "I <3 this"),
        ("x<!-- hidden <b> -->y", "x y"),
        ("one<script>alert(1)</script>two", "one two"),
        ("one<STYLE>p {}</STYLE>two", "one two"),
        ("cafÃ©", "café"),
        ("schÃ¶n", "schön"),
        ("e\u0301", "é"),
        ("red\x1b[31mtext\x07", "redtext"),
        ("\ud83d\ude00", "😀"),
        ("tab\tand\u00a0space\r\nline", "tab and space\nline"),
        ("  \n \n ", ""),
    ],
)
def test_repairs(raw, wanted):
    assert repair(raw) == wanted


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=200))
def test_result_is_clean(text):
    found = repair(text)
    found.encode()
    assert found == even_spaces(found)
    assert not any(unicodedata.category(sign) == "Cc" and sign != "\n" for sign in found)


def test_one_accent_does_not_make_a_book_slow():
    sentence = "A plain sentence that needs no repair at all. "
    begun = time.perf_counter()
    found = repair("cafÃ©. " + sentence * 20_000)
    assert found.startswith("café. A plain") and found.count("repair") == 20_000
    assert time.perf_counter() - begun < 2


def test_lone_surrogates_leave_valid_text():
    assert repair("a\udc80b").encode()


@pytest.mark.parametrize("piece", ["<", "<!--", "<script", "<b ", "&", " \n", "<a <b>"])
def test_time_is_linear_in_hostile_text(piece):
    begun = time.perf_counter()
    strip_markup(even_spaces(piece * (400_000 // len(piece))))
    assert time.perf_counter() - begun < 5


def test_script_without_end_is_kept_but_its_tag_is_not():
    assert "after" in repair("<script>before and after")


PIECES = st.sampled_from(
    [
        "<", ">", "&", "&amp;", "amp;", "&lt;", "lt;", "&gt;", "<br>", "<b>", "</b>", "<!--", "-->",
        "<script>", "</script>", "<style", "</style>", " ", "\n", "\r\n", "\t", "\x00", "\x85",
        "\u2028", "\u00a0", "Ã¶", "Ã", "©", "â€™", "\u0301", "e", ". A", "＜", "＞", "＆", "&#60;",
        "&#x3c;", "\udc80", "\ud83d", "\ude00", "a", "1",
    ]
)  # fmt: skip


@settings(max_examples=500)
@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=80))
def test_another_pass_changes_nothing(text):
    once = repair(text)
    assert repair(once) == once


@pytest.mark.parametrize("layers", [3, 15, 16, 17, 40, 1000])
def test_markup_that_was_escaped_again_and_again_is_repaired_for_good(layers):
    for text in ("&" + "amp;" * layers + "lt;b&gt;x", "<" * layers + "b>" * layers + "x"):
        once = repair(text)
        assert repair(once) == once and once.endswith("x")
