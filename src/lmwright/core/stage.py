"""A stage: settings, what it needs, what it gives, and the work between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

INERT = {"inert": True}
"""Metadata of a field that cannot change a result, so that it stays out of the stamp."""


def inert(default: Any) -> Any:
    """A dataclass field that cannot change a result (a test must prove it)."""
    return field(default=default, metadata=INERT)


class Work(Protocol):
    """What a running stage is given.

    ``inputs``   artifact name -> folder, to be read only.
    ``scratch``  a folder that survives a kill: the rerun of the same stamp finds it again.
    """

    inputs: Mapping[str, Path]
    scratch: Path

    def out(self, artifact: str) -> Path:
        """An empty folder to be filled; it becomes the artifact when ``run`` returns."""

    def record(self, event: str, **facts: Any) -> None:
        """Append one event to the run's journal (numbers, strings, lists; no arrays)."""

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Say how far the stage is; shown to the person, not stored."""

    def measured(self, **facts: Any) -> None:
        """Facts that differ from run to run (seconds, bytes of memory): kept, but apart."""


@dataclass(frozen=True)
class WorkEstimate:
    """How much work a stage is, in units that a short probe can measure the speed of.

    ``rows`` read from sources; ``read_tokens`` that a model reads; ``train_tokens`` that it learns
    from; ``fitted_rows`` of the small models; ``disk`` bytes that stay, ``scratch`` bytes that go.
    What a training keeps in memory grows with ``step_tokens``, the tokens of one of its larger
    steps, and with ``step_pairs``, the squares of its texts' tokens summed. ``further_bytes`` are
    those of models that are held beside one of the training's size.
    """

    rows: float = 0
    read_tokens: float = 0
    train_tokens: float = 0
    fitted_rows: float = 0
    disk: float = 0
    scratch: float = 0
    step_tokens: float = 0
    step_pairs: float = 0
    further_bytes: float = 0


class RowStatistics(Protocol):
    """What is known of the rows before the work: exactly, or estimated from the sources."""

    def rows(self, place: str) -> int:
        """The rows of ``ARTIFACT/FILE``."""

    def tokens(self, place: str, most: int) -> float:
        """The mean tokens of its texts, each cut at ``most`` (0: none is)."""

    def step(self, place: str, most: int, batch: int) -> tuple[float, float]:
        """Tokens of one of the larger batches of its texts, and their squares summed."""

    def languages(self) -> Mapping[str, int]:
        """ISO 639-1 code -> texts of a sample of those to learn from; "?" for texts too short."""

    def source_rows(self) -> int:
        """The rows of all sources together."""

    def model_bytes(self) -> int:
        """The size of the model that training starts from."""


@dataclass(frozen=True)
class Feedback:
    """The labelled traffic that a retraining learns from and is judged by.

    ``artifact`` is its rows artifact, ``sources`` are the raw settings of its sources, ``alias``
    the alias to be moved. ``fresh`` (ARTIFACT/FILE) are the rows to be judged by, ``fresh_rows``
    their number, ``past`` those that earlier gates judged by.
    """

    artifact: str
    sources: tuple[Mapping[str, Any], ...]
    alias: str
    fresh: str
    fresh_rows: int
    past: tuple[str, ...]


@dataclass(frozen=True)
class Use:
    """A use of rows beside learning from them, for lineage.

    ``word`` says which, ``artifact`` is what was made by it. The rows are those that the Parquet
    file ``listed`` in that artifact names, else those that ``limit`` (0: all) draws under ``seed``.
    """

    word: str
    artifact: str
    listed: str = ""
    limit: int = 0
    seed: int = 0


class Settings:
    """What a recipe is read into: subclasses are frozen dataclasses; unknown keys are refused."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    moved: ClassVar[Mapping[str, str]] = {}
    """Former keys -> what is written now."""

    def check(self) -> None:
        """Raise BadInput for settings that are each right but impossible together."""

    def check_in(self, raw: Mapping[str, Any], where: str, make: Callable[..., Any]) -> None:
        """Raise BadInput for a section that does not fit the recipe ``raw`` that it stands in.

        ``make(raw, where)`` reads another recipe's raw values, stages alone.
        """


