"""The text of models of more than text, from folders that the reference wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lmwright.cli.main import main
from lmwright.core.errors import BadInput, Corrupt
from lmwright.models.core.ragged import pack
from lmwright.models.files.folder import read_folder
from lmwright.models.text_model import language_model
from lmwright.models.zoo import gemma3
from tests.parity.test_decoders import GEMMA3

transformers = pytest.importorskip("transformers")

VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
VISION |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
TOKENS = {"image_token_index": 60, "boi_token_index": 59, "eoi_token_index": 58}
WEIGHTS = "model.safetensors"


def written(folder: Path, tied: bool = True):
    """A tiny model of text and images, its weights drawn wide, written by the reference."""
    config = transformers.Gemma3Config(
        text_config={**GEMMA3, "eos_token_id": None},
        vision_config=VISION,
        mm_tokens_per_image=4,
        tie_word_embeddings=tied,
        attn_implementation="eager",
        **TOKENS,
    )
    model = transformers.Gemma3ForConditionalGeneration(config).float().eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    model.tie_weights()
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    words = {"vocab": {f"w{n}": n for n in range(58)}, "type": "WordLevel", "unk_token": "w0"}
    split = {"type": "Whitespace"}
    made = {"version": "1.0", "model": words, "pre_tokenizer": split}
    (folder / "tokenizer.json").write_text(json.dumps(made))
    return model


def as_of_today(folder: Path) -> None:
    """The tensors' names as the reference has them in memory."""
    tensors = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        inside = name.replace("language_model.model.", "language_model.")
        other = name.startswith(("lm_head.", "language_model.lm_head."))
        tensors["lm_head.weight" if other else f"model.{inside}"] = tensor
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def compare(model, folder: Path) -> None:
    """Logits of texts, to five digits."""
    network = language_model(read_folder(folder)).network
    rng = np.random.default_rng(3)
    texts = [rng.integers(4, 58, length) for length in (1, 2, 4, 5, 12)]
    batch = pack(texts)
    with torch.no_grad():
        for text, ours in zip(texts, batch.by_document(network(batch)), strict=True):
            wanted = model(torch.from_numpy(text)[None]).logits[0]
            torch.testing.assert_close(ours, wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("today", [True, False])
def test_the_text_of_gemma_3_equals_the_reference(tmp_path, tied, today):
    model = written(tmp_path, tied)
    if today:
        as_of_today(tmp_path)
    compare(model, tmp_path)
    found = read_folder(tmp_path)
    assert found.family is gemma3.WITH_IMAGES
    assert found.spec == gemma3.FAMILY.spec(GEMMA3)
    assert (found.described.heads["lm"].share == "tokens") == tied


def test_images_are_left_unread_and_it_is_said(tmp_path, capsys):
    """Numbers that no network can have are not looked at."""
    model = written(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    for name, tensor in tensors.items():
        if name.startswith(gemma3.VISION):
            tensors[name] = torch.full_like(tensor, torch.nan)
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    compare(model, tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    assert "not read: its part for images" in capsys.readouterr().out
    assert main(["generate", str(tmp_path), "w5 w17 w30", "--max-tokens", "5"]) == 0
    told = capsys.readouterr()
    assert "not read: its part for images" in told.err
    prompt = torch.tensor([[5, 17, 30]])
    wanted = model.generate(prompt, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert told.out.split() == [f"w{number}" for number in wanted[0, 3:].tolist()]


def test_it_is_written_as_text_alone(tmp_path):
    model = written(tmp_path / "both")
    assert main(["export", str(tmp_path / "both"), str(tmp_path / "text")]) == 0
    again, loading = transformers.Gemma3ForCausalLM.from_pretrained(
        tmp_path / "text", output_loading_info=True, attn_implementation="eager"
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert json.loads((tmp_path / "text" / "config.json").read_text())["model_type"] == (
        "gemma3_text"
    )
    text = torch.tensor([[5, 17, 30, 8, 9]])
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(text).logits, model(text).logits)


def test_a_folder_that_lacks_its_text_is_refused(tmp_path):
    written(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "text_config": 5}))
    with pytest.raises(BadInput, match="has no text_config"):
        read_folder(tmp_path)
    path.write_text(json.dumps(config))
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors["language_model.model.norm.weight"]
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(Corrupt, match=r"missing norm\.weight"):
        read_folder(tmp_path)
