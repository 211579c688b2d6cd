"""TRL's YAML for ``trl sft --config``: the fields of SFTConfig, ModelConfig and ScriptArguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.plan.config import (
    TRAINER_NAMES,
    TRAINER_UNHONOURED,
    TRAINER_UNNEEDED,
    Asked,
    Config,
    Tool,
    files_of,
    loaded_bits,
    recipe_source,
)

CHAT, DOCUMENTS = "chat", "text-generation"
"""The tasks that are learnt: conversations, and documents with their continuations."""
NAMES = TRAINER_NAMES
DEFAULTS = {
    "max_tokens": 1024,
    "micro_batch": 8,
    "accumulation": 1,
    "epochs": 3,
    "lr": 2e-5,
    "schedule": "linear",
    "optimizer": "adamw_torch_fused",
    "seed": 42,
    "rank": 16,
    "alpha": 32,
    "lora_dropout": 0.05,
    "targets": ("q_proj", "v_proj"),
}
OWN = {
    "dataset_name": "data.sources",
    "datasets": "data.sources",
    "dataset_text_field": "data.sources[].columns.text",
    "test_split_size": "data.fractions.validation",
    "max_seq_length": "train.max_tokens",
    "assistant_only_loss": "task.learn: all; not honoured where it is false",
    "completion_only_loss": "the completion is learnt; not honoured where it is false",
    "use_peft": "train.tune: lora",
    "load_in_8bit": "train.tune.base: int8",
    "load_in_4bit": "train.tune.base: int8, which is not honoured",
    "loss_type": "the likelihood (nll, chunked_nll); others are not honoured",
    "truncation_mode": "a prompt loses its oldest turns, an answer its end",
}
UNNEEDED = {
    **TRAINER_UNNEEDED,
    "files are read as they are": (
        "dataset_config",
        "dataset_train_split",
        "dataset_test_split",
        "dataset_streaming",
        "streaming",
    ),
    "batches are always drawn in another order": ("shuffle_dataset",),
    "nothing is padded": ("pad_token",),
    "it is told by the model": ("lora_task_type",),
    "variables of the environment are the shell's": ("env",),
    "it is about processes or logs": ("ignore_bias_buffers",),
}
UNHONOURED = {
    **TRAINER_UNHONOURED,
    "a template is the start's own, or one by name: task.template": ("chat_template_path",),
    "answers end as the template ends them": ("eos_token",),
    "a model is loaded in one way": ("model_init_kwargs", "dataset_kwargs"),
    "adapters stand on maps alone": ("lora_modules_to_save", "lora_target_parameters"),
    "a base of fewer bits is int8, by rows": ("bnb_4bit_*", "use_bnb_nested_quant"),
    "weights are kept in fp32": ("dtype", "torch_dtype"),
}


def is_config(values: Mapping[str, Any]) -> bool:
    """True for a mapping that names a model as TRL does."""
    return "model_name_or_path" in values


def read(config: Config) -> Asked:
    """What such a configuration asks for."""
    if "max_seq_length" in config.values:
        config.values.setdefault("max_length", config.values["max_seq_length"])
    start = config.start()
    sources, kinds = list[dict[str, Any]](), set[str]()
    for place in places(config):
        source = recipe_source(config, place["path"], place["key"], len(sources))
        kind, columns = form_of(config, source["path"])
        sources.append({**source, **({"columns": columns} if columns else {})})
        kinds.add(kind)
    if len(kinds) > 1:
        raise BadInput(f"{config.path}: data sets of {' and '.join(sorted(kinds))}", "one kind")
    kind = kinds.pop()
    task: dict[str, Any] = {"kind": kind}
    if kind == CHAT:
        task |= {"candidates": 0, "learn": "all", "template": "auto"}
        of_losses(config, "assistant_only_loss", "what the user says is never learnt")
    else:
        of_losses(config, "completion_only_loss", "the completion is learnt, where there is one")
    if config.text("loss_type", "nll") not in ("nll", "chunked_nll"):
        config.lost("loss_type", "the loss is the likelihood")
    if config.text("truncation_mode", "keep_start") != "keep_start":
        config.lost("truncation_mode", "an answer that is too long loses its end")
    return Asked(
        task=task,
        answers=task["kind"] == CHAT,
        sources=sources,
        lora=config.flag("use_peft"),
        start=start,
        bits=loaded_bits(config),
        validation=config.number("test_split_size"),
    )


def places(config: Config) -> list[dict[str, str]]:
    """The data sets: their paths, and the keys that name them."""
    mixed = config.value("datasets", [])
    if not isinstance(mixed, list):
        raise config.bad("datasets", "a list of mappings with path")
    found: list[dict[str, str]] = []
    for each in mixed:
        if not isinstance(each, dict):
            raise config.bad("datasets", "a list of mappings with path")
        found += [{"path": file, "key": "datasets"} for file in files_of(config, "datasets", each)]
        for key in sorted({*each} - {"path", "data_files", "split", "name"}):
            if each[key] is not None:
                config.found("warn", f"not honoured: datasets[].{key}: files are read as they are")
    if not found and (name := config.text("dataset_name")):
        found.append({"path": name, "key": "dataset_name"})
    if not found:
        raise BadInput(f"{config.path} names no data", "dataset_name or datasets")
    return found


def form_of(config: Config, path: str) -> tuple[str, dict[str, str]]:
    """The task of a data set by its first row, and which columns it has."""
    row = config.first_row(path)
    text = config.text("dataset_text_field", "text")
    if {"chosen", "rejected"} & set(row):
        raise BadInput(
            f"{config.path}: {path} has pairs of preference", "rows of trl sft", "use another file"
        )
    if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        return DOCUMENTS, {"text": "prompt", "continuation": "completion"}
    if text in row and "messages" not in row:
        return DOCUMENTS, {} if text == "text" else {"text": text}
    return CHAT, {}


def of_losses(config: Config, key: str, why: str) -> None:
    """Find that a loss over whole rows is not honoured; it is what TRL takes for conversations
    by default."""
    if config.values.get(key) is None and key == "assistant_only_loss":
        config.found("warn", f"not honoured: {key} is not set, so it is false: {why}")
    elif not config.flag(key, True):
        config.lost(key, why)


TRL = Tool(
    title="TRL",
    names=NAMES,
    defaults=DEFAULTS,
    own=OWN,
    unneeded=UNNEEDED,
    unhonoured=UNHONOURED,
    is_config=is_config,
    read=read,
)
