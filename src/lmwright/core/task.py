"""A task: all that the line knows of the rows, from reading them to watching their answers.

A task is a frozen dataclass in a leaf of ``tasks/`` and the section ``task`` of a recipe. Its
fields are its settings and what was fitted to the rows (labels, thresholds). It is kept as
``task.json`` beside rows and models, so that whoever reads these needs no recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row
from lmwright.core.errors import BadInput, nearest
from lmwright.core.settings import Resolve, read_settings

Weights = np.ndarray
"""How often each row counts, float64 (draws, n): what the bootstrap draws."""


@dataclass(frozen=True)
class Answers:
    """Answers to n rows: per column a float array (n, …) or a list of n values.

    ``vectors`` (n, d) at length 1, where the model has any, are for drift and search.
    """

    columns: Mapping[str, Any]
    vectors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def take(self, places: Sequence[int] | np.ndarray) -> Answers:
        """The answers at ``places``, in that order."""
        picked = {
            name: values[places] if isinstance(values, np.ndarray) else [values[p] for p in places]
            for name, values in self.columns.items()
        }
        return Answers(picked, None if self.vectors is None else self.vectors[places])

    def with_columns(self, **columns: Any) -> Answers:
        """The same answers with more columns."""
        return replace(self, columns={**self.columns, **columns})


def joined(parts: Sequence[Answers], order: Sequence[int] | np.ndarray) -> Answers:
    """Parts one after another; ``order[i]`` is the row that the i-th answer belongs to."""
    back = np.empty(len(order), dtype=np.int64)
    back[np.asarray(order, dtype=np.int64)] = np.arange(len(order))
    columns: dict[str, Any] = {}
    for name, first in parts[0].columns.items():
        if isinstance(first, np.ndarray):
            columns[name] = np.concatenate([part[name] for part in parts])
        else:
            columns[name] = [value for part in parts for value in part[name]]
    vectors = [part.vectors for part in parts if part.vectors is not None]
    whole = Answers(columns, np.concatenate(vectors) if len(vectors) == len(parts) else None)
    return whole.take(back)


@dataclass(frozen=True)
class Loss:
    """A loss of every row (n,), lower is better, at least 0 and at most ``largest``."""

    values: np.ndarray
    largest: float


@dataclass(frozen=True)
class Share:
    """A share of rows: of those ``among`` (n,) bool, those that are ``hits`` (n,) bool."""

    hits: np.ndarray
    among: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A value with an interval of its own method."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measures:
    """How good n answers are. Everything statistical reads this and knows no task.

    ``losses``   name -> Loss: paired comparisons, gates, slices, worst rows, drift of the loss.
    ``scores``   weights (draws, n) -> name -> values (draws,): every score as a function of how
                 often each row counts, so that the bootstrap gives its interval.
    ``shares``   scores that are shares of rows, by name: they get Wilson's interval.
    ``special``  scores with an interval of their own: (draws, rng, level) -> Estimate.
    ``lower``    scores of which the lower is the better, beside the losses.
    ``details``  JSON values that belong to the scores (a confusion table).
    """

    losses: Mapping[str, Loss]
    scores: Callable[[Weights], dict[str, np.ndarray]]
    shares: Mapping[str, Share] = field(default_factory=dict)
    special: Mapping[str, Callable[[int, np.random.Generator, float], Estimate]] = field(
        default_factory=dict
    )
    details: Mapping[str, Any] = field(default_factory=dict)
    lower: frozenset[str] = frozenset()


def formula(
    statistics: np.ndarray, of_sums: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Weights], np.ndarray]:
    """A score from per-row statistics (n, s): ``of_sums`` of their weighted sums (draws, s)."""
    return lambda weights: of_sums(weights @ statistics)


@dataclass(frozen=True)
class Signal:
    """What drift is looked for in: a property of n rows or answers, compared by its kind.

    ``number``    values (n,).
    ``category``  values (n,) codes below ``categories``.
    ``tokens``    ids of all rows one after another, row i at ``offsets[i]:offsets[i + 1]``.
    ``vector``    values (n, d).

    ``floor`` is the effect below which a drift is too small to act upon, 0 for the kind's own.
    """

    kind: Literal["number", "category", "tokens", "vector"]
    values: np.ndarray
    categories: int = 0
    offsets: np.ndarray | None = None
    floor: float = 0.0

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def take(self, rows: np.ndarray) -> Signal:
        """The given rows (m,)."""
        if self.offsets is None:
            return replace(self, values=self.values[rows])
        spans = [self.values[self.offsets[r] : self.offsets[r + 1]] for r in rows]
        sizes = np.array([0] + [len(span) for span in spans])
        values = np.concatenate(spans) if spans else self.values[:0]
        return replace(self, values=values, offsets=np.cumsum(sizes))


def ragged(ids: Sequence[np.ndarray]) -> Signal:
    """The tokens of rows as a signal."""
    lengths = np.array([len(each) for each in ids])
    values = np.concatenate(list(ids)) if len(ids) else np.zeros(0, np.int64)
    return Signal("tokens", values, offsets=np.concatenate([[0], np.cumsum(lengths)]))


class Prepared(Protocol):
    """A row made ready for one model."""

    @property
    def cost(self) -> int:
        """Tokens that answering it takes."""

    @property
    def ids(self) -> np.ndarray:
        """Token or word ids that the model reads of it, for the drift of the vocabulary."""


def text_signals(prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
    """Lengths, words and, where the model gives them, vectors of texts."""
    found = {
        "length": Signal("number", np.array([float(len(item.ids)) for item in prepared])),
        "vocabulary": ragged([item.ids for item in prepared]),
    }
    if answers.vectors is not None:
        found["embedding"] = Signal("vector", np.asarray(answers.vectors))
    return found


class Task(Protocol):
    """The part of a task that everything below and beside training uses.

    ``kind``        its name in the table of tasks.
    ``one_answer``  whether rows with equal inputs and other targets contradict each other.
    ``teacher_forced``  whether models read the targets too, to tell how likely they are.
    ``strata``      the name of what :meth:`stratum` gives, as slices are called; "" for none.
    ``text_model``  "module:class" of how a text model answers it (models/text_model.py: TaskModel)
                    and is trained for it, or "" where none does. Its file is apart: whoever only
                    needs the rows neither imports it nor depends on it.
    ``panel``       "module:function" that draws what is the task's own in a report, or "": from
                    the split's name, the scores of the first model on it (as scores.json has
                    them), the table of its saved predictions and the module of charts to a list
                    of (title, Markup).
    ``primary``     the loss that decides which of two models is better.
    ``calibrates``  the loss whose mean the temperature makes least.
    ``gate_loss``   the bounded loss that gates compare by default.
    ``abstains_by`` the loss of 0 or 1 whose mean over answered rows a threshold keeps below a
                    risk; "" where the task has no confidence.
    ``contracts``   routes that serve it beside ``/v1/predict``: names in serve/contracts.py.
    ``baselines``   name -> "module:attribute" of what must be beaten, the strongest last.
    """

    kind: ClassVar[str]
    one_answer: ClassVar[bool]
    teacher_forced: ClassVar[bool]
    strata: ClassVar[str]
    text_model: ClassVar[str]
    panel: ClassVar[str]
    calibrates: ClassVar[str]
    abstains_by: ClassVar[str]
    contracts: ClassVar[tuple[str, ...]]
    baselines: ClassVar[Mapping[str, str]]

    @property
    def primary(self) -> str: ...
    @property
    def gate_loss(self) -> str: ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of its rows and answers."""

    def fitted(self, rows: Iterable[pa.RecordBatch]) -> Task:
        """The task with what is learnt from the training rows; BadInput if they cannot be."""

    def comparable(self, other: Task) -> bool:
        """True if answers to one are answers to the other: the same kind, the same labels."""

    def fault(self, row: Row) -> str:
        """The reason why this row cannot be learnt from, or ""."""

    def cleaned(self, row: Row) -> Row:
        """The row as models of the task read it; cleaning it again changes nothing."""

    def stratum(self, row: Row) -> str:
        """The group of rows whose share every split keeps; also a slice of the rows."""

    def cluster(self, row: Row) -> str:
        """The name of the rows that are never parted and are resampled together; "" for none."""

    def text(self, row: Row) -> str:
        """The cleaned text of a row: for near duplicates, slices, language and personal data."""

    def target(self, row: Row) -> str:
        """The right answer in words, as people are shown it."""

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """Losses and scores of answers to rows with targets."""

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        """What drift is looked for in, by name."""

    def confidence(self, answers: Answers) -> np.ndarray | None:
        """The model's own estimate (n,) of each answer being right; None where it has none."""

    def calibrated(self, answers: Answers, temperature: float, smoothing: float) -> Answers:
        """The answers at a temperature, mixed with ``smoothing`` of a blind guess.

        The same ones where the task has no use for it.
        """

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        """One answer's columns as JSON values, for HTTP, prediction and the traffic log."""

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        """Calibrated answers from what :meth:`told` said of them; vectors are lost."""

    def category(self, told: Mapping[str, Any]) -> str:
        """The class of an answer, by which served rows are counted."""

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The targets that feedback gave, as they are kept; BadInput where none can be meant."""


class LabelTask(Task, Protocol):
    """A task whose answers are logits of its fitted labels; every row has one of them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, fitted to the training rows, sorted."""

    def codes(self, rows: pa.Table) -> np.ndarray:
        """Places (n,) of the rows' labels; BadInput for one that the task does not have."""


