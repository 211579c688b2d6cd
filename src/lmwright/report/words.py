"""How values are written for people: numbers, intervals, sizes, times, answers."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

LONGEST_ANSWER = 240


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def share(value: float | None, digits: int = 1) -> str:
    """A share in percent, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return "–" if value is None else f"{100 * value:+.1f} pp"


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return "–" if value is None else f"{value:+.3f}"


def count(value: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return "–" if value is None else f"{int(value):,}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """Seconds in a unit that people read."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(value: float | None) -> str:
    """Bytes in megabytes."""
    if value is None:
        return "–"
    return f"{value / 1e6:.0f} MB" if value >= 1e7 else f"{value / 1e6:.2g} MB"


def moment(value: float) -> str:
    """A time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))


WRITTEN = {"share": share, "number": number, "points": points, "signed": signed}


def told(value: Mapping[str, float | None] | None, kind: str) -> str:
    """An interval as plain text."""
    if not value:
        return "–"
    write = WRITTEN[kind]
    return f"{write(value['estimate'])} [{write(value.get('low'))}, {write(value.get('high'))}]"


def figure(value: float | None, kind: str, key: str) -> Markup:
    """A figure with its full value and its key, for whoever wants to recompute it."""
    if value is None:
        return Markup("<data>–</data>")
    return Markup('<data value="{}" data-figure="{}">{}</data>').format(
        repr(float(value)), key, WRITTEN[kind](value)
    )


def ranged(value: Mapping[str, float | None] | None, kind: str, key: str = "") -> Markup:
    """An estimate with its interval behind it; the figure carries its full value."""
    if not value or value.get("estimate") is None:
        return Markup("–")
    write = WRITTEN[kind]
    shown = figure(value["estimate"], kind, key) if key else write(value["estimate"])
    if value.get("low") is None:
        return Markup("<b>{}</b>").format(shown)
    bare = [
        html.unescape(write(value[end])).replace(" %", "").replace(" pp", "")
        for end in ("low", "high")
    ]
    return Markup('<b>{}</b> <span class="range">[{}, {}]</span>').format(shown, *bare)


def answered(answer: Mapping[str, Any]) -> str:
    """A task's answer (its columns by name) in words: the likeliest of scores by label, flags that
    are set, everything else as it stands.
    """
    parts: dict[str, str] = {}
    for name, value in answer.items():
        if isinstance(value, bool):
            parts |= {name: name} if value else {}
        elif isinstance(value, Mapping) and value and all(map(is_number, value.values())):
            best = max(value, key=lambda label: value[label])
            same = [key for key, words in parts.items() if words == best]
            parts = {key: words for key, words in parts.items() if key not in same}
            parts[name] = f"{best} {share(value[best])}"
        elif isinstance(value, float):
            parts[name] = f"{name} {value:.3f}"
        elif value is not None and value != "":
            parts[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    words = "; ".join(parts.values()) or "–"
    return words if len(words) <= LONGEST_ANSWER else words[: LONGEST_ANSWER - 1] + "…"


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
