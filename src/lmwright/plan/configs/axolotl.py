"""axolotl's YAML: one file with the model, the data sets and the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.core.errors import BadInput, nearest
from lmwright.plan.config import (
    TRAINER_NAMES,
    TRAINER_UNHONOURED,
    TRAINER_UNNEEDED,
    Asked,
    Config,
    Tool,
    files_of,
    loaded_bits,
    mapping_in,
    recipe_source,
    shown,
    template_of,
    text_of,
)

CHAT, DOCUMENTS = "chat", "text-generation"
"""The tasks that are learnt: conversations, and documents with their continuations."""
NAMES = {
    **TRAINER_NAMES,
    "start": "base_model",
    "revision": "revision_of_model",
    "max_tokens": "sequence_len",
    "micro_batch": "micro_batch_size",
    "epochs": "num_epochs",
    "schedule": "lr_scheduler",
    "optimizer": "optimizer",
    "root_rank": "peft_use_rslora",
    "dora": "peft_use_dora",
}
DEFAULTS = {
    "max_tokens": 512,
    "micro_batch": 1,
    "accumulation": 1,
    "epochs": 1,
    "schedule": "cosine",
    "warmup_ratio": 0.03,
    "optimizer": "adamw_torch_fused",
    "seed": 42,
    "rank": 8,
    "alpha": 16,
    "lora_dropout": 0.0,
    "targets": ("q_proj", "v_proj"),
}
OWN = {
    "datasets": "data.sources, with shape or columns",
    "test_datasets": "data.sources with role: test",
    "chat_template": "task.template",
    "adapter": "train.tune: lora for lora and qlora",
    "load_in_8bit": "train.tune.base: int8",
    "load_in_4bit": "train.tune.base: int8, which is not honoured",
    "lora_target_linear": "train.tune.linears: all",
    "train_on_inputs": "what the user says is never learnt; not honoured where it is true",
    "val_set_size": "data.fractions.validation",
    "early_stopping_patience": "train.patience",
    "evals_per_epoch": "train.evaluate_every",
    "special_tokens": "a pad_token is not needed; others are not honoured",
    "rl": "refused: preferences are not learnt from",
}
UNNEEDED = {
    **TRAINER_UNNEEDED,
    "nothing is padded, and no document sees another": (
        "sample_pack*",
        "eval_sample_packing",
        "pad_to_sequence_len",
        "batch_flattening",
        "total_num_tokens",
        "multipack_real_batches",
    ),
    "it is about logs and services": (
        "wandb_*",
        "mlflow_*",
        "hf_mlflow_*",
        "comet_*",
        "use_comet",
        "use_tensorboard",
        "use_wandb",
        "saves_per_epoch",
        "profiler_steps",
        "debug",
        "loss_watchdog_*",
        "eval_table_size",
        "eval_max_new_tokens",
        "hf_use_auth_token",
        "use_swanlab",
        "swanlab_*",
        "use_otel_metrics",
        "otel_metrics_*",
        "push_dataset_to_hub",
    ),
    "it is about kernels": (
        "flash_attention",
        "flash_attn_*",
        "flash_optimum",
        "xformers_attention",
        "sdp_attention",
        "eager_attention",
        "lora_mlp_kernel",
        "lora_qkv_kernel",
        "lora_o_kernel",
        "lora_fan_in_fan_out",
        "lora_on_cpu",
        "liger_*",
        "device_map",
        "max_memory",
        "gpu_memory_limit",
        "torchdistx_path",
        "flex_attn_compile_kwargs",
        "fused_attn_kernel",
        "use_kernels",
        "use_scattermoe",
        "use_sonicmoe",
        "use_*_kernels",
        "experts_implementation",
        "llama4_linearized_experts",
        "experimental_skip_move_to_device",
    ),
    "classes of model and tokenizer are told by the folder": (
        "model_type",
        "tokenizer_type",
        "tokenizer_use_fast",
        "tokenizer_legacy",
        "is_*_derived_model",
        "base_model_ignore_patterns",
        "processor_type",
        "tokenizer_use_mistral_common",
    ),
    "rows are always read, shuffled and compared anew": (
        "dataset_prepared_path",
        "dataset_processes",
        "dataset_keep_in_memory",
        "dataset_exact_deduplication",
        "shuffle_merged_datasets",
        "strict",
        "skip_prepare_dataset",
    ),
    "the validation split is always scored": ("eval_batch_size", "auto_resume_from_checkpoints"),
}
UNHONOURED = {
    **TRAINER_UNHONOURED,
    "a base of fewer bits is int8, by rows": (
        "gptq*",
        "bnb_*",
        "quantize_moe_experts",
        "model_quantization_config*",
        "fp8*",
        "nvfp4_*",
    ),
    "no quantisation is trained for": ("qat", "quantization"),
    "an adapter is drawn anew": ("lora_model_dir", "peft_init_lora_weights", "peft"),
    "adapters stand on maps alone": (
        "lora_modules_to_save",
        "lora_target_parameters",
        "peft_layers_to_transform",
        "peft_layer_replication",
    ),
    "there is one learning rate": ("loraplus_*", "lr_quadratic_warmup", "lr_div_factor"),
    "adapters are trained once": ("relora", "relora_*", "jagged_restart_*"),
    "schedules have no further settings": (
        "cosine_min_lr_ratio",
        "cosine_constant_lr_ratio",
        "eta_min",
    ),
    "optimizers have no such settings": ("adam_beta3", "adam_epsilon2"),
    "a template is the start's own, or one by name": ("chat_template_jinja", "eot_tokens"),
    "conversations have the system's messages that they have": ("default_system_message",),
    "a tokenizer is taken as it is": (
        "tokens",
        "added_tokens_overrides",
        "tokenizer_config",
        "resize_token_embeddings_to_32x",
        "shrink_embeddings",
    ),
    "a model is taken as it is": (
        "base_model_config",
        "overrides_of_model_config",
        "overrides_of_model_kwargs",
        "model_config",
        "cls_model_config",
        "embeddings_skip_upcast",
        "random_init_weights",
        "s2_attention",
    ),
    "rows are drawn at random": ("dataset_shard_num", "dataset_shard_idx", "curriculum_sampling"),
    "models are judged by the task's own scores": ("do_causal_lm_eval", "eval_causal_lm_metrics"),
    "there are no plugins": ("plugins", "cut_cross_entropy", "llmcompressor"),
    "weights are kept in fp32": ("bfloat16", "float16"),
    "no image is read": ("image_size", "image_resize_algorithm"),
    "rewards are not learnt": ("reward_model", "process_reward_model"),
    "sequences and experts are not divided among devices": (
        "sequence_parallel_degree",
        "heads_k_stride",
        "ring_attn_func",
        "dp_*_size",
        "tensor_parallel_size",
        "context_parallel_size",
        "expert_parallel_*",
        "use_ray",
        "ray_num_workers",
    ),
    "all weights learn, or adapters": ("unfrozen_parameters", "lisa_*"),
    "it is told by sequence_len": ("max_packed_sequence_len",),
    "a batch is micro_batch_size times gradient_accumulation_steps": ("batch_size",),
    "documents are a source of rows, under datasets": ("pretraining_dataset", "streaming*"),
    "the loss is the likelihood": ("use_eaft", "eaft_*", "diffusion"),
}
TEMPLATES = {
    "tokenizer_default": "auto",
    "chatml": "chatml",
    "llama3": "llama3",
    "gemma": "gemma",
    "tokenizer_default_fallback_chatml": "auto",
    "tokenizer_default_fallback_llama3": "auto",
    "tokenizer_default_fallback_gemma": "auto",
}
"""Its templates that have an equal; a fallback is what `auto` takes where the start has none."""
NAMES_OF_TEMPLATES = (
    "alpaca aya chatml cohere command_a command_a_rag command_a_tool_use deepseek_v2 "
    "deepseek_v3 exaone exaone4 falcon_h1 gemma gemma3 gemma3n gemma4 gemma4_unified jamba "
    "jinja llama3 llama3_2_vision llama4 llava metharme mistral_v1 mistral_v2v3 "
    "mistral_v3_tekken mistral_v7_tekken nemotron_h phi_3 phi_35 pixtral qwen2_vl qwen3 qwen3_5 "
    "qwen_25 tokenizer_default "
)
KNOWN_TEMPLATES = [*TEMPLATES, *NAMES_OF_TEMPLATES.split()]
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
"""Who speaks, where a data set does not say otherwise."""
TYPES = ("chat_template", "sharegpt", "alpaca", "completion")
OF_CHATS = {
    "field_messages": "shape.messages",
    "message_property_mappings": "shape.role and shape.content",
    "message_field_role": "shape.role",
    "message_field_content": "shape.content",
    "roles": "shape.roles",
    "field_system": "shape.system",
    "roles_to_train": "the assistant's messages are learnt; others are not honoured",
    "train_on_eos": "each learnt message with its end; others are not honoured",
}
"""Keys of a data set of conversations, and what becomes of them."""
OF_ALL = {"path", "data_files", "type", "ds_type", "name", "split", "revision", "trust_remote_code"}
FIELDS = {
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "field_system": "system",
}
"""Keys of a prompt of one's own -> settings of the shape alpaca."""


