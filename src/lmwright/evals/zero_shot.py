"""The stage ``zero-shot``: a language model as a classifier, by a prompt and without training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from lmwright.core.columns import Row
from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_json
from lmwright.core.journal import Journal, read_journal
from lmwright.core.stage import Settings, Stage, Work
from lmwright.core.stamp import reachable
from lmwright.core.task import LabelTask, role_columns
from lmwright.data.corpus import read_split, read_task_of, task_modules, write_used_rows
from lmwright.hosted.chat import open_hosted
from lmwright.models.files.published import check_address, content_of
from lmwright.models.loading import language_modules
from lmwright.tasks.shown import Select, check_shown, choose
from lmwright.tasks.zero_shot import open_zero_shot
from lmwright.tasks.zero_shot_hosted import By, Query, ZeroShotHosted
from lmwright.text.generation import is_hosted
from lmwright.text.label_prompt import INSTRUCTION, LabelPrompt, is_logit_row, make_label_prompt

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
ANSWERED = "answered"


@dataclass(frozen=True, kw_only=True)
class Hosting(Settings):
    """Requests to a hosted model.

    ``key_from`` names the variable of the environment with its key. The probabilities are those
    that the endpoint tells ``by`` logprobs, or the shares of drawn ``samples``. All texts of
    ``splits`` are sent beforehand, ``at_once`` of them side by side, and the answers kept, so
    that no request is sent twice; later texts, in serving say, are sent as they come.
    """

    key_from: str = ""
    by: By = "logprobs"
    samples: int = 5
    max_tokens: int = 16
    at_once: int = 4
    splits: tuple[str, ...] = ("calibration", "gate", "test")


@dataclass(frozen=True, kw_only=True)
class ZeroShotClassification(Stage):
    """Make a classifier of a language model by a prompt for the label of each text.

    ``model`` is the address of a language model: a folder, a .gguf file, ``asset:NAME/PATH``,
    ``hub:OWNER/NAME@REVISION`` or ``hosted:MODEL@https://HOST/v1``. The ``instruction`` holds
    ``{labels}`` and ``{text}``; ``names`` says how a label is called there where its own name
    says little. Of a text the first ``max_characters`` are shown. ``shown`` training rows stand
    before it with their labels (few-shot), not for a hosted model; ``select`` and ``pool`` say
    which, as in the stage prompt. ``hosted`` says more of a hosted model. The artifact is called
    ``gives_as``, so that such a model can stand beside a trained one.
    """

    model: str
    instruction: str = INSTRUCTION
    names: dict[str, str] = field(default_factory=dict)
    max_characters: int = 2000
    shown: int = 0
    select: Select = "random"
    pool: int = 500
    hosted: Hosting | None = None
    gives_as: str = "model"

    def needs(self) -> tuple[str, ...]:
        """The rows: their labels, and the texts that are sent to a hosted model."""
        return ("rows",)

    def gives(self) -> tuple[str, ...]:
        """One model."""
        return (self.gives_as,)

    def asks(self) -> tuple[str, ...]:
        """Rows to show, and the splits that are sent to a hosted model."""
        shown = ("rows/train",) if self.shown else ()
        return shown + tuple(f"rows/{split}" for split in self.hosting.splits if self.is_hosted)

    def reads(self) -> dict[str, str]:
        """The published model, if it is of this machine."""
        return {} if self.is_hosted else {self.model: content_of(self.model)}

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows, and the family of the model."""
        return (*task_modules(inputs["rows"]), *self.family())

    def family(self) -> tuple[str, ...]:
        """The modules of the model's family, if it is of this machine and ours."""
        return () if self.is_hosted else language_modules(self.model)

    @property
    def is_hosted(self) -> bool:
        """True for a model behind an endpoint."""
        return is_hosted(self.model)

    @property
    def hosting(self) -> Hosting:
        """The settings of requests to a hosted model."""
        return self.hosted or Hosting()

    def check(self) -> None:
        """BadInput for an address, a name or a number that is none."""
        LabelPrompt(self.instruction, ("a", "b"), self.max_characters)
        if self.shown or self.select != "random":
            check_shown(self.shown, self.select, self.pool)
            if self.is_hosted:
                raise BadInput(
                    "rows that are shown to a hosted model",
                    "a model of this machine, or shown: 0",
                    "the stage prompt shows rows to a hosted model",
                )
        if not NAME.fullmatch(self.gives_as):
            raise BadInput(f"gives_as is {self.gives_as!r}", "small letters, digits and _")
        if self.is_hosted:
            open_hosted(self.model, self.hosting.key_from)
            for name, most in (("samples", 100), ("max_tokens", 100_000), ("at_once", 64)):
                if not 1 <= getattr(self.hosting, name) <= most:
                    raise BadInput(
                        f"hosted.{name} is {getattr(self.hosting, name)}", f"from 1 to {most}"
                    )
        elif self.hosted is not None:
            raise BadInput("settings of a hosted model", "a hosted model", "leave hosted out")
        else:
            check_address(self.model)

    def run(self, work: Work) -> dict[str, Any]:
        """Write the classifier; of a hosted one with its answers."""
        task = label_task(work.inputs["rows"])
        labels = task.labels
        prompt = make_label_prompt(self.instruction, labels, self.names, self.max_characters)
        facts = {"labels": list(labels), "names": list(prompt.names), "model": self.model}
        if self.is_hosted:
            return facts | {"answers": self.request_all(work, task, prompt)}
        # A family's code is part of what the model says, and later stages reach none of it.
        code = hash_json(reachable([], self.family())[0])
        train = read_split(work.inputs["rows"], "train")
        examples, rows = choose(task, train, self.shown, self.select, self.pool, self.seed)
        model = open_zero_shot(
            task, prompt, self.model, code, lambda line: work.record("said", line=line), examples
        )
        out = work.out(self.gives_as)
        model.save(out)
        if rows.num_rows:
            write_used_rows(task, rows, out)
        return facts | {"prior": model.prior, "shown": rows.num_rows}

    def request_all(self, work: Work, task: LabelTask, prompt: LabelPrompt) -> int:
        """Send all texts of the splits, but for those that were answered before a kill."""
        query = Query(
            self.model,
            self.hosting.key_from,
            self.hosting.by,
            self.hosting.samples,
            self.hosting.max_tokens,
            self.seed,
        )
        path = work.scratch / "answers.jsonl"
        model = ZeroShotHosted(task, prompt, query, answered(path, len(task.labels)))
        inputs = [column.name for column in role_columns(task, "input")]
        rows: list[Row] = [
            row
            for split in self.hosting.splits
            for row in read_split(work.inputs["rows"], split).select(inputs).to_pylist()
        ]
        journal, begun = Journal(path), len(model.cache)

        def note(key: str, logits: list[float]) -> None:
            journal.record(ANSWERED, key=key, logits=logits)
            work.progress(len(model.cache), len(rows), "requests")

        try:
            model.fill_cache(rows, note, self.hosting.at_once)
        finally:
            journal.close()
        work.measured(requested=len(model.cache) - begun, answered_before=begun)
        model.save(work.out(self.gives_as))
        return len(model.cache)


def label_task(rows: Path) -> LabelTask:
    """The task of a rows artifact; BadInput where it has no labels to choose from."""
    task = read_task_of(rows)
    if not hasattr(task, "labels") or not hasattr(task, "codes"):
        raise BadInput(
            f"rows for the task {task.kind}",
            "rows for a task with one label a row",
            "leave the stage zero-shot out",
        )
    return cast(LabelTask, task)


def answered(path: Path, labels: int) -> Mapping[str, list[float]]:
    """The answers that an earlier run of the same stage was given."""
    return {
        event["key"]: event["logits"]
        for event in read_journal(path)
        if event["event"] == ANSWERED and is_logit_row(event.get("logits"), labels)
    }
