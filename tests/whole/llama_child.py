"""Asks llama.cpp about one file, in a process whose path has the built package; run as a script.

The question is a JSON object on stdin, the answer one on the last line of stdout; logits go to a
file of numpy's.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import llama_cpp
import numpy as np

F32 = 0
ROOM = 128


def main() -> None:
    """Answer what was asked."""
    asked = json.load(sys.stdin)
    llama_cpp.llama_backend_init()
    settings = llama_cpp.llama_model_default_params()
    settings.use_mmap = False
    model = llama_cpp.llama_model_load_from_file(asked["model"].encode(), settings)
    if not model:
        sys.exit("llama.cpp does not load the file")
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    size = llama_cpp.llama_vocab_n_tokens(vocabulary)
    tokens, logits = greedy(model, size, asked["prompt"], asked["most"])
    np.save(asked["out"], logits)
    template = llama_cpp.llama_model_chat_template(model, None) or b""
    said = {
        "ids": [ids_of(vocabulary, text.encode()) for text in asked["texts"]],
        "tokens": tokens,
        "ends": [n for n in range(size) if llama_cpp.llama_vocab_is_eog(vocabulary, n)],
        "template": template.decode(),
    }
    print(json.dumps(said))


def ids_of(vocabulary: Any, text: bytes) -> list[int]:
    """The ids of a text with what the file puts round it; control tokens in it are text."""
    most = len(text) + 8
    found = (llama_cpp.llama_token * most)()
    count = llama_cpp.llama_tokenize(vocabulary, text, len(text), found, most, True, False)
    return list(found[:count])


def greedy(model: Any, size: int, prompt: list[int], most: int) -> tuple[list[int], np.ndarray]:
    """The likeliest tokens after a prompt, one by one, and the logits of each step."""
    tokens: list[int] = []
    rows = np.empty((most, size), np.float32)
    if not most:
        return tokens, rows
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = ROOM
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = F32
    settings.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, settings)
    new = prompt
    for step in range(most):
        given = (ctypes.c_int32 * len(new))(*new)  # which the batch points to
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(given, len(new))):
            sys.exit("llama.cpp does not decode")
        pointer = llama_cpp.llama_get_logits_ith(context, -1)
        rows[step] = np.ctypeslib.as_array(pointer, shape=(size,))
        new = [int(rows[step].argmax())]
        tokens += new
    return tokens, rows


if __name__ == "__main__":
    main()
