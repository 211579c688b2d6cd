"""Models that were saved in the first format, by code that no longer exists, are read as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmwright.core.errors import BadInput
from lmwright.models.core import spec
from lmwright.models.core.spec import read_head, read_spec
from lmwright.models.files.folder import read_folder, write_folder
from lmwright.models.files.old_format import FIELDS, VALUES, current_part, current_weight
from lmwright.models.files.weights import read_tensors, write_tensors
from lmwright.models.load import load_predictor
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import build
from lmwright.models.text_model import TextPredictor, from_published
from lmwright.models.zoo import lamda, palm
from lmwright.tables import resolve
from lmwright.tasks.text_classification import TextClassification
from lmwright.text.tokenizer import read_tokenizer

OLD = Path(__file__).parents[1] / "old"
FAMILIES = sorted(path.stem for path in OLD.glob("*.json") if path.stem != "every_op")


def read(name: str) -> dict[str, Any]:
    return json.loads((OLD / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_old_spec_and_head_are_those_of_the_family_today(name):
    old = read(name)
    family = resolve("families", old["family"])
    wanted = family.spec(old["config"])
    wanted = family.generation_spec(wanted) if old["writes"] else wanted
    assert read_spec(current_part(old["spec"]), name) == wanted
    head = None
    if old["head"] is not None:
        head = family.heads[old["head_name"]](old["config"], wanted)[0]
        assert read_head(current_part(old["head"]), name) == head
    today = [weight for weight, _ in build(wanted, head).named_parameters()]
    assert sorted(map(current_weight, old["weights"])) == sorted(today)


def test_every_op_of_the_old_format_is_read():
    """All old names of fields and values stand in these, and none of today's is at its default."""
    old = read("every_op")
    found = read_spec(current_part(old["spec"]), "here")
    head = read_head(current_part(old["head"]), "here")
    encoder, decoder = found.stacks
    (convolution, recurrent, backward), (parallel, experts, projection) = encoder.layers
    (alibi, cross), (permuted, query) = decoder.layers
    norm = spec.Norm(eps=1e-3)
    assert (found.outputs_from, found.scalar_mix) == (("decoder", "encoder"), True)
    assert found.context_length == 18
    assert encoder.output_dropout and not decoder.output_dropout
    assert encoder.embedding.default_segment == "none"
    assert (convolution.pre_norm, convolution.stochastic_depth) == (norm, 0.2)
    assert (recurrent.branch_norm, recurrent.op.bidirectional) == (norm, True)
    assert (backward.post_norm, backward.op.backward) == (norm, True)
    attention, feed_forward = parallel.op.branches
    assert (attention.pre_norm, feed_forward.pre_norm) == (norm, None)
    assert (attention.op.mask, attention.op.logit_softcap) == ("prefix", 2.0)
    assert attention.op.positions.layout == "interleaved"
    assert feed_forward.op.inner_dropout and feed_forward.op.activation == "silu"
    routed = experts.op
    assert (routed.top_k, routed.softmax_over_top_k, routed.aux_loss_coef) == (2, True, 0.5)
    assert projection.op.activation == "tanh"
    assert alibi.op.positions == spec.ALiBi(slopes=(0.5, 0.25, 0.125, 0.0625))
    bias = spec.T5Bias(buckets=8, max_distance=10, bidirectional=True, share="d")
    assert (cross.op.mask, cross.op.cross_attends, cross.op.positions) == ("full", "encoder", bias)
    assert permuted.op.mask == "permutation"
    assert permuted.op.positions == spec.TransformerXL(segments=True)
    assert (query.op.mask, query.op.each_layer) == ("permutation_strict", True)
    assert (head.logit_softcap, head.dense.activation) == (3.0, "gelu_tanh")
    today = [weight for weight, _ in build(found, head).named_parameters()]
    assert sorted(map(current_weight, old["weights"])) == sorted(today)


def test_the_old_files_have_every_old_name():
    """Or a name of the tables would never be tried."""
    text = (OLD / "every_op.json").read_text("utf-8")
    for name in (*FIELDS, "drops"):
        assert f'"{name}": ' in text, name
    for field, values in VALUES.items():
        old = next((was for was, now in FIELDS.items() if now == field), field)
        for value in values:
            if value != "halves":  # the files of the families have it
                assert f'"{old}": "{value}"' in text, (field, value)
    assert '"partners": "halves"' in (OLD / "gemma3.json").read_text("utf-8")


def test_what_is_no_spec_stays_what_it_is():
    for value in (None, 3, "before", [1, None], {"op": ["feed_forward"]}):
        assert current_part(value) == value


