"""The stage ``ask``: a classifier that is trained on nothing, but asks a language model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_json
from lmwright.core.journal import Journal, read_journal
from lmwright.core.stage import Settings, Stage, Work
from lmwright.core.stamp import reachable
from lmwright.data.corpus import read_labels
from lmwright.evals.rows import read_split
from lmwright.hosted.chat import open_hosted
from lmwright.models.files.published import check_address, content_of
from lmwright.tables import FAMILIES, module_of
from lmwright.tasks.zero_shot import open_zero_shot
from lmwright.tasks.zero_shot_hosted import By, Query, ZeroShotHosted
from lmwright.text.generation import is_hosted
from lmwright.text.label_prompt import INSTRUCTION, LabelPrompt, is_logit_row, make_label_prompt

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
ANSWERED = "answered"


@dataclass(frozen=True, kw_only=True)
class Hosting(Settings):
    """How a hosted model is asked.

    ``key_from`` names the variable of the environment with its key. The probabilities are those
    that the endpoint tells ``by`` logprobs, or the shares of drawn ``samples``. All texts of
    ``splits`` are asked about beforehand, ``at_once`` of them side by side, and the answers kept,
    so that nobody is asked twice; later ones, in serving say, are asked about as they come.
    """

    key_from: str = ""
    by: By = "logprobs"
    samples: int = 5
    max_tokens: int = 16
    at_once: int = 4
    splits: tuple[str, ...] = ("calibration", "gate", "test")


@dataclass(frozen=True, kw_only=True)
class Ask(Stage):
    """Make a classifier of a language model that is asked for the label of each text.

    ``model`` is the address of a language model: a folder, a .gguf file, ``asset:NAME/PATH``,
    ``hub:OWNER/NAME@REVISION`` or ``hosted:MODEL@https://HOST/v1``. The ``instruction`` holds
    ``{labels}`` and ``{text}``; ``names`` says how a label is called there where its own name
    says little. Of a text the first ``max_characters`` are shown. ``hosted`` says more of a
    hosted model. The artifact is called ``gives_as``, so that an asked model can stand beside a
    trained one.
    """

    model: str
    instruction: str = INSTRUCTION
    names: dict[str, str] = field(default_factory=dict)
    max_characters: int = 2000
    hosted: Hosting | None = None
    gives_as: str = "model"

    def needs(self) -> tuple[str, ...]:
        """The rows: their labels, and the texts that a hosted model is asked about."""
        return ("rows",)

    def gives(self) -> tuple[str, ...]:
        """One model."""
        return (self.gives_as,)

    def asks(self) -> tuple[str, ...]:
        """The splits that a hosted model is asked about."""
        return tuple(f"rows/{split}" for split in self.hosting.splits) if self.is_hosted else ()

    def reads(self) -> dict[str, str]:
        """The published model, if it is of this machine."""
        return {} if self.is_hosted else {self.model: content_of(self.model)}

    def reaches(self) -> tuple[str, ...]:
        """The families' leaves, one of which may be loaded."""
        return () if self.is_hosted else tuple(module_of("families", name) for name in FAMILIES)

    @property
    def is_hosted(self) -> bool:
        """Whether the model is asked over the network."""
        return is_hosted(self.model)

    @property
    def hosting(self) -> Hosting:
        """How a hosted model is asked."""
        return self.hosted or Hosting()

    def check(self) -> None:
        """BadInput for an address, a name or a number that is none."""
        LabelPrompt(self.instruction, ("a", "b"), self.max_characters)
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
        labels = read_labels(work.inputs["rows"])
        prompt = make_label_prompt(self.instruction, labels, self.names, self.max_characters)
        facts = {"labels": list(labels), "names": list(prompt.names), "model": self.model}
        if self.is_hosted:
            return facts | {"answers": self.asked(work, labels, prompt)}
        # A family's code is part of what the model says, and later stages reach none of it.
        code = hash_json(reachable([], self.reaches())[0])
        model = open_zero_shot(
            labels, prompt, self.model, code, lambda line: work.record("said", line=line)
        )
        model.save(work.out(self.gives_as))
        return facts | {"prior": model.prior}

    def asked(self, work: Work, labels: tuple[str, ...], prompt: LabelPrompt) -> int:
        """Ask about all texts of the splits, but for those that were answered before a kill."""
        query = Query(
            self.model,
            self.hosting.key_from,
            self.hosting.by,
            self.hosting.samples,
            self.hosting.max_tokens,
            self.seed,
        )
        path = work.scratch / "answers.jsonl"
        model = ZeroShotHosted(labels, prompt, query, answered(path, len(labels)))
        texts = [
            text
            for split in self.hosting.splits
            for text in read_split(work.inputs["rows"], split).column("text").to_pylist()
        ]
        journal, begun = Journal(path), len(model.answers)

        def note(key: str, logits: list[float]) -> None:
            journal.record(ANSWERED, key=key, logits=logits)
            work.progress(len(model.answers), len(texts), "asking")

        try:
            model.fill_cache(texts, note, self.hosting.at_once)
        finally:
            journal.close()
        work.measured(asked=len(model.answers) - begun, answered_before=begun)
        model.save(work.out(self.gives_as))
        return len(model.answers)


def answered(path: Path, labels: int) -> Mapping[str, list[float]]:
    """The answers that an earlier run of the same stage was given."""
    return {
        event["key"]: event["logits"]
        for event in read_journal(path)
        if event["event"] == ANSWERED and is_logit_row(event.get("logits"), labels)
    }
