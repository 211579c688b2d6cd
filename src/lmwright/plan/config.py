"""A configuration of another tool, key by key, and the recipe that is made of it.

A leaf in ``plan/configs`` says which key is which; here stands what tools have in common: the
parameters of a training under the names of the Hugging Face trainers, LoRA, data sets and models
by path or by name. What has an equal becomes a setting, what changes nothing here is listed as
that, and what has no equal is a finding. Nothing is left out in silence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput, nearest
from lmwright.core.finding import Finding
from lmwright.core.task import role_columns
from lmwright.data.formats.choose import read_table
from lmwright.data.formats.record import Fault, Table
from lmwright.data.sources import RawRow, Source, read_source
from lmwright.models.files.hub import NAME
from lmwright.plan.recipe import path_from
from lmwright.tables import resolve

FILES = ("*.jsonl", "*.json", "*.parquet", "*.csv")
"""The files of a folder that is named as a data set: the first pattern that matches some."""
MANY = 2500
"""From so many rows on small shares are rows enough to judge by."""
APART = {"calibration": 0.06, "gate": 0.09, "test": 0.09}
APART_OF_MANY = {"calibration": 0.02, "gate": 0.05, "test": 0.03}
"""Shares that are kept apart whatever a configuration says; recipes measure on them."""
VALIDATION, VALIDATION_OF_MANY = 0.06, 0.02
LONGEST = 8192
"""Tokens of a text to learn from, at most."""
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj", "c_attn", "Wqkv"}
MLP = {"gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "c_fc"}
EVERY = {"all", "all-linear"}
"""Names of a network's maps in published code, and of all of them."""
SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_apex_fused": "adamw",
    "sgd": "sgd",
}
SMALL_STATE = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit")
"""AdamW in less memory."""
SWITCH = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
"""Words that are true or false in the YAML that other tools read."""
NEAR = 0.85
"""From so like a known key on an unknown one is a misspelling."""

TRAINER_NAMES = {
    "start": "model_name_or_path",
    "revision": "model_revision",
    "max_tokens": "max_length",
    "micro_batch": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "epochs": "num_train_epochs",
    "max_steps": "max_steps",
    "lr": "learning_rate",
    "schedule": "lr_scheduler_type",
    "warmup_ratio": "warmup_ratio",
    "warmup_steps": "warmup_steps",
    "optimizer": "optim",
    "weight_decay": "weight_decay",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "eps": "adam_epsilon",
    "clip": "max_grad_norm",
    "seed": "seed",
    "bf16": "bf16",
    "fp16": "fp16",
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "targets": "lora_target_modules",
    "root_rank": "use_rslora",
    "dora": "use_dora",
    "evaluate_every": "eval_steps",
}
"""What a training needs to know -> the key that the trainers of Hugging Face have for it."""
TRAINER_UNNEEDED = {
    "it says where results and logs go": (
        "output_dir",
        "overwrite_output_dir",
        "run_name",
        "report_to",
        "disable_tqdm",
        "project",
        "logging_*",
        "log_*",
        "save_*",
        "push_to_hub*",
        "hub_*",
        "trackio_*",
        "include_num_input_tokens_seen",
        "include_tokens_per_second",
    ),
    "batches are ragged: nothing is padded, and no document sees another": (
        "packing",
        "packing_strategy",
        "padding_free",
        "pad_to_multiple_of",
        "eval_packing",
        "group_by_length",
        "length_column_name",
        "train_sampling_strategy",
    ),
    "it saves memory or time": (
        "gradient_checkpointing*",
        "activation_*",
        "torch_compile*",
        "use_liger_kernel",
        "liger_kernel_config",
        "attn_implementation",
        "use_cache",
        "torch_empty_cache_steps",
        "tf32",
        "low_cpu_mem_usage",
        "dataset_num_proc",
        "dataloader_*",
    ),
    "the machine says which devices and processes there are": (
        "deepspeed",
        "fsdp*",
        "ddp_*",
        "local_rank",
        "accelerator_config",
        "parallelism_config",
        "average_tokens_across_devices",
        "use_cpu",
    ),
    "a run that was stopped goes on by itself": ("resume_from_checkpoint", "ignore_data_skip"),
    "code of a model's folder is never run": ("trust_remote_code",),
    "the validation split is always scored, and the best weights are kept": (
        "do_train",
        "do_eval",
        "do_predict",
        "eval_strategy",
        "evaluation_strategy",
        "per_device_eval_batch_size",
        "eval_accumulation_steps",
        "eval_delay",
        "eval_on_start",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        "prediction_loss_only",
    ),
    "columns are taken by their names": ("remove_unused_columns", "label_names"),
    "runs are the same bit by bit": ("full_determinism",),
}
TRAINER_UNHONOURED = {
    "targets are not smoothed": ("label_smoothing_factor",),
    "no noise is added to embeddings": ("neftune_noise_alpha",),
    "schedules have no further settings than warmup": ("lr_scheduler_kwargs",),
    "optimizers have no such settings": ("optim_args", "optim_target_modules"),
    "there is one seed": ("data_seed",),
    "a batch is what the recipe says": ("auto_find_batch_size",),
}
"""Keys of the Hugging Face trainer that several tools take."""

