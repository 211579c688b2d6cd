"""Model folders: read as they were written, and refused by name when they are not."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmwright.core.errors import BadInput, Corrupt, LmwrightError
from lmwright.models.core.spec import Head
from lmwright.models.files.folder import describe_folder, read_folder, write_folder
from lmwright.models.files.weights import read_tensors
from lmwright.models.load import load_predictor
from lmwright.models.network.network import build, fill
from lmwright.models.text_model import TextPredictor, from_published
from lmwright.models.zoo.bert import FAMILY, SIZES, sized, spec
from lmwright.tasks.text_classification import TextClassification
from tests.models.conftest import CONFIG, change_config

WEIGHTS = "model.safetensors"
LABELS = ("bad", "good")


def rewrite(folder: Path, change) -> None:
    """Change the tensors of a folder."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def refused(folder: Path, kind: type[LmwrightError], *words: str) -> None:
    """Reading the folder fails with that kind of error, which names these words."""
    with pytest.raises(kind) as caught:
        read_folder(folder)
    for word in words:
        assert word in str(caught.value)


def test_a_folder_is_read_as_it_was_written(published, tmp_path):
    found = read_folder(published)
    assert found.spec == spec(CONFIG)
    network = build(found.spec)
    fill(network, found.weights)
    write_folder(tmp_path / "again", FAMILY, network)
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_a_config_comes_back_from_its_spec(size):
    assert spec(FAMILY.config(sized(size))) == sized(size)


def test_a_checkpoint_with_a_head_and_prefix_is_read(published):
    def add_head(tensors):
        for name in list(tensors):
            tensors[f"bert.{name}"] = tensors.pop(name)
        tensors["bert.pooler.dense.weight"] = torch.ones(8, 8)
        tensors["bert.pooler.dense.bias"] = torch.ones(8)
        tensors["classifier.weight"] = torch.ones(2, 8)
        tensors["classifier.bias"] = torch.ones(2)

    rewrite(published, add_head)
    assert sorted(read_folder(published).heads["classify"][1]) == [
        "head.dense.bias",
        "head.dense.weight",
        "head.out.bias",
        "head.out.weight",
    ]


def test_the_former_names_of_a_norm_are_read(published):
    def rename(tensors):
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            tensors[old.replace("LayerNorm.bias", "LayerNorm.beta")] = tensors.pop(name)

    before = read_folder(published).weights
    rewrite(published, rename)
    after = read_folder(published).weights
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_half_precision_becomes_fp32(published):
    def halve(tensors):
        for name in tensors:
            tensors[name] = tensors[name].to(torch.bfloat16)

    rewrite(published, halve)
    assert {each.dtype for each in read_folder(published).weights.values()} == {torch.float32}


def test_one_tensor_in_double_precision_becomes_fp32(published):
    """As the others are: a network of two precisions computes nothing."""
    name = "encoder.layer.0.output.dense.weight"
    rewrite(published, lambda tensors: tensors.update({name: tensors[name].double()}))
    assert {each.dtype for each in read_folder(published).weights.values()} == {torch.float32}

    def beyond(tensors):
        tensors[name] = torch.full_like(tensors[name], 1e300, dtype=torch.float64)

    rewrite(published, beyond)
    refused(published, Corrupt, name, "infinity")


@pytest.mark.parametrize("kind", [torch.int32, torch.int8, torch.bool])
@pytest.mark.parametrize("name", ["bert.encoder.layer.1.output.dense.bias", "classifier.weight"])
def test_weights_that_are_no_floating_point_numbers_are_named(published, name, kind):
    """Of the body and of a head; what is no weight may be anything."""

    def change(tensors):
        for each in list(tensors):
            tensors[f"bert.{each}"] = tensors.pop(each)
        tensors["bert.embeddings.position_ids"] = torch.arange(16)
        tensors |= {"classifier.weight": torch.ones(2, 8), "classifier.bias": torch.ones(2)}
        tensors["bert.pooler.dense.weight"] = torch.ones(8, 8)
        tensors["bert.pooler.dense.bias"] = torch.ones(8)

    rewrite(published, change)
    assert "classify" in read_folder(published).heads
    rewrite(published, lambda tensors: tensors.update({name: tensors[name].to(kind)}))
    refused(published, Corrupt, name.removeprefix("bert."), str(kind).removeprefix("torch."))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "model.ckpt"])
