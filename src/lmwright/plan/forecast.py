"""Forecasts: time, memory and disk of a recipe before it runs, and how right they were.

Each stage says how much work it is (``Stage.amounts``). A probe of a few seconds measures how
fast this machine does such work, on the recipe's own texts and model, and how much of a training
step is kept for its way back. What earlier forecasts missed by corrects this one and sets its
width.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch

from lmwright.core.errors import BadInput, Refused
from lmwright.core.journal import read_journal
from lmwright.core.recipe import Recipe, Step
from lmwright.core.stage import Stage, WorkEstimate
from lmwright.core.task import Task, role_columns
from lmwright.data.corpus import count_rows
from lmwright.data.prepare import Data
from lmwright.data.sources import RawRow, characters_of, read_source
from lmwright.evals.baselines import kind_of
from lmwright.models.core.device import Device, TrainingPrecision, resolve_placement
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.memory import keep_few_kernels
from lmwright.models.core.ragged import Ragged, pack
from lmwright.models.core.spec import Head
from lmwright.models.load import load_predictor
from lmwright.models.network.network import Network, parameter_count
from lmwright.models.text_model import (
    LONGEST,
    TextModel,
    TextPredictor,
    Tokens,
    from_published,
    head_spec,
)
from lmwright.store.memory import Peak, machine_memory, peak_memory, resident
from lmwright.store.run import Planned, known_in, plan_recipe
from lmwright.store.store import Store
from lmwright.text.language import count_languages
from lmwright.train.beginning import at_rate, positions, read_start
from lmwright.train.documents import MOST_LOGITS
from lmwright.train.finetune import Train
from lmwright.train.optimizers import AdamW
from lmwright.train.task_model import trained_task_model

COUNTED = 200_000
"""Rows of a source that are counted; a larger one is taken for that large at least."""

SAMPLE = 256
FITTED_ROWS = 1000.0
"""Rows a second of a baseline that could not be tried."""
PROBED_ROWS = 400
PROBED_CHARACTERS = 2_000_000
"""Characters of the rows of a source that a probe reads at most; of long texts few rows are."""
FEWEST_ROWS = 8
READ_TEXTS = 64
PROBED_OPERATIONS = 4e11
"""Operations of one measurement: a second or two, whatever the model's size."""
STEPS = 4
SHORT, LONG = (16,) * 4, (128,)
"""Tokens of the texts of two small batches: what they keep tells a token's share from a pair's."""
COPIES = 8
"""What training adds to a model, in its own size: gradients, two moments and the best weights,
and all of these but the gradients, with the weights, in the bytes of a checkpoint."""
OVERHEAD = 1.1
"""Memory of a step over what it keeps for its way back: 1.0 to 1.15 was measured."""
LARGER = 2.0
"""Standard deviations by which one of the larger batches lies above the mean one."""
WIDTH = (0.6, 1.0, 1.8)
MEMORY_WIDTH = (0.8, 1.0, 1.5)
"""Low, expected and high, as multiples, until there is a track record."""

PROBED = Head(pool="mean", outputs=2)
"""The head of a probe where the recipe has no task, and the least outputs of one."""
PROBE_TEXTS = ("A plain sentence to be read.", "Another one, a little longer than the first.")
ENOUGH = 3
READ_TOKENS = 256
"""Tokens of a text at which the speed is measured, or the training's cap if that is higher."""


@dataclass(frozen=True)
class Rates:
    """What the probe measured: units of :class:`Amounts` a second, and bytes of memory.

    ``gathering`` is the peak of a process that reads rows without a model, ``reading`` of one
    that reads them with it; ``training`` is what one that trains holds apart from its step, and
    ``step_tokens`` and ``step_pairs`` are the bytes that each of them adds to a step.
    """

    rows: float
    read_tokens: float
    train_tokens: float
    fitted_rows: float
    gathering: int
    reading: int
    training: int
    step_tokens: float
    step_pairs: float

    def peak(self, estimate: WorkEstimate) -> float:
        """The peak memory of a stage of these amounts."""
        if estimate.step_tokens:
            step = estimate.step_tokens * self.step_tokens + estimate.step_pairs * self.step_pairs
            return max(self.reading, self.training + step)
        reads = estimate.read_tokens or estimate.further_bytes
        return float(self.reading if reads else self.gathering) + estimate.further_bytes


