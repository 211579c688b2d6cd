"""WordPiece as BERT has it (Devlin et al. 2019): pieces within a word begin with ``##``.

The library learns the pieces as BPE does; BERT's own trainer was never published.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lmwright.core.stage import Settings
from lmwright.text.trainers.training import (
    UNKNOWN,
    Texts,
    Wanted,
    characters_of,
    learnt,
    without_added,
)

PREFIX = "##"


@dataclass(frozen=True, kw_only=True)
class WordPiece(Settings):
    """The longest known piece first; words are cut at spaces and at punctuation.

    A word of more than ``longest`` characters, or with a character that is not known, is one
    unknown token. Spaces are not kept.
    """

    longest: int = 100

    def train(self, texts: Texts, wanted: Wanted) -> bytes:
        """The tokenizer.json.

        The characters, alone and within a word, are given to the trainer in an order of their own:
        by itself it takes them from a hash table, whose order changes from run to run.
        """
        first = wanted.specials(unknown=True)
        wanted.refuse_below(len(first) + 2, "the special tokens, and characters")
        most = (wanted.size - len(first)) // 2
        known = [c for c in characters_of(texts, wanted) if not c.isspace()][:most]
        alphabet = [*sorted(known), *(PREFIX + each for each in sorted(known))]
        made = Tokenizer(models.WordPiece(unk_token=UNKNOWN, max_input_chars_per_word=self.longest))
        if wanted.normalizer is not None:
            made.normalizer = wanted.normalizer
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece(prefix=PREFIX)
        trainer = trainers.WordPieceTrainer(
            vocab_size=wanted.size,
            special_tokens=[*first, *alphabet],
            initial_alphabet=sorted(known),
            limit_alphabet=len(known),
            continuing_subword_prefix=PREFIX,
            show_progress=False,
        )
        return without_added(learnt(made, texts, trainer).to_str(), alphabet)
