"""CTranslate2: the folder by its own converter, weights and activations in int8 or all in fp32."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.side import Tick

PACKAGES = {"ctranslate2": "ctranslate2", "transformers": "transformers"}
PRECISIONS = ("fp32", "int8")
TYPES = {"fp32": "float32", "int8": "int8"}


def prepare(folder: Path, made: Path, precision: str, threads: int) -> None:
    """Convert the folder."""
    from ctranslate2.converters import TransformersConverter

    shutil.rmtree(made)
    TransformersConverter(str(folder)).convert(str(made), quantization=TYPES[precision])


class Writer:
    """``Generator``, given tokens by their names."""

    def __init__(
        self, folder: Path, made: Path, precision: str, threads: int, asked: dict[str, Any]
    ) -> None:
        import ctranslate2
        import tokenizers

        self.names = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.settings = {"compute_type": TYPES[precision], "intra_threads": threads}
        self.generator = ctranslate2.Generator(str(made), device="cpu", **self.settings)
        self.weight_bytes = (made / "model.bin").stat().st_size

    def write(self, prompts: list[list[int]], new: int, tick: Tick) -> list[list[int]]:
        """Greedy tokens after each prompt."""
        found = self.generator.generate_batch(
            [[self.names.id_to_token(number) for number in prompt] for prompt in prompts],
            include_prompt_in_result=False,
            min_length=new,
            max_length=new,
            beam_size=1,
            callback=lambda step: bool(tick()) if step.batch_id == 0 else False,
        )
        return [each.sequences_ids[0] for each in found]
