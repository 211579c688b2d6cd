"""Language identification by py3langid, on a bounded sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from lmwright.core.errors import BadInput, nearest

LOOKED_AT = 400
"""Characters of a text that decide; the rest costs time and changes almost nothing."""

TOO_SHORT = 20
"""Fewer letters than this say too little about the language."""


def language_of(text: str, among: tuple[str, ...] = ()) -> str:
    """ISO 639-1 code of the text's language, or ``"?"`` when it has too few letters to tell.

    ``among`` restricts the answer to the codes given, which makes short texts more reliable.
    """
    head = text[:LOOKED_AT]
    if sum(map(str.isalpha, head)) < TOO_SHORT:
        return "?"
    return str(identifier(among).classify(head)[0])


def can_tell(*codes: str) -> bool:
    """True if the identifier knows every one of these languages."""
    return {*codes} <= {*map(str, identifier(()).labels)}


def count_languages(texts: Iterable[str], among: tuple[str, ...] = ()) -> dict[str, int]:
    """The number of texts in each language, most frequent first."""
    counts = Counter(language_of(text, among) for text in texts)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@cache
def identifier(among: tuple[str, ...]) -> Any:
    """The identifier with its model (a second to load), one for each set of languages.

    Raises BadInput for a code that it does not know.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE)
    if among:
        unknown = sorted(set(among) - set(found.labels))
        if unknown:
            raise BadInput(
                f"no language is called {unknown[0]!r}",
                "codes that the identifier knows",
                nearest(unknown[0], found.labels),
            )
        found.set_languages(list(among))
    return found
