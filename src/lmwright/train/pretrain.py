"""The stage ``pretrain``: a language model from nothing, on shards of tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput
from lmwright.core.settings import Choice, kind_of, read_choice
from lmwright.core.stage import RowStatistics, Stage, Work, WorkEstimate, inert
from lmwright.data.corpus import (
    read_split,
    read_task_of,
    stream_rows,
    task_modules,
    text_model_modules,
)
from lmwright.data.shards import DOCUMENTS, SCHEMA, TOKENIZER, Shards
from lmwright.data.tokenizer import TrainTokenizer
from lmwright.models.core.device import (
    Device,
    TrainingPrecision,
    describe_placement,
    resolve_placement,
)
from lmwright.models.core.memory import keep_few_kernels
from lmwright.models.family.family import Family
from lmwright.models.network.network import Network, parameter_count
from lmwright.models.text_model import TextModel, TextPredictor
from lmwright.tables import FAMILIES, module_of, resolve
from lmwright.text.tokenizer import Tokenizer, read_tokenizer
from lmwright.train.batches import UNLEARNT, Example
from lmwright.train.beginning import at_rate
from lmwright.train.check import SAMPLE, Trial, look, refuse
from lmwright.train.checkpoint import Checkpoints
from lmwright.train.division import Division
from lmwright.train.documents import Document, byte_count, mean_log_loss, windows
from lmwright.train.loop import OptimizerConfig, State, refuse_infinite, train
from lmwright.train.new import New
from lmwright.train.optim import Optimizer
from lmwright.train.scaling import Horizon, horizon_of, peak_rate, shape_of, tokens_to_learn
from lmwright.train.stream import StreamBatches
from lmwright.train.task_model import TrainedTaskModel, trained_task_model

HEAD = "lm"
LONG = 2000
"""Steps from which on the checks take steps on a copy, too."""
KEPT_COLUMNS = ["id", "source", "key"]


@dataclass(frozen=True)
class HeldOut:
    """Windows of held-out texts, with the bytes of these and their number."""

    windows: list[Example]
    bytes: int
    rows: int

    def scores(self, network: Network) -> dict[str, float]:
        """The mean log-loss (nats) of the tokens, and the bits of a byte."""
        loss = mean_log_loss(network, self.windows)
        count = sum(int((np.asarray(each.target) != UNLEARNT).sum()) for each in self.windows)
        return {"log_loss": loss, "bits_per_byte": loss * count / math.log(2) / self.bytes}


@dataclass(frozen=True, kw_only=True)
class Pretrain(Stage):
    """Draw a language model and train it on ``shards`` to say the next token.

    ``depth`` is the one dial: width, heads, tokens to learn from, tokens of a step and rate follow
    from it (see :mod:`lmwright.train.scaling`), by ``aspect``, ``tokens_per_parameter`` and
    ``passes``. ``tokens``, ``batch_tokens`` and ``lr`` set what else would follow (0: it follows).
    ``family`` is one of ``tables.FAMILIES`` that can be shaped, ``config`` further fields of its
    published configs. ``context`` is what the model reads at once, in tokens. A step is in memory
    ``micro_batch`` rows of ``context`` tokens at a time (0: all). The last weights are kept; every
    ``evaluate_every`` steps the first ``validation_rows`` rows of the validation split are scored.
    ``device``, ``precision`` and ``check_first`` are as of ``train``.
    """

    family: str
    depth: int = 4
    aspect: int = 64
    config: dict[str, Any] = field(default_factory=dict)
    context: int = 256
    tokens_per_parameter: float = 20.0
    passes: float = 4.0
    tokens: int = 0
    batch_tokens: int = 0
    micro_batch: int = 0
    lr: float = 0.0
    optimizer: Choice = field(
        default_factory=lambda: {"kind": "adamw", "weight_decay": 0.1, "beta2": 0.95}
    )
    schedule: Choice = field(
        default_factory=lambda: {"kind": "cosine", "warmup": 0.03, "floor": 0.1}
    )
    clip: float = 1.0
    dropout: float = 0.0
    evaluate_every: int = 200
    validation_rows: int = 50
    device: Device = "auto"
    precision: TrainingPrecision = "auto"
    checkpoint_every: int = inert(200)
    check_first: str = inert("stop")

    def needs(self) -> tuple[str, ...]:
        """The shards, and the rows for their task and their validation split."""
        return ("rows", "shards")

    def gives(self) -> tuple[str, ...]:
        """One model."""
        return ("model",)

    def asks(self) -> tuple[str, ...]:
        """The rows that are scored on the way."""
        return ("rows/validation",)

    def resolved(self) -> dict[str, Any]:
        """The device and the precision."""
        return resolve_placement(self.device, self.precision).to_json()

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows, how a text model answers it, family, optimizer and schedule."""
        rows = inputs["rows"]
        return (
            *task_modules(rows),
            *text_model_modules(rows),
            module_of("families", self.family),
            module_of("optimizers", kind_of(self.optimizer)),
            module_of("schedules", kind_of(self.schedule)),
        )

    def check(self) -> None:
        """BadInput for a number outside its range, and for a family without a shape."""
        ranges: dict[str, tuple[float, float]] = {
            "depth": (1, 1000),
            "aspect": (1, 4096),
            "context": (8, 8192),
            "tokens_per_parameter": (0.001, 1e6),
            "passes": (0.001, 1e6),
            "tokens": (0, math.inf),
            "batch_tokens": (0, math.inf),
            "micro_batch": (0, math.inf),
            "lr": (0, 1),
            "clip": (0, math.inf),
            "dropout": (0, 0.99),
            "evaluate_every": (1, math.inf),
            "validation_rows": (1, math.inf),
            "checkpoint_every": (1, math.inf),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise BadInput(f"{name} is {value}", f"from {least:g} to {most:g}")
        if self.check_first not in ("stop", "report", "off"):
            raise BadInput(f"check_first is {self.check_first!r}", "stop, report or off")
        self.chosen("optimizer")
        self.chosen("schedule")
        found: Family = resolve("families", self.family)
        if found.shaped is None or HEAD not in found.heads:
            raise BadInput(
                f"family is {self.family!r}, of which no shape follows from a depth",
                "one of " + ", ".join(shaped_families()),
                "name another family",
            )

    def foresee(self, inputs: Mapping[str, Path]) -> None:
        """BadInput for rows of a task that no language model answers, and a device that is not
        here."""
        resolve_placement(self.device, self.precision)
        if "rows" in inputs:
            language_task_model(inputs["rows"])

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """The tokens that are learnt from, and those that are scored on the way."""
        corpus = known.rows("rows/train") * known.tokens("rows/train", 0)
        horizon = self.horizon(known.model_bytes() // 4, round(corpus))
        scores = horizon.steps // self.evaluate_every + 1
        scored = min(self.validation_rows, known.rows("rows/validation"))
        rows = min(self.micro_batch or horizon.rows, horizon.rows)  # in memory together
        return WorkEstimate(
            train_tokens=horizon.tokens,
            read_tokens=scores * scored * known.tokens("rows/validation", 0),
            disk=known.model_bytes(),
            scratch=6 * known.model_bytes(),
            step_tokens=rows * self.context,
            step_pairs=rows * self.context**2,
        )

    def probed(self, stages: Sequence[Stage], texts: Sequence[str]) -> TextModel:
        """The model before its first step, with a tokenizer as the recipe's stage would train it on
        some texts."""
        trains = next((each for each in stages if isinstance(each, TrainTokenizer)), None)
        return self.drawn((trains or TrainTokenizer()).probed(texts))

    @property
    def batch(self) -> int:
        """Rows of a step that are in memory together, where the corpus is no limit."""
        shape = shape_of(self.depth, self.aspect, self.context)
        rows = self.horizon(12 * shape.layers * shape.width**2, 1 << 62).rows
        return min(self.micro_batch or rows, rows)

    @property
    def max_tokens(self) -> int:
        """Tokens of a row."""
        return self.context

    def smaller(self, name: str) -> str:
        """Advice by which a step needs less memory."""
        return f"set {name}.micro_batch (rows in memory together), or lower depth or context"

    def run(self, work: Work) -> dict[str, Any]:
        """Train, and write the model with its curves and the rows that it learnt from."""
        keep_few_kernels()
        task_model, shards, model = self.begun(work)
        shards.check()
        parameters = parameter_count(model.network)
        horizon = self.horizon(parameters, len(shards))
        findings = self.looked_at(work, task_model, model, horizon)
        batches = StreamBatches(shards, self.context, horizon.rows, horizon.steps, self.seed)
        held = held_out_windows(work.inputs["rows"], task_model, model, self)
        state, seconds, new_tokens = self.fit(work, task_model, model, batches, held)
        out = work.out("model")
        TextPredictor(task_model.task, model).save(out)
        write_json(out / "curves.json", state.curves)
        write_learnt_rows(work.inputs["shards"] / DOCUMENTS, out)
        rate = new_tokens / max(seconds, 1e-9)
        work.measured(seconds=seconds, tokens_per_second=rate, found=findings)
        last = {k: v for k, v in state.curves[-1].items() if k.startswith("validation_")}
        bits = last.get("validation_bits_per_byte", math.nan)
        line = (
            f"{parameters:,} weights, {state.tokens:,} tokens in {state.step:,} steps; "
            f"{bits:.3f} bits a byte on validation texts"
        )
        return {
            "headline": line,
            "rows": len(shards.starts) - 1,
            "task": task_model.task.kind,
            "parameters": parameters,
            "shape": self.shape(),
            "corpus_tokens": len(shards),
            "tokens": state.tokens,
            "passes": horizon.tokens / len(shards),
            "steps": state.step,
            "step_tokens": horizon.rows * horizon.context,
            "lr": self.peak,
            "ended": state.ended or "all steps done",
            "validation_rows": held.rows,
            **last,
        }

    def trial(self, work: Work) -> Trial:
        """The training before its first step, with some of its rows; BadInput where it cannot
        begin."""
        task_model, shards, model = self.begun(work)
        horizon = self.horizon(parameter_count(model.network), len(shards))
        return self.looked(work, task_model, model, horizon)

    def begun(self, work: Work) -> tuple[TrainedTaskModel, Shards, TextModel]:
        """The task model, the shards, and the model before its first step."""
        task_model = language_task_model(work.inputs["rows"])
        folder = work.inputs["shards"]
        model = self.drawn(read_tokenizer(folder / TOKENIZER))
        return task_model, Shards(folder), model

    def drawn(self, tokenizer: Tokenizer) -> TextModel:
        """The model before its first step, for the tokens of a tokenizer."""
        family: Family = resolve("families", self.family)
        assert family.shaped is not None
        config = family.shaped(shape_of(self.depth, self.aspect, self.context)) | self.config
        new = New(family=self.family, config=config)
        model = new.drawn(tokenizer, HEAD, self.context, self.seed)
        return at_rate(model, self.dropout, self.context)

    def looked(
        self, work: Work, task_model: TrainedTaskModel, model: TextModel, horizon: Horizon
    ) -> Trial:
        """The training as the checks see it: by the rows with the least ids."""
        rows = work.inputs["rows"]
        return Trial(
            task_model,
            model,
            False,
            first_rows(rows / "train.parquet", SAMPLE),
            read_split(rows, "validation", self.validation_rows, self.seed),
            rows,
            horizon.rows,
            self.micro_batch,
            horizon.steps,
            self.seed,
            self.chosen("optimizer"),
            self.descent(),
            resolve_placement(self.device, self.precision),
            in_stretches=True,
        )

    def looked_at(
        self, work: Work, task_model: TrainedTaskModel, model: TextModel, horizon: Horizon
    ) -> list[dict[str, str]]:
        """Findings of the checks before the first step, in the journal too; BadInput where they
        stop the training."""
        if self.check_first == "off" or (work.scratch / "checkpoints").exists():
            return []
        trial = self.looked(work, task_model, model, horizon)
        found = look(trial, probe=horizon.steps >= LONG)
        for each in found:
            work.record("found", **each.to_json())
        if self.check_first == "stop":
            refuse(found)
        return [each.to_json() for each in found if each.word != "note"]

    def fit(
        self,
        work: Work,
        task_model: TrainedTaskModel,
        model: TextModel,
        batches: StreamBatches,
        held: HeldOut,
    ) -> tuple[State, float, int]:
        """Run the loop from the last checkpoint to the end."""
        network = model.network
        placement = resolve_placement(self.device, self.precision)
        network.place(placement)
        work.record("placed", **describe_placement(placement))
        optimizer: Optimizer = self.chosen("optimizer").make(network)
        settings = f"{self.settings()} {batches.hash()}"
        checkpoints = Checkpoints(work.scratch / "checkpoints", settings, work.record)
        resumed = checkpoints.resume(network, optimizer)
        state, _ = resumed or (State(), {})
        if resumed:
            work.record("resumed", step=state.step)

        def evaluate(state: State) -> None:
            scores = held.scores(network)
            refuse_infinite(scores["log_loss"], 0.0, state, work.record)
            state.curves[-1].update({f"validation_{name}": each for name, each in scores.items()})
            work.record("evaluated", step=state.step, **scores)

        began, before = time.perf_counter(), state.tokens
        train(
            network,
            batches,
            task_model.loss,
            optimizer,
            self.descent(),
            state,
            [
                (1, lambda state: work.progress(state.step, batches.steps)),
                (self.evaluate_every, evaluate),
                (
                    self.checkpoint_every,
                    lambda state: checkpoints.save(state, network, optimizer, {}),
                ),
            ],
            work.record,
            Division(-(-batches.size // (self.micro_batch or batches.size))),
        )
        return state, time.perf_counter() - began, state.tokens - before

    def horizon(self, parameters: int, corpus: int) -> Horizon:
        """The horizon of a model of so many weights on a corpus of so many tokens."""
        tokens = self.tokens or tokens_to_learn(
            parameters, corpus, self.tokens_per_parameter, self.passes
        )
        return horizon_of(tokens, self.context, self.batch_tokens)

    def descent(self) -> OptimizerConfig:
        """The settings of the optimizer."""
        return OptimizerConfig(self.peak, self.chosen("schedule"), self.clip)

    @property
    def peak(self) -> float:
        """The peak rate."""
        return self.lr or peak_rate(shape_of(self.depth, self.aspect, self.context).width)

    def shape(self) -> dict[str, int]:
        """The shape that followed from the depth, as JSON values."""
        found = shape_of(self.depth, self.aspect, self.context)
        return {"layers": found.layers, "width": found.width, "heads": found.heads}

    def chosen(self, name: str) -> Any:
        """The settings of the optimizer or the schedule."""
        return read_choice(f"{name}s", getattr(self, name), name, resolve)

    def settings(self) -> str:
        """The settings that a checkpoint must share with the run that resumes from it."""
        return repr(replace(self, checkpoint_every=1, check_first="off"))


def shaped_families() -> list[str]:
    """The families of which a shape follows from a depth."""
    found = {name: resolve("families", name) for name in FAMILIES}
    return [name for name, each in found.items() if each.shaped is not None and HEAD in each.heads]


def language_task_model(rows: Path) -> TrainedTaskModel:
    """The task model of the rows' documents; BadInput for a task without next tokens."""
    found = trained_task_model(read_task_of(rows))
    if found.head(0.0) != HEAD:
        raise BadInput(
            f"pretraining on rows of {found.task.kind}",
            "rows of documents, of a task that a language model answers",
            "set the recipe's task",
        )
    return found


def first_rows(path: Path, most: int) -> pa.Table:
    """The rows of a file with the least ids, at most so many."""
    found, count = [], 0
    for batch in stream_rows(path):
        found.append(batch.slice(0, most - count))
        count += found[-1].num_rows
        if count == most:
            break
    return pa.Table.from_batches(found)


def held_out_windows(
    rows: Path, task_model: TrainedTaskModel, model: TextModel, setting: Pretrain
) -> HeldOut:
    """The validation texts as windows that score each token once."""
    task, found, size = task_model.task, list[Example](), 0
    texts = first_rows(rows / "validation.parquet", setting.validation_rows).to_pylist()
    for row in texts:
        text = task.text(row)
        whole = Document(model.document(text), 1, byte_count(text), None)
        found += [each.example() for each in windows(whole, setting.context, 1)]
        size += whole.size
    return HeldOut(found, size, len(texts))


def write_learnt_rows(documents: Path, folder: Path) -> None:
    """Write ``rows.parquet`` beside a model: ids, sources and keys of its shards' documents."""
    kept = pa.schema([SCHEMA.field(name) for name in KEPT_COLUMNS])
    with parquet.ParquetWriter(folder / "rows.parquet", kept) as writer:
        for batch in parquet.ParquetFile(documents).iter_batches(columns=KEPT_COLUMNS):
            writer.write_table(pa.Table.from_batches([batch]).cast(kept))
