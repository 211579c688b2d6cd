"""Configurations of other tools become recipes: every key is translated, not needed, or found.

Conversations are real ones (ChatterBot's, the Chit-Chat Challenge's), written in each tool's shape;
configurations have the keys of the tools' published examples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lmwright.core.errors import BadInput
from lmwright.core.yaml12 import parse_yaml, write_yaml
from lmwright.plan.config import SETTINGS, Tool
from lmwright.plan.foreign import Brought, bring, tool_of
from lmwright.plan.recipe import open_recipe
from lmwright.tables import CONFIGS, resolve
from lmwright.text.templates import TEMPLATES
from tests.data.test_shapes import alpaca, sharegpt, talks
from tests.guides import GUIDES
from tests.models.speaking import speaking_folder
from tests.whole.commands import lmwright

TRL = """
# trl sft --config sft.yaml
model_name_or_path: model
dataset_name: chats.jsonl
output_dir: sft
report_to: none
learning_rate: 2.0e-4
lr_scheduler_type: cosine
warmup_ratio: 0.05
num_train_epochs: 2
per_device_train_batch_size: 2
gradient_accumulation_steps: 4
gradient_checkpointing: true
max_length: 128
packing: true
assistant_only_loss: true
weight_decay: 0.01
max_grad_norm: 0.5
bf16: true
logging_steps: 25
eval_strategy: steps
eval_steps: 100
use_peft: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.1
lora_target_modules: all-linear
seed: 7
"""
AXOLOTL = """
base_model: model
load_in_8bit: false
load_in_4bit: false
strict: false
chat_template: chatml
datasets:
  - path: shared.jsonl
    type: chat_template
    field_messages: conversations
    message_property_mappings:
      role: from
      content: value
dataset_prepared_path: last_run_prepared
val_set_size: 0.1
output_dir: ./outputs/lora-out
adapter: lora
lora_model_dir:
sequence_len: 128
sample_packing: true
eval_sample_packing: true
pad_to_sequence_len: true
lora_r: 16
lora_alpha: 32
lora_dropout: 0.05
lora_fan_in_fan_out:
lora_target_modules:
  - gate_proj
  - down_proj
  - up_proj
  - q_proj
  - v_proj
  - k_proj
  - o_proj
wandb_project:
wandb_entity:
gradient_accumulation_steps: 2
micro_batch_size: 2
num_epochs: 1
optimizer: adamw_8bit
lr_scheduler: cosine
learning_rate: 0.0002
train_on_inputs: false
group_by_length: false
bf16: auto
fp16:
tf32: false
gradient_checkpointing: true
early_stopping_patience: 3
resume_from_checkpoint:
local_rank:
logging_steps: 1
flash_attention: true
loss_watchdog_threshold: 5.0
loss_watchdog_patience: 3
warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
debug:
deepspeed:
weight_decay: 0.0
fsdp:
special_tokens:
  pad_token: "<|end_of_text|>"
"""
LLAMA_FACTORY = """
### model
model_name_or_path: model
trust_remote_code: true
### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
### dataset
dataset: talks,instructions
dataset_dir: data
template: llama3
cutoff_len: 128
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
### output
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
"""
PUBLISHED = {"trl": TRL, "axolotl": AXOLOTL, "llama-factory": LLAMA_FACTORY}
DESCRIBED: dict[str, Any] = {
    "talks": {
        "file_name": "talks.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    },
    "instructions": {"file_name": "instructions.json", "columns": {"history": "history"}},
    "preferred": {"file_name": "talks.json", "ranking": True},
}


@cache
def short() -> tuple[Any, ...]:
    """Real conversations of few words, which a model with 128 positions reads whole."""
    found = [talk for talk in talks() if len(json.dumps(talk)) < 250]
    assert len(found) > 60
    return tuple(found)


def lines(path: Path, rows: Any) -> None:
    """A file with an object a line."""
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data in every shape, and a folder where a model would be."""
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "chats.jsonl", ({"messages": talk} for talk in short()))
    lines(tmp_path / "shared.jsonl", map(sharegpt, short()))
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "model").mkdir()
    (data / "talks.json").write_text(json.dumps([{"messages": talk} for talk in short()[::2]]))
    (data / "instructions.json").write_text(json.dumps([*map(alpaca, short()[1::2])]))
    (data / "dataset_info.json").write_text(json.dumps(DESCRIBED))
    return tmp_path


def changed(text: str, changes: Mapping[str, Any]) -> str:
    """A configuration with other values; a key that is null goes."""
    values = parse_yaml(text, "it") | dict(changes)
    return write_yaml({key: each for key, each in values.items() if each is not None})


