"""A zero-shot classifier: a local language model's log-probabilities of the labels' names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import log_softmax

from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, LabelTask, Task, task_to_json
from lmwright.models.blocks.head import mean_pool
from lmwright.models.core.device import Placement
from lmwright.models.core.ragged import pack
from lmwright.models.decode import DecodingState
from lmwright.models.files.published import copy_published, located, published_in
from lmwright.models.loading import load_text_model
from lmwright.models.text_model import TextModel
from lmwright.old_format import description_of
from lmwright.tasks.shown import Examples, Shown, read_examples
from lmwright.text.label_prompt import LabelPrompt, is_logit_row, read_label_prompt

CONTENT_FREE = ("N/A", "", "[MASK]")
NONE = Examples()


@dataclass(frozen=True)
class PromptedText:
    """A text in its prompt, with every label as the answer.

    ``prefix`` are the ids that all answers have in front, ``answers`` each label's own; ``ids``
    are those of the text alone. The prompt is ``source`` where an encoder reads it, else part of
    the prefix. ``shown`` are the rows with their answers that stand before it.
    """

    prefix: np.ndarray
    answers: tuple[np.ndarray, ...]
    ids: np.ndarray
    source: np.ndarray | None = None
    shown: tuple[Shown, ...] = ()

    @property
    def cost(self) -> int:
        """The tokens of the prompt."""
        return len(self.prefix if self.source is None else self.source)


class ZeroShot:
    """A language model as a zero-shot classifier. fp32 on the CPU, a text at a time.

    The logits are the log-probabilities of the labels' names as the answer, less their ``prior``,
    the same for content-free texts (Zhao et al. 2021): the model's preference whatever the text.
    The prompt is the source where there is an encoder, else a message where the model has a chat
    template, else a text to complete. A text's vector is the mean hidden state of its prompt.

    ``examples`` are rows that are shown before the text, with their labels (few-shot): by the same
    instruction, as earlier messages or texts. Where the prompt would be too long, those least like
    the text, or the first, are left out. ``prior`` is computed where it is not given; where each
    text is shown rows of its own, it is computed with these.
    """

    kind: ClassVar[str] = "zero-shot"

    def __init__(
        self,
        task: LabelTask,
        prompt: LabelPrompt,
        model: TextModel[Any],
        source: Path,
        code: str = "",
        prior: Sequence[float] | None = None,
        examples: Examples = NONE,
    ) -> None:
        if model.network.two_streams:
            raise BadInput(
                "a language model that reads the prompt anew for each token of an answer",
                "one that reads it once",
            )
        self.task: Task = task
        self.labels, self.prompt, self.model = task.labels, prompt, model
        self.source, self.code, self.examples = source, code, examples
        # Where each text is shown rows of its own, this prior is that without any.
        shown = () if examples.nearest else examples.pool
        self.prior = self.content_free_prior(shown) if prior is None else list(prior)

    def prepare(self, rows: Sequence[Row]) -> list[PromptedText]:
        """The ids of each text's prompt with every answer."""
        texts = [self.task.text(row) for row in rows]
        return [self.prompted(text, self.examples.of(text)) for text in texts]

    def prompted(self, text: str, shown: tuple[Shown, ...]) -> PromptedText:
        """One text's prompt, and the answers from where they differ; a long text is cut."""
        text = text[: self.prompt.max_characters]
        source, wholes = self.sequences(text, shown)
        while (over := max_length([source, *wholes]) - (self.model.longest or 1 << 30)) > 0:
            if shown:
                shown = shown[1:]
                source, wholes = self.sequences(text, shown)
                continue
            if not text:
                raise BadInput(
                    f"a prompt of {over + (self.model.longest or 0)} tokens without its text",
                    f"at most {self.model.longest}",
                    "shorten the instruction, or take another model",
                )
            text = text[:-over]
            source, wholes = self.sequences(text, shown)
        common = common_prefix_length(wholes)
        answers = tuple(each[common:] for each in wholes)
        if not common:
            raise BadInput(
                "a prompt that is empty without its text", "an instruction that says something"
            )
        if not prefix_free(answers):
            raise BadInput(
                f"names that are one to this model's tokenizer: {', '.join(self.prompt.names)}",
                "names of which none begins another as tokens either",
                "say how the labels are to be called: names: {LABEL: NAME}",
            )
        return PromptedText(
            wholes[0][:common], answers, self.model.tokenizer.ids(text), source, shown
        )

    def sequences(
        self, text: str, shown: Sequence[Shown]
    ) -> tuple[np.ndarray | None, list[np.ndarray]]:
        """The encoder's ids of a text's prompt, and the decoder's with each answer.

        Without an encoder the latter hold the prompt and the answer.
        """
        prompt, names, model = self.prompt.render(text), self.prompt.names, self.model
        start = model.generation.decoder_start_id
        before = [
            (self.prompt.render(each.text), names[self.labels.index(each.target)]) for each in shown
        ]
        texts = "".join(f"{asked} {name}\n\n" for asked, name in before)
        if start is None and model.template is None:
            return None, [model.prompt_ids(f"{texts}{prompt} {name}") for name in names]
        if start is None:
            turns = [
                {"role": role, "content": said}
                for pair in before
                for role, said in zip(("user", "assistant"), pair, strict=True)
            ]
            source, begin = None, model.chat_ids([*turns, {"role": "user", "content": prompt}])
        else:
            source, begin = model.prompt_ids(f"{texts}{prompt}"), np.array([start])
        return source, [np.concatenate([begin, model.tokenizer.ids(name)]) for name in names]

    def answers(self, batch: Sequence[PromptedText]) -> Answers:
        """Logits and vectors."""
        return Answers({"logits": self.logits(batch)}, self.embed(batch))

    def logits(self, batch: Sequence[PromptedText]) -> np.ndarray:
        """Log-probabilities of the labels less their prior, float64 (texts, labels)."""
        scores = np.array([self.label_logprobs(item) for item in batch])
        priors: Any = self.prior
        if self.examples.nearest:
            priors = [self.content_free_prior(item.shown) for item in batch]
        return scores.reshape(len(batch), len(self.labels)) - priors

    def content_free_prior(self, shown: tuple[Shown, ...]) -> list[float]:
        """The mean log-probability of each label among the labels, for content-free texts."""
        prompts = [self.prompted(text, shown) for text in CONTENT_FREE]
        scores = np.array([self.label_logprobs(each) for each in prompts])
        means: list[float] = log_softmax(scores, axis=1).mean(axis=0).tolist()
        return means

    def label_logprobs(self, item: PromptedText) -> list[float]:
        """The log-probability of each label's name as the answer to one prompt.

        The prompt is read once, and the answers side by side from there.
        """
        state = DecodingState(self.model.network, 1, None if item.source is None else [item.source])
        logprobs_bv = torch.log_softmax(state.append([item.prefix]).double(), dim=-1)
        scores = [float(logprobs_bv[0, answer[0]]) for answer in item.answers]
        going, places = list(range(len(item.answers))), [0] * len(item.answers)
        for place in range(1, max(map(len, item.answers))):
            kept = [n for n, label in enumerate(going) if len(item.answers[label]) > place]
            state.select([places[n] for n in kept])
            going, places = [going[n] for n in kept], list(range(len(kept)))
            new = [item.answers[label][place - 1 : place] for label in going]
            logprobs_bv = torch.log_softmax(state.append(new).double(), dim=-1)
            for row, label in enumerate(going):
                scores[label] += float(logprobs_bv[row, item.answers[label][place]])
        return scores

    @torch.inference_mode()
    def embed(self, batch: Sequence[PromptedText]) -> np.ndarray:
        """The mean hidden state of each prompt, at length 1: float32 (texts, width)."""
        rows = []
        for item in batch:
            network = self.model.network
            ragged = pack([item.prefix if item.source is None else item.source])
            states_nd = (network.hidden if item.source is None else network.encode)(ragged)
            pooled_1d = mean_pool(states_nd, ragged)
            rows.append(F.normalize(pooled_1d, dim=-1)[0].cpu().numpy())
        return np.stack(rows)

    def place(self, placement: Placement) -> bool:
        """Place the language model's network."""
        self.model.network.place(placement)
        return True

    def save(self, folder: Path) -> None:
        """Write ``model.json``, and the published model as it was found beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        copy_published(self.source, folder)
        description = {
            "kind": self.kind,
            "task": task_to_json(self.task),
            "prompt": self.prompt.to_json(),
            "prior": self.prior,
            "code": self.code,
            **self.examples.to_json(),
        }
        write_json(folder / DESCRIPTION, description)

    @classmethod
    def load(cls, folder: Path, task: Task) -> ZeroShot:
        """Read a folder that :meth:`save` wrote; every fault of the folder is named."""
        description = description_of(read_json_object(folder / DESCRIPTION))
        where, labelled = str(folder / DESCRIPTION), cast(LabelTask, task)
        labels = labelled.labels
        prompt = read_label_prompt(description.get("prompt"), labels, where)
        source = published_in(folder)
        prior = description.get("prior")
        if not is_logit_row(prior, len(labels)):
            raise Corrupt(f"{where}: the prior is {prior!r}", f"{len(labels)} numbers")
        examples = read_examples(description, where)
        if unknown := sorted({each.target for each in examples.pool} - {*labels}):
            raise Corrupt(f"{where}: a shown row has the label {unknown[0]!r}", ", ".join(labels))
        model = load_text_model(str(source), silent)
        code = str(description.get("code", ""))
        return cls(labelled, prompt, model, source, code, prior, examples)


def open_zero_shot(
    task: LabelTask,
    prompt: LabelPrompt,
    address: str,
    code: str = "",
    report: Callable[[str], None] | None = None,
    examples: Examples = NONE,
) -> ZeroShot:
    """A classifier by the language model at an address; ``report`` is told how that runs.

    ``code`` is a hash of the code that loads the model, so that the artifact changes with it.
    """
    model = load_text_model(address, report or silent)
    return ZeroShot(task, prompt, model, located(address), code, examples=examples)


def silent(line: str) -> None:
    """Drop a line: how the model runs was reported when it was first loaded."""


def max_length(sequences: Sequence[np.ndarray | None]) -> int:
    """The length of the longest sequence that is not None."""
    return max(len(each) for each in sequences if each is not None)


def common_prefix_length(wholes: Sequence[np.ndarray]) -> int:
    """The length of the common prefix, at most one less than the shortest sequence."""
    most = min(map(len, wholes)) - 1
    same = [len({int(each[place]) for each in wholes}) == 1 for place in range(most)]
    return same.index(False) if False in same else most


def prefix_free(answers: Sequence[np.ndarray]) -> bool:
    """Whether no sequence begins another."""
    found = sorted(tuple(each.tolist()) for each in answers)
    return all(longer[: len(short)] != short for short, longer in pairwise(found))
