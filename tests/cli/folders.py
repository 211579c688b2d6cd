"""Tiny published folders of several families, with a tokenizer of forty words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from lmwright.models.family.family import Family
from lmwright.models.files.folder import write_folder
from lmwright.models.network.network import build, fill
from lmwright.models.zoo import bart, bert, gpt2, llama, mixtral, t5, xlnet

WORDS = [f"w{number}" for number in range(40)]
GPT2 = {"vocab_size": 40, "n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 3}
T5 = {"vocab_size": 40, "d_model": 10, "d_kv": 6, "d_ff": 14, "num_layers": 2, "num_heads": 4}
MIXTRAL = {
    "vocab_size": 40,
    "hidden_size": 12,
    "intermediate_size": 14,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
BERT = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}
BART = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 32,
}
XLNET = {"vocab_size": 40, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 20}
LLAMA = {name: value for name, value in MIXTRAL.items() if "experts" not in name}
KINDS: dict[str, tuple[Family, dict[str, Any]]] = {
    "gpt2": (gpt2.FAMILY, GPT2),
    "t5": (t5.FAMILY, T5),
    "mixtral": (mixtral.FAMILY, MIXTRAL),
    "bert": (bert.FAMILY, BERT),
    "llama": (llama.FAMILY, LLAMA),
    "bart": (bart.FAMILY, BART),
    "xlnet": (xlnet.FAMILY, XLNET),
}

WITH_HEADS = {"bart", "xlnet"}
"""Those whose heads, or whose way of writing, have weights beside the body's."""


def folder_of(kind: str, folder: Path) -> str:
    """A folder of this family, its weights drawn wide; returns its path."""
    family, config = KINDS[kind]
    setting, head = family.spec(config), None
    if kind in WITH_HEADS:
        setting = family.generation_spec(setting)
        head = family.heads["lm"](config, setting)[0]
    network, generator = build(setting, head), torch.Generator().manual_seed(9)
    shapes = {name: weight.shape for name, weight in network.named_parameters()}
    fill(network, {n: torch.randn(s, generator=generator) for n, s in shapes.items()})
    write_folder(folder, family, network, "lm" if kind in WITH_HEADS else "")
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    (folder / "tokenizer.json").write_text(made.to_str())
    return str(folder)


def change(folder: str, **fields: Any) -> None:
    """Write other values into a folder's config."""
    path = Path(folder) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