def brought(text: str, **changes: Any) -> tuple[Brought, dict[str, Any]]:
    """The recipe of a configuration in the working folder, and its values."""
    path = Path("own.yaml")
    path.write_text(changed(text, changes) if changes else text)
    Path("own-recipe.yaml").unlink(missing_ok=True)
    found = bring(path)
    assert open_recipe(found.path).name == "own"
    return found, parse_yaml(found.body, "it")


def said(found: Brought, *words: str) -> str:
    """The facts of the findings with one of these words."""
    return "\n".join(f"{e.fact}; {e.cure}" for e in found.findings if e.word in words)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_configuration_is_told_and_raises_no_alarm(name: str, folder: Path) -> None:
    found, _ = brought(PUBLISHED[name])
    told = tool_of(Path("own.yaml"))
    assert told is not None and told[0] is resolve("configs", name)
    assert not said(found, "stop", "warn")
    for key, value in parse_yaml(PUBLISHED[name], "it").items():
        in_words = key in said(found, "note") or key in told[0].translated()
        assert in_words or value in (None, False), key


def test_what_trl_s_becomes(folder: Path) -> None:
    found, recipe = brought(TRL)
    train = recipe["stages"]["train"]
    assert recipe["task"] == {
        "kind": "chat",
        "learn": "all",
        "template": "auto",
        "candidates": 0,
        "decoding": {"max_new_tokens": 64},
    }
    assert recipe["stages"]["data"]["sources"] == [{"name": "chats", "path": "chats.jsonl"}]
    assert (train["start"], train["max_tokens"]) == ("model", 128)
    assert (train["batch"], train["micro_batch"]) == (8, 2)
    assert (train["epochs"], train["lr"], train["clip"], train["seed"]) == (2, 2e-4, 0.5, 7)
    assert train["schedule"] == {"kind": "cosine", "warmup": 0.05}
    assert train["optimizer"]["weight_decay"] == 0.01
    assert train["evaluate_every"] == 100
    assert train["tune"] == {
        "kind": "lora",
        "rank": 32,
        "alpha": 16.0,
        "dropout": 0.1,
        "linears": "all",
        "head": False,
    }
    assert "packing: not needed: batches are ragged" in found.body


