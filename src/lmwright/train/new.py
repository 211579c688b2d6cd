"""Starts that nobody has published: a drawn network, and a tokenizer trained on the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.core.spec import Head
from lmwright.models.family.family import Family
from lmwright.models.files.published import check_address, is_gguf, located, read_published
from lmwright.models.text_model import TextModel, newly_drawn
from lmwright.tables import module_of, resolve
from lmwright.text.tokenizer import Tokenizer, read_tokenizer
from lmwright.text.trainers.bpe import BPE
from lmwright.text.trainers.training import Wanted

SPECIAL = ("<s>", "</s>")


@dataclass(frozen=True, kw_only=True)
class New(Settings):
    """A model to be drawn: the setting ``new`` of a training.

    ``family`` names one of ``tables.FAMILIES``, ``config`` holds the fields of its published
    configs that differ from the family's own; the vocabulary's size is set. ``vocabulary`` is that
    of a byte-level BPE trained on the training rows (Sennrich et al. 2016; Radford et al. 2019).
    ``tokenizer`` is the address of a published model whose own is taken instead, so that the model
    can learn of a teacher with the same tokens.
    """

    family: str
    config: dict[str, Any] = field(default_factory=dict)
    vocabulary: int = 2000
    tokenizer: str = ""

    def check(self) -> None:
        """BadInput for an unknown family or a vocabulary that cannot hold every byte."""
        module_of("families", self.family)
        if self.vocabulary < 256 + len(SPECIAL):
            raise BadInput(
                f"new.vocabulary is {self.vocabulary}", f"at least {256 + len(SPECIAL)} tokens"
            )
        if self.tokenizer:
            check_address(self.tokenizer)

    def model(
        self, texts: Sequence[str], head: Head | str, max_tokens: int, seed: int
    ) -> TextModel:
        """The model before its first step."""
        if self.tokenizer:
            tokenizer = tokenizer_at(self.tokenizer)
        else:
            tokenizer = train_tokenizer(texts, self.vocabulary)
        return self.drawn(tokenizer, head, max_tokens, seed)

    def drawn(
        self, tokenizer: Tokenizer, head: Head | str, max_tokens: int, seed: int
    ) -> TextModel:
        """A network drawn from ``seed`` for the tokens of ``tokenizer``."""
        ends = {name: (tokenizer.roles.get(name) or (None,))[0] for name in ("bos", "eos")}
        family: Family = resolve("families", self.family)
        config = {
            **self.config,
            "vocab_size": tokenizer.size(),
            "bos_token_id": ends["bos"],
            "eos_token_id": ends["eos"],
            "pad_token_id": None,
        }
        spec = family.spec(config)
        if isinstance(head, str):
            if head not in family.heads:
                raise BadInput(f"the family {self.family} has no head {head!r}", "one that has")
            return newly_drawn(
                family.generation_spec(spec),
                family.heads[head](config, spec)[0],
                tokenizer,
                max_tokens,
                seed,
                self.family,
            )
        return newly_drawn(spec, head, tokenizer, max_tokens, seed, self.family)


def tokenizer_at(address: str) -> Tokenizer:
    """The tokenizer of a published model."""
    path = located(address, weights=False)
    return read_published(address).tokenizer if is_gguf(path) else read_tokenizer(path)


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE with a start and an end token; the same texts give the same bytes."""
    data = BPE().train(lambda: iter(texts), Wanted(vocabulary, SPECIAL))
    return Tokenizer(data, "tokenizer.json", {"bos": (0,), "eos": (1,)})
