"""``tie_word_embeddings``, said and denied, of every family that has a head of tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmwright.core.errors import BadInput
from lmwright.models.files.folder import read_folder, write_folder
from lmwright.models.network.network import build, fill
from lmwright.models.zoo import bart
from lmwright.tables import FAMILIES
from tests.parity import test_decoders, test_encoders, test_families, test_seq2seq
from tests.parity.every import (  # noqa: F401
    test_a_folder_that_the_reference_wrote_is_read,
    test_logits_equal_the_reference,
    test_the_reference_reads_what_is_written,
)
from tests.parity.harness import Case, compare, logits_of_reference, ours, reference, specs
from tests.parity.test_decoders import exact_gelu  # noqa: F401

transformers = pytest.importorskip("transformers")

ELSEWHERE = {"megatron", "palm", "lamda", "glam", "elmo", "gemma3"}
"""In ``test_papers``, ``test_recurrent`` and ``test_larger``."""


def language_models() -> dict[str, Case]:
    """The first language model of each family."""
    found: dict[str, Case] = {}
    for module in (test_families, test_decoders, test_encoders, test_seq2seq):
        for case in module.CASES.values():
            if case.head == "lm":
                found.setdefault(case.family.name, case)
    return found


CASES = {
    f"{name}, {'tied' if tied else 'apart'}": replace(
        case, config={**case.config, "tie_word_embeddings": tied}
    )
    for name, case in language_models().items()
    for tied in (True, False)
}


def test_every_family_is_here():
    assert set(language_models()) == set(FAMILIES) - ELSEWHERE


def test_the_other_state_is_noticed(case: Case) -> None:
    """Of T5 the reference knows one state only."""
    tied = not case.config["tie_word_embeddings"]
    other = replace(case, config={**case.config, "tie_word_embeddings": tied})
    model, wrong = reference(case), specs(other)
    if case.family.name != "t5":
        assert bool(wrong[1].share) == tied
    assert wrong != specs(case)
    with torch.no_grad():
        wanted = logits_of_reference(case, model, test_decoders.documents(case))
    with pytest.raises((AssertionError, RuntimeError)):
        compare(case, model, ours(case, model, wrong), wanted)


def test_a_t5_with_a_map_of_its_own_equals_the_reference(tmp_path: Path) -> None:
    """Published so, with a config that denies it to be tied (T5 1.1 and what came of it); the
    reference ties it whatever the file holds, so it is given the file's map."""
    case = test_families.CASES["t5, gated"]
    model = reference(case, double=False)
    model.save_pretrained(tmp_path)
    path, generator = tmp_path / "model.safetensors", torch.Generator().manual_seed(8)
    tensors = load_file(path)
    tensors["lm_head.weight"] = torch.randn(tensors["shared.weight"].shape, generator=generator)
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    del config["scale_decoder_outputs"]
    config["tie_word_embeddings"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").unlink()
    shape = {"vocab": {"w0": 0}, "type": "WordLevel", "unk_token": "w0"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": shape}))
    found = read_folder(tmp_path)
    head, own = found.heads["lm"]
    assert (head.share, head.scale) == ("", 1.0)
    network = build(found.spec, head)
    fill(network, {**found.weights, **own})
    again = transformers.T5ForConditionalGeneration.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    again.lm_head.weight = torch.nn.Parameter(tensors["lm_head.weight"])
    compare(case, again, network)


def test_a_head_of_its_own_over_one_table_for_both_sides_is_refused(tmp_path: Path) -> None:
    """No config of these families says it."""
    setting = bart.spec(test_families.BART)
    head = bart.FAMILY.heads["lm"]({"tie_word_embeddings": False}, setting)[0]
    with pytest.raises(BadInput, match="does not go with how many tables"):
        write_folder(tmp_path / "out", bart.FAMILY, build(setting, head), "lm")
    assert not (tmp_path / "out").exists()
