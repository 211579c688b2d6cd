"""Two streams against the reference: an order of factorisation, and targets to be foretold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lmwright.cli.main import main
from lmwright.models.core.ragged import pack
from lmwright.models.family.family import to_ours
from lmwright.models.files.folder import read_folder, write_folder
from lmwright.models.network.network import build, fill
from lmwright.models.text_model import language_model
from lmwright.models.zoo.xlnet import FAMILY, two_streams
from tests.parity.harness import Case, documents, generated, in_double, reference, tensors_of

pytest.importorskip("transformers")

CONFIG = {
    "vocab_size": 61,
    "d_model": 24,
    "n_layer": 3,
    "n_head": 4,
    "d_inner": 36,
    "layer_norm_eps": 1e-3,
}
CASE = Case(FAMILY, "XLNetLMHeadModel", CONFIG, "lm")


def test_the_query_stream_equals_the_reference():
    model, rng = reference(CASE), np.random.default_rng(3)
    setting = two_streams(FAMILY.spec(CASE.settings))
    head, names = FAMILY.heads["lm"](CASE.settings, setting)
    network = build(setting, head)
    fill(network, to_ours([*FAMILY.weights(setting), *names], tensors_of(CASE, model)))
    texts = [rng.integers(4, 61, length) for length in (9, 4, 6, 4)]
    orders = [rng.permutation(len(text)) for text in texts]
    targets = [rng.permutation(len(text))[: 1 + len(text) // 3] for text in texts]
    order = list(range(len(texts)))
    batch = {
        "content": pack(texts, order=order, ranks=orders),
        "query": pack(
            [text[own] for text, own in zip(texts, targets, strict=True)],
            order=order,
            positions=targets,
            ranks=[ranks[own] for ranks, own in zip(orders, targets, strict=True)],
        ),
    }
    with torch.no_grad():
        found = batch["query"].by_document(network(batch))
        for text, ranks, own, ours in zip(texts, orders, targets, found, strict=True):
            hidden = torch.from_numpy(ranks[None, :] >= ranks[:, None])[None].double()
            mapping = torch.zeros(1, len(own), len(text), dtype=torch.float64)
            mapping[0, range(len(own)), own] = 1
            with in_double(True):
                wanted = model(
                    torch.from_numpy(text)[None], perm_mask=hidden, target_mapping=mapping
                ).logits[0]
            torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-10)


def test_segments_equal_the_reference():
    model, rng = reference(CASE), np.random.default_rng(4)
    setting = FAMILY.spec(CASE.settings)
    head, names = FAMILY.heads["lm"](CASE.settings, setting)
    network = build(setting, head)
    fill(network, to_ours([*FAMILY.weights(setting), *names], tensors_of(CASE, model)))
    texts = [rng.integers(4, 61, length) for length in (9, 4, 9)]
    segments = [np.sort(rng.integers(0, 2, len(text))) for text in texts]
    batch = pack(texts, segments=segments)
    with torch.no_grad():
        for text, own, ours in zip(texts, segments, batch.by_document(network(batch)), strict=True):
            with in_double(True):
                ids, kinds = torch.from_numpy(text)[None], torch.from_numpy(own)[None]
                wanted = model(ids, token_type_ids=kinds).logits[0]
            torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-10)


def folder(path: Path, model) -> Path:
    """What the reference writes, with words that a text can spell; <sep> and <cls> end a text."""
    model.save_pretrained(path)
    (path / "generation_config.json").unlink()
    words = {f"w{n}": n for n in range(59)} | {"<sep>": 59, "<cls>": 60}
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("<sep>", "<cls>")]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    made = {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "added_tokens": [
            {"id": words[name], "content": name, "special": True, **flags}
            for name in ("<sep>", "<cls>")
        ],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, *special],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, *special],
            "special_tokens": {
                name: {"id": name, "ids": [words[name]], "tokens": [name]}
                for name in ("<sep>", "<cls>")
            },
        },
    }
    (path / "tokenizer.json").write_text(json.dumps(made))
    return path


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_generated_tokens_equal_the_reference(tmp_path, beams, tied):
    """Without the reference's memory, in which a token never sees what came after it."""
    case = replace(CASE, config={**CONFIG, "use_mems_eval": False, "tie_word_embeddings": tied})
    model = reference(case, double=False)
    network = language_model(read_folder(folder(tmp_path, model))).network
    for prompt in documents(case)[:3]:
        left, right = generated(case, model, network, prompt, beams)
        assert left == right
        assert len(left) > 1


def test_the_command_line_generates_from_a_folder(tmp_path, capsys):
    """The prompt has no <sep> and <cls> behind it, as it goes on."""
    model = reference(replace(CASE, config={**CONFIG, "use_mems_eval": False}), double=False)
    path = folder(tmp_path / "one", model)
    prompt = torch.tensor([[5, 17, 30]])
    wanted = model.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=None)[0, 3:]
    words = " ".join(f"w{n}" if n < 59 else "" for n in wanted.tolist()).split()
    # Its config names an end (2), which ends our text.
    words = words[: words.index("w2")] if "w2" in words else words
    assert len(words) > 3
    for each in (path, tmp_path / "two"):
        capsys.readouterr()
        assert main(["generate", str(each), "w5 w17 w30", "--max-tokens", "8"]) == 0
        assert capsys.readouterr().out.split() == words
        if each == path:
            assert main(["export", str(path), str(tmp_path / "two")]) == 0


def test_a_folder_without_the_vector_of_what_is_asked_for_is_refused(tmp_path, capsys):
    case = replace(CASE, config=CONFIG)
    network = build(
        FAMILY.spec(case.settings), FAMILY.heads["lm"](case.settings, FAMILY.spec(CONFIG))[0]
    )
    path = folder(tmp_path, reference(case, double=False))
    shapes = {name: weight.shape for name, weight in network.named_parameters()}
    fill(network, {name: torch.zeros(shape) for name, shape in shapes.items()})
    write_folder(path, FAMILY, network, "lm")
    assert main(["generate", str(path), "w5"]) == 1
    assert "the model has no stacks.query.embedding.vector" in capsys.readouterr().err