@runtime_checkable
class Draws(Protocol):
    """A stage that trains a model drawn by rules, as far as a probe needs it."""

    device: Device
    precision: TrainingPrecision
    dropout: float

    @property
    def batch(self) -> int:
        """Rows of a step that are in memory together."""

    @property
    def max_tokens(self) -> int:
        """Tokens of a row."""

    def probed(self, stages: Sequence[Stage], texts: Sequence[str]) -> TextModel:
        """The model before its first step, as the recipe's ``stages`` would have it, with a
        tokenizer trained on a few of its texts."""

    def smaller(self, name: str) -> str:
        """Advice by which a step of a stage of this name needs less memory."""


class Sources:
    """What is known of a recipe's rows: from its result if there is one, else from its sources."""

    def __init__(self, recipe: Recipe, store: Store, planned: Sequence[Planned]) -> None:
        gathering = [step.stage for step in recipe.steps if isinstance(step.stage, Data)]
        self.data = gathering[0] if gathering else None
        self.task: Task | None = self.data.task if self.data else recipe.task
        self.folder = done_rows(store, planned)
        self.counts: dict[str, int] = {}
        self.samples: dict[str, list[dict[str, Any]]] = {}
        columns = role_columns(self.task, "input", "target") if self.task else ()
        seed = self.data.seed if self.data else 0
        for source in self.data.sources if self.data else ():
            rows = head(read_source(source, columns, seed))
            self.counts[source.name] = len(rows)
            picked = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
            self.samples[source.name] = [row.values for row in within(picked, PROBED_CHARACTERS)]
        texts = [self.task.text(row) for row in self.sample()] if self.task else []
        self.model = beginning(recipe, store, texts or PROBE_TEXTS)
        self.loaded = resident("VmRSS") or peak_memory()

    def rows(self, place: str) -> int:
        """The rows of ``ARTIFACT/FILE``."""
        name = place.partition("/")[2]
        if self.folder is not None and (self.folder / f"{name}.parquet").exists():
            return count_rows(self.folder / f"{name}.parquet")
        if name.startswith("test-"):
            return self.counts.get(name.removeprefix("test-"), 0)
        share = getattr(self.data.fractions, name, 0.0) if self.data else 0.0
        return round(share * sum(self.counts[name] for name in self.learnt()))

    def tokens(self, place: str, most: int) -> float:
        """The mean tokens of a sample of its texts."""
        lengths = self.lengths(place, most) if most else self.whole_lengths(place)
        return float(lengths.mean()) if len(lengths) else 0.0

    def step(self, place: str, most: int, batch: int) -> tuple[float, float]:
        """Tokens of one of the larger batches of its texts, and their squares summed."""
        lengths = self.lengths(place, most)
        if not len(lengths):
            return 0.0, 0.0
        tokens, pairs = (
            min(
                batch * values.mean() + LARGER * batch**0.5 * values.std(),
                batch * values.max(),
            )
            for values in (lengths, lengths**2)
        )
        return float(tokens), float(pairs)

    def whole_lengths(self, place: str) -> np.ndarray:
        """Tokens of a sample of its texts, all of them."""
        texts = [self.task.text(row) for row in self.rows_of(place)] if self.task else []
        return np.array([len(each) for each in self.model.tokenizer.documents(texts)], float)

    def rows_of(self, place: str) -> list[dict[str, Any]]:
        """A sample of its rows."""
        name = place.partition("/")[2].removeprefix("test-")
        return self.samples.get(name) or self.sample()

    def lengths(self, place: str, most: int) -> np.ndarray:
        """Tokens of a sample of its texts, each cut at ``most``."""
        rows = self.rows_of(place)
        costs = [min(item.cost, most) for item in self.prepared(rows)]
        return np.array(costs, dtype=np.float64)

    def learnt(self) -> list[str]:
        """The sources to learn from."""
        return [s.name for s in self.data.sources if s.role == "train"] if self.data else []

    def probed_rows(self, source: str) -> int:
        """The rows of a source that a probe of the data stage reads."""
        sizes = [sum(map(characters_of, row.values())) for row in self.samples[source]]
        mean = sum(sizes) / max(len(sizes), 1)
        return min(PROBED_ROWS, max(FEWEST_ROWS, int(PROBED_CHARACTERS / max(mean, 1))))

    def languages(self) -> Mapping[str, int]:
        """ISO 639-1 code -> texts of a sample of those to learn from; "?" for texts too short."""
        task = self.task
        return count_languages([task.text(row) for row in self.sample()] if task else [])

    def source_rows(self) -> int:
        """The rows of all sources."""
        return sum(self.counts.values())

    def model_bytes(self) -> int:
        """The size of the model that training starts from."""
        return sum(4 * parameter.numel() for parameter in self.model.network.parameters())

    def sample(self) -> list[dict[str, Any]]:
        """Some rows to learn from, of all sources in turn: one may hold a single label."""
        in_turn = zip_longest(*(self.samples[name] for name in self.learnt()))
        return [row for turn in in_turn for row in turn if row is not None][:SAMPLE]

    def prepared(self, rows: Sequence[Mapping[str, Any]]) -> list[Tokens]:
        """The tokens of the rows' texts."""
        return self.model.tokens([self.task.text(row) for row in rows]) if self.task else []


