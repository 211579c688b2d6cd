"""Mails: what a person reads of them, on made-up and on real ones."""

import json
from email.message import EmailMessage

from lmwright.assets import asset_file
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
