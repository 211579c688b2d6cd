"""The one text model: network, head, tokenizer and generation settings, bound to a task or not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.core.columns import Row
from lmwright.core.durable import write_bytes, write_json
from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.random import stream
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Prepared, Task, task_to_json
from lmwright.models.beam_search import beam_search
from lmwright.models.blocks.head import mean_pool
from lmwright.models.contrastive_search import contrastive_search
from lmwright.models.core.device import Placement
from lmwright.models.core.ragged import Ragged, known_segments, pack
from lmwright.models.core.spec import (
    Attention,
    Head,
    ModelSpec,
    TransformerXL,
    read_head,
    read_spec,
)
from lmwright.models.decode import (
    CausalLM,
    SampledToken,
    check_causal,
    check_length,
    generate,
    generate_each,
)
from lmwright.models.files.folder import Published, check_vocabulary
from lmwright.models.files.old_format import FORMAT, current_part, current_weight, is_old
from lmwright.models.files.weights import check_fit, read_tensors, write_tensors
from lmwright.models.generation import (
    END_OF_TURN_TOKENS,
    Generation,
    generation_of_published,
    read_generation,
)
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import Network, build, fill
from lmwright.models.required_phrases import search_with_phrases
from lmwright.tables import definition_at
from lmwright.text.chat import ChatTemplate
from lmwright.text.detokenizer import Detokenizer
from lmwright.text.generation import SamplingParams
from lmwright.text.tokenizer import Tokenizer, read_tokenizer

N = TypeVar("N", bound=CausalLM)

MOST_TOKENS_AT_ONCE = 4096
"""A pass over more tokens would need more memory and be no faster."""
LONGEST = 8192
"""Tokens of a text where no table of positions sets a bound."""


@dataclass(frozen=True)
class Tokens:
    """A text as ids, special tokens included; ``cut`` says that its end is left out."""

    ids: np.ndarray
    cut: bool = False

    @property
    def cost(self) -> int:
        """How many tokens it is."""
        return len(self.ids)


@dataclass(frozen=True)
class DecodedToken:
    """A sampled token with its text, as far as that is certain."""

    text: str
    sampled: SampledToken


@dataclass
class Decoding:
    """The answer to one prompt under way: the ids that the network reads first, and sources if it
    has an encoder; parameters with the model's own constraints; the text of the tokens so far."""

    begin: np.ndarray
    sources: list[np.ndarray] | None
    params: SamplingParams
    text: Detokenizer

    def decoded(self, token: SampledToken) -> DecodedToken:
        """A token with its text; the stop token with what was not certain before."""
        if token.id in self.params.stop_ids:
            return DecodedToken(self.rest(), token)
        return DecodedToken(self.text.push([token.id]), token)

    def rest(self) -> str:
        """The text that is left when no token follows."""
        return self.text.finish()


@dataclass(frozen=True)
class WrittenAnswer:
    """The text of an answer, and whether the model ended it by itself."""

    text: str
    ended: bool


