"""Tasks whose rows are a text and another one that is to be written for it.

Summarization, translation and text-to-text generation are such tasks. They differ in the names of
their columns, in the prompt, and in how a text that was written is compared with the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row, blank
from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.core.task import (
    Answers,
    Loss,
    Measures,
    Prepared,
    Signal,
    Task,
    Weights,
    text_signals,
)
from lmwright.text.cleaning import Step, cleaner, refuse_order
from lmwright.text.generation import GenerationConfig, SamplingParams

UNIFORM_BITS = 8.0
"""Bits a byte of the uniform distribution over bytes: a row's loss is counted as no more."""
CLOSENESS = "dissimilarity"
"""The loss that compares what was written with what should have been: 0 for equal texts, at most
1; each task says how it is measured."""


@dataclass(frozen=True, kw_only=True)
class Decoding(Settings):
    """How answers are written, by the usual names of a generation config.

    ``temperature`` 0 takes the likeliest token, ``num_beams`` above 1 searches with beams,
    ``penalty_alpha`` above 0 by contrastive search; ``min_new_tokens`` and ``length_penalty`` steer
    the length. What each does is said where :class:`~lmwright.text.generation.SamplingParams` is.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    penalty_alpha: float = 0.0
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0

    def check(self) -> None:
        """BadInput for a number out of its range."""
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise BadInput(
                f"min_new_tokens is {self.min_new_tokens}", f"from 0 to {self.max_new_tokens}"
            )
        if self.repetition_penalty <= 0 or self.no_repeat_ngram_size < 0:
            raise BadInput(
                f"repetition_penalty {self.repetition_penalty}, "
                f"no_repeat_ngram_size {self.no_repeat_ngram_size}",
                "a penalty above 0, and a size from 0",
            )
        self.params(1)

    def params(self, prompt: int, most: int | None = None) -> SamplingParams:
        """For an answer behind ``prompt`` tokens, of at most ``most`` new ones where that is less.

        The model's own constraints (its languages, its banned ids) are added where it decodes.
        """
        room = self.max_new_tokens if most is None else max(1, min(self.max_new_tokens, most))
        return SamplingParams(
            max_new_tokens=room,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            penalty_alpha=self.penalty_alpha,
            beams=self.num_beams,
            beam_groups=self.num_beam_groups,
            diversity_penalty=self.diversity_penalty,
            length_penalty=self.length_penalty,
            generation_config=GenerationConfig(
                repetition_penalty=self.repetition_penalty,
                no_repeat_ngram_size=self.no_repeat_ngram_size,
                min_length=prompt + self.min_new_tokens if self.min_new_tokens else 0,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class WrittenText(Settings):
    """What tasks have in common in which a model writes a text that is compared with the right one.

    ``clean``     steps of text/cleaning.py that a text passes before it is read.
    ``decoding``  how answers are written.
    ``smoothing`` share of each target token that training spreads over the whole vocabulary.

    A leaf names its ``source_column``, ``target_column`` and ``answer_column``, and implements
    :meth:`closeness` and :meth:`scores_of`. ``may_repeat`` says that a text may be its own target.
    """

    one_answer: ClassVar[bool] = False
    teacher_forced: ClassVar[bool] = True
    strata: ClassVar[str] = ""
    primary: ClassVar[str] = CLOSENESS
    calibrates: ClassVar[str] = CLOSENESS
    gate_loss: ClassVar[str] = CLOSENESS
    abstains_by: ClassVar[str] = ""
    contracts: ClassVar[tuple[str, ...]] = ()
    panel: ClassVar[str] = "lmwright.tasks.target_text_panel:panel"
    loss_names: ClassVar[Mapping[str, float]] = {CLOSENESS: 1.0, "bits_per_byte": UNIFORM_BITS}
    source_column: ClassVar[str]
    target_column: ClassVar[str]
    answer_column: ClassVar[str]
    further_columns: ClassVar[tuple[Column, ...]] = ()
    may_repeat: ClassVar[bool] = False

    clean: tuple[Step, ...] = ("repair",)
    decoding: Decoding = field(default_factory=Decoding)
    smoothing: float = 0.0

    def check(self) -> None:
        """BadInput for cleaning steps, a decoding or a smoothing that cannot be."""
        refuse_order(self.clean)
        self.decoding.check()
        if not 0 <= self.smoothing < 1:
            raise BadInput(f"smoothing is {self.smoothing}", "at least 0 and below 1")

    @property
    def cleaner(self) -> Callable[[str], str]:
        """How a text is cleaned."""
        return cleaner(self.clean)

    @property
    def classes(self) -> tuple[str, ...]:
        """There are none."""
        return ()

    # Rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """A text, what is to be written for it, what is written, and whether the text was cut."""
        return (
            Column(self.source_column, "text", "input"),
            *self.further_columns,
            Column(self.target_column, "text", "target"),
            Column(self.answer_column, "text", "answer"),
            Column("cut", "label", "answer"),
        )

    def fitted(self, rows: Iterable[pa.RecordBatch]) -> Task:
        """Nothing is fitted."""
        return self  # type: ignore[return-value]

    def comparable(self, other: Task) -> bool:
        """The same kind."""
        return type(other) is type(self)

    def fault(self, row: Row) -> str:
        """A text or a target without characters that show, and a target that is the text itself
        where that is no answer."""
        source, target = self.source(row).strip(), str(row[self.target_column]).strip()
        if blank(source):
            return f"empty {self.source_column}"
        if blank(target):
            return f"empty {self.target_column}"
        return "target equals source" if source == target and not self.may_repeat else ""

    def cleaned(self, row: Row) -> Row:
        """The row with its text as a model reads it."""
        return {**row, self.source_column: self.cleaner(row[self.source_column])}

    def stratum(self, row: Row) -> str:
        """No shares are kept."""
        return ""

    def cluster(self, row: Row) -> str:
        """Rows of one text, whatever is written for it, are never parted."""
        return self.source(row)

    def source(self, row: Row) -> str:
        """The cleaned text that something is written for."""
        return self.cleaner(row[self.source_column])

    def text(self, row: Row) -> str:
        """The cleaned text that something is written for."""
        return self.source(row)

    def target(self, row: Row) -> str:
        """The reference text."""
        return str(row[self.target_column])

    def asked(self, row: Row) -> str:
        """The cleaned text, for a prompt that shows rows."""
        return self.source(row)

    # Answers

    def parsed(self, completions: Sequence[Sequence[str]], rows: Sequence[Row]) -> Answers:
        """The first sample of each row."""
        written = [said[0] if said else "" for said in completions]
        return Answers({self.answer_column: written, "cut": ["false"] * len(written)})

    def closeness(self, rows: pa.Table, written: Sequence[str]) -> np.ndarray:
        """How like each target what was written for it is (n,), from 0 to 1."""
        raise NotImplementedError

    def scores_of(
        self, rows: pa.Table, written: Sequence[str]
    ) -> tuple[Callable[[Weights], dict[str, np.ndarray]], frozenset[str], dict[str, Any]]:
        """The task's own scores by weights, those of which the lower is better, and details."""
        raise NotImplementedError

    def calibrated(self, answers: Answers, temperature: float, smoothing: float) -> Answers:
        """The same answers."""
        return answers

    def confidence(self, answers: Answers) -> np.ndarray | None:
        """A text that was written has none."""
        return None

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """The dissimilarity of each row's texts and the task's own scores; bits a byte of the
        targets where the model gives likelihoods."""
        written = answers[self.answer_column]
        losses = {CLOSENESS: Loss(1.0 - self.closeness(rows, written), 1.0)}
        own, lower, details = self.scores_of(rows, written)
        bits: np.ndarray | None = None
        if "nats" in answers.columns:
            bits = answers["nats"] / np.log(2)
            each = np.minimum(bits / answers["bytes"], UNIFORM_BITS)
            losses["bits_per_byte"] = Loss(each, UNIFORM_BITS)
            lower |= {"corpus_bits_per_byte"}

        def scores(weights: Weights) -> dict[str, np.ndarray]:
            found = own(weights)
            for name, loss in losses.items():
                found[name] = (weights @ loss.values) / weights.sum(-1)
            if bits is not None:
                found["corpus_bits_per_byte"] = (weights @ bits) / (weights @ answers["bytes"])
            return found

        cut = [each == "true" for each in answers.columns.get("cut", [])]
        if cut:
            details = {**details, "cut": sum(cut)}
        return Measures(losses, scores, details=details, lower=lower)

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        """Lengths, words and vectors of the texts; how long and how likely the answers are."""
        found = text_signals(prepared, answers)
        written = answers[self.answer_column]
        found["answer_length"] = Signal("number", np.array([float(len(each)) for each in written]))
        if "nats" in answers.columns:
            found["surprise"] = Signal("number", answers["nats"] / answers["bytes"])
        return found

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        """What was written, whether its text was cut, and how likely it is."""
        cut = answers.columns.get("cut")
        found = {
            self.answer_column: answers[self.answer_column][place],
            "cut": cut is not None and cut[place] == "true",
        }
        if "nats" in answers.columns:
            for name in ("nats", "bytes"):
                found[name] = float(answers[name][place])
        return found

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        """What was told."""
        columns: dict[str, Any] = {
            self.answer_column: [each[self.answer_column] for each in told],
            "cut": [str(bool(each["cut"])).lower() for each in told],
        }
        if all("nats" in each for each in told):
            for name in ("nats", "bytes"):
                columns[name] = np.array([float(each[name]) for each in told])
        return Answers(columns)

    def category(self, told: Mapping[str, Any]) -> str:
        """Whether something was written."""
        return "written" if told[self.answer_column] else "empty"

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What should have been written; BadInput if that is nothing."""
        text = str(given.get(self.target_column) or "")
        if blank(text):
            raise BadInput(f"an empty {self.target_column}", "what should have been written")
        return {self.target_column: text}


@dataclass(frozen=True, kw_only=True)
class TargetText(WrittenText):
    """Tasks whose model reads a text in a template.

    ``prompt``  what a model reads: a template with the names of input columns in braces. The
                answer follows it in a decoder; an encoder reads it as it stands.
    """

    text_model: ClassVar[str] = "lmwright.tasks.target_text_model:TextWriter"

    prompt: str = ""

    def check(self) -> None:
        """BadInput for cleaning steps, a prompt or a decoding that cannot be."""
        super().check()
        known = self.prompt_columns
        try:
            parts = [each for each in Formatter().parse(self.prompt) if each[1] is not None]
        except ValueError as error:
            raise BadInput(f"prompt: {error}", "names of columns in braces") from None
        named = {str(name) for _, name, _, _ in parts}
        if formatted := [str(name) for _, name, form, turned in parts if form or turned]:
            raise BadInput(
                f"prompt is {self.prompt!r}, which formats {{{formatted[0]}}}",
                "names of columns in braces, and nothing beside them",
            )
        if self.source_column not in named or not named <= {*known}:
            raise BadInput(
                f"prompt is {self.prompt!r}",
                f"a text with {{{self.source_column}}}, and of columns only: {', '.join(known)}",
            )

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The columns that the prompt may name: the inputs."""
        return tuple(column.name for column in self.columns if column.role == "input")

    def rendered(self, row: Row, source: str) -> str:
        """The prompt for a row, with ``source`` as its text."""
        return self.prompt.format(**{**row, self.source_column: source})
