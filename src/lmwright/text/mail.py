"""What a person reads of a raw mail: its subject and the text of its body."""

from __future__ import annotations

import email
import email.header
import re
from email.message import Message

from lmwright.text.repair import strip_markup

HEADER = re.compile(r"([!-9;-~]+):")
OF_MAILS = frozenset(
    (
        "from",
        "to",
        "cc",
        "reply-to",
        "received",
        "date",
        "message-id",
        "in-reply-to",
        "return-path",
        "delivered-to",
        "subject",
        "mime-version",
        "content-type",
        "content-transfer-encoding",
    )
)
MOST_HEADERS = 1000


def read_mail(raw: str) -> str:
    """Subject, an empty line, and the readable body of a mail with its headers.

    A text without a mail's headers is returned as it is, and what comes out has none, also when
    its white space is evened: no empty line ends a block of headers in it. So reading a mail again
    changes nothing.
    Plain parts are preferred to HTML, whose markup is taken off; attachments are left out.
    Transfer encodings and charsets are decoded; unknown charsets are read as Latin-1.
    """
    if not has_headers(raw):
        return raw
    message = email.message_from_string(raw)
    parts = [part for part in message.walk() if is_text(part)]
    plain = [part for part in parts if part.get_content_subtype() != "html"]
    bodies = [body(part) for part in plain]
    if not any(text.strip() for text in bodies):
        bodies = [strip_markup(body(part)) for part in parts]
    found = "\n\n".join([subject(message), *bodies])
    if has_headers(found):  # a subject of several lines
        found = "\n\n".join([" ".join(subject(message).split()), *bodies])
    return found


def has_headers(text: str) -> bool:
    """True if a text begins with header lines and an empty one, and two that only a mail has."""
    found: set[str] = set()
    for line in text.splitlines()[:MOST_HEADERS]:
        if not line.strip():
            return len(found & OF_MAILS) >= 2
        if (match := HEADER.match(line)) is not None:
            found.add(match.group(1).lower())
        elif not line.startswith((" ", "\t", "From ")):
            return False
    return False


def is_text(part: Message) -> bool:
    """Whether a part is text to be read, not an attachment."""
    is_leaf = not part.is_multipart() and part.get_content_maintype() == "text"
    return is_leaf and part.get_content_disposition() != "attachment"


def subject(message: Message) -> str:
    """The subject with its encoded words decoded; as it stands when they are broken."""
    raw = str(message.get("Subject", ""))
    try:
        return str(email.header.make_header(email.header.decode_header(raw)))
    except (ValueError, LookupError, email.errors.MessageError):
        return raw


def body(part: Message) -> str:
    """The text of one part, decoded."""
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    charset = part.get_content_charset() or "utf-8"
    try:
        return data.decode(charset)
    except (LookupError, UnicodeError):
        return data.decode("latin-1")