class TextModel(Generic[N]):
    """Network with its head, tokenizer and generation settings.

    The weights are fp32, on the CPU until ``network.place`` moves them.

    An encoder with a head, a causal language model and an encoder-decoder are all of this kind.
    A text is read up to ``max_tokens``; ``family`` names the family by whose config and names of
    weights others read the model ("" where none is known). What writes needs a causal network;
    what embeds or is saved needs one of our core.
    """

    def __init__(
        self,
        network: N,
        tokenizer: Tokenizer,
        max_tokens: int,
        generation: Generation = Generation(),  # noqa: B008 - frozen
        family: str = "",
    ) -> None:
        self.network, self.tokenizer, self.max_tokens = network, tokenizer, max_tokens
        self.generation, self.family = generation, family
        self.source_language_id: int | None = None

    def with_network(self, network: N, max_tokens: int) -> TextModel[N]:
        """The same model with another network or cap on tokens."""
        found = copy.copy(self)
        found.network, found.max_tokens = network, max_tokens
        return found

    def with_template(self, template: str) -> TextModel[N]:
        """The same model with another chat template (its source; "" for none)."""
        found = copy.copy(self)
        found.__dict__.pop("template", None)  # of the former template
        found.generation = replace(self.generation, template=template)
        return found

    # Reading

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text's first ``max_tokens`` ids."""
        return [Tokens(*each) for each in self.tokenizer.encode_cut(texts, self.max_tokens)]

    def document(self, text: str, closed: bool = True) -> np.ndarray:
        """The ids of a document from the start token on, ``closed`` with the end token."""
        end = self.end_ids[:1] if closed else ()
        whole = np.concatenate([self.begin_ids, self.tokenizer.ids(text), end])
        return whole.astype(np.int64)

    def source_ids(self, text: str) -> np.ndarray:
        """The ids of a text as an encoder reads it, at most ``max_tokens``."""
        ids = self.tokenizer.encode([text], self.max_tokens)[0].astype(np.int64)
        if self.source_language_id is not None:
            ids[ids == self.tokenizer.roles["language"][0]] = self.source_language_id
        return ids

    def target_ids(self, text: str) -> np.ndarray:
        """The ids of an answer of a decoder with an encoder, begun and closed as it writes them."""
        begin = (self.generation.decoder_start_id, self.generation.forced_bos_id)
        known = [each for each in begin if each is not None]
        whole = np.concatenate([known, self.tokenizer.ids(text), self.end_ids[:1]])
        return whole.astype(np.int64)

    @property
    def has_encoder(self) -> bool:
        """True for a decoder with an encoder, which reads a text and writes another."""
        return self.generation.decoder_start_id is not None

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """The id that begins a document, if the model has one: of the start or the end token."""
        return self.tokenizer.begin_ids

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end a document, by its tokenizer."""
        return self.tokenizer.end_ids

    @property
    def outputs(self: TextModel[Network]) -> int:
        """How many outputs the head has."""
        return head_spec(self.network).outputs

    def logits(self: TextModel[Network], batch: Sequence[Tokens]) -> np.ndarray:
        """The head's output for each text, float64 (texts, outputs)."""
        return self.in_pieces(batch, lambda piece: self.network(piece), self.outputs).astype(
            np.float64
        )

    def embed(self: TextModel[Network], batch: Sequence[Tokens]) -> np.ndarray:
        """The mean hidden state of each text, at length 1: float32 (texts, width)."""
        return self.in_pieces(batch, self.vectors, self.network.width)

    def logits_and_vectors(
        self: TextModel[Network], batch: Sequence[Prepared]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits and vectors of one pass."""

        def both(piece: Ragged) -> Tensor:
            logits_bk, hidden_nd = self.network.logits_and_hidden(piece)
            pooled_bd = F.normalize(mean_pool(hidden_nd, piece), dim=-1)
            return torch.cat([logits_bk, piece.as_packed(pooled_bd)], dim=-1)

        rows = self.in_pieces(batch, both, self.outputs + self.network.width)
        return rows[:, : self.outputs].astype(np.float64), rows[:, self.outputs :]

    def vectors(self: TextModel[Network], batch: Ragged) -> Tensor:
        """The vectors of one batch (b, d), in the order in which it was packed."""
        pooled_bd = mean_pool(self.network.hidden(batch), batch)
        return batch.as_packed(F.normalize(pooled_bd, dim=-1))

    def in_pieces(
        self, batch: Sequence[Prepared], give: Callable[[Ragged], Tensor], width: int
    ) -> np.ndarray:
        """Rows (texts, width) from passes of bounded size, texts of like length together.

        Texts with ``segments`` beside their ids are read with them.
        """
        rows = np.empty((len(batch), width), dtype=np.float32)
        for places in pieces([item.cost for item in batch], MOST_TOKENS_AT_ONCE):
            with torch.inference_mode():
                found = give(packed([batch[place] for place in places]))
                rows[places] = found.cpu().numpy()
        return rows

    def token_logits(
        self: TextModel[Network], batch: Sequence[Prepared]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """The head's output for each token, a float64 (tokens, outputs) a text, and the vectors.

        Texts with ``segments`` beside their ids are read with them.
        """
        found: list[np.ndarray] = [np.zeros(0)] * len(batch)
        vectors = np.empty((len(batch), self.network.width), dtype=np.float32)
        for places in pieces([item.cost for item in batch], MOST_TOKENS_AT_ONCE):
            with torch.inference_mode():
                piece = packed([batch[place] for place in places])
                logits_nk, hidden_nd = self.network.logits_and_hidden(piece)
                pooled_bd = piece.as_packed(F.normalize(mean_pool(hidden_nd, piece), dim=-1))
                vectors[places] = pooled_bd.cpu().numpy()
                for place, each in zip(places, piece.by_document(logits_nk), strict=True):
                    found[place] = each.double().cpu().numpy()
        return found, vectors

    @property
    def reads_segments(self: TextModel[Network]) -> bool:
        """True where segments tell the texts of a pair apart; they may also stand for languages."""
        stack = self.network.spec.stacks[0]
        table = stack.embedding.segments > 1 and stack.embedding.default_segment == "first"
        ops = [sublayer.op for layer in stack.layers for sublayer in layer]
        return table or any(
            isinstance(op, Attention)
            and isinstance(op.positions, TransformerXL)
            and op.positions.segments
            for op in ops
        )

    # Writing

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: the model's, its tokenizer's, and those of chat turns."""
        turns = (self.tokenizer.control.get(name) for name in END_OF_TURN_TOKENS)
        more = (each for each in turns if each is not None)
        return tuple(dict.fromkeys([*self.generation.stop_ids, *self.end_ids, *more]))

    @property
    def longest(self) -> int | None:
        """The context length: prompt and answer together, in tokens."""
        return self.network.longest

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The chat template, if there is one; it renders in a process of its own."""
        if not self.generation.template:
            return None
        return ChatTemplate(
            self.generation.template, self.tokenizer.special_text(), self.tokenizer.control
        )

    def close(self) -> None:
        """End the process that renders chats."""
        if self.template is not None:
            self.template.close()

    def for_languages(self, source: str, target: str) -> TextModel[N]:
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
            found.generation = replace(self.generation, forced_bos_id=self.language_id(target))
        return found

    def language_id(self, name: str) -> int:
        """The id of a language's token; BadInput if there is none."""
        if self.generation.decoder_start_id is None:
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
        if self.generation.decoder_start_id is None:
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

    def phrases(self, texts: Sequence[str], alone: bool) -> tuple[tuple[int, ...], ...]:
        """The ids of phrases as they stand behind a word; ``alone``: also as they begin a text."""
        begin, found = self.tokenizer.ids("a").tolist(), []
        for text in texts:
            whole = self.tokenizer.ids(f"a {text.strip()}").tolist()
            behind = whole[len(begin) :] if whole[: len(begin)] == begin else []
            own = self.tokenizer.ids(text.strip()).tolist()
            found += [behind or own, own] if alone else [behind or own]
        if not all(found):
            raise BadInput(f"the phrases {[*texts]}", "phrases that are not empty")
        return tuple(dict.fromkeys(map(tuple, found)))

    def token_budget(self, prompt: np.ndarray) -> int:
        """The most new tokens that the context length allows; BadInput where there are none."""
        used = 1 if self.generation.decoder_start_id is not None else len(prompt)
        check_length(
            self.network, max(used, len(prompt)) + (self.generation.decoder_start_id is None)
        )
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

    def decoding(self, prompt: np.ndarray, params: SamplingParams) -> Decoding:
        """How a prompt is answered: what is read first, and the model's own constraints."""
        own, forced = self.generation, params.forced_bos_id
        params = replace(
            params,
            forced_bos_id=own.forced_bos_id if forced is None else forced,
            banned_ids=own.banned_ids,
            generation_config=params.generation_config.over(own.config),
        )
        text = self.tokenizer.detokenizer()
        if own.decoder_start_id is not None:
            return Decoding(np.array([own.decoder_start_id]), [prompt], params, text)
        text.follow(prompt.tolist())  # the space between them belongs to the answer
        return Decoding(prompt, None, params, text)

    def generate(
        self, prompt: np.ndarray, params: SamplingParams, rng: np.random.Generator
    ) -> Iterator[DecodedToken]:
        """The answer to a prompt, token by token; the stop token has no text.

        Of beams the best answer, once it is whole.
        """
        decoding = self.decoding(prompt, params)
        begin, sources, params = decoding.begin, decoding.sources, decoding.params
        source = None if sources is None else sources[0]
        tokens: Iterator[SampledToken]
        if params.beams > 1:
            search = search_with_phrases if params.required else beam_search
            best = search(self.network, begin, params, source)[0]
            pairs = zip(best.tokens, best.logprobs, strict=True)
            tokens = (SampledToken(token, logprobs) for token, logprobs in pairs)
        elif params.penalty_alpha:
            tokens = contrastive_search(self.network, begin, params, source)
        else:
            steps = generate(self.network, [begin], params, rng, sources)
            tokens = (step[0] for step in steps)
        for token in tokens:
            yield decoding.decoded(token)
        if rest := decoding.rest():
            yield DecodedToken(rest, token)

    def write(
        self,
        prompts: Sequence[np.ndarray],
        params: Sequence[SamplingParams],
        rngs: Sequence[np.random.Generator],
    ) -> list[str]:
        """The texts of :meth:`written_answers`."""
        return [each.text for each in self.written_answers(prompts, params, rngs)]

    def written_answers(
        self,
        prompts: Sequence[np.ndarray],
        params: Sequence[SamplingParams],
        rngs: Sequence[np.random.Generator],
    ) -> list[WrittenAnswer]:
        """The answers to prompts, which are decoded together; searches one prompt after another."""
        if any(each.beams > 1 or each.penalty_alpha for each in params):
            found = []
            for prompt, own, rng in zip(prompts, params, rngs, strict=True):
                tokens = list(self.generate(prompt, own, rng))
                stopped = any(token.sampled.id in own.stop_ids for token in tokens[-2:])
                found.append(WrittenAnswer("".join(token.text for token in tokens), stopped))
            return found
        asked = [self.decoding(*one) for one in zip(prompts, params, strict=True)]
        sources = [ids for one in asked for ids in one.sources or ()]
        steps = generate_each(
            self.network,
            [one.begin for one in asked],
            [one.params for one in asked],
            rngs,
            sources or None,
        )
        texts, ended = [""] * len(asked), [False] * len(asked)
        for step in steps:
            for place, token in step.items():
                texts[place] += asked[place].decoded(token).text
                ended[place] = token.id in asked[place].params.stop_ids
        return [
            WrittenAnswer(text + one.rest(), end)
            for text, one, end in zip(texts, asked, ended, strict=True)
        ]

    # Files

    def save(self: TextModel[Network], folder: Path) -> dict[str, Any]:
        """Write weights and tokenizer into a folder; returns what its description says of them."""
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "tokenizer.json", self.tokenizer.data)
        write_tensors(folder / "model.safetensors", dict(self.network.named_parameters()))
        return self.described()

    def described(self: TextModel[Network]) -> dict[str, Any]:
        """All of the model but its weights and its tokenizer, as JSON values."""
        return {
            "format": FORMAT,
            "max_tokens": self.max_tokens,
            "roles": {role: list(ids) for role, ids in sorted(self.tokenizer.roles.items())},
            "spec": self.network.spec.to_json(),
            "head": asdict(head_spec(self.network)),
            "family": self.family,
            "generation": self.generation.to_json(),
        }

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> TextModel:
        """Read what :meth:`save` wrote; every fault of the folder is named."""
        network = described_network(description, str(folder / DESCRIPTION))
        tensors = {
            current_weight(name): tensor
            for name, tensor in read_tensors(folder / "model.safetensors").items()
        }
        wanted = {name: tuple(each.shape) for name, each in network.named_parameters()}
        check_fit(tensors, wanted, str(folder / "model.safetensors"))
        fill(network, tensors)
        return cls.bound(network, read_tokenizer(folder / "tokenizer.json"), folder, description)

    @classmethod
    def bound(
        cls,
        network: Network,
        tokenizer: Tokenizer,
        folder: Path,
        description: Mapping[str, Any],
    ) -> TextModel:
        """A network with its weights and a tokenizer, as the description in a folder has them."""
        where = str(folder / DESCRIPTION)
        for role, ids in description.get("roles", {}).items():
            tokenizer.roles[role] = tuple(ids)
        check_vocabulary(tokenizer, network.spec, folder)
        most = checked_cap(description.get("max_tokens"), network, where)
        generation = read_generation(description.get("generation", {}), where)
        return TextModel(network, tokenizer, most, generation, str(description.get("family", "")))


