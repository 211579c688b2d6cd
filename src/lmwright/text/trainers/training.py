"""What kinds of tokenizers are trained from and to, and the parts that they share.

The trainers are those of tokenizers and SentencePiece. Where theirs depend on the order of a hash
table or on threads, a kind is trained so that the same texts give the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers

from lmwright.core.errors import BadInput
from lmwright.text.formats.layout import SPACE

Texts = Callable[[], Iterator[str]]
"""The texts to be trained on, from the first one on each time that it is called."""
Normal = Literal["nfc", "nfd", "nfkc", "nfkd", "lowercase", "strip-accents", "spaces"]
UNKNOWN = "<unk>"
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""The tokens that spell a character which the vocabulary has not."""
RUNS = r"\s+"

STEPS: dict[str, Callable[[], Any]] = {
    "nfc": normalizers.NFC,
    "nfd": normalizers.NFD,
    "nfkc": normalizers.NFKC,
    "nfkd": normalizers.NFKD,
    "lowercase": normalizers.Lowercase,
    "strip-accents": lambda: normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "spaces": lambda: normalizers.Replace(Regex(RUNS), " "),
}
"""Steps of normalisation; ``spaces`` makes a run of white space one space."""


@dataclass(frozen=True)
class Wanted:
    """A vocabulary of at most ``size`` tokens, of which the first are ``special``, in their order;
    ``normal`` are the steps that a text passes before it is cut."""

    size: int
    special: Sequence[str]
    normal: Sequence[Normal] = ()

    @property
    def normalizer(self) -> Any:
        """The library's normaliser, None where nothing is normalised."""
        steps = [STEPS[name]() for name in self.normal]
        return normalizers.Sequence(steps) if steps else None

    def specials(self, unknown: bool) -> list[str]:
        """The special tokens, with the one for what the vocabulary has not where that is wanted."""
        return [*self.special, *([UNKNOWN] if unknown else [])]

    def refuse_below(self, least: int, why: str) -> None:
        """BadInput for a vocabulary that cannot hold what it must."""
        if self.size < least:
            raise BadInput(
                f"a vocabulary of {self.size} tokens", f"at least {least}: {why}", "raise it"
            )


class Kind(Protocol):
    """A kind of tokenizer with its settings: an entry of ``tables.TOKENIZERS``."""

    def train(self, texts: Texts, wanted: Wanted) -> bytes:
        """The tokenizer.json of a vocabulary trained on the texts; BadInput for one too small."""


def characters_of(texts: Texts, wanted: Wanted) -> list[str]:
    """Every character of the normalised texts, the most frequent first."""
    counts: Counter[str] = Counter()
    normalizer = wanted.normalizer
    for text in spelled(texts):
        counts.update(normalizer.normalize_str(text) if normalizer else text)
    return sorted(counts, key=lambda each: (-counts[each], each))


def spelled(texts: Texts) -> Iterator[str]:
    """The texts as a trainer may be given them: lone surrogates are U+FFFD."""
    for text in texts():
        yield text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def normalizer_json(wanted: Wanted) -> dict[str, Any] | None:
    """The JSON of the normaliser, None where nothing is normalised."""
    normalizer = wanted.normalizer
    return None if normalizer is None else json.loads(normalizer.__getstate__())


def learnt(tokenizer: Tokenizer, texts: Texts, trainer: Any) -> Tokenizer:
    """The tokenizer, trained on the texts."""
    tokenizer.train_from_iterator(spelled(texts), trainer)
    return tokenizer


def without_added(data: str, names: Iterable[str]) -> bytes:
    """A tokenizer.json in which these tokens are plain ones of the vocabulary, and not added ones
    that are cut out of a text first."""
    described, plain = json.loads(data), set(names)
    described["added_tokens"] = [
        token for token in described["added_tokens"] if token["content"] not in plain
    ]
    return json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()


def word_marks() -> dict[str, Any]:
    """The pre-tokenizer and the decoder of texts whose spaces stand in front of words as ``▁``."""
    before = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=True)
    steps = [
        decoders.Replace(SPACE, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    return {"pre_tokenizer": before, "decoder": decoders.Sequence(steps)}
