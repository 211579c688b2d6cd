"""The page at ``/``: talk to what is served, in a browser.

It is one file without anything from elsewhere. It holds nothing secret, so it is given without a
key; what it asks it asks with the key that its reader types, over the routes that all clients use.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

PAGE = Path(__file__).with_name("page.html")
INLINE = re.compile(rb"<(style|script)>(.*?)</\1>", re.DOTALL)


def page_router() -> APIRouter:
    """The route of the page; it is read from its file once."""
    router = APIRouter()
    data = PAGE.read_bytes()
    headers = page_headers(data)

    @router.get("/", summary="The page on which to talk to the models", include_in_schema=False)
    async def page() -> Response:
        return Response(data, headers=headers, media_type="text/html; charset=utf-8")

    return router


def page_headers(data: bytes) -> dict[str, str]:
    """Headers that let the page run its own style and script, ask its own server, and no more.

    No text can become markup in it: scripts that set HTML are refused by the browser itself.
    """
    policy = {
        "default-src": "'none'",
        "script-src": hashes(data, b"script"),
        "style-src": hashes(data, b"style"),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(" ".join(each) for each in policy.items()),
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def hashes(data: bytes, kind: bytes) -> str:
    """The sources of the page's inline elements of one kind, each by its SHA-256."""
    found = [text for name, text in INLINE.findall(data) if name == kind]
    digests = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