def described_network(description: Mapping[str, Any], where: str) -> Network:
    """The network that a description has, without values of its weights."""
    spec, head = description.get("spec"), description.get("head")
    if is_old(description, where):
        spec, head = current_part(spec), current_part(head)
    return build(read_spec(spec, where), read_head(head, where))


class TaskModel(Protocol):
    """How a text model answers a task; constructed with the task.

    ``published_head`` is the use of the published heads that answer it ("" where none does).
    """

    published_head: ClassVar[str]

    @property
    def task(self) -> Task:
        """The task that is answered."""

    def output_names(self) -> tuple[str, ...]:
        """What each output of the head that answers it stands for; none for any number."""

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Any]:
        """Rows made ready for the model, by their input columns."""

    def answers(self, model: TextModel, batch: Sequence[Any]) -> Answers:
        """Uncalibrated answers to prepared rows."""


@runtime_checkable
class ReadsMore(Protocol):
    """A task model that may read more of a text than its ids.

    ``reads_more`` says what, in words; "" for nothing. Other software is given the ids alone.
    """

    @property
    def reads_more(self) -> str: ...


def task_model_of(task: Task) -> TaskModel:
    """How a text model answers the task; BadInput where none does."""
    if not task.text_model:
        raise BadInput(f"a text model for the task {task.kind}", "a task that text models answer")
    found: TaskModel = definition_at(task.text_model)(task)
    return found