@runtime_checkable
class NamedMeasures(Protocol):
    """A task that names its measures before there are rows, so that settings can be checked.

    ``loss_names``   the losses of every row, each with its largest value; NaN where a model's
                     calibration sets that.
    ``score_names``  the other scores that two models can be compared by, the first of them first;
                     ``recall.LABEL`` stands for one of every class.
    ``classes``      what LABEL stands for, once it is fitted.
    """

    loss_names: ClassVar[Mapping[str, float]]
    score_names: ClassVar[tuple[str, ...]]

    @property
    def classes(self) -> tuple[str, ...]: ...


@runtime_checkable
class FeedbackTask(Protocol):
    """A task whose primary loss needs more than feedback gives: the other answers, say.

    ``feedback_loss``  the loss by which served answers are judged instead.
    """

    feedback_loss: ClassVar[str]


def feedback_loss(task: Task) -> str:
    """The loss by which answers are judged one by one, by what was told of them: the primary one,
    where the task names no other."""
    return task.feedback_loss if isinstance(task, FeedbackTask) else task.primary


@runtime_checkable
class RankingTask(Protocol):
    """A task whose rows are scored against one another: the documents of a query.

    ``ranked_by``  the input column of whose equal values rows are one ranking.
    """

    ranked_by: ClassVar[str]