def is_config(values: Mapping[str, Any]) -> bool:
    """True for a mapping that names a model as axolotl does."""
    return "base_model" in values


def read(config: Config) -> Asked:
    """What such a configuration asks for."""
    if rl := config.value("rl"):
        raise config.bad("rl", f"supervised training; preferences ({rl}) are not learnt from")
    adapter = config.text("adapter")
    if adapter not in ("", "lora", "qlora"):
        raise config.bad("adapter", "lora, qlora or none")
    if config.flag("lora_target_linear"):
        config.values["lora_target_modules"] = "all-linear"
    if config.flag("train_on_inputs"):
        config.lost("train_on_inputs", "what the user says is never learnt")
    sources: list[dict[str, Any]] = []
    kinds = set()
    for key, role in (("datasets", "train"), ("test_datasets", "test")):
        for each in listed(config, key):
            kind, found = source_of(config, key, each, len(sources))
            kinds.add(kind)
            sources.append({**found, **({"role": role} if role == "test" else {})})
    if not sources:
        raise BadInput(f"{config.path} names no data", "datasets")
    if len(kinds) > 1:
        raise BadInput(f"{config.path}: data sets of {' and '.join(sorted(kinds))}", "one kind")
    task: dict[str, Any] = {"kind": kinds.pop()}
    name = config.text("chat_template", "tokenizer_default")
    template = template_of(config, "chat_template", name, KNOWN_TEMPLATES, TEMPLATES)
    if task["kind"] == CHAT:
        task |= {"candidates": 0, "learn": "all", "template": template}
    special = config.value("special_tokens", {})
    own = (
        [each for each in special if each != "pad_token"] if isinstance(special, dict) else special
    )
    if own:
        config.lost("special_tokens", "a tokenizer is taken as it is")
    return Asked(
        task=task,
        answers=task["kind"] == CHAT,
        sources=sources,
        lora=bool(adapter),
        start=config.start(),
        bits=4 if adapter == "qlora" else loaded_bits(config),
        validation=config.number("val_set_size"),
        patience=config.whole("early_stopping_patience"),
        evals_per_epoch=config.number("evals_per_epoch"),
    )