class TextPredictor:
    """A text model bound to a task."""

    kind: ClassVar[str] = "text-model"

    def __init__(self, task: Task, model: TextModel) -> None:
        self.task, self.model = task, model
        self.task_model = task_model_of(task)

    def prepare(self, rows: Sequence[Row]) -> list[Any]:
        """Rows made ready as the task has it."""
        return self.task_model.prepare(self.model, rows)

    def answers(self, batch: Sequence[Any]) -> Answers:
        """The task's answers."""
        return self.task_model.answers(self.model, batch)

    def place(self, placement: Placement) -> bool:
        """Place the network."""
        self.model.network.place(placement)
        return True

    def save(self, folder: Path) -> None:
        """Write ``model.json``, ``model.safetensors`` and ``tokenizer.json``."""
        described = self.model.save(folder)
        write_json(
            folder / DESCRIPTION,
            {"kind": self.kind, "task": task_to_json(self.task), **described},
        )

    @classmethod
    def load(cls, folder: Path, task: Task) -> TextPredictor:
        """Read what :meth:`save` wrote; Corrupt where the head is not the task's."""
        found = cls(task, TextModel.load(folder, read_json_object(folder / DESCRIPTION)))
        found.check_outputs(str(folder / DESCRIPTION))
        return found

    def check_outputs(self, where: str) -> None:
        """Corrupt where the head is not the task's."""
        names = self.task_model.output_names()
        if names and self.model.outputs != len(names):
            raise Corrupt(
                f"{where}: {self.model.outputs} outputs",
                f"{len(names)}, as the task {self.task.kind} has them",
            )


