"""From characters to ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.hashing import hash_bytes


class Tokenizer:
    """A ``tokenizer.json``, kept with its bytes so that it is saved as it was read.

    Padding and truncation that the file asks for are switched off: lengths are ours to set.
    What a person types is text, even where it spells a special token.
    """

    def __init__(self, data: bytes, where: str = "tokenizer.json") -> None:
        self.data = data
        try:
            self.inner = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises bare Exceptions
            raise Corrupt(
                f"{where}: {error}", "a tokenizer.json", "fetch or copy the file again"
            ) from None
        self.inner.no_padding()
        self.inner.no_truncation()
        self.inner.encode_special_tokens = True

    def encode(self, texts: Sequence[str], most: int) -> list[np.ndarray]:
        """The ids (int32) of each text with its special tokens, cut to ``most`` tokens."""
        self.inner.enable_truncation(most)
        found = self.inner.encode_batch_fast([well_formed(text) for text in texts])
        return [np.array(each.ids, dtype=np.int32) for each in found]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens left out."""
        return self.inner.decode([int(each) for each in ids])

    def highest(self) -> int:
        """The highest id that a text can become."""
        return max(self.inner.get_vocab(with_added_tokens=True).values())

    def hash(self) -> str:
        """SHA-256 of the file's bytes."""
        return hash_bytes(self.data)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``; BadInput if absent, Corrupt if it is not one."""
    if not path.is_file():
        raise BadInput(f"{path} is not there", "a tokenizer.json", "fetch or copy it again")
    return Tokenizer(path.read_bytes(), str(path))


def well_formed(text: str) -> str:
    """The text with lone surrogates, which no UTF-8 has, replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
