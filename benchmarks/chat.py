"""An answer of Qwen2.5-Coder-1.5B-Instruct as ``lmwright chat`` gives it, in several precisions.

    python -m benchmarks.chat [--precisions fp32,int8,int4] [--tokens 64]

The same question to the same file (Q4_K_M), greedily. fp32 is what a chat had before there were
kernels for answers. Prints a line of JSON a precision: seconds to the first token (the prompt is
read by then), tokens a second after it, peak memory of the process so far, and the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time

import numpy as np

from lmwright.machine.probe import cpu_class
from lmwright.models.answering import place_to_answer
from lmwright.models.loading import load_text_model
from lmwright.text.generation import SamplingParams

QWEN = "asset:qwen2.5-coder-1.5b-q4-k-m-gguf/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
QUESTION = "Write a Python function that says whether a text is a palindrome. Code alone."


def main() -> None:
    """Ask in each precision."""
    parser = argparse.ArgumentParser(description="one answer of a chat model")
    parser.add_argument("--model", default=QWEN)
    parser.add_argument("--precisions", default="fp32,int8,int4")
    parser.add_argument("--tokens", type=int, default=64)
    chosen = parser.parse_args()
    for precision in chosen.precisions.split(","):
        model = load_text_model(chosen.model, lambda line: None)
        place_to_answer(model, "cpu", precision, lambda line: None)
        prompt = model.chat_ids([{"role": "user", "content": QUESTION}])
        params = SamplingParams(chosen.tokens, stop_ids=model.stop_ids)
        rng = np.random.default_rng(0)
        list(model.generate(prompt, SamplingParams(2), rng))  # weights are packed by then
        began, times, text = time.perf_counter(), [], ""
        for token in model.generate(prompt, params, rng):
            times.append(time.perf_counter() - began)
            text += token.text
        line = {
            "name": f"chat in {precision}",
            "first_token_s": round(times[0], 2),
            "tokens_a_second": round((len(times) - 1) / (times[-1] - times[0]), 2),
            "tokens": len(times),
            "prompt_tokens": len(prompt),
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "answer": text,
            "conditions": {"class": cpu_class(), "load": round(os.getloadavg()[0], 1)},
        }
        print(json.dumps(line), flush=True)
        model.close()


if __name__ == "__main__":
    main()
