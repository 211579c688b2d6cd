"""How a text model writes: ids that begin, end and never stand in an answer, the chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.core.settings import read_settings
from lmwright.models.core.spec import STRICT
from lmwright.models.files.folder import Published, ids_of
from lmwright.text.generation import GenerationConfig

END_OF_TURN_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>")
"""Control tokens with which published chat models end an answer, beside their own EOS."""


@dataclass(frozen=True)
class Generation:
    """Generation settings that go with a model, beside what its tokenizer says.

    ``stop_ids`` end an answer, as the tokenizer's end tokens do; ``decoder_start_id`` is the first
    input of a decoder with an encoder, which reads the prompt as its source. An answer's first
    token is ``forced_bos_id``, if given; none is among ``banned_ids``, and all keep to ``config``.
    ``template`` is the chat template, if there is one.
    """

    __pydantic_config__ = STRICT
    stop_ids: tuple[int, ...] = ()
    decoder_start_id: int | None = None
    forced_bos_id: int | None = None
    banned_ids: tuple[int, ...] = ()
    config: GenerationConfig = field(default_factory=GenerationConfig)
    template: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON value that :func:`read_generation` reads back."""
        return asdict(self)


def read_generation(value: Any, where: str) -> Generation:
    """Generation settings from their JSON value; BadInput names a fault."""
    if not isinstance(value, Mapping):
        raise BadInput(f"{where}: generation is {value!r}", "generation settings")
    return read_settings(Generation, value, f"{where}: generation")


def generation_of_published(published: Published) -> Generation:
    """The generation settings of a published model; BadInput for ids beyond its vocabulary."""
    described, start = published.described, None
    if published.spec.has_encoder:
        start = described.decoder_start_id or 0
    words = published.spec.stacks[-1].embedding.vocabulary
    config = read_generation_config(described.generation)
    named = {
        "forced_bos_token_id": ()
        if described.forced_bos_id is None
        else (described.forced_bos_id,),
        "bad_words_ids or suppress_tokens": described.banned_ids,
        "forced_eos_token_id": config.forced_eos_token_id,
        "begin_suppress_tokens": config.begin_suppress_tokens,
    }
    for name, number in ((name, number) for name, ids in named.items() for number in ids):
        if not 0 <= number < words:
            raise BadInput(
                f"{name} names token {number}",
                f"one of the model's {words}",
                "take all files from the same model",
            )
    return Generation(
        described.stop_ids,
        start,
        described.forced_bos_id,
        described.banned_ids,
        config,
        described.template,
    )


def read_generation_config(said: Mapping[str, Any]) -> GenerationConfig:
    """The constraints in a ``generation_config.json``; BadInput for a value out of its range."""
    config = GenerationConfig(
        repetition_penalty=said.get("repetition_penalty") or 1.0,
        no_repeat_ngram_size=said.get("no_repeat_ngram_size") or 0,
        min_length=said.get("min_length") or 0,
        forced_eos_token_id=ids_of(said.get("forced_eos_token_id")),
        begin_suppress_tokens=ids_of(said.get("begin_suppress_tokens")),
    )
    right = {
        "repetition_penalty": isinstance(config.repetition_penalty, int | float)
        and 0 < config.repetition_penalty < float("inf"),
        "no_repeat_ngram_size": type(config.no_repeat_ngram_size) is int
        and config.no_repeat_ngram_size >= 0,
        "min_length": type(config.min_length) is int and config.min_length >= 0,
    }
    for name, good in right.items():
        if not good:
            raise BadInput(
                f"{name} is {getattr(config, name)!r} in generation_config.json or config.json",
                "a number in its range",
                "mend it, or take it out",
            )
    return config