SETTINGS = {
    "start": "train.start",
    "revision": "train.start, behind the @",
    "max_tokens": "train.max_tokens; task.decoding.max_new_tokens is half of it",
    "micro_batch": "train.micro_batch",
    "accumulation": "train.batch, in micro-batches",
    "epochs": "train.epochs",
    "max_steps": "train.rows or train.epochs, by the number of rows",
    "lr": "train.lr",
    "schedule": "train.schedule",
    "warmup_ratio": "train.schedule.warmup",
    "warmup_steps": "train.schedule.warmup, by the number of steps",
    "optimizer": "train.optimizer",
    "weight_decay": "train.optimizer.weight_decay",
    "beta1": "train.optimizer.beta1",
    "beta2": "train.optimizer.beta2",
    "eps": "train.optimizer.eps",
    "clip": "train.clip",
    "seed": "train.seed",
    "bf16": "train.precision",
    "fp16": "train.precision: fp32 where both are false",
    "rank": "train.tune.rank",
    "alpha": "train.tune.alpha",
    "lora_dropout": "train.tune.dropout",
    "targets": "train.tune.linears",
    "root_rank": "train.tune.scaling: root-rank",
    "dora": "train.tune.dora",
    "evaluate_every": "train.evaluate_every",
}
"""Parameters that tools have in common -> the setting that each becomes."""


@dataclass(frozen=True)
class Tool:
    """A tool: what becomes of the keys of its configurations.

    ``names`` are parameters of ``SETTINGS`` -> its keys, ``defaults`` what it takes where they are
    not set. ``own`` are further keys -> the settings they become. ``unneeded`` are reasons why keys
    change nothing here, ``unhonoured`` reasons why they have no equal; both name keys, or patterns
    of keys with stars. ``is_config`` tells its configurations, ``read`` gives what is asked for.
    """

    title: str
    names: Mapping[str, str]
    defaults: Mapping[str, Any]
    own: Mapping[str, str]
    unneeded: Mapping[str, Sequence[str]]
    unhonoured: Mapping[str, Sequence[str]]
    is_config: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Config], Asked]

    def translated(self) -> dict[str, str]:
        """Key -> the setting that it becomes."""
        return {key: SETTINGS[name] for name, key in self.names.items()} | dict(self.own)


@dataclass(kw_only=True)
class Asked:
    """What a configuration asks for beside the parameters in common.

    ``task`` is a kind with settings, ``answers`` says whether it has answers of limited length;
    ``sources`` are raw settings of sources.
    ``lora`` says whether low-rank adapters are trained, on a base of so many ``bits`` (0: as it
    is). ``validation`` is a share of the rows, or
    their number, or 0 where that is left to us.
    """

    task: dict[str, Any]
    answers: bool
    sources: list[dict[str, Any]]
    lora: bool
    start: str
    bits: int = 0
    validation: float = 0.0
    patience: int = 0
    evals_per_epoch: float = 0.0
    train: dict[str, Any] = field(default_factory=dict)


