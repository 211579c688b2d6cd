"""Text generation as its callers see it: sampling parameters, and the protocol of generators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from lmwright.core.errors import BadInput


@dataclass(frozen=True)
class GenerationConfig:
    """A model's own constraints on its answers, by the names of ``generation_config.json``.

    Tokens that are known, a prompt's too, are made less likely by ``repetition_penalty`` (Keskar
    et al. 2019, section 4.1: logits above 0 are divided by it, others multiplied); no n-gram of
    ``no_repeat_ngram_size`` tokens occurs twice. Nothing ends before ``min_length`` tokens, the
    prompt's among them; where an answer is as long as it may be, its last token is one of
    ``forced_eos_token_id``. It does not begin with one of ``begin_suppress_tokens``.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_length: int = 0
    forced_eos_token_id: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()

    def over(self, other: GenerationConfig) -> GenerationConfig:
        """These settings where they are other than the defaults, else those of ``other``."""
        plain = GenerationConfig()
        changed = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name) != getattr(plain, each.name)
        }
        return replace(other, **changed)


@dataclass(frozen=True)
class SamplingParams:
    """Decoding parameters of one request.

    ``temperature`` 0 takes the likeliest token, else logits are divided by it; of the likeliest
    ``top_k`` (0: all) those stay that are needed for a probability of ``top_p`` (Holtzman et al.
    2020, section 3.1), that are at least ``min_p`` times as likely as the likeliest (Nguyen et al.
    2024), and of the most typical ones those needed for a probability of ``typical_p`` (Meister et
    al. 2023, section 4). With ``beams`` above 1 that many hypotheses are kept, their summed
    log-probabilities divided by their length to the power of ``length_penalty`` (Wu et al. 2016,
    section 7, in its simple form); ``beam_groups`` of them are searched one after another at each
    step, each with ``diversity_penalty`` for every time that an earlier one took the same token
    (Vijayakumar et al. 2018); every answer has the ``required`` phrases (Post and Vilar 2018). With
    ``penalty_alpha`` above 0 that one of the ``top_k`` likeliest tokens is taken which is likeliest
    and least like what went before, weighed 1 - alpha to alpha (contrastive search, Su et al.
    2022). An answer ends with one of ``stop_ids``, which is given too, or after ``max_new_tokens``.

    Before all of that ``logit_bias`` is added to the logits of some ids, and from those of each
    token that the answer has already ``presence_penalty`` is taken once and ``frequency_penalty``
    each time. An answer begins with ``forced_bos_id``, if that is given (a translator's language,
    say), and has none of the ``banned_ids`` and none of the ``banned`` phrases, which are runs of
    ids as those that are required; ``generation_config`` goes before the model's own.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    stop_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    forced_bos_id: int | None = None
    banned_ids: tuple[int, ...] = ()
    generation_config: GenerationConfig = GenerationConfig()
    min_p: float = 0.0
    typical_p: float = 1.0
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    penalty_alpha: float = 0.0
    banned: tuple[tuple[int, ...], ...] = ()
    required: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        ranges = {
            "max_new_tokens": self.max_new_tokens >= 1,
            "temperature": 0 <= self.temperature < float("inf"),
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "beams": self.beams >= 1,
            "min_p": 0 <= self.min_p <= 1,
            "typical_p": 0 < self.typical_p <= 1,
            "beam_groups": self.beam_groups >= 1 and self.beams % self.beam_groups == 0,
            "diversity_penalty": 0 <= self.diversity_penalty < float("inf"),
            "penalty_alpha": 0 <= self.penalty_alpha <= 1,
        }
        for name, right in ranges.items():
            if not right:
                raise BadInput(f"{name} {getattr(self, name)}", "a number in its range")
        if self.beams > 1 and self.temperature:
            raise BadInput("beams with a temperature", "either", "leave temperature at 0")
        if self.beams > 1 and self.has_penalties:
            raise BadInput("beams with a bias or a penalty", "either", "leave them out")
        if not all((*self.banned, *self.required)) and (self.banned or self.required):
            raise BadInput("an empty phrase that is banned or required", "tokens", "leave it out")
        if self.required and (self.beams == 1 or self.beam_groups > 1):
            raise BadInput("required phrases", "beams above 1, in one group", "set beams to 4")
        if self.diversity_penalty and self.beam_groups == 1:
            raise BadInput("a diversity penalty", "groups of beams", "set beam_groups to 2 or more")
        if self.penalty_alpha and (self.beams > 1 or self.temperature or self.top_k < 2):
            raise BadInput(
                "contrastive search with beams, a temperature or without top_k",
                "penalty_alpha with top_k of 2 or more alone",
                "set top_k to 4, beams to 1 and temperature to 0",
            )

    @property
    def has_penalties(self) -> bool:
        """Whether a bias or a penalty changes the model's logits."""
        return bool(self.logit_bias or self.presence_penalty or self.frequency_penalty)


class Generator(Protocol):
    """A language model, local or hosted. Stop ids are the model's own."""

    def complete(self, text: str, params: SamplingParams, seed: int = 0) -> Iterator[str]:
        """The continuation of a text, streamed."""

    def reply(
        self, messages: Sequence[Mapping[str, Any]], params: SamplingParams, seed: int = 0
    ) -> Iterator[str]:
        """The answer to a conversation, streamed."""


def is_hosted(address: str) -> bool:
    """Whether an address is that of a model behind an endpoint: ``hosted:MODEL@URL``."""
    return address.startswith("hosted:")
