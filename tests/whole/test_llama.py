"""llama.cpp, built here from source, reads our files: the same ids, logits and greedy tokens."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from lmwright.models.core.ragged import pack
from lmwright.models.files.export import FOLDER, export_model
from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, language_model
from lmwright.text.tokenizer import well_formed
from tests.models.speaking import FAMILIES, real_lines, speaking_folder
from tests.parity.test_real import GEMMA
from tests.text.lines import ODD
from tests.whole.llama import Answer, ask, built

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]  # the first one builds llama.cpp

FAR = {"F32": 1e-5, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 5e-2, "Q4_0": 5e-2}
"""How far logits may lie from ours on the same weights, as a share of their norm.

llama.cpp brings what is multiplied with a matrix to the precision of the matrix: fp16 keeps 11
bits, bf16 8; for Q8_0 and Q4_0 each 32 neighbours become whole numbers up to 127 times a scale,
which is wrong by about half a percent of their spread in each product. A network is some ten such
products, one after another.
"""
TABLE = 1e-3
"""The same for F32 where the activation is GELU, of which llama.cpp has a table in fp16."""
TOKENS, GEMMA_TOKENS = 64, 48
MOST_TIES = 8
CASES = [
    *(("llama", form) for form in FAR),
    *((name, form) for name in FAMILIES if name != "llama" for form in ("F32", "Q8_0")),
]


@pytest.fixture(scope="module")
def package() -> Path:
    """llama.cpp's Python package."""
    return built()


def texts(name: str) -> list[str]:
    """Real lines and odd ones, but for those that llama.cpp is known to read otherwise.

    It has no NUL, does not compose characters for Qwen2, and takes U+2581 that a text spells
    itself for another character than a space of its own.
    """
    found = [well_formed(line) for line in ODD if "\0" not in line and "▁" not in line]
    found += [*real_lines()[1], "a<extra>b <extra>", "<|im_end|>x"]
    if name == "qwen2":
        found = [line for line in found if unicodedata.is_normalized("NFC", line)]
    return found


def compare(ours: TextModel, prompt: np.ndarray, theirs: Answer, far: float) -> list[int]:
    """Hold their steps against our decoder's on what they wrote; returns the places of ties.

    A tie is a token that ours would not have taken, whose logit lies within twice ``far`` spreads
    of the best.
    """
    whole = np.concatenate([prompt, theirs.tokens]).astype(np.int64)
    with torch.inference_mode():
        logits = ours.network(pack([whole]))[len(prompt) - 1 : -1].numpy()
    norm = np.linalg.norm(logits - logits.mean(axis=1, keepdims=True))
    print("logits differ by", distance := np.linalg.norm(theirs.logits - logits) / norm)
    assert distance < far
    ties = []
    for place, (row, token) in enumerate(zip(logits, theirs.tokens, strict=True)):
        if int(row.argmax()) != token:
            assert row.max() - row[token] < 2 * far * row.std(), place
            ties.append(place)
    print("ties at", ties)
    return ties


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_tiny_folder_speaks_in_llama_cpp_as_here(package, name, form, tmp_path):
    folder = speaking_folder(name, tmp_path / "in")
    export_model(folder, tmp_path / "x.gguf", form)
    before = language_model(read_published(folder))
    after = language_model(read_published(str(tmp_path / "x.gguf")))
    prompt = before.prompt_ids("The best thing about this")
    theirs = ask(package, tmp_path / "x.gguf", texts(name), prompt, TOKENS)
    far = TABLE if (name, form) == ("gemma3", "F32") else FAR[form]
    assert len(compare(after, prompt, theirs, far)) <= MOST_TIES
    assert len(set(theirs.tokens)) > 2
    lines = texts(name)
    wanted = [each.tolist() for each in before.tokenizer.encode(lines, 10**6)]
    assert [t for t, a, b in zip(lines, theirs.ids, wanted, strict=True) if a != b] == []
    assert theirs.ends == set(before.stop_ids)
    assert theirs.template == read_published(folder).described.template


def test_gemma_speaks_in_llama_cpp_as_here(package, tmp_path):
    """Real weights by way of a folder: 4-bit file, folder in fp32, file in Q8_0."""
    export_model(GEMMA, tmp_path / "folder", FOLDER)
    export_model(str(tmp_path / "folder"), tmp_path / "x.gguf", "Q8_0")
    ours = language_model(read_published(str(tmp_path / "x.gguf")))
    lines = texts("gemma3")
    prompt = ours.prompt_ids("The best thing about this film is")
    theirs = ask(package, tmp_path / "x.gguf", lines, prompt, GEMMA_TOKENS)
    assert len(compare(ours, prompt, theirs, FAR["Q8_0"])) <= MOST_TIES
    wanted = [each.tolist() for each in ours.tokenizer.encode(lines, 10**6)]
    assert [t for t, a, b in zip(lines, theirs.ids, wanted, strict=True) if a != b] == []
    assert theirs.ends >= set(ours.stop_ids)  # theirs knows one more by its name, </s>
