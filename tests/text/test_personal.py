"""Personal data: published examples are found, near misses are not, masking is thorough."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmwright.text.personal import (
    count_personal,
    find_personal,
    is_card,
    is_iban,
    mask_in_place,
    mask_personal,
)


@pytest.mark.parametrize(
    ("text", "kind", "piece"),
    [
        ("write to jane.doe+x@mail.example.co.uk.", "email", "jane.doe+x@mail.example.co.uk"),
        ("an <ann@example.org>", "email", "ann@example.org"),
        # examples of the IBAN registry (SWIFT)
        ("IBAN GB29 NWBK 6016 1331 9268 19 please", "iban", "GB29 NWBK 6016 1331 9268 19"),
        ("DE89370400440532013000", "iban", "DE89370400440532013000"),
        # test numbers published by the card networks
        ("card 4111 1111 1111 1111.", "card", "4111 1111 1111 1111"),
        ("amex 378282246310005", "card", "378282246310005"),
        ("ssn 078-05-1120", "ssn", "078-05-1120"),
        ("from 203.0.113.7, yes", "ip", "203.0.113.7"),
        ("host 2001:db8::8a2e:370:7334 up", "ip", "2001:db8::8a2e:370:7334"),
        ("call (212) 555-0147 now", "phone", "(212) 555-0147"),
        ("call +44 20 7946 0958", "phone", "+44 20 7946 0958"),
        ("ftp://bob:secret@example.org/x", "credentials", "ftp://bob:secret@example.org"),
    ],
)
def test_finds(text, kind, piece):
    (found,) = find_personal(text)
    assert (found.kind, text[found.start : found.end]) == (kind, piece)
    assert mask_personal(text) == text.replace(piece, f"[{kind}]")


@pytest.mark.parametrize(
    "text",
    [
        "rated 10/10, seen in 1999-2001, 120 minutes",
        "GB29 NWBK 6016 1331 9268 18",
        "4111 1111 1111 1112",
        "0000 0000 0000 0000",
        "version 1.2.3.4.5 of std::vector at 10:30:45",
        "999.1.1.1",
        "000-12-3456 and 666-12-3456",
        "me@home or @handle, a@b",
        "http://example.org:8080/path",
    ],
)
def test_leaves_alone(text):
    assert find_personal(text) == []


def test_check_digits_catch_every_single_wrong_digit():
    card, iban = "4111111111111111", "DE89370400440532013000"
    assert is_card(card) and is_iban(iban)
    for place in range(16):
        wrong = card[:place] + str((int(card[place]) + 1) % 10) + card[place + 1 :]
        assert not is_card(wrong)
    for place in range(2, len(iban)):
        wrong = iban[:place] + str((int(iban[place]) + 1) % 10) + iban[place + 1 :]
        assert not is_iban(wrong)


@given(st.text(alphabet="ab1.@-: +()/0529", max_size=120))
def test_nothing_is_found_after_masking(text):
    masked = mask_personal(text)
    assert find_personal(masked) == []
    assert mask_personal(masked) == masked


def test_counts_by_kind():
    assert count_personal("a@b.org, c@d.org, 203.0.113.7") == {"email": 2, "ip": 1}


@pytest.mark.parametrize("piece", ["1", "1-", "a@", "a.", "1.1.", "::", "ab12", "(212) ", "x://a:"])
def test_time_is_linear_in_hostile_text(piece):
    begun = time.perf_counter()
    mask_personal(piece * (100_000 // len(piece)))
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize("text", ["Mail anna@example.org or ask Peter", "+49 30 901820", "x@y.org"])
def test_masking_in_place_keeps_every_place(text):
    masked = mask_in_place(text)
    assert len(masked) == len(text)
    assert not find_personal(masked)
    if "Peter" in text:
        assert masked.index("Peter") == text.index("Peter")
        assert "anna" not in masked