@runtime_checkable
class SharedTextTask(Protocol):
    """A task whose rows share texts that are no secret of any split: documents of a collection."""

    def own_text(self, row: Row) -> str:
        """The cleaned text of a row without what is shared."""


def text_of_its_own(task: Task, row: Row) -> str:
    """The text by which a row is a near duplicate of another one."""
    return task.own_text(row) if isinstance(task, SharedTextTask) else task.text(row)


@runtime_checkable
class MergingTask(Task, Protocol):
    """A task whose rows with equal inputs are judgements of one row, by several annotators say."""

    def merged(self, rows: Sequence[Row]) -> Row:
        """One row (inputs and targets) of several with equal inputs, each with its side columns.

        The rows come from one source, in the order in which they were read.
        """


@runtime_checkable
class RefusingTask(Protocol):
    """A task with inputs that are well formed and still ask for no answer."""

    def refusal(self, row: Row) -> str:
        """The reason for which these inputs have no answer, or ""."""


def refusal_of(task: Task, row: Row) -> str:
    """The reason for which the inputs of a request have no answer, or ""."""
    return task.refusal(row) if isinstance(task, RefusingTask) else ""


@runtime_checkable
class PoolingTask(Task, Protocol):
    """A task whose answers can be averaged over several models (an ensemble)."""

    def pooled(self, parts: Sequence[Answers]) -> Answers:
        """Uncalibrated answers whose probabilities are the mean of those of calibrated ``parts``.

        BadInput for answers that have no mean.
        """


