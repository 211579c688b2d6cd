"""``lmwright export``: what is written says the same, to us and to the reference."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from lmwright.cli.main import main
from lmwright.models.core.ragged import pack
from lmwright.models.files.gguf import read_gguf
from lmwright.models.files.gguf_model import write_gguf_model
from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, language_model
from tests.cli.folders import change, folder_of
from tests.models.files.test_gguf_model import KIN, TOKENS, made
from tests.models.speaking import FAMILIES, speaking_folder

transformers = pytest.importorskip("transformers")

IDS = np.array([5, 9, 30, 2, 41, 7, 7])


def gguf_of(name: str, path: Path) -> str:
    """A tiny GGUF file with a chat template."""
    family, config = KIN[name]
    more = {**TOKENS, "tokenizer.chat_template": "{{ messages[0].content }}"}
    write_gguf_model(path, made(family, config), family, config, more, "F32")
    return str(path)


def logits(model: TextModel) -> torch.Tensor:
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
    assert after.described.stop_ids == before.described.stop_ids == (3,)
    assert after.described.template == before.described.template != ""
    reference = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        theirs = reference(torch.from_numpy(IDS)[None]).logits[0]
    torch.testing.assert_close(logits(ours), theirs, rtol=1e-4, atol=1e-4)
    assert reference.generation_config.eos_token_id == [3]
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer("&5")["input_ids"] == [5, 20]
    told = ours.tokenizer.special_text()  # to which a class may add its own
    assert told.items() <= tokenizer.special_tokens_map.items()


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


STEERED = {"forced_bos_token_id": 7, "bad_words_ids": [[5]], "suppress_tokens": [11, 5]}
STEERED |= {"decoder_start_token_id": 4, "eos_token_id": [2, 9], "pad_token_id": 1}
STEERED |= {"forced_eos_token_id": 2, "no_repeat_ngram_size": 3, "stop_strings": ["."]}


@pytest.mark.parametrize("kind", ["gpt2", "t5", "bart", "bart, steered"])
def test_a_folder_becomes_a_folder(kind, tmp_path, capsys):
    folder, out = folder_of(kind.split(",")[0], tmp_path / "in"), tmp_path / "deeper" / "out"
    if "steered" in kind:
        beside = {"generation_config.json": STEERED, "tokenizer_config.json": {"src_lang": "w8"}}
        for name, value in beside.items():
            (Path(folder) / name).write_text(json.dumps(value))
    assert main(["export", folder, str(out)]) == 0
    before, after = (read_published(str(each)) for each in (folder, out))
    assert before.spec == after.spec
    assert language_model(before).generation == language_model(after).generation
    assert before.tokenizer.roles == after.tokenizer.roles
    assert before.described.left == after.described.left
    if "steered" in kind:
        assert after.described.banned_ids == (5, 11) and after.described.forced_bos_id == 7
        assert after.tokenizer.roles["language"] == (8,)
        assert "language_token_id" not in json.loads((out / "config.json").read_text())
    for name, weight in before.weights.items():
        assert torch.equal(weight, after.weights[name]), name


def test_a_source_language_with_lines_round_it_is_said_without_them(tmp_path, capsys):
    """As M2M-100's own tokenizer wants it."""
    folder, out = folder_of("bart", tmp_path / "in"), tmp_path / "out"
    path = Path(folder) / "tokenizer.json"
    path.write_text(path.read_text().replace('"w8"', '"__fr__"'))
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"src_lang": "fr"}))
    assert main(["export", folder, str(out)]) == 0
    assert read_published(str(out)).tokenizer.roles["language"] == (8,)
    assert json.loads((out / "tokenizer_config.json").read_text())["src_lang"] == "fr"


def test_every_end_of_an_answer_goes_along(tmp_path, capsys):
    """The config's and, where that is another, the tokenizer's."""
    folder, out = folder_of("gpt2", tmp_path / "in"), tmp_path / "out"
    change(folder, eos_token_id=7)
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w2"}))
    assert main(["export", folder, str(out)]) == 0
    before, after = (language_model(read_published(str(each))) for each in (folder, out))
    assert before.stop_ids == after.stop_ids == (7, 2)


FAR = {"F32": 1e-5, "F16": 1e-2, "BF16": 1e-1, "Q8_0": 1e-1, "Q4_0": 1.0}
"""How far logits may move, as a share of their norm: by rounding weights to 24, 11, 8 bits, and to
8 and 4 in blocks."""