def forecast(recipe: Recipe, store: Store, planned: Sequence[Planned]) -> dict[str, Any]:
    """Stage -> seconds, memory and disk as [low, expected, high], for the stages still to be done.

    Memory is of the whole process, in bytes; disk is what stays and, apart, what goes again.
    """
    known = Sources(recipe, store, planned)
    rates = probe(known, training_of(recipe))
    record = track_record(store)
    todo = {row.step for row in planned if row.state != "done"}
    stages: dict[str, Any] = {}
    for step in recipe.steps:
        if step.name in todo:
            estimate = step.stage.estimate(known)
            stages[step.name] = {
                **forecast_stage(step.kind, estimate, rates, record.get(step.kind, Past())),
                "doubts": list(step.stage.doubts(known)),
            }
    return stages


def forecast_stage(
    kind: str, estimate: WorkEstimate | None, rates: Rates, record: Past
) -> dict[str, Any]:
    """One stage's forecast. Without amounts, from what such stages took before; else nothing."""
    if estimate is None:
        took = [truth for _, truth in record.seconds]
        spread = [min(took), statistics.median(took), max(took)] if took else None
        return {"kind": kind, "seconds": spread, "memory": None, "disk": None, "scratch": None}
    expected = 1.0 + sum(
        getattr(estimate, unit) / getattr(rates, unit)
        for unit in ("rows", "read_tokens", "train_tokens", "fitted_rows")
    )
    peak = rates.peak(estimate)
    return {
        "kind": kind,
        "unadjusted": round(expected, 2),
        "unadjusted_memory": round(peak),
        "seconds": [round(expected * factor, 1) for factor in widths(record.seconds, WIDTH)],
        "memory": [round(peak * factor) for factor in widths(record.memory, MEMORY_WIDTH)],
        "disk": [round(estimate.disk * factor) for factor in (0.5, 1.0, 2.0)],
        "scratch": round(estimate.scratch),
    }


