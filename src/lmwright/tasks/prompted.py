"""A language model that is shown some rows with their answers: a prompt as a predictor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import (
    Answers,
    PoolingTask,
    PromptedTask,
    Task,
    asked_of,
    task_to_json,
)
from lmwright.hosted.chat import open_hosted
from lmwright.metrics.calibration import Calibration
from lmwright.models.core.device import Placement
from lmwright.models.files.published import copy_published, located, published_in
from lmwright.models.loading import load_text_model
from lmwright.models.text_model import TextModel
from lmwright.tasks.shown import Examples, pairs, read_examples
from lmwright.text.few_shot import FewShotPrompt, read_few_shot, word_hashes
from lmwright.text.generation import Generator, SamplingParams, is_hosted


@dataclass(frozen=True)
class Sampling:
    """How the model is asked: ``samples`` answers a row, drawn from ``seed`` on.

    One sample is the likeliest answer; several are drawn at temperature 1. ``key_from`` names the
    variable of the environment with the key of a hosted model.
    """

    address: str
    key_from: str
    samples: int
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Asked:
    """A row and its prompt, and the hashes of the words of its text, for the drift of the
    vocabulary; ``cut`` says that the end of the text is left out."""

    row: Row
    prompt: str
    ids: np.ndarray
    cut: bool = False

    @property
    def cost(self) -> int:
        """The number of words of the prompt."""
        return max(1, len(self.prompt.split()))


class Prompted:
    """A prompt bound to a task: template, shown rows, calibration, and the model that is asked.

    Each row's answers are read off what the model writes, up to the end of its line, and
    calibrated where the task can say calibrated answers as uncalibrated ones. It is asked by a
    message where it is hosted or has a chat template, else by a text to complete.
    """

    kind: ClassVar[str] = "prompted"

    def __init__(
        self,
        task: Task,
        prompt: FewShotPrompt,
        examples: Examples,
        sampling: Sampling,
        generator: Generator,
        source: Path | None = None,
        calibration: Calibration | None = None,
        code: str = "",
    ) -> None:
        """``source`` is where a model of this machine is; ``code`` a hash of what loads it."""
        if not isinstance(task, PromptedTask):
            raise BadInput(
                f"a prompt for the task {task.kind}", "a task that reads written answers"
            )
        self.task: Task = task
        self.prompt, self.examples, self.sampling = prompt, examples, sampling
        self.generator, self.source, self.code = generator, source, code
        self.calibration = calibration

    def prepare(self, rows: Sequence[Row]) -> list[Asked]:
        """The prompt of each row."""
        texts = [asked_of(self.task, row) for row in rows]
        found = []
        for row, text in zip(rows, texts, strict=True):
            prompt, cut = self.rendered(text)
            found.append(Asked(row, prompt, word_hashes(text), cut))
        return found

    def rendered(self, text: str) -> tuple[str, bool]:
        """The prompt for a text, and whether the end of the text is left out: beyond
        ``max_characters``, and where the model's context is short."""
        shown = pairs(self.examples.of(text))
        prompt, whole = self.prompt.render(shown, text), text
        text = text[: self.prompt.max_characters]
        if not isinstance(self.generator, TextModel) or self.generator.longest is None:
            return prompt, text != whole
        room = self.generator.longest - self.sampling.max_new_tokens
        while (over := len(self.ids(self.generator, prompt)) - room) > 0:
            if not text:
                raise BadInput(
                    f"a prompt of {over + room} tokens without its text",
                    f"at most {room}",
                    "show fewer rows, or take another model",
                )
            text = text[:-over]
            prompt = self.prompt.render(shown, text)
        return prompt, text != whole

    def ids(self, model: TextModel[Any], prompt: str) -> np.ndarray:
        """The ids of a prompt as the model is asked it."""
        return model.chat_ids(message(prompt)) if model.template else model.prompt_ids(prompt)

    def answers(self, batch: Sequence[Asked]) -> Answers:
        """What the task reads off the written answers."""
        said = [self.written(item.prompt) for item in batch]
        rows = [item.row for item in batch]
        found = cast(PromptedTask, self.task).parsed(said, rows)
        if "cut" in found.columns:
            cut = [str(item.cut).lower() for item in batch]
            found = found.with_columns(cut=cut)
        if self.calibration is None or not isinstance(self.task, PoolingTask):
            return found
        by = self.calibration
        return self.task.pooled([self.task.calibrated(found, by.temperature, by.smoothing)])

    def written(self, prompt: str) -> list[str]:
        """The first line of every sample."""
        drawn = self.sampling.samples > 1
        params = SamplingParams(self.sampling.max_new_tokens, temperature=1.0 if drawn else 0.0)
        asked = self.generator
        chats = not isinstance(asked, TextModel) or asked.template is not None
        found = []
        for number in range(self.sampling.samples):
            seed = self.sampling.seed + number
            pieces = (
                asked.reply(message(prompt), params, seed)
                if chats
                else asked.complete(prompt, params, seed)
            )
            found.append(first_line(pieces))
        return found

    def place(self, placement: Placement) -> bool:
        """Place the network of a model of this machine; whether it is one."""
        if isinstance(self.generator, TextModel):
            self.generator.network.place(placement)
            return True
        return False

    def save(self, folder: Path) -> None:
        """Write ``model.json``, and a model of this machine beside it, as it was found."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.source is not None:
            copy_published(self.source, folder)
        calibration = None if self.calibration is None else self.calibration.to_json()
        description = {
            "kind": self.kind,
            "task": task_to_json(self.task),
            "prompt": self.prompt.to_json(),
            **self.examples.to_json(),
            "sampling": asdict(self.sampling),
            "calibration": calibration,
            "code": self.code,
        }
        write_json(folder / DESCRIPTION, description)

    @classmethod
    def load(cls, folder: Path, task: Task) -> Prompted:
        """Read a folder that :meth:`save` wrote; every fault of the folder is named."""
        where = str(folder / DESCRIPTION)
        described: Any = read_json_object(folder / DESCRIPTION)
        prompt = read_few_shot(described.get("prompt"), where)
        examples = read_examples(described, where)
        try:
            sampling = Sampling(**described["sampling"])
            given = described["calibration"]
            calibration = None if given is None else Calibration(**given)
        except (KeyError, TypeError) as fault:
            raise Corrupt(f"{where} is not whole ({fault})", "a prompt as it was written") from None
        source = None if is_hosted(sampling.address) else published_in(folder)
        generator = opened(sampling, source)
        code = str(described.get("code", ""))
        return cls(task, prompt, examples, sampling, generator, source, calibration, code)


def opened(sampling: Sampling, source: Path | None = None) -> Generator:
    """The model that is asked: the one at ``source``, else at its address."""
    if is_hosted(sampling.address):
        return open_hosted(sampling.address, sampling.key_from)
    return load_text_model(str(source or located(sampling.address)), lambda line: None)


def message(prompt: str) -> list[dict[str, str]]:
    """A prompt as a conversation."""
    return [{"role": "user", "content": prompt}]


def first_line(pieces: Iterable[str]) -> str:
    """The first line of a streamed text that holds anything; what follows is not waited for."""
    text = ""
    for piece in pieces:
        text += piece
        if "\n" in text.lstrip():
            break
    return text.lstrip().partition("\n")[0].strip()