@dataclass(frozen=True, kw_only=True)
class Stage(Settings):
    """One step of a recipe. Its fields are its settings; a subclass adds its own.

    The same settings, inputs, code and seed give the same bits.
    """

    seed: int = 0

    def needs(self) -> tuple[str, ...]:
        """Names of the artifacts that ``run`` reads."""
        return ()

    def wants(self) -> tuple[str, ...]:
        """Names of artifacts that ``run`` or ``act`` reads where earlier stages give them."""
        return ()

    def gives(self) -> tuple[str, ...]:
        """Names of the artifacts that ``run`` writes."""
        return ()

    def brings(self) -> dict[str, dict[str, Any]]:
        """Stages of which each comes before this one and gives one artifact that it needs.

        The stage's own name of the artifact -> raw settings, with ``stage`` for the kind.
        """
        return {}

    def holds(self) -> dict[str, tuple[str, ...]]:
        """Artifact that ``run`` gives -> names of what will be in it, where later stages ask."""
        return {}

    def learns_from(self) -> tuple[str, ...]:
        """Names of the sources of data that ``run`` reads to be learnt from."""
        return ()

    def asks(self) -> tuple[str, ...]:
        """What ``run`` looks for inside the artifacts that it needs, as ``ARTIFACT/NAME``."""
        return ()

    def reads(self) -> dict[str, str]:
        """What is read from outside the store: a name for people -> hash of its content."""
        return {}

    def resolved(self) -> dict[str, Any]:
        """Settings that this machine decides (``auto``), by name -> what they mean here.

        A stamp has these values, so that no machine takes another's result for its own.
        BadInput for what this machine cannot do.
        """
        return {}

    @classmethod
    def located(cls, settings: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
        """Raw settings with relative paths taken from ``folder``, that of the recipe's file."""
        return settings

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """Modules that ``run`` finds by name through ``lmwright.tables``, and no others.

        They are named by the settings and by ``inputs`` (artifact -> folder): the task of the
        rows, a model's kind, a start's family. So an entry more in a table makes nothing stale.
        """
        return ()

    def foresee(self, inputs: Mapping[str, Path]) -> None:
        """Raise BadInput when ``inputs``, those that are there, show that ``run`` cannot work.

        Called as soon as there are more of them, so that no long stage comes before the refusal.
        """

    def doubts(self, known: RowStatistics) -> tuple[str, ...]:
        """What of ``run`` or ``act`` cannot end well with so many rows, in words."""
        return ()

    def check_task(self, task: Any) -> None:
        """Raise BadInput for settings that do not fit the recipe's task, None where it has none."""

    def estimate(self, known: RowStatistics) -> WorkEstimate | None:
        """How much work ``run`` will be; None where that cannot be told beforehand."""
        return None

    @classmethod
    def retraining(cls, settings: Mapping[str, Any], feedback: Feedback) -> dict[str, Any]:
        """Raw settings laid over ``settings``, those of the recipe, where feedback is learnt from.

        Empty for a stage that does in a retraining what it always does.
        """
        return {}

    @classmethod
    def beside(cls, settings: Mapping[str, Any], feedback: Feedback) -> dict[str, Any]:
        """Stages (name -> raw settings) that a retraining has after this one."""
        return {}

    @classmethod
    def origins(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Artifacts, by the stage's own names, that the model it gives goes on from or holds.

        What these learnt from, it has learnt from.
        """
        return ()

    @classmethod
    def uses(cls, settings: Mapping[str, Any], place: str) -> tuple[Use, ...]:
        """Uses of the rows in ``place`` (ARTIFACT/FILE, the stage's own name of it).

        ``settings`` are those of a stamp. Rows that were learnt from are listed by the model.
        """
        return ()

    def act(
        self,
        recipe: Any,
        artifacts: Mapping[str, str],
        store: Any,
        record: Callable[..., None],
        author: str,
    ) -> dict[str, Any] | None:
        """Change what the store's aliases name, after ``run``; the facts, or None for no act.

        Done on every run, also where the result of ``run`` was there already, so that repeating
        it must change nothing. ``artifacts`` are those of the run by name, its own by the names
        that the stage has for them; ``record`` appends to the run's journal.
        """
        return None

    def run(self, work: Work) -> dict[str, Any]:
        """Do the work and return its facts: JSON values that depend on nothing timed."""
        raise TypeError(f"{type(self).__name__} has no run")
