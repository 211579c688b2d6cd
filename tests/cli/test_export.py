"""``lmwright export``: what is written says the same, to us and to the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lmwright.cli.main import main
from lmwright.models.files.gguf import read_gguf
from lmwright.models.files.gguf_model import write_gguf_model
from lmwright.models.files.published import read_published
from lmwright.models.language import LanguageModel, language_model
from lmwright.models.ragged import pack
from tests.cli.folders import folder_of
from tests.models.test_gguf_model import KIN, TOKENS, made

transformers = pytest.importorskip("transformers")

IDS = np.array([5, 9, 30, 2, 41, 7, 7])


def gguf_of(name: str, path: Path) -> str:
    """A tiny GGUF file with a chat template."""
    family, config = KIN[name]
    more = {**TOKENS, "tokenizer.chat_template": "{{ messages[0].content }}"}
    write_gguf_model(path, made(family, config), family, config, more, "F32")
    return str(path)


def logits(model: LanguageModel) -> torch.Tensor:
    """Of each token of :data:`IDS`."""
    with torch.no_grad():
        return model.network(pack([IDS]))


@pytest.mark.parametrize("name", sorted(KIN))
def test_a_gguf_file_becomes_a_folder_that_the_reference_loads(name, tmp_path, capsys):
    address, out = gguf_of(name, tmp_path / "x.gguf"), tmp_path / "out"
    assert main(["export", address, str(out)]) == 0
    before, after = (read_published(str(each)) for each in (address, out))
    ours = language_model(before)
    assert torch.equal(logits(ours), logits(language_model(after)))
    assert after.described.ends == before.described.ends == (3,)
    assert after.described.template == before.described.template != ""
    reference = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        theirs = reference(torch.from_numpy(IDS)[None]).logits[0]
    torch.testing.assert_close(logits(ours), theirs, rtol=1e-4, atol=1e-4)
    assert reference.generation_config.eos_token_id == [3]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"))
    assert tokenizer("&5")["input_ids"] == [5, 20]


@pytest.mark.parametrize("form", ["F16", "Q8_0", "Q4_0"])
def test_a_gguf_file_is_written_in_another_form(form, tmp_path, capsys):
    address, out = gguf_of("qwen2", tmp_path / "x.gguf"), tmp_path / "y.gguf"
    assert main(["export", address, str(out), "--as", form]) == 0
    before, after = read_gguf(Path(address)), read_gguf(out)
    assert {each.format for each in after.tensors.values()} == {form, "F32"}
    kept = [key for key in before.metadata if key.startswith("tokenizer.")]
    assert len(kept) == len(TOKENS) + 1
    for key in kept:
        assert np.array_equal(before.metadata[key], after.metadata[key]), key
    left, right = (logits(language_model(read_published(str(each)))) for each in (address, out))
    far = {"F16": 1e-2, "Q8_0": 1e-1, "Q4_0": 1.0}[form]
    assert 0 < float((left - right).norm() / left.norm()) < far


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_folder_becomes_a_folder(kind, tmp_path, capsys):
    folder, out = folder_of(kind, tmp_path / kind), tmp_path / "deeper" / "out"
    assert main(["export", folder, str(out)]) == 0
    before, after = (read_published(str(each)) for each in (folder, out))
    assert before.spec == after.spec and before.described.start == after.described.start
    assert before.described.ends == after.described.ends
    for name, weight in before.weights.items():
        assert torch.equal(weight, after.weights[name]), name


FAULTS = {
    "an unknown form": (["--as", "Q9_9"], "Q8_0"),
    "a folder's tokenizer": (["--as", "Q8_0"], "folder"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_cannot_be_written_is_refused(case, tmp_path, capsys):
    folder, (more, told) = folder_of("gpt2", tmp_path / "in"), FAULTS[case]
    assert main(["export", folder, str(tmp_path / "out"), *more]) == 1
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert [each.name for each in tmp_path.iterdir()] == ["in"]


def test_nothing_is_written_over(tmp_path, capsys):
    folder = folder_of("gpt2", tmp_path / "in")
    (tmp_path / "out").write_text("mine")
    assert main(["export", folder, str(tmp_path / "out")]) == 1
    assert "there already" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"
