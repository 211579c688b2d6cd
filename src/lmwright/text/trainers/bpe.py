"""BPE (Sennrich et al. 2016): over bytes (Radford et al. 2019), or over characters with bytes for
those that the vocabulary has not (Kudo and Richardson 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from lmwright.core.stage import Settings
from lmwright.text.trainers.training import (
    BYTES,
    UNKNOWN,
    Texts,
    Wanted,
    learnt,
    without_added,
    word_marks,
)

LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = {
    "cl100k": rf"{ENDINGS}|{LETTERS}|\p{{N}}{{1,3}}|{REST}",
    "qwen2": rf"{ENDINGS}|{LETTERS}|\p{{N}}|{REST}",
}
"""Pre-token rules: the places where texts are cut before bytes are merged."""


@dataclass(frozen=True, kw_only=True)
class BPE(Settings):
    """Merges of the most frequent neighbours.

    ``units`` are ``bytes``, so that every text is spelled exactly, or ``characters``, of which the
    rare ones are spelled by their bytes. No merge goes across a cut: with bytes those of
    ``pretokens`` (``cl100k`` has numbers of three digits, as has Llama 3; ``qwen2`` has single
    digits; ``none``: no cuts), with characters in front of each space.
    """

    units: Literal["bytes", "characters"] = "bytes"
    pretokens: Literal["gpt2", "cl100k", "qwen2", "none"] = "gpt2"

    def train(self, texts: Texts, wanted: Wanted) -> bytes:
        """The tokenizer.json; ties between merges go to the tokens that came first."""
        return self.of_bytes(texts, wanted) if self.units == "bytes" else of_pieces(texts, wanted)

    def of_bytes(self, texts: Texts, wanted: Wanted) -> bytes:
        """Merges of bytes."""
        wanted.refuse_below(256 + len(wanted.special), "every byte, and the special tokens")
        made = Tokenizer(models.BPE())
        if wanted.normalizer is not None:
            made.normalizer = wanted.normalizer
        made.pre_tokenizer = self.cuts()
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=wanted.size,
            special_tokens=list(wanted.special),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        return learnt(made, texts, trainer).to_str().encode()

    def cuts(self) -> pre_tokenizers.PreTokenizer:
        """The cuts, and bytes as characters."""
        if self.pretokens == "gpt2":
            return pre_tokenizers.ByteLevel(add_prefix_space=False)
        spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        if self.pretokens == "none":
            return spelling
        cut = pre_tokenizers.Split(Regex(RULES[self.pretokens]), "isolated")
        return pre_tokenizers.Sequence([cut, spelling])


def of_pieces(texts: Texts, wanted: Wanted) -> bytes:
    """Merges of characters, and a token for each byte."""
    first = [*wanted.specials(unknown=True), *BYTES]
    wanted.refuse_below(len(first) + 1, "every byte, the special tokens, and characters")
    made = Tokenizer(models.BPE(unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
    if wanted.normalizer is not None:
        made.normalizer = wanted.normalizer
    parts = word_marks()
    made.pre_tokenizer, made.decoder = parts["pre_tokenizer"], parts["decoder"]
    trainer = trainers.BpeTrainer(
        vocab_size=wanted.size,
        special_tokens=first,
        limit_alphabet=max(1, (wanted.size - len(first)) // 2),
        show_progress=False,
    )
    return without_added(learnt(made, texts, trainer).to_str(), BYTES)