class Config:
    """The values of one configuration, read key by key; what is found of them is collected.

    ``rows`` names files of this machine for data sets that a configuration names otherwise;
    ``folder`` is that of the recipe.
    """

    def __init__(
        self,
        tool: Tool,
        path: Path,
        values: Mapping[str, Any],
        rows: Mapping[str, str],
        folder: Path,
    ) -> None:
        self.tool, self.path, self.values = tool, path, dict(values)
        self.rows, self.folder = rows, folder
        self.findings: list[Finding] = []
        self.used: set[str] = set()

    def found(self, word: Any, fact: str, cure: str = "") -> None:
        """Keep a finding, once."""
        made = Finding(self.tool.title, word, fact, cure=cure)
        if made not in self.findings:
            self.findings.append(made)

    def lost(self, key: str, why: str, cure: str = "") -> None:
        """Keep that a key has no equal."""
        self.found("warn", f"not honoured: {key}: {shown(self.values.get(key))}: {why}", cure)

    def bad(self, key: str, wanted: str, cure: str = "") -> BadInput:
        """What is said of a value that cannot be meant."""
        return BadInput(f"{self.path}: {key} is {shown(self.values.get(key))}", wanted, cure)

    # Values

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a key; the default where it is not set, or null."""
        found = self.values.get(key)
        return default if found is None else found

    def text(self, key: str, default: str = "") -> str:
        """A text."""
        found = self.value(key, default)
        if not isinstance(found, str):
            raise self.bad(key, "a text")
        return found

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        found = self.value(key, default)
        if isinstance(found, str):
            found = SWITCH.get(found.lower(), found)
        if not isinstance(found, bool):
            raise self.bad(key, "true or false")
        return found

    def number(self, key: str, default: float = 0.0, least: float = 0.0) -> float:
        """A finite number from ``least`` on."""
        found = self.value(key, default)
        try:
            found = float(found) if not isinstance(found, bool) else math.nan
        except (TypeError, ValueError):
            found = math.nan
        if not math.isfinite(found) or found < least:
            raise self.bad(key, f"a number from {least:g} on")
        return found

    def whole(self, key: str, default: int = 0, least: int = 0) -> int:
        """A whole number from ``least`` on."""
        found = self.number(key, default, least)
        if found != int(found):
            raise self.bad(key, "a whole number")
        return int(found)

    def listed(self, key: str) -> list[str]:
        """A list of texts; also one text, or several between commas."""
        found = self.value(key, [])
        if isinstance(found, str):
            found = [each.strip() for each in found.split(",") if each.strip()]
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise self.bad(key, "a list of texts")
        return found

    def named(self, name: str) -> str:
        """The tool's key of a parameter in common."""
        return self.tool.names[name]

    def default(self, name: str) -> Any:
        """What the tool takes for a parameter in common."""
        return self.tool.defaults.get(name)

    def has(self, name: str) -> bool:
        """Whether the tool has a parameter in common."""
        return name in self.tool.names

    # What keys name

    def start(self) -> str:
        """The address of the model: a path, or a name of the hub with its revision."""
        key = self.named("start")
        name = self.text(key)
        if not name:
            raise BadInput(
                f"{self.path} names no model", f"{key}: a folder, or OWNER/NAME of the hub"
            )
        for place in (Path(name).expanduser(), self.path.parent / name):
            if place.exists():
                return str(place)
        if not NAME.fullmatch(name) or name.startswith("."):
            raise self.bad(
                key, "a folder that is there, or OWNER/NAME of the hub", "correct the path"
            )
        revision = self.text(self.named("revision")) if self.has("revision") else ""
        if not revision:
            self.found(
                "warn",
                f"{key}: {name} names no revision, so the recipe says main, which moves",
                "write the commit behind the @ of train.start",
            )
        return f"hub:{name}@{revision or 'main'}"

    def file(self, name: str, key: str, folder: Path | None = None) -> str:
        """The path of a data set's file from the recipe's folder; BadInput where it is none.

        A relative path is taken from ``folder``, else from the working folder and that of the
        configuration.
        """
        wanted = self.rows.get(name, name)
        places = [Path(wanted).expanduser(), self.path.parent / wanted]
        places = [folder / wanted, *places] if folder and name not in self.rows else places
        for place in places:
            if place.is_dir():
                pattern = next((each for each in FILES if any(place.glob(each))), "")
                if pattern:
                    return f"{path_from(place, self.folder)}/{pattern}"
            if place.is_file():
                return path_from(place, self.folder)
        if name not in self.rows and NAME.fullmatch(name) and not Path(name).suffix:
            raise BadInput(
                f"{self.path}: {key}: {name} is no file of this machine but a data set of the hub",
                "its rows in a file",
                f"save them as JSON Lines or Parquet, and say --rows {name}=FILE",
            )
        raise BadInput(
            f"{self.path}: {key}: there is no {wanted}",
            "a file of rows",
            f"correct the path, or say --rows {name}=FILE",
        )

    def first_row(self, path: str) -> Mapping[str, Any]:
        """The first row of a data set that can be read."""
        place = self.folder / path
        files = sorted(place.parent.glob(place.name)) if not place.exists() else [place]
        for file in files:
            found = read_table(Table(f"{self.path}: {path}", file.name, file), [])
            for each in islice(found, 20):
                if not isinstance(each, Fault):
                    return each[1]
        raise BadInput(f"{self.path}: {path} has no row that can be read", "a table of rows")

    # All keys

    def unread(self) -> None:
        """Find what becomes of the keys that no setting is made of."""
        translated, idle = self.tool.translated(), dict[str, list[str]]()
        known = [*translated, *names_in(self.tool.unneeded), *names_in(self.tool.unhonoured)]
        for key, value in self.values.items():
            if key in translated:
                continue
            if reason := reason_of(self.tool.unneeded, key):
                idle.setdefault(reason, []).extend([key] if value is not None else [])
            elif reason := reason_of(self.tool.unhonoured, key):
                if value not in (None, False, 0, "", "none", "no", [], {}):
                    self.lost(key, reason)
            elif near := get_close_matches(key, known, n=1, cutoff=NEAR):
                self.found(
                    "stop",
                    f"not honoured: {key}: {shown(value)}: {self.tool.title} has no such key",
                    f"did you mean {near[0]!r}?",
                )
            else:
                self.lost(key, "the key is not known here")
        for reason, keys in idle.items():
            if keys:
                self.found("note", f"{', '.join(keys)}: not needed: {reason}")