def test_a_pickle_is_refused_unopened(published, name):
    """The file is a named pipe: whoever opened it would wait for ever."""
    import os

    (published / WEIGHTS).unlink()
    os.mkfifo(published / name)
    refused(published, BadInput, name, "pickle", "safetensors")


def test_remote_code_is_refused(published):
    change_config(published, auto_map={"AutoModel": "modeling.Model"})
    refused(published, BadInput, "auto_map")


@pytest.mark.parametrize("method", ["fp8", "bitsandbytes", "gptq"])
def test_quantised_weights_are_named(published, method):
    change_config(published, quantization_config={"quant_method": method})
    assert describe_folder(published).quantised == f"quantised by {method}"
    refused(published, BadInput, "config.json", f"quantised by {method}", "fp32, fp16 or bf16")


def test_another_family_is_refused_and_none_suggested_but_for_swapped_letters(published):
    """A name that is merely near is another family's."""
    change_config(published, model_type="qwen3")
    refused(published, BadInput, "'qwen3'", "take a model of one of these", "qwen2")
    change_config(published, model_type="brat")
    refused(published, BadInput, "'brat'", "did you mean 'bart'")


def test_a_missing_folder_and_config(published, tmp_path):
    refused(tmp_path / "nowhere", BadInput, "no config.json")
    (published / "config.json").write_text("{")
    refused(published, Corrupt, "config.json")


def test_an_unknown_activation_is_refused(published):
    change_config(published, hidden_act="mish")
    refused(published, BadInput, "config.json", "mish")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_refused(published, keep):
    data = (published / WEIGHTS).read_bytes()
    (published / WEIGHTS).write_bytes(data[:keep])
    refused(published, Corrupt, WEIGHTS)


def test_missing_weights_are_refused(published):
    (published / WEIGHTS).unlink()
    refused(published, BadInput, WEIGHTS)


def test_a_missing_tensor_is_named(published):
    rewrite(published, lambda tensors: tensors.pop("encoder.layer.1.output.dense.bias"))
    refused(published, Corrupt, "missing encoder.layer.1.output.dense.bias")


def test_an_extra_tensor_is_named(published):
    rewrite(published, lambda tensors: tensors.update({"encoder.layer.2.x": torch.ones(1)}))
    refused(published, Corrupt, "not expected encoder.layer.2.x")


def test_a_wrong_shape_is_named(published):
    change_config(published, vocab_size=13)
    refused(published, Corrupt, "embeddings.word_embeddings.weight", "(12, 8)", "(13, 8)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(published, value):
    def spoil(tensors):
        tensors["encoder.layer.0.output.dense.bias"][3] = value

    rewrite(published, spoil)
    refused(published, Corrupt, "encoder.layer.0.output.dense.bias", "NaN")


def test_a_tokenizer_of_another_vocabulary_is_refused(published):
    path = published / "tokenizer.json"
    value = json.loads(path.read_text())
    value["model"]["vocab"]["extra"] = 12
    path.write_text(json.dumps(value))
    refused(published, BadInput, "tokenizer", "12", "at most 11")


def test_a_broken_and_a_missing_tokenizer(published):
    (published / "tokenizer.json").write_text("{}")
    refused(published, Corrupt, "tokenizer.json")
    (published / "tokenizer.json").unlink()
    refused(published, BadInput, "tokenizer.json")


def shard(folder: Path, names: list[str]) -> None:
    """Split the weights into two shards with an index that gives them these names."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    half = sorted(tensors)[: len(tensors) // 2]
    parts = [half, sorted(set(tensors) - set(half))]
    for name, part in zip(names, parts, strict=True):
        save_file({key: tensors[key] for key in part}, folder / Path(name).name)
    index = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))


def test_shards_are_read_and_a_missing_one_is_named(published):
    wanted = read_folder(published).weights
    shard(published, ["one.safetensors", "two.safetensors"])
    found = read_folder(published).weights
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    (published / "two.safetensors").unlink()
    refused(published, BadInput, "two.safetensors")


def test_a_shard_outside_the_folder_is_refused(published):
    shard(published, ["one.safetensors", "../two.safetensors"])
    refused(published, BadInput, "outside its folder")


def test_a_shard_that_holds_others_than_the_index_says_is_refused(published):
    """A tensor in two shards, or in one that should not have it, or in none."""
    shard(published, ["one.safetensors", "two.safetensors"])
    one, two = (load_file(published / f"{name}.safetensors") for name in ("one", "two"))
    name, tensor = sorted(one.items())[0]
    save_file({**two, name: tensor + 1}, published / "two.safetensors")
    refused(published, Corrupt, f"two.safetensors holds {name}", "index.json")
    del one[name]
    save_file(one, published / "one.safetensors")
    refused(published, Corrupt, f"one.safetensors lacks {name}")


@pytest.mark.parametrize("also", ["bert.", ""])
def test_a_tensor_that_is_there_twice_is_named(published, also):
    """With a prefix and without one, or under its former name and today's."""
    name = "encoder.layer.0.output.LayerNorm.weight"
    other = also + (name if also else name.replace("weight", "gamma"))
    rewrite(published, lambda tensors: tensors.update({other: tensors[name] + 1}))
    refused(published, Corrupt, f"{name} is there twice", "one of them")


def raw(path: Path, header: object, data: bytes) -> Path:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(first: int, last: int, shape: list, kind: str = "F32") -> dict:
    return {"dtype": kind, "shape": shape, "data_offsets": [first, last]}


HEADERS = {
    "shape times type is not the size": ({"a": entry(0, 8, [3])}, 8),
    "overlap": ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, 12),
    "gap": ({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, 12),
    "bytes left over": ({"a": entry(0, 4, [1])}, 8),
    "negative shape": ({"a": entry(0, 4, [-1, -1])}, 4),
    "unknown type": ({"a": entry(0, 4, [1], "F31")}, 4),
    "offsets are words": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": "ab"}}, 4),
    "entry is a number": ({"a": 5}, 4),
    "no object": ([1], 0),
    "no JSON": (b"{'a'", 0),
    "deep": (b"[" * 200_000, 0),
    "the same name twice": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        1,
    ),
}


