"""Unigram (Kudo 2018), as SentencePiece trains it: the likeliest pieces of each text.

The trainer of tokenizers gives other pieces at every run; SentencePiece's, with one thread, the
same.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.text.formats.sentencepiece import read_sentencepiece
from lmwright.text.trainers.training import UNKNOWN, Texts, Wanted, normalizer_json, spelled

LINE = 4000
"""Characters of a text that SentencePiece is given at a time; it is slow on longer pieces."""


@dataclass(frozen=True, kw_only=True)
class Unigram(Settings):
    """Pieces with probabilities, fitted by expectation maximisation.

    ``fallback`` spells a character that the vocabulary has not by its bytes; else it is unknown.
    ``coverage`` is the share of all characters that the vocabulary has.
    """

    fallback: bool = True
    coverage: float = 0.9995

    def check(self) -> None:
        """BadInput for a share that is none."""
        if not 0.9 <= self.coverage <= 1:
            raise BadInput(f"coverage is {self.coverage}", "a share from 0.9 to 1")

    def train(self, texts: Texts, wanted: Wanted) -> bytes:
        """The tokenizer.json of SentencePiece's model."""
        import sentencepiece

        begin, end, *further = wanted.special
        least = len(wanted.special) + 1 + 256 * self.fallback + 16
        wanted.refuse_below(least, "every byte, the special tokens, and pieces")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines(texts, wanted),
                model_writer=model,
                model_type="unigram",
                vocab_size=wanted.size,
                hard_vocab_limit=False,
                bos_id=0,
                bos_piece=begin,
                eos_id=1,
                eos_piece=end,
                unk_id=2,
                unk_piece=UNKNOWN,
                pad_id=-1,
                control_symbols=further,
                user_defined_symbols=["\n"],
                byte_fallback=self.fallback,
                character_coverage=self.coverage,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                max_sentence_length=8 * LINE,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise BadInput(
                f"SentencePiece trains no vocabulary of {wanted.size} tokens on these texts "
                f"({str(error).splitlines()[-1][:200]})",
                "more text, or a size that fits it",
                "lower vocabulary",
            ) from None
        return normalised(as_json(model.getvalue()), wanted)


def lines(texts: Texts, wanted: Wanted) -> Iterator[str]:
    """The normalised texts' lines, long ones in parts."""
    normalizer = wanted.normalizer
    for text in spelled(texts):
        for line in (normalizer.normalize_str(text) if normalizer else text).split("\n"):
            for start in range(0, len(line), LINE):
                yield line[start : start + LINE]


def as_json(model: bytes) -> dict[str, Any]:
    """SentencePiece's model as a tokenizer.json."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        path.write_bytes(model)
        found: dict[str, Any] = json.loads(read_sentencepiece(path).data)
    return found


def normalised(described: dict[str, Any], wanted: Wanted) -> bytes:
    """The same tokenizer behind the steps of normalisation that its texts had passed."""
    if (own := normalizer_json(wanted)) is not None:
        steps = [own, *described["normalizer"]["normalizers"]]
        described["normalizer"] = {"type": "Sequence", "normalizers": steps}
    return json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
