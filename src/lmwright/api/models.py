"""Models to ask from Python: a version of a store, or a published model at its address."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lmwright.core.columns import Row
from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_prepared
from lmwright.core.task import Task, refusal_of, role_columns
from lmwright.hosted.chat import open_hosted
from lmwright.models.answering import place_to_answer
from lmwright.models.core.device import (
    Device,
    Precision,
    emulation_in_words,
    resolve_placement,
)
from lmwright.models.core.spec import Head
from lmwright.models.files.published import describe, read_published
from lmwright.models.loading import is_model_address, load_text_model, runs_elsewhere
from lmwright.models.placement import refuse_unplaced
from lmwright.models.text_model import LONGEST, TextModel, TextPredictor, from_published
from lmwright.serve.generation import StopFilter
from lmwright.serve.load import answer_rows, load_version
from lmwright.serve.request import RequestFault, read_row
from lmwright.serve.rows import Loaded
from lmwright.serve.version_model import VersionModel
from lmwright.store.open import default_folder, existing_store
from lmwright.text.generation import GenerationConfig, Generator, SamplingParams, is_hosted

MOST_CHARACTERS = 1 << 30
"""Characters of a text: a caller of this process may send what a client of a server may not."""

Message = Mapping[str, str]
Prompt = str | Sequence[Message]


def load(
    name: str | PathLike[str],
    store: str | PathLike[str] | None = None,
    key_from: str = "",
    *,
    device: Device = "auto",
    precision: Precision = "auto",
) -> Model:
    """Load a model to ask.

    ``name`` is an alias (``reviews@production``) or the hash of a version in ``store`` (by default
    ``$LMWRIGHT_STORE``, or ``lmwright-store`` in the present folder), or the address of a published
    model: its folder, a .gguf file, ``asset:NAME/PATH``, ``hub:OWNER/NAME``, or
    ``hosted:MODEL@https://HOST/v1`` with the variable ``key_from`` that holds the key. Its networks
    run on ``device`` (auto, cpu or cuda), their products in ``precision`` (auto, fp32, bf16,
    int8 or int4; auto: that of versions as ``serve`` has it, of published models as ``generate``).
    BadInput says what there is instead.
    """
    address = str(name)
    if key_from and not is_hosted(address):
        raise BadInput("a key for a model of this machine", "a hosted model", "leave it out")
    if is_hosted(address):
        refuse_unplaced(device, precision, address)
        return Writer(address, open_hosted(address, key_from))
    if words := emulation_in_words(resolve_placement(device, precision)):
        say(words)
    if not is_model_address(address):
        folder = default_folder() if store is None else Path(store)
        return Version(address, load_version(existing_store(folder), address, device, precision))
    if store is not None:
        raise BadInput(f"a store for {address}", "an alias or a version", "leave it out")
    if runs_elsewhere(address) or describe(address).spec.stacks[-1].is_causal:
        writer = load_text_model(address, say)
        place_to_answer(writer, device, precision, say)
        return Writer(address, writer)
    published = read_published(address)
    most = min(published.spec.longest or LONGEST, LONGEST)
    encoder = from_published(published, Head(pool="mean", outputs=1), most, 0)
    place_to_answer(encoder, device, precision, say)
    return Encoder(address, encoder)


def say(line: str) -> None:
    """What a person should know of how a model runs, on stderr."""
    print(line, file=sys.stderr, flush=True)


class Model:
    """A model to ask. What its kind cannot do raises BadInput that says so."""

    does: str
    """What it does, for the refusal of what it does not."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}: {self.does}>"

    def __call__(self, rows: Any) -> Any:
        """Answer one row or many; a text stands for a row of one input."""
        raise self.refusal("answers no rows")

    def embed(self, rows: Any) -> np.ndarray:
        """The vector of one row (d,), or those of many (n, d): float32, at length 1."""
        raise self.refusal("gives no vectors")

    def generate(
        self,
        prompt: Prompt | Sequence[str],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        penalty_alpha: float = 0.0,
        num_beams: int = 1,
        num_beam_groups: int = 1,
        diversity_penalty: float = 0.0,
        length_penalty: float = 1.0,
        repetition_penalty: float = 1.0,
        no_repeat_ngram_size: int = 0,
        bad_words: Sequence[str] = (),
        force_words: Sequence[str] = (),
        seed: int = 0,
        stop: str | Sequence[str] = (),
        stream: bool = False,
    ) -> Any:
        """Go on from a text, or answer a conversation (messages with ``role`` and ``content``).

        The answer's text; a list of texts for a list of prompts, each as it would be by itself;
        with ``stream`` an iterator of the parts of one answer as they are made. Sampling is that of
        :class:`~lmwright.text.generation.SamplingParams`: temperature 0 takes the likeliest token.
        The same seed gives the same answer, here and from a server. An answer ends before the first
        of the texts ``stop``, has none of the phrases ``bad_words`` and, with beams, all of the
        phrases ``force_words``, as they stand within a text.
        """
        params = SamplingParams(
            max_new_tokens,
            temperature,
            top_k,
            top_p,
            num_beams,
            length_penalty,
            generation_config=GenerationConfig(
                repetition_penalty=repetition_penalty, no_repeat_ngram_size=no_repeat_ngram_size
            ),
            min_p=min_p,
            typical_p=typical_p,
            beam_groups=num_beam_groups,
            diversity_penalty=diversity_penalty,
            penalty_alpha=penalty_alpha,
            banned=self.phrases(bad_words, alone=True),
            required=self.phrases(force_words, alone=False),
        )
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(isinstance(each, str) and each for each in stops):
            raise BadInput(f"stop {stop!r}", "a text that is not empty, or several")
        if isinstance(prompt, str) or is_conversation(prompt):
            parts = until_stop(self.begin(prompt, params, seed), stops)
            return parts if stream else "".join(parts)
        if stream:
            raise BadInput(f"a stream of {len(prompt)} prompts", "one prompt")
        return ["".join(until_stop(self.begin(each, params, seed), stops)) for each in prompt]

    def begin(self, prompt: Any, params: SamplingParams, seed: int) -> Iterator[str]:
        """The parts of the answer to one prompt, up to the model's own end."""
        raise self.refusal("writes nothing")

    def phrases(self, texts: Sequence[str], alone: bool) -> tuple[tuple[int, ...], ...]:
        """The ids of phrases within a text (``alone``: and at its beginning); BadInput where no
        model of this machine writes."""
        model = self.text_model
        if texts and model is None:
            raise self.refusal("bans and requires no phrases")
        return () if model is None or not texts else model.phrases(texts, alone)

    @property
    def text_model(self) -> TextModel | None:
        """The text model that writes, if it is one of this machine."""
        return None

    def refusal(self, what: str) -> BadInput:
        """The fault of something that this kind of model cannot do."""
        return BadInput(f"{self.name} {what}", f"a model that does; this one {self.does}")


