"""Decoding on the CPU: greedy tokens a second, ours against the strongest peers.

    python -m benchmarks.decode --peer-python PYTHON
    python -m benchmarks.decode --model gemma3-270m --rows 16 --precision bf16 \\
        --peer-precision bf16,int8
    python -m benchmarks.decode --precision int4 --peers llama.cpp,openvino,onnxruntime-genai
    python -m benchmarks.decode --model gemma3-270m --precision q4_k_m --peers llama.cpp \\
        --peer-precision q4_k_m,int4

The same weights, prompts (32 tokens of real reviews) and number of new tokens; each side, a
process of its own, works in turns. The time of a turn is that of all new tokens less that of the
first alone, so that it holds decode steps and no prefill. Each line says how many bits a weight of
what a step reads has, how long a step takes, what the machine's bandwidth allows (the weights'
bytes at 30 GB/s; ours of packed weights with their scales), the peak memory, and the regret
of both sides (see ``benchmarks/answers.py``, also for what peers need).
"""

from __future__ import annotations

from functools import partial

from benchmarks.answer_models import MODELS, model_folder, parameters, prompts
from benchmarks.answers import (
    chosen_sides,
    fp32_logits,
    judge,
    of_bandwidth,
    options,
    results,
    run,
    show,
)

PEERS = ("openvino", "llama.cpp", "onnxruntime-genai", "ctranslate2", "transformers")
PROMPT, NEW, ROUNDS = 32, 128, 5


def main() -> None:
    """Compare, and print a line a peer."""
    parser = options("decoding", PEERS, ROUNDS)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--rows", type=int, default=1, help="texts that are continued at once")
    parser.add_argument("--new", type=int, default=NEW, help="new tokens of each text")
    chosen = parser.parse_args()
    sides = chosen_sides(chosen)
    folder = model_folder(chosen.model)
    given = prompts(folder, chosen.rows, PROMPT)
    asked = {"claim": "decode", "prompts": given, "new": chosen.new}
    turns = run(sides, asked, folder, chosen.threads, chosen.rounds)
    weights = parameters(folder)
    show(
        results(
            f"decode {chosen.model}",
            "new tokens/s",
            turns,
            {side: of_bandwidth(turns[side], weights, chosen.new - 1) for side in sides},
            {"rows": chosen.rows, "threads": chosen.threads, "prompt": PROMPT, "new": chosen.new},
            partial(judge, fp32_logits(folder), given),
        )
    )


if __name__ == "__main__":
    main()