def from_published(published: Published, head: Head | str, max_tokens: int, seed: int) -> TextModel:
    """A text model on a published start; what its head lacks is drawn afresh from ``seed``.

    ``head`` is a new one, or the name of one of the published heads.
    """
    if isinstance(head, str):
        if head not in published.described.heads:
            raise BadInput(
                f"the start has no head {head!r}",
                "a model of a family that has: " + ", ".join(published.described.heads),
                "start from another model",
            )
        network = build(
            published.family.generation_spec(published.spec), published.described.heads[head]
        )
        known = published.heads.get(head, (head, {}))[1] | published.more
    else:
        network = build(published.spec, head)
        known = published.heads.get("classify", (head, {}))[1]
    shapes = {name: each.shape for name, each in network.named_parameters()}
    fitting = {name: t for name, t in known.items() if shapes.get(name) == t.shape}
    fill(network, {**published.weights, **fitting}, published.held)
    initialise(network, seed)
    most = checked_cap(max_tokens, network, "max_tokens")
    generation = generation_of_published(published) if network.is_causal_lm else Generation()
    return TextModel(network, published.tokenizer, most, generation, published.family.name)


def language_model(published: Published) -> TextModel[Network]:
    """The text model of a published language model; BadInput if it is none, or lacks its head."""
    if "lm" not in published.described.heads:
        raise BadInput(f"a {published.family.name} model", "a language model")
    head = published.described.heads["lm"]
    _, weights = published.heads.get("lm", (head, {}))
    network = build(published.family.generation_spec(published.spec), head)
    check_causal(network)
    fill(network, {**published.weights, **published.more, **weights}, published.held)
    missing = [name for name, weight in network.named_parameters() if weight.is_meta]
    if missing:
        raise BadInput(
            f"the model has no {missing[0]}", "a language model with its head", "take another file"
        )
    return TextModel(
        network,
        published.tokenizer,
        network.spec.longest or LONGEST,
        generation_of_published(published),
        published.family.name,
    )


