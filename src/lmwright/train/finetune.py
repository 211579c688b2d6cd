"""The stage ``train``: a published model, or an earlier one of ours, tuned to the rows' task."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lmwright.assets import asset_language
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_tree, tree
from lmwright.core.settings import Choice, kind_of, read_choice
from lmwright.core.stage import Feedback, RowStatistics, Stage, Use, Work, WorkEstimate, inert
from lmwright.core.task import Task, refuse_measure
from lmwright.data.corpus import (
    count_rows,
    read_split,
    read_task_of,
    task_modules,
    text_model_modules,
    write_used_rows,
)
from lmwright.models.adapted import AdaptedPredictor
from lmwright.models.core.device import (
    Device,
    TrainingPrecision,
    describe_placement,
    emulation_in_words,
    resolve_placement,
)
from lmwright.models.core.frozen import bytes_held
from lmwright.models.core.memory import keep_few_kernels
from lmwright.models.files.peft import read_config
from lmwright.models.files.published import (
    check_address,
    content_of,
    family_modules,
)
from lmwright.models.load import modules_of
from lmwright.models.network.merge import merged
from lmwright.models.network.network import Network, fill, parameter_count
from lmwright.models.text_model import TextModel, TextPredictor
from lmwright.tables import module_of, resolve
from lmwright.train.base import source_of
from lmwright.train.batches import Batches, Chosen, EpochBatches, Example, resampled
from lmwright.train.beginning import (
    BASE,
    address_of,
    applied_tune,
    begin,
    filled,
    positions,
    training_rows,
)
from lmwright.train.check import Trial, look, refuse
from lmwright.train.checkpoint import Checkpoints
from lmwright.train.contrastive import Contrastive
from lmwright.train.distil import Distil, Lesson
from lmwright.train.division import Division
from lmwright.train.forgetting import forgetting
from lmwright.train.loop import OptimizerConfig, State, refuse_infinite, train
from lmwright.train.method import Method
from lmwright.train.mixed import MixedBatches, Part
from lmwright.train.monitor import Monitor
from lmwright.train.new import New
from lmwright.train.optim import Optimizer, RatesTune, trainable
from lmwright.train.regularize import Moments, Regularization, Regularizer, evaluated
from lmwright.train.replay import REPLAY, Replay, refuse_replay, replay_facts, replayed
from lmwright.train.several import MAIN, Also, Mixing, Several, check_also, task_beside
from lmwright.train.start import START, foreign_texts
from lmwright.train.stored import StoredExamples
from lmwright.train.task_model import (
    SampledTaskModel,
    TrainedTaskModel,
    trained_task_model,
)
from lmwright.train.teacher import is_address, open_teacher, size_of

CHOICES = {"tune": "tunes", "optimizer": "optimizers", "schedule": "schedules"}
"""Settings that name entries of tables."""
AT_ONCE = 4096
"""Rows that are made examples of at a time."""
FROM_ADAPTER = ("rank", "alpha", "scaling", "dora", "linears", "ranks", "alphas")
"""Settings of the tune ``lora`` that an adapter's folder gives."""
LONG = 2000
"""Steps of a training before which the checks take steps on a copy, too."""


