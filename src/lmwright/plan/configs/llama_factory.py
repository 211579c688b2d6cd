"""LLaMA-Factory's training YAML, and the descriptions of data sets in ``dataset_info.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput, nearest
from lmwright.plan.config import (
    TRAINER_NAMES,
    TRAINER_UNHONOURED,
    TRAINER_UNNEEDED,
    Asked,
    Config,
    Tool,
    mapping_in,
    recipe_source,
    template_of,
    text_of,
)

CHAT, DOCUMENTS = "chat", "text-generation"
"""The tasks that are learnt: conversations, and documents with their continuations."""
NAMES = {
    **TRAINER_NAMES,
    "max_tokens": "cutoff_len",
    "rank": "lora_rank",
    "targets": "lora_target",
}
DEFAULTS = {
    "max_tokens": 2048,
    "micro_batch": 8,
    "accumulation": 1,
    "epochs": 3,
    "lr": 5e-5,
    "schedule": "linear",
    "optimizer": "adamw_torch_fused",
    "seed": 42,
    "rank": 8,
    "lora_dropout": 0.0,
    "targets": ("all",),
}
OWN = {
    "stage": "task.kind: chat for sft, text-generation for pt; others are refused",
    "finetuning_type": "train.tune: lora or full; others are refused",
    "dataset": "data.sources, by dataset_info.json",
    "eval_dataset": "data.sources with role: test",
    "dataset_dir": "data.sources[].path",
    "template": "task.template",
    "train_on_prompt": "what the user says is never learnt; not honoured where it is true",
    "mask_history": "task.learn: last where it is true, else all",
    "max_samples": "data.sources[].limit, drawn at random",
    "val_size": "data.fractions.validation",
    "quantization_bit": "train.tune.base: int8; 4 is not honoured",
    "early_stopping_steps": "train.patience",
}
UNNEEDED = {
    **TRAINER_UNNEEDED,
    "nothing is padded, and no document sees another": (
        "neat_packing",
        "block_diag_attn",
        "ignore_pad_token_for_loss",
    ),
    "it is about logs, caches and services": (
        "plot_loss",
        "overwrite_cache",
        "cache_dir",
        "preprocessing_*",
        "tokenized_path",
        "streaming",
        "buffer_size",
        "data_shared_file_system",
        "print_param_status",
        "include_effective_tokens_per_second",
        "use_swanlab",
        "swanlab_*",
        "enable_torch_profiler",
        "profiler_*",
        "profile_modules",
        "ray_*",
        "master_addr",
        "master_port",
        "hf_hub_token",
        "ms_hub_token",
        "om_hub_token",
    ),
    "it is about kernels and memory": (
        "flash_attn",
        "use_unsloth",
        "use_unsloth_gc",
        "enable_liger_kernel",
        "disable_gradient_checkpointing",
        "use_reentrant_gc",
        "use_v1_kernels",
        "offload_folder",
        "device_map",
        "upcast_layernorm",
        "upcast_lmhead_output",
        "use_fast_tokenizer",
    ),
    "it is about answers in service, not about training": (
        "infer_*",
        "vllm_*",
        "sglang_*",
        "use_kv_cache",
        "do_sample",
        "temperature",
        "top_p",
        "top_k",
        "num_beams",
        "eval_num_beams",
        "max_new_tokens",
        "repetition_penalty",
        "length_penalty",
        "skip_special_tokens",
        "predict_with_generate",
        "export_*",
        "compute_accuracy",
        "eval_dataset_dir",
        "eval_on_each_dataset",
    ),
}
UNHONOURED = {
    **TRAINER_UNHONOURED,
    "a base of fewer bits is int8, by rows": (
        "quantization_method",
        "quantization_type",
        "quantization_device_map",
        "double_quantization",
        "fp8*",
    ),
    "weights are kept in fp32": ("pure_bf16", "compute_dtype"),
    "an adapter is drawn anew": (
        "adapter_name_or_path",
        "adapter_folder",
        "create_new_adapter",
        "pissa_*",
    ),
    "adapters stand on maps alone": ("additional_target",),
    "there is one learning rate": ("loraplus_lr_ratio",),
    "the optimizers are AdamW and SGD": (
        "use_galore",
        "galore_*",
        "use_apollo",
        "apollo_*",
        "use_badam",
        "badam_*",
        "use_adam_mini",
        "use_muon",
    ),
    "the loss is the likelihood": ("use_dft_loss", "use_eaft_loss", "moe_aux_loss_coef"),
    "all layers learn, or adapters": ("use_llama_pro", "freeze_*"),
    "a tokenizer is taken as it is": (
        "resize_vocab",
        "split_special_tokens",
        "add_tokens",
        "add_special_tokens",
        "new_special_tokens_config",
    ),
    "a model is taken as it is": (
        "rope_scaling",
        "shift_attn",
        "mixture_of_depths",
        "train_from_scratch",
    ),
    "conversations have the system's messages that they have": ("default_system",),
    "no tools and no thoughts are written": ("tool_format", "enable_thinking"),
    "sources are joined": ("interleave_probs",),
    "models are not divided among devices": (
        "use_kt",
        "kt_*",
        "use_mca",
        "*_model_parallel_size",
        "context_parallel_size",
    ),
    "batches are always drawn in another order": ("disable_shuffling",),
    "no image, video or sound is read": ("media_dir", "image_*", "video_*", "audio_*"),
}
QUIET = {
    "freeze_trainable_layers": 2,
    "freeze_trainable_modules": "all",
    "freeze_vision_tower": True,
    "double_quantization": True,
    "freeze_multi_modal_projector": True,
    "enable_thinking": True,
}
"""Values of such keys that change nothing."""
TEMPLATES = {
    "chatml": "chatml",
    "llama3": "llama3",
    "gemma": "gemma",
    "mistral": "mistral",
    "zephyr": "zephyr",
}
"""Its templates that have an equal."""
NAMES_OF_TEMPLATES = (
    "aeva alpaca bailing bailing_v2 breeze chatglm3 chatml chatml_de cohere cpm4 dbrx deepseek "
    "deepseek3 deepseekcoder deepseekr1 default dots_ocr empty ernie ernie_nothink ernie_vl "
    "exaone falcon falcon_h1 fewshot gemma gemma2 gemma3 gemma3n gemma4 gemma4n glm4 glm4_5v "
    "glm4_7 glm4_moe glm4v glm_ocr glmz1 gpt_oss granite3 granite3_vision granite4 hunyuan "
    "hunyuan_small hy3 hy_dense_1_8b hy_dense_7b index intern2 intern_s1 intern_vl keye_vl "
    "kimi_vl lfm2 lfm2_vl llama2 llama2_zh llama3 llama4 llava llava_next llava_next_llama3 "
    "llava_next_mistral llava_next_qwen llava_next_video llava_next_video_mistral "
    "llava_next_video_yi llava_next_yi mimo mimo_v2 mimo_vl minicpm_o minicpm_v minicpm_v_4_6 "
    "minimax1 minimax2 ministral ministral3 mistral mistral_small mllama moonlight moss_vl olmo "
    "openchat openchat-3.6 opencoder paligemma paligemma_chat phi phi4 phi4_mini phi_small "
    "pixtral qwen qwen2_audio qwen2_omni qwen2_vl qwen3 qwen3_5 qwen3_5_nothink qwen3_6 "
    "qwen3_nothink qwen3_omni qwen3_omni_nothink qwen3_vl qwen3_vl_nothink sailor seed_coder "
    "seed_oss smollm smollm2 solar starchat telechat2 vicuna video_llava xuanyuan yi yi_vl "
    "youtu youtu_vl yuan zephyr "
)
KNOWN_TEMPLATES = NAMES_OF_TEMPLATES.split()
SIGNS = {"finetuning_type", "template", "cutoff_len", "dataset_dir", "lora_target", "lora_rank"}
DESCRIPTIONS = "dataset_info.json"
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
"""Columns of a description -> settings of the shape alpaca; its names are theirs by default."""
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
    "observation_tag": "observation",
    "function_tag": "function_call",
}
"""Tags of a description, and what they are by default."""
SPEAKERS = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}


def is_config(values: Mapping[str, Any]) -> bool:
    """True for a mapping that names a model, and something that TRL has not."""
    own = SIGNS & set(values) or isinstance(values.get("stage"), str)
    return "model_name_or_path" in values and bool(own)


def read(config: Config) -> Asked:
    """What such a configuration asks for."""
    stage = config.text("stage", "sft")
    if stage not in ("sft", "pt"):
        raise config.bad("stage", "sft or pt; preferences and rewards are not learnt from")
    tune = config.text("finetuning_type", "lora")
    if tune not in ("lora", "full"):
        raise config.bad("finetuning_type", "lora or full")
    for key, value in QUIET.items():
        if config.values.get(key) == value:
            del config.values[key]
    bits = config.whole("quantization_bit")
    if bits not in (0, 4, 8):
        raise config.bad("quantization_bit", "8 or 4")
    described = descriptions(config)
    sources: list[dict[str, Any]] = []
    for key, role in (("dataset", "train"), ("eval_dataset", "test")):
        for name in config.listed(key):
            found = source_of(config, key, name, described, stage, len(sources))
            sources.append({**found, **({"role": role} if role == "test" else {})})
    if not any(each.get("role") != "test" for each in sources):
        raise BadInput(f"{config.path} names no data", "dataset")
    if config.flag("train_on_prompt"):
        config.lost("train_on_prompt", "what the user says is never learnt")
    task: dict[str, Any] = {"kind": DOCUMENTS}
    if stage == "sft":
        template = "auto"
        if name := config.text("template"):
            template = template_of(config, "template", name, KNOWN_TEMPLATES, TEMPLATES)
        learn = "last" if config.flag("mask_history") else "all"
        task = {"kind": CHAT, "candidates": 0, "learn": learn, "template": template}
    if config.text("mix_strategy", "concat") != "concat":
        config.lost("mix_strategy", "sources are joined")
    return Asked(
        task=task,
        answers=task["kind"] == CHAT,
        sources=sources,
        lora=tune == "lora",
        start=config.start(),
        bits=bits,
        validation=config.number("val_size"),
        patience=config.whole("early_stopping_steps"),
    )


def descriptions(config: Config) -> dict[str, Any]:
    """The descriptions of data sets; BadInput where there are none."""
    name = config.text("dataset_dir", "data")
    for place in (Path(name).expanduser(), config.path.parent / name):
        file = place if place.is_file() else place / DESCRIPTIONS
        if not file.is_file():
            continue
        try:
            found = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{file} is not JSON: {error}", "descriptions of data sets") from None
        if not isinstance(found, dict) or not all(isinstance(e, dict) for e in found.values()):
            raise BadInput(f"{file} holds no descriptions", "name -> description of a data set")
        return {"": str(file.parent), **found}
    raise BadInput(
        f"{config.path}: dataset_dir: there is no {Path(name) / DESCRIPTIONS}",
        "descriptions of data sets",
        "correct dataset_dir; it is taken from the working folder, then from the configuration's",
    )


def source_of(
    config: Config, key: str, name: str, described: Mapping[str, Any], stage: str, place: int
) -> dict[str, Any]:
    """The source of a data set by its description."""
    if not name or name not in described:
        known = sorted(filter(None, described))
        raise BadInput(
            f"{config.path}: {key}: {DESCRIPTIONS} describes no {name!r}",
            "a described data set",
            nearest(name, known) if known else f"describe it in {DESCRIPTIONS}",
        )
    given = described[name]
    if given.get("ranking"):
        raise BadInput(f"{config.path}: {key}: {name} has pairs of preference", "rows of sft")
    file = given.get("hf_hub_url") or given.get("ms_hub_url") or given.get("file_name")
    if not isinstance(file, str):
        raise BadInput(f"{config.path}: {key}: {name} has no file_name", "a file of rows")
    if given.get("hf_hub_url") or given.get("ms_hub_url"):
        source = recipe_source(config, file, key, place)
    else:
        source = {
            **recipe_source(config, str(Path(described[""]) / file), key, place),
            "name": f"{name}-{place + 1}" if place else name,
        }
    samples = given.get("num_samples")
    limits = [config.whole("max_samples"), samples if isinstance(samples, int) else 0]
    if any(limits):
        source["limit"] = min(filter(None, limits))
    columns = mapping_in(config, name, given, "columns")
    for each in columns:
        text_of(config, name, columns, each, "")
    for each in ("images", "videos", "audios", "chosen", "rejected", "kto_tag"):
        if columns.get(each):
            config.found("warn", f"not honoured: {name}: columns.{each}: no such column is read")
    if columns.get("tools") not in (None, "tools"):
        config.found("warn", f"not honoured: {name}: columns.tools: tools are not learnt")
    if stage == "pt":
        text = text_of(config, name, columns, "prompt", "text")
        return source | ({} if text == "text" else {"columns": {"text": text}})
    return {**source, "shape": shape_of(config, name, given, columns)}


def shape_of(
    config: Config, name: str, given: Mapping[str, Any], columns: Mapping[str, str]
) -> Any:
    """The shape of a data set: alpaca, or conversations with its tags."""
    formatting = given.get("formatting", "alpaca")
    if formatting == "alpaca":
        named = {ours: columns[key] for key, ours in ALPACA.items() if columns.get(key)}
        named |= {each: columns.get(each) or "" for each in ("system", "history")}
        return {"kind": "alpaca", **named}
    if formatting not in ("sharegpt", "openai"):
        raise BadInput(f"{config.path}: {name}: formatting is {formatting!r}", "alpaca or sharegpt")
    tags = TAGS | mapping_in(config, name, given, "tags")
    for each in tags:
        text_of(config, name, tags, each, "")
    if unknown := sorted(set(tags) - set(TAGS)):
        config.found("stop", f"not honoured: {name}: tags.{unknown[0]}", nearest(unknown[0], TAGS))
    return {
        "kind": "sharegpt",
        "messages": columns.get("messages", "conversations"),
        "role": tags["role_tag"],
        "content": tags["content_tag"],
        "roles": {tags[tag]: role for tag, role in SPEAKERS.items()},
        "system": columns.get("system") or "",
    }


LLAMA_FACTORY = Tool(
    title="LLaMA-Factory",
    names=NAMES,
    defaults=DEFAULTS,
    own=OWN | {"mix_strategy": "sources are joined (concat); others are not honoured"},
    unneeded=UNNEEDED,
    unhonoured=UNHONOURED,
    is_config=is_config,
    read=read,
)