@pytest.mark.parametrize("form", FAR)
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_folder_becomes_a_gguf_file(name, form, tmp_path, capsys):
    folder, out = speaking_folder(name, tmp_path / "my model"), tmp_path / "out.gguf"
    assert main(["export", folder, str(out), "--as", form]) == 0
    before, after = (language_model(read_published(str(each))) for each in (folder, out))
    with torch.no_grad():
        left, right = (each.network(pack([IDS])) for each in (before, after))
    assert float((left - right).norm() / left.norm()) < FAR[form]
    if form == "F32" and name != "gemma3":  # whose gains are stored with one added
        assert torch.equal(left, right)
    texts = ["Say it's good, 12 times.", "  a\n\nb", "<extra> é 日本"]
    for text in texts:
        ids = before.prompt_ids(text).tolist()
        assert ids == after.prompt_ids(text).tolist()
        assert before.tokenizer.decode(ids) == after.tokenizer.decode(ids)
    messages = [{"role": "user", "content": "Hello <|im_end|>"}]
    assert before.chat_ids(messages).tolist() == after.chat_ids(messages).tolist()
    assert set(before.stop_ids) == set(after.stop_ids) and len(before.stop_ids) == 3
    assert read_gguf(out).metadata["general.name"] == "my model"


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_gguf_package_reads_what_a_folder_became(name, tmp_path, capsys):
    folder, out = speaking_folder(name, tmp_path / "in"), tmp_path / "out.gguf"
    assert main(["export", folder, str(out), "--as", "F32"]) == 0
    theirs, ours = gguf.GGUFReader(out), read_gguf(out)
    assert {each.name for each in theirs.tensors} == set(ours.tensors)
    for each in theirs.tensors:
        wanted = ours.tensor(each.name).numpy()
        assert np.array_equal(gguf.dequantize(each.data, each.tensor_type), wanted)
    for key, wanted in ours.metadata.items():
        found = theirs.fields[key].contents()
        assert found == (wanted.tolist() if isinstance(wanted, np.ndarray) else wanted), key
    template = theirs.fields["tokenizer.chat_template"].contents()
    assert template == read_published(folder).described.template


def test_a_folder_and_a_gguf_file_become_each_other(tmp_path, capsys):
    """Folder, file, folder, file: both files are the same bytes but for the model's name."""
    folder = speaking_folder("llama", tmp_path / "a")
    steps = [folder, *(str(tmp_path / each) for each in ("a.gguf", "b", "b.gguf"))]
    for left, right, form in zip(steps, steps[1:], ("F32", "folder", "F32"), strict=False):
        assert main(["export", left, right, "--as", form]) == 0
    first, last = (read_gguf(Path(each)) for each in (steps[1], steps[3]))
    assert first.metadata.keys() == last.metadata.keys()
    for key, value in first.metadata.items():
        assert key == "general.name" or np.array_equal(value, last.metadata[key]), key
    for name in first.tensors:
        assert np.array_equal(first.blocks(name), last.blocks(name)), name


def test_what_a_gguf_file_says_of_itself_goes_along(tmp_path, capsys):
    family, config = KIN["llama"]
    said = {"general.name": "Ours", "general.license": "mit", "general.tags": ["a", "b"]}
    more = {**TOKENS, **said, "general.alignment": 64}
    write_gguf_model(tmp_path / "x.gguf", made(family, config), family, config, more, "F32")
    out = tmp_path / "y.gguf"
    assert main(["export", str(tmp_path / "x.gguf"), str(out), "--as", "Q8_0"]) == 0
    metadata = read_gguf(out).metadata
    assert said.items() <= metadata.items() and "general.alignment" not in metadata
    assert metadata["general.file_type"] == 7


FAULTS = {
    "an unknown form": (["--as", "Q9_9"], "Q8_0"),
    "a family that GGUF files are not written of": (["--as", "Q8_0"], "gemma3_text, llama"),
}


def test_a_tokenizer_without_words_in_gguf_is_refused(tmp_path, capsys):
    folder = speaking_folder("llama", tmp_path / "in")
    path = Path(folder) / "tokenizer.json"
    described = json.loads(path.read_text("utf-8"))
    described["model"] = {
        "type": "WordLevel",
        "vocab": described["model"]["vocab"],
        "unk_token": "a",
    }
    path.write_text(json.dumps(described), "utf-8")
    assert main(["export", folder, str(tmp_path / "out.gguf"), "--as", "Q8_0"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "'WordLevel', which GGUF cannot tell" in told and "as a folder" in told
    assert [each.name for each in tmp_path.iterdir()] == ["in"]


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
