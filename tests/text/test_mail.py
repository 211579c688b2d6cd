"""Mails: what a person reads of them, on made-up and on real ones."""

import json
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmwright.assets import asset_file
from lmwright.text.cleaning import cleaner
from lmwright.text.mail import read_mail
from tests.conftest import MAILS


def test_decodes_and_prefers_the_plain_part():
    mail = EmailMessage()
    mail["Subject"], mail["From"] = "Grüße", "a@example.org"
    mail.set_content("Schöne Zeilen\n", cte="quoted-printable")
    mail.add_alternative("<p>nicht <b>diese</b></p>", subtype="html")
    mail.add_attachment("angehängt", filename="note.txt")
    found = read_mail(mail.as_string())
    assert found.split() == ["Grüße", "Schöne", "Zeilen"]


def test_html_alone_is_stripped_and_unknown_charsets_are_read():
    raw = (
        "Subject: =?bogus?q?x?=\nContent-Type: text/html; charset=no-such\n"
        "Content-Transfer-Encoding: base64\n\nPHA+aGVsbG88L3A+PGI+Y2Fm6TwvYj4="
    )
    assert "hello" in read_mail(raw) and "<" not in read_mail(raw).split("\n\n", 1)[1]


@MAILS
def test_real_mails_lose_their_headers_and_keep_their_words():
    paths = sorted(asset_file("asset:spam-assassin/spam-1").glob("*.json"))[:200]
    assert len(paths) == 200
    texts = [read_mail(json.loads(path.read_text())["text"]) for path in paths]
    assert sum(len(text.split()) >= 5 for text in texts) >= 190
    for trace in ("Message-Id:", "Received: from", "X-Mailer"):
        assert sum(trace in text for text in texts) <= 4


LINES = st.sampled_from(
    [
        "From: a@example.org", "To: b", "Date: now", "Subject: Re: hello", "Re: hello", "", " ",
        " folded", "\tfolded", "From someone", "a line", "X:", "<p>one</p>", "&lt;br&gt;",
        "Subject: =?utf-8?q?From:_a=0ADate:_b?=", "Subject: From: a\u2028Date: b\x85To: c",
        "Content-Type: text/html", "Content-Transfer-Encoding: base64", "PHA+aGk8L3A+",
        'Content-Type: multipart/mixed; boundary="x"', "--x", "--x--",
    ]
)  # fmt: skip
MAIL = st.lists(LINES | st.text(max_size=20), max_size=12).map("\n".join)


@given(MAIL)
def test_reading_a_mail_again_changes_nothing(text):
    once = read_mail(text)
    assert read_mail(once) == once


@pytest.mark.parametrize("steps", [("mail",), ("repair",), ("mail", "repair")])
@given(text=MAIL)
def test_cleaning_a_mail_again_changes_nothing(steps, text):
    clean = cleaner(steps)
    once = clean(text)
    assert clean(once) == once


def test_a_forwarded_mail_keeps_its_subject_when_it_is_cleaned_again():
    raw = "From: x\nTo: y\nSubject: Fwd: plans\n\nFrom: a\nTo: b\nSubject: plans\n\nAt nine?"
    clean = cleaner(("mail", "repair"))
    assert clean(raw) == "Fwd: plans\nFrom: a\nTo: b\nSubject: plans\nAt nine?"
    assert clean(clean(raw)) == clean(raw)