def listed(config: Config, key: str) -> list[dict[str, Any]]:
    """The data sets under a key."""
    found = config.value(key, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise config.bad(key, "a list of mappings with path and type")
    return list(found)


def source_of(
    config: Config, key: str, given: Mapping[str, Any], place: int
) -> tuple[str, dict[str, Any]]:
    """The task of a data set, and the source that it becomes."""
    files = files_of(config, key, given)
    if len(files) != 1:
        raise config.bad(key, "one file a data set", "write a data set for each file")
    source = recipe_source(config, files[0], f"{key}[].path", place)
    kind = given.get("type") or "chat_template"
    if isinstance(kind, dict):
        return CHAT, {**source, "shape": own_prompt(config, key, kind)}
    name = str(kind).split(":")[0].split(".")[0]
    if name not in TYPES:
        raise BadInput(
            f"{config.path}: {key}[].type is {kind!r}",
            "one of " + ", ".join(TYPES) + ", or a mapping with the names of fields",
            nearest(name, TYPES),
        )
    known = {*OF_ALL, *(OF_CHATS if name in ("chat_template", "sharegpt") else ())}
    known |= {"field"} if name == "completion" else set()
    for each in sorted(set(given) - known):
        if given[each] is not None:
            why = "it has no equal"
            if each == "chat_template" and given[each] == config.value("chat_template"):
                continue
            config.found("warn", f"not honoured: {key}[].{each}: {given[each]}: {why}")
    if name == "completion":
        text = text_of(config, key, given, "field", "text")
        return DOCUMENTS, source | ({} if text == "text" else {"columns": {"text": text}})
    if name == "alpaca":
        config.found(
            "warn",
            f"not honoured: {key}[].type: {kind}: instructions are rendered by the chat template, "
            "without Alpaca's own words round them",
        )
        return CHAT, {**source, "shape": "alpaca"}
    shape = chats(config, key, given, name)
    return CHAT, {**source, **({"shape": shape} if shape else {})}


def own_prompt(config: Config, key: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of a data set whose fields are named; its format is the template's here."""
    for each in sorted(set(given) - set(FIELDS)):
        if given[each]:
            config.found(
                "warn",
                f"not honoured: {key}[].type.{each}: prompts are written by the chat template",
            )
    named = {
        ours: text_of(config, key, given, theirs, "")
        for theirs, ours in FIELDS.items()
        if given.get(theirs)
    }
    return {"kind": "alpaca", **named}


def chats(config: Config, key: str, given: Mapping[str, Any], name: str) -> dict[str, Any] | str:
    """The shape of a data set of conversations; "" where they are as ours."""
    old = name == "sharegpt"
    mapped = mapping_in(config, key, given, "message_property_mappings")
    role = text_of(config, key, mapped, "role", "from" if old else "role")
    content = text_of(config, key, mapped, "content", "value" if old else "content")
    role = text_of(config, key, given, "message_field_role", role)
    content = text_of(config, key, given, "message_field_content", content)
    roles = {**ROLES, "system": "system"}
    if own := mapping_in(config, key, given, "roles"):
        lists = {
            ours: [all_of] if isinstance(all_of, str) else all_of for ours, all_of in own.items()
        }
        if not all(isinstance(each, list) and all(map(is_text, each)) for each in lists.values()):
            raise BadInput(f"{config.path}: {key}[].roles: {shown(own)}", "role -> list of theirs")
        roles = {each: ours for ours, all_of in lists.items() for each in all_of}
    if given.get("roles_to_train", ["assistant"]) not in (None, ["assistant"], ["gpt"]):
        config.found(
            "warn",
            f"not honoured: {key}[].roles_to_train: {given['roles_to_train']}: only the "
            "assistant's messages are learnt",
        )
    if given.get("train_on_eos", "turn") not in (None, "turn"):
        config.found(
            "warn",
            f"not honoured: {key}[].train_on_eos: {given['train_on_eos']}: each learnt message is "
            "learnt with its end",
        )
    found = {
        "kind": "chat",
        "messages": text_of(
            config, key, given, "field_messages", "conversations" if old else "messages"
        ),
        "role": role,
        "content": content,
        "roles": roles,
        "system": text_of(config, key, given, "field_system", "system"),
    }
    plain = (found["messages"], role, content) == ("messages", "role", "content")
    return "" if plain and not given.get("roles") and not given.get("field_system") else found


def is_text(value: Any) -> bool:
    """True for a text."""
    return isinstance(value, str)


AXOLOTL = Tool(
    title="axolotl",
    names=NAMES,
    defaults=DEFAULTS,
    own=OWN,
    unneeded=UNNEEDED,
    unhonoured=UNHONOURED,
    is_config=is_config,
    read=read,
)
