"""Whole words: the most frequent ones, and one token for all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from lmwright.core.stage import Settings
from lmwright.text.trainers.training import UNKNOWN, Texts, Wanted, learnt


@dataclass(frozen=True, kw_only=True)
class Word(Settings):
    """Words between spaces, or with ``pretokens: punctuation`` between punctuation marks too, which
    are then tokens of their own. Spaces are not kept."""

    pretokens: Literal["spaces", "punctuation"] = "punctuation"

    def train(self, texts: Texts, wanted: Wanted) -> bytes:
        """The tokenizer.json; of words as frequent the first of the alphabet is kept."""
        first = wanted.specials(unknown=True)
        wanted.refuse_below(len(first) + 1, "the special tokens, and words")
        made = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        if wanted.normalizer is not None:
            made.normalizer = wanted.normalizer
        cuts = {
            "spaces": pre_tokenizers.WhitespaceSplit,
            "punctuation": pre_tokenizers.BertPreTokenizer,
        }
        made.pre_tokenizer = cuts[self.pretokens]()
        trainer = trainers.WordLevelTrainer(
            vocab_size=wanted.size, special_tokens=first, show_progress=False
        )
        return learnt(made, texts, trainer).to_str().encode()
