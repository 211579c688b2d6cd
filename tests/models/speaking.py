"""Tiny folders of the families that GGUF has, their tokenizers trained here on real lines."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, trainers

from lmwright.core.durable import write_json
from lmwright.models.family.family import Family
from lmwright.models.files.folder import write_folder
from lmwright.models.network.network import build, fill
from lmwright.models.zoo import gemma3, llama
from lmwright.text.tokenizer import Tokenizer, read_tokenizer
from tests.text.lines import reviews

CONFIG: dict[str, Any] = {
    "vocab_size": 704,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "max_position_embeddings": 128,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
GEMMA = CONFIG | {"sliding_window": 8, "num_hidden_layers": 6}
FAMILIES: dict[str, tuple[Family, dict[str, Any], str]] = {
    "llama": (llama.FAMILY, CONFIG, "llama-bpe"),
    "llama, stretched": (
        llama.FAMILY,
        CONFIG | {"max_position_embeddings": 2**17, "rope_parameters": STRETCHED},
        "llama-bpe",
    ),
    "llama, tied": (llama.FAMILY, CONFIG | {"tie_word_embeddings": True}, "smollm"),
    "mistral": (llama.MISTRAL, CONFIG, "pieces after a space"),
    "qwen2": (llama.QWEN2, CONFIG | {"tie_word_embeddings": True, "head_dim": 16}, "qwen2"),
    "gemma3": (gemma3.FAMILY, GEMMA, "pieces"),
}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
)
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUT = {
    "llama-bpe": rf"{CONTRACTIONS}|\p{{N}}{{1,3}}{REST}",
    "qwen2": rf"{CONTRACTIONS}|\p{{N}}{REST}",
}
SPECIAL = ("<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def added(number: int, content: str, special: bool = True, **flags: bool) -> dict[str, Any]:
    """One added token as a tokenizer.json has it."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, **plain, **flags, "special": special}


def first(name: str, number: int) -> dict[str, Any]:
    """The template that puts one token before a text."""
    token, text = (
        {"SpecialToken": {"id": name, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    )
    return {
        "type": "TemplateProcessing",
        "single": [token, text],
        "pair": [token, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }


@cache
def real_lines() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lines of reviews to train on, and others."""
    found = reviews()
    return found[:3000], found[-3000:]


@cache
def byte_pairs() -> str:
    """A byte-level encoding, trained here."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(real_lines()[0], trainer)
    return made.to_str()


def on_bytes(kind: str) -> str:
    """A byte-level tokenizer.json spelled as the families' own files are."""
    described = json.loads(byte_pairs())
    size = len(described["model"]["vocab"])
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    cut: list[dict[str, Any]] = {
        "gpt-2": [{**BYTES, "use_regex": True}],
        "smollm": [{"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True}],
    }.get(kind) or [{**split, "pattern": {"Regex": CUT[kind]}}, BYTES]
    described |= {
        "added_tokens": [
            *(added(size + place, name) for place, name in enumerate(SPECIAL)),
            added(size + len(SPECIAL), "<extra>", special=False),
        ],
        "normalizer": {"type": "NFC"} if kind == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut},
        "decoder": BYTES,
    }
    if kind == "llama-bpe":
        described["model"]["ignore_merges"] = True
        both = [BYTES, first("<|begin|>", size)]
        described["post_processor"] = {"type": "Sequence", "processors": both}
    return json.dumps(described, ensure_ascii=False)


@cache
def on_pieces(before: bool) -> str:
    """A tokenizer.json of SentencePiece's kind, its space ``before`` a text or not."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(real_lines()[0]),
        model_writer=written,
        model_type="bpe",
        vocab_size=690,
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=before,
        control_symbols=["<|im_start|>", "<|im_end|>", "<|pad|>"],
        minloglevel=2,
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    names = [trained.id_to_piece(each) for each in range(trained.get_piece_size())]
    # As converters write it, which sort the merges of a piece by their parts' ids.
    ids = {name: number for number, name in enumerate(names)}
    plain = {
        name for name, number in ids.items()
        if not (trained.is_control(number) or trained.is_byte(number) or trained.is_unknown(number))
    }  # fmt: skip
    merges = [
        (-trained.get_score(ids[name]), ids[name[:cut]], ids[name[cut:]], name[:cut], name[cut:])
        for name in plain
        for cut in range(1, len(name))
        if name[:cut] in plain and name[cut:] in plain
    ]
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    to_text: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if before:
        steps.insert(0, {"type": "Prepend", "prepend": "▁"})
        to_text.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    cut = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
    special = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|pad|>")
    described = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            *(added(ids[name], name) for name in special),
            added(len(names), "<extra>", special=False),
            *([] if before else [added(len(names) + 1, "▁" * 5, special=False, normalized=True)]),
        ],
        "normalizer": {"type": "Sequence", "normalizers": steps} if before else steps[0],
        "pre_tokenizer": None if before else {**cut, "invert": False},
        "post_processor": first("<s>", ids["<s>"]),
        "decoder": {"type": "Sequence", "decoders": to_text},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [[left, right] for *_, left, right in sorted(merges)],
        },
    }
    return json.dumps(described, ensure_ascii=False)


def json_of(kind: str) -> str:
    """The tokenizer.json of a kind."""
    if kind.startswith("pieces"):
        return on_pieces(kind == "pieces after a space")
    return on_bytes(kind)


def roles_of(kind: str) -> dict[str, str]:
    """Which tokens play a role in it."""
    pieces = kind.startswith("pieces")
    bos, eos = ("<s>", "</s>") if pieces else SPECIAL[:2]
    return {"bos_token": bos, "eos_token": eos, "pad_token": "<|pad|>"}


def tokenizer_folder(kind: str, folder: Path) -> Tokenizer:
    """The tokenizer of a folder with nothing else in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json_of(kind), "utf-8")
    write_json(folder / "tokenizer_config.json", roles_of(kind) | {"chat_template": TEMPLATE})
    return read_tokenizer(folder / "tokenizer.json")


def speaking_folder(name: str, folder: Path, wide: float = 1.0) -> str:
    """A folder of the family with drawn weights and a chat template; returns its path.

    ``wide`` is how far the weights of a map spread, of inputs of 1.
    """
    family, config, kind = FAMILIES[name]
    tokenizer = tokenizer_folder(kind, folder)
    setting = family.spec(config)
    network = build(setting, family.heads["lm"](config, setting)[0])
    generator = torch.Generator().manual_seed(9)
    drawn = {
        each: torch.randn(weight.shape, generator=generator) * wide * weight.shape[-1] ** -0.5
        for each, weight in network.named_parameters()
    }
    fill(network, drawn)
    end = tokenizer.roles["eos"][0]
    write_folder(folder, family, network, "lm", None, {"eos_token_id": end})
    more = tokenizer.inner.token_to_id("<extra>")
    write_json(folder / "generation_config.json", {"eos_token_id": [end, more]})
    return str(folder)
