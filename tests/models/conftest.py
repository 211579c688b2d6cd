"""A published folder of tiny size, for tests to damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from lmwright.models.files.folder import write_folder
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import build
from lmwright.models.zoo.bert import FAMILY, spec

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "dull", "film", "##s", "."]
CONFIG = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """config.json, model.safetensors and tokenizer.json of a tiny encoder."""
    folder = tmp_path / "published"
    network = build(spec(CONFIG))
    initialise(network, seed=1)
    write_folder(folder, FAMILY, network)
    (folder / "tokenizer.json").write_text(wordpiece().to_str())
    return folder


def wordpiece() -> tokenizers.Tokenizer:
    """A WordPiece tokenizer of ten words."""
    made = tokenizers.Tokenizer(
        models.WordPiece({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.add_special_tokens(WORDS[:4])
    return made


def change_config(folder: Path, **fields: object) -> None:
    """Write other values into the folder's config."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