class Version(Model):
    """A version of a store: it answers the rows of its task as a server would."""

    def __init__(self, name: str, loaded: Loaded) -> None:
        super().__init__(name)
        self.loaded = loaded
        self.does = f"answers {self.task.kind}"
        self.writing: VersionModel | None = None

    def __repr__(self) -> str:
        return f"<{self.name}, version {self.version}: {self.does}>"

    @property
    def version(self) -> str:
        """The id that a server's answers carry."""
        return self.loaded.version

    @property
    def task(self) -> Task:
        """The task that it answers."""
        return self.loaded.task

    def __call__(self, rows: Any) -> Any:
        """The answer to one row, or a list of them, as ``POST /v1/predict`` says them.

        A row is a mapping with the task's input columns, or, where there is only one, its text.
        """
        read, single = self.read(rows)
        answers = answer_rows(self.loaded, read) if read else []
        return answers[0] if single else answers

    def embed(self, rows: Any) -> np.ndarray:
        """The vectors that drift is watched by; BadInput for a kind of model without any."""
        read, single = self.read(rows)
        if not read:
            raise BadInput("no rows to embed", "one row at least")
        prepared = self.loaded.predictor.prepare(read)
        vectors = answer_prepared(self.loaded.predictor, prepared).vectors
        if vectors is None:
            raise self.refusal("gives no vectors")
        return vectors[0] if single else vectors

    @property
    def text_model(self) -> TextModel | None:
        """The version's, if it has one."""
        predictor = self.loaded.predictor
        return predictor.model if isinstance(predictor, TextPredictor) else None

    def begin(self, prompt: Any, params: SamplingParams, seed: int) -> Iterator[str]:
        """The continuation of a text or the answer to a conversation, read as the task reads it."""
        written = isinstance(self.loaded.predictor, TextPredictor)
        if not written or not {"completions", "chat-completions"} & {*self.task.contracts}:
            raise self.refusal("writes nothing")
        self.writing = self.writing or VersionModel(self.loaded)
        return begin(self.writing, prompt, params, seed)

    def read(self, rows: Any) -> tuple[list[Row], bool]:
        """The rows, each checked as a server checks it, and whether it is a single one."""
        single = isinstance(rows, str | Mapping)
        columns = role_columns(self.task, "input")
        found = []
        for place, row in enumerate([rows] if single else rows):
            given = {columns[0].name: row} if isinstance(row, str) and len(columns) == 1 else row
            try:
                found.append(read_row(given, columns, f"row {place}", MOST_CHARACTERS))
            except RequestFault as fault:
                names = ", ".join(column.name for column in columns)
                raise BadInput(fault.message, f"a mapping with {names}") from None
            if reason := refusal_of(self.task, found[-1]):
                raise BadInput(f"row {place}: {reason}", "inputs that ask for an answer")
        return found, single