def test_what_axolotl_s_becomes(folder: Path) -> None:
    _, recipe = brought(AXOLOTL)
    train, data = recipe["stages"]["train"], recipe["stages"]["data"]
    (source,) = data["sources"]
    assert source["shape"]["messages"] == "conversations"
    assert source["shape"]["roles"]["gpt"] == "assistant"
    assert recipe["task"]["template"] == "chatml"
    assert (train["batch"], train["micro_batch"], train["patience"]) == (4, 2, 3)
    assert data["fractions"]["validation"] == 0.1
    assert train["tune"]["linears"] == "all" and train["tune"]["rank"] == 16
    rows = round(len(short()) * data["fractions"]["train"])
    steps = -(-rows // 4)
    assert train["schedule"] == {"kind": "cosine", "warmup": round(10 / steps, 4)}
    assert train["evaluate_every"] == max(1, round(steps / 4))


def test_what_llama_factory_s_becomes(folder: Path) -> None:
    _, recipe = brought(LLAMA_FACTORY)
    one, two = recipe["stages"]["data"]["sources"]
    assert (one["name"], one["path"], one["limit"]) == ("talks", "data/talks.json", 1000)
    assert one["shape"]["role"] == "role" and one["shape"]["messages"] == "messages"
    assert two["shape"] == {"kind": "alpaca", "system": "", "history": "history"}
    train = recipe["stages"]["train"]
    assert (train["epochs"], train["batch"], train["tune"]["alpha"]) == (3, 8, 16.0)
    assert recipe["task"]["template"] == "llama3"


def test_texts_are_documents_and_prompts_with_completions_their_continuations(
    folder: Path,
) -> None:
    texts = [each["content"] for talk in short() for each in talk]
    lines(folder / "texts.jsonl", ({"body": text} for text in texts))
    pairs = [{"prompt": a, "completion": b} for a, b in pairwise(texts)]
    lines(folder / "pairs.jsonl", pairs)
    _, recipe = brought(TRL, dataset_name="texts.jsonl", dataset_text_field="body")
    assert recipe["task"] == {"kind": "text-generation"}
    assert recipe["stages"]["data"]["sources"][0]["columns"] == {"text": "body"}
    _, recipe = brought(TRL, dataset_name="pairs.jsonl")
    columns = recipe["stages"]["data"]["sources"][0]["columns"]
    assert columns == {"text": "prompt", "continuation": "completion"}
    dataset = {"path": "texts.jsonl", "type": "completion", "field": "body"}
    _, recipe = brought(AXOLOTL, datasets=[dataset], chat_template=None)
    assert recipe["task"] == {"kind": "text-generation"}
    (folder / "data" / "dataset_info.json").write_text(
        json.dumps({"wiki": {"file_name": "../texts.jsonl", "columns": {"prompt": "body"}}})
    )
    _, recipe = brought(LLAMA_FACTORY, stage="pt", dataset="wiki")
    assert recipe["stages"]["data"]["sources"][0]["columns"] == {"text": "body"}


def test_variants_of_lora(folder: Path) -> None:
    keys = {
        "trl": ("use_rslora", "use_dora", {"load_in_8bit": True}),
        "axolotl": ("peft_use_rslora", "peft_use_dora", {"load_in_8bit": True}),
        "llama-factory": ("use_rslora", "use_dora", {"quantization_bit": 8}),
    }
    for name, (scaled, dora, bits) in keys.items():
        found, recipe = brought(PUBLISHED[name], **{scaled: True, dora: True}, **bits)
        tune = recipe["stages"]["train"]["tune"]
        assert (tune["scaling"], tune["dora"], tune["base"]) == ("root-rank", True, "int8")
        assert not said(found, "stop", "warn")


def test_steps_and_parts_of_epochs_become_rows(folder: Path) -> None:
    _, recipe = brought(TRL, max_steps=3)
    assert (recipe["stages"]["train"]["rows"], recipe["stages"]["train"]["epochs"]) == (24, 1)
    found, recipe = brought(TRL, max_steps=200)
    rows = round(len(short()) * 0.7)
    assert recipe["stages"]["train"]["epochs"] == round(200 * 8 / rows)
    assert "max_steps: 200 steps are" in said(found, "note")
    _, recipe = brought(TRL, num_train_epochs=0.5)
    assert recipe["stages"]["train"]["rows"] == round(rows * 0.5)
    found, recipe = brought(TRL, num_train_epochs=1.7)
    assert recipe["stages"]["train"]["epochs"] == 2
    assert "num_train_epochs: 1.7" in said(found, "warn")


def test_files_for_the_hub_s_names(folder: Path) -> None:
    path = folder / "own.yaml"
    path.write_text(
        changed(TRL, {"dataset_name": "trl-lib/Capybara", "model_name_or_path": "Qwen/Qwen3-0.6B"})
    )
    with pytest.raises(BadInput, match=r"--rows trl-lib/Capybara=FILE"):
        bring(path)
    found = bring(path, rows={"trl-lib/Capybara": "chats.jsonl"})
    recipe = parse_yaml(found.body, "it")
    assert recipe["stages"]["train"]["start"] == "hub:Qwen/Qwen3-0.6B@main"
    assert "names no revision" in said(found, "warn")
    found.path.unlink()
    path.write_text(path.read_text() + "model_revision: c1899de\n")
    found = bring(path, rows={"trl-lib/Capybara": "chats.jsonl"})
    assert "hub:Qwen/Qwen3-0.6B@c1899de" in found.body
    assert not said(found, "warn")


FOUND: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "a key misspelt": (TRL, {"learning_rte": 1e-3}, "stop", "did you mean 'learning_rate'"),
    "a key of nobody": (TRL, {"zeal": 9}, "warn", "zeal: 9: the key is not known here"),
    "loss on the whole conversation": (
        TRL,
        {"assistant_only_loss": False},
        "warn",
        "not honoured: assistant_only_loss: false",
    ),
    "loss on the whole conversation, unsaid": (
        TRL,
        {"assistant_only_loss": None},
        "warn",
        "assistant_only_loss is not set",
    ),
    "another loss": (TRL, {"loss_type": "dft"}, "warn", "loss_type: dft"),
    "some maps of attention": (
        TRL,
        {"lora_target_modules": ["q_proj", "v_proj"]},
        "warn",
        "k_proj, o_proj do too",
    ),
    "4 bits": (TRL, {"load_in_4bit": True}, "warn", "a base of 4 bits: it is kept in int8"),
    "8 bits of a model that learns": (
        TRL,
        {"load_in_8bit": True, "use_peft": False},
        "warn",
        "a base of 8 bits: only adapters",
    ),
    "fp16": (TRL, {"bf16": False, "fp16": True}, "warn", "fp16: true"),
    "smoothed labels": (TRL, {"label_smoothing_factor": 0.1}, "warn", "label_smoothing_factor"),
    "an optimizer": (TRL, {"optim": "adafactor"}, "warn", "optim: adafactor"),
    "a schedule": (TRL, {"lr_scheduler_type": "polynomial"}, "warn", "polynomial"),
    "a template in a file": (TRL, {"chat_template_path": "x.jinja"}, "warn", "chat_template_path"),
    "train_on_inputs": (AXOLOTL, {"train_on_inputs": True}, "warn", "train_on_inputs: true"),
    "a quantised base": (AXOLOTL, {"adapter": "qlora", "load_in_4bit": True}, "warn", "int8"),
    "a template that is not ours": (AXOLOTL, {"chat_template": "phi_3"}, "warn", "phi_3"),
    "more tokens": (AXOLOTL, {"special_tokens": {"eos_token": "</s>"}}, "warn", "special_tokens"),
    "Alpaca's own words": (
        AXOLOTL,
        {"datasets": [{"path": "data/instructions.json", "type": "alpaca"}]},
        "warn",
        "type: alpaca",
    ),
    "a format of one's own": (
        AXOLOTL,
        {
            "datasets": [
                {
                    "path": "data/instructions.json",
                    "type": {"field_output": "output", "format": "User: {instruction}"},
                }
            ]
        },
        "warn",
        "type.format",
    ),
    "train_on_prompt": (LLAMA_FACTORY, {"train_on_prompt": True}, "warn", "train_on_prompt"),
    "a template with a system's message": (LLAMA_FACTORY, {"template": "qwen"}, "warn", "qwen"),
    "quantisation": (LLAMA_FACTORY, {"quantization_bit": 4}, "warn", "a base of 4 bits"),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a rate of 10": (TRL, {"learning_rate": 10}, "lr is 10"),
    "no rate": (AXOLOTL, {"learning_rate": None}, "learning_rate is None"),
    "a rate in words": (TRL, {"learning_rate": "fast"}, "learning_rate is fast"),
    "a batch of half a row": (TRL, {"per_device_train_batch_size": 0.5}, "from 1 on"),
    "no model": (TRL, {"model_name_or_path": ""}, "names no model"),
    "a model that is not there": (TRL, {"model_name_or_path": "./gone"}, "a folder that is there"),
    "a file that is not there": (TRL, {"dataset_name": "gone.jsonl"}, "there is no gone.jsonl"),
    "no data": (TRL, {"dataset_name": None}, "names no data"),
    "a template of nobody": (AXOLOTL, {"chat_template": "chatlm"}, "did you mean 'chatml'"),
    "preferences": (AXOLOTL, {"rl": "dpo"}, "preferences"),
    "an adapter of another kind": (AXOLOTL, {"adapter": "llama-adapter"}, "lora, qlora or none"),
    "a type of data of nobody": (
        AXOLOTL,
        {"datasets": [{"path": "shared.jsonl", "type": "sharegtp"}]},
        "did you mean 'sharegpt'",
    ),
    "roles the wrong way round": (
        AXOLOTL,
        {
            "datasets": [
                {
                    "path": "shared.jsonl",
                    "type": "chat_template",
                    "field_messages": "conversations",
                    "message_property_mappings": {"role": "from", "content": "value"},
                    "roles": {"user": ["gpt"], "assistant": ["human"]},
                }
            ]
        },
        "roles out of order",
    ),
    "keys of messages the wrong way round": (
        AXOLOTL,
        {
            "datasets": [
                {
                    "path": "shared.jsonl",
                    "type": "chat_template",
                    "field_messages": "conversations",
                    "message_property_mappings": {"role": "value", "content": "from"},
                }
            ]
        },
        "unknown role",
    ),
    "another stage": (LLAMA_FACTORY, {"stage": "dpo"}, "sft or pt"),
    "layers that are frozen": (LLAMA_FACTORY, {"finetuning_type": "freeze"}, "lora or full"),
    "a data set that is not described": (LLAMA_FACTORY, {"dataset": "tals"}, "mean 'talks'"),
    "a data set of preferences": (LLAMA_FACTORY, {"dataset": "preferred"}, "preference"),
    "no descriptions": (LLAMA_FACTORY, {"dataset_dir": "gone"}, "dataset_info.json"),
    "a template nobody knows": (LLAMA_FACTORY, {"template": "lama3"}, "did you mean 'llama"),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_has_no_equal_is_found(name: str, folder: Path) -> None:
    text, changes, word, words = FOUND[name]
    found, _ = brought(text, **changes)
    assert words in said(found, word)
    assert " ".join(words.split()) in found.body


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused(name: str, folder: Path) -> None:
    text, changes, words = REFUSED[name]
    with pytest.raises(BadInput, match=words):
        brought(text, **changes)
    assert not Path("own-recipe.yaml").exists()


ODD = ([], {}, "x", "", -1, 3.5, 1e400, True, [1], [{}], {"a": 1}, [{"path": 3}])


@pytest.mark.parametrize("name", CONFIGS)
def test_no_value_ends_in_anything_but_words(name: str, folder: Path) -> None:
    """Every key with odd values: a recipe that is read back, or words that say what is wrong."""
    for path in (folder / "chats.jsonl", folder / "shared.jsonl"):
        path.write_text("\n".join(path.read_text().splitlines()[:6]))
    good = 0
    tool: Tool = resolve("configs", name)
    for key in tool.translated():
        for value in ODD:
            try:
                good += bool(brought(PUBLISHED[name], **{key: value}))
            except BadInput as error:
                assert error.found
    assert good > 20


DESCRIPTIONS = ("columns", "tags", "formatting", "file_name", "num_samples", "ranking")
OF_DATASETS = (
    *("type", "data_files", "field_messages", "message_property_mappings", "roles", "field_system"),
    *("roles_to_train", "train_on_eos", "message_field_role", "chat_template", "split"),
)


def test_no_value_within_a_data_set_does_either(folder: Path) -> None:
    for key in DESCRIPTIONS:
        for value in ODD:
            own = {**DESCRIBED["talks"], key: value}
            (folder / "data" / "dataset_info.json").write_text(json.dumps({"talks": own}))
            try:
                brought(LLAMA_FACTORY, dataset="talks")
            except BadInput as error:
                assert error.found
    for key in OF_DATASETS:
        for value in ODD:
            dataset = {"path": "shared.jsonl", "type": "sharegpt", key: value}
            try:
                brought(AXOLOTL, datasets=[dataset])
            except BadInput as error:
                assert error.found


def test_a_configuration_is_no_recipe_that_runs(folder: Path) -> None:
    (folder / "own.yaml").write_text(TRL)
    with pytest.raises(BadInput, match=r"configuration of TRL.*lmwright init own\.yaml"):
        open_recipe(Path("own.yaml"))


def test_other_files_are_no_configurations(folder: Path) -> None:
    recipe = brought(TRL)[0].path
    assert tool_of(recipe) is None
    (folder / "talks.yml").write_text("categories: [a]\nconversations:\n- [Hi, Ho]\n")
    assert tool_of(folder / "talks.yml") is None
    with pytest.raises(BadInput, match="no configuration of"):
        bring(folder / "talks.yml")


def test_a_recipe_of_somebody_s_is_not_written_over(folder: Path) -> None:
    brought(TRL)
    again = bring(Path("own.yaml"))
    again.path.write_text(again.body + "# mine\n")
    with pytest.raises(BadInput, match="is there already"):
        bring(Path("own.yaml"))


def test_the_guide_has_the_table_of_keys() -> None:
    tools: list[Tool] = [resolve("configs", name) for name in ("trl", "axolotl", "llama-factory")]
    rows = [
        f"| {place} | " + " | ".join(f"`{tool.names[name]}`" for tool in tools) + " |"
        for name, place in SETTINGS.items()
    ]
    assert "\n".join(rows) in (GUIDES / "checks.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["trl", "axolotl"])
def test_from_a_configuration_to_a_checked_recipe(name: str, folder: Path) -> None:
    """Answers are cut where the length is too small, and are not once it is mended."""
    speaking_folder("llama", folder / "model")
    settings = json.loads((folder / "model" / "tokenizer_config.json").read_text())
    settings["chat_template"] = TEMPLATES["plain"]
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    key = resolve("configs", name).names["max_tokens"]
    own: dict[str, Any] = {"trl": {}, "axolotl": {"chat_template": "tokenizer_default"}}[name]
    config, recipe = folder / "own.yaml", folder / "own-recipe.yaml"
    config.write_text(changed(PUBLISHED[name], {**own, key: 16}))
    done = lmwright("check", str(config), "--store", "store")
    assert done.returncode == 1, done.stderr
    assert "stop  learnt tokens" in done.stdout
    assert recipe.exists() and "own-recipe.yaml" in done.stdout
    recipe.unlink()
    config.write_text(changed(PUBLISHED[name], {**own, key: 128}))
    written = lmwright("init", str(config))
    assert written.returncode == 0, written.stderr
    assert "next: lmwright check" in written.stdout
    done = lmwright("check", str(recipe), "--store", "store")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stop  " not in done.stdout