def test_maps_that_were_no_linears_are_read_under_their_former_names(published, tmp_path):
    config = {"vocab_size": 12, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4}
    network = build(lamda.glam({**config, "num_hidden_layers": 1, "num_experts": 3}))
    initialise(network, seed=1)
    tokenizer = read_tokenizer(published / "tokenizer.json")
    write_folder(tmp_path / "glam", lamda.GLAM, network, tokenizer=tokenizer)
    path = tmp_path / "glam" / "model.safetensors"
    tensors = read_tensors(path)
    experts = {n.removesuffix(".weight") for n, each in tensors.items() if each.ndim == 3}
    assert len(experts) == 2
    former = {
        n.removesuffix(".weight") if each.ndim == 3 else n: each for n, each in tensors.items()
    }
    write_tensors(path, former)
    assert read_folder(tmp_path / "glam").weights.keys() == tensors.keys()
    assert {current_weight(name) for name in former} == tensors.keys()


@pytest.fixture
def old_model(published: Path, tmp_path: Path) -> tuple[TextPredictor, Path]:
    """A classifier as it is today, and its folder as the first format had it."""
    read_back = read_folder(published)
    head = spec.Head(pool="mean", outputs=2, dense=spec.Dense(outputs=6, activation="tanh"))
    model = TextPredictor(
        TextClassification(labels=("bad", "good")), from_published(read_back, head, 12, seed=3)
    )
    folder = tmp_path / "saved"
    model.save(folder)
    before = {new: old for old, new in FIELDS.items()}
    description = json.loads((folder / "model.json").read_text("utf-8"))
    assert description.pop("format") == 2
    description["kind"], task = "encoder", description.pop("task")
    description["labels"] = task["labels"]
    description.pop("roles")

    def aged(value: Any) -> Any:
        if isinstance(value, list):
            return [aged(each) for each in value]
        if not isinstance(value, dict):
            return value
        found = {before.get(name, name): aged(each) for name, each in value.items()}
        for name in ("inner_dropout", "output_dropout"):
            if name in found:
                found["drops"] = found.pop(name)
        return {**found, "sees": "all"} if "sees" in found else found

    description |= {name: aged(description[name]) for name in ("spec", "head")}
    (folder / "model.json").write_text(json.dumps(description))
    tensors = read_tensors(folder / "model.safetensors")
    renamed = {name.replace(".post_norm.", ".after."): each for name, each in tensors.items()}
    assert renamed.keys() != tensors.keys()
    write_tensors(folder / "model.safetensors", renamed)
    return model, folder


def test_an_old_folder_gives_the_same_logits_and_is_saved_in_todays_format(old_model, tmp_path):
    model, folder = old_model
    again = load_predictor(folder)
    items = model.prepare([{"text": "a fine film"}, {"text": "dull"}])
    assert np.array_equal(again.answers(items)["logits"], model.answers(items)["logits"])
    assert again.model.network.spec == model.model.network.spec
    model.save(tmp_path / "one")
    again.save(tmp_path / "two")
    for name in ("model.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("number", [3, "2", None])
def test_a_format_that_is_not_known_is_refused(old_model, number):
    _, folder = old_model
    description = json.loads((folder / "model.json").read_text("utf-8"))
    (folder / "model.json").write_text(json.dumps({**description, "format": number}))
    with pytest.raises(BadInput, match="format"):
        load_predictor(folder)


def test_old_fields_are_refused_in_todays_format(old_model):
    _, folder = old_model
    description = json.loads((folder / "model.json").read_text("utf-8"))
    (folder / "model.json").write_text(json.dumps({**description, "format": 2}))
    with pytest.raises(BadInput, match=r"embedding\.unsaid"):
        load_predictor(folder)


def test_a_folder_with_our_own_old_names_of_weights_is_read(published, tmp_path):
    """Of a family without published weights."""
    config = {"vocab_size": 12, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4}
    network = build(palm.spec({**config, "num_hidden_layers": 1}))
    initialise(network, seed=1)
    tokenizer = read_tokenizer(published / "tokenizer.json")
    write_folder(tmp_path / "palm", palm.FAMILY, network, tokenizer=tokenizer)
    path = tmp_path / "palm" / "model.safetensors"
    tensors = read_tensors(path)
    write_tensors(path, {n.replace(".pre_norm.", ".before."): each for n, each in tensors.items()})
    found = read_folder(tmp_path / "palm").weights
    assert found.keys() == tensors.keys()
    assert all(bool((found[name] == each).all()) for name, each in tensors.items())
