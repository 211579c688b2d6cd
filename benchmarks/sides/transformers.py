"""transformers' ``generate``, eager, all in fp32 or all in bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.side import Tick

PACKAGES = {"transformers": "transformers", "torch": "torch"}
PRECISIONS = ("fp32", "bf16")


class Writer:
    """A causal language model with its default cache and attention."""

    cache: str | None = None

    def __init__(
        self, folder: Path, made: Path, precision: str, threads: int, asked: dict[str, Any]
    ) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.weight_bytes = sum(each.nbytes for each in self.model.parameters())
        attention = self.model.config._attn_implementation
        self.settings = {"dtype": str(dtype), "threads": threads, "attention": attention}

    def write(self, prompts: list[list[int]], new: int, tick: Tick) -> list[list[int]]:
        """Greedy tokens after each prompt."""
        import torch

        ids = torch.tensor(prompts)
        whole = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=new,
            max_new_tokens=new,
            cache_implementation=self.cache,
            # It shows the steps of one text alone.
            streamer=Ticking(tick) if len(prompts) == 1 else None,
        )
        return whole[:, ids.shape[1] :].tolist()


class Ticking:
    """A streamer that tells of each step; the first ``put`` is the prompt's."""

    def __init__(self, tick: Tick) -> None:
        self.tick, self.begun = tick, False

    def put(self, value: Any) -> None:
        """A token is there."""
        if self.begun:
            self.tick()
        self.begun = True

    def end(self) -> None:
        """Nothing is left to tell."""
