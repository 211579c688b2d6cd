"""A model that writes: tokenizer, network, how its chats are spelt, and what ends an answer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from lmwright.core.errors import BadInput, nearest
from lmwright.core.random import stream
from lmwright.models.decode import (
    Decoding,
    Foretells,
    Pick,
    Rules,
    beam_search,
    generate,
    refuse_long,
    refuse_other,
)
from lmwright.models.files.folder import Published, ids_of
from lmwright.models.network.network import Network, build, fill
from lmwright.text.chat import ChatTemplate
from lmwright.text.tokenizer import Tokenizer

N = TypeVar("N", bound=Foretells)

ENDS_OF_TURNS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>")
"""Control tokens with which published chat models end an answer, beside the one that they name."""


@dataclass(frozen=True)
class Piece:
    """A token of an answer: its text as far as it is certain, and the pick behind it."""

    text: str
    pick: Pick


class LanguageModel(Generic[N]):
    """What a published language model gives as text. fp32 on the CPU.

    ``ends`` are the ids that end an answer; ``start`` is what a decoder with an encoder begins
    with, which reads the prompt as its source. An answer's first token is ``first``, if given;
    none is among ``never``, and all keep the model's ``rules``.
    """

    def __init__(
        self,
        network: N,
        tokenizer: Tokenizer,
        ends: tuple[int, ...],
        template: ChatTemplate | None = None,
        start: int | None = None,
        first: int | None = None,
        never: tuple[int, ...] = (),
        rules: Rules | None = None,
    ) -> None:
        refuse_other(network)
        self.network, self.tokenizer, self.template = network, tokenizer, template
        turns = (tokenizer.control.get(name) for name in ENDS_OF_TURNS)
        self.ends = tuple(dict.fromkeys([*ends, *(each for each in turns if each is not None)]))
        self.start, self.first, self.never = start, first, never
        self.rules = rules or Rules()
        self.source: int | None = None

    @property
    def longest(self) -> int | None:
        """The longest prompt and answer together, in tokens."""
        return self.network.longest

    def between(self, source: str, target: str) -> LanguageModel[N]:
        """The same model as a translator of texts in one language into another.

        Languages are named as the tokenizer's tokens do, with or without the lines round them
        (``fr``, ``__fr__``, ``fr_XX``); an empty name leaves what the files say. BadInput for
        a language without a token, and for a model that reads or writes none.
        """
        found = copy.copy(self)
        if source:
            found.source = self.language(source)
            if "language" not in self.tokenizer.roles:
                raise BadInput(
                    f"a source in {source}",
                    "a model whose texts say their language",
                    "leave it out",
                )
        if target:
            found.first = self.language(target)
        return found

    def language(self, name: str) -> int:
        """The id of a language's token; BadInput if there is none."""
        if self.start is None:
            raise BadInput("a language for a model without an encoder", "a translator")
        for spelt in (name, f"__{name}__"):
            if spelt in self.tokenizer.control:
                return self.tokenizer.control[spelt]
        raise BadInput(
            f"no token says {name!r}",
            "a language as the model's tokens name it",
            nearest(name, [each.strip("_") for each in self.tokenizer.control]),
        )

    def prompt(self, text: str) -> np.ndarray:
        """The ids of a prompt, with what the model wants in front; BadInput if there are none.

        What the tokenizer would put behind a finished text is left out, as the text goes on; not
        behind a source, which is finished.
        """
        whole, least = self.tokenizer.encode([text], 1 << 30)[0], 1
        if self.start is None:
            whole = whole[: len(whole) - self.tokenizer.behind()]
        else:
            least += len(self.tokenizer.encode([""], 64)[0])
            if self.source is not None:
                whole[whole == self.tokenizer.roles["language"][0]] = self.source
        if len(whole) < least:
            raise BadInput("an empty prompt", "a text to go on from")
        return whole

    def chat(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> np.ndarray:
        """The ids of a conversation that the model is to answer; BadInput without a template."""
        if self.template is None:
            raise BadInput(
                "this model has no chat template", "a model tuned for chats", "use it to complete"
            )
        return self.template.ids(self.tokenizer, messages, add_generation_prompt=True, **settings)

    def room(self, prompt: np.ndarray) -> int:
        """How many tokens an answer may have; BadInput for a prompt that leaves none."""
        used = 1 if self.start is not None else len(prompt)
        refuse_long(self.network, max(used, len(prompt)) + (self.start is None))
        return (self.longest - used) if self.longest is not None else 1 << 20

    def complete(self, text: str, how: Decoding, seed: int = 0) -> Iterator[str]:
        """What follows a text, piece by piece, within the room that there is."""
        return self.texts(self.prompt(text), how, seed)

    def reply(
        self, messages: Sequence[Mapping[str, Any]], how: Decoding, seed: int = 0
    ) -> Iterator[str]:
        """The answer to a conversation, piece by piece."""
        return self.texts(self.chat(messages), how, seed)

    def texts(self, prompt: np.ndarray, how: Decoding, seed: int) -> Iterator[str]:
        """The texts of an answer; what is drawn is what a server draws for the same seed."""
        decoding = replace(how, most=min(how.most, self.room(prompt)), ends=self.ends)
        rng = stream(seed, "answer", 0)
        return (piece.text for piece in self.answer(prompt, decoding, rng))

    def answer(
        self, prompt: np.ndarray, decoding: Decoding, rng: np.random.Generator
    ) -> Iterator[Piece]:
        """What follows a prompt, token by token; the one that ends it is not text.

        Of beams the best answer, once it is whole.
        """
        first = self.first if decoding.first is None else decoding.first
        decoding = replace(decoding, first=first, never=self.never, rules=self.rules)
        begin, sources, text = prompt, None, self.tokenizer.stream()
        if self.start is not None:
            begin, sources = np.array([self.start]), [prompt]
        else:
            text.follow(prompt.tolist())  # the space between them belongs to the answer
        if decoding.beams > 1:
            source = None if sources is None else sources[0]
            best = beam_search(self.network, begin, decoding, source)[0]
            picks = (Pick(token, logs) for token, logs in zip(best.tokens, best.logs, strict=True))
        else:
            steps = generate(self.network, [begin], decoding, rng, sources)
            picks = (step[0] for step in steps)
        for pick in picks:
            if pick.token in decoding.ends:
                yield Piece(text.finish(), pick)
                return
            yield Piece(text.push([pick.token]), pick)
        if rest := text.finish():
            yield Piece(rest, pick)


def language_model(published: Published) -> LanguageModel[Network]:
    """The language model of what was published; BadInput if it is none, or lacks its head."""
    if "lm" not in published.described.heads:
        raise BadInput(f"a {published.family.name} model", "a language model")
    head = published.described.heads["lm"]
    _, weights = published.heads.get("lm", (head, {}))
    network = build(published.family.generation_spec(published.spec), head)
    refuse_other(network)
    fill(network, {**published.weights, **published.more, **weights})
    missing = [name for name, weight in network.named_parameters() if weight.is_meta]
    if missing:
        raise BadInput(
            f"the model has no {missing[0]}", "a language model with its head", "take another file"
        )
    said, start = published.described, None
    if any(stack.name == "encoder" for stack in published.spec.stacks[:-1]):
        start = said.start or 0
    words = published.spec.stacks[-1].embedding.vocabulary
    rules = rules_of(said.generation)
    named = {
        "forced_bos_token_id": () if said.first is None else (said.first,),
        "bad_words_ids or suppress_tokens": said.never,
        "forced_eos_token_id": rules.forced_eos_token_id,
        "begin_suppress_tokens": rules.begin_suppress_tokens,
    }
    for name, number in ((name, number) for name, ids in named.items() for number in ids):
        if not 0 <= number < words:
            raise BadInput(
                f"{name} names token {number}",
                f"one of the model's {words}",
                "take all files from the same model",
            )
    more = {"start": start, "first": said.first, "never": said.never, "rules": rules}
    return speaking(network, published.tokenizer, said.ends, said.template, **more)


def rules_of(said: Mapping[str, Any]) -> Rules:
    """The rules that a generation config names; BadInput for one that is none."""
    rules = Rules(
        repetition_penalty=said.get("repetition_penalty") or 1.0,
        no_repeat_ngram_size=said.get("no_repeat_ngram_size") or 0,
        min_length=said.get("min_length") or 0,
        forced_eos_token_id=ids_of(said.get("forced_eos_token_id")),
        begin_suppress_tokens=ids_of(said.get("begin_suppress_tokens")),
    )
    right = {
        "repetition_penalty": isinstance(rules.repetition_penalty, int | float)
        and 0 < rules.repetition_penalty < float("inf"),
        "no_repeat_ngram_size": type(rules.no_repeat_ngram_size) is int
        and rules.no_repeat_ngram_size >= 0,
        "min_length": type(rules.min_length) is int and rules.min_length >= 0,
    }
    for name, good in right.items():
        if not good:
            raise BadInput(
                f"{name} is {getattr(rules, name)!r} in generation_config.json or config.json",
                "a number in its range",
                "mend it, or take it out",
            )
    return rules


def speaking(
    network: N,
    tokenizer: Tokenizer,
    ends: tuple[int, ...],
    template: str = "",
    **more: Any,
) -> LanguageModel[N]:
    """A network with its tokenizer, whose own end joins ``ends``; no template is an empty one.

    ``more``: what else a :class:`LanguageModel` takes.
    """
    all_ends = (*ends, *tokenizer.roles.get("eos", ()))
    chats = (
        ChatTemplate(template, tokenizer.special_text(), tokenizer.control) if template else None
    )
    return LanguageModel(network, tokenizer, all_ends, chats, **more)
