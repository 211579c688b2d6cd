"""A causal language model with its tokenizer, chat template and generation settings."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from lmwright.core.errors import BadInput, nearest
from lmwright.core.random import stream
from lmwright.models.decode import (
    CausalLM,
    SampledToken,
    beam_search,
    check_causal,
    check_length,
    generate,
)
from lmwright.models.files.folder import Published, ids_of
from lmwright.models.network.network import Network, build, fill
from lmwright.text.chat import ChatTemplate
from lmwright.text.generation import GenerationConfig, SamplingParams
from lmwright.text.tokenizer import Tokenizer

N = TypeVar("N", bound=CausalLM)

END_OF_TURN_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>")
"""Control tokens with which published chat models end an answer, beside their own EOS."""


@dataclass(frozen=True)
class DecodedToken:
    """A sampled token with its text, as far as that is certain."""

    text: str
    sampled: SampledToken


class LanguageModel(Generic[N]):
    """A published language model as text in, text out. fp32 on the CPU.

    ``stop_ids`` end an answer; ``decoder_start_id`` is the first input of a decoder with an
    encoder, which reads the prompt as its source. An answer's first token is ``forced_bos_id``, if
    given; none is among ``banned_ids``, and all keep to ``generation_config``.
    """

    def __init__(
        self,
        network: N,
        tokenizer: Tokenizer,
        stop_ids: tuple[int, ...],
        template: ChatTemplate | None = None,
        decoder_start_id: int | None = None,
        forced_bos_id: int | None = None,
        banned_ids: tuple[int, ...] = (),
        generation_config: GenerationConfig | None = None,
    ) -> None:
        check_causal(network)
        self.network, self.tokenizer, self.template = network, tokenizer, template
        turns = (tokenizer.control.get(name) for name in END_OF_TURN_TOKENS)
        more = (each for each in turns if each is not None)
        self.stop_ids = tuple(dict.fromkeys([*stop_ids, *more]))
        self.decoder_start_id, self.forced_bos_id = decoder_start_id, forced_bos_id
        self.banned_ids = banned_ids
        self.generation_config = generation_config or GenerationConfig()
        self.source_language_id: int | None = None

    @property
    def longest(self) -> int | None:
        """The context length: prompt and answer together, in tokens."""
        return self.network.longest

    def for_languages(self, source: str, target: str) -> LanguageModel[N]:
        """This model as a translator from one language into another.

        Languages are named as the tokenizer's tokens do, with or without the lines round them
        (``fr``, ``__fr__``, ``fr_XX``); an empty name leaves what the files say. BadInput for
        a language without a token, and for a model that reads or writes none.
        """
        found = copy.copy(self)
        if source:
            found.source_language_id = self.language_id(source)
            if "language" not in self.tokenizer.roles:
                raise BadInput(
                    f"a source in {source}",
                    "a model whose texts say their language",
                    "leave it out",
                )
        if target:
            found.forced_bos_id = self.language_id(target)
        return found

    def language_id(self, name: str) -> int:
        """The id of a language's token; BadInput if there is none."""
        if self.decoder_start_id is None:
            raise BadInput("a language for a model without an encoder", "a translator")
        for spelt in (name, f"__{name}__"):
            if spelt in self.tokenizer.control:
                return self.tokenizer.control[spelt]
        raise BadInput(
            f"no token says {name!r}",
            "a language as the model's tokens name it",
            nearest(name, [each.strip("_") for each in self.tokenizer.control]),
        )

    def prompt_ids(self, text: str) -> np.ndarray:
        """The ids of a prompt, with the model's special tokens in front; BadInput if empty.

        Special tokens that the tokenizer appends to a finished text are left out, as the text goes
        on; not behind a source, which is finished.
        """
        whole, least = self.tokenizer.encode([text], 1 << 30)[0], 1
        if self.decoder_start_id is None:
            whole = whole[: len(whole) - self.tokenizer.suffix_length()]
        else:
            least += len(self.tokenizer.encode([""], 64)[0])
            if self.source_language_id is not None:
                own = self.tokenizer.roles["language"][0]
                whole[whole == own] = self.source_language_id
        if len(whole) < least:
            raise BadInput("an empty prompt", "a text to go on from")
        return whole

    def chat_ids(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> np.ndarray:
        """The ids of a conversation with a generation prompt; BadInput without a template."""
        if self.template is None:
            raise BadInput(
                "this model has no chat template", "a model tuned for chats", "use it to complete"
            )
        return self.template.ids(self.tokenizer, messages, add_generation_prompt=True, **settings)

    def token_budget(self, prompt: np.ndarray) -> int:
        """The most new tokens that the context length allows; BadInput where there are none."""
        used = 1 if self.decoder_start_id is not None else len(prompt)
        check_length(self.network, max(used, len(prompt)) + (self.decoder_start_id is None))
        return (self.longest - used) if self.longest is not None else 1 << 20

    def complete(self, text: str, params: SamplingParams, seed: int = 0) -> Iterator[str]:
        """The continuation of a text, streamed, within the context length."""
        return self.stream_text(self.prompt_ids(text), params, seed)

    def reply(
        self, messages: Sequence[Mapping[str, Any]], params: SamplingParams, seed: int = 0
    ) -> Iterator[str]:
        """The answer to a conversation, streamed."""
        return self.stream_text(self.chat_ids(messages), params, seed)

    def stream_text(self, prompt: np.ndarray, params: SamplingParams, seed: int) -> Iterator[str]:
        """The texts of an answer; the same as a server draws for the same seed."""
        most = min(params.max_new_tokens, self.token_budget(prompt))
        params = replace(params, max_new_tokens=most, stop_ids=self.stop_ids)
        rng = stream(seed, "answer", 0)
        return (token.text for token in self.generate(prompt, params, rng))

    def generate(
        self, prompt: np.ndarray, params: SamplingParams, rng: np.random.Generator
    ) -> Iterator[DecodedToken]:
        """The answer to a prompt, token by token; the stop token has no text.

        Of beams the best answer, once it is whole.
        """
        forced = self.forced_bos_id if params.forced_bos_id is None else params.forced_bos_id
        params = replace(
            params,
            forced_bos_id=forced,
            banned_ids=self.banned_ids,
            generation_config=self.generation_config,
        )
        begin, sources, text = prompt, None, self.tokenizer.detokenizer()
        if self.decoder_start_id is not None:
            begin, sources = np.array([self.decoder_start_id]), [prompt]
        else:
            text.follow(prompt.tolist())  # the space between them belongs to the answer
        if params.beams > 1:
            source = None if sources is None else sources[0]
            best = beam_search(self.network, begin, params, source)[0]
            pairs = zip(best.tokens, best.logprobs, strict=True)
            tokens = (SampledToken(token, logprobs) for token, logprobs in pairs)
        else:
            steps = generate(self.network, [begin], params, rng, sources)
            tokens = (step[0] for step in steps)
        for token in tokens:
            if token.id in params.stop_ids:
                yield DecodedToken(text.finish(), token)
                return
            yield DecodedToken(text.push([token.id]), token)
        if rest := text.finish():
            yield DecodedToken(rest, token)


def language_model(published: Published) -> LanguageModel[Network]:
    """The language model of a published model; BadInput if it is none, or lacks its head."""
    if "lm" not in published.described.heads:
        raise BadInput(f"a {published.family.name} model", "a language model")
    head = published.described.heads["lm"]
    _, weights = published.heads.get("lm", (head, {}))
    network = build(published.family.generation_spec(published.spec), head)
    check_causal(network)
    fill(network, {**published.weights, **published.more, **weights})
    missing = [name for name, weight in network.named_parameters() if weight.is_meta]
    if missing:
        raise BadInput(
            f"the model has no {missing[0]}", "a language model with its head", "take another file"
        )
    described, start = published.described, None
    if any(stack.name == "encoder" for stack in published.spec.stacks[:-1]):
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
    return make_language_model(
        network,
        published.tokenizer,
        described.stop_ids,
        described.template,
        decoder_start_id=start,
        forced_bos_id=described.forced_bos_id,
        banned_ids=described.banned_ids,
        generation_config=config,
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


def make_language_model(
    network: N,
    tokenizer: Tokenizer,
    stop_ids: tuple[int, ...],
    template: str = "",
    **more: Any,
) -> LanguageModel[N]:
    """A network with its tokenizer, whose EOS joins ``stop_ids``; an empty template is none.

    ``more``: further arguments of :class:`LanguageModel`.
    """
    all_stop_ids = (*stop_ids, *tokenizer.roles.get("eos", ()))
    chats = (
        ChatTemplate(template, tokenizer.special_text(), tokenizer.control) if template else None
    )
    return LanguageModel(network, tokenizer, all_stop_ids, chats, **more)