def reason_of(reasons: Mapping[str, Sequence[str]], key: str) -> str:
    """The reason under which a key is listed, or ""."""
    for reason, keys in reasons.items():
        if any(fnmatchcase(key, each) for each in keys):
            return reason
    return ""


def names_in(reasons: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The keys that are listed by their whole names."""
    return (each for keys in reasons.values() for each in keys if "*" not in each)


def shown(value: Any) -> str:
    """A value in a few words."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def files_of(config: Config, key: str, given: Mapping[str, Any]) -> list[str]:
    """The paths or names of the files of a data set: its ``data_files``, else its ``path``."""
    found = given.get("data_files") or given.get("path")
    if isinstance(found, Mapping):
        found = list(found.values())
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise config.bad(key, "a list of mappings with path, or data_files as texts")
    return found


def mapping_in(config: Config, key: str, given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The mapping under a name within a data set; empty where there is none."""
    found = given.get(name)
    if not isinstance(found, dict | None):
        raise BadInput(f"{config.path}: {key}: {name} is {shown(found)}", "a mapping")
    return found or {}


def text_of(config: Config, key: str, given: Mapping[str, Any], name: str, default: str) -> str:
    """The text under a name within a data set; the default where there is none."""
    found = given.get(name)
    if not isinstance(found, str | None):
        raise BadInput(f"{config.path}: {key}: {name} is {shown(found)}", "a text")
    return found or default


def recipe_source(config: Config, name: str, key: str, place: int) -> dict[str, Any]:
    """The source of a data set by its name or path; ``place`` tells apart those of one name."""
    own = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(name).stem).strip("-") or "rows"
    path = config.file(name, key)
    return {"name": f"{own}-{place + 1}" if place else own, "path": path}


def template_of(
    config: Config, key: str, name: str, known: Sequence[str], equal: Mapping[str, str]
) -> str:
    """Our chat template for one of the tool's; BadInput where the tool has none of that name."""
    if name in equal:
        return equal[name]
    if name not in known:
        raise config.bad(key, f"a chat template of {config.tool.title}", nearest(name, known))
    config.lost(
        key,
        "there is no template of that name here, so the start's own is taken",
        "see that the start has one, or set task.template",
    )
    return "auto"


def recipe_of(config: Config, asked: Asked) -> dict[str, Any]:
    """The recipe of what a configuration asks for; its findings are collected in it."""
    max_tokens = config.whole(config.named("max_tokens"), config.default("max_tokens"), 1)
    if max_tokens > LONGEST:
        config.lost(config.named("max_tokens"), f"{LONGEST:,} tokens are the most that is read")
        max_tokens = LONGEST
    task = dict(asked.task)
    if asked.answers:
        task |= {"decoding": {"max_new_tokens": max(1, max_tokens // 2)}}
    rows = usable_rows(config, asked.sources, task)
    fractions = fractions_of(config, asked.validation, rows)
    learnt = max(1, round(rows * fractions["train"]))
    micro = config.whole(config.named("micro_batch"), config.default("micro_batch"), 1)
    batch = micro * config.whole(config.named("accumulation"), config.default("accumulation"), 1)
    train: dict[str, Any] = {"start": asked.start, **asked.train, "max_tokens": max_tokens}
    train |= {"batch": batch, **({"micro_batch": micro} if micro < batch else {})}
    train |= length_of(config, learnt, batch)
    steps = -(-train.get("rows", learnt) // batch) * train["epochs"]
    train["lr"] = config.number(config.named("lr"), config.default("lr"))
    if not train["lr"]:
        raise config.bad(config.named("lr"), "a learning rate above 0")
    train["schedule"] = schedule_of(config, steps)
    train["optimizer"] = optimizer_of(config)
    train["clip"] = config.number(config.named("clip"), 1.0)
    train["tune"] = lora_of(config, asked.bits) if asked.lora else "full"
    if asked.bits and not asked.lora:
        config.found(
            "warn", f"not honoured: a base of {asked.bits} bits: only adapters stand on one"
        )
    train |= {"dropout": -1.0, "precision": precision_of(config)}
    if every := every_of(config, asked, steps, -(-learnt // batch)):
        train["evaluate_every"] = every
    train["patience"] = asked.patience
    train["seed"] = config.whole(config.named("seed"), config.default("seed"))
    data = {"sources": asked.sources, "fractions": fractions}
    stages = {"data": data, "train": train, "baselines": {}, "evaluate": {"rows": 200}}
    return {"task": task, "stages": stages}


def usable_rows(
    config: Config, sources: Sequence[Mapping[str, Any]], task: Mapping[str, Any]
) -> int:
    """Rows to learn from; BadInput for a source of which no row can be used."""
    kind = resolve("tasks", task["kind"])()
    columns, total = role_columns(kind, "input", "target"), 0
    for each in sources:
        place = str(config.folder / str(each["path"]))
        good, reasons = 0, dict[str, int]()
        for row in read_source(Source(**{**each, "path": place}), columns):
            reason = row.reason if isinstance(row, Fault) else fault_of(kind, row)
            good += not reason
            if reason:
                reasons[reason] = reasons.get(reason, 0) + 1
        said = ", ".join(f"{count:,} × {name}" for name, count in sorted(reasons.items()))
        if not good:
            raise BadInput(
                f"{config.path}: no row of {each['path']} can be used: {said or 'it has none'}",
                f"rows for the task {kind.kind}",
                "mend the rows, or the keys that say how they are to be read",
            )
        if reasons:
            config.found("warn", f"{each['path']}: rows that cannot be used: {said}")
        total += good if each.get("role") != "test" else 0
    return total


def fault_of(task: Any, row: RawRow) -> str:
    """Why a task cannot learn from a row, or ""."""
    return str(task.fault(task.cleaned(row.values)))


def fractions_of(config: Config, asked: float, rows: int) -> dict[str, float]:
    """The shares of the splits; ``asked`` is the validation's: a share, a number of rows, or 0."""
    apart = APART_OF_MANY if rows >= MANY else APART
    usual = VALIDATION_OF_MANY if rows >= MANY else VALIDATION
    share = (asked / max(rows, 1) if asked >= 1 else asked) or usual
    share = min(max(round(share, 4), 0.001), 0.5)
    rest = round(1 - share - sum(apart.values()), 4)
    config.found(
        "note",
        f"{sum(apart.values()):.0%} of the rows are kept apart for calibration, gate and test, "
        "which the configuration does not ask for",
    )
    return {"train": rest, "validation": share, **apart}


def length_of(config: Config, rows: int, batch: int) -> dict[str, Any]:
    """The epochs, and the number of rows where fewer are to be read than one epoch has."""
    key = config.named("max_steps")
    steps = config.whole(key, -1, least=-1)
    epochs = config.number(config.named("epochs"), config.default("epochs"))
    if steps > 0:
        wanted = steps * batch
        if wanted <= rows:
            return {"rows": wanted, "epochs": 1}
        found = max(1, round(wanted / rows))
        config.found("note", f"{key}: {steps} steps are {found} epochs of {rows:,} rows")
        return {"epochs": found}
    if not epochs:
        raise config.bad(config.named("epochs"), "a number of epochs above 0")
    if epochs < 1:
        return {"rows": max(1, round(rows * epochs)), "epochs": 1}
    if epochs != int(epochs):
        config.lost(config.named("epochs"), f"epochs are whole here, so it is {round(epochs)}")
    return {"epochs": round(epochs)}


def schedule_of(config: Config, steps: int) -> dict[str, Any]:
    """The schedule with its warmup as a share of all steps."""
    key = config.named("schedule")
    name = config.text(key, config.default("schedule"))
    kind = SCHEDULES.get(name)
    if kind is None:
        config.lost(key, "the schedules are linear, cosine and constant, so it is cosine")
        kind = "cosine"
    ratio = config.number(config.named("warmup_ratio"), config.default("warmup_ratio") or 0.0)
    warm = config.number(config.named("warmup_steps"), config.default("warmup_steps") or 0.0)
    share = warm if 0 < warm < 1 else (min(1.0, warm / max(steps, 1)) if warm else ratio)
    if name == "constant" and share:
        config.found("note", f"{key}: constant has no warmup, so none is taken")
        share = 0.0
    return {"kind": kind, "warmup": round(share, 4)}


def optimizer_of(config: Config) -> dict[str, Any]:
    """The optimizer with its numbers."""
    key = config.named("optimizer")
    name = config.text(key, config.default("optimizer"))
    kind = OPTIMIZERS.get(name)
    if name in SMALL_STATE:
        config.found("note", f"{key}: {name}: AdamW keeps its state in 32 bits, in memory")
        kind = "adamw"
    if kind is None:
        config.lost(key, "the optimizers are AdamW and SGD, so it is AdamW")
        kind = "adamw"
    decay = {"weight_decay": config.number(config.named("weight_decay"), 0.0)}
    if kind == "sgd":
        return {"kind": kind, "momentum": 0.0, **decay}
    numbers = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    return {
        "kind": kind,
        **decay,
        **{name: config.number(config.named(name), each) for name, each in numbers.items()},
    }


def lora_of(config: Config, bits: int) -> dict[str, Any]:
    """The low-rank adapters; the head stays as it is, as the other tools leave it."""
    if bits == 4:
        config.found("warn", "not honoured: a base of 4 bits: it is kept in int8")
    rank = config.whole(config.named("rank"), config.default("rank"), 1)
    alpha = config.default("alpha") or 2 * rank
    return {
        "kind": "lora",
        "rank": rank,
        "alpha": config.number(config.named("alpha"), alpha),
        "dropout": config.number(config.named("lora_dropout"), config.default("lora_dropout")),
        "linears": linears_of(config),
        **({"scaling": "root-rank"} if config.flag(config.named("root_rank")) else {}),
        **({"dora": True} if config.flag(config.named("dora")) else {}),
        **({"base": "int8"} if bits else {}),
        "head": False,
    }


def linears_of(config: Config) -> str:
    """Which maps get an adapter."""
    key = config.named("targets")
    targets = {each.split(".")[-1] for each in config.listed(key)} or {*config.default("targets")}
    if unknown := sorted(targets - ATTENTION - MLP - EVERY):
        config.lost(key, f"{unknown[0]} names no map that is known here")
    if targets & EVERY or (targets & ATTENTION and targets & MLP):
        kind, whole = "all", {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
    elif targets & MLP:
        kind, whole = "mlp", {"up_proj", "down_proj"}
    else:
        kind, whole = "attention", {"q_proj", "k_proj", "v_proj", "o_proj"}
    if not targets & EVERY and (more := sorted(whole - targets)):
        config.found(
            "warn", f"{key}: {kind} maps get adapters as a whole, so {', '.join(more)} do too"
        )
    return kind


def precision_of(config: Config) -> str:
    """What products are computed in: fp32 where both halves are refused."""
    bf16, fp16 = config.named("bf16"), config.named("fp16")
    if config.flag(fp16):
        config.lost(fp16, "half precision is bf16, where the device has it")
        return "auto"
    if config.value(bf16) in (None, "auto", "full"):
        return "auto"
    if not config.flag(bf16):
        return "fp32"
    config.found("note", f"{bf16}: precision is auto: bf16 on a CUDA device, else fp32")
    return "auto"


def loaded_bits(config: Config) -> int:
    """Bits of the base that is loaded: 8, 4, or 0 where it is as it is."""
    if config.flag("load_in_4bit"):
        return 4
    return 8 if config.flag("load_in_8bit") else 0


def every_of(config: Config, asked: Asked, steps: int, epoch: int) -> int:
    """Steps between two scores of the validation rows, or 0 where that is left to us."""
    if asked.evals_per_epoch:
        return max(1, round(epoch / asked.evals_per_epoch))
    found = config.number(config.named("evaluate_every"), 0.0)
    return max(1, round(found * steps if found < 1 else found)) if found else 0
