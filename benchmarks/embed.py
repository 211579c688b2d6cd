"""Embedding on the CPU: texts a second, ours against sentence-transformers and its back ends.

    python -m benchmarks.embed --peer-python PYTHON
    python -m benchmarks.embed --texts long --precision bf16

all-MiniLM-L6-v2 with its published weights, from texts to vectors of length 1, each text cut to 256
tokens: sentences of reviews (``short``), and whole reviews (``long``). Sides work in turns. Of each
side the least cosine over all texts to the vectors of our fp32 network is printed; below 0.99 (in
fp32, 0.9999) there is no result. What peers need: ``benchmarks/answers.py``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.answer_models import reviews
from benchmarks.answers import Side, chosen_sides, options, results, run, show
from benchmarks.peer import START
from benchmarks.sides import ours
from benchmarks.sides.sentence_transformers import CALIBRATION
from lmwright.assets import asset_file
from lmwright.core.cache import user_cache

KINDS = {"short": ("rotten_tomatoes", 512), "long": ("imdb", 96)}
"""Kind of texts -> the source they come from, and how many are embedded in a turn."""
LONGEST, ROUNDS, CALIBRATING = 256, 5, 128
PRECISIONS = "fp32,bf16,openvino-bf16,openvino-int8,onnx-int8"
COSINE, COSINE_FP32 = 0.99, 0.9999


def main() -> None:
    """Compare, and print a line a kind of texts and a peer."""
    parser = options("embedding", ["sentence-transformers"], ROUNDS, PRECISIONS)
    parser.add_argument("--texts", choices=KINDS, help="one kind alone")
    chosen = parser.parse_args()
    sides, folder = chosen_sides(chosen), encoder_folder()
    lines = []
    for kind in [chosen.texts] if chosen.texts else KINDS:
        source, count = KINDS[kind]
        texts = reviews(source)[:count]
        asked = {"claim": "embed", "texts": texts, "longest": LONGEST}
        turns = run(sides, asked, folder, chosen.threads, chosen.rounds)
        reference = ours.Embedder(folder, folder, "fp32", chosen.threads, asked).embed(texts)

        def judged(
            side: Side, turns: list[dict[str, Any]], right: np.ndarray = reference
        ) -> tuple[dict[str, Any], bool]:
            least = least_cosine(np.array(turns[-1]["vectors"]), right)
            exact = side.precision.endswith("fp32")
            return {"least_cosine": round(least, 5)}, least >= (COSINE_FP32 if exact else COSINE)

        conditions = {"texts": count, "longest": LONGEST, "threads": chosen.threads}
        more: dict[Side, dict[str, Any]] = {side: {} for side in sides}
        lines += results(f"embed {kind}", "texts/s", turns, more, conditions, judged)
    show(lines)


def least_cosine(found: np.ndarray, right: np.ndarray) -> float:
    """The least cosine of two arrays of vectors (texts, width), text by text."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1)
    return float(((found * right).sum(axis=1) / lengths).min())


def encoder_folder() -> Path:
    """A copy of the published folder, beside which the peers' own formats are made."""
    folder = user_cache() / "benchmark-answers" / "minilm"
    if not (folder / CALIBRATION).exists():
        shutil.copytree(asset_file(START), folder, dirs_exist_ok=True)
        texts = [text for source, _ in KINDS.values() for text in reviews(source)[-CALIBRATING:]]
        (folder / CALIBRATION).write_text(json.dumps(texts), encoding="utf-8")
    return folder


if __name__ == "__main__":
    main()