@dataclass(frozen=True, kw_only=True)
class Train(Stage):
    """Tune a model on the rows of the artifact ``rows``.

    ``start`` is a published model's folder or .gguf file: a path, an asset, or
    ``hub:OWNER/NAME@REVISION``, which ``plan`` and ``run`` fetch. ``start_from`` names an artifact
    with an earlier model of ours to go on from instead (``take: body``: without its head, so that
    it may be one of another task), ``new`` a model to be drawn. ``adapter`` is
    a folder of PEFT with adapters for ``start``, to go on from (with ``epochs`` 0: to be taken as
    they are); ``tune`` is then ``lora``, whose ranks and maps are the folder's. ``extra``
    names artifacts whose training rows join in (never those that they keep apart for a gate).
    With ``replay`` a share of each batch is general text, of another artifact.
    ``also`` names other tasks that learn on the same body, each with rows of its own; each gives
    its model as an artifact of that name, beside ``model``, the task's own. ``mixing`` says how
    their rows are mixed and their losses joined.
    ``rows`` limits the training rows to a subset in which each stratum keeps its share (0: all);
    ``resample`` then gives every stratum as many as the largest has (``over``, by rows that stand
    several times) or the smallest (``under``); ``validation_rows`` those that decide when to stop.
    A step learns from ``batch`` rows, of which ``micro_batch`` are in memory at a time (0: all).
    ``max_tokens`` cuts a text to learn from, ``read_tokens`` one that is answered (0: the same),
    which may be longer where the start has the positions. With ``epochs`` 0 the start is taken as
    it is, which a start with a published head for the task can be; training goes on from such a
    head where it knows the rows' labels. ``tune`` says which weights learn, ``optimizer`` and
    ``schedule`` how: each is a name of its table, or a mapping with ``kind`` and settings. Where
    the body of a start stays as it is, the model is saved as what learns, and stands on the start,
    which is committed as an artifact. ``regularize`` is a list of such choices, ``distil`` one of
    what is learnt of a teacher; with ``contrastive`` few rows are learnt as pairs. Of a published
    start the layers ``start_layers`` alone are taken, counted from 0 (none: all). ``lr`` is the
    peak rate. The validation split is scored every
    ``evaluate_every`` steps; after ``patience`` scores without a better one the run ends (0:
    never), and the best weights are kept, by the score that the task monitors, or by ``monitor``:
    any loss or score of the task, such as ``macro_f1``, of uncalibrated answers to the validation
    rows. Each time the model shows what it writes for the first ``samples`` of them, by the engine
    that would serve it. ``dropout`` below 0 keeps the start's own rates. ``device`` says where the
    network runs (auto: a CUDA device if there is one), ``precision`` in what its products are
    computed, from weights and to sums that stay fp32 (auto: bf16 on a CUDA device that multiplies
    in it, else fp32). ``check_first`` says what becomes of what ``lmwright check`` finds: it may
    ``stop`` the training before its first step, or only be reported, or not be looked for.
    """

    moved: ClassVar[Mapping[str, str]] = {
        "warmup": "schedule: {kind: linear, warmup: …}",
        "weight_decay": "optimizer: {kind: adamw, weight_decay: …}",
    }

    start: str = START
    start_layers: tuple[int, ...] = ()
    adapter: str = ""
    start_from: str | None = None
    take: Literal["model", "body"] = "model"
    new: New | None = None
    extra: tuple[str, ...] = ()
    replay: Replay | None = None
    also: dict[str, Also] = field(default_factory=dict)
    mixing: Choice = "size"
    rows: int = 0
    resample: Literal["none", "over", "under"] = "none"
    epochs: int = 2
    batch: int = 16
    micro_batch: int = 0
    max_tokens: int = 256
    read_tokens: int = 0
    lr: float = 2e-4
    tune: Choice = "full"
    optimizer: Choice = "adamw"
    schedule: Choice = "linear"
    regularize: tuple[Choice, ...] = ()
    distil: Choice | None = None
    contrastive: Contrastive | None = None
    clip: float = 1.0
    dropout: float = 0.1
    evaluate_every: int = 100
    patience: int = 4
    monitor: str = ""
    samples: int = 0
    validation_rows: int = 500
    device: Device = "auto"
    precision: TrainingPrecision = "auto"
    checkpoint_every: int = inert(200)
    check_first: Literal["stop", "report", "off"] = inert("stop")

    def needs(self) -> tuple[str, ...]:
        """The rows, the base or earlier model if there is one, the artifacts with further rows,
        the teacher where it is one."""
        earlier = (self.start_from,) if self.start_from else tuple(self.brings())
        texts = () if self.replay is None else (self.replay.texts,)
        others = tuple(each.rows for each in self.also.values())
        distil = self.distilled()
        teacher = (distil.artifact,) if distil and distil.artifact else ()
        return ("rows", *earlier, *self.extra, *texts, *others, *teacher)

    def brings(self) -> dict[str, dict[str, Any]]:
        """The published start as an artifact, where its body stays as it is."""
        if self.start_from or self.new is not None or not self.chosen("tune").freezes:
            return {}
        return {BASE: {"stage": "base", "start": self.start}}

    def gives(self) -> tuple[str, ...]:
        """One model, and one of each other task."""
        return ("model", *self.also)

    def reads(self) -> dict[str, str]:
        """The published start, if the run starts from one; a published teacher."""
        found = {each: content_of(each) for each in self.published_teachers()}
        if self.new is not None and self.new.tokenizer:
            found[self.new.tokenizer] = content_of(self.new.tokenizer)
        if self.adapter:
            found[self.adapter] = hash_tree(tree(Path(self.adapter)))
        if not (self.start_from or self.new is not None or self.brings()):
            found[self.start] = content_of(self.start)
        return found

    def learns_from(self) -> tuple[str, ...]:
        """A published teacher, by its content: it can be withdrawn as a source can."""
        return tuple(source_of(each) for each in self.published_teachers())

    def published_teachers(self) -> tuple[str, ...]:
        """The address of the teacher, if it is a published model."""
        distil = self.distilled()
        return (distil.teacher,) if distil and not distil.artifact else ()

    def resolved(self) -> dict[str, Any]:
        """The device and the precision."""
        return resolve_placement(self.device, self.precision).to_json()

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows, how a text model answers it, and the family of the start or the
        kind of the earlier model; tune, optimizer, schedule, and the teacher's."""
        rows = inputs["rows"]
        kinds = [module_of(table, kind_of(getattr(self, name))) for name, table in CHOICES.items()]
        kinds += [module_of("regularizers", kind_of(each)) for each in self.regularize]
        kinds += task_modules(inputs[self.replay.texts]) if self.replay is not None else ()
        for each in self.also.values():
            kinds += (*task_modules(inputs[each.rows]), *text_model_modules(inputs[each.rows]))
        kinds += (module_of("mixings", kind_of(self.mixing)),) if self.also else ()
        if (distil := self.distilled()) is not None:
            kinds.append(module_of("distillations", kind_of(self.distil or "")))
            own = distil.artifact
            kinds += modules_of(inputs[own]) if own else family_modules(distil.teacher)
        found = (*task_modules(rows), *text_model_modules(rows), *kinds)
        if self.start_from:
            return (*found, *modules_of(inputs[self.start_from]))
        if self.new is not None:
            return (*found, module_of("families", self.new.family))
        return (*found, *family_modules(address_of(self, inputs)))

    @classmethod
    def retraining(cls, settings: Mapping[str, Any], feedback: Feedback) -> dict[str, Any]:
        """Learn from the feedback's training rows too."""
        return {"extra": [*settings.get("extra", ()), feedback.artifact]}

    @classmethod
    def origins(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """The earlier model, or the base; the teacher."""
        teacher = (settings.get("distil") or {}).get("teacher", "")
        named = (teacher,) if teacher and not is_address(teacher) else ()
        return (settings.get("start_from") or BASE, *named)

    @classmethod
    def uses(cls, settings: Mapping[str, Any], place: str) -> tuple[Use, ...]:
        """The validation rows say when to stop."""
        if place != "rows/validation":
            return ()
        return (Use("stopped", "model", "", settings["validation_rows"], settings["seed"]),)

    def check(self) -> None:
        """BadInput for a number outside its range."""
        ranges = {
            "rows": (0, None),
            "epochs": (0, None),
            "batch": (1, None),
            "micro_batch": (0, self.batch),
            "max_tokens": (3, 8192),
            "read_tokens": (self.max_tokens if self.read_tokens else 0, 8192),
            "lr": (0, 1),
            "clip": (0, None),
            "dropout": (-1, 0.99),
            "evaluate_every": (1, None),
            "patience": (0, None),
            "validation_rows": (2, None),
            "samples": (0, 100),
            "checkpoint_every": (1, None),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not value >= least or (most is not None and value > most):
                upper = "" if most is None else f" and at most {most}"
                raise BadInput(f"{name} is {value}", f"at least {least}{upper}")
        for name in CHOICES:
            self.chosen(name)
        if self.adapter:
            self.check_adapter()
        if self.take == "body" and (not self.start_from or not self.epochs):
            raise BadInput(
                f"take is body, start_from {self.start_from}, epochs {self.epochs}",
                "an earlier model, and epochs in which a head is trained",
                "set start_from and epochs, or leave take out",
            )
        if self.replay is not None:
            self.replay.check()
        self.check_several()
        for place, each in enumerate(self.regularize):
            read_choice("regularizers", each, f"regularize.{place}", resolve)
        self.check_distil()
        if self.new is not None:
            self.new.check()
            if not getattr(self.chosen("tune"), "merges", True):
                raise BadInput(
                    f"new, and tune {kind_of(self.tune)}, which cannot be merged into the weights",
                    "a tune that can be, as a drawn model is saved whole",
                    "set tune to full",
                )
        elif not self.start_from:
            check_address(self.start)
        if self.start_layers and (self.start_from or self.new is not None):
            raise BadInput(
                f"start_layers beside {'new' if self.new else 'start_from'}",
                "layers of a published start",
                "set the number of layers in new.config" if self.new else "take start_layers out",
            )
        if any(place < 0 for place in self.start_layers):
            raise BadInput(f"start_layers is {[*self.start_layers]}", "numbers from 0 on")

    def check_distil(self) -> None:
        """BadInput where nothing can be learnt of the teacher, or of pairs."""
        distil = self.distilled()
        if self.contrastive is not None:
            self.contrastive.check()
            if distil is not None or not self.epochs:
                raise BadInput(
                    f"contrastive beside {'distil' if distil else 'epochs: 0'}",
                    "steps that learn from pairs alone",
                    "take one of them out",
                )
        if self.also and (distil is not None or self.contrastive is not None):
            raise BadInput(
                f"{'distil' if distil else 'contrastive'}, and several tasks",
                "one task that is learnt so",
                f"take also or {'distil' if distil else 'contrastive'} out",
            )
        if distil is None:
            return
        if not self.epochs:
            raise BadInput(
                "epochs is 0, and distil names a teacher",
                "steps in which something is learnt of it",
                "set epochs to 1 or more, or take distil out",
            )
        if distil.artifact in ("rows", *self.extra):
            raise BadInput(f"distil.teacher is {distil.teacher}, which are rows", "a model")

    def check_several(self) -> None:
        """BadInput for other tasks that cannot be, and for what cannot go with them."""
        check_also(self.also)
        mixing: Mixing = read_choice("mixings", self.mixing, "mixing", resolve)
        if not self.also:
            return
        kinds = {kind_of(each) for each in self.regularize}
        if "adversarial" in kinds or (mixing.makes_gradients and "r-drop" in kinds):
            raise BadInput(
                f"several tasks, mixing {kind_of(self.mixing)}, and regularize {sorted(kinds)}",
                "neither adversarial nor, with a mixing that makes gradients, r-drop",
                "take it out of regularize, or set mixing to size",
            )
        if not self.epochs:
            raise BadInput(
                "epochs is 0, and several tasks", "heads that are trained", "raise epochs"
            )
        if self.micro_batch:
            raise BadInput(
                f"micro_batch is {self.micro_batch}, and several tasks in a batch",
                "a whole batch in one pass",
                "set micro_batch to 0, and lower batch",
            )

    def check_adapter(self) -> None:
        """BadInput where the adapter has no base to stand on, or the tune says what it says."""
        if self.start_from or self.new is not None or kind_of(self.tune) != "lora":
            raise BadInput(
                f"adapter is {self.adapter}, on {self.start_from or 'a start'} with the tune "
                f"{kind_of(self.tune)}",
                "a published start, and tune: lora",
            )
        told = self.tune if isinstance(self.tune, dict) else {}
        if odd := [name for name in FROM_ADAPTER if name in told]:
            raise BadInput(
                f"tune.{odd[0]} beside an adapter, whose own it has", "one of both", "take it out"
            )
        read_config(Path(self.adapter))

    def check_task(self, task: Any) -> None:
        """BadInput for a score to monitor that the task has not, and for samples of a task whose
        answers are no texts."""
        refuse_measure(task, self.monitor, "train.monitor")
        if self.samples and not isinstance(trained_task_model(task), SampledTaskModel):
            raise BadInput(
                f"samples is {self.samples}, and {task.kind} writes no texts for others",
                "0, or a task whose targets are written",
                "leave samples out",
            )

    def foresee(self, inputs: Mapping[str, Path]) -> None:
        """BadInput for rows of a task that no text model answers, or that has not the score to
        monitor, and a device that is not here."""
        resolve_placement(self.device, self.precision)
        if "rows" in inputs:
            task = read_task_of(inputs["rows"])
            trained_task_model(task)
            self.check_task(task)

    def doubts(self, known: RowStatistics) -> tuple[str, ...]:
        """Texts in another language than the start was made for; bf16 by emulation."""
        found = [emulation_in_words(resolve_placement(self.device, self.precision))]
        if not self.start_from and self.new is None and asset_language(self.start):
            found.append(foreign_texts(self.start, known.languages()))
        return tuple(filter(None, found))

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """Tokens of all epochs and of a step, those of the scores on the way, the checkpoints."""
        rows = known.rows("rows/train")
        rows = min(self.rows, rows) if self.rows else rows
        rows += sum(known.rows(f"{name}/train") for name in self.extra)
        learnt = rows * self.epochs * known.tokens("rows/train", self.max_tokens)
        read = rows
        if self.contrastive is not None:  # a pair is two texts
            rows *= 2 * self.contrastive.pairs
            learnt *= 4 * self.contrastive.pairs
        others = {name: known.rows(f"{each.rows}/train") for name, each in self.also.items()}
        steps = self.steps_of(rows, others)
        shares = self.shares({MAIN: rows, **others})
        for name, each in self.also.items():
            length = known.tokens(f"{each.rows}/train", self.max_tokens)
            learnt += steps * self.batch * shares[name] * length
        if self.replay is not None:
            general = known.tokens(f"{self.replay.texts}/train", self.max_tokens)
            learnt += steps * self.batch * self.replay.share * general
        scored = min(self.validation_rows, known.rows("rows/validation")) * (
            steps // self.evaluate_every + 1
        )
        at_once = min(self.micro_batch or self.batch, rows)
        if self.contrastive is not None:
            at_once *= 2
            scored += read * (steps // self.evaluate_every + 1)
        tokens, pairs = known.step("rows/train", self.max_tokens, at_once)
        distil, taught, beside = self.distilled(), 0.0, 0.0
        if distil is not None:
            taught = distil.reads(rows, known.tokens("rows/train", self.max_tokens), self.epochs)
            beside = known.model_bytes() if distil.artifact else size_of(distil.teacher)
        return WorkEstimate(
            train_tokens=learnt,
            read_tokens=scored * known.tokens("rows/train", self.reading) + taught,
            disk=known.model_bytes(),
            scratch=8 * known.model_bytes(),
            step_tokens=tokens,
            step_pairs=pairs,
            further_bytes=beside,
        )

    def run(self, work: Work) -> dict[str, Any]:
        """Train, and write the model with its curves and the rows it was trained on."""
        keep_few_kernels()
        trial, known = self.begun(work)
        task_model, model, table = trial.task_model, trial.model, trial.rows
        task = task_model.task
        findings = self.looked_at(work, trial)
        method = self.method(work, trial)
        table = method.taught(table)
        cut, read = 0, table.num_rows

        def parts() -> Iterator[list[Example]]:
            nonlocal cut
            for at in range(0, table.num_rows, AT_ONCE):
                part = task_model.examples(model, table.slice(at, AT_ONCE))
                cut += sum(each.cut for each in part)
                yield part

        examples: Sequence[Example] = StoredExamples(work.scratch / "examples", parts())
        if self.resample != "none":
            strata = [task.stratum(row) for row in table.to_pylist()]
            if not any(strata):
                raise BadInput(
                    f"resample is {self.resample}, and {task.kind} has no strata",
                    "a task whose rows fall into groups",
                    "set resample to none",
                )
            places = resampled(strata, self.resample == "over", self.seed)
            examples, table = Chosen(examples, places), table.take(np.unique(places))
        plain: EpochBatches | MixedBatches
        plain = EpochBatches(examples, self.batch, self.epochs, self.seed)
        several = self.several(work, trial)
        beside, further = self.mixed_in(work, model, several, table.num_rows)
        if beside and self.epochs:
            plain = MixedBatches(examples, beside, self.batch, self.epochs, self.seed)
        model = model.with_network(model.network, min(self.reading, positions(model)))
        held_out = task_model.examples(model, trial.validation)
        most = model.max_tokens
        others = {name: each.monitor(most) for name, each in several.others.items()}
        monitor = Monitor(task_model, model, held_out, trial.validation, self.monitor, others)
        several.attach()
        state, seconds, new_tokens = self.fit(work, monitor, method.batches(plain), several, method)
        several.detach()
        method.close()
        out = work.out("model")
        predictor = self.saved(work, task_model, model)
        predictor.save(out)
        write_json(out / "curves.json", state.curves)
        table = table if self.epochs else table.slice(0, 0)
        write_used_rows(task, table, out, further if self.epochs else ())
        for name, each in several.others.items():
            own = each.model.with_network(each.network, most)
            self.saved(work, each.task_model, own).save(work.out(name))
            rest = [pair for pair in further if pair[1] is not each.rows]
            write_used_rows(each.task, each.rows, work.out(name), [(task, table), *rest])
        work.measured(
            seconds=seconds, tokens_per_second=new_tokens / max(seconds, 1e-9), found=findings
        )
        line = f"{cut:,} of {read:,} rows are longer than max_tokens ({self.max_tokens}) and cut"
        return {
            "headline": line if cut and self.epochs else "",
            "rows": table.num_rows,
            "cut": cut if self.epochs else 0,
            "validation_rows": trial.validation.num_rows,
            "steps": state.step,
            "tokens": state.tokens,
            "ended": state.ended or "all epochs done",
            "best_step": state.best_step,
            f"validation_{monitor.name}": state.best_score,
            "parameters": parameter_count(model.network),
            "task": task.kind,
            **mixture_facts(plain, several, state),
            **self.forgotten(work, task_model, model),
            **method.facts(),
            **({"learns_from": [*named]} if (named := self.learns_from()) else {}),
            **known,
            **facts_of(predictor),
        }

    def several(self, work: Work, trial: Trial) -> Several:
        """The other tasks on the body of the model in training; none of none."""
        others = {
            name: task_beside(
                name,
                each,
                work.inputs[each.rows],
                trial.model,
                trial.task_model,
                self.validation_rows,
                max(self.dropout, 0.0),
                self.seed,
            )
            for name, each in self.also.items()
        }
        weights = {MAIN: 1.0} | {name: each.weight for name, each in self.also.items()}
        return Several(trial.model.network, others, weights)

    def mixed_in(
        self, work: Work, model: TextModel, several: Several, rows: int
    ) -> tuple[dict[str, Part], list[tuple[Task, pa.Table]]]:
        """What is mixed into the batches of so many rows, and the rows that it is of, with their
        tasks."""
        parts, further = dict[str, Part](), list[tuple[Task, pa.Table]]()
        if self.replay is not None:
            folder = work.inputs[self.replay.texts]
            general = self.replay.table(folder, self.seed)
            texts = StoredExamples(work.scratch / REPLAY, replayed(folder, model, general))
            parts[REPLAY] = Part(texts, self.replay.share)
            further.append((read_task_of(folder), general))
        sizes = {name: each.rows.num_rows for name, each in several.others.items()}
        shares = self.shares({MAIN: rows, **sizes})
        for name, each in several.others.items():
            found = each.examples(work.scratch / f"also-{name}", name)
            parts[name] = Part(found, shares[name])
            further.append((each.task, each.rows))
        return parts, further

    def forgotten(
        self, work: Work, task_model: TrainedTaskModel, tuned: TextModel
    ) -> dict[str, Any]:
        """What the model forgot of its start, which is read again; nothing of one drawn anew."""
        if self.new is not None or not self.epochs:
            return {}
        start = begin(self, work, task_model)[0].model
        start.network.place(tuned.network.placement)
        found = forgetting(start, tuned)
        return {"forgetting": found} if found else {}

    def steps_of(self, rows: int, others: Mapping[str, int]) -> int:
        """The steps of all epochs of so many rows, with so many of the other tasks."""
        if self.replay is None and not self.also:
            return -(-rows // self.batch) * self.epochs
        share = self.shares({MAIN: rows, **others})[MAIN]
        return math.ceil(rows * self.epochs / (self.batch * share))

    def shares(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """The share of all rows that each task has, by its number of rows; that of general text
        is apart."""
        most = {name: each.limit for name, each in self.also.items() if each.limit}
        known = {name: min(size, most.get(name, size)) for name, size in sizes.items()}
        mixing: Mixing = read_choice("mixings", self.mixing, "mixing", resolve)
        own = 1.0 if self.replay is None else 1 - self.replay.share
        return {name: own * share for name, share in mixing.shares(known).items()}

    def trial(self, work: Work) -> Trial:
        """The training before its first step; BadInput where it cannot begin."""
        return self.begun(work)[0]

    def begun(self, work: Work) -> tuple[Trial, dict[str, Any]]:
        """The training before its first step, and what its task found of the start."""
        task_model = trained_task_model(read_task_of(work.inputs["rows"]))
        start, known = begin(self, work, task_model)
        if known:
            work.record("start", **known)
        if start.outputs:
            names = task_model.output_names()
            work.record("published head", labels=list(names), outputs=list(start.outputs))
        table = training_rows(self, work)
        validation = filled(
            read_split(work.inputs["rows"], "validation", self.validation_rows, self.seed),
            "validation",
        )
        if self.replay is not None:
            refuse_replay(task_model, start.model)
        others = {
            n: count_rows(work.inputs[e.rows] / "train.parquet") for n, e in self.also.items()
        }
        steps = self.steps_of(table.num_rows, others)
        found = Trial(
            task_model,
            start.model,
            start.known_head,
            table,
            validation,
            work.inputs["rows"],
            self.batch,
            self.micro_batch,
            steps,
            self.seed,
            self.chosen("optimizer"),
            self.descent(start.model.network),
            resolve_placement(self.device, self.precision),
        )
        return found, known

    def looked_at(self, work: Work, trial: Trial) -> list[dict[str, str]]:
        """Findings of the checks before the first step, in the journal too; BadInput where they
        stop the training."""
        begun = (work.scratch / "checkpoints").exists()
        if self.check_first == "off" or not self.epochs or begun:
            return []
        found = look(trial, probe=trial.steps >= LONG)
        for each in found:
            work.record("found", **each.to_json())
        if self.check_first == "stop":
            refuse(found)
        return [each.to_json() for each in found if each.word != "note"]

    def descent(self, network: Network) -> OptimizerConfig:
        """How the weights of a network are moved."""
        tune = self.chosen("tune")
        found = OptimizerConfig(self.lr, self.chosen("schedule"), self.clip)
        if isinstance(tune, RatesTune):
            return replace(found, factors=partial(tune.rates, network))
        return found

    def saved(self, work: Work, task_model: TrainedTaskModel, model: TextModel) -> TextPredictor:
        """The trained model as it is saved: whole, or on its base where that stays as it is."""
        base, task = self.start_from or next(iter(self.brings()), ""), task_model.task
        if base and self.chosen("tune").freezes:
            head = task_model.head(0.0)
            use = head if isinstance(head, str) and not self.start_from else ""
            tune, _ = applied_tune(self, model)
            return AdaptedPredictor.trained(task, model, work.inputs[base], use, tune)
        return TextPredictor(task, model.with_network(merged(model.network), model.max_tokens))

    def fit(
        self,
        work: Work,
        monitor: Monitor,
        batches: Batches,
        several: Several,
        method: Method,
    ) -> tuple[State, float, int]:
        """Run the loop from the last checkpoint, and leave the best weights in the network."""
        steps = batches.steps or 0
        network, task_model = monitor.model.network, monitor.task_model
        placement = resolve_placement(self.device, self.precision)
        network.place(placement)
        work.record("placed", **describe_placement(placement))
        optimizer: Optimizer = self.chosen("optimizer").make(network)
        settings = f"{self.settings()} {batches.hash()}"
        checkpoints = Checkpoints(work.scratch / "checkpoints", settings, work.record)
        regularizations = self.regularizations(network, steps)
        if several.others:
            mixing: Mixing = read_choice("mixings", self.mixing, "mixing", resolve)
            several.begin(mixing, self.seed, steps)
            regularizations = [several, *regularizations]
        moments = Moments(optimizer, regularizations)
        resumed = checkpoints.resume(network, moments)
        state, best = resumed or (State(), {})
        if resumed:
            work.record("resumed", step=state.step)

        def evaluate(state: State) -> None:
            with evaluated(regularizations):
                method.before_scores()
                judged = monitor.judge()
                kept = copied(network) if judged.loss < state.best_loss else {}
            refuse_infinite(judged.scores[task_model.monitor], 0.0, state, work.record)
            scores = {name: each for name, each in judged.scores.items() if math.isfinite(each)}
            for point in state.curves[-1:]:
                point.update({f"validation_{name}": value for name, value in scores.items()})
            work.record("evaluated", step=state.step, **scores)
            if self.samples and isinstance(task_model, SampledTaskModel):
                rows = monitor.rows.slice(0, self.samples).to_pylist()
                told = task_model.samples(monitor.model, rows, state.step)
                for point in state.curves[-1:]:
                    point["samples"] = told
                work.record("sampled", step=state.step, samples=told)
            if judged.loss < state.best_loss:
                state.best_loss, state.best_score = judged.loss, judged.value
                state.best_step, state.worse = state.step, 0
                best.update(kept)
            else:
                state.worse += 1
                if self.patience and state.worse >= self.patience:
                    what = f"no better {self.monitor}" if self.monitor else "no better"
                    state.ended = f"{what} for {self.patience} scores"

        began, before = time.perf_counter(), state.tokens
        train(
            network,
            batches,
            method.wrapped(task_model.loss),
            optimizer,
            self.descent(network),
            state,
            [
                (1, lambda state: work.progress(state.step, steps)),
                (self.evaluate_every, evaluate),
                (
                    self.checkpoint_every,
                    lambda state: checkpoints.save(state, network, moments, best),
                ),
            ],
            work.record,
            Division(-(-self.batch // (self.micro_batch or self.batch))),
            regularizations,
        )
        if not steps:
            evaluate(state)
        fill(network, best)
        return state, time.perf_counter() - began, state.tokens - before

    def regularizations(self, network: Network, steps: int) -> list[Regularization]:
        """The regularizations of a run of so many steps, before its first."""
        found = []
        for place, each in enumerate(self.regularize):
            setting: Regularizer = read_choice("regularizers", each, f"regularize.{place}", resolve)
            found.append(setting.make(network, self.seed, steps))
        return found

    def distilled(self) -> Distil | None:
        """What is learnt of a teacher, if there is one."""
        if self.distil is None:
            return None
        found: Distil = read_choice("distillations", self.distil, "distil", resolve)
        return found

    def method(self, work: Work, trial: Trial) -> Method:
        """What is learnt from, and how, before the first step."""
        if self.contrastive is not None:
            return self.contrastive.make(trial.task_model, trial.model.network, self.seed)
        if (distil := self.distilled()) is None:
            return Method()
        teacher = open_teacher(distil.teacher, work.inputs, trial.task_model, distil.answers)
        for network in (trial.model.network, teacher.model.network):
            network.place(trial.placement)
        work.record(
            "teacher", name=distil.teacher, parameters=parameter_count(teacher.model.network)
        )
        lesson = Lesson(trial.task_model, trial.model, teacher, self.seed, self.max_tokens, work)
        return distil.make(lesson)

    def chosen(self, name: str) -> Any:
        """The settings of the tune, the optimizer or the schedule."""
        return read_choice(CHOICES[name], getattr(self, name), name, resolve)

    @property
    def reading(self) -> int:
        """The most tokens that the model reads of a text that it answers."""
        return self.read_tokens or self.max_tokens

    def settings(self) -> str:
        """The settings that a checkpoint must share with the run that resumes from it."""
        return repr(replace(self, checkpoint_every=1, check_first="off"))


def mixture_facts(
    batches: EpochBatches | MixedBatches, several: Several, state: State
) -> dict[str, Any]:
    """What is told of batches that are not the task's rows alone."""
    if not isinstance(batches, MixedBatches):
        return {}
    found = {"replay": replay_facts(batches)} if REPLAY in batches.parts else {}
    return found | (several.facts(batches, state) if several.others else {})


def facts_of(predictor: TextPredictor) -> dict[str, Any]:
    """Base of a model, number of its own weights, bytes of frozen and trained ones in memory;
    empty for a model without a base."""
    if not isinstance(predictor, AdaptedPredictor):
        return {}
    about, weights = predictor.adaptation, dict(predictor.model.network.named_parameters())
    stay, learn = bytes_held(predictor.model.network)
    return {
        "base": about.base,
        "own_parameters": sum(weights[name].numel() for name in about.own),
        "frozen_bytes": stay,
        "trained_bytes": learn,
    }


@torch.no_grad()
def copied(network: Network) -> dict[str, Tensor]:
    """A copy of the weights that learn as they are now."""
    return {name: weight.detach().clone() for name, weight in trainable(network).items()}
