"""What every case of every family is held to; a module imports these and says its ``CASES``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from lmwright.models.files.folder import read_folder, write_folder
from tests.parity.harness import (
    Case,
    compare,
    compare_gradients,
    compare_losses,
    documents,
    generated,
    logits_of_reference,
    mutations,
    ours,
    reference,
    specs,
)

SAID = ("id2label", "label2id", "pad_token_id", "bos_token_id", "eos_token_id")
SAID += ("scale_decoder_outputs", "final_logit_softcapping")
"""What a config says beside the network."""


def test_logits_equal_the_reference(case: Case) -> None:
    model = reference(case)
    compare(case, model, ours(case, model))


def test_gradients_equal_the_reference(case: Case) -> None:
    model = reference(case)
    network = ours(case, model)
    compare_gradients(case, model, network)
    if case.head in ("lm", "classify"):
        compare_losses(case, model, network)


def test_logits_equal_the_reference_in_single_precision(case: Case) -> None:
    model = reference(case, double=False)
    compare(case, model, ours(case, model))


def test_every_wrong_spec_is_noticed(case: Case) -> None:
    """Of other heads than a language model's the head alone: the body is that one's."""
    model, whole = reference(case), case.head == "lm"
    wrongs = {
        what: wrong
        for what, wrong in mutations(specs(case), case.unseen).items()
        if whole or what.startswith("1.")
    }
    with torch.no_grad():
        wanted = logits_of_reference(case, model, documents(case))
    unnoticed = []
    for what, wrong in wrongs.items():
        try:
            compare(case, model, ours(case, model, wrong), wanted)
        except (AssertionError, RuntimeError, IndexError):
            continue
        unnoticed.append(what)
    assert not unnoticed
    assert len(wrongs) >= (10 if whole else 2)


def test_the_config_written_is_read_back(case: Case) -> None:
    right = case.family.spec(case.settings)
    written = json.loads(json.dumps(case.family.config(right)))
    assert case.family.spec(written) == right


def test_a_folder_that_the_reference_wrote_is_read(case: Case, tmp_path: Path) -> None:
    model = reference(case, double=False)
    model.save_pretrained(tmp_path)
    # It names special tokens of the full vocabulary, which the tiny one lacks.
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    words = {f"w{number}": number for number in range(4)}
    (tmp_path / "tokenizer.json").write_text(Tokenizer(WordLevel(words, "w0")).to_str())
    found, network = read_folder(tmp_path), ours(case, model)
    head, own = found.heads[case.head]
    assert (found.spec, head) == (network.spec, network.head_spec)
    read = found.weights | own
    for name, weight in network.named_parameters():
        assert torch.equal(read.pop(name), weight), name
    assert not read


def test_the_reference_reads_what_is_written(case: Case, tmp_path: Path) -> None:
    """Into its own class, no weight missing or left over, with equal logits."""
    import transformers

    model = reference(case, double=False)
    network = ours(case, model)
    said = {name: case.settings[name] for name in SAID if name in case.settings}
    write_folder(tmp_path, case.family, network, case.head, said=said)
    routed = any("expert" in name for name in case.settings)
    more = {"experts_implementation": "eager"} if routed else {}
    again, loading = getattr(transformers, case.model).from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager", dtype="float32", **more
    )
    prefix, unread = case.family.prefix, case.family.unread
    missing = [name.removeprefix(prefix) for name in loading["missing_keys"]]
    assert not [name for name in missing if not name.startswith(unread)]
    assert not loading["unexpected_keys"]
    compare(case, again.eval(), network)


@pytest.mark.parametrize("beams", [1, 3])
def test_generated_tokens_equal_the_reference(generating: Case, beams: int) -> None:
    model = reference(generating)
    network = ours(generating, model)
    for prompt in documents(generating)[:3]:
        left, right = generated(generating, model, network, prompt, beams)
        assert left == right
        assert len(left) > 1