class Writer(Model):
    """A published language model, of this machine or hosted."""

    does = "writes"

    def __init__(self, name: str, generator: Generator) -> None:
        super().__init__(name)
        self.generator = generator

    @property
    def text_model(self) -> TextModel | None:
        """The published model, if it is of this machine."""
        return self.generator if isinstance(self.generator, TextModel) else None

    def begin(self, prompt: Any, params: SamplingParams, seed: int) -> Iterator[str]:
        """The continuation of a text, or the answer to a conversation."""
        return begin(self.generator, prompt, params, seed)


class Encoder(Model):
    """A published encoder, of which texts get vectors."""

    does = "gives vectors"

    def __init__(self, name: str, model: TextModel) -> None:
        super().__init__(name)
        self.model = model

    def embed(self, rows: Any) -> np.ndarray:
        """The mean of a text's last hidden states, at length 1."""
        single = isinstance(rows, str)
        texts = [rows] if single else list(rows)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise BadInput("no text", "a text, or a list of texts")
        vectors = self.model.embed(self.model.tokens(texts))
        return vectors[0] if single else vectors


def is_conversation(prompt: Any) -> bool:
    """Whether a prompt is a list of messages."""
    if not isinstance(prompt, Sequence) or not prompt:
        raise BadInput(f"a prompt {prompt!r}", "a text, texts, or messages")
    kinds = {"text" if isinstance(each, str) else "message" for each in prompt}
    if len(kinds) > 1 or not all(isinstance(each, str | Mapping) for each in prompt):
        raise BadInput("texts among messages", "either")
    return kinds == {"message"}


def begin(generator: Generator, prompt: Any, params: SamplingParams, seed: int) -> Iterator[str]:
    """The parts of an answer to one prompt."""
    if isinstance(prompt, str):
        return generator.complete(prompt, params, seed)
    return generator.reply(prompt, params, seed)


def until_stop(parts: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Parts of a text up to the first of the stops."""
    stops = StopFilter(stop)
    for part in parts:
        if text := stops.push(part):
            yield text
        if stops.stopped:
            return
    if rest := stops.finish():
        yield rest
