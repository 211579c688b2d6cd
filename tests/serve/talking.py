"""A tiny language model with drawn weights, and a real server for it on a loopback port."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from lmwright.models.decode import SampledToken
from lmwright.models.files.folder import write_folder
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import build
from lmwright.models.text_model import DecodedToken, Decoding, TextModel
from lmwright.models.zoo.llama import FAMILY, spec
from lmwright.serve.engine import Engine
from lmwright.serve.language_routes import routes
from lmwright.serve.published import GenerationServices
from lmwright.serve.settings import Serve
from lmwright.serve.shelf import Shelf
from lmwright.text.templates import CHATML
from tests.serve.live import Live

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = CHATML + "{%- if enable_thinking is defined and enable_thinking %}<think>{% endif %}"
CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


def byte_level() -> tokenizers.Tokenizer:
    """All bytes, a few words, and the tokens that steer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {each: place for place, each in enumerate(alphabet)}
    merges = [("t", "h"), ("a", "n")]
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(CONTROL)
    return made


def of_pieces(kind: str) -> tokenizers.Tokenizer:
    """Three words and all bytes, put together again by one ``kind`` of decoder."""
    mark = "" if kind == "wordpiece" else "▁"
    names = ["<unk>", *(f"{mark}{word}" for word in ("the", "cat", "an")), "\n"]
    names += [f"<0x{byte:02X}>" for byte in range(256)]
    words = {name: place for place, name in enumerate(names)}
    if kind == "wordpiece":
        made = tokenizers.Tokenizer(models.WordPiece(words, unk_token="<unk>"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    else:
        made = tokenizers.Tokenizer(models.Unigram([(name, -1.0) for name in names], 0, True))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    if kind == "strip":
        steps = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()
        made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    made.add_special_tokens(CONTROL)
    return made


def write_model(
    folder: Path,
    tokenizer: tokenizers.Tokenizer | None = None,
    longest: int = 128,
    template: str = TEMPLATE,
) -> Path:
    """A published folder: config, weights that tell tokens apart, tokenizer, template."""
    tokenizer = tokenizer or byte_level()
    config = {**CONFIG, "vocab_size": tokenizer.get_vocab_size()}
    config["max_position_embeddings"] = longest
    setting = spec(config)
    network = build(setting, FAMILY.heads["lm"](config, setting)[0])
    initialise(network, seed=3)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.mul_(8)
    write_folder(folder, FAMILY, network, "lm")
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "chat_template.jinja").write_text(template)
    path = folder / "config.json"
    ends = tokenizer.token_to_id("<|endoftext|>")
    more = {"eos_token_id": ends, "tie_word_embeddings": True}
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    return folder


def with_generation(model: TextModel, **changed: Any) -> TextModel:
    """The same model with other generation settings."""
    settings = replace(model.generation, **changed)
    return TextModel(model.network, model.tokenizer, model.max_tokens, settings)


class Gated(TextModel):
    """The model, with a gate before each token and a count of those that passed it."""

    def __init__(self, model: TextModel) -> None:
        super().__init__(model.network, model.tokenizer, model.max_tokens, model.generation)
        self.open, self.passed = threading.Event(), 0
        self.open.set()

    def decoding(self, *words: Any) -> Decoding:
        found, model = super().decoding(*words), self

        class GatedDecoding(Decoding):
            def decoded(self, token: SampledToken) -> DecodedToken:
                assert model.open.wait(30)
                model.passed += 1
                return super().decoded(token)

        return GatedDecoding(found.begin, found.sources, found.params, found.text)


class Talk(Live):
    """A server for the tiny model."""

    def __init__(self, model: TextModel, **settings: Any) -> None:
        self.settings = Serve(**{"port": 0, **settings})
        self.model = Gated(model)
        self.engine: Any = Engine()
        shelf = Shelf({"tiny": lambda: self.model})
        shelf.take("tiny")
        self.services: Any = GenerationServices(["tiny"], self.engine, self.settings, shelf)
        self.service: Any = self.services.first
        self.begin([routes(self.services)])

    def post(self, path: str, **body: Any) -> tuple[int, dict[str, str], Any]:
        return self.ask("POST", path, body, timeout=30)

    def complete(self, prompt: Any, **more: Any) -> Any:
        status, _, body = self.post("/v1/completions", prompt=prompt, **more)
        assert status == 200, body
        return body

    def chat(self, *said: str, **more: Any) -> Any:
        messages = [{"role": "user", "content": each} for each in said]
        status, _, body = self.post("/v1/chat/completions", messages=messages, **more)
        assert status == 200, body
        return body


@contextmanager
def talking(model: TextModel, **settings: Any) -> Iterator[Talk]:
    """A server for the length of a block."""
    talk = Talk(model, **settings)
    try:
        yield talk
    finally:
        talk.model.open.set()
        talk.stop()
