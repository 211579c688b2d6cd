"""Prefill on the CPU: prompt tokens a second to the first logits, ours against the strongest peers.

    python -m benchmarks.prefill --peer-python PYTHON
    python -m benchmarks.prefill --model gemma3-270m --precision bf16 --peer-precision bf16,int8

Several prompts of 512 tokens of real reviews, one after the other, each to its first new token. The
same weights, sides in turns; each line has the milliseconds of one prompt, the peak memory, and the
regret of both sides' tokens (see ``benchmarks/answers.py``, also for what peers need).
"""

from __future__ import annotations

from functools import partial

from benchmarks.answer_models import MODELS, model_folder, parameters, prompts
from benchmarks.answers import (
    Side,
    chosen_sides,
    fp32_logits,
    judge,
    options,
    results,
    run,
    show,
)

PEERS = ("openvino", "llama.cpp", "onnxruntime-genai", "ctranslate2", "transformers")
PROMPT, TEXTS, ROUNDS = 512, 4, 5


def main() -> None:
    """Compare, and print a line a peer."""
    parser = options("prefill", PEERS, ROUNDS)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--prompt", type=int, default=PROMPT, help="tokens of a prompt")
    chosen = parser.parse_args()
    sides = chosen_sides(chosen)
    folder = model_folder(chosen.model)
    given = prompts(folder, TEXTS, chosen.prompt)
    asked = {"claim": "prefill", "prompts": given, "new": 1}
    turns = run(sides, asked, folder, chosen.threads, chosen.rounds)
    weights = parameters(folder)

    def facts(side: Side) -> dict[str, float]:
        seconds = sum(turn["seconds"] for turn in turns[side])
        return {
            "prompt_ms": round(1000 * seconds / (TEXTS * len(turns[side])), 1),
            "bits_a_weight": round(8 * turns[side][-1]["weight_bytes"] / weights, 2),
        }

    show(
        results(
            f"prefill {chosen.model}",
            "prompt tokens/s",
            turns,
            {side: facts(side) for side in sides},
            {"threads": chosen.threads, "prompt": chosen.prompt, "prompts": TEXTS},
            partial(judge, fp32_logits(folder), given),
        )
    )


if __name__ == "__main__":
    main()