@pytest.mark.parametrize("fault", HEADERS)
def test_a_wrong_header_is_refused(tmp_path, fault):
    header, size = HEADERS[fault]
    with pytest.raises(Corrupt, match=r"x\.safetensors"):
        read_tensors(raw(tmp_path / "x.safetensors", header, bytes(size)))


def test_a_header_longer_than_any_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(Corrupt, match="header"):
        read_tensors(path)


@pytest.fixture
def encoder(published) -> TextPredictor:
    head = Head(pool="mean", dropout=0.1, outputs=2)
    model = from_published(read_folder(published), head, max_tokens=10, seed=4)
    return TextPredictor(TextClassification(labels=LABELS), model)


def test_a_saved_encoder_answers_as_before_and_in_the_same_bytes(encoder, tmp_path):
    encoder.save(tmp_path / "one")
    again = load_predictor(tmp_path / "one")
    again.save(tmp_path / "two")
    for name in ("model.json", WEIGHTS, "tokenizer.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    texts = ["a fine film .", "dull", ""]
    rows = [{"text": text} for text in texts]
    left, right = (each.answers(each.prepare(rows))["logits"] for each in (encoder, again))
    assert left.shape == (3, 2)
    assert (left == right).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "encodr"},
        {"task": {"kind": "text-classification", "labels": ["one"]}},
        {"task": {"kind": "text-classification", "labels": ["one", "one"]}},
        {"task": {"kind": "text-classification", "labels": ["a", "b", "c"]}},
        {"task": {"kind": "text-classificaton"}},
        {"task": None},
        {"max_tokens": 17},
        {"max_tokens": "ten"},
        {"spec": {"stacks": []}},
        {"spec": {"stacks": [{"name": "x"}]}},
        {"head": {"pool": "last"}},
    ],
    ids=str,
)
def test_a_damaged_description_is_refused(encoder, tmp_path, fields):
    encoder.save(tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(LmwrightError, match=r"model\.json"):
        load_predictor(tmp_path / "model")


def test_texts_together_answer_as_alone(encoder):
    texts = ["a fine film .", "dull", "films", "a dull film . " * 9, "fine films a a"]
    prepared = encoder.prepare([{"text": text} for text in texts])
    together = encoder.answers(prepared)["logits"]
    alone = [encoder.answers([item])["logits"][0] for item in prepared]
    assert abs(together - alone).max() < 1e-6
    assert [item.cost for item in prepared] == [6, 3, 4, 10, 7]


def test_vectors_have_length_one(encoder):
    vectors = encoder.model.embed(encoder.model.tokens(["a fine film", "dull"]))
    assert vectors.shape == (2, 8)
    assert abs((vectors**2).sum(axis=1) - 1).max() < 1e-6