def newly_drawn(
    spec: ModelSpec, head: Head, tokenizer: Tokenizer, max_tokens: int, seed: int, family: str
) -> TextModel:
    """A text model whose every weight is drawn from ``seed``.

    A decoder with an encoder begins with the token that begins a document.
    """
    network = build(spec, head)
    initialise(network, seed)
    found = TextModel(
        network, tokenizer, checked_cap(max_tokens, network, "max_tokens"), family=family
    )
    if spec.has_encoder:
        found.generation = Generation(decoder_start_id=found.begin_ids[0])
    return found


def head_spec(network: Network) -> Head:
    """The head of a network that has one."""
    if network.head_spec is None:
        raise TypeError("this network has no head")
    return network.head_spec


def checked_cap(most: object, network: Network, where: str) -> int:
    """The cap on tokens, which the table of positions bounds where there is one."""
    longest = network.spec.longest or LONGEST
    if not isinstance(most, int) or not 3 <= most <= longest:
        raise BadInput(f"{where}: at most {most!r} tokens", f"a number from 3 to {longest}")
    return most


def packed(batch: Sequence[Prepared]) -> Ragged:
    """Prepared texts as one stream, with their segments where all have any."""
    segments = [getattr(item, "segments", None) for item in batch]
    return pack([item.ids for item in batch], segments=known_segments(segments))


def pieces(costs: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of items, shortest first, in runs of at most ``most`` cost (one item at least)."""
    piece: list[int] = []
    total = 0
    for place in sorted(range(len(costs)), key=lambda place: costs[place]):
        if piece and total + costs[place] > most:
            yield piece
            piece, total = [], 0
        piece.append(place)
        total += costs[place]
    if piece:
        yield piece