@runtime_checkable
class ThresholdTask(Task, Protocol):
    """A task whose answers depend on thresholds that are tuned on the rows that calibrate."""

    def tuned(self, rows: pa.Table, answers: Answers) -> tuple[float, ...]:
        """The thresholds that are best for calibrated answers to these rows."""

    def decided(self, answers: Answers, thresholds: Sequence[float]) -> Answers:
        """Calibrated answers as they are under thresholds; none leave them as they are."""


@runtime_checkable
class ReturningTask(Task, Protocol):
    """A task whose answers can be asked about in turn, so that the row's own text should come back.

    ``answer_column``  the answers' column with the text that is asked about.
    """

    answer_column: ClassVar[str]

    def returned(self, row: Row, written: str) -> Row:
        """The row (inputs and targets) that asks for the way back of what was written for a row."""


@runtime_checkable
class PromptedTask(Task, Protocol):
    """A task whose answers can be read off texts that a language model wrote."""

    def parsed(self, completions: Sequence[Sequence[str]], rows: Sequence[Row]) -> Answers:
        """Uncalibrated answers from the texts (one or more samples) written for each row."""


@runtime_checkable
class InstructedTask(Protocol):
    """A task whose rows say by further columns what is asked of their text: languages, a prefix."""

    def asked(self, row: Row) -> str:
        """The cleaned text of a row, and what is asked of it in front."""


def asked_of(task: Task, row: Row) -> str:
    """The text of a row as a prompt shows it."""
    return task.asked(row) if isinstance(task, InstructedTask) else task.text(row)


def role_columns(task: Task, *roles: str) -> tuple[Column, ...]:
    """The task's columns of these roles, in their order."""
    return tuple(column for column in task.columns if column.role in roles)


def asked_rows(task: Task, rows: pa.Table) -> list[Row]:
    """The columns of rows that a model reads: inputs, and targets under teacher forcing."""
    roles: tuple[str, ...] = ("input", "target") if task.teacher_forced else ("input",)
    names = dict.fromkeys(column.name for column in role_columns(task, *roles))
    return rows.select([name for name in names if name in rows.column_names]).to_pylist()


LABEL = "LABEL"
"""What stands for every label in the name of a score."""


def refuse_measure(task: Any, name: str, setting: str, losses_only: bool = False) -> None:
    """Raise BadInput for a ``name`` that is none of the task's measures, with the nearest one.

    An empty name, which stands for the task's own choice, is none to be refused; nor is any name
    where the task does not say which it has. Where the labels are not known yet, a score of any
    label is taken.
    """
    if not name or not isinstance(task, NamedMeasures):
        return
    known = (*task.loss_names, *(() if losses_only else task.score_names))
    classes = task.classes or (name.partition(".")[2] or LABEL,)
    every = [
        each.replace(LABEL, one)
        for each in known
        for one in (classes if each.endswith(f".{LABEL}") else ("",))
    ]
    if name not in every or name.endswith("."):
        what = "a loss" if losses_only else "a loss or score"
        raise BadInput(
            f"{setting} is {name!r}",
            f"{what} of the task: {', '.join(known)}",
            nearest(name, every),
        )


def read_task(value: Any, where: str, resolve: Resolve) -> Task:
    """The task that a recipe or ``task.json`` names: its kind, or a mapping with ``kind``."""
    settings = {"kind": value} if isinstance(value, str) else value
    if not isinstance(settings, Mapping) or not isinstance(settings.get("kind"), str):
        raise BadInput(
            f"{where}: task is {value!r}",
            "the name of a task, or a mapping with its kind and settings",
            "write task: text-classification",
        )
    rest = {name: each for name, each in settings.items() if name != "kind"}
    try:
        kind = resolve("tasks", settings["kind"])
    except BadInput as error:
        raise BadInput(f"{where}: {error.found}", error.wanted, error.cure) from None
    task: Task = read_settings(kind, rest, f"{where}: task")
    return task


def task_to_json(task: Task) -> dict[str, Any]:
    """The JSON value that :func:`read_task` reads back."""
    return {"kind": task.kind, **asdict(task)}  # type: ignore[call-overload]