def widths(
    record: Sequence[tuple[float, float]], unknown: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Low, expected and high multiples from pairs of forecast and truth.

    ``unknown`` are those to take while there are fewer than ``ENOUGH`` pairs.
    """
    ratios = [truth / told for told, truth in record if told > 0]
    if len(ratios) < ENOUGH:
        return unknown
    low, middle, high = np.quantile(np.log(ratios), [0.1, 0.5, 0.9])
    spare = 0.2  # a few past runs show less spread than the next one may have
    return float(np.exp(low - spare)), float(np.exp(middle)), float(np.exp(high + spare))


@dataclass(frozen=True)
class Past:
    """Earlier forecasts of one kind of stage, unadjusted, each with the truth."""

    seconds: list[tuple[float, float]] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)


def track_record(store: Store) -> dict[str, Past]:
    """Kind -> forecasts and what was true, over all runs of the store.

    A peak that is not of the stage alone says nothing of it and is left out.
    """
    record: dict[str, Past] = {}
    for name in store.runs():
        told: Mapping[str, Any] = {}
        for event in read_journal(store.folder / "runs" / name / "journal.jsonl"):
            if event["event"] == "forecast":
                told = event["stages"]
            if event["event"] == "stage ended" and event["step"] in told:
                entry = told[event["step"]]
                past = record.setdefault(entry["kind"], Past())
                past.seconds.append((float(entry.get("unadjusted") or 0), float(event["seconds"])))
                if event.get("peak_of_stage"):
                    predicted = float(entry.get("unadjusted_memory") or 0)
                    past.memory.append((predicted, float(event["peak_bytes"])))
    return record


def probe(known: Sources, training: Train | Draws) -> Rates:
    """Measure this machine for a few seconds on the recipe's own texts and model."""
    prepared = known.prepared(known.sample())
    known.model.network.place(resolve_placement(training.device, training.precision))
    peak = Peak()
    rows, gathering = row_rate(known), peak.bytes() - known.model_bytes()
    fitted, read, reading = fit_rate(known), read_rate(known.model, prepared), peak.bytes()
    token, pair = step_bytes(known.model, training)
    return Rates(
        rows=rows,
        read_tokens=read,
        train_tokens=train_rate(known.model, prepared),
        fitted_rows=fitted,
        gathering=gathering,
        reading=reading,
        training=known.loaded + COPIES * known.model_bytes() + logits_bytes(known.model, training),
        step_tokens=token,
        step_pairs=pair,
    )


def step_bytes(model: TextModel, training: Train | Draws) -> tuple[float, float]:
    """Bytes that a token of a training step takes, and a pair of tokens of one text.

    Counted, with the recipe's dropout, as what two small batches keep for their way back: what
    a batch keeps is linear in its tokens and their squares, and its memory follows that.
    """
    network = at_rate(model, training.dropout, model.max_tokens).network
    most = model.max_tokens
    batches = [[min(length, most) for length in lengths] for lengths in (SHORT, LONG)]
    sums = [[sum(lengths), sum(n * n for n in lengths)] for lengths in batches]
    kept = [kept_bytes(network, lengths) for lengths in batches]
    token, pair = np.linalg.solve(np.array(sums, dtype=float), np.array(kept, dtype=float))
    return OVERHEAD * float(token), OVERHEAD * float(pair)


def logits_bytes(model: TextModel, training: Train | Draws) -> int:
    """Bytes of the logits that a step holds at a time where the head has one a token: they become
    their own gradient, which bf16 rounds."""
    head = head_spec(model.network)
    if head.pool != "none":
        return 0
    return (4 + 2) * min(MOST_LOGITS, head.outputs * training.batch * training.max_tokens)


def kept_bytes(network: Network, lengths: Sequence[int]) -> int:
    """Bytes that the forward pass of texts of these lengths keeps, weights not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    batch = pack([np.zeros(length, dtype=np.int64) for length in lengths])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs_of(network, batch, DropoutRNG(0, 0))
    return sum(storage.nbytes() for storage in kept.values())


def outputs_of(
    network: Network, batch: Ragged, dropout_rng: DropoutRNG | None = None
) -> torch.Tensor:
    """The head's output for each text, or the hidden states where the head has one a token.

    Of a vocabulary training makes the logits of what is learnt alone, and holds few at a time.
    """
    pooled = head_spec(network).pool != "none"
    return network(batch, dropout_rng) if pooled else network.hidden(batch, dropout_rng)


def row_rate(known: Sources) -> float:
    """Rows a second of the data stage itself, on some rows of each source."""
    if known.data is None:
        return FITTED_ROWS
    limits = {name: known.probed_rows(name) for name in known.counts}
    limited = tuple(replace(each, limit=limits[each.name]) for each in known.data.sources)
    stage = replace(known.data, sources=limited, label_error_rows=0)
    folder = Path(tempfile.mkdtemp())
    began = time.perf_counter()
    try:
        stage.run(ProbeWork(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.perf_counter() - began
    # Reading a file is most of it where few of its rows are taken, so this errs on the slow side.
    return known.source_rows() / seconds / max(1.0, known.source_rows() / 8000)


def read_rate(model: TextModel, prepared: Sequence[Any]) -> float:
    """Tokens a second that the model reads."""
    read = model.embed if head_spec(model.network).pool == "none" else model.logits
    texts = few(prepared[:READ_TEXTS], 2 * parameter_count(model.network))
    read(texts[:16])
    began = time.perf_counter()
    read(texts)
    return sum(item.cost for item in texts) / (time.perf_counter() - began)


def few(prepared: Sequence[Any], operations: float) -> Sequence[Any]:
    """The first texts, one at least, that a model reads within :data:`PROBED_OPERATIONS`, where a
    token takes so many ``operations``."""
    costs = np.cumsum([item.cost for item in prepared])
    most = int(np.searchsorted(costs, PROBED_OPERATIONS / operations, side="right"))
    return prepared[: max(1, most)]


def train_rate(model: TextModel, prepared: Sequence[Any]) -> float:
    """Tokens a second of whole training steps (without dropout, which costs a few per cent)."""
    optimizer = AdamW().make(model.network)
    seconds: list[float] = []
    tokens = 0
    size = min(16, len(few(prepared, 6 * parameter_count(model.network))))
    for step in range(STEPS + 1):
        own = prepared[step * size : (step + 1) * size] or prepared[:1]
        batch = [item.ids for item in own]
        began = time.perf_counter()
        loss = torch.logsumexp(outputs_of(model.network, pack(batch)), dim=-1).mean()
        loss.backward()
        optimizer.step(0.0)
        if step:
            seconds.append(time.perf_counter() - began)
            tokens += sum(len(ids) for ids in batch)
    return tokens / sum(seconds)


def fit_rate(known: Sources) -> float:
    """Rows a second of the task's strongest baseline, on some rows."""
    rows, task = known.sample(), known.task
    if task is None or not task.baselines or not rows:
        return FITTED_ROWS
    table = pa.Table.from_pylist([{"id": f"{place:032x}", **row} for place, row in enumerate(rows)])
    try:
        fitted = task.fitted(table.to_batches())
    except BadInput:  # so few rows may lack what all of them have
        return FITTED_ROWS
    began = time.perf_counter()
    kind_of(fitted, list(task.baselines)[-1]).fit(fitted, table, 0)
    return len(rows) / (time.perf_counter() - began)


class ProbeWork:
    """A work for the probe: folders that go again, and nothing shown."""

    def __init__(self, folder: Path) -> None:
        self.inputs: Mapping[str, Path] = {}
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.folder = folder

    def out(self, artifact: str) -> Path:
        """A folder for an artifact."""
        path = self.folder / artifact
        path.mkdir(exist_ok=True)
        return path

    def record(self, event: str, **facts: Any) -> None:
        """Nothing is kept."""

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Nothing is shown."""

    def measured(self, **facts: Any) -> None:
        """Nothing is kept."""


def within(rows: Sequence[RawRow], most: int) -> Sequence[RawRow]:
    """The first rows of at most so many characters together, but not fewer than a few."""
    ends = np.cumsum([row.characters for row in rows])
    return rows[: max(FEWEST_ROWS, int(np.searchsorted(ends, most, "right")))]


def head(rows: Any) -> list[RawRow]:
    """The rows of a stream up to ``COUNTED``, faults left out."""
    found: list[RawRow] = []
    for row in rows:
        if isinstance(row, RawRow):
            found.append(row)
        if len(found) >= COUNTED:
            break
    return found


def done_rows(store: Store, planned: Sequence[Planned]) -> Path | None:
    """The first rows artifact that is there already."""
    for row in planned:
        if row.stamp is not None:
            result = store.result(row.stamp)
            if result is not None and "rows" in result.outputs:
                return store.artifact(result.outputs["rows"])
    return None


def that_fits(
    recipe: Recipe, store: Store, told: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """``told``, the forecast of a recipe, if there is one. Refused where a stage cannot fit.

    Without a forecast one is made, but only if a training could outgrow this machine at all.
    """
    if told is None:
        planned = plan_recipe(recipe, store)
        if all(row.state == "done" for row in planned) or not may_outgrow(recipe, store):
            return None
        told = forecast(recipe, store, planned)
    fault = misfit(recipe, told)
    if fault is not None:
        todo = {row.step for row in plan_recipe(recipe, store) if row.state != "done"}
        fault = misfit(recipe, {name: told[name] for name in todo & told.keys()})
    if fault is not None:
        raise fault
    return told


def misfit(recipe: Recipe, told: Mapping[str, Any]) -> Refused | None:
    """The refusal of a stage whose memory is, even at the low end, more than this machine's."""
    have = machine_memory()
    for step in recipe.steps:
        memory = told.get(step.name, {}).get("memory")
        if memory and memory[0] > have:
            spread = "–".join(f"{value / 1e9:.1f}" for value in memory)
            return Refused(
                f"{step.name} is forecast to need {spread} GB of memory",
                f"at most the {have / 1e9:.1f} GB that this machine lets a process have",
                smaller(step),
            )
    return None


def smaller(step: Step) -> str:
    """What makes a stage need less memory."""
    if isinstance(step.stage, Train):
        batch, most = step.stage.batch, step.stage.max_tokens
        return f"lower {step.name}.batch (now {batch}) or {step.name}.max_tokens (now {most})"
    if isinstance(step.stage, Draws):
        return step.stage.smaller(step.name)
    return "take fewer rows, or a machine with more memory"


def may_outgrow(recipe: Recipe, store: Store) -> bool:
    """Whether a training would not fit if each of its texts were as long as it may be.

    That takes no look at the rows, so that a run that surely fits loses no time.
    """
    trainings = [step.stage for step in recipe.steps if isinstance(step.stage, Train | Draws)]
    if not trainings:
        return False
    model = beginning(recipe, store)
    have = machine_memory()
    for training in trainings:
        token, pair = step_bytes(model, training)
        most = training.max_tokens
        if training.batch * (most * token + most**2 * pair) > have / 2:
            return True
    return False


def training_of(recipe: Recipe) -> Train | Draws:
    """The recipe's training, or the usual one where it has none."""
    trainings = (step.stage for step in recipe.steps)
    return next((each for each in trainings if isinstance(each, Train | Draws)), Train())


def beginning(recipe: Recipe, store: Store, texts: Sequence[str] = PROBE_TEXTS) -> TextModel:
    """A model as training starts from, with a fresh head, for the probe; ``texts`` are some of the
    rows'."""
    keep_few_kernels()  # as the training must, which may follow in this process
    training = training_of(recipe)
    if not isinstance(training, Train):
        return training.probed([step.stage for step in recipe.steps], texts)
    most = max(READ_TOKENS, training.max_tokens)
    given = known_in(recipe, store).artifacts.get(training.start_from or "")
    if given is not None:
        found = load_predictor(store.artifact(given))
        if isinstance(found, TextPredictor):
            return at_rate(found.model, 0.0, min(most, positions(found.model)))
    task = recipe.task
    head = trained_task_model(task).head(0.0) if task and task.text_model else PROBED
    if training.new is not None:
        return training.new.model(PROBE_TEXTS, head, training.max_tokens, 0)
    published = read_start(training)
    most = min(most, published.spec.longest or LONGEST)
    if isinstance(head, Head):  # before the rows are read there are no labels
        head = replace(head, outputs=max(head.outputs, PROBED.outputs))
    return from_published(published, head, most, 0)


def totals(stages: Mapping[str, Any]) -> dict[str, Any]:
    """The sums over stages: seconds and disk add up, memory is the largest."""
    seconds = [entry["seconds"] for entry in stages.values() if entry["seconds"]]
    disk = [entry["disk"] for entry in stages.values() if entry["disk"]]
    memory = [entry["memory"] for entry in stages.values() if entry["memory"]]
    return {
        "seconds": [sum(column) for column in zip(*seconds, strict=True)] or None,
        "disk": [sum(column) for column in zip(*disk, strict=True)] or None,
        "memory": [max(column) for column in zip(*memory, strict=True)] or None,
        "scratch": max((entry["scratch"] or 0 for entry in stages.values()), default=0),
        "unknown": [name for name, entry in stages.items() if not entry["seconds"]],
    }
