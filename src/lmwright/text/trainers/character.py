"""Characters: the most frequent ones, and bytes or one token for all others."""

from __future__ import annotations

from dataclasses import dataclass

from lmwright.core.stage import Settings
from lmwright.text.formats.layout import added_token, bpe, tokenizer_json
from lmwright.text.trainers.training import (
    BYTES,
    UNKNOWN,
    Texts,
    Wanted,
    characters_of,
    normalizer_json,
)


@dataclass(frozen=True, kw_only=True)
class Character(Settings):
    """Every character is a token. ``fallback`` spells one that the vocabulary has not by its bytes;
    else it is unknown."""

    fallback: bool = True

    def train(self, texts: Texts, wanted: Wanted) -> bytes:
        """The tokenizer.json: a BPE without merges."""
        special = wanted.specials(unknown=True)
        first = [*special, *(BYTES if self.fallback else ())]
        wanted.refuse_below(len(first) + 1, "the special tokens, bytes, and characters")
        known = characters_of(texts, wanted)[: wanted.size - len(first)]
        vocabulary = {name: number for number, name in enumerate([*first, *sorted(known)])}
        return tokenizer_json(
            bpe(vocabulary, [], unk_token=UNKNOWN, byte_fallback=self.fallback),
            normalizer=normalizer_json(wanted),
            decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            added=[added_token(number, name) for number, name in enumerate(special)],
        )
